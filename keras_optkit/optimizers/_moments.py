"""Running means of gradients, for numbers and for tensors as decay."""

import math

from keras import ops


def mean(old, new, beta):
    """Returns `beta old + (1 - beta) new`."""
    return beta * old + (1 - beta) * new


def bias(beta, step):
    """Returns `1 - beta^step`, the share of gradients in a running mean that starts at 0.

    By `expm1`, as float32 rounds `1 - beta^step` badly. `beta` may be a tensor, under a schedule.
    """
    if isinstance(beta, (int, float)):
        return -ops.expm1(step * math.log(beta)) if beta else ops.ones_like(step)
    beta = ops.maximum(ops.cast(beta, step.dtype), 1e-30)
    return -ops.expm1(step * ops.log(beta))


def norm(tensor):
    """Returns the L2 norm of all entries."""
    return ops.sqrt(ops.sum(ops.square(tensor)))
