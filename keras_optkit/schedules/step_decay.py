"""Decay in steps of one length."""

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule
from keras_optkit.schedules._curves import power


@register
class StepDecay(Schedule):
    """Multiplies a learning rate by a factor every so many steps.

    A staircase: the value is held, then drops. With `t = 0, 1, ...`:

    ```text
    max(minimum, initial * factor^floor(t / every))
    ```

    Args:
        initial: Value of the first `every` steps, at least 0.
        every: Steps from one drop to the next, at least 1.
        factor: What each drop multiplies by, in (0, 1].
        minimum: Value not to drop below, in [0, initial].

    Example:
        >>> schedule = keras_optkit.schedules.StepDecay(1.0, every=2, factor=0.5)
        >>> [round(float(schedule(step)), 6) for step in range(5)]
        [1.0, 1.0, 0.5, 0.5, 0.25]

    Reference:
        `torch.optim.lr_scheduler.StepLR`; Keras' `ExponentialDecay(staircase=True)`, here without
        the error of a float32 base, and exact about when to drop.
    """

    def __init__(self, initial: float, every: int, factor: float = 0.1, minimum: float = 0.0):
        self.initial = _check.in_range("initial", initial, low=0)
        self.every = _check.integer("every", every, low=1)
        self.factor = _check.in_range("factor", factor, 0, 1, closed="right")
        self.minimum = _check.in_range("minimum", minimum, 0, self.initial)

    def __call__(self, step):
        drops = ops.convert_to_tensor(step) // self.every
        return ops.maximum(self.initial * power(self.factor, drops), self.minimum)
