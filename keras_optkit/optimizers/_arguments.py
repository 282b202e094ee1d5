"""Arguments of optimizers: their types and their checks."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict

from keras.optimizers.schedules import LearningRateSchedule as Schedule

from keras_optkit import _check
from keras_optkit.optimizers.group import Group
from keras_optkit.transforms import Transform

LearningRate = float | Schedule | Callable[[], Any]
ScheduleUnit = Literal["update", "batch"]
StateDtype = Literal["bfloat16", "int8"]


class OptimizerKwargs(TypedDict, total=False):
    """Arguments every rule takes; see `Optimizer`."""

    weight_decay: float | Schedule | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    gradient_transforms: Sequence[Transform]
    groups: Sequence[Group]
    schedule_unit: ScheduleUnit
    cautious: bool
    state_dtype: StateDtype | None
    name: str | None


def accumulation_steps(value: int | None) -> int | None:
    """Returns `value` if it may be a number of batches to accumulate."""
    return count("gradient_accumulation_steps", value, 2)


def count(name: str, value: int | None, low: int) -> int | None:
    """Returns `value` if it is None or an integer of at least `low`."""
    return None if value is None else _check.integer(name, value, low)


def transforms_of(name: str, value: Any) -> tuple[Transform, ...]:
    """Returns `value` as a tuple if it is a list of transforms."""
    return instances(name, value, Transform)


def learning_rate_of(value: LearningRate) -> LearningRate:
    """Returns `value`, a whole number as a float, which Keras would refuse."""
    if isinstance(value, Schedule) or callable(value):
        return value
    if not isinstance(value, numbers.Real):
        raise TypeError(
            "`learning_rate` must be a number, a LearningRateSchedule, or a callable without "
            f"arguments. {_check.received('learning_rate', value)}"
        )
    return _check.in_range("learning_rate", value, low=0)


def positive(name: str, value: float | None) -> float | None:
    """Returns `value` if it is None or greater than 0."""
    return None if value is None else _check.in_range(name, value, low=0, closed="neither")


def instances(name: str, values: Any, kind: type) -> tuple:
    """Returns `values` as a tuple if they are a list of objects of that kind."""
    what = f"a list of keras_optkit {kind.__name__} objects"
    _check.instance(name, values, (list, tuple), what)
    return tuple(_check.instance(name, value, kind, what) for value in values)
