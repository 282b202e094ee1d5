"""Schedules that count epochs."""

import keras
from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule, as_schedule, value_of


@register
class PerEpoch(Schedule):
    """Asks a schedule for the epoch instead of the step, and holds its value within each epoch.

    For recipes told in epochs, like "a tenth after 30, 60 and 90".

    ```text
    schedule(floor(t / steps_per_epoch))
    ```

    Args:
        schedule: A number of at least 0, or a `LearningRateSchedule` that counts epochs from 0.
        steps_per_epoch: Updates per epoch, at least 1: the number of batches, divided by
            `gradient_accumulation_steps` if the optimizer's schedules count updates.

    Example:
        >>> recipe = keras_optkit.schedules.MultiStep(1.0, [1, 2], factor=0.5)
        >>> schedule = keras_optkit.schedules.PerEpoch(recipe, steps_per_epoch=2)
        >>> [float(schedule(step)) for step in range(6)]
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]

    Reference:
        What `keras.callbacks.LearningRateScheduler` does from outside, here as a part of the
        optimizer, saved with it.
    """

    def __init__(
        self,
        schedule: float | keras.optimizers.schedules.LearningRateSchedule,
        steps_per_epoch: int,
    ):
        self.schedule = as_schedule("schedule", schedule)
        self.steps_per_epoch = _check.integer("steps_per_epoch", steps_per_epoch, low=1)

    def __call__(self, step):
        return value_of(self.schedule, ops.convert_to_tensor(step) // self.steps_per_epoch)
