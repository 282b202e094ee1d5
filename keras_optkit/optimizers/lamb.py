"""Layer-wise adaptive moments for batch training."""

from collections.abc import Sequence
from typing import Unpack

from keras import ops

from keras_optkit import _check, _match
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._moments import adam, norm
from keras_optkit.optimizers.lars import EXCLUDE


@register
class LAMB(Optimizer):
    """Adam that gives each layer a step in proportion to the size of its weights.

    For very large batches, as LARS is; at small ones it has little to offer over AdamW. With
    gradient `g`, norms over a whole weight tensor, `t = 1, 2, ...`:

    ```text
    m = beta_1 m + (1 - beta_1) g                 m_hat = m / (1 - beta_1^t)
    v = beta_2 v + (1 - beta_2) g^2               v_hat = v / (1 - beta_2^t)
    u = m_hat / (sqrt(v_hat) + epsilon) + weight_decay w
    trust = min(max(|w|, min_norm), max_norm) / |u|,  1 if |w| or |u| is 0
    w = w - learning_rate * trust * u
    ```

    Args:
        learning_rate: Step size relative to the weight's: a float, a `LearningRateSchedule` or a
            callable.
        beta_1: Decay per step of the mean of gradients, in [0, 1).
        beta_2: Decay per step of the mean of squared gradients, in [0, 1).
        epsilon: Added to `sqrt(v_hat)`, so in units of the gradient; above 0.
        min_norm: Least norm of a weight to reckon with, 0 or more.
        max_norm: Greatest norm to reckon with, above `min_norm`; None for no limit. The
            authors' experiments have 10.
        exclude: Patterns, as in `Group`, of weights without a trust ratio, which train as by
            AdamW. Biases, scales and normalization weights, unless said otherwise; `()` excludes
            none. Take decay off weights by `groups`, as with `no_decay_groups`.
        **kwargs: Those of `Optimizer`; `weight_decay` is inside the trust ratio.

    Example:
        >>> model.compile(optimizer=keras_optkit.optimizers.LAMB(0.01), loss="mse")

    Reference:
        [You et al., 2020](https://arxiv.org/abs/1904.00962), algorithm 2. Keras' `Lamb` decays
        outside the trust ratio. `optax.lamb` excludes nothing.
    """

    slots = ("momentum", "velocity")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        min_norm: float = 0.0,
        max_norm: float | None = None,
        exclude: str | Sequence[str] = EXCLUDE,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed="left")
        self.beta_2 = _check.in_range("beta_2", beta_2, 0, 1, closed="left")
        self.epsilon = _check.in_range("epsilon", epsilon, low=0, closed="neither")
        self.min_norm = _check.in_range("min_norm", min_norm, low=0)
        self.max_norm = (
            None
            if max_norm is None
            else _check.in_range("max_norm", max_norm, self.min_norm, closed="neither")
        )
        self.exclude = _check.patterns("exclude", exclude)

    def build(self, variables):
        if not self.built and self.exclude != EXCLUDE:
            _match.warn_unmatched("LAMB", self.exclude, [_match.path(v) for v in variables])
        super().build(variables)

    def rule_for(self, variable):
        excluded = _match.matches(self.exclude, _match.path(variable))
        return super().update if excluded else self.update

    def direction(self, gradient, weight, step, slots):
        return adam(gradient, slots, step, self.beta_1, self.beta_2, self.epsilon)

    def update(self, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
        move, slots = self.direction(gradient, weight, step, slots)
        move = self.careful(move, gradient)
        if weight_decay is not None:
            move = move + weight_decay * weight
        size, length = norm(weight), norm(move)
        known = ops.logical_and(size > 0, length > 0)
        size = ops.maximum(size, self.min_norm)
        if self.max_norm is not None:
            size = ops.minimum(size, self.max_norm)
        trust = ops.where(known, size / ops.where(known, length, 1), 1)
        return weight - learning_rate * trust * move, slots
