"""Layers that train with rounded weights."""

import keras
from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.quantization._activations import fuses
from keras_optkit.compression.quantization._fake_quant import fake_quant_weight
from keras_optkit.compression.quantization._linear import KERNELS, linear
from keras_optkit.compression.quantization._wrapped import Wrapped
from keras_optkit.compression.quantization.quantize_activation import QuantizeActivation
from keras_optkit.optimizers._slots import lay_out, layout_of


@register
class QuantizedLayer(Wrapped):
    """Runs a Dense or convolutional layer with its kernels rounded to small integers.

    `quantize_model` puts it in the place of the layer. The kernel `w` itself stays a float that
    the optimizer moves; what the layer computes with is, for each output channel,

    ```text
    q(w) = scale round(w / scale),  scale = max|w| / (2^(weight_bits - 1) - 1)
    ```

    so a weight that is 0 stays 0. The gradient of `q` is taken as 1. Biases stay floats: in a
    LiteRT file they are int32.

    Args:
        layer: The layer, whose weights these stay.
        weight_bits: Bits of a weight, 2 to 8.
        activation_bits: Bits of what is rounded inside: before an activation function that has a
            kernel of its own, and between the halves of a separable convolution.
        per_channel: Whether each output channel has a scale of its own. Transposed convolutions
            have one scale anyway, since LiteRT has it so. A Dense layer with one scale takes no
            BatchNormalization in.
        preserve: `"zeros"` to keep weights that are 0 when `keep_zeros` is called at 0 from
            then on, whatever the optimizer does; None to let them move.
        name: Name; by default that of `layer`.
        trainable: As for any layer.
        dtype: Dtype or policy; by default that of `layer`.

    Example:
        >>> layer = keras_optkit.compression.QuantizedLayer(keras.layers.Dense(2), weight_bits=4)
        >>> outputs = layer(keras.ops.ones((1, 3)))

    Reference:
        [Jacob et al., 2018](https://arxiv.org/abs/1712.05877), section 3; scales for each channel
        after [Krishnamoorthi, 2018](https://arxiv.org/abs/1806.08342), section 3.1.2.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        weight_bits: int = 8,
        activation_bits: int = 8,
        per_channel: bool = True,
        preserve: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        dtype=None,
    ):
        super().__init__(layer, name, trainable, dtype)
        _check.one_of("type(layer)", type(layer).__name__, KERNELS)
        self.weight_bits = _check.one_of("weight_bits", weight_bits, range(2, 9))
        self.activation_bits = _check.one_of("activation_bits", activation_bits, range(2, 9))
        self.per_channel = _check.flag("per_channel", per_channel)
        self.preserve = _check.one_of("preserve", preserve, (None, "zeros"))
        self.before_activation = self._quantizer("before_activation", not fuses(layer.activation))
        self.between = self._quantizer("between", "pointwise_kernel" in self.kernels())

    def _quantizer(self, name: str, needed: bool):
        if not needed:
            return None
        return QuantizeActivation(self.activation_bits, name=name, dtype=self.dtype_policy)

    def build(self, input_shape):
        super().build(input_shape)
        for quantizer in (self.before_activation, self.between):
            if quantizer is not None:
                quantizer.build(())
                quantizer.built = True
        if self.preserve:
            self._masks = {
                name: self.add_weight(
                    name=f"{name}_mask",
                    shape=getattr(self.layer, name).shape,
                    initializer="ones",
                    dtype="bool",
                    trainable=False,
                )
                for name in self.kernels()
            }
            for name, mask in self._masks.items():
                lay_out(mask, layout_of(getattr(self.layer, name)))

    def kernels(self) -> list[str]:
        """Returns the names of the weights that are rounded."""
        return list(KERNELS[type(self.layer).__name__])

    def keep_zeros(self) -> None:
        """Makes the weights that are 0 now stay 0."""
        for name, mask in self._masks.items():
            mask.assign(ops.not_equal(ops.convert_to_tensor(getattr(self.layer, name)), 0))

    def preserved(self, name: str):
        """Returns a kernel with 0 wherever that is to stay."""
        kernel = ops.convert_to_tensor(getattr(self.layer, name))
        if not self.preserve:
            return kernel
        return ops.where(ops.convert_to_tensor(self._masks[name]), kernel, ops.zeros_like(kernel))

    def rounded(self, name: str, lift: int = 0):
        """Returns a kernel rounded, with `lift` axes of size 1 in front."""
        kernel = self.preserved(name)
        view = KERNELS[type(self.layer).__name__][name]
        if not lift and not self.per_channel and type(self.layer).__name__ == "Dense":
            view = {"whole": True}
        lifted = ops.reshape(kernel, (1,) * lift + tuple(kernel.shape))
        rounded = fake_quant_weight(lifted, self.weight_bits, self.per_channel, **view)
        return ops.cast(rounded, kernel.dtype)

    def call(self, inputs, training=False):
        def between(values):
            return values if self.between is None else self.between(values, training=training)

        plain = training or not (self.per_channel or len(inputs.shape) > 2)
        outputs = linear(self.layer, inputs, self.rounded, between, plain)
        if self.before_activation is not None:
            outputs = self.before_activation(outputs, training=training)
        return outputs if self.layer.activation is None else self.layer.activation(outputs)

    def get_config(self):
        own = ("weight_bits", "activation_bits", "per_channel", "preserve")
        return super().get_config() | {name: getattr(self, name) for name in own}
