"""Arrays in dicts, tuples and lists, with one row for each sample."""

import json
from typing import Any

import keras
import numpy as np


def flatten(value: Any, name: str = "") -> tuple[Any, list[np.ndarray], list[str]]:
    """Returns the structure of `value` as JSON can hold it, its arrays, and their names.

    An empty `name` is for a dict of what the reader of an error knows by its keys.
    """
    arrays: list[np.ndarray] = []
    names: list[str] = []

    def walk(part, name):
        if part is None:
            return None
        if isinstance(part, dict):
            if not all(isinstance(key, str) for key in part):
                raise TypeError(f"`{name}` must have names as keys. Received: {list(part)}")
            # Sorted, as Keras does, so that the order in a dict means nothing.
            keys = sorted(part) if name else list(part)
            named = {key: f"{name}[{key!r}]" if name else key for key in keys}
            return {"dict": {key: walk(part[key], named[key]) for key in keys}}
        if isinstance(part, tuple) or (isinstance(part, list) and _holds_arrays(part)):
            # Keras, too, makes a tuple of a list of inputs: `tf.data` would stack it.
            return {"tuple": [walk(item, f"{name}[{i}]") for i, item in enumerate(part)]}
        arrays.append(to_array(part, name))
        names.append(name)
        return len(arrays) - 1

    return walk(value, name), arrays, names


def rebuild(structure: Any, arrays: list[np.ndarray]) -> Any:
    """The reverse of `flatten`."""
    if structure is None:
        return None
    if isinstance(structure, int):
        return arrays[structure]
    ((kind, parts),) = structure.items()
    if kind == "dict":
        return {key: rebuild(part, arrays) for key, part in parts.items()}
    return tuple(rebuild(part, arrays) for part in parts)


def to_array(value: Any, name: str) -> np.ndarray:
    """Returns `value` as an array of numbers or strings that has rows."""
    if keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
        value = keras.ops.convert_to_numpy(value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"`{name}` must be an array: {error}") from error
    if array.dtype.hasobject:
        raise TypeError(
            f"`{name}` must be an array of numbers, not of Python objects. Received: {array!r}"
        )
    if array.ndim == 0:
        raise ValueError(f"`{name}` must have one row for each sample. Received: {array!r}")
    return array


def rows(arrays: list[np.ndarray], names: list[str]) -> int:
    """Returns how many samples there are, of which all `arrays` must have as many."""
    counts = {name: len(array) for name, array in zip(names, arrays, strict=True)}
    if not counts:
        raise ValueError("There must be at least one array of samples. Received none.")
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"All arrays must have the same number of samples. Received numbers of rows: {counts}"
        )
    return next(iter(counts.values()))


def take(value: Any, which: Any) -> Any:
    """Returns the rows `which` of all arrays in `value`."""
    structure, arrays, _ = flatten(value, "x")
    return rebuild(structure, [array[which] for array in arrays])


def key(structure: Any) -> str:
    """Returns a text that is the same for equal structures, of dicts in any order too."""
    return json.dumps(structure, sort_keys=True)


def _holds_arrays(part: list) -> bool:
    """Whether a list is one of arrays, as Keras takes for several inputs, and not of numbers."""
    return any(hasattr(item, "shape") and len(item.shape) > 0 for item in part)
