"""Settings of an optimizer that change as it goes."""

import numbers
import operator
from collections.abc import Mapping
from typing import Unpack

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.optimizers._wrapper import Wrapper, WrapperKwargs

# What the constructor checks, or compares with, or what has a way of its own.
FIXED = (
    *("learning_rate", "loss_scale_factor", "clipnorm", "clipvalue", "global_clipnorm"),
    *("initial_accumulator", "initial_estimate", "threshold"),
)


@register
class Scheduled(Wrapper):
    """Lets momentum, decay or any other number of an optimizer follow a schedule.

    The one-cycle policy needs it, where momentum falls while the learning rate rises. Schedules
    of the learning rate itself go to the optimizer, as ever; these count updates too.

    Args:
        inner_optimizer: The optimizer whose settings change, or its name.
        schedules: For each setting, such as `"beta_1"`, `"momentum"` or `"weight_decay"`, its
            schedule. The setting must be a number other than 0 to begin with.
        **kwargs: Those of `Wrapper`.

    Example:
        >>> momentum = keras.optimizers.schedules.PolynomialDecay(0.95, 100, 0.85)
        >>> inner = keras.optimizers.Adam(1e-3, beta_1=0.95)
        >>> optimizer = keras_optkit.optimizers.Scheduled(inner, {"beta_1": momentum})
        >>> model.compile(optimizer=optimizer, loss="mse")

    Reference:
        [Smith and Topin, 2017](https://arxiv.org/abs/1708.07120), section 3, cyclical momentum.
        `optax.inject_hyperparams`. Where Adam corrects its bias it takes the value of the step
        for all steps before, as `torch.optim.lr_scheduler.OneCycleLR` does.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        schedules: Mapping[str, LearningRateSchedule],
        **kwargs: Unpack[WrapperKwargs],
    ):
        super().__init__(inner_optimizer, **kwargs)
        what = "a dict from names of settings to schedules"
        _check.instance("schedules", schedules, dict, what)
        for name, schedule in schedules.items():
            _check.instance(f"schedules[{name!r}]", schedule, LearningRateSchedule, "a schedule")
            value = getattr(self.rule, name, None)
            fixed = name in FIXED or name in getattr(self.rule, "fixed", ())
            if fixed or not isinstance(value, float) or value == 0:
                raise ValueError(
                    "`schedules` must name settings of the optimizer inside that are floats other "
                    "than 0 and enter each step as they are, such as `beta_1`; give it a schedule "
                    "of the learning rate as its `learning_rate`. "
                    f"{_check.received('schedules', schedules)}, where {name!r} of "
                    f"{type(self.rule).__name__} is {getattr(self.rule, name, 'missing')!r}"
                )
        self.schedules = dict(schedules)
        self._values = {name: getattr(self.rule, name) for name in self.schedules}

    def _update(self, gradients, variables):
        try:
            for name, schedule in self.schedules.items():
                value = _backend.number(ops.cast(schedule(self.updates), "float32"))
                number = value if isinstance(value, float) else _Number(name, value)
                setattr(self.rule, name, number)
            super()._update(gradients, variables)
        finally:
            # Not what was there before: replicas take turns, so that may be another's tensor.
            for name, value in self._values.items():
                setattr(self.rule, name, value)


def _operator(function):
    """Returns an operator of `_Number`, and the same with the number on the right."""
    return (
        lambda self, other: self.combine(other, lambda own: function(own, other)),
        lambda self, other: self.combine(other, lambda own: function(other, own)),
    )


class _Number:
    """A tensor where an optimizer expects a number, and asks whether it is 0.

    Like a number it takes the dtype of the tensor it meets, and stays one with other numbers.
    """

    def __init__(self, name, tensor):
        self.name, self.tensor = name, tensor

    @property
    def dtype(self):
        return keras.backend.standardize_dtype(self.tensor.dtype)

    def combine(self, other, function):
        """Returns `function` of the tensor, in the dtype that `other` asks for."""
        if isinstance(other, numbers.Real):
            return _Number(self.name, function(self.tensor))
        dtype = keras.backend.standardize_dtype(other.dtype)
        return function(ops.cast(self.tensor, dtype) if "float" in dtype else self.tensor)

    __add__, __radd__ = _operator(operator.add)
    __sub__, __rsub__ = _operator(operator.sub)
    __mul__, __rmul__ = _operator(operator.mul)
    __truediv__, __rtruediv__ = _operator(operator.truediv)
    __pow__, __rpow__ = _operator(operator.pow)

    def __ne__(self, other):
        return True if other == 0 else float(self) != other

    def __gt__(self, other):
        return True if other == 0 else float(self) > other

    def __float__(self):
        raise TypeError(
            f"`schedules` must not name {self.name!r} here: the optimizer inside computes with it "
            "in Python, where a compiled step has no value yet."
        )

    def __jax_array__(self):
        return self.tensor

    def __tf_tensor__(self, dtype=None, name=None):
        return self.tensor if dtype is None else ops.cast(self.tensor, dtype.name)
