"""Which operation is treated how, and why."""

import dataclasses
from typing import Literal

import keras
import numpy as np

from keras_optkit.compression.quantization._activations import FIXED, fuses, name_of, supported
from keras_optkit.compression.quantization._linear import KERNELS

Kind = Literal[
    "weights",  # replaced by a QuantizedLayer
    "norm",  # replaced by a QuantizedBatchNorm
    "rescaling",  # replaced by a QuantizedRescaling
    "relu",  # can be a part of what comes before
    "concatenate",  # can be a part of what comes after: all its inputs share its range
    "compute",  # computes in int8; its output has a range of its own
    "same",  # computes in int8, in the range of its input
    "move",  # hands on values that are rounded already
    "model",  # a model of its own, gone into
    "float",  # stays float, which is fine
    "refused",  # stays float, if the user agrees
]


@dataclasses.dataclass(frozen=True)
class Policy:
    """What to do with an operation.

    Args:
        kind: How it is treated.
        reason: Why it stays float, if it does.
        fixed_range: The range of its output, where LiteRT gives it no choice.
    """

    kind: Kind
    reason: str = ""
    fixed_range: tuple[float, float] | None = None


_MOVES = {
    *("Flatten", "Reshape", "Permute", "RepeatVector", "Identity", "ActivityRegularization"),
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianDropout", "GaussianNoise"),
    *("MaxPooling1D", "MaxPooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"),
    *("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D", "UpSampling1D"),
    *("Transpose", "Squeeze", "ExpandDims", "MaxPool"),  # of keras.ops
}
_COMPUTES = {
    *("Add", "Subtract", "Multiply", "PReLU"),
    *("GlobalAveragePooling1D", "GlobalAveragePooling2D"),
    *("Silu", "HardSilu", "LeakyRelu"),  # of keras.ops
}
_FLOATS = {
    "LayerNormalization": "LiteRT normalizes over a sample's own statistics in float",
    "RMSNormalization": "LiteRT normalizes over a sample's own statistics in float",
    "GroupNormalization": "LiteRT normalizes over a sample's own statistics in float",
    "MultiHeadAttention": "its products of activations have no ranges here",
    "GroupedQueryAttention": "its products of activations have no ranges here",
    "Embedding": "it looks up values by integers and computes nothing",
}
_RECURRENT = (
    "a recurrent layer feeds its rounded state back to itself, step by step; that needs ranges "
    "inside of the loop, and LiteRT has no such kernels for models trained so"
)

_TOO_MANY_AXES = "LiteRT has no such int8 kernel for inputs of more than four axes"


def policy(operation: keras.Operation) -> Policy:
    """Returns how an operation of a model's graph is treated."""
    name = type(operation).__name__
    if not type(operation).__module__.startswith("keras.src."):
        return Policy("refused", f"{name} is not a layer of Keras")
    if isinstance(operation, keras.Model):
        inside = hasattr(getattr(operation, "_functional", operation), "_nodes_by_depth")
        return Policy("model") if inside else Policy("refused", "the model has no graph")
    if isinstance(operation, (keras.layers.RNN, keras.layers.Bidirectional)) or name == "ConvLSTM":
        return Policy("refused", _RECURRENT)
    if getattr(operation, "data_format", None) == "channels_first":
        return Policy("refused", "LiteRT has channels last only")
    if name in KERNELS:
        return _of_weights(operation)
    if name in _FLOATS:
        return Policy("float", _FLOATS[name])
    if name in _MOVES:
        return Policy("move")
    if name in _COMPUTES:
        return _of_computes(operation, name)
    return _special(operation, name)


def _of_weights(layer) -> Policy:
    if not supported(layer.activation):
        return Policy("refused", _no_activation(layer.activation))
    if type(layer).__name__ == "Dense" and _rank(layer) > 4:
        return Policy("refused", _TOO_MANY_AXES)
    fixed = None if fuses(layer.activation) else FIXED.get(name_of(layer.activation))
    return Policy("weights", fixed_range=fixed)


def _of_computes(operation, name: str) -> Policy:
    counts = [len(node.input_tensors) for node in operation._inbound_nodes]
    if name in ("Add", "Multiply") and max(counts, default=0) > 2:
        # Not before the file would it show that what lies between has no range.
        return Policy("refused", "LiteRT takes two inputs; have one such layer after the other")
    return Policy("compute")


def _special(operation, name: str) -> Policy:
    if name == "BatchNormalization":
        return _of_norm(operation)
    if name == "Rescaling":
        return _of_rescaling(operation)
    if name == "Concatenate":
        return Policy("concatenate")
    if name in ("AveragePooling1D", "AveragePooling2D", "AveragePool"):
        return Policy("same")
    if name == "UpSampling2D":
        nearest, linear = (operation.interpolation == kind for kind in ("nearest", "bilinear"))
        if nearest or linear:
            return Policy("move" if nearest else "same")
        return Policy("refused", f"LiteRT has no {operation.interpolation} interpolation in int8")
    if name in ("Relu", "Relu6"):
        return Policy("relu")
    if name == "ReLU":
        return _of_relu(operation)
    if name in ("LeakyReLU", "Softmax", "Sigmoid", "Tanh"):
        key = {"Softmax": "softmax", "Sigmoid": "sigmoid", "Tanh": "tanh"}.get(name, "")
        return Policy("compute", fixed_range=FIXED.get(key))
    if name == "Activation":
        if not supported(operation.activation):
            return Policy("refused", _no_activation(operation.activation))
        if fuses(operation.activation):
            return Policy("move" if name_of(operation.activation) == "linear" else "relu")
        return Policy("compute", fixed_range=FIXED.get(name_of(operation.activation)))
    return Policy("refused", f"there is no int8 form of {name} here")


def _of_norm(layer) -> Policy:
    rank = layer.input_spec.ndim
    if layer.axis not in (-1, rank - 1):
        return Policy("refused", f"it normalizes along axis {layer.axis}, which is not the last")
    return Policy("refused", _TOO_MANY_AXES) if rank > 4 else Policy("norm")


def _of_rescaling(layer) -> Policy:
    if np.ndim(layer.scale) > 1 or np.ndim(layer.offset) > 1:
        return Policy("refused", "it has numbers for more than the last axis")
    if any(not keras.backend.is_float_dtype(x.dtype) for x in _inputs(layer)):
        return Policy("float", "it takes integers, and LiteRT turns these into floats")
    return Policy("refused", _TOO_MANY_AXES) if _rank(layer) > 4 else Policy("rescaling")


def _rank(layer) -> int:
    """Returns the largest number of axes that a layer is called with."""
    return max((len(x.shape) for x in _inputs(layer)), default=0)


def _inputs(layer) -> list[keras.KerasTensor]:
    """Returns the first input of each call of a layer."""
    return [node.input_tensors[0] for node in layer._inbound_nodes]


def _of_relu(layer) -> Policy:
    plain = not layer.negative_slope and not layer.threshold
    if plain and layer.max_value in (None, 6):
        return Policy("relu")
    if layer.negative_slope and not layer.threshold and layer.max_value is None:
        return Policy("compute")
    return Policy("refused", "of such a ReLU LiteRT has no int8 form; max_value may be 6 or None")


def _no_activation(activation) -> str:
    return f"LiteRT has no activation {name_of(activation)!r} in int8"
