"""Optimizers around other optimizers."""

from typing import Any, TypedDict

import keras
from keras import ops

from keras_optkit import _backend, _check, _config
from keras_optkit._config import parameters
from keras_optkit._registry import REGISTRY
from keras_optkit.optimizers._arguments import accumulation_steps, positive
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._slots import read
from keras_optkit.optimizers._step import Step


class WrapperKwargs(TypedDict, total=False):
    """Arguments every wrapper takes; see `Wrapper`."""

    gradient_accumulation_steps: int | None
    loss_scale_factor: float | None
    name: str | None


class Wrapper(Step):
    """Base of optimizers that act before and after the update of another one.

    A subclass writes `before`, `after` or both. The inner optimizer may be any of Keras or of
    this package, another wrapper included. Its learning rate is the wrapper's, for callbacks as
    for reading and setting. What must happen before `before` (dividing out a loss scale, summing
    over replicas, accumulating) the wrapper takes over, so that it too happens once an update.
    Averages that the inner optimizer keeps (`use_ema`) are of the weights before `after`.

    Args:
        inner_optimizer: The `keras.optimizers.Optimizer` to wrap, or its name.
        gradient_accumulation_steps: Batches, 2 or more, whose mean gradient makes one update.
            Set it here or on the inner optimizer, not on both.
        loss_scale_factor: Factor of the loss, divided out of the gradients again. Likewise.
        name: Name of the optimizer.

    Raises:
        TypeError: If `inner_optimizer` is not an optimizer.
        ValueError: If it is a `LossScaleOptimizer`, which must be outermost, or if an argument
            is set on both.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        gradient_accumulation_steps: int | None = None,
        loss_scale_factor: float | None = None,
        name: str | None = None,
        **unknown: Any,
    ):
        wrapper = type(self).__name__
        if unknown:
            raise TypeError(
                f"{wrapper} has no argument {', '.join(map(repr, unknown))}. It takes "
                f"{', '.join(parameters(type(self)))}. Arguments of the rule belong to the "
                f"optimizer inside, as in {wrapper}(keras.optimizers.AdamW(clipnorm=1.0))."
            )
        inner = _optimizer(inner_optimizer)
        if isinstance(inner, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                f"{wrapper} cannot wrap a LossScaleOptimizer, since it would see scaled gradients "
                f"and miss skipped steps. Wrap the other way round: "
                f"LossScaleOptimizer({wrapper}(...)). {_check.received('inner_optimizer', inner)}"
            )
        steps = accumulation_steps(gradient_accumulation_steps)
        steps = _take_over(self, inner, "gradient_accumulation_steps", steps)
        scale = positive("loss_scale_factor", loss_scale_factor)
        scale = _take_over(self, inner, "loss_scale_factor", scale)
        super().__init__(
            lambda: inner.learning_rate,
            gradient_accumulation_steps=steps,
            loss_scale_factor=scale,
            name=name,
        )
        self.inner_optimizer = inner
        if isinstance(self.rule, Optimizer) and steps:
            self.rule._batches_per_call = steps

    # Whether no wrapper outside may move the weights that `after` leaves.
    has_last_word = False

    def before(self, gradients: list, variables: list) -> list:
        """Returns the gradients to hand to the inner optimizer."""
        return gradients

    def after(self, variables: list) -> None:
        """Acts on the weights that the inner optimizer has moved."""

    @property
    def rule(self) -> keras.optimizers.Optimizer:
        """The optimizer inside all wrappers."""
        inner = self.inner_optimizer
        return inner.rule if isinstance(inner, Wrapper) else inner

    @property
    def updates(self):
        """Number of updates done so far, as a scalar tensor; not counting those before wrapping."""
        return read(self._iterations) // (self.gradient_accumulation_steps or 1)

    def build(self, variables):
        if self.built:
            return
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        super().build(variables)

    def _update(self, gradients, variables):
        gradients = self.before(gradients, variables)
        inner = self.inner_optimizer
        if isinstance(inner, Step):
            inner._accumulate(gradients, variables)
            inner._iterations.assign_add(1)
        else:
            inner.apply(*_every_gradient(inner, gradients, variables))
        self.after(variables)

    @property
    def variables(self):
        inner = getattr(self, "inner_optimizer", None)
        return self._variables + (inner.variables if inner is not None else [])

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    # `keras.callbacks.SwapEMAWeights` looks for these one level down only.
    @property
    def use_ema(self):
        return self.built and getattr(self.inner_optimizer, "use_ema", False)

    @use_ema.setter
    def use_ema(self, value):
        pass

    @property
    def _model_variables_moving_average(self):
        return self.inner_optimizer._model_variables_moving_average

    def _finalize(self, var_list):
        if self.use_ema and not self._has_moved():
            return  # averages, Keras' own too, are 0 still
        self.inner_optimizer.finalize_variable_values(var_list)
        if self.use_ema:  # Keras' own would leave weight and average one array
            _backend.assign(var_list, [ops.copy(read(v)) for v in var_list])

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Takes weight decay off weights, as the optimizer inside does."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def get_config(self):
        return super().get_config() | {"inner_optimizer": _canonical(self.inner_optimizer)}


def _optimizer(value: Any) -> keras.optimizers.Optimizer:
    if isinstance(value, str):
        keras_names = {name.lower() for name in vars(keras.optimizers)}
        ours = {n.lower(): c for n, c in REGISTRY.items() if issubclass(c, Optimizer)}
        if value.lower() in ours.keys() - keras_names:
            value = ours[value.lower()]()
        else:
            value = keras.optimizers.get(value)
    return _check.instance(
        "inner_optimizer", value, keras.optimizers.Optimizer, "a Keras optimizer or its name"
    )


def _take_over(wrapper: Wrapper, inner: keras.optimizers.Optimizer, name: str, value: Any) -> Any:
    """Returns the setting `name` of wrapper or inner optimizer, and takes it off the inner one."""
    inner_value = getattr(inner, name)
    if inner_value is None:
        return value
    if value is not None:
        raise ValueError(
            f"`{name}` is set on {type(wrapper).__name__} and on the optimizer inside, which would "
            f"apply it twice. Set it on one of them. Received: {name}={value} outside, "
            f"{inner_value} inside"
        )
    if inner.built and name == "gradient_accumulation_steps":
        raise ValueError(
            f"{type(wrapper).__name__} must accumulate gradients itself, but the optimizer inside "
            "is built to do so already. Wrap it before its first step. "
            f"{_check.received('inner_optimizer', inner)}"
        )
    setattr(inner, name, None)
    return inner_value


def _every_gradient(inner, gradients: list, variables: list) -> tuple[list, list]:
    """Returns what `inner.apply`, which sums over replicas again, is to be called with."""
    count = _backend.replica_count()
    if count != 1:
        gradients = [g / count for g in gradients]
    known = {id(v): g for v, g in zip(variables, gradients, strict=True)}
    if not isinstance(inner, getattr(keras.optimizers, "MultiOptimizer", ())):  # new in 3.15
        return list(known.values()), variables
    every = list(inner._trainable_variables)  # it wants all of them, with None where none is
    return [known.get(id(v)) for v in every], every


def _canonical(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Returns the config of `optimizer` under a class name that loads on every backend.

    On torch, `keras.optimizers.Adam()` is an instance of a private subclass.
    """
    config = _config.serialize(optimizer)
    for base in type(optimizer).__mro__:
        if getattr(keras.optimizers, base.__name__, None) is base:
            if base is not keras.optimizers.Optimizer:
                config |= {"module": "keras.optimizers", "class_name": base.__name__}
                config |= {"registered_name": None}
            break
    return config
