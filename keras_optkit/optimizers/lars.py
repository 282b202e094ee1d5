"""Layer-wise adaptive rate scaling."""

from collections.abc import Sequence
from typing import Unpack

from keras import ops

from keras_optkit import _check, _match
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._moments import norm

EXCLUDE = ("bias", "beta", "gamma", "scale$")  # `scale` is that of RMSNormalization


@register
class LARS(Optimizer):
    """Momentum SGD that gives each layer a step in proportion to the size of its weights.

    With very large batches one learning rate is too large for the layers whose gradients are
    large against their weights and too small for the others. LARS measures that ratio, the
    trust ratio, and divides it out; at small batch sizes it has nothing to offer. With gradient
    `g`, norms over a whole weight tensor, and the weight decay of `Optimizer`:

    ```text
    trust = trust_coefficient |w| / (|g| + weight_decay |w| + epsilon),  1 if |w| or |g| is 0
    v = momentum v + learning_rate trust (g + weight_decay w)
    w = w - v                                        (nesterov: w = w - (momentum v + new term))
    ```

    Args:
        learning_rate: Step size before the trust ratio: a float, a `LearningRateSchedule` or a
            callable. Large, 1 to 30, with a warmup.
        momentum: Share of the last step that is taken again, in [0, 1).
        trust_coefficient: How far to trust a layer, above 0: the size of a step relative to the
            weight's at learning rate 1. `eta` in the paper.
        epsilon: Added to the denominator, in units of the gradient's norm; 0 or more.
        nesterov: Whether to take the momentum step ahead of the gradient.
        exclude: Patterns, as in `Group`, of weights that get neither the trust ratio nor decay:
            they train by momentum SGD at the raw learning rate. Biases, scales and normalization
            weights, unless said otherwise; `()` excludes none.
        **kwargs: Those of `Optimizer`; `weight_decay` is inside the rule here, not decoupled.

    Example:
        >>> model.compile(optimizer=keras_optkit.optimizers.LARS(2.0), loss="mse")

    Reference:
        [You et al., 2017](https://arxiv.org/abs/1708.03888), algorithm 1, where epsilon is 0.
        `optax.lars` has `|g + weight_decay w|` in the denominator.
    """

    slots = ("momentum",)

    def __init__(
        self,
        learning_rate: LearningRate = 1.0,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
        epsilon: float = 0.0,
        nesterov: bool = False,
        exclude: str | Sequence[str] = EXCLUDE,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.momentum = _check.in_range("momentum", momentum, 0, 1, closed="left")
        self.trust_coefficient = _check.in_range(
            "trust_coefficient", trust_coefficient, low=0, closed="neither"
        )
        self.epsilon = _check.in_range("epsilon", epsilon, low=0)
        self.nesterov = _check.flag("nesterov", nesterov)
        self.exclude = _check.patterns("exclude", exclude)

    def build(self, variables):
        if not self.built and self.exclude != EXCLUDE:
            _match.warn_unmatched("LARS", self.exclude, [_match.path(v) for v in variables])
        super().build(variables)

    def rule_for(self, variable):
        excluded = _match.matches(self.exclude, _match.path(variable))
        return self.update_excluded if excluded else self.update

    def update(self, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
        weight_norm, gradient_norm = norm(weight), norm(gradient)
        denominator = gradient_norm + self.epsilon
        if weight_decay is not None:
            denominator = denominator + weight_decay * weight_norm
            gradient = gradient + weight_decay * weight
        known = ops.logical_and(weight_norm > 0, gradient_norm > 0)
        trust = self.trust_coefficient * weight_norm / ops.where(known, denominator, 1)
        rate = learning_rate * ops.where(known, trust, 1)
        return self.update_excluded(gradient, weight, step, slots, rate, None)

    def update_excluded(self, gradient, weight, step, slots, learning_rate, weight_decay):
        """The rule at the raw learning rate and without decay: momentum SGD."""
        (velocity,) = slots
        velocity = self.momentum * velocity + learning_rate * gradient
        move = self.momentum * velocity + learning_rate * gradient if self.nesterov else velocity
        return weight - self.careful(move, gradient), (velocity,)
