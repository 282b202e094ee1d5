"""The product of schedules."""

import collections.abc
import functools
import operator

import keras
from keras import ops

from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule, as_schedules, value_of


@register
class Product(Schedule):
    """Multiplies schedules with one another, all at the same step.

    For a shape on top of another: cycles whose peaks decay, or a decay with a dip in the middle.

    ```text
    schedules[0](t) * schedules[1](t) * ...
    ```

    Args:
        schedules: Numbers of at least 0 or `LearningRateSchedule`s, at least one.

    Example:
        >>> cycles = keras_optkit.schedules.Cyclic(0.5, 1.0, half_cycle_steps=1)
        >>> decay = keras_optkit.schedules.LinearDecay(1.0, steps=4)
        >>> schedule = keras_optkit.schedules.Product([cycles, decay])
        >>> [float(schedule(step)) for step in range(4)]
        [0.5, 0.75, 0.25, 0.25]

    Reference:
        `torch.optim.lr_scheduler.ChainedScheduler`, in closed form.
    """

    def __init__(
        self,
        schedules: collections.abc.Sequence[
            float | keras.optimizers.schedules.LearningRateSchedule
        ],
    ):
        self.schedules = as_schedules("schedules", schedules)

    def __call__(self, step):
        step = ops.convert_to_tensor(step)
        return functools.reduce(operator.mul, (value_of(s, step) for s in self.schedules))
