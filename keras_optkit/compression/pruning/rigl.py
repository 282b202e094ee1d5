"""RigL."""

import math

from keras import ops

from keras_optkit._registry import register
from keras_optkit.compression.pruning._sparse_training import SparseTraining


@register
class RigL(SparseTraining):
    """Trains a sparse network throughout, and moves its connections to where gradients are large.

    It starts by lot at the schedule's sparsity. At each turn it drops the smallest weights and
    grows as many, from 0, where the gradient is largest, fewer towards the schedule's end:

    ```text
    exchanged = fraction / 2 (1 + cos(pi progress))
    ```

    Args:
        fraction: Share of the weights left to exchange at the first turn, `alpha` in the paper,
            in (0, 1).
        seed: Of the start by lot, at least 0.

    Example:
        >>> schedule = keras_optkit.compression.ConstantSparsity(0.9, 1, end_step=750)
        >>> method = keras_optkit.compression.RigL()
        >>> optimizer = keras_optkit.compression.Pruned("adam", schedule, method)

    Reference:
        [Evci et al., 2020](https://arxiv.org/abs/1911.11134), algorithm 1, with the same sparsity
        in each weight. What the inner optimizer keeps for a weight it goes on keeping.
    """

    def exchanged(self, candidates):
        return self.fraction / 2 * (1 + ops.cos(math.pi * candidates.progress))

    def growth(self, candidates, index):
        return ops.abs(candidates.gradients[index])
