"""Operations of `keras.ops`, which stand in a graph without a layer, by their classes' names."""

import numbers

import keras
from keras import tree

from keras_optkit.compression.channels._labels import Labels
from keras_optkit.compression.channels._rules._pointwise import merge
from keras_optkit.compression.channels._rules._shapes import concatenate, reshaped


def plain(call) -> bool:
    """Tells whether there is nothing but tensors of the graph and single values."""
    known = (keras.KerasTensor, numbers.Number, str, type(None))
    given = [*call.args, *call.kwargs.values()]
    return all(isinstance(value, known) for value in given) and not any(
        getattr(value, "shape", ()) or isinstance(value, (list, tuple))
        for name, value in vars(call.operation).items()
        if not name.startswith("_") and name not in ("input", "output")
    )


def same(trace, call, labels):
    return labels[0] if len(labels) == 1 and plain(call) else trace.unknown(call, labels)


def merged(trace, call, labels):
    return merge(trace, call, labels) if plain(call) else trace.unknown(call, labels)


def joined(trace, call, labels):
    whole = len(tree.flatten((call.args, call.kwargs))) == len(labels)
    return concatenate(trace, call, labels) if whole else trace.unknown(call, labels)


def reshape(trace, call, labels):
    found = reshaped(trace, call, labels)
    shape = call.operation.newshape
    if isinstance(found, Labels) and shape[found.axis] != -1:
        trace.set(call.operation, "newshape", found.ids, found.axis)
    return found


def transpose(trace, call, labels):
    (given,) = labels
    rank = len(call.inputs[0].shape)
    axes = call.operation.axes
    axes = list(range(rank))[::-1] if axes is None else [a % rank for a in axes]
    return Labels(axes.index(given.axis), given.ids)


def reduced(trace, call, labels):
    (given,) = labels
    rank, axes = len(call.inputs[0].shape), _axes(call)
    if given.axis in axes or 0 in axes or rank == 0:
        return trace.unknown(call, labels, f"{trace.named(call.operation)} goes over channels")
    if call.operation.keepdims:
        return given
    return Labels(given.axis - sum(axis < given.axis for axis in axes), given.ids)


def expanded(trace, call, labels):
    (given,) = labels
    rank, axis = len(call.outputs[0].shape), call.operation.axis
    axes = {a % rank for a in ((axis,) if isinstance(axis, int) else axis)}
    left = [i for i in range(rank) if i not in axes]
    return Labels(left[given.axis], given.ids)


def squeezed(trace, call, labels):
    (given,) = labels
    shape, axis = call.inputs[0].shape, call.operation.axis
    if axis is None:
        axes = {i for i, d in enumerate(shape) if d == 1}
    else:
        axes = {a % len(shape) for a in ((axis,) if isinstance(axis, int) else axis)}
    if given.axis in axes:
        return trace.unknown(call, labels)
    return Labels(given.axis - sum(a < given.axis for a in axes), given.ids)


def _axes(call) -> set[int]:
    rank, axis = len(call.inputs[0].shape), call.operation.axis
    if axis is None:
        return set(range(rank))
    return {a % rank for a in ((axis,) if isinstance(axis, int) else axis)}


ALONE = (
    *("Abs", "Absolute", "Cast", "Celu", "Clip", "Copy", "Cos", "Elu", "Erf", "Exp", "Expm1"),
    *("Gelu", "HardShrink", "HardSigmoid", "HardSilu", "HardTanh", "Identity", "LeakyRelu", "Log"),
    *("Log1p", "LogSigmoid", "Mish", "Negative", "ReLU", "Reciprocal", "Relu", "Relu6", "Round"),
    *("Rsqrt", "Selu", "Sigmoid", "Sign", "Silu", "Sin", "SoftShrink", "Softplus", "Softsign"),
    *("SparsePlus", "SparseSigmoid", "Sqrt", "Square", "Squareplus", "StopGradient", "Tanh"),
    *("TanhShrink", "Threshold"),
)
MERGES = ("Add", "Divide", "Maximum", "Minimum", "Multiply", "Power", "Subtract", "TrueDivide")
REDUCTIONS = ("Amax", "Amin", "Max", "Mean", "Min", "Std", "Sum", "Var")
OPERATIONS = {
    **dict.fromkeys(ALONE, same),
    **dict.fromkeys(MERGES, merged),
    **dict.fromkeys(REDUCTIONS, reduced),
    "Concatenate": joined,
    "ExpandDims": expanded,
    "Reshape": reshape,
    "Squeeze": squeezed,
    "Transpose": transpose,
}
