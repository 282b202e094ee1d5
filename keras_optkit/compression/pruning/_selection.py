"""Which weights of a model can be pruned."""

import math
from collections.abc import Sequence

import keras

from keras_optkit import _check, _match

NAMES = ("kernel", "recurrent_kernel", "pointwise_kernel", "embeddings")


def prunable(
    variables: Sequence, include: Sequence[str], exclude: Sequence[str], what: str = "Pruned"
) -> list[int]:
    """Returns the indices of the weights to prune; `what` names the caller.

    Raises:
        ValueError: If there is none.
    """
    paths = [_match.path(v) for v in variables]
    for patterns in (include, exclude):
        _match.warn_unmatched(what, patterns, paths)
    found = [
        i
        for i, (path, variable) in enumerate(zip(paths, variables, strict=True))
        if (_match.matches(include, path) if include else _usual(path, variable))
        and not _match.matches(exclude, path)
        and variable.shape
        and math.prod(variable.shape)
    ]
    if not found:
        shown = ", ".join(paths[:20]) + (", ..." if len(paths) > 20 else "")
        raise ValueError(
            f"{what} finds no weight to prune. `include` and `exclude` are patterns for whole "
            'segments of paths, such as "dense" or "block1/.*"; without them kernels and '
            "embeddings are pruned. Frozen weights are not: set `trainable = True` first. "
            f"Received: include={tuple(include)}, exclude={tuple(exclude)}, "
            f"and trainable weights {shown or 'none'}"
        )
    return found


def refuse_merged(model: keras.Model, what: str, include, exclude) -> None:
    """Raises a ValueError if zeros would not reach, or not stay in, what layers compute with."""
    include, exclude = _check.patterns("include", include), _check.patterns("exclude", exclude)
    found = {}
    for layer in model._flatten_layers():
        path = layer.path or layer.name
        if (include and not _match.matches(include, path)) or _match.matches(exclude, path):
            continue
        if getattr(layer, "lora_enabled", False):
            found[path] = "LoRA, which adds to the kernel"
        elif getattr(layer, "quantization_mode", None) not in (None, "float8"):
            found[path] = f"{layer.quantization_mode} weights, which do not train"
    if found:
        raise ValueError(
            f"{what} cannot prune layers that are quantized or have LoRA: prune before that, and "
            f"merge LoRA first, or leave these layers out with `exclude={[*found]}`. Received: "
            + "; ".join(f"{path} with {why}" for path, why in found.items())
        )


def refuse_adapters(variables: Sequence, exclude: Sequence[str]) -> None:
    """Raises a ValueError if layers train LoRA in place of the kernels that zeros belong into."""
    paths = [_match.path(v).rpartition("/") for v in variables]
    layers = sorted({layer for layer, _, name in paths if name.startswith("lora_")})
    found = [layer for layer in layers if not _match.matches(exclude, layer)]
    if found:
        raise ValueError(
            "Pruned cannot prune layers with LoRA, which adds to kernels that do not train. Prune "
            f"before that, or merge LoRA first, or leave these layers out with `exclude={found}`. "
            f"Received: {', '.join(found)} with LoRA"
        )


def _usual(path: str, variable) -> bool:
    *_, layer, name = ("", *path.split("/"))
    return len(variable.shape) > 1 and name.split(":")[0] in NAMES and "depthwise" not in layer
