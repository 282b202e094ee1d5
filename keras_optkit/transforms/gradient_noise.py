"""Annealed gradient noise."""

import math

from keras import ops

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.transforms._base import Transform


@register
class GradientNoise(Transform):
    """Adds Gaussian noise that fades, to get very deep networks off the ground.

    Early noise shakes training out of poor starting points and saddles; later steps are left
    almost alone. The noise is a function of the seed, the weight and the step, so runs repeat
    and a resumed run goes on as if never interrupted. With `t = 0, 1, ...`:

    ```text
    g = g + N(0, eta / (1 + t)^gamma)
    ```

    Args:
        eta: Variance of the noise in the first step, in squared units of the gradient; 0 or
            more. The paper chooses among 0.01, 0.3 and 1.
        gamma: How fast the variance falls, 0 or more; at 0 it stays.
        seed: Whole number from 0 to 2**31 - 1. Give two of these transforms different seeds;
            else both draw the same noise. The noise differs between backends.

    Example:
        >>> noise = keras_optkit.transforms.GradientNoise(0.01, seed=1)
        >>> optimizer = keras_optkit.optimizers.Transformed(keras.optimizers.SGD(0.1), [noise])

    Reference:
        [Neelakantan et al., 2015](https://arxiv.org/abs/1511.06807), equation 1. A weight is
        known by its place among the trainable weights, not by its name. Noise makes zero
        gradients nonzero, so every row of an embedding moves.
    """

    def __init__(self, eta: float = 0.01, gamma: float = 0.55, seed: int = 0):
        self.eta = _check.in_range("eta", eta, low=0)
        self.gamma = _check.in_range("gamma", gamma, low=0)
        self.seed = _check.integer("seed", seed, low=0)
        _check.in_range("seed", seed, 0, 2**31 - 1)

    def __call__(self, gradients, variables, step):
        stddev = math.sqrt(self.eta) * ops.power(ops.cast(step, "float32"), -self.gamma / 2)
        noises = [
            _backend.seeded_normal(tuple(variable.shape), self.seed, index, step)
            for index, variable in enumerate(variables)
        ]
        return [g + ops.cast(stddev * n, g.dtype) for g, n in zip(gradients, noises, strict=True)]
