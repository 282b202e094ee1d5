"""Base of the methods that train sparse from the start."""

import math

from keras import ops

from keras_optkit import _check
from keras_optkit.compression.pruning._masks import kept, largest
from keras_optkit.compression.pruning._method import Method
from keras_optkit.compression.pruning.random import masks


class SparseTraining(Method):
    """Drops the smallest weights at each turn, and grows as many others in their place.

    The number of weights stays what the sparsity says, from a start by lot on.

    Args:
        fraction: Share of the weights left to exchange at the first turn, in (0, 1).
        seed: Whole number of at least 0.
    """

    has_start = True
    trains_sparse = True

    def __init__(self, fraction: float = 0.3, seed: int = 0):
        self.fraction = _check.in_range("fraction", fraction, 0, 1, closed="neither")
        self.seed = _check.integer("seed", seed, low=0)

    def start(self, weights, sparsity):
        return masks(weights, sparsity, self.seed)

    def exchanged(self, candidates):
        """Returns the share of the weights left to exchange at this turn."""
        return self.fraction

    def growth(self, candidates, index: int):
        """Returns how much each entry of a weight should grow back, 0 or more."""
        raise NotImplementedError

    def select(self, candidates):
        share = self.exchanged(candidates)
        new = []
        for i, (weight, mask) in enumerate(zip(candidates.weights, candidates.masks, strict=True)):
            count = kept(math.prod(weight.shape), candidates.sparsity)
            dropped = ops.cast(ops.round(share * ops.cast(count, "float32")), "int32")
            # -1 is less than any magnitude: what is pruned is not dropped, what stays not grown.
            stays = largest(ops.where(mask, ops.abs(weight), -1.0), count - dropped)
            growth = ops.where(stays, -1.0, self.growth(candidates, i))
            new.append(ops.logical_or(stays, largest(growth, dropped)))
        return new
