"""Pruning of small weights."""

from typing import Literal

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.pruning._method import Method, select_by


@register
class Magnitude(Method):
    """Prunes the weights that are smallest in magnitude.

    The usual way, and hard to beat. Of equal weights the first stay, so the number of zeros is
    exact. A pruned weight that a single update makes larger than another comes back.

    Args:
        scope: `"layer"` for the same sparsity in each weight tensor; `"global"` for one threshold
            over all of them, which spares small layers and suits networks whose layers differ.

    Example:
        >>> optimizer = keras_optkit.compression.Pruned(
        ...     keras.optimizers.Adam(), sparsity=0.8, method=keras_optkit.compression.Magnitude()
        ... )

    Reference:
        [Han et al., 2015](https://arxiv.org/abs/1506.02626), section 3.2.
    """

    def __init__(self, scope: Literal["layer", "global"] = "layer"):
        self.scope = _check.one_of("scope", scope, ("layer", "global"))

    def select(self, candidates):
        scores = [ops.abs(w) for w in candidates.weights]
        return select_by(scores, candidates.sparsity, self.scope)
