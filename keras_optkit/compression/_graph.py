"""The graph of a Functional or Sequential model: its calls in order, and how to make it anew."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_optkit import _check


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or another operation; a shared layer has several.

    Args:
        operation: The `keras.Operation`: a layer, a nested model, or what `keras.ops` has put in.
        args: What it was called with by position; symbolic tensors stand where tensors do.
        kwargs: What it was called with by name.
        inputs: The symbolic tensors among both.
        outputs: The symbolic tensors it returned.
    """

    operation: keras.Operation
    args: tuple
    kwargs: dict[str, Any]
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]


def functional(model: keras.Model, what: str) -> Any:
    """Returns the Functional model behind `model`; `what` names the caller.

    Raises:
        ValueError: If the model has no graph, being a subclass with a `call` of its own.
    """
    inside: Any = getattr(model, "_functional", model)  # of a Sequential
    if not hasattr(inside, "_nodes_by_depth"):
        raise ValueError(
            f"{what} goes along the graph of a Functional or Sequential model, and a subclass with "
            "a `call` of its own has none. Build the model from keras.Input and layers. "
            f"{_check.received('model', model)}"
        )
    return inside


def calls(model: keras.Model, what: str) -> list[Call]:
    """Returns the calls of a model in an order in which they can run; inputs are not calls."""
    nodes = functional(model, what)._nodes_by_depth
    return [
        Call(
            node.operation,
            node.arguments.args,
            node.arguments.kwargs,
            list(node.input_tensors),
            list(node.outputs),
        )
        for depth in sorted(nodes, reverse=True)
        for node in nodes[depth]
        if not node.is_input
    ]


def consumers(graph: list[Call]) -> dict[int, list[Call]]:
    """Returns the calls that take each tensor, by the tensor's `id`."""
    found = defaultdict(list)
    for call in graph:
        for tensor in {id(t): t for t in call.inputs}.values():
            found[id(tensor)].append(call)
    return found


def replay(
    model: keras.Model,
    run: Callable[[Call, tuple, dict[str, Any]], Any],
    what: str,
    start: Callable[[keras.KerasTensor], Any] = lambda tensor: tensor,
    shape: Callable[[keras.KerasTensor], tuple] = lambda tensor: tensor.shape,
) -> keras.Model:
    """Makes a Functional model of the same graph on new inputs of the same names.

    Args:
        model: The model whose graph to go along.
        run: Returns what a call gives in the new model: a function of the call and of its
            arguments, in which the new tensors stand for the old.
        what: Names the caller in errors.
        start: Returns what stands for an input in the calls, given the new input.
        shape: Returns the shape of a new input, given the old one.
    """
    old = functional(model, what)
    inputs = tree.map_structure(
        lambda x: keras.Input(
            batch_shape=shape(x), dtype=x.dtype, name=x._keras_history.operation.name
        ),
        old._inputs_struct,
    )
    known = {id(a): start(b) for a, b in zip(old.inputs, tree.flatten(inputs), strict=True)}

    def new(value):
        return known.get(id(value), value) if isinstance(value, keras.KerasTensor) else value

    for call in calls(model, what):
        args, kwargs = tree.map_structure(new, (call.args, call.kwargs))
        outputs = tree.flatten(run(call, args, kwargs))
        known |= {id(a): b for a, b in zip(call.outputs, outputs, strict=True)}
    outputs = tree.map_structure(new, old._outputs_struct)
    return keras.Model(inputs, outputs, name=model.name)
