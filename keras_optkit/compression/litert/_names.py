"""Names of tensors in LiteRT files, and the layers behind them."""

import keyword
import re
from collections.abc import Callable, Iterable

import keras
from keras import tree

from keras_optkit.compression._graph import functional
from keras_optkit.compression.litert._contents import Operation


def valid(name: str) -> str:
    """Returns `name` as the converter takes it: as an argument of a function in Python."""
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    if not re.match(r"[A-Za-z]", name):
        name = f"x{name}" if name.startswith("_") else f"x_{name}"
    return f"{name}_" if keyword.iskeyword(name) else name


def unique(names: Iterable[str]) -> list[str]:
    """Returns `names`, with numbers at the end of those that were there before."""
    found: list[str] = []
    for name in names:
        free, number = name, 1
        # TensorFlow does not tell upper from lower case here.
        while free.lower() in {other.lower() for other in found}:
            free, number = f"{name}_{number}", number + 1
        found.append(free)
    return found


def input_names(model: keras.Model, what: str) -> list[str]:
    """Returns the names of a model's inputs in a LiteRT file."""
    return unique(valid(name) for name in _given(functional(model, what)._inputs_struct))


def output_names(model: keras.Model, what: str) -> list[str]:
    """Returns the names of a model's outputs in a LiteRT file."""
    return unique(_given(functional(model, what)._outputs_struct))


def layers_of(model: keras.Model) -> Callable[[Operation], tuple[str, ...]]:
    """Returns a function that tells the layers of `model` behind an operation of its file."""
    known = set(_layer_names(model))

    def layer(path: str) -> str | None:
        *outer, last = path.split("/")
        if not outer and last in known:
            return last  # the name of an output
        for segment in reversed([*outer, last]):
            # Keras opens a layer's name scope twice, so TensorFlow always adds a number.
            name = re.sub(r"_\d+$", "", segment)
            if name in known:
                return name
        return None

    def layers(op: Operation) -> tuple[str, ...]:
        for names in (op.outputs, op.constants):
            found = [layer(path) for name in names for path in name.split(";")]
            if any(found):
                return tuple(dict.fromkeys(name for name in found if name))
        return ()

    return layers


def _given(structure) -> list[str]:
    """Returns the names a model's user gives its tensors by: keys of a dict, or layers."""
    return [
        path[-1] if path and isinstance(path[-1], str) else tensor._keras_history.operation.name
        for path, tensor in tree.flatten_with_path(structure)
    ]


def _layer_names(layer) -> Iterable[str]:
    for inner in getattr(layer, "layers", ()):
        yield inner.name
        yield from _layer_names(inner)
