"""One cycle of the learning rate, and of the momentum against it."""

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule
from keras_optkit.schedules._curves import Shape, through
from keras_optkit.schedules.one_cycle_momentum import OneCycleMomentum, phase_ends


@register
class OneCycle(Schedule):
    """Takes a learning rate up to a high peak and down to almost nothing, once in a training.

    The high rate in between lets training be short, and keeps it from sharp minima. With
    `n` the steps and `p` the warmup's fraction of them:

    ```text
    t                  value                  three_phase: t    value
    0                  peak / initial_divisor               0    peak / initial_divisor
    p n - 1            peak                           p n - 1    peak
    n - 1              the end                      2 p n - 2    peak / initial_divisor
                                                        n - 1    the end
    the end = peak / initial_divisor / final_divisor
    ```

    and in between a straight line, or half a cosine wave: `a + (b - a) (1 - cos(pi x)) / 2`.
    The end is reached at the last of the steps and held from then on.

    Args:
        peak: The highest value, at least 0.
        steps: Steps of the whole cycle, at least 2: those of the whole training.
        warmup_fraction: Share of the steps that the rise takes, in (0, 1), and more than 1 step;
            with `three_phase` at most half of them.
        initial_divisor: What the peak is divided by for the value of step 0, at least 1.
        final_divisor: What that is divided by for the value at the end, at least 1.
        shape: `"cosine"` or `"linear"`.
        three_phase: Falls as slowly as it rose, and to the end only then.

    Example:
        >>> schedule = keras_optkit.schedules.OneCycle(1.0, steps=20, initial_divisor=10)
        >>> [round(float(schedule(step)), 3) for step in (0, 5, 12, 19, 20)]
        [0.1, 1.0, 0.5, 0.0, 0.0]
        >>> cycle = keras_optkit.schedules.OneCycle(0.1, steps=1000)
        >>> inner = keras.optimizers.SGD(cycle, momentum=0.95)
        >>> momentum = {"momentum": cycle.momentum(low=0.85, high=0.95)}
        >>> optimizer = keras_optkit.optimizers.Scheduled(inner, momentum)

    Reference:
        [Smith and Topin, 2017](https://arxiv.org/abs/1708.07120), as
        `torch.optim.lr_scheduler.OneCycleLR` has it, which must not be asked beyond its steps.
        `optax.cosine_onecycle_schedule` peaks and ends one step later.
    """

    def __init__(
        self,
        peak: float,
        steps: int,
        warmup_fraction: float = 0.3,
        initial_divisor: float = 25.0,
        final_divisor: float = 1e4,
        shape: Shape = "cosine",
        three_phase: bool = False,
    ):
        self.peak = _check.in_range("peak", peak, low=0)
        self.steps = _check.integer("steps", steps, low=2)
        self.warmup_fraction = _check.in_range(
            "warmup_fraction", warmup_fraction, 0, 1, closed="neither"
        )
        self.initial_divisor = _check.in_range("initial_divisor", initial_divisor, low=1)
        self.final_divisor = _check.in_range("final_divisor", final_divisor, low=1)
        self.shape = _check.one_of("shape", shape, ("cosine", "linear"))
        self.three_phase = _check.flag("three_phase", three_phase)
        phase_ends(self.steps, self.warmup_fraction, self.three_phase)  # which checks them

    def momentum(self, low: float = 0.85, high: float = 0.95) -> OneCycleMomentum:
        """Returns the schedule of a momentum that falls while this one rises, and rises again."""
        return OneCycleMomentum(
            self.steps, low, high, self.warmup_fraction, self.shape, self.three_phase
        )

    def __call__(self, step):
        initial = self.peak / self.initial_divisor
        inner = [self.peak, initial] if self.three_phase else [self.peak]
        values = [initial, *inner, initial / self.final_divisor]
        ends = phase_ends(self.steps, self.warmup_fraction, self.three_phase)
        points = list(zip(ends, values, strict=True))
        return through(ops.convert_to_tensor(step), points, self.shape)
