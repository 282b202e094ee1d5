"""Layers with kernels: they take channels, and most make new ones."""

import numpy as np
from keras import layers

from keras_optkit.compression.channels._labels import Labels
from keras_optkit.compression.channels._rules._activations import elementwise


def channel_axis(layer, tensor) -> int:
    """Returns the axis of an image's channels by the layer's `data_format`."""
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return 1 if first else len(tensor.shape) - 1


def activated(trace, layer, labels: Labels) -> Labels:
    """Returns `labels`, kept if the layer's activation mixes channels."""
    if not elementwise(layer.activation):
        trace.freeze(labels, f"the activation of {trace.named(layer)} may mix channels")
    return labels


def convolution(trace, call, labels):
    layer, (given,) = call.operation, labels
    axis, output = channel_axis(layer, call.inputs[0]), call.outputs[0]
    if layer.groups != 1:
        return _grouped(trace, call, given, axis)
    trace.slice(layer, layer.kernel, -2, trace.rows(call, given, axis))
    ids = trace.produced(layer, "filters", layer.kernel, -1)
    trace.multiplies(layer.kernel, output.shape, axis)
    return activated(trace, layer, Labels(axis, ids))


def transposed(trace, call, labels):
    layer, (given,) = call.operation, labels
    axis = channel_axis(layer, call.inputs[0])
    trace.slice(layer, layer.kernel, -1, trace.rows(call, given, axis))
    ids = trace.produced(layer, "filters", layer.kernel, -2)
    trace.multiplies(layer.kernel, call.inputs[0].shape, axis)
    return activated(trace, layer, Labels(axis, ids))


def depthwise(trace, call, labels):
    layer, (given,) = call.operation, labels
    axis = channel_axis(layer, call.inputs[0])
    trace.multiplies(layer.kernel, call.outputs[0].shape, axis)
    ids = trace.rows(call, given, axis)
    if ids is None:
        return trace.unknown(call, labels)
    trace.slice(layer, layer.kernel, -2, ids)
    ids = np.repeat(ids, layer.depth_multiplier)
    trace.slice(layer, layer.bias, 0, ids)
    return activated(trace, layer, Labels(axis, ids))


def separable(trace, call, labels):
    layer, (given,) = call.operation, labels
    axis, output = channel_axis(layer, call.inputs[0]), call.outputs[0]
    ids = trace.rows(call, given, axis)
    if ids is not None:
        trace.slice(layer, layer.depthwise_kernel, -2, ids)
        trace.slice(layer, layer.pointwise_kernel, -2, np.repeat(ids, layer.depth_multiplier))
    ids = trace.produced(layer, "filters", layer.pointwise_kernel, -1)
    trace.multiplies(layer.depthwise_kernel, output.shape, axis)
    trace.multiplies(layer.pointwise_kernel, output.shape, axis)
    return activated(trace, layer, Labels(axis, ids))


def dense(trace, call, labels):
    layer, (given,) = call.operation, labels
    trace.slice(layer, layer.kernel, 0, trace.rows(call, given, -1))
    ids = trace.produced(layer, "units", layer.kernel, -1)
    trace.multiplies(layer.kernel, call.outputs[0].shape, -1)
    return activated(trace, layer, Labels(len(call.outputs[0].shape) - 1, ids))


def embedding(trace, call, labels):
    layer = call.operation
    for given in labels:
        trace.freeze(given, f"{trace.named(layer)} looks them up")
    ids = trace.produced(layer, "output_dim", layer.embeddings, -1)
    return Labels(len(call.outputs[0].shape) - 1, ids)


def batch_normalization(trace, call, labels):
    layer, given = call.operation, labels[0]
    axis = layer.axis % len(call.inputs[0].shape)
    if len(labels) > 1 or axis != given.axis or len(given.ids) != call.inputs[0].shape[axis]:
        return trace.unknown(call, labels)
    for weight in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance):
        trace.slice(layer, weight, 0, given.ids)
    if layer.gamma is not None:
        trace.normalized(layer, layer.gamma)
    return given


def prelu(trace, call, labels):
    layer, (given,) = call.operation, labels
    axis = given.axis - 1
    if layer.alpha.shape[axis] == len(given.ids) > 1:
        trace.slice(layer, layer.alpha, axis, given.ids)
    return given


def _grouped(trace, call, given: Labels, axis: int):
    """A convolution in groups; with a group for each channel it is a depthwise one."""
    layer = call.operation
    trace.multiplies(layer.kernel, call.outputs[0].shape, axis)
    ids = trace.rows(call, given, axis)
    if ids is None or layer.groups != len(ids):
        made = Labels(axis, trace.produced(layer, "filters", layer.kernel, -1))
        reason = f"{trace.named(layer)} has groups of channels, which must stay of one size"
        for labels in (given, made):
            trace.freeze(labels, reason)
        return made
    trace.set(layer, "groups", ids)
    ids = np.repeat(ids, layer.filters // layer.groups)
    trace.set(layer, "filters", ids)
    trace.slice(layer, layer.kernel, -1, ids)
    trace.slice(layer, layer.bias, 0, ids)
    return activated(trace, layer, Labels(axis, ids))


WEIGHTED = {
    layers.Conv1D: convolution,
    layers.Conv2D: convolution,
    layers.Conv3D: convolution,
    layers.Conv1DTranspose: transposed,
    layers.Conv2DTranspose: transposed,
    layers.Conv3DTranspose: transposed,
    layers.DepthwiseConv1D: depthwise,
    layers.DepthwiseConv2D: depthwise,
    layers.SeparableConv1D: separable,
    layers.SeparableConv2D: separable,
    layers.Dense: dense,
    layers.Embedding: embedding,
    layers.BatchNormalization: batch_normalization,
    layers.PReLU: prelu,
}
