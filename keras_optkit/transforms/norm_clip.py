"""Clipping by the norm of each gradient."""

import math

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.transforms._base import Transform
from keras_optkit.transforms._norms import clip, filled, norms_for


@register
class NormClip(Transform):
    """Keeps the gradient of each weight no longer than `max_norm`, and its direction.

    One layer that explodes does not shrink the steps of the others, as it would with
    `GlobalNormClip`; in return the direction of the whole step changes. With `n` the Euclidean
    norm of one weight's gradient `g`:

    ```text
    g = g * min(1, max_norm / n)
    ```

    A gradient with a NaN or infinite entry has no norm and stays as it is, so that loss scaling
    sees it, or a `ZeroNonFinite` placed before removes it.

    Args:
        max_norm: Largest norm, in units of the gradient; greater than 0.

    Example:
        >>> clip = keras_optkit.transforms.NormClip(1.0)
        >>> optimizer = keras_optkit.optimizers.Transformed(keras.optimizers.SGD(0.1), [clip])

    Reference:
        [Pascanu et al., 2013](https://arxiv.org/abs/1211.5063), algorithm 1, applied to each
        weight by itself, as `clipnorm` of Keras' optimizers.
    """

    def __init__(self, max_norm: float):
        self.max_norm = _check.in_range("max_norm", max_norm, low=0, closed="neither")

    def __call__(self, gradients, variables, step):
        entries = filled(gradients, variables)
        if not entries:
            return list(gradients)
        norms = iter(norms_for(self.max_norm, [([gradient], None) for gradient in entries]))
        return [
            clip(g, next(norms), self.max_norm) if math.prod(v.shape) else g
            for g, v in zip(gradients, variables, strict=True)
        ]
