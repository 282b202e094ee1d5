"""Whether ranges are being measured by `calibrate`."""

import contextlib
import contextvars

_CALIBRATING: contextvars.ContextVar[bool] = contextvars.ContextVar("calibrating", default=False)


def calibrating() -> bool:
    """Tells whether `calibrate` is running the model."""
    return _CALIBRATING.get()


@contextlib.contextmanager
def calibration():
    """A context in which ranges widen to hold all that passes."""
    token = _CALIBRATING.set(True)
    try:
        yield
    finally:
        _CALIBRATING.reset(token)
