"""Checks of arguments, all with one form of message: the rule, then what was received."""

import math
import numbers
import re
from collections.abc import Iterable
from typing import Any, Literal

Closed = Literal["both", "left", "right", "neither"]


def in_range(
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    closed: Closed = "both",
) -> float:
    """Returns `value` as a float if it is a real number between `low` and `high`."""
    number = _number(name, value)
    left = low is None or number > low or (number == low and closed in ("both", "left"))
    right = high is None or number < high or (number == high and closed in ("both", "right"))
    if not (left and right and math.isfinite(number)):  # a NaN is in no range
        raise ValueError(
            f"`{name}` must be {_interval(low, high, closed)}. {received(name, value)}"
        )
    return number


def integer(name: str, value: Any, low: int | None = None) -> int:
    """Returns `value` as an int if it is a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"`{name}` must be an integer. {received(name, value)}")
    if low is not None and value < low:
        raise ValueError(f"`{name}` must be an integer of at least {low}. {received(name, value)}")
    return int(value)


def one_of(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Returns that one of `choices` which `value` is or equals, so 4 for 4.0 and True for 1."""
    choices = tuple(choices)
    for choice in choices:
        if value is choice or value == choice:
            return choice
    listed = ", ".join(repr(choice) for choice in choices)
    raise ValueError(f"`{name}` must be one of {listed}. {received(name, value)}")


def instance(name: str, value: Any, types: type | tuple[type, ...], what: str) -> Any:
    """Returns `value` if it is an instance of `types`, which `what` describes to the reader."""
    if not isinstance(value, types):
        raise TypeError(f"`{name}` must be {what}. {received(name, value)}")
    return value


def flag(name: str, value: Any) -> bool:
    """Returns `value` if it is `True` or `False`."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False. {received(name, value)}")
    return value


def patterns(name: str, value: Any) -> tuple[str, ...]:
    """Returns `value`, a pattern or several or None, as a tuple of valid regular expressions."""
    given = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not all(isinstance(p, str) and p for p in given):
        raise TypeError(
            f"`{name}` must be a regular expression, or a list of them, each for whole segments "
            f'of weight paths such as "encoder/dense/kernel". {received(name, value)}'
        )
    for pattern in given:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"`{name}` must hold valid regular expressions; {pattern!r} is not: {error}. "
                f"To match a name literally, use re.escape. {received(name, value)}"
            ) from error
    return tuple(given)


def received(name: str, value: Any) -> str:
    """Returns the closing sentence of a message."""
    return f"Received: {name}={value!r}"


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number. {received(name, value)}")
    return float(value)


def _interval(low: float | None, high: float | None, closed: Closed) -> str:
    if low is None and high is None:
        return "a finite number"
    if high is None:
        return f"at least {low}" if closed in ("both", "left") else f"greater than {low}"
    if low is None:
        return f"at most {high}" if closed in ("both", "right") else f"less than {high}"
    left = "[" if closed in ("both", "left") else "("
    right = "]" if closed in ("both", "right") else ")"
    return f"in {left}{low:g}, {high:g}{right}"
