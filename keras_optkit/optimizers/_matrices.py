"""Weights as matrices from inputs to outputs."""

import math

from keras import ops

from keras_optkit import _match

PROJECTIONS = ("query", "key", "value")


def is_projection(variable) -> bool:
    """Tells whether the first axis alone is the inputs', as in the kernels of attention layers.

    In all other kernels, those of convolutions too, the outputs are the last axis.
    """
    return len(variable.shape) == 3 and _match.matches(PROJECTIONS, _match.path(variable))


def matrix_shape(shape, projection: bool) -> tuple[int, int]:
    """Returns the number of inputs and outputs of a weight of that shape."""
    split = 1 if projection else len(shape) - 1
    return math.prod(shape[:split]), math.prod(shape[split:])


def as_matrix(tensor, projection: bool):
    """Returns a weight or its gradient as a matrix, inputs by outputs."""
    return ops.reshape(tensor, matrix_shape(tensor.shape, projection))
