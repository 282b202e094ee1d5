"""Layers that leave each channel where it is, and those that mix channels in a known way."""

import math

import numpy as np
from keras import layers

from keras_optkit.compression.channels._labels import Labels
from keras_optkit.compression.channels._rules._activations import elementwise
from keras_optkit.compression.channels._rules._weighted import channel_axis


def same(trace, call, labels):
    """Each entry alone, whatever its place."""
    return labels[0] if len(labels) == 1 else trace.unknown(call, labels)


def activation(trace, call, labels):
    if not elementwise(call.operation.activation):
        return trace.unknown(call, labels, f"{trace.named(call.operation)} may mix channels")
    return labels[0]


def rescaling(trace, call, labels):
    scalars = np.ndim(call.operation.scale) == 0 and np.ndim(call.operation.offset) == 0
    return labels[0] if scalars else trace.unknown(call, labels)


def dropout(trace, call, labels):
    shape = getattr(call.operation, "noise_shape", None)
    alike = shape is None or shape[labels[0].axis] in (None, 1)
    return labels[0] if alike else trace.unknown(call, labels)


def image(trace, call, labels):
    """Positions are mixed, cut or repeated, each channel on its own."""
    (given,) = labels
    if given.axis != channel_axis(call.operation, call.inputs[0]):
        return trace.unknown(call, labels)
    return given


def pooled(trace, call, labels):
    """Positions become one, or none."""
    (given,) = labels
    if given.axis != channel_axis(call.operation, call.inputs[0]):
        return trace.unknown(call, labels)
    return Labels(given.axis if call.operation.keepdims else 1, given.ids)


def merge(trace, call, labels):
    """Tensors added, multiplied, ... entry by entry: their channels go together."""
    tensors = call.inputs
    main, tensor = max(zip(labels, tensors, strict=True), key=lambda pair: len(pair[0].ids))
    place = main.axis - len(tensor.shape)  # from the end, as broadcasting counts
    for given, other in zip(labels, tensors, strict=True):
        here = given.axis - len(other.shape)
        if math.prod(d or 0 for d in other.shape[1:]) == 1 and len(main.ids) > 1:
            trace.freeze(given, f"{trace.named(call.operation)} uses one value for all channels")
        elif here == place and len(given.ids) == len(main.ids):
            trace.channels.unify(main.ids, given.ids)
        elif here == place and len(given.ids) == 1:
            trace.freeze(given, f"{trace.named(call.operation)} uses one value for all channels")
        else:
            reason = f"{trace.named(call.operation)} merges tensors with channels on other axes"
            trace.freeze(given, reason)
            trace.freeze(main, reason)
    return Labels(place + len(call.outputs[0].shape), main.ids)


def over_channels(trace, call, labels):
    reason = f"the statistics of {trace.named(call.operation)} are over channels, so that to take "
    return trace.unknown(call, labels, reason + "some away would change the others")


ALONE = (
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.GaussianNoise,
    layers.GaussianDropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.ActivityRegularization,
    layers.Identity,
)
IMAGE = (
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.Resizing,
)
POOLED = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
MERGES = (
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
OVER_CHANNELS = (
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
    layers.Softmax,
)
POINTWISE = {
    layers.Activation: activation,
    layers.Rescaling: rescaling,
    layers.Dropout: dropout,
    layers.AlphaDropout: dropout,
    **dict.fromkeys(ALONE, same),
    **dict.fromkeys(IMAGE, image),
    **dict.fromkeys(POOLED, pooled),
    **dict.fromkeys(MERGES, merge),
    **dict.fromkeys(OVER_CHANNELS, over_channels),
}
