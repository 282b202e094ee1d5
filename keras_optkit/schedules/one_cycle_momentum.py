"""The momentum that goes with one cycle of the learning rate."""

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule
from keras_optkit.schedules._curves import Shape, through


@register
class OneCycleMomentum(Schedule):
    """Takes a momentum down while `OneCycle` takes the learning rate up, and up again after.

    Where steps are largest, old gradients mislead most. `OneCycle(...).momentum()` makes one
    with the same phases. With `n` the steps and `p` the warmup's fraction of them:

    ```text
    t          value             three_phase: t    value
    0          high                           0    high
    p n - 1    low                      p n - 1    low
    n - 1      high                   2 p n - 2    high, and so to the end
    ```

    and in between a straight line, or half a cosine wave. The momentum of an optimizer is a plain
    number; `keras_optkit.optimizers.Scheduled` lets it follow this schedule.

    Args:
        steps: Steps of the whole cycle, at least 2.
        low: The momentum at the peak of the learning rate, in [0, high].
        high: The momentum at the start and at the end, in [0, 1).
        warmup_fraction: As in `OneCycle`, like the next two.
        shape: `"cosine"` or `"linear"`.
        three_phase: Whether the learning rate falls in two phases.

    Example:
        >>> momentum = keras_optkit.schedules.OneCycleMomentum(20, warmup_fraction=0.3)
        >>> [round(float(momentum(step)), 2) for step in (0, 5, 12, 19, 20)]
        [0.95, 0.85, 0.9, 0.95, 0.95]

    Reference:
        [Smith, 2018](https://arxiv.org/abs/1803.09820), section 4.3, as
        `torch.optim.lr_scheduler.OneCycleLR` has it.
    """

    def __init__(
        self,
        steps: int,
        low: float = 0.85,
        high: float = 0.95,
        warmup_fraction: float = 0.3,
        shape: Shape = "cosine",
        three_phase: bool = False,
    ):
        self.steps = _check.integer("steps", steps, low=2)
        self.high = _check.in_range("high", high, 0, 1, closed="left")
        self.low = _check.in_range("low", low, 0, self.high)
        self.warmup_fraction = _check.in_range(
            "warmup_fraction", warmup_fraction, 0, 1, closed="neither"
        )
        self.shape = _check.one_of("shape", shape, ("cosine", "linear"))
        self.three_phase = _check.flag("three_phase", three_phase)
        phase_ends(self.steps, self.warmup_fraction, self.three_phase)  # which checks them

    def __call__(self, step):
        ends = phase_ends(self.steps, self.warmup_fraction, self.three_phase)
        points = list(zip(ends, (self.high, self.low, self.high, self.high), strict=False))
        return through(ops.convert_to_tensor(step), points, self.shape)


def phase_ends(steps: int, warmup_fraction: float, three_phase: bool) -> list[float]:
    """Returns the steps, in general not whole, between which the phases of a cycle lie."""
    rise = warmup_fraction * steps - 1
    ends = [0.0, rise, 2 * rise, steps - 1.0] if three_phase else [0.0, rise, steps - 1.0]
    if rise <= 0:
        raise ValueError(
            f"`warmup_fraction` must be greater than 1 / steps, {1 / steps:.3g}, since the peak is "
            "at step warmup_fraction * steps - 1, after the first. "
            f"{_check.received('warmup_fraction', warmup_fraction)}"
        )
    if ends[-1] <= ends[-2]:
        raise ValueError(
            f"`warmup_fraction` must leave steps for the last phase, after step {ends[-2]:g} of "
            f"{steps}: with three_phase=True, it is at most 0.5. "
            f"{_check.received('warmup_fraction', warmup_fraction)}"
        )
    return ends
