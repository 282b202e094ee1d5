"""Threads that make the next batches while the present one is trained on."""

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any


class Ahead:
    """Makes items by number, and with several threads the numbers that follow, too."""

    def __init__(self, threads: int):
        self.threads = threads
        self._lock = threading.Lock()
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._begun: dict[int, concurrent.futures.Future] = {}

    def get(self, make: Callable[[int], Any], index: int, end: int) -> Any:
        """Returns `make(index)`; begins with those after it, up to `end`."""
        if self.threads < 2:
            return make(index)
        wanted = range(index, min(index + 1 + self.threads, end))
        with self._lock:
            if self._pool is None:
                self._pool = concurrent.futures.ThreadPoolExecutor(self.threads)
            kept = {i: future for i, future in self._begun.items() if i in wanted}
            for i in wanted:
                if i not in kept:
                    kept[i] = self._pool.submit(make, i)
            future = kept.pop(index)
            self._begun = kept
        return future.result()

    def clear(self) -> None:
        """Forgets what was made ahead, and lets the threads end."""
        with self._lock:
            pool, self._pool, self._begun = self._pool, None, {}
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
