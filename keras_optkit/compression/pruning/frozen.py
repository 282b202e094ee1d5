"""Keeping the zeros there are."""

from keras import ops

from keras_optkit._registry import register
from keras_optkit.compression.pruning._method import Method


@register
class Frozen(Method):
    """Keeps what is 0 when training begins: to fine-tune or quantize a pruned model.

    The sparsity schedule says nothing here.

    Example:
        >>> method = keras_optkit.compression.Frozen()
        >>> optimizer = keras_optkit.compression.Pruned("adam", sparsity=0.0, method=method)
    """

    has_start = True
    trains_sparse = True

    def start(self, weights, sparsity):
        return [ops.not_equal(w, 0) for w in weights]

    def select(self, candidates):
        return candidates.masks
