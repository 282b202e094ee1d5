"""What is measured of gradients, weights and updates: functions of tensors."""

import functools
import math

import numpy as np
from keras import ops

from keras_optkit.transforms._norms import scaled_norm

# Half decades; the first bin holds what is smaller, the last what is greater or not finite.
EDGES = 10.0 ** np.arange(-12, 4.5, 0.5)
BINS = len(EDGES) + 1


def norms(make):
    """Returns the Euclidean norm of each list of tensors that `make` returns, 0 of an empty one.

    Reads the tensors once, unless squares overflow or are lost. Then they are made again, so that
    those which are computed need not be kept. On XLA:CPU any more work on an entry, even a factor,
    costs as much as the sum itself.
    """
    groups = [[ops.cast(t, "float32") for t in tensors] for tensors in make()]
    squares = [_sum([ops.sum(ops.square(t)) for t in tensors]) for tensors in groups]
    doubtful = [
        ops.logical_not(ops.logical_and(s > 1e-24, ops.isfinite(s)))
        for s, tensors in zip(squares, groups, strict=True)
        if tensors
    ]
    return ops.cond(
        functools.reduce(ops.logical_or, doubtful, ops.convert_to_tensor(False)),
        lambda: ops.stack([_safe_norm(tensors) for tensors in make()]),
        lambda: ops.sqrt(ops.stack(squares)),
    )


def directions(groups, sizes):
    """Returns the tensors divided by `sizes`, the norms of their lists, and which can be.

    Those of a list whose norm is 0, or overflows, become 0.
    """
    usable = ops.logical_and(sizes > 2.0**-120, ops.isfinite(sizes))
    factors = ops.where(usable, 1 / ops.where(usable, sizes, 1.0), 0.0)
    divided = [
        [ops.where(usable[i], t * ops.cast(factors[i], t.dtype), 0) for t in tensors]
        for i, tensors in enumerate(groups)
    ]
    return divided, usable


def cosines(groups, others):
    """Returns the cosine between lists of tensors, each list of norm 1 or all 0."""
    pairs = zip(groups, others, strict=True)
    return ops.stack(
        [
            _sum([ops.sum(ops.cast(t * o, "float32")) for t, o in zip(*pair, strict=True)])
            for pair in pairs
        ]
    )


def shares(groups, totals):
    """Returns the shares of entries that are 0, and not finite, of each list of tensors.

    Entries that are missing from `totals` count as 0.
    """
    kinds = [lambda t: ops.not_equal(t, 0), lambda t: ops.logical_not(ops.isfinite(t))]
    counts = [
        [_sum([ops.sum(ops.cast(kind(t), "int32")) for t in ts], "int32") for kind in kinds]
        for ts in groups
    ]
    counted = ops.cast(ops.stack([ops.stack(pair) for pair in counts]), "float32")
    part = counted / ops.convert_to_tensor(np.array(totals, "float32")[:, None])
    return 1 - part[:, 0], part[:, 1]


def histograms(groups, totals):
    """Returns how many entries of each list of tensors lie between the `EDGES` in absolute value.

    Entries that are missing from `totals` count as 0.
    """
    return ops.stack(
        [
            _sum([_histogram(t) for t in tensors], "int32", (BINS,))
            + ops.one_hot(0, BINS, dtype="int32")
            * (total - sum(math.prod(t.shape) for t in tensors))
            for tensors, total in zip(groups, totals, strict=True)
        ]
    )


def _histogram(tensor):
    size = ops.abs(ops.cast(ops.reshape(tensor, (-1,)), "float32"))
    low, high = float(EDGES[0] / 2), float(EDGES[-1] * 2)  # NumPy's would make all float64
    inside = ops.where(ops.isfinite(size), ops.clip(size, low, high), high)
    place = ops.cast(ops.floor(2 * ops.log10(inside)), "int32") - round(2 * math.log10(EDGES[0]))
    return ops.segment_sum(ops.ones_like(place), place + 1, num_segments=BINS)


def _sum(tensors, dtype="float32", shape=()):
    return functools.reduce(ops.add, tensors) if tensors else ops.zeros(shape, dtype)


def _safe_norm(tensors):
    if not tensors:
        return ops.zeros((), "float32")
    largest, ratio = scaled_norm([ops.cast(t, "float32") for t in tensors])
    return largest * ratio
