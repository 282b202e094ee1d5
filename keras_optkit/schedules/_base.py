"""What every schedule is, and how schedules hold others."""

import itertools
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule, PiecewiseConstantDecay

from keras_optkit import _check
from keras_optkit._config import Configurable
from keras_optkit._drawing import axes_or_current


class Schedule(Configurable, LearningRateSchedule):
    """Base of the schedules: a pure function from the step to a float32 value.

    A subclass writes `__call__(self, step)` for an integer `step` of any shape that counts from
    0, and stores its constructor's arguments under their own names. Decorate it with
    `keras.saving.register_keras_serializable` to save models that use it.

    Example:
        >>> class Halving(keras_optkit.schedules.Schedule):
        ...     def __call__(self, step):
        ...         return 0.5 ** keras.ops.cast(step, "float32")
        >>> float(Halving()(3))
        0.125
    """

    def __call__(self, step: Any) -> Any:
        raise NotImplementedError(
            f"{type(self).__name__} must define `__call__(self, step)` and return the value at "
            "`step`, an integer tensor of any shape."
        )

    def plot(self, steps: int, axes: Any = None) -> Any:
        """Draws the values of the steps from 0 to `steps - 1`, and returns the matplotlib axes.

        Args:
            steps: How many steps to draw, at least 1.
            axes: Matplotlib axes to draw into; by default the current ones.
        """
        steps = _check.integer("steps", steps, low=1)
        axes = axes_or_current(axes)
        x = np.arange(steps, dtype="int32")
        axes.plot(x, ops.convert_to_numpy(self(x)), label=type(self).__name__)
        axes.set(xlabel="step", ylabel="value")
        return axes


def as_schedule(name: str, value: Any) -> float | LearningRateSchedule:
    """Returns `value` if it is a schedule, and a number of at least 0 as a float."""
    if isinstance(value, LearningRateSchedule):
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number or a keras.optimizers.schedules.LearningRateSchedule. "
            "To use a function of the step, call it in the `__call__` of a subclass of "
            f"keras_optkit.schedules.Schedule. {_check.received(name, value)}"
        )
    return _check.in_range(name, value, low=0)


def value_of(schedule: float | LearningRateSchedule, step: Any) -> Any:
    """Returns the float32 value of a number or a schedule at `step`, a tensor of any shape."""
    if isinstance(schedule, (int, float)):
        return ops.full_like(step, schedule, dtype="float32")
    if len(step.shape) > 0 and _takes_one_step(schedule):
        values = ops.map(schedule, ops.reshape(step, (-1,)))
        return ops.cast(ops.reshape(values, ops.shape(step)), "float32")
    return ops.convert_to_tensor(schedule(step), dtype="float32")


def _takes_one_step(schedule: LearningRateSchedule) -> bool:
    """Tells whether a schedule of Keras branches on the step, or on torch adds to it in place."""
    return (
        isinstance(schedule, PiecewiseConstantDecay)
        or getattr(schedule, "warmup_target", None) is not None
    )


def as_schedules(name: str, value: Any) -> list[float | LearningRateSchedule]:
    """Returns `value`, a list of numbers and schedules, as `as_schedule` returns each of them."""
    _check.instance(name, value, (list, tuple), "a list of numbers or schedules")
    if not value:
        raise ValueError(
            f"`{name}` must hold at least one number or schedule. {_check.received(name, value)}"
        )
    return [as_schedule(f"{name}[{i}]", schedule) for i, schedule in enumerate(value)]


def as_boundaries(name: str, value: Any) -> list[int]:
    """Returns `value` as a list of ints if it is one of increasing steps, each at least 1."""
    _check.instance(name, value, (list, tuple), "a list of integers")
    boundaries = [_check.integer(f"{name}[{i}]", step, low=1) for i, step in enumerate(value)]
    if any(later <= earlier for earlier, later in itertools.pairwise(boundaries)):
        raise ValueError(
            f"`{name}` must increase, since each is a step counted from the start of training, "
            f"not from the boundary before. {_check.received(name, value)}"
        )
    return boundaries


def steps_since(boundary: int, step: Any) -> Any:
    """Returns `step - boundary`, or 0 before the boundary, as integers.

    Float32 does not tell 2^24 from 2^24 + 1, so subtract first and cast afterwards.
    """
    passed = step - boundary
    # Not `ops.maximum`, which makes int32 of int64 on torch.
    return passed * ops.cast(passed > 0, keras.backend.standardize_dtype(passed.dtype))
