"""NovoGrad."""

from typing import Unpack

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._moments import mean


@register
class NovoGrad(Optimizer):
    """Momentum SGD on gradients that each layer divides by their usual size.

    Adam's second moments, but one number for a layer in place of one for each entry, so it needs
    half of Adam's memory. With gradient `g`, norms over a whole weight tensor, `t = 1, 2, ...`:

    ```text
    v = |g|^2                                  in the first step, and while v is 0
    v = beta_2 v + (1 - beta_2) |g|^2          afterwards
    m = beta_1 m + g / (sqrt(v) + epsilon) + weight_decay w
    w = w - learning_rate * m
    ```

    Args:
        learning_rate: Step size: a float, a `LearningRateSchedule` or a callable.
        beta_1: Share of the last step that is taken again, in [0, 1).
        beta_2: Decay per step of the mean of squared norms, in [0, 1).
        epsilon: Added to `sqrt(v)`, so in units of the gradient's norm; above 0.
        **kwargs: Those of `Optimizer`; `weight_decay` is inside the momentum here, not decoupled,
            so `cautious` leaves it out too.

    Example:
        >>> model.compile(optimizer=keras_optkit.optimizers.NovoGrad(0.01), loss="mse")

    Reference:
        [Ginsburg et al., 2019](https://arxiv.org/abs/1905.11286), algorithm 1.
    """

    slots = ("momentum", "velocity")

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        beta_1: float = 0.95,
        beta_2: float = 0.98,
        epsilon: float = 1e-8,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed="left")
        self.beta_2 = _check.in_range("beta_2", beta_2, 0, 1, closed="left")
        self.epsilon = _check.in_range("epsilon", epsilon, low=0, closed="neither")

    def slot_shapes(self, variable):
        return {"momentum": variable.shape, "velocity": ()}

    def update(self, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
        momentum, velocity = slots
        square = ops.sum(ops.square(gradient))
        velocity = ops.where(velocity == 0, square, mean(velocity, square, self.beta_2))
        scaled = gradient * (1 / (ops.sqrt(velocity) + self.epsilon))
        if weight_decay is not None:
            scaled = scaled + weight_decay * weight
        momentum = self.beta_1 * momentum + scaled
        move = learning_rate * self.careful(momentum, gradient)
        return weight - move, (momentum, velocity)
