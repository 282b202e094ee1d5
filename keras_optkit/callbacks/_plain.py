"""Nested data with arrays in it, as JSON and `.npz` can hold it."""

from typing import Any

import keras
import numpy as np

MARK = "__array__"


def pack(value: Any, arrays: dict[str, np.ndarray], where: str) -> Any:
    """Returns `value` as JSON can hold it; moves its arrays into `arrays`, equal ones once.

    `where` tells the reader of an error what `value` is part of.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value) or MARK in value:
            raise TypeError(f"{where} must be a dict with names as keys. Received: {value!r}")
        return {key: pack(item, arrays, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item, arrays, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.ndarray) or (
        isinstance(value, np.generic) and not isinstance(value, (np.number, np.bool_))
    ):
        return _reference(np.asarray(value), arrays, where)
    if isinstance(value, np.generic):
        return value.item()
    if keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
        return _reference(keras.ops.convert_to_numpy(value), arrays, where)
    raise TypeError(
        f"{where} must be plain data: numbers, strings, None, and lists, dicts and NumPy arrays "
        f"of these. Received: {value!r} (of type {type(value)})"
    )


def unpack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The reverse of `pack`, but tuples have become lists and scalars Python's."""
    if isinstance(value, dict):
        if MARK in value:
            array = arrays[value[MARK]]
            return array.view(value["dtype"]).reshape(value["shape"])
        return {key: unpack(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [unpack(item, arrays) for item in value]
    return value


def _reference(array: np.ndarray, arrays: dict[str, np.ndarray], where: str) -> dict[str, Any]:
    if array.dtype.hasobject:
        raise TypeError(f"{where} must not be an array of Python objects. Received: {array!r}")
    # As bytes: NumPy's format does not know bfloat16.
    data = np.frombuffer(array.tobytes(), "uint8")
    known = (key for key, kept in arrays.items() if np.array_equal(kept, data))
    key = next(known, str(len(arrays)))
    arrays[key] = data
    return {MARK: key, "dtype": array.dtype.name, "shape": list(array.shape)}
