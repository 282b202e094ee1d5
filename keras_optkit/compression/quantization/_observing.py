"""What a model is run for, other than to train or to predict."""

import contextlib
import contextvars
from collections.abc import Iterator

_CALIBRATING: contextvars.ContextVar[bool] = contextvars.ContextVar("calibrating", default=False)
_EXPORTING: contextvars.ContextVar[bool] = contextvars.ContextVar("exporting", default=False)


def calibrating() -> bool:
    """Tells whether `calibrate` is running the model."""
    return _CALIBRATING.get()


def exporting() -> bool:
    """Tells whether a LiteRT file is being made of the model."""
    return _EXPORTING.get()


def calibration():
    """A context in which ranges widen to hold all that passes."""
    return _set(_CALIBRATING)


def export():
    """A context in which activations have the 8 bits that LiteRT has for them."""
    return _set(_EXPORTING)


@contextlib.contextmanager
def _set(variable: contextvars.ContextVar[bool]) -> Iterator[None]:
    token = variable.set(True)
    try:
        yield
    finally:
        variable.reset(token)
