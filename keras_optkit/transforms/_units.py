"""Which entries of a weight feed one output: its units."""

import re

_BIAS = re.compile(r"(?:^|/)bias$")
_EMBEDDING = re.compile(r"(?:^|/)[^/]*embeddings$")
_DEPTHWISE = re.compile(r"(?:^|/)[^/]*(?:depthwise|dwconv|conv_dw)[^/]*(?:/kernel)?$")
_PROJECTION = re.compile(r"(?:^|/)(?:query|key|value)/kernel$")


def is_embedding(path: str) -> bool:
    """Tells whether the weight is a table that is looked up, one row per item."""
    return bool(_EMBEDDING.search(path))


def unit_axes(path: str, rank: int) -> tuple[int, ...]:
    """Returns the axes along which the entries of one unit lie, by the layouts of Keras.

    A kernel has its outputs on the last axis, a depthwise kernel on the last two, the query, key
    and value kernels of an attention layer on heads and sizes; the unit of a table is its row,
    and any bias, scale or scalar is one unit.
    """
    if rank < 2 or _BIAS.search(path):
        return tuple(range(rank))
    if is_embedding(path):
        return tuple(range(1, rank))
    if rank >= 3 and _DEPTHWISE.search(path):
        return tuple(range(rank - 2))
    if rank == 3 and _PROJECTION.search(path):
        return (0,)
    return tuple(range(rank - 1))
