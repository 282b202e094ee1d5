"""AdEMAMix."""

import math
from typing import Unpack

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs, count
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._moments import bias, mean


@register
class AdEMAMix(Optimizer):
    """Adam with a second, slow mean of gradients that remembers thousands of steps.

    Old gradients still help on long runs, but one mean cannot be both quick to react and long
    in memory. AdEMAMix adds a slow one, whose share `alpha` and decay `beta_3` rise over the
    first steps, since a mean that remembers everything is of little use at the start. With
    gradient `g`, `t = 1, 2, ...`, `T` the warmup's steps and hats for division by `1 - beta^t`:

    ```text
    m = beta_1 m + (1 - beta_1) g
    s = b s + (1 - b) g                                    (no bias correction)
    v = beta_2 v + (1 - beta_2) g^2
    w = w - learning_rate * (m_hat + a s) / (sqrt(v_hat) + epsilon)

    a = alpha min(t / T, 1)
    b = exp(log(beta_1) log(beta_3) / ((1 - x) log(beta_3) + x log(beta_1))),  x = min(t / T, 1)
    ```

    `b` rises from `beta_1` to `beta_3` so that its half-life grows linearly.

    Args:
        learning_rate: Step size: a float, a `LearningRateSchedule` or a callable.
        beta_1: Decay per step of the fast mean, in [0, 1); in (0, 1) with a warmup of `beta_3`.
        beta_2: Decay per step of the mean of squared gradients, in [0, 1).
        beta_3: Decay per step of the slow mean, in [0, 1), and at least `beta_1`.
        alpha: Weight of the slow mean, 0 or more; 4 to 10 is usual.
        epsilon: Added to `sqrt(v_hat)`, so in units of the gradient; above 0.
        alpha_warmup: Updates over which `alpha` rises; None for none. The paper takes the whole
            training for this and the next.
        beta_3_warmup: Updates over which `beta_3` rises; None for none.
        **kwargs: Those of `Optimizer`; `weight_decay` is decoupled.

    Example:
        >>> optimizer = keras_optkit.optimizers.AdEMAMix(1e-3, alpha_warmup=100, beta_3_warmup=100)
        >>> model.compile(optimizer=optimizer, loss="mse")

    Reference:
        [Pagliardini et al., 2024](https://arxiv.org/abs/2409.03137), algorithm 1 and the
        schedulers of section 3.
    """

    slots = ("momentum", "slow_momentum", "velocity")
    elementwise = True

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        beta_3: float = 0.9999,
        alpha: float = 5.0,
        epsilon: float = 1e-8,
        alpha_warmup: int | None = None,
        beta_3_warmup: int | None = None,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.alpha_warmup = count("alpha_warmup", alpha_warmup, 1)
        self.beta_3_warmup = count("beta_3_warmup", beta_3_warmup, 1)
        closed = "neither" if beta_3_warmup else "left"
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed=closed)
        self.beta_2 = _check.in_range("beta_2", beta_2, 0, 1, closed="left")
        self.beta_3 = _check.in_range("beta_3", beta_3, self.beta_1, 1, closed="left")
        self.alpha = _check.in_range("alpha", alpha, low=0)
        self.epsilon = _check.in_range("epsilon", epsilon, low=0, closed="neither")

    def direction(self, gradient, weight, step, slots):
        momentum, slow, velocity = slots
        momentum = mean(momentum, gradient, self.beta_1)
        slow = self._slow(slow, gradient, step)
        velocity = mean(velocity, ops.square(gradient), self.beta_2)
        m_hat = momentum / bias(self.beta_1, step)
        v_hat = velocity / bias(self.beta_2, step)
        alpha = self.alpha
        if self.alpha_warmup:
            alpha = alpha * ops.minimum(step / self.alpha_warmup, 1)
        mixed = m_hat + alpha * slow
        return mixed / (ops.sqrt(v_hat) + self.epsilon), (momentum, slow, velocity)

    def _slow(self, slow, gradient, step):
        if not self.beta_3_warmup:
            return mean(slow, gradient, self.beta_3)
        x = ops.minimum(step / self.beta_3_warmup, 1)
        fast, last = math.log(self.beta_1), math.log(self.beta_3)
        log = fast * last / ((1 - x) * last + x * fast)
        # Not `1 - exp(log)`, which has lost its digits for a beta near 1.
        return ops.exp(log) * slow - ops.expm1(log) * gradient
