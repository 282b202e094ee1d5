"""Yogi."""

from typing import Unpack

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._moments import bias, mean


@register
class Yogi(Optimizer):
    """Adam whose step sizes grow no faster than they shrink.

    Adam's `v` forgets large gradients at a rate in proportion to itself, so after a rare large
    gradient the step size can jump up again. Yogi's `v` moves by `(1 - beta_2) g^2` at most, up
    or down. Try it on sparse gradients. With gradient `g`, `t = 1, 2, ...`, and `v` starting at
    `initial_accumulator`:

    ```text
    m = beta_1 m + (1 - beta_1) g                          m_hat = m / (1 - beta_1^t)
    v = v - (1 - beta_2) sign(v - g^2) g^2                 v_hat = v / (1 - beta_2^t)
    w = w - learning_rate * m_hat / (sqrt(v_hat) + epsilon)
    ```

    Args:
        learning_rate: Step size: a float, a `LearningRateSchedule` or a callable.
        beta_1: Decay per step of the mean of gradients, in [0, 1).
        beta_2: `1 - beta_2` is how much of `g^2` is added to or taken from `v`; in [0, 1).
        epsilon: Added to `sqrt(v_hat)`, so in units of the gradient; above 0. Larger than
            Adam's.
        initial_accumulator: What `v` starts at, in units of the squared gradient; 0 or more.
        **kwargs: Those of `Optimizer`; `weight_decay` is decoupled.

    Example:
        >>> model.compile(optimizer=keras_optkit.optimizers.Yogi(0.01), loss="mse")

    Reference:
        [Zaheer et al., 2018](https://papers.nips.cc/paper/8186), algorithm 2, which leaves out
        Adam's bias correction; as other implementations do, this class has it. `optax.yogi`
        starts `m` at `initial_accumulator` too.
    """

    slots = ("momentum", "velocity")
    elementwise = True

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-3,
        initial_accumulator: float = 1e-6,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed="left")
        self.beta_2 = _check.in_range("beta_2", beta_2, 0, 1, closed="left")
        self.epsilon = _check.in_range("epsilon", epsilon, low=0, closed="neither")
        self.initial_accumulator = _check.in_range(
            "initial_accumulator", initial_accumulator, low=0
        )

    def direction(self, gradient, weight, step, slots):
        momentum, velocity = slots
        velocity = ops.where(step == 1, self.initial_accumulator, velocity)
        square = ops.square(gradient)
        momentum = mean(momentum, gradient, self.beta_1)
        velocity = velocity - (1 - self.beta_2) * ops.sign(velocity - square) * square
        m_hat = momentum / bias(self.beta_1, step)
        v_hat = velocity / bias(self.beta_2, step)
        return m_hat / (ops.sqrt(v_hat) + self.epsilon), (momentum, velocity)
