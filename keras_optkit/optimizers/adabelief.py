"""AdaBelief."""

from typing import Unpack

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._moments import bias, mean


@register
class AdaBelief(Optimizer):
    """Adam that takes large steps where gradients are as expected, small ones where they surprise.

    Adam divides by the size of the gradients; AdaBelief by how far they lie from their own mean,
    the belief. Where gradients are large but steady it goes fast, where Adam would hold back.
    With gradient `g`, `t = 1, 2, ...`:

    ```text
    m = beta_1 m + (1 - beta_1) g                          m_hat = m / (1 - beta_1^t)
    s = beta_2 s + (1 - beta_2) (g - m)^2 + epsilon        s_hat = s / (1 - beta_2^t)
    w = w - learning_rate * m_hat / (sqrt(s_hat) + epsilon)
    ```

    Args:
        learning_rate: Step size: a float, a `LearningRateSchedule` or a callable.
        beta_1: Decay per step of the mean of gradients, in [0, 1).
        beta_2: Decay per step of the mean of squared surprises, in [0, 1).
        epsilon: Added to `s` in each step, in units of the squared gradient, and to
            `sqrt(s_hat)`; above 0, as `s` is 0 for a constant gradient. Much smaller than
            Adam's; 1e-8 makes it slow, like SGD.
        **kwargs: Those of `Optimizer`; `weight_decay` is decoupled.

    Example:
        >>> model.compile(optimizer=keras_optkit.optimizers.AdaBelief(0.01), loss="mse")

    Reference:
        [Zhuang et al., 2020](https://arxiv.org/abs/2010.07468), algorithm 2.
    """

    slots = ("momentum", "velocity")
    elementwise = True

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-16,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed="left")
        self.beta_2 = _check.in_range("beta_2", beta_2, 0, 1, closed="left")
        self.epsilon = _check.in_range("epsilon", epsilon, low=0, closed="neither")

    def direction(self, gradient, weight, step, slots):
        momentum, velocity = slots
        momentum = mean(momentum, gradient, self.beta_1)
        surprise = (1 - self.beta_2) * ops.square(gradient - momentum) + self.epsilon
        velocity = self.beta_2 * velocity + surprise
        m_hat = momentum / bias(self.beta_1, step)
        s_hat = velocity / bias(self.beta_2, step)
        return m_hat / (ops.sqrt(s_hat) + self.epsilon), (momentum, velocity)
