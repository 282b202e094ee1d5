"""ADOPT."""

from typing import Unpack

from keras import ops

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._moments import mean


@register
class ADOPT(Optimizer):
    """Adam that converges for any `beta_2`.

    Adam divides a gradient by a mean that holds its own square, and can diverge for it unless
    `beta_2` suits the problem. ADOPT divides by the mean of the squares before, and takes the
    momentum afterwards. With gradient `g` and `t = 1, 2, ...`:

    ```text
    t = 1:    v = g^2                                      (w stays)
    t > 1:    c = clip(g / max(sqrt(v), epsilon), (t - 1)^clip_power)
              m = beta_1 m + (1 - beta_1) c
              w = w - learning_rate * m
              v = beta_2 v + (1 - beta_2) g^2
    ```

    Args:
        learning_rate: Step size: a float, a `LearningRateSchedule` or a callable.
        beta_1: Decay per step of the mean of scaled gradients, in [0, 1).
        beta_2: Decay per step of the mean of squared gradients, in [0, 1).
        epsilon: Least divisor, in units of the gradient; above 0.
        clip_power: The scaled gradient is clipped to at most the number of steps so far to this
            power, 0 or more; None does not clip.
        **kwargs: Those of `Optimizer`; `weight_decay` is decoupled.

    Example:
        >>> model.compile(optimizer=keras_optkit.optimizers.ADOPT(0.01), loss="mse")

    Reference:
        [Taniguchi et al., 2024](https://arxiv.org/abs/2411.02853), algorithm 2 with the clipping
        of its third version. Decoupled decay, not in the paper, acts in the first step too.
    """

    slots = ("momentum", "velocity")
    elementwise = True

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.9999,
        epsilon: float = 1e-6,
        clip_power: float | None = 0.25,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed="left")
        self.beta_2 = _check.in_range("beta_2", beta_2, 0, 1, closed="left")
        self.epsilon = _check.in_range("epsilon", epsilon, low=0, closed="neither")
        self.clip_power = (
            None if clip_power is None else _check.in_range("clip_power", clip_power, low=0)
        )

    def direction(self, gradient, weight, step, slots):
        momentum, velocity = slots
        first = step == 1
        scaled = gradient / ops.maximum(ops.sqrt(velocity), self.epsilon)
        if self.clip_power is not None:
            limit = ops.power(ops.maximum(step - 1, 1), self.clip_power)
            scaled = ops.maximum(ops.minimum(scaled, limit), -limit)
        momentum = ops.where(first, momentum, mean(momentum, scaled, self.beta_1))
        square = ops.square(gradient)
        velocity = ops.where(first, square, mean(velocity, square, self.beta_2))
        return momentum, (momentum, _backend.behind(velocity, momentum))
