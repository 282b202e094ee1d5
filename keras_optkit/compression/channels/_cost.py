"""What a model of fewer channels costs."""

import math

import numpy as np

from keras_optkit.compression.channels._trace import Trace


def parameters(trace: Trace, mask: np.ndarray) -> int:
    """Returns the number of weights."""
    return sum(_size(trace, variable, mask) for variable in trace.model.weights)


def flops(trace: Trace, mask: np.ndarray) -> int | None:
    """Returns the floating-point operations for one sample, or None if sizes are not fixed.

    Two, a multiplication and an addition, for each use of an entry of a kernel.
    """
    if any(positions is None for _, positions in trace.work):
        return None
    return sum(2 * positions * _size(trace, v, mask) for v, positions in trace.work if positions)


def _size(trace: Trace, variable, mask: np.ndarray) -> int:
    shape = list(variable.shape)
    found = trace.slices.get(id(variable))
    for axis, ids in found.axes.items() if found else ():
        shape[axis] = int(mask[ids].sum())
    return math.prod(shape)
