"""Time spent training."""

import time


class Clock:
    """Seconds between its `start`s and the `tick`s that follow them."""

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self._last: float | None = None

    def start(self) -> None:
        """Begins to count; what passed since the last tick is not training."""
        self._last = time.monotonic()

    def tick(self) -> float:
        """Returns the seconds so far."""
        if self._last is not None:
            now = time.monotonic()
            self.seconds += now - self._last
            self._last = now
        return self.seconds
