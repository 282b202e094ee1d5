"""A schedule times a number."""

import keras
from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule, as_schedule, value_of


@register
class Scale(Schedule):
    """Multiplies a schedule by a number.

    For a learning rate that grows with the batch, or for a weight decay of the learning rate's
    shape.

    ```text
    factor * schedule(t)
    ```

    Args:
        schedule: A number of at least 0, or any `LearningRateSchedule`.
        factor: What to multiply by, at least 0.

    Example:
        >>> decay = keras_optkit.schedules.LinearDecay(1.0, steps=4)
        >>> schedule = keras_optkit.schedules.Scale(decay, 0.5)
        >>> [float(schedule(step)) for step in range(3)]
        [0.5, 0.375, 0.25]

    Reference:
        The linear scaling rule of [Goyal et al., 2017](https://arxiv.org/abs/1706.02677), section
        2.1, is `Scale(schedule, batch_size / 256)`.
    """

    def __init__(
        self, schedule: float | keras.optimizers.schedules.LearningRateSchedule, factor: float
    ):
        self.schedule = as_schedule("schedule", schedule)
        self.factor = _check.in_range("factor", factor, low=0)

    def __call__(self, step):
        return self.factor * value_of(self.schedule, ops.convert_to_tensor(step))
