"""Rectified Adam."""

import itertools
import math
from typing import Unpack

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._moments import bias, mean


@register
class RAdam(Optimizer):
    """Adam that waits for its variance estimate before trusting it.

    Adam's first steps divide by a second moment estimated from a handful of gradients. RAdam
    knows how many gradients that estimate is worth, `rho`; while `rho` is small it takes plain
    momentum steps, then Adam's, scaled by a factor `r` that rises to 1. Try it where Adam needs
    a learning-rate warmup. With gradient `g`, `t = 1, 2, ...`, `rho_inf = 2 / (1 - beta_2) - 1`:

    ```text
    m = beta_1 m + (1 - beta_1) g                 m_hat = m / (1 - beta_1^t)
    v = beta_2 v + (1 - beta_2) g^2               v_hat = v / (1 - beta_2^t)
    rho = rho_inf - 2 t beta_2^t / (1 - beta_2^t)
    r = sqrt((rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho))
    w = w - learning_rate * (r m_hat / (sqrt(v_hat) + epsilon) if rho >= threshold else m_hat)
    ```

    Args:
        learning_rate: Step size: a float, a `LearningRateSchedule` or a callable.
        beta_1: Decay per step of the mean of gradients, in [0, 1).
        beta_2: Decay per step of the mean of squared gradients, in (0.6, 1).
        epsilon: Added to `sqrt(v_hat)`, so in units of the gradient; 0 or more.
        threshold: The `rho` to wait for, in [4, rho_inf); 5 is reached at step 6.
        **kwargs: Those of `Optimizer`; `weight_decay` is decoupled.

    Example:
        >>> model.compile(optimizer=keras_optkit.optimizers.RAdam(0.01), loss="mse")

    Reference:
        [Liu et al., 2020](https://arxiv.org/abs/1908.03265), algorithm 2, which rectifies when
        `rho > 4`; its authors' code and `optax.radam` wait for 5, and so does this class.
    """

    slots = ("momentum", "velocity")
    elementwise = True

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        threshold: float = 5.0,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed="left")
        self.beta_2 = _check.in_range("beta_2", beta_2, 0.6, 1, closed="neither")
        self.epsilon = _check.in_range("epsilon", epsilon, low=0)
        rho_inf = 2 / (1 - self.beta_2) - 1
        self.threshold = _check.in_range("threshold", threshold, 4, rho_inf, closed="left")
        # Here, in Python's float64: in float32 `rho` can pass the threshold a step too early.
        log = math.log(self.beta_2)
        rho = (rho_inf - 2 * t / math.expm1(-t * log) for t in itertools.count(1))
        self._wait = next(t for t, value in enumerate(rho, 1) if value >= self.threshold)

    def factors(self, step):
        rho_inf = 2 / (1 - self.beta_2) - 1
        rho = ops.maximum(self._rho(step), 4)  # keeps the root real
        r = ops.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        return r, bias(self.beta_1, step), bias(self.beta_2, step)

    def direction(self, gradient, weight, step, slots, *shared):
        (r, m_bias, v_bias), (momentum, velocity) = shared, slots
        momentum = mean(momentum, gradient, self.beta_1)
        velocity = mean(velocity, ops.square(gradient), self.beta_2)
        m_hat, v_hat = momentum / m_bias, velocity / v_bias
        adam = r * m_hat / (ops.sqrt(v_hat) + self.epsilon)
        return ops.where(step >= self._wait, adam, m_hat), (momentum, velocity)

    def _rho(self, step):
        """Returns `rho`, with `x = -t log(beta_2)` and `f = 1 - x / expm1(x)` by its series.

        Early on, the formula as it stands subtracts two large numbers and keeps no digits.
        """
        scale = -2 / math.log(self.beta_2)
        x = step * (2 / scale)
        s = ops.minimum(x, 0.5)
        series = s * (1 / 2 - s * (1 / 12 - s * s * (1 / 720 - s * s / 30240)))
        f = ops.where(x < 0.5, series, 1 - x / ops.expm1(x))
        return (2 / (1 - self.beta_2) - 1 - scale) + scale * f
