"""Schedules one after another."""

import collections.abc

import keras
from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import (
    Schedule,
    as_boundaries,
    as_schedules,
    steps_since,
    value_of,
)


@register
class Sequence(Schedule):
    """Runs one schedule after another, each counting its own steps from 0.

    For recipes with phases: hold, then decay; or train, then fine-tune at another rate. With
    boundaries `b_1 < b_2 < ...` and `b_0 = 0`:

    ```text
    b_i <= t < b_(i+1):    schedules[i](t - b_i)
    ```

    The value jumps at a boundary if one schedule does not begin where the one before ends.

    Args:
        schedules: Numbers of at least 0 or `LearningRateSchedule`s, at least one.
        boundaries: For each schedule but the first, the step at which it takes over: increasing
            integers of at least 1.

    Example:
        >>> decay = keras.optimizers.schedules.PolynomialDecay(1.0, 2, end_learning_rate=0.5)
        >>> schedule = keras_optkit.schedules.Sequence([1.0, decay], boundaries=[2])
        >>> [float(schedule(step)) for step in range(5)]
        [1.0, 1.0, 1.0, 0.75, 0.5]

    Reference:
        `optax.join_schedules`. Keras' `PiecewiseConstantDecay` joins numbers only, and changes
        one step later: its boundary still belongs to the value before.
    """

    def __init__(
        self,
        schedules: collections.abc.Sequence[
            float | keras.optimizers.schedules.LearningRateSchedule
        ],
        boundaries: collections.abc.Sequence[int],
    ):
        self.schedules = as_schedules("schedules", schedules)
        self.boundaries = as_boundaries("boundaries", boundaries)
        if len(self.boundaries) != len(self.schedules) - 1:
            raise ValueError(
                "`boundaries` must hold one step fewer than there are schedules, "
                f"{len(self.schedules)}: the first starts at step 0. "
                f"{_check.received('boundaries', boundaries)}"
            )

    def __call__(self, step):
        step = ops.convert_to_tensor(step)
        value = value_of(self.schedules[0], step)
        for schedule, start in zip(self.schedules[1:], self.boundaries, strict=True):
            value = ops.where(step < start, value, value_of(schedule, steps_since(start, step)))
        return value
