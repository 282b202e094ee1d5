"""Schedule-free AdamW."""

from typing import Unpack

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._moments import bias, mean
from keras_optkit.optimizers._schedule_free import ScheduleFree


@register
class ScheduleFreeAdamW(ScheduleFree):
    """AdamW that needs no learning-rate schedule, and so no fixed end of training.

    It averages its steps as it goes, and takes gradients between the average and the steps, so
    the average is as good at any time as a decayed learning rate would have made it by then.
    With gradient `g` at `y`, `t = 1, 2, ...`, and `z = x = y = w` at the start:

    ```text
    v = beta_2 v + (1 - beta_2) g^2               d = g / (sqrt(v / (1 - beta_2^t)) + epsilon)
    z = z - learning_rate * (d + weight_decay y)
    c = a_t / (a_1 + ... + a_t),  a_t = t^weight_power (largest learning_rate so far)^2
    x = (1 - c) x + c z
    y = (1 - beta_1) z + beta_1 x
    ```

    During `fit` the model holds `y`, where gradients are taken; after it, `x`, which is what to
    evaluate, predict with and save. To have `x` in validation and checkpoints during `fit` too,
    and for later calls of `fit`, add `callbacks.SwapAveragedWeights()`, first in the list. A
    model with BatchNormalization needs `recalibrate_batchnorm` to be evaluated at `x`.

    Args:
        learning_rate: Step size: a float, or `schedules.Warmup` of one. A schedule that decays
            gives a warning. Usually larger than AdamW's, 1 to 10 times.
        beta_1: Share of the average in the point where gradients are taken, in (0, 1).
        beta_2: Decay per step of the mean of squared gradients, in [0, 1).
        epsilon: Added to `sqrt(v_hat)`, so in units of the gradient; above 0.
        weight_power: Weight of later steps in the average, `r` in the paper's appendix, in
            [0, 4].
        **kwargs: Those of `Optimizer`, but for `use_ema` and `cautious`; `weight_decay` is
            decoupled, at `y`.

    Example:
        >>> rate = keras_optkit.schedules.Warmup(0.005, steps=100)
        >>> optimizer = keras_optkit.optimizers.ScheduleFreeAdamW(rate, weight_decay=0.01)
        >>> model.compile(optimizer=optimizer, loss="mse")

    Reference:
        [Defazio et al., 2024](https://arxiv.org/abs/2405.15682), algorithm 1, with the weights
        of the average as in its authors' package `schedulefree`.
    """

    slots = ("velocity", "ahead")
    elementwise = True

    def __init__(
        self,
        learning_rate: LearningRate = 0.0025,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_power: float = 0.0,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, beta_1, weight_power, **kwargs)
        self.beta_2 = _check.in_range("beta_2", beta_2, 0, 1, closed="left")
        self.epsilon = _check.in_range("epsilon", epsilon, low=0, closed="neither")

    def update(self, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
        velocity, ahead = slots
        velocity = mean(velocity, ops.square(gradient), self.beta_2)
        v_bias = bias(self.beta_2, step)
        weight, ahead = self.move(
            lambda velocity: gradient / (ops.sqrt(velocity / v_bias) + self.epsilon),
            *(velocity, weight, ahead, shared, learning_rate, weight_decay),
        )
        return weight, (velocity, ahead)
