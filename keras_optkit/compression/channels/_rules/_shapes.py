"""Layers that move channels to another place."""

import math

import numpy as np
from keras import layers

from keras_optkit.compression.channels._labels import Labels


def concatenate(trace, call, labels):
    ranks = [len(t.shape) for t in call.inputs]
    axis = call.operation.axis % ranks[0]
    sized = all(
        len(given.ids) == t.shape[given.axis] for given, t in zip(labels, call.inputs, strict=True)
    )
    if not sized or len({given.axis for given in labels}) > 1:
        return trace.unknown(call, labels)
    if axis == labels[0].axis:
        return Labels(axis, np.concatenate([given.ids for given in labels]))
    for given in labels[1:]:
        trace.channels.unify(labels[0].ids, given.ids)
    return labels[0]


def flatten(trace, call, labels):
    # Of images with channels first, Keras moves them last.
    moved = call.operation.data_format == "channels_first" and len(call.inputs[0].shape) > 2
    return reshaped(trace, call, labels, moved)


def reshape(trace, call, labels):
    found = reshaped(trace, call, labels)
    if isinstance(found, Labels) and call.operation.target_shape[found.axis - 1] != -1:
        trace.set(call.operation, "target_shape", found.ids, found.axis - 1)
    return found


def permute(trace, call, labels):
    (given,) = labels
    return Labels(list(call.operation.dims).index(given.axis) + 1, given.ids)


def reshaped(trace, call, labels, moved=False):
    """Finds the one axis along which the channels lie after all entries were dealt out anew."""
    (given,) = labels
    before, after = call.inputs[0].shape[1:], call.outputs[0].shape[1:]
    known = None not in before and None not in after
    if known and before and given.axis > 0 and math.prod(before) == math.prod(after):
        form = [-1 if i == given.axis - 1 else 1 for i in range(len(before))]
        grid = np.broadcast_to(given.ids.reshape(form), before)
        grid = (np.moveaxis(grid, 0, -1) if moved else grid).reshape(after)
        for axis in reversed(range(len(after))):
            lines = np.moveaxis(grid, axis, 0).reshape(after[axis], -1)
            if (lines == lines[:, :1]).all():
                return Labels(axis + 1, lines[:, 0])
    elif after and not moved and given.axis == len(before) and before[-1] == after[-1] is not None:
        return Labels(len(after), given.ids)  # row by row, and rows as long as before
    return trace.unknown(call, labels, f"{trace.named(call.operation)} spreads them over axes")


SHAPES = {
    layers.Concatenate: concatenate,
    layers.Flatten: flatten,
    layers.Reshape: reshape,
    layers.Permute: permute,
}
