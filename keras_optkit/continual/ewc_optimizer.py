"""Elastic weight consolidation in an optimizer."""

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import keras
import numpy as np
from keras import ops

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.continual import _quadratic
from keras_optkit.optimizers._slots import read
from keras_optkit.optimizers._wrapper import Wrapper, WrapperKwargs


@register
class EWCOptimizer(Wrapper):
    """Holds each weight where it was, as firmly as it mattered, for any training loop.

    The form of `EWC` that lives in the optimizer: for models with a training step of their own,
    and loops that call `optimizer.apply`. Call `consolidate` at the end of a task; until then it
    does nothing. With importances `F`, anchors `w*` and gradients `g` as the inner optimizer would
    get them,

    ```text
    gradient  g = g + strength F (w - w*)
    proximal  w = (w + learning_rate strength F w*) / (1 + learning_rate strength F)   afterwards
    ```

    The second is stable at any strength. Importances and anchors are saved with the optimizer, and
    lost with it: to compile anew for each task, use `ContinualModel`.

    Args:
        inner_optimizer: The optimizer to wrap, or its name.
        strength: Factor of the penalty, 0 or more.
        update: `"gradient"` or `"proximal"`.
        **kwargs: Those of `Wrapper`.

    Example:
        >>> optimizer = keras_optkit.continual.EWCOptimizer("sgd", strength=100.0)
        >>> model.compile(optimizer, "mse")
        >>> history = model.fit(x, y)
        >>> fisher = keras_optkit.continual.fisher_diagonal(model, x, verbose=0)
        >>> optimizer.consolidate(model.trainable_variables, fisher)
        >>> history = model.fit(x, -y)

    Reference:
        [Kirkpatrick et al., 2017](https://arxiv.org/abs/1612.00796), equation 3.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        strength: float,
        update: Literal["gradient", "proximal"] = "gradient",
        **kwargs: Unpack[WrapperKwargs],
    ):
        super().__init__(inner_optimizer, **kwargs)
        self.strength = _check.in_range("strength", strength, low=0)
        self.update = _check.one_of("update", update, ("gradient", "proximal"))

    def consolidate(self, variables: Sequence[keras.Variable], importances: Sequence[Any]) -> None:
        """Ends a task: adds a penalty around the weights as they are now.

        Args:
            variables: The weights that the optimizer trains, such as `model.trainable_variables`.
            importances: An array for each, not negative, such as `fisher_diagonal` returns.

        Raises:
            ValueError: If numbers or shapes do not fit, or an importance is negative or not finite.
        """
        variables, arrays = list(variables), [np.asarray(f, "float64") for f in importances]
        shapes = [tuple(v.shape) for v in variables], [a.shape for a in arrays]
        if shapes[0] != shapes[1]:
            raise ValueError(
                "`importances` must have one array for each of `variables`, of its shape. "
                f"Received: {shapes[1]} for {shapes[0]}"
            )
        if not all((np.isfinite(a) & (a >= 0)).all() for a in arrays):
            raise ValueError(
                "`importances` must be finite and at least 0. Received: arrays with other entries"
            )
        self.build(variables)
        self._check_variables_are_known(variables)
        for variable, new in zip(variables, arrays, strict=True):
            slots = self._held(variable)
            if slots is None:
                continue
            old = [np.array(ops.convert_to_numpy(slot), "float64") for slot in slots]
            weight = np.array(ops.convert_to_numpy(variable), "float64")
            joined = _quadratic.joined(old[0], old[1], new, weight)
            for slot, value in zip(slots, joined[:2], strict=True):
                slot.assign(value.astype(keras.backend.standardize_dtype(slot.dtype)))

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._importances = self._add_slots("importance")
        self._anchors = self._add_slots("anchor")
        if self.update == "proximal":
            self._rate = self.add_variable(shape=(), dtype="float32", name="rate")

    def before(self, gradients, variables):
        if self.update == "proximal":
            # Kept, since the inner optimizer counts on before `after` is called.
            _backend.assign([self._rate], [ops.cast(read(self.learning_rate), "float32")])
            return gradients
        return [
            g + self.strength * read(f) * (read(v, g.dtype) - read(a))
            for g, v, (f, a) in zip(gradients, variables, self._slots_of(variables), strict=True)
        ]

    def after(self, variables):
        if self.update != "proximal":
            return
        rate, values = read(self._rate), []
        for variable, (f, a) in zip(variables, self._slots_of(variables), strict=True):
            f, a = read(f), read(a)
            k = ops.cast(rate * self.strength, f.dtype) * f
            value = _quadratic.pulled(read(variable, f.dtype), [(k, a)])
            constraint = getattr(variable, "constraint", None)
            value = value if constraint is None else constraint(value)
            values.append(ops.cast(value, variable.dtype))
        _backend.assign(variables, values)

    def _slots_of(self, variables) -> list[tuple]:
        at = [self._get_variable_index(v) for v in variables]
        return [(self._importances[i], self._anchors[i]) for i in at]

    def _held(self, variable) -> tuple | None:
        """Returns importance and anchor; None where the gradient is the new value."""
        i = self._get_variable_index(variable)
        pair = self._importances[i], self._anchors[i]
        return None if pair[0] is None else pair
