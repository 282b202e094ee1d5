"""Arguments of a call as plain data, with numbered places for the tensors."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.tfmot._configs import Untranslatable


def encode(value: Any, number: Iterator[int] | None = None) -> Any:
    """Returns `value` as plain data; tensors are numbered in the order of `tree.flatten`."""
    number = itertools.count() if number is None else number
    if isinstance(value, keras.KerasTensor):
        return {"tensor": next(number)}
    if isinstance(value, (list, tuple)):
        return [encode(item, number) for item in value]
    if isinstance(value, dict):
        return {"dict": {key: encode(value[key], number) for key in sorted(value)}}
    if isinstance(value, slice):
        return {"slice": encode([value.start, value.stop, value.step], number)}
    if value is Ellipsis:
        return {"ellipsis": True}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, keras.Variable):
        raise Untranslatable("it reads a variable of no layer; use a layer in its place")
    array = keras.ops.convert_to_numpy(value)
    return {"array": array.tolist(), "dtype": str(array.dtype)}


def decode(value: Any, tensors: Sequence[Any]) -> Any:
    """Returns what was encoded, with `tensors` in the numbered places."""
    if isinstance(value, (list, tuple)):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "dict" in value:
        return {key: decode(item, tensors) for key, item in value["dict"].items()}
    if "slice" in value:
        return slice(*decode(value["slice"], tensors))
    if "ellipsis" in value:
        return Ellipsis
    return np.asarray(value["array"], value["dtype"])
