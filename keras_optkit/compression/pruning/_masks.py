"""Which entries of a tensor are the largest, to the exact number."""

import math

from keras import ops

from keras_optkit import _backend


def kept(size: int, sparsity):
    """Returns how many of `size` entries stay at `sparsity`, at least 1, as an int32 tensor.

    In float32, and half to even, as TF-MOT rounds.
    """
    count = ops.round(float(size) * (1 - ops.cast(sparsity, "float32")))
    return ops.cast(ops.maximum(count, 1), "int32")


def largest(scores, count):
    """Returns a mask of the `count` largest entries of `scores`; of equal ones, the first.

    Args:
        scores: Tensor of any shape; NaN counts as the largest, so that it stays to be seen.
        count: Scalar int32 tensor, from 0 to the size of `scores`.
    """
    scores = ops.where(ops.isnan(scores), float("inf"), scores)
    size = math.prod(scores.shape)
    # The threshold says nearly all, and the rest is counted.
    threshold = _backend.nth_smallest(scores, ops.clip(size - count, 0, size - 1))
    above, equal = scores > threshold, scores == threshold
    room = count - ops.sum(ops.cast(above, "int32"))
    ranks = ops.cumsum(ops.cast(ops.reshape(equal, (-1,)), "int32"))
    first = ops.reshape(ranks, scores.shape) <= room
    return ops.logical_or(above, ops.logical_and(equal, first))


def largest_of_all(scores: list, count) -> list:
    """Returns masks of the `count` largest entries of several tensors together."""
    if not scores:
        return []
    flat = [ops.reshape(s, (-1,)) for s in scores]
    ends, total = [], 0
    for s in flat[:-1]:
        total += math.prod(s.shape)
        ends.append(total)
    mask = largest(ops.concatenate(flat), count)
    parts = ops.split(mask, ends) if ends else [mask]
    return [ops.reshape(p, s.shape) for p, s in zip(parts, scores, strict=True)]
