"""Prodigy."""

from typing import Unpack

from keras import ops

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._moments import bias, mean


@register
class Prodigy(Optimizer):
    """Adam that finds its learning rate by itself.

    It estimates `d`, how far the start is from a solution, from how gradients line up with the
    way gone so far, and multiplies the learning rate by it. Leave `learning_rate` at 1, or give
    a schedule that starts there. With gradient `g`, the start weight `x_0`, sums `<,>` and `| |_1`
    over all weights of the model, `t = 1, 2, ...`, and
    `rate = learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t)`, or `learning_rate` without
    `bias_correction`:

    ```text
    m = beta_1 m + (1 - beta_1) d g
    v = beta_2 v + (1 - beta_2) d^2 g^2
    r = beta_3 r + d rate <g, x_0 - w> d / d_0
    s = beta_3 s + d rate g d / d_0
    w = w - d rate (m / (sqrt(v) + d epsilon) + weight_decay w)
    d = max(d, growth r / |s|_1)
    ```

    Args:
        learning_rate: Factor of the estimate: 1, or a `LearningRateSchedule` or a callable.
        beta_1: Decay per step of the mean of gradients, in [0, 1).
        beta_2: Decay per step of the mean of squared gradients, in [0, 1).
        beta_3: Decay per step of what `d` is estimated from, in [0, 1); None for `sqrt(beta_2)`.
        epsilon: Added to `sqrt(v) / d`, so in units of the gradient; 0 or more.
        initial_estimate: What `d` starts at, `d_0`; too small rather than too large; above 0.
        growth: Factor of new estimates, above 0; more than 1 for larger steps.
        bias_correction: Whether to correct the means' bias as Adam does.
        **kwargs: Those of `Optimizer`; `weight_decay` is decoupled. The `lr_multiplier` of a
            group must be 1, as there is one estimate for all.

    Example:
        >>> model.compile(optimizer=keras_optkit.optimizers.Prodigy(), loss="mse")

    Reference:
        [Mishchenko and Defazio, 2023](https://arxiv.org/abs/2306.06101), algorithm 4,
        without the factors `(1 - beta_3)` and `d_0` of `r` and `s`, which cancel. Its authors' code
        and `optax.contrib.prodigy` have the new `d` beside epsilon. `x_0 - w` is the sum of the
        steps here, so what a constraint does is not part of it.
    """

    slots = ("momentum", "velocity", "way", "sum")
    scalars = {"estimate": 0.0, "numerator": 0.0}  # noqa: RUF012
    elementwise = True

    def __init__(
        self,
        learning_rate: LearningRate = 1.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        beta_3: float | None = None,
        epsilon: float = 1e-8,
        initial_estimate: float = 1e-6,
        growth: float = 1.0,
        bias_correction: bool = False,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed="left")
        self.beta_2 = _check.in_range("beta_2", beta_2, 0, 1, closed="left")
        self.beta_3 = (
            None if beta_3 is None else _check.in_range("beta_3", beta_3, 0, 1, closed="left")
        )
        self.epsilon = _check.in_range("epsilon", epsilon, low=0)
        self.initial_estimate = _check.in_range(
            "initial_estimate", initial_estimate, low=0, closed="neither"
        )
        self.growth = _check.in_range("growth", growth, low=0, closed="neither")
        self.bias_correction = _check.flag("bias_correction", bias_correction)
        for group in self.groups:
            if group.lr_multiplier != 1:
                raise ValueError(
                    "The `lr_multiplier` of a group must be 1 for Prodigy, which estimates one "
                    "learning rate for all weights. To leave weights alone, use frozen=True. "
                    f"{_check.received('groups', group)}"
                )

    def prepare(self, gradients, weights, step, slots, scalars, learning_rate):
        d, numerator = scalars
        d = ops.where(step == 1, self.initial_estimate, d)
        rate = d * self._rate(step, learning_rate)
        beta = self._beta_3()
        along, size = 0.0, 0.0
        for gradient, (_, _, way, total) in zip(gradients, slots, strict=True):
            along = along + ops.cast(ops.sum(gradient * way), "float32")
            total = beta * total + rate * (d / self.initial_estimate) * gradient
            size = size + ops.cast(ops.sum(ops.abs(total)), "float32")
        numerator = beta * numerator + rate * (d / self.initial_estimate) * along
        estimate = self.growth * numerator / ops.where(size > 0, size, 1)
        return (d, numerator), (ops.maximum(d, estimate), numerator)

    def update(self, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
        d, numerator = shared
        momentum, velocity, way, total = slots
        rate = d * self._rate(step, learning_rate)
        momentum = mean(momentum, d * gradient, self.beta_1)
        velocity = mean(velocity, ops.square(d * gradient), self.beta_2)
        total = self._beta_3() * total + rate * (d / self.initial_estimate) * gradient

        def step_from(momentum, velocity):
            divisor = ops.sqrt(velocity) + d * self.epsilon
            direction = self.careful(momentum / ops.where(divisor > 0, divisor, 1), gradient)
            if weight_decay is not None:
                direction = direction + weight_decay * weight
            return rate * direction

        # Steps added up: far more exact than `x_0 - w`, whose digits are those of the weight.
        way = _backend.behind(way, numerator) + step_from(momentum, velocity)
        weight = weight - step_from(momentum, _backend.behind(velocity, way))
        return weight, (momentum, velocity, way, total)

    def _beta_3(self):
        return self.beta_2**0.5 if self.beta_3 is None else self.beta_3

    def _rate(self, step, learning_rate):
        if not self.bias_correction:
            return learning_rate
        correction = ops.sqrt(bias(self.beta_2, step)) / bias(self.beta_1, step)
        return learning_rate * correction
