"""Pruning by where weights go."""

from typing import Literal

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.pruning._method import Method, select_by


@register
class Movement(Method):
    """Prunes the weights that training moves towards 0, however large they are: for fine-tuning.

    With weight `w` and gradient `g` of each update, before it:

    ```text
    score = score - w g
    ```

    Args:
        scope: `"layer"` for the same sparsity in each weight tensor, `"global"` for one threshold.

    Example:
        >>> method = keras_optkit.compression.Movement()
        >>> optimizer = keras_optkit.compression.Pruned("adam", sparsity=0.5, method=method)

    Reference:
        [Sanh et al., 2020](https://arxiv.org/abs/2005.07683), equation 3. There a pruned weight
        goes on training out of sight; here it is 0, and its score stays.
    """

    has_scores = True

    def __init__(self, scope: Literal["layer", "global"] = "layer"):
        self.scope = _check.one_of("scope", scope, ("layer", "global"))

    def score(self, weight, gradient, score):
        return score - weight * gradient

    def select(self, candidates):
        return select_by(candidates.scores, candidates.sparsity, self.scope)
