"""Settings of an optimizer that change as it goes."""

import numbers
from collections.abc import Mapping
from typing import Unpack

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.optimizers._wrapper import Wrapper, WrapperKwargs


@register
class Scheduled(Wrapper):
    """Lets momentum, decay or any other number of an optimizer follow a schedule.

    The one-cycle policy needs it, where momentum falls while the learning rate rises. Schedules
    of the learning rate itself go to the optimizer, as ever; these count updates too.

    Args:
        inner_optimizer: The optimizer whose settings change, or its name.
        schedules: For each setting, such as `"beta_1"`, `"momentum"` or `"weight_decay"`, its
            schedule. The setting must be a number to begin with, and not 0 where 0 switches
            something off.
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
            if name == "learning_rate" or isinstance(value, bool):
                value = None
            if not isinstance(value, numbers.Real) or value == 0:
                raise ValueError(
                    "`schedules` must name settings of the optimizer inside that are numbers other "
                    "than 0; give it a schedule of the learning rate as its `learning_rate`. "
                    f"{_check.received('schedules', schedules)}, where {name!r} of "
                    f"{type(self.rule).__name__} is {getattr(self.rule, name, 'missing')!r}"
                )
        self.schedules = dict(schedules)

    def _update(self, gradients, variables):
        kept = {name: getattr(self.rule, name) for name in self.schedules}
        try:
            for name, schedule in self.schedules.items():
                value = _backend.number(ops.cast(schedule(self.updates), "float32"))
                setattr(self.rule, name, value if isinstance(value, float) else _Number(value))
            super()._update(gradients, variables)
        finally:
            for name, value in kept.items():
                setattr(self.rule, name, value)


class _Number:
    """A tensor where Keras expects a number, and asks whether it is 0, as for SGD's momentum."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __ne__(self, other):
        return True

    def __gt__(self, other):
        return True

    def __mul__(self, other):
        return self.tensor * other

    def __rmul__(self, other):
        return other * self.tensor

    def __rsub__(self, other):
        return other - self.tensor

    def __jax_array__(self):
        return self.tensor

    def __tf_tensor__(self, dtype=None, name=None):
        return self.tensor

    def __array__(self, dtype=None, copy=None):
        return ops.convert_to_numpy(self.tensor).astype(dtype or "float32")
