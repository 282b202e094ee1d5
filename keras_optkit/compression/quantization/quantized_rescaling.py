"""Rescaling in a quantized model."""

import keras
from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.quantization._fake_quant import fake_quant_weight
from keras_optkit.compression.quantization._linear import scaled
from keras_optkit.compression.quantization._wrapped import Wrapped


@register
class QuantizedRescaling(Wrapped):
    """Runs a Rescaling as a depthwise convolution of size 1, which LiteRT has in int8.

    Args:
        layer: A `keras.layers.Rescaling` with one number, or one for each channel.
        name: Name; by default that of `layer`.
        trainable: As for any layer; there is nothing to train.
        dtype: Dtype or policy; by default that of `layer`.

    Example:
        >>> layer = keras_optkit.compression.QuantizedRescaling(keras.layers.Rescaling(1 / 255))
        >>> outputs = layer(keras.ops.ones((2, 3)))
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        name: str | None = None,
        trainable: bool = True,
        dtype=None,
    ):
        layer = _check.instance("layer", layer, keras.layers.Rescaling, "a Rescaling")
        super().__init__(layer, name, trainable, dtype)

    def call(self, inputs):
        inputs = ops.cast(inputs, self.compute_dtype)  # they may be integers
        channels = inputs.shape[-1]
        scale, offset = (
            ops.broadcast_to(ops.convert_to_tensor(value, "float32"), (channels,))
            for value in (self.layer.scale, self.layer.offset)
        )
        return scaled(inputs, scale, offset, lambda kernel: fake_quant_weight(kernel, 8))
