"""BatchNormalization in a quantized model."""

import keras
from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.quantization._fake_quant import fake_quant_weight
from keras_optkit.compression.quantization._linear import scaled
from keras_optkit.compression.quantization._wrapped import Wrapped


@register
class QuantizedBatchNorm(Wrapped):
    """Runs a BatchNormalization whose statistics can be frozen while the model trains.

    After a convolution it is `folded`: LiteRT multiplies the scales of the rounded weights by
    its factors, which rounds nothing anew. Alone it becomes a depthwise convolution of size 1.
    `FreezeQuantization` freezes it: it then normalizes by its moving statistics, as the
    exported model will, and they stay.

    Args:
        layer: A `keras.layers.BatchNormalization`, whose weights these stay.
        folded: Whether a layer with weights comes right before it.
        name: Name; by default that of `layer`.
        trainable: As for any layer.
        dtype: Dtype or policy; by default that of `layer`.

    Example:
        >>> norm = keras.layers.BatchNormalization()
        >>> layer = keras_optkit.compression.QuantizedBatchNorm(norm, folded=False)
        >>> outputs = layer(keras.ops.ones((2, 3)))

    Reference:
        [Krishnamoorthi, 2018](https://arxiv.org/abs/1806.08342), section 3.2.1, for freezing.
        Weights are rounded before folding, as in TF-MOT; with a scale for each channel that
        is the same.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        folded: bool = True,
        name: str | None = None,
        trainable: bool = True,
        dtype=None,
    ):
        layer = _check.instance(
            "layer", layer, keras.layers.BatchNormalization, "a BatchNormalization"
        )
        super().__init__(layer, name, trainable, dtype)
        self.folded = _check.flag("folded", folded)

    def build(self, input_shape):
        super().build(input_shape)
        self.frozen = self.add_weight(
            name="frozen", shape=(), initializer="zeros", dtype="bool", trainable=False
        )

    def call(self, inputs, training=False, mask=None):
        if not training or not self.layer.trainable:
            return self._infer(inputs, mask)
        state = (self.layer.moving_mean, self.layer.moving_variance)
        before = [ops.copy(ops.convert_to_tensor(v)) for v in state]
        frozen = ops.convert_to_tensor(self.frozen)
        resting = self.layer.call(inputs, training=False, mask=mask)
        outputs = self.layer.call(inputs, training=True, mask=mask)
        for variable, old in zip(state, before, strict=True):
            variable.assign(ops.where(frozen, old, ops.convert_to_tensor(variable)))
        return ops.where(frozen, resting, outputs)

    def _infer(self, inputs, mask):
        if self.folded:
            return self.layer.call(inputs, training=False, mask=mask)
        layer = self.layer
        mean, variance = (
            ops.cast(ops.convert_to_tensor(v), "float32")
            for v in (layer.moving_mean, layer.moving_variance)
        )
        scale = ops.rsqrt(variance + layer.epsilon)
        if layer.scale:
            scale = scale * ops.cast(ops.convert_to_tensor(layer.gamma), "float32")
        offset = -mean * scale
        if layer.center:
            offset = offset + ops.cast(ops.convert_to_tensor(layer.beta), "float32")
        return scaled(inputs, scale, offset, lambda kernel: fake_quant_weight(kernel, 8))

    def get_config(self):
        return super().get_config() | {"folded": self.folded}
