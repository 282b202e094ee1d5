"""Configs read off the constructor."""

import contextlib
import copy
import inspect
from typing import Any

import keras
import numpy as np


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Returns the named constructor parameters of `cls`: its own and, by `**kwargs`, its bases'."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        signature = inspect.signature(base.__init__)
        own = {n: p for n, p in signature.parameters.items() if n not in ("self", "args")}
        passes_on = "kwargs" in own  # `**unknown` is there to be refused
        found |= {n: p for n, p in own.items() if p.kind is not p.VAR_KEYWORD and n not in found}
        if not passes_on:
            break
    return found


def serialize(value: Any) -> Any:
    """Returns `value` as plain data; objects become Keras' `{"class_name": ..., "config": ...}`."""
    if isinstance(value, (list, tuple)):
        return [serialize(item) for item in value]
    if isinstance(value, dict):
        return {key: serialize(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return keras.saving.serialize_keras_object(value)


def deserialize(value: Any, custom_objects: dict | None = None) -> Any:
    """The reverse of `serialize`; leaves its argument as it was."""
    if isinstance(value, (list, tuple)):
        return [deserialize(item, custom_objects) for item in value]
    if isinstance(value, dict):
        if "class_name" in value and "config" in value:
            # A copy: the `from_config` of Keras' optimizers changes its argument.
            return keras.saving.deserialize_keras_object(copy.deepcopy(value), custom_objects)
        return {key: deserialize(item, custom_objects) for key, item in value.items()}
    return value


def call(thing: Any, arguments: dict[str, Any]) -> str:
    """Returns the call that makes `thing`, without the arguments that are as by default."""
    defaults = {name: parameter.default for name, parameter in parameters(type(thing)).items()}
    parts = []
    for name, value in arguments.items():
        if name == "learning_rate" or not _equal(value, defaults.get(name)):
            inside = not parts and isinstance(value, (keras.Operation, *_SHOWN))
            parts.append(shown(value) if inside else f"{name}={shown(value)}")
    return f"{type(thing).__name__}({', '.join(parts)})"


def shown(value: Any) -> str:
    """Returns `value` in short: Keras' own optimizers and schedules too, as a call."""
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(shown, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {shown(item)}' for key, item in value.items())}}}"
    if isinstance(value, keras.Variable):
        return _number(value)
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"<{value.dtype} array of shape {value.shape}>"
    if isinstance(value, _SHOWN) and type(value).__repr__ is object.__repr__:
        with contextlib.suppress(Exception):  # while a backend traces, its config cannot be had
            return call(value, _arguments(value))
    return getattr(value, "__qualname__", None) or repr(value)


_SHOWN = (keras.optimizers.Optimizer, keras.optimizers.schedules.LearningRateSchedule)


def _arguments(thing: Any) -> dict[str, Any]:
    """Returns the arguments of something of Keras, which may store them under other names."""
    rate = getattr(thing, "_learning_rate", None)  # if it is a schedule, it is one still
    known = {} if rate is None else {"learning_rate": rate}
    return {
        name: value
        for name, value in (thing.get_config() | known).items()
        if name in parameters(type(thing)) and not (name == "name" and known)
    }


def _number(variable: keras.Variable) -> str:
    """Returns the number in `variable`: 0.001, not 0.0010000000474974513."""
    try:
        return str(keras.ops.convert_to_numpy(variable))
    except Exception:  # while a backend traces, there is none
        return "<variable>"


def _equal(one: Any, other: Any) -> bool:
    """Tells whether two arguments mean the same: nothing may be None or an empty sequence."""
    nothing = (None, (), [], {})
    try:
        return bool(one == other) or (one in nothing and other in nothing)
    except (TypeError, ValueError):  # an array
        return False


class Configurable:
    """A class whose constructor stores each argument under its own name; that is its config."""

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain data."""
        return {name: serialize(getattr(self, name)) for name in parameters(type(self))}

    @classmethod
    def from_config(cls, config: dict[str, Any]):
        """Makes an equal object from what `get_config` returned."""
        return cls(**deserialize(config))

    def __repr__(self) -> str:
        return call(self, {name: getattr(self, name) for name in parameters(type(self))})
