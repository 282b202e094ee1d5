"""A loss as a function of a few coordinates."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from keras_optkit import _backend
from keras_optkit.optimizers._objective import Objective


class Surface:
    """The loss at a place in the space that some directions span; the model stays as it is.

    Args:
        objective: The loss.
        weights: The variables that the next two are about.
        origin: Values of `weights` at coordinates 0.
        directions: For each coordinate, what one unit of it adds to `weights`.
    """

    def __init__(self, objective: Objective, weights, origin, directions):
        self._objective, self._weights = objective, weights
        self._start = self._tensors(origin, values)
        self._steps = [self._tensors(direction) for direction in directions]
        self._move = _backend.compiled(_moved)

    def __call__(self, place: Sequence[float]) -> float:
        coefficients = ops.convert_to_tensor(np.array(place, "float32"))
        x, *others = self._move(self._start, self._steps, coefficients)
        return self._objective.value(x, others)

    def _tensors(self, given, default=None) -> list:
        """Returns values as the objective takes them: one vector, and all else one by one."""
        objective, count = self._objective, len(self._objective.variables)
        variables = [*objective.variables, *objective.others]
        arrays = among(variables, self._weights, given, default)
        flat = np.concatenate([np.ravel(array) for array in arrays[:count]])
        kinds = [v.dtype for v in (objective.variables[0], *objective.others)]
        pairs = zip((flat, *arrays[count:]), kinds, strict=True)
        return [ops.convert_to_tensor(array, dtype=kind) for array, kind in pairs]


def among(wanted, known, given, default: Callable | None = None) -> list[np.ndarray]:
    """Returns what is `given` for the `known` among `wanted` variables; for others 0, or theirs."""
    found = {id(variable): value for variable, value in zip(known, given, strict=True)}

    def other(variable):
        return np.zeros(variable.shape) if default is None else default([variable])[0]

    return [found[id(v)] if id(v) in found else other(v) for v in wanted]


def values(variables) -> list[np.ndarray]:
    """Returns the values of variables as arrays of their own."""
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def _moved(start, steps, coefficients):
    return [
        sum((ops.cast(coefficients[i], t.dtype) * step[n] for i, step in enumerate(steps)), t)
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(t.dtype))
        else t
        for n, t in enumerate(start)
    ]
