"""Directions in the space of weights along which to look at a loss."""

import math

import keras
import numpy as np
from keras import ops

from keras_optkit import _match
from keras_optkit.transforms._units import unit_axes


def filter_normalized(
    variables: list[keras.Variable], generator: np.random.Generator
) -> list[np.ndarray]:
    """Returns a random direction in which each filter is as long as that of the weights.

    A filter is what feeds one output, as in `AdaptiveClip`; biases, scales and other weights of
    one axis do not move.
    """
    direction = []
    for variable in variables:
        path, shape = _match.path(variable), tuple(variable.shape)
        axes = unit_axes(path, len(shape))
        if len(axes) == len(shape) or math.prod(shape) == 0:
            direction.append(np.zeros(shape))
            continue
        weight = np.asarray(ops.convert_to_numpy(variable), dtype="float64")
        random = generator.standard_normal(shape)
        length = np.sqrt(np.sum(weight**2, axis=axes, keepdims=True))
        direction.append(random * length / np.sqrt(np.sum(random**2, axis=axes, keepdims=True)))
    return direction


def differences(
    variables: list[keras.Variable], start: list[np.ndarray], end: list[np.ndarray]
) -> list[np.ndarray]:
    """Returns what leads from one set of weights to another; counters and seeds stay."""
    return [
        b - a if keras.backend.is_float_dtype(v.dtype) else np.zeros(v.shape)
        for v, a, b in zip(variables, start, end, strict=True)
    ]


def given(weights, between, dimensions) -> list[list[np.ndarray]]:
    """Returns the sets of weights of `between`, checked."""
    sets = [[np.asarray(ops.convert_to_numpy(array)) for array in one] for one in between]
    if len(sets) not in (2, 3) or (dimensions is not None and dimensions != len(sets) - 1):
        raise ValueError(
            "`between` must hold two sets of weights for a line, or three for a plane. Received: "
            f"{len(sets)} sets, and dimensions={dimensions}"
        )
    shapes = [tuple(v.shape) for v in weights]
    for number, arrays in enumerate(sets):
        if [array.shape for array in arrays] != shapes:
            raise ValueError(
                "`between` must hold sets of weights as `model.get_weights()` returns them, of "
                f"this model. Received: in set {number}, shapes {[a.shape for a in arrays]}, where "
                f"the model has {shapes}"
            )
    return sets
