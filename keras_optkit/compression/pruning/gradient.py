"""Pruning by what the loss loses."""

from typing import Literal

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.pruning._method import Method, select_by


@register
class Gradient(Method):
    """Prunes the weights whose loss would change least without them, to first order.

    With weight `w` and gradient `g` of each update, before it:

    ```text
    score = decay score + (1 - decay) |w g|
    ```

    Args:
        decay: Share of the old score that an update keeps, in [0, 1).
        scope: `"layer"` for the same sparsity in each weight tensor, `"global"` for one threshold.

    Example:
        >>> method = keras_optkit.compression.Gradient()
        >>> optimizer = keras_optkit.compression.Pruned("adam", sparsity=0.5, method=method)

    Reference:
        [Molchanov et al., 2017](https://arxiv.org/abs/1611.06440), equation 7, for single weights
        and with an average over updates.
    """

    has_scores = True

    def __init__(self, decay: float = 0.9, scope: Literal["layer", "global"] = "layer"):
        self.decay = _check.in_range("decay", decay, 0, 1, closed="left")
        self.scope = _check.one_of("scope", scope, ("layer", "global"))

    def score(self, weight, gradient, score):
        return self.decay * score + (1 - self.decay) * ops.abs(weight * gradient)

    def select(self, candidates):
        return select_by(candidates.scores, candidates.sparsity, self.scope)
