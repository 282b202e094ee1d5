"""Decay at given steps."""

from collections.abc import Sequence

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule, as_boundaries


@register
class MultiStep(Schedule):
    """Multiplies a learning rate by a factor at each of the steps given.

    The classical recipe of residual networks: a tenth at half and at three quarters of the way.

    ```text
    initial * factor^(number of boundaries <= t)
    ```

    Args:
        initial: Value before the first boundary, at least 0.
        boundaries: Steps at which the value changes: increasing integers of at least 1.
        factor: What each boundary multiplies by, greater than 0.

    Example:
        >>> schedule = keras_optkit.schedules.MultiStep(1.0, [2, 3], factor=0.5)
        >>> [float(schedule(step)) for step in range(5)]
        [1.0, 1.0, 0.5, 0.25, 0.25]

    Reference:
        `torch.optim.lr_scheduler.MultiStepLR`. Keras' `PiecewiseConstantDecay` takes the values
        instead of a factor, and changes one step later.
    """

    def __init__(self, initial: float, boundaries: Sequence[int], factor: float = 0.1):
        self.initial = _check.in_range("initial", initial, low=0)
        self.boundaries = as_boundaries("boundaries", boundaries)
        self.factor = _check.in_range("factor", factor, 0, closed="neither")

    def __call__(self, step):
        step = ops.convert_to_tensor(step)
        value = ops.full_like(step, self.initial, dtype="float32")
        for count, boundary in enumerate(self.boundaries, 1):
            value = ops.where(step < boundary, value, self.initial * self.factor**count)
        return value
