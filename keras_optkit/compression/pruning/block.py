"""Pruning of blocks."""

import math
from typing import Literal

import numpy as np
from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.pruning._masks import kept, largest
from keras_optkit.compression.pruning._method import Method


def rows_and_columns(name: str, value) -> tuple[int, int]:
    """Returns `value` if it is the size of a block, a pair of integers of at least 1."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise TypeError(
            f"`{name}` must be a pair of integers, rows and columns. {_check.received(name, value)}"
        )
    rows, columns = (_check.integer(f"{name}[{i}]", n, low=1) for i, n in enumerate(value))
    return rows, columns


@register
class Block(Method):
    """Prunes rectangles of a matrix together, so that the zeros cost less to store and skip.

    Blocks are compared by their mean or largest magnitude; the sparsity counts blocks. Those at
    the far edges of a matrix that the shape does not divide are smaller.

    Args:
        shape: Rows and columns of a block, each at least 1.
        pooling: `"mean"` or `"max"`.

    Example:
        >>> method = keras_optkit.compression.Block((4, 4))
        >>> optimizer = keras_optkit.compression.Pruned("adam", sparsity=0.5, method=method)

    Reference:
        [Narang et al., 2017](https://arxiv.org/abs/1711.02782), section 3.2. TF-MOT, where a
        matrix's edge cuts off two rows or more, compares other rectangles than it prunes.
    """

    def __init__(self, shape: tuple[int, int] = (4, 4), pooling: Literal["mean", "max"] = "mean"):
        self.shape = rows_and_columns("shape", shape)
        self.pooling = _check.one_of("pooling", pooling, ("mean", "max"))

    def check(self, paths, shapes):
        others = {p: s for p, s in zip(paths, shapes, strict=True) if len(s) != 2}
        if others:
            raise ValueError(
                "Block prunes matrices, of two axes. Leave the others out with "
                f"`exclude={[*others]}`, or prune those with Magnitude. Received: "
                + ", ".join(f"{path} of shape {shape}" for path, shape in others.items())
            )

    def select(self, candidates):
        return [self._mask(ops.abs(w), candidates.sparsity) for w in candidates.weights]

    def _mask(self, scores, sparsity):
        (rows, columns), (height, width) = scores.shape, self.shape
        down, across = -(-rows // height), -(-columns // width)
        padding = [(0, down * height - rows), (0, across * width - columns)]
        blocks = ops.reshape(ops.pad(scores, padding), (down, height, across, width))
        if self.pooling == "max":
            pooled = ops.max(blocks, axis=(1, 3))
        else:
            inside = np.pad(np.ones((rows, columns)), padding).reshape(down, height, across, width)
            sizes = ops.convert_to_tensor(inside.sum(axis=(1, 3)), dtype=scores.dtype)
            pooled = ops.sum(blocks, axis=(1, 3)) / sizes
        mask = largest(pooled, kept(math.prod(pooled.shape), sparsity))
        whole = ops.repeat(ops.repeat(mask, height, axis=0), width, axis=1)
        return whole[:rows, :columns]
