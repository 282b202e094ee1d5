"""Methods by name."""

import inspect
from typing import Any

from keras_optkit import _check
from keras_optkit._registry import REGISTRY
from keras_optkit.compression.pruning._method import Method


def as_method(value: Any) -> Method:
    """Returns `value` if it is a method, or the one of that name with its default arguments."""
    if isinstance(value, str):
        named = {n.lower(): c for n, c in REGISTRY.items() if issubclass(c, Method)}
        value = named[_check.one_of("method", value, sorted(named)).lower()]()
    if inspect.isclass(value) and issubclass(value, Method):
        raise TypeError(
            f"`method` must be an object, not a class: {value.__name__}(). "
            f"{_check.received('method', value)}"
        )
    return _check.instance("method", value, Method, "a Method of keras_optkit.compression")
