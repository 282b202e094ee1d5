"""The calls of a model that its twin in tf_keras makes too, and with which arguments."""

import dataclasses
import inspect
from typing import Any

import keras
from keras import tree

from keras_optkit.compression import _graph
from keras_optkit.compression.tfmot._imports import tf_keras


def needed(model: Any, what: str, problems: list[str]) -> list[_graph.Call]:
    """Returns the calls that the outputs depend on, with the arguments that tf_keras takes.

    Keras 3 writes down `training=False` for what a layer would do by default, and the masks that
    came with its inputs. In tf_keras the first would stay false while training (then pruning does
    nothing), and the second come by themselves. In Keras 3 `fit` overrides either way what a call
    said on `training`, so no meaning is lost.
    """
    found = []
    calls = [_plain(call, problems) for call in _graph.calls(model, what)]
    wanted = {id(x) for x in _graph.functional(model, what).outputs}
    for call in reversed(calls):
        if any(id(x) in wanted for x in call.outputs):
            wanted |= {id(x) for x in call.inputs}
            found.append(call)
    return found[::-1]


def _plain(call: _graph.Call, problems: list[str]) -> _graph.Call:
    if not isinstance(call.operation, keras.layers.Layer):
        return call
    if isinstance(call.operation, keras.Model):
        args, kwargs = call.args[:1], {}
        if not args:
            args = tuple(call.kwargs.values())[:1]
    else:
        args, kwargs = _bound(call, problems)
    inputs = [x for x in tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
    return dataclasses.replace(call, args=args, kwargs=kwargs, inputs=inputs)


def _bound(call: _graph.Call, problems: list[str]) -> tuple[tuple, dict[str, Any]]:
    """Returns the first argument, and the rest by name: tf_keras has them in another order."""
    operation, kind = call.operation, type(call.operation).__name__
    bound = inspect.signature(operation.call).bind(*call.args, **call.kwargs)
    (_, first), *rest = _flat(bound)
    named = {
        name: value
        for name, value in rest
        if value is not None and name != "training" and not _is_implied(name, value, call)
    }
    layer = getattr(tf_keras().layers, kind, None)
    if layer is None:
        return (first,), {}  # It is reported as a layer.
    known = inspect.signature(layer.call).parameters
    defaults = inspect.signature(operation.call).parameters
    for name in [name for name in named if name not in known and "kwargs" not in known]:
        value = named.pop(name)
        if name not in defaults or value != defaults[name].default:
            problems.append(
                f"{kind} {operation.name!r}: its call has {name}={value!r}, which the layer in "
                "tf_keras does not take"
            )
    return (first,), named


def _flat(bound: inspect.BoundArguments) -> list[tuple[str, Any]]:
    result = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        result += list(value.items()) if kind is inspect.Parameter.VAR_KEYWORD else [(name, value)]
    return result


def _is_implied(name: str, value: Any, call: _graph.Call) -> bool:
    """Returns whether a mask is the one that came with the inputs."""
    if not (name == "mask" or name in ("query_mask", "value_mask", "key_mask")):
        return False
    own = {id(getattr(x, "_keras_mask", None)) for x in call.inputs}
    return all(x is None or id(x) in own for x in tree.flatten(value))
