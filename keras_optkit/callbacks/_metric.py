"""What callbacks make of the values of a metric."""

import math
from typing import Any

from keras_optkit import _check

Ported = dict[str, str]


def improves(value: float, best: float | None, sign: int, min_delta: float, relative: bool) -> bool:
    """Tells whether `value` is better than `best`, and by more than `min_delta`.

    Args:
        value: The new value; one that is not finite is never better.
        best: The best one so far, or None.
        sign: 1 where more is better, -1 where less is.
        min_delta: What the difference must exceed.
        relative: Whether that is a share of `best`.
    """
    if best is None or not math.isfinite(value):
        return math.isfinite(value)
    return sign * (value - best) > min_delta * (abs(best) if relative else 1.0)


class Average:
    """An exponential average whose start does not count: at first it is the first value.

    ```text
    a = smoothing a + (1 - smoothing) m      smoothed m = a / (1 - smoothing^n), after n values
    ```

    A value that is not finite is returned as it is, and is not taken in.
    """

    def __init__(self, smoothing: float, total: float = 0.0, count: int = 0):
        self.smoothing, self.total, self.count = smoothing, total, count

    def __call__(self, value: float) -> float:
        if not self.smoothing or not math.isfinite(value):
            return value
        self.total = self.smoothing * self.total + (1 - self.smoothing) * value
        self.count += 1
        return self.total / (1 - self.smoothing**self.count)

    def state(self) -> list:
        """Returns what follows `smoothing` in the constructor."""
        return [self.total, self.count]


def refuse(callback: str, unknown: dict[str, Any], ported: Ported) -> None:
    """Raises an error for arguments that there are not, with the way to say it here.

    Args:
        callback: Name of the callback.
        unknown: The arguments.
        ported: For names in Keras' callback of that name, what to write instead.
    """
    for name, value in unknown.items():
        way = f" {ported[name]}" if name in ported else ""
        raise TypeError(f"{callback} has no argument `{name}`.{way} {_check.received(name, value)}")
