"""What a share of removed channels costs, and which share meets a target."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_optkit import _check
from keras_optkit.compression.channels import _cost
from keras_optkit.compression.channels._choice import smallest_ratio
from keras_optkit.compression.channels._rebuild import Rebuild
from keras_optkit.compression.channels._trace import Trace
from keras_optkit.compression.litert.litert_latency import litert_latency


class Target:
    """The costs of a model by the share of channels that are removed.

    Args:
        trace: The trace of the model.
        mask: Returns for a share which channels stay.
        data: What to measure time on.
    """

    def __init__(self, trace: Trace, mask: Callable[[float], np.ndarray], data: Any):
        self.trace, self.mask, self.data = trace, mask, data
        self.measured: tuple[float, float] | None = None
        self._times: dict[bytes, float] = {}

    def params(self, share: float) -> int:
        """Returns the number of weights."""
        return _cost.parameters(self.trace, self.mask(share))

    def milliseconds(self, share: float) -> float:
        """Returns the time that LiteRT takes for one sample, on one thread; to be asked again."""
        mask = self.mask(share)
        key = mask.tobytes()
        if key not in self._times:
            small = Rebuild(self.trace, mask)()
            self._times[key] = litert_latency(small, _sample(self.data)).p50
        return self._times[key]

    def flops(self, share: float) -> int:
        """Returns the floating-point operations for one sample."""
        found = _cost.flops(self.trace, self.mask(share))
        if found is None:
            raise ValueError(
                "`target_flops` needs to know how large images are, and the model takes any size. "
                "Make it with a keras.Input of a fixed size, or give `target_params`. "
                f"{_check.received('inputs', [t.shape for t in self.trace.model.inputs])}"
            )
        return found

    def both_flops(self, share: float) -> tuple[int, int] | None:
        """Returns the operations before and after, or None if they are not known."""
        before = _cost.flops(self.trace, self.mask(0.0))
        return None if before is None else (before, self.flops(share))


def ratio_for(target: Target, name: str, value: Any) -> float:
    """Returns about the smallest share that meets the target called `name`.

    Raises:
        ValueError: If it is met already, or cannot be met.
    """
    _check.in_range(name, value, 0, closed="neither")
    cost, unit, steps = {
        "target_params": (target.params, "weights", 30),
        "target_flops": (target.flops, "FLOPs", 30),
        "target_latency": (target.milliseconds, "milliseconds", 6),  # each converts a model
    }[name]
    before, least = cost(0.0), cost(1.0)
    if not least <= value < before:
        way = (
            "It needs no pruning."
            if value >= before
            else "Take a smaller `round_to`, exclude less, or a larger target."
        )
        raise ValueError(
            f"`{name}` must be less than the {before:,} {unit} of the model, and no less than the "
            f"{least:,} that are left when each group of channels is as small as `round_to` "
            f"allows. {way} {_check.received(name, value)}"
        )
    ratio = smallest_ratio(cost, value, steps)
    if name == "target_latency":
        target.measured = before, cost(ratio)
    return ratio


def _sample(data: Any) -> Any:
    """Returns the inputs in what may be inputs, `(x, y)` or a dataset of such."""
    plain = data is None or isinstance(data, (list, tuple, dict)) or hasattr(data, "shape")
    batches: Any = data
    if not plain or (isinstance(data, list) and data and isinstance(data[0], tuple)):
        batches = next(iter(batches))
    return batches[0] if isinstance(batches, tuple) else batches
