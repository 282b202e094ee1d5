"""Weights from one model into another of the same layers."""

from typing import Any

import keras
import numpy as np


def copy_weights(source: Any, target: Any) -> None:
    """Copies the weights of a model into another, layer by layer by their names.

    Either may be of Keras 3, whatever its backend, or of tf_keras; the values go through NumPy.
    Nothing is written unless everything fits.

    Args:
        source: The model to read.
        target: The model to write. Layers without weights need not be in both.

    Raises:
        ValueError: If a layer with weights is in one model only, or the shapes differ: every such
            layer is named, with both shapes.

    Example:
        ```python
        tfmot.copy_weights(tf_model, model)
        ```
    """
    for name, model in (("source", source), ("target", target)):
        if not hasattr(model, "layers") or not hasattr(model, "weights"):
            raise TypeError(
                f"`{name}` must be a model of Keras 3 or of tf_keras. Received: {name}={model!r}"
            )
        if not model.built:
            raise ValueError(
                f"copy_weights needs the weights, and `{name}` is not built. Call it on a batch, "
                f"or give it an Input, first. Received: {name}={model.name!r}"
            )
    pairs: list[tuple[Any, Any]] = []
    problems = _match(source, target, "", pairs)
    if problems:
        raise ValueError(
            "copy_weights needs the same layers with the same shapes in both models:\n  "
            + "\n  ".join(problems)
        )
    for variable, old in pairs:
        variable.assign(_array(old))


def _match(source: Any, target: Any, path: str, pairs: list) -> list[str]:
    """Adds the pairs of variables to `pairs`, and returns what does not fit."""
    old, new = _children(source), _children(target)
    problems = []
    for name in dict.fromkeys([*old, *new]):
        where = f"{path}{name}"
        if name in old and name in new:
            problems += _match(old[name], new[name], f"{where}/", pairs)
        elif (old.get(name) or new[name]).weights:
            side = "source" if name in old else "target"
            problems.append(f"{where}: only in the {side}")
    return problems + _match_own(
        _own(source, old), _own(target, new), path[:-1] or source.name, pairs
    )


def _match_own(old: list, new: list, where: str, pairs: list) -> list[str]:
    shapes = [[tuple(v.shape) for v in side] for side in (old, new)]
    if len(old) != len(new):
        return [f"{where}: shapes {shapes[0]} in the source, {shapes[1]} in the target"]
    names = [_short(v) for v in old]
    by_name = {_short(v): v for v in new}
    if len(set(names)) == len(by_name) == len(new) and set(names) == set(by_name):
        new = [by_name[name] for name in names]
    wrong = [
        f"{where}: {_short(a)} is {tuple(a.shape)} in the source, {tuple(b.shape)} in the target"
        for a, b in zip(old, new, strict=True)
        if tuple(a.shape) != tuple(b.shape)
    ]
    pairs += zip(new, old, strict=True)
    return wrong


def _children(layer: Any) -> dict[str, Any]:
    """Returns the layers in a model or wrapper whose weights are copied on their own."""
    if hasattr(layer, "forward_layer"):
        return {"forward": layer.forward_layer, "backward": layer.backward_layer}
    if hasattr(layer, "layers"):
        return {inner.name: inner for inner in layer.layers}
    return {"layer": layer.layer} if hasattr(layer, "layer") else {}


def _own(layer: Any, children: dict[str, Any]) -> list:
    taken = {id(v) for child in children.values() for v in child.weights}
    if type(layer).__name__ == "Normalization":
        return []  # In tf_keras its statistics are arguments.
    return [v for v in layer.weights if id(v) not in taken]


def _short(variable: Any) -> str:
    return variable.name.split("/")[-1].split(":")[0]


def _array(variable: Any) -> np.ndarray:
    if isinstance(variable, keras.Variable):
        return keras.ops.convert_to_numpy(variable)
    return variable.numpy()
