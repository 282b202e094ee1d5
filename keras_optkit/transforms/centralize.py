"""Gradient centralization."""

import math
from collections.abc import Sequence

from keras import ops

from keras_optkit import _check, _match
from keras_optkit._registry import register
from keras_optkit.transforms._base import Transform
from keras_optkit.transforms._units import is_embedding, unit_axes


@register
class Centralize(Transform):
    """Takes the mean out of the gradient of each unit of a kernel.

    It keeps the mean of the weights that feed one output where it began, a mild regularizer
    that smooths training and often generalizes a little better, at next to no cost. With `g` the
    gradient of one unit, such as a column of a `Dense` kernel or a filter of a convolution:

    ```text
    g = g - mean(g)
    ```

    Weights of rank 0 and 1 and biases are left alone. So are embeddings, where a mean over rows
    would move the rows that were not looked up, and units of a single entry, which could not
    move at all: the kernel of a `Dense` layer with one input. A unit with a NaN or infinite
    gradient has no mean and stays as it is.

    Args:
        exclude: Patterns for whole segments of the paths of weights to leave alone.

    Example:
        >>> centralize = keras_optkit.transforms.Centralize(exclude="head")
        >>> sgd = keras.optimizers.SGD(0.1)
        >>> optimizer = keras_optkit.optimizers.Transformed(sgd, [centralize])

    Reference:
        [Yong et al., 2020](https://arxiv.org/abs/2004.01461), equation 1. The mean is over all
        axes but the last, except where the layout of Keras differs: over all but the last two
        for depthwise kernels, as in the authors' code, and over the first for the query, key and
        value kernels of attention layers. `optax.centralize` has outputs on the first axis, so
        is the paper's only for transposed kernels.
    """

    def __init__(self, exclude: str | Sequence[str] | None = None):
        self.exclude = _check.patterns("exclude", exclude)

    def __call__(self, gradients, variables, step):
        return [self._centralize(g, v) for g, v in zip(gradients, variables, strict=True)]

    def _centralize(self, gradient, variable):
        path, shape = _match.path(variable), tuple(variable.shape)
        axes = unit_axes(path, len(shape))
        alone = len(axes) == len(shape) or math.prod(shape[axis] for axis in axes) <= 1
        if alone or is_embedding(path) or _match.matches(self.exclude, path):
            return gradient
        mean = ops.mean(gradient, axis=axes, keepdims=True)
        return gradient - ops.where(ops.isfinite(mean), mean, 0.0)
