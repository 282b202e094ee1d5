"""Adan."""

from typing import Unpack

from keras import ops

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._moments import bias, mean


@register
class Adan(Optimizer):
    """Adam with Nesterov momentum, got from the change of the gradient.

    Nesterov's momentum looks at the gradient ahead; Adan estimates it from how the gradient has
    changed since the last step. It bears learning rates 5 to 10 times Adam's, and keeps four
    slots for each weight. With gradient `g`, the one before `g'` (`g' = g` in the first step),
    `t = 1, 2, ...`, and hats for division by `1 - beta^t`:

    ```text
    m = beta_1 m + (1 - beta_1) g
    d = beta_2 d + (1 - beta_2) (g - g')
    n = beta_3 n + (1 - beta_3) (g + beta_2 (g - g'))^2
    w = (w - learning_rate * (m_hat + beta_2 d_hat) / (sqrt(n_hat) + epsilon))
        / (1 + learning_rate * weight_decay)
    ```

    Args:
        learning_rate: Step size: a float, a `LearningRateSchedule` or a callable.
        beta_1: Decay per step of the mean of gradients, in [0, 1).
        beta_2: Decay per step of the mean of their changes, in [0, 1).
        beta_3: Decay per step of the mean of squares, in [0, 1).
        epsilon: Added to `sqrt(n_hat)`, so in units of the gradient; above 0.
        **kwargs: Those of `Optimizer`; `weight_decay` divides, as above.

    Example:
        >>> model.compile(optimizer=keras_optkit.optimizers.Adan(0.01), loss="mse")

    Reference:
        [Xie et al., 2022](https://arxiv.org/abs/2208.06677), algorithm 1, whose betas are one
        minus these, and which leaves out the bias correction that its authors' code has.
        `optax.adan` decays as AdamW does.
    """

    slots = ("momentum", "difference", "velocity", "previous_gradient")
    elementwise = True

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.98,
        beta_2: float = 0.92,
        beta_3: float = 0.99,
        epsilon: float = 1e-8,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed="left")
        self.beta_2 = _check.in_range("beta_2", beta_2, 0, 1, closed="left")
        self.beta_3 = _check.in_range("beta_3", beta_3, 0, 1, closed="left")
        self.epsilon = _check.in_range("epsilon", epsilon, low=0, closed="neither")

    def direction(self, gradient, weight, step, slots):
        momentum, difference, velocity, previous = slots
        change = ops.where(step == 1, 0.0, gradient - previous)
        momentum = mean(momentum, gradient, self.beta_1)
        difference = mean(difference, change, self.beta_2)
        velocity = mean(velocity, ops.square(gradient + self.beta_2 * change), self.beta_3)
        m_hat = momentum / bias(self.beta_1, step)
        d_hat = difference / bias(self.beta_2, step)
        n_hat = velocity / bias(self.beta_3, step)
        ahead = m_hat + self.beta_2 * d_hat
        previous = _backend.behind(gradient, difference, velocity)
        slots = momentum, difference, velocity, previous
        return ahead / (ops.sqrt(n_hat) + self.epsilon), slots

    def update(self, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
        direction, slots = self.direction(gradient, weight, step, slots)
        weight = weight - learning_rate * self.careful(direction, gradient)
        return weight if weight_decay is None else weight / (
            1 + learning_rate * weight_decay
        ), slots
