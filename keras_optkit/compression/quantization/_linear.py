"""The linear part of layers with weights, in the forms that LiteRT has in int8.

There, Dense and one-dimensional convolutions take one range for a whole kernel, and do not absorb
a BatchNormalization. As convolutions of two dimensions they have a range for each channel. Dense
can be had `plain`, as what it is.
"""

import keras
from keras import ops

# The kernels of each class, with how `fake_quant_weight` is to see them.
KERNELS = {
    "Dense": {"kernel": {}},
    "Conv1D": {"kernel": {}},
    "Conv2D": {"kernel": {}},
    "Conv1DTranspose": {"kernel": {"whole": True}},
    "Conv2DTranspose": {"kernel": {"whole": True}},
    "DepthwiseConv1D": {"kernel": {"depthwise": True}},
    "DepthwiseConv2D": {"kernel": {"depthwise": True}},
    "SeparableConv1D": {"depthwise_kernel": {"depthwise": True}, "pointwise_kernel": {}},
    "SeparableConv2D": {"depthwise_kernel": {"depthwise": True}, "pointwise_kernel": {}},
}


def linear(layer, inputs, rounded, between, plain=False):
    """Returns what a layer gives before its activation.

    Args:
        layer: A layer of a class in `KERNELS`.
        inputs: What it is called with.
        rounded: Function of a kernel's name and of the number of axes to put in front of the
            kernel, that returns it rounded.
        between: Function that rounds what stands between the halves of a separable convolution.
        plain: Whether Dense is a matrix product, whose gradient is much faster.
    """
    name = type(layer).__name__
    if name == "Dense":
        if plain:
            return _biased(layer, ops.matmul(inputs, rounded("kernel", 0)))
        lift = 4 - len(inputs.shape)
        outputs = ops.conv(_lifted(inputs, lift), rounded("kernel", 2))
        return _lowered(_biased(layer, outputs), lift)
    if name.endswith("Transpose"):
        return _biased(layer, _transposed(layer, inputs, rounded("kernel", 0)))
    lift = 2 - layer.rank
    if layer.padding == "causal":
        before = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
        inputs = ops.pad(inputs, ((0, 0), (before, 0), (0, 0)))
    options = {
        "strides": _pair(layer.strides),
        "padding": "valid" if layer.padding == "causal" else layer.padding,
        "dilation_rate": _pair(layer.dilation_rate),
    }
    inputs = _lifted(inputs, lift)
    if name.startswith("Conv"):
        outputs = ops.conv(inputs, rounded("kernel", lift), **options)
    elif name.startswith("Depthwise"):
        outputs = ops.depthwise_conv(inputs, rounded("kernel", lift), **options)
    else:
        outputs = ops.depthwise_conv(inputs, rounded("depthwise_kernel", lift), **options)
        outputs = ops.conv(between(outputs), rounded("pointwise_kernel", lift))
    return _lowered(_biased(layer, outputs), lift)


def scaled(inputs, scale, offset, rounded):
    """Returns `scale * inputs + offset` along the last axis, as a depthwise convolution.

    One weight to a channel, with a range of its own, loses nothing by rounding.
    """
    lift = 4 - len(inputs.shape)
    kernel = ops.reshape(rounded(ops.reshape(scale, (1, 1, -1))), (1, 1, -1, 1))
    outputs = ops.depthwise_conv(_lifted(inputs, lift), ops.cast(kernel, inputs.dtype))
    return _lowered(outputs + ops.cast(offset, inputs.dtype), lift)


def _transposed(layer, inputs, kernel):
    return ops.conv_transpose(
        inputs,
        kernel,
        strides=list(layer.strides),
        padding=layer.padding,
        output_padding=layer.output_padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def _biased(layer: keras.layers.Layer, outputs):
    return outputs if layer.bias is None else outputs + ops.convert_to_tensor(layer.bias)


def _lifted(inputs, count: int):
    return ops.expand_dims(inputs, tuple(range(1, count + 1))) if count > 0 else inputs


def _lowered(outputs, count: int):
    return ops.squeeze(outputs, tuple(range(1, count + 1))) if count > 0 else outputs


def _pair(value) -> tuple[int, ...]:
    value = (value,) if isinstance(value, int) else tuple(value)
    return value if len(value) == 2 else (1, *value)
