"""Euclidean norms that neither overflow nor underflow, and clipping to them."""

import functools
import math

from keras import ops

# Whose reciprocals float32 holds too, even as estimated by a processor: denormal numbers are
# often taken for 0.
SMALLEST, LARGEST = 2.0**-126, 2.0**120
SMALL = 1e-15


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


def norms_for(least, groups):
    """Returns what `scaled_norm` does for each pair of tensors and axes, faster, for clipping.

    Reads the tensors once, unless a square overflows. Norms far below `least`, the least limit
    that they are compared with, may come out as 0.
    """
    if least < SMALL:  # where squares may be 0
        return [_full(scaled_norm(*group)) for group in groups]
    squares = [
        functools.reduce(
            ops.add, [ops.sum(ops.square(t), axis=a, keepdims=a is not None) for t in tensors]
        )
        for tensors, a in groups
    ]
    finite = functools.reduce(ops.logical_and, [ops.all(ops.isfinite(s)) for s in squares])
    return ops.cond(
        finite,
        lambda: [(ops.ones_like(s), ops.sqrt(s)) for s in squares],
        lambda: [_full(scaled_norm(*group)) for group in groups],
    )


def _full(norm):
    """Returns scale and ratio in one shape."""
    return tuple(ops.broadcast_to(part, ops.shape(norm[1])) for part in norm)


def clip(tensor, norm, limit):
    """Returns `tensor` rescaled to the norm `limit` where `norm`, of `scaled_norm`, is greater.

    Where there is no norm, for a NaN or an infinity, `tensor` stays as it is.
    """
    scale, ratio = norm
    over = ops.logical_and(ops.isfinite(ratio), scale * ratio > limit)
    # One factor, limit / norm, would be 0 where the norm overflows, and TensorFlow makes one of
    # two unless a choice lies between. Factors, since dividing every entry is slow.
    scaled = ops.where(over, ops.cast(tensor, scale.dtype) * (1 / scale), tensor)
    factor = ops.where(over, limit / ops.where(over, ratio, 1.0), 1.0)
    return ops.cast(scaled * factor, tensor.dtype)
