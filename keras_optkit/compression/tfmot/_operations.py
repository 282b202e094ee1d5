"""What `keras.ops` puts into a graph, as layers of tf_keras."""

import functools
import inspect
import math
from typing import Any

import keras
from keras import tree

from keras_optkit.compression._graph import Call
from keras_optkit.compression.tfmot import _template
from keras_optkit.compression.tfmot._activations import activation
from keras_optkit.compression.tfmot._configs import Untranslatable
from keras_optkit.compression.tfmot._formulas import formulas
from keras_optkit.compression.tfmot._imports import tf_keras

ACTIVATIONS = {
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "LogSigmoid": "log_sigmoid",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}
COMPARISONS = ("Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual")
MERGES = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")


def operation_layer(call: Call) -> tuple[Any, list]:
    """Returns a layer of tf_keras that does what `call` does, and the tensors to call it on.

    Where TF-MOT knows a layer for it, that layer; it quantizes no other. A mask passes through
    layers and not through operations, so an operation on a masked tensor remains one.
    """
    arguments = tree.flatten((call.args, call.kwargs))
    tensors = [x for x in arguments if isinstance(x, keras.KerasTensor)]
    masked = any(getattr(x, "_keras_mask", None) is not None for x in tensors)
    plain = not masked and not call.kwargs and len(tensors) == len(arguments) > 0
    known = _known_layer(call, tensors) if plain and _is_float32(call) else None
    return known or _any_layer(call), tensors


def settings(operation: keras.Operation) -> dict[str, Any]:
    """Returns what an operation was made with."""
    names = list(inspect.signature(type(operation).__init__).parameters)[1:]
    return {
        name: getattr(operation, name)
        for name in names
        if hasattr(operation, name) and name not in ("name", "args", "kwargs")
    }


def _known_layer(call: Call, tensors: list) -> Any:
    layers, kind, name = tf_keras().layers, type(call.operation).__name__, call.operation.name
    first, made = tensors[0], settings(call.operation)
    rank = len(first.shape)
    if kind in MERGES and all(len(x.shape) == rank > 1 for x in tensors):
        return getattr(layers, kind)(name=name)
    if kind == "Concatenate" and made["axis"] % rank != 0:
        return layers.Concatenate(axis=made["axis"], name=name)
    if kind == "Relu6":
        return layers.ReLU(6.0, name=name)
    if kind == "Relu":
        return layers.ReLU(name=name)
    if kind == "Softmax":
        return layers.Softmax(axis=made["axis"], name=name)
    if kind == "Gelu" and not made["approximate"]:
        return layers.Activation("gelu", name=name)
    if kind in ACTIVATIONS:
        return layers.Activation(activation(ACTIVATIONS[kind]), name=name)
    if kind == "Mean" and rank == 4 and sorted(_axes(made["axis"], rank)) == [1, 2]:
        return layers.GlobalAveragePooling2D(keepdims=made["keepdims"], name=name)
    if kind == "Reshape" and _keeps_batch(first.shape, made["newshape"]):
        return layers.Reshape(tuple(made["newshape"][1:]), name=name)
    return None


def _any_layer(call: Call) -> Any:
    kind = type(call.operation).__name__
    if kind not in formulas() or not type(call.operation).__module__.startswith("keras."):
        raise Untranslatable("this operation has no counterpart here; use a layer in its place")
    made = settings(call.operation)
    unknown = [k for k in ("initial", "where", "ddof") if made.get(k) not in (None, 0)]
    if unknown:
        raise Untranslatable(f"{unknown[0]}={made[unknown[0]]!r} has no counterpart here")
    made |= {
        "to": keras.backend.standardize_dtype(call.outputs[0].dtype),
    }
    if kind in COMPARISONS:
        made["common"] = keras.backend.result_type(*map(_dtype, tree.flatten(call.args)))
    arguments = _template.encode((call.args, call.kwargs))
    return operation_class()(kind, _template.encode(made), arguments, name=call.operation.name)


@functools.cache
def operation_class() -> Any:
    """Returns the class of the layers that stand for operations in tf_keras."""
    base = tf_keras().layers.Layer

    @tf_keras().utils.register_keras_serializable("keras_optkit")
    class Operation(base):
        """One function of `keras.ops` on TensorFlow's tensors."""

        def __init__(self, operation, settings, arguments, **kwargs):
            super().__init__(autocast=False, **kwargs)
            self.operation = operation
            self.settings_ = settings
            self.arguments = arguments

        def call(self, inputs):
            tensors = inputs if isinstance(inputs, (list, tuple)) else [inputs]
            args, kwargs = _template.decode(self.arguments, tensors)
            return formulas()[self.operation](_template.decode(self.settings_, ()), *args, **kwargs)

        def get_config(self):
            return super().get_config() | {
                "operation": self.operation,
                "settings": self.settings_,
                "arguments": self.arguments,
            }

    return Operation


def _is_float32(call: Call) -> bool:
    return {x.dtype for x in call.inputs + call.outputs} == {"float32"}


def _dtype(value: Any) -> Any:
    return getattr(value, "dtype", None) or type(value)


def _axes(axis: Any, rank: int) -> list[int]:
    given = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    return [a % rank for a in given]


def _keeps_batch(shape, new) -> bool:
    rest, batch = new[1:], new[0]
    fixed = all(isinstance(n, int) and n > 0 for n in rest) and None not in shape[1:]
    return batch in (-1, None) and fixed and math.prod(rest) == math.prod(shape[1:])
