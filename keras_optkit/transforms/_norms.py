"""Euclidean norms that neither overflow nor underflow, and clipping to them."""

import functools
import math

from keras import ops

# Whose reciprocals float32 holds too: XLA takes denormal numbers for 0, and may divide by
# multiplying with the reciprocal.
SMALLEST, LARGEST = 2.0**-126, 2.0**126


def filled(tensors, variables):
    """Returns those of `tensors` that have entries; an empty one has no largest entry."""
    return [t for t, v in zip(tensors, variables, strict=True) if math.prod(v.shape)]


def scaled_norm(tensors, axes=None):
    """Returns `scale, ratio`; the norm of all `tensors` together is `scale * ratio`.

    The square of 2e19 overflows in float32 and that of 1e-23 is 0, so entries are divided by
    about the largest absolute value before they are squared; `ratio` is 1 or more, or the norm
    as good as 0. With `axes`, which stay as 1, one norm per unit. A NaN or an infinity among the
    entries makes `ratio` one, too.
    """
    keep = axes is not None
    peaks = [ops.max(ops.abs(t), axis=axes, keepdims=keep) for t in tensors]
    largest = functools.reduce(ops.maximum, peaks)
    scale = ops.where(largest < SMALLEST, 1.0, ops.minimum(largest, LARGEST))
    squares = [
        ops.sum(ops.square(ops.cast(t, scale.dtype) / scale), axis=axes, keepdims=keep)
        for t in tensors
    ]
    return scale, ops.sqrt(functools.reduce(ops.add, squares))


def clip(tensor, norm, limit):
    """Returns `tensor` rescaled to the norm `limit` where `norm`, of `scaled_norm`, is greater.

    Where there is no norm, for a NaN or an infinity, `tensor` stays as it is.
    """
    scale, ratio = norm
    over = ops.logical_and(ops.isfinite(ratio), scale * ratio > limit)
    # One factor, limit / norm, would be 0 where the norm overflows.
    clipped = ops.cast(tensor, scale.dtype) / scale * (limit / ops.maximum(ratio, 1.0))
    return ops.where(over, ops.cast(clipped, tensor.dtype), tensor)
