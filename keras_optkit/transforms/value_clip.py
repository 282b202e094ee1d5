"""Clipping of single entries."""

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.transforms._base import Transform


@register
class ValueClip(Transform):
    """Keeps each entry of the gradients within `-limit` and `limit`.

    Cheap and blunt: it bounds single entries and needs no norm, but turns the direction of the
    step towards the corners of the box. Prefer `GlobalNormClip` unless a recipe asks for this.

    ```text
    g = max(-limit, min(limit, g))
    ```

    NaN and infinite entries stay as they are, so that loss scaling sees them, or a
    `ZeroNonFinite` placed before removes them.

    Args:
        limit: Largest absolute value of an entry, in units of the gradient; greater than 0.

    Example:
        >>> clip = keras_optkit.transforms.ValueClip(0.5)
        >>> optimizer = keras_optkit.optimizers.Transformed(keras.optimizers.SGD(0.1), [clip])

    Reference:
        Mikolov's thesis of 2012, as told by [Pascanu et al., 2013](https://arxiv.org/abs/1211.5063).
        `clipvalue` of Keras' optimizers and `optax.clip` turn an infinite entry into `limit`.
    """

    def __init__(self, limit: float):
        self.limit = _check.in_range("limit", limit, low=0, closed="neither")

    def __call__(self, gradients, variables, step):
        return [
            ops.where(ops.isfinite(g), ops.clip(g, -self.limit, self.limit), g) for g in gradients
        ]
