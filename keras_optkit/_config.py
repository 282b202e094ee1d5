"""Configs read off the constructor."""

import copy
import inspect
from typing import Any

import keras


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
        shown = (
            f"{name}={getattr(self, name)!r}"
            for name, parameter in parameters(type(self)).items()
            if getattr(self, name) != parameter.default
        )
        return f"{type(self).__name__}({', '.join(shown)})"
