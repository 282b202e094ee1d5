"""Pruning by lot."""

import math

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.compression.pruning._masks import kept, largest
from keras_optkit.compression.pruning._method import Method


@register
class Random(Method):
    """Prunes weights drawn by lot: what any other method must beat.

    A weight draws once, so with growing sparsity what is pruned stays pruned.

    Args:
        seed: Whole number of at least 0. The draws differ between backends.

    Example:
        >>> method = keras_optkit.compression.Random(seed=1)
        >>> optimizer = keras_optkit.compression.Pruned("adam", sparsity=0.5, method=method)
    """

    def __init__(self, seed: int = 0):
        self.seed = _check.integer("seed", seed, low=0)

    def select(self, candidates):
        return masks(candidates.weights, candidates.sparsity, self.seed)


def masks(weights: list, sparsity, seed: int) -> list:
    """Returns masks that keep weights by lot."""
    drawn = [_backend.seeded_normal(tuple(w.shape), seed, i, 0) for i, w in enumerate(weights)]
    return [largest(d, kept(math.prod(d.shape), sparsity)) for d in drawn]
