"""What the curves of schedules are made of, without cancellation at either end."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

from keras import ops

Shape = Literal["linear", "cosine"]


def shares(step: Any, start: float, end: float) -> tuple[Any, Any]:
    """Returns which shares of the way from step `start` to step `end` are done and left.

    Both are float32, in [0, 1], and each exact where it is small: `1 - done` is not.
    """
    length = end - start
    done, left = since(start, step) / length, -since(end, step) / length
    return ops.clip(done, 0.0, 1.0), ops.clip(left, 0.0, 1.0)


def since(start: float, step: Any) -> Any:
    """Returns `step - start` in float32; `start` need not be whole."""
    whole = math.floor(start)  # subtracted as integers: float32 has no 2^24 + 1
    return ops.cast(step - whole, "float32") - (start - whole)


def ease(shape: Shape, share: Any) -> Any:
    """Returns the shape's rise from 0 to 1: `share` itself, or `(1 - cos(pi share)) / 2`."""
    return share if shape == "linear" else ops.square(ops.sin(math.pi / 2 * share))


def between(first: Any, last: Any, done: Any, left: Any, shape: Shape = "linear") -> Any:
    """Returns what lies between the values `first` and `last` when these shares are done, left."""
    return first * ease(shape, left) + last * ease(shape, done)


def through(step: Any, points: Sequence[tuple[float, float]], shape: Shape) -> Any:
    """Returns the value at `step` of the curve through `points`, each a step and a value."""
    value = ops.full_like(step, points[0][1], dtype="float32")
    for (start, first), (end, last) in itertools.pairwise(points):
        curve = between(first, last, *shares(step, start, end), shape)
        value = ops.where(step < math.ceil(start), value, curve)
    return value


def power(factor: float, count: Any) -> Any:
    """Returns `factor` to the power of the integers `count`, for `0 < factor`.

    By the logarithm in Python's float64: the float32 next to 0.999 is off by a factor of 1.0001
    after some thousand steps.
    """
    return ops.exp(math.log(factor) * ops.cast(count, "float32"))
