"""One training step, for rules and wrappers alike: what happens before the weights move."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_optkit import _backend, _config
from keras_optkit.optimizers._slots import add_slot, read, working_dtype


class Step(keras.optimizers.Optimizer):
    """Unscales, sums over replicas and accumulates gradients, then calls `_update` once.

    Keras counts calls of `apply` in `_iterations`. Everything here goes by `iterations`, the
    number of updates, which differs under gradient accumulation.
    """

    def _update(self, gradients: list, variables: list) -> None:
        """Moves `variables` by `gradients`: dense, unscaled, summed and accumulated."""
        raise NotImplementedError

    def build(self, variables):
        # Keras would keep sums and averages in the dtype of the weights, too coarse in bfloat16.
        steps, use_ema = self.gradient_accumulation_steps, self.use_ema
        self.gradient_accumulation_steps, self.use_ema = None, False
        super().build(variables)
        self.gradient_accumulation_steps, self.use_ema = steps, use_ema
        if steps:
            self._accumulated_gradients = self._add_slots("gradient_accumulator")

    def _add_slots(self, name: str) -> list:
        """Adds a state variable for each weight; none where the gradient is the new value."""
        return [
            None if self._overwrite_variable_with_gradient(v) else add_slot(self, v, name)
            for v in self._trainable_variables
        ]

    def apply(self, grads, trainable_variables=None):
        gradients = list(grads)
        if not gradients:
            return
        variables = self._variables_for(gradients, trainable_variables)
        with _backend.no_gradient(), keras.name_scope(self.name, caller=self):
            gradients, variables = self._filter_empty_gradients(gradients, variables)
            gradients, variables = self._overwrite_variables_directly_with_gradients(
                gradients, variables
            )
            if gradients:
                gradients = [
                    ops.cast(_backend.dense(g), working_dtype(v))
                    for g, v in zip(gradients, variables, strict=True)
                ]
                if self.loss_scale_factor:
                    gradients = [g / self.loss_scale_factor for g in gradients]
                self._accumulate(_backend.sum_over_replicas(gradients), variables)
            self._iterations.assign_add(1)

    def _variables_for(self, gradients: Sequence, variables: Sequence | None) -> list:
        if variables is not None:
            variables = list(variables)
            if not self.built:
                with keras.name_scope(self.name, caller=self):
                    self.build(variables)
            self._check_variables_are_known(variables)
        elif self.built:
            variables = list(self._trainable_variables)
        else:
            raise ValueError(
                f"{self.name} must know the variables to move. Pass `trainable_variables`, or "
                "call `optimizer.build(trainable_variables)` first."
            )
        if len(gradients) != len(variables):
            raise ValueError(
                "`grads` must hold one gradient, or None, for each variable. Received: "
                f"{len(gradients)} gradients for {len(variables)} variables."
            )
        return variables

    def _accumulate(self, gradients: list, variables: list) -> None:
        steps = self.gradient_accumulation_steps
        if not steps:
            self._update(gradients, variables)
            return
        count = read(self._iterations) % steps
        sums = [self._accumulated_gradients[self._get_variable_index(v)] for v in variables]
        given = {id(total) for total in sums}
        # Of weights without a gradient in this batch, which may get one in the next.
        others = [
            total
            for total in self._accumulated_gradients
            if total is not None and id(total) not in given
        ]

        def add(gradients, first):
            totals = [
                ops.where(first, gradient, read(total) + gradient)
                for gradient, total in zip(gradients, sums, strict=True)
            ]
            kept = [ops.where(first, ops.zeros_like(read(t)), read(t)) for t in others]
            _backend.assign([*sums, *others], [*totals, *kept])

        _backend.fused(add, gradients, count == 0)
        _backend.cond(
            count == steps - 1,
            lambda: self._update([read(total) / steps for total in sums], variables),
            [*self._trainable_variables, *self._state()],
        )

    def _state(self) -> list:
        """Returns the optimizer variables that an update may write."""
        steps = self.gradient_accumulation_steps
        counted = [self._iterations, *(self._accumulated_gradients if steps else ())]
        outside = {id(v) for v in counted}
        return [v for v in self.variables if id(v) not in outside]

    def finalize_variable_values(self, var_list):
        # On JAX an error in the first step of `fit` leaves no values, and is to be seen itself.
        if _backend.known(self._iterations) is not None:
            self._finalize(var_list)

    def _finalize(self, var_list: list) -> None:
        """Sets the weights that `fit` ends with."""
        super().finalize_variable_values(var_list)

    def _has_moved(self) -> bool:
        return int(ops.convert_to_numpy(self.iterations)) > 0

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        if not self._has_moved():
            return  # averages begin with the first update
        # By weight, not by place: some may have been frozen since `build`.
        own = zip(self._trainable_variables, self._model_variables_moving_average, strict=True)
        averages = {id(v): average for v, average in own if average is not None}
        pairs = [(v, averages[id(v)]) for v in trainable_variables if id(v) in averages]
        # Copies: JAX donates the arrays of both, and must not be given one array twice.
        _backend.assign([v for v, _ in pairs], [ops.copy(read(a)) for _, a in pairs])

    def save_own_variables(self, store):
        for i, variable in enumerate(self._variables):  # a wrapper's inner optimizer saves itself
            store[str(i)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store):
        names = [str(i) for i in range(len(self._variables))]
        if sorted(store.keys()) != sorted(names):
            warnings.warn(
                f"The state of optimizer {self.name!r} is not loaded, so it starts afresh: the "
                f"file has {len(store.keys())} variables, the optimizer {len(names)}. "
                + (
                    "It was saved with other arguments, such as other slots, averages or "
                    "accumulation."
                    if self.built
                    else "The optimizer is not built: call `optimizer.build(model."
                    "trainable_variables)` before loading weights."
                ),
                stacklevel=2,
            )
            return
        for name, variable in zip(names, self._variables, strict=True):
            variable.assign(store[name])

    def set_weights(self, weights):
        for variable, weight in zip(self.variables, weights, strict=True):
            variable.assign(weight)

    def _arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments, the learning rate as it is now."""
        arguments = {}
        for name in _config.parameters(type(self)):
            value = self._learning_rate if name == "learning_rate" else getattr(self, name)
            is_variable = isinstance(value, keras.Variable)
            arguments[name] = float(ops.convert_to_numpy(value)) if is_variable else value
        return arguments

    def __repr__(self) -> str:
        arguments = {n: getattr(self, n) for n in _config.parameters(type(self))}
        if "learning_rate" in arguments:
            arguments["learning_rate"] = self._learning_rate
        if self.name.replace("_", "").rstrip("0123456789") == type(self).__name__.lower():
            arguments.pop("name", None)  # Keras' own choice
        return _config.call(self, arguments)

    def get_config(self) -> dict[str, Any]:
        return {name: _config.serialize(value) for name, value in self._arguments().items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> Self:
        return cls(**_config.deserialize(config, custom_objects))

    def __deepcopy__(self, memo) -> Self:
        twin = type(self)(**copy.deepcopy(self._arguments(), memo))
        memo[id(self)] = twin
        if self.built:
            twin.build(self._trainable_variables)
            twin.set_weights([ops.convert_to_numpy(v) for v in self.variables])
        return twin
