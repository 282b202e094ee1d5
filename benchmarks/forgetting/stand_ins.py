"""What the import of Avalanche asks for and these runs never use; import this before it."""

import sys
import types

import torch

# A torchvision built for another torch does not load its operators, and fails without their names.
OPERATORS = [
    *("nms", "qnms", "roi_align", "qroi_align", "ps_roi_align", "roi_pool", "ps_roi_pool"),
    *("_roi_align_backward", "_ps_roi_align_backward", "_roi_pool_backward"),
    *("_ps_roi_pool_backward", "deform_conv2d", "_deform_conv2d_backward"),
]


def _module(name: str, **names) -> None:
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(names)


try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in OPERATORS:
        library.define(f"{operator}() -> Tensor")

_module("wandb")
_module("torch.utils.tensorboard", SummaryWriter=object)
_module("torch.utils.tensorboard.writer", SummaryWriter=object)
