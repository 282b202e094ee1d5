"""Outputs of layers inside of a model, from the same forward pass as its outputs."""

from collections.abc import Iterable
from typing import Any

import keras

from keras_optkit import _check
from keras_optkit.compression import _graph


def tap(model: keras.Model, name: str, role: str, what: str) -> keras.KerasTensor:
    """Returns the symbolic output of the layer called `name`.

    Args:
        model: A built model.
        name: The name of one of its layers, or of an operation of `keras.ops` in its graph.
        role: What the model is, for errors: teacher or student.
        what: Who asks, for errors.

    Raises:
        ValueError: If the model has no graph, or its graph no such output.
    """
    own_call = not type(model).call.__module__.startswith("keras.")
    if own_call or not hasattr(getattr(model, "_functional", model), "_nodes_by_depth"):
        raise ValueError(
            f"{what} looks at layers by name, and finds them in the graph of a Functional or "
            f"Sequential model; the {role} is a subclass with a `call` of its own. Build it from "
            "keras.Input and layers, or use losses of its outputs, as LogitsKD and RelationalKD. "
            f"{_check.received(role, model)}"
        )
    graph = _graph.calls(model, what)
    found = [call for call in graph if call.operation.name == name]
    if not found:
        names = ", ".join(dict.fromkeys(repr(call.operation.name) for call in graph))
        raise ValueError(
            f"{what} finds no layer of that name in the {role} {model.name!r}; it has {names}. "
            "Layers inside of nested models are out of reach. " + _check.received("layer", name)
        )
    if len(found) > 1 or len(found[0].outputs) > 1:
        calls, outputs = len(found), len(found[0].outputs)
        raise ValueError(
            f"{what} needs a layer with one output, and {name!r} of the {role} {model.name!r} is "
            f"called {calls} times, for {outputs} tensors a time. Name a layer next to it. "
            f"{_check.received('layer', name)}"
        )
    return found[0].outputs[0]


class Tapped:
    """A model that also returns what some of its layers put out; it has no state of its own.

    Args:
        model: A built model.
        names: The layers to look at.
        role: What the model is, for errors: teacher or student.
        what: Who asks for which layer, for errors, by name.
    """

    def __init__(self, model: keras.Model, names: Iterable[str], role: str, what: dict[str, str]):
        self.model = model
        features = {name: tap(model, name, role, what[name]) for name in names}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in features.items()}
        self.whole = model
        if features:
            inside = _graph.functional(model, what[next(iter(features))])
            self.whole = keras.Model(inside._inputs_struct, [inside._outputs_struct, features])

    def __call__(self, inputs, training=None) -> tuple[Any, dict[str, Any]]:
        """Returns the outputs of the model, and those of the layers by name."""
        known = {"training": training} if self.model._call_has_training_arg else {}
        return self.parts(self.whole(inputs, **known))

    def parts(self, found) -> tuple[Any, dict[str, Any]]:
        """Returns what `__call__` does, of the outputs of `whole`."""
        return (found[0], found[1]) if self.shapes else (found, {})
