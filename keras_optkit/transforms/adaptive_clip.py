"""Adaptive gradient clipping."""

import math
from collections.abc import Sequence

from keras import ops

from keras_optkit import _check, _match
from keras_optkit._registry import register
from keras_optkit.transforms._base import Transform
from keras_optkit.transforms._norms import clip, norms_for
from keras_optkit.transforms._units import unit_axes


@register
class AdaptiveClip(Transform):
    """Clips a gradient that is large next to its own weight, unit by unit.

    One threshold for a whole network is hard to choose: it must fit the layer with the smallest
    weights. AGC bounds the relative change of each unit, the weights that feed one output, so
    large batches and large learning rates train without batch normalization. With `G` the
    gradient and `W` the weights of a unit, and Euclidean norms:

    ```text
    limit = clipping * max(||W||, epsilon)
    G = G * limit / ||G||   if ||G|| > limit
    ```

    A unit is a column of a `Dense` kernel, a filter of a convolution, one spatial filter of a
    depthwise one, a row of an embedding; biases, scales and other weights of one axis are one
    unit each. A unit with a NaN or infinite gradient has no norm and stays as it is.

    Args:
        clipping: The largest allowed `||G|| / ||W||`, greater than 0. The paper uses 0.01 at
            batch size 4096 and tries up to 0.16; smaller batches bear larger values.
        epsilon: Least `||W||` to reckon with, so that a unit of zeros can move; greater than 0.
        exclude: Patterns for whole segments of the paths of weights to leave alone; the paper
            leaves the final classifier layer alone.

    Example:
        >>> clip = keras_optkit.transforms.AdaptiveClip(0.01, exclude="head")
        >>> optimizer = keras_optkit.optimizers.Transformed(keras.optimizers.SGD(0.1), [clip])

    Reference:
        [Brock et al., 2021](https://arxiv.org/abs/2102.06171), equation 3. As in its authors'
        code and `optax.adaptive_grad_clip`, a weight with at most one axis longer than 1 is one
        unit. Unlike `optax`, which goes by rank alone and so sums one axis of rank 3, four of
        rank 5, this class goes by the layouts of Keras: a `Conv1D` filter is over two axes, a
        bias of any rank is one unit, an embedding's units are its rows, and depthwise kernels,
        told by `depthwise`, `dwconv` or `conv_dw` in the name of the weight or its layer, have a
        unit per channel and multiplier. Kernels of `Conv2DTranspose` cannot be told from those
        of `Conv2D`; there a unit is an input channel.
    """

    def __init__(
        self,
        clipping: float = 0.01,
        epsilon: float = 1e-3,
        exclude: str | Sequence[str] | None = None,
    ):
        self.clipping = _check.in_range("clipping", clipping, low=0, closed="neither")
        self.epsilon = _check.in_range("epsilon", epsilon, low=0, closed="neither")
        self.exclude = _check.patterns("exclude", exclude)

    def __call__(self, gradients, variables, step):
        units = [self._units(variable) for variable in variables]
        groups = []
        for gradient, variable, axes in zip(gradients, variables, units, strict=True):
            if axes is not None:
                weight = ops.cast(ops.convert_to_tensor(variable), gradient.dtype)
                groups += [([weight], axes), ([gradient], axes)]
        norms = iter(norms_for(self.clipping * self.epsilon, groups) if groups else ())
        return [
            gradient if axes is None else self._clip(gradient, next(norms), next(norms))
            for gradient, axes in zip(gradients, units, strict=True)
        ]

    def _units(self, variable):
        """Returns the axes of a unit, or None where there is nothing to clip."""
        path, shape = _match.path(variable), tuple(variable.shape)
        if math.prod(shape) == 0 or _match.matches(self.exclude, path):
            return None
        one = sum(size > 1 for size in shape) <= 1
        return tuple(range(len(shape))) if one else unit_axes(path, len(shape))

    def _clip(self, gradient, weight_norm, gradient_norm):
        scale, ratio = weight_norm
        limit = self.clipping * ops.maximum(scale * ratio, self.epsilon)
        return clip(gradient, gradient_norm, limit)
