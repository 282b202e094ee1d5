"""SET."""

from keras import ops

from keras_optkit import _backend
from keras_optkit._registry import register
from keras_optkit.compression.pruning._sparse_training import SparseTraining


@register
class SET(SparseTraining):
    """Trains a sparse network throughout, and moves its connections by lot.

    It starts by lot at the schedule's sparsity. At each turn it drops the smallest weights and
    grows as many others, from 0, anywhere: sparse evolutionary training.

    Args:
        fraction: Share of the weights left to exchange at each turn, `zeta` in the paper,
            in (0, 1).
        seed: Of the draws, at least 0.

    Example:
        >>> schedule = keras_optkit.compression.ConstantSparsity(0.9, 1)
        >>> method = keras_optkit.compression.SET()
        >>> optimizer = keras_optkit.compression.Pruned("adam", schedule, method)

    Reference:
        [Mocanu et al., 2018](https://arxiv.org/abs/1707.04780), algorithm 2, which starts sparser
        where layers are larger, and drops by the sign of weights apart.
    """

    def growth(self, candidates, index):
        shape = tuple(candidates.weights[index].shape)
        # Each number its own by far: one that is drawn at step 0 decides the start.
        return ops.abs(_backend.seeded_normal(shape, self.seed, index, candidates.step))
