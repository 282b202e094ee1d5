"""A number that a column learns to multiply the features of another column with."""

import keras
from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register


@register
class LateralScale(keras.layers.Layer):
    """Multiplies its input by one learned number; part of what `ProgressiveColumns` makes.

    It adjusts for the scales of features from different columns.

    Args:
        scale: Where it begins: at a random number from half of this to this; greater than 0.
        name: Name of the layer.
        trainable: Whether it is learned.
        dtype: Dtype or policy.

    Example:
        >>> features = keras.layers.Input((4,))
        >>> keras_optkit.continual.LateralScale(0.1)(features).shape
        (None, 4)

    Reference:
        [Rusu et al., 2016](https://arxiv.org/abs/1606.04671), equation 2: "a learned scalar,
        initialized by a random small value".
    """

    def __init__(
        self, scale: float = 0.1, name: str | None = None, trainable: bool = True, dtype=None
    ):
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        self.scale = _check.in_range("scale", scale, low=0, closed="neither")
        self.supports_masking = True

    def build(self, input_shape):
        start = keras.initializers.RandomUniform(self.scale / 2, self.scale)
        self.alpha = self.add_weight(shape=(), initializer=start, name="alpha")

    def call(self, inputs):
        return inputs * ops.cast(self.alpha, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}
