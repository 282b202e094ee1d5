"""Cyclical learning rates."""

from typing import Literal

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule
from keras_optkit.schedules._curves import between, power


@register
class Cyclic(Schedule):
    """Lets a learning rate rise and fall between two bounds, over and over.

    Spares the search for one good rate, if the bounds are taken from a learning rate range test.
    With `s` the half cycle's steps, `c = floor(t / (2 s))` and `x` the distance of `t` from the
    nearer end of its cycle, as a share of `s`:

    ```text
    low + (high - low) * x                 triangular
    low + (high - low) * x * 2^-c          triangular2
    low + (high - low) * x * gamma^t       exp_range
    ```

    Args:
        low: Value at the ends of each cycle, at least 0.
        high: Value in the middle of the first cycle, at least `low`.
        half_cycle_steps: Steps of a rise, and of a fall; at least 1. The paper has 2 to 8 epochs.
        mode: How the peaks change: `"triangular"` not at all, `"triangular2"` by half with every
            cycle, `"exp_range"` by `gamma` with every step.
        gamma: Factor per step of `"exp_range"`, in (0, 1]; without effect in the other modes.

    Example:
        >>> schedule = keras_optkit.schedules.Cyclic(1.0, 2.0, half_cycle_steps=2)
        >>> [float(schedule(step)) for step in range(6)]
        [1.0, 1.5, 2.0, 1.5, 1.0, 1.5]

    Reference:
        [Smith, 2015](https://arxiv.org/abs/1506.01186), section 3, and its modes' first code;
        `torch.optim.lr_scheduler.CyclicLR`. The paper's steps may count from 0 as here.
    """

    def __init__(
        self,
        low: float,
        high: float,
        half_cycle_steps: int,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
    ):
        self.low = _check.in_range("low", low, low=0)
        self.high = _check.in_range("high", high, low=self.low)
        self.half_cycle_steps = _check.integer("half_cycle_steps", half_cycle_steps, low=1)
        self.mode = _check.one_of("mode", mode, ("triangular", "triangular2", "exp_range"))
        self.gamma = _check.in_range("gamma", gamma, 0, 1, closed="right")

    def __call__(self, step):
        step, half = ops.convert_to_tensor(step), self.half_cycle_steps
        cycle = step // (2 * half)
        passed = step - 2 * half * cycle
        near = ops.minimum(passed, 2 * half - passed)
        up, down = (ops.cast(steps, "float32") / half for steps in (near, half - near))
        if self.mode == "triangular":
            return between(self.low, self.high, up, down)
        scale = power(0.5, cycle) if self.mode == "triangular2" else power(self.gamma, step)
        return self.low + (self.high - self.low) * up * scale
