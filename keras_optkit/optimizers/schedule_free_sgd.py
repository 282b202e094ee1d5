"""Schedule-free SGD."""

from typing import Unpack

from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._schedule_free import ScheduleFree


@register
class ScheduleFreeSGD(ScheduleFree):
    """SGD that needs no learning-rate schedule, and so no fixed end of training.

    The averaging of `ScheduleFreeAdamW`, which says how to evaluate, around plain SGD; it takes
    the place of momentum. With gradient `g` at `y`, `t = 1, 2, ...`, and `z = x = y = w` at the
    start:

    ```text
    z = z - learning_rate * (g + weight_decay y)
    c = a_t / (a_1 + ... + a_t),  a_t = t^weight_power (largest learning_rate so far)^2
    x = (1 - c) x + c z
    y = (1 - beta_1) z + beta_1 x
    ```

    Args:
        learning_rate: Step size: a float, or `schedules.Warmup` of one. A schedule that decays
            gives a warning. Usually larger than that of SGD with momentum, 10 to 50 times.
        beta_1: Share of the average in the point where gradients are taken, in (0, 1).
        weight_power: Weight of later steps in the average, `r` in the paper's appendix, in
            [0, 4].
        **kwargs: Those of `Optimizer`, but for `use_ema` and `cautious`; `weight_decay` is at
            `y`.

    Example:
        >>> model.compile(optimizer=keras_optkit.optimizers.ScheduleFreeSGD(1.0), loss="mse")

    Reference:
        [Defazio et al., 2024](https://arxiv.org/abs/2405.15682), equations 3 to 5, with the
        weights of the average as in its authors' package `schedulefree`.
    """

    slots = ("ahead",)
    elementwise = True

    def __init__(
        self,
        learning_rate: LearningRate = 1.0,
        beta_1: float = 0.9,
        weight_power: float = 0.0,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, beta_1, weight_power, **kwargs)

    def update(self, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
        (ahead,) = slots
        weight, ahead = self.move(
            lambda gradient: gradient,
            *(gradient, weight, ahead, shared, learning_rate, weight_decay),
        )
        return weight, (ahead,)
