"""What tasks a file was written in, so that it is not resumed in others."""

import contextlib
import zlib
from typing import Any

import numpy as np
from keras import ops, tree

ROWS = 64  # of each array are looked at
UNKNOWN = 0  # data that are no arrays of this process alone; like any other


class Marks:
    """A number for the data of each task so far, and for those that are trained on now."""

    def __init__(self):
        self.done: list[int] = []
        self.present: int | None = None

    @contextlib.contextmanager
    def training(self, mark: int):
        """Says what is trained on inside."""
        before, self.present = self.present, mark
        try:
            yield
        finally:
            self.present = before

    def state(self) -> np.ndarray:
        """Returns what `check` and `load_state` take."""
        return np.array([*self.done, self.present or UNKNOWN], "uint32")

    def check(self, state: np.ndarray) -> None:
        """Refuses, while training, what was written in another task or after other ones.

        Raises:
            ValueError: If it was.
        """
        if self.present is None:
            return
        *done, present = map(int, state)
        count, now = len(done), len(self.done)
        way = (
            "A run is resumed by the same calls of `fit` and `consolidate`, in the same order, and "
            "each `fit` needs a directory of its own, such as TrainingState(f'run-{task}')."
        )
        if count != now:
            raise ValueError(
                f"The file was written after {count} tasks, and this ContinualModel has "
                f"consolidated {now}. {way}"
            )
        for task, (one, other) in enumerate(zip(done, self.done, strict=True), 1):
            if not _alike(one, other):
                raise ValueError(
                    f"Task {task} of the file was of other data than that of this ContinualModel. "
                    f"{way}"
                )
        if not _alike(present, self.present):
            raise ValueError(f"The file was written while training on other data. {way}")

    def load_state(self, state: np.ndarray) -> None:
        """Takes over the tasks that are done."""
        self.done = [int(one) for one in state[:-1]]


def mark(x: Any, y: Any) -> int:
    """Returns a number that other arrays hardly share, from some of their rows."""
    leaves = tree.flatten(x) + ([] if y is None else tree.flatten(y))
    if not all(isinstance(leaf, np.ndarray) or ops.is_tensor(leaf) for leaf in leaves):
        return UNKNOWN
    found = 1
    for leaf in leaves:
        shape = tuple(leaf.shape)
        if shape:
            size = shape[0]
            rows = np.unique(np.linspace(0, size - 1, min(ROWS, size)).astype("int32"))
            # Only these rows leave the device.
            some = leaf[rows] if isinstance(leaf, np.ndarray) else ops.take(leaf, rows, axis=0)
            some = np.ascontiguousarray(ops.convert_to_numpy(some))
            found = found if some.dtype.hasobject else zlib.crc32(some.tobytes(), found)
        found = zlib.crc32(repr(shape).encode(), found)
    return found or 1


def _alike(one: int, other: int) -> bool:
    return one == other or UNKNOWN in (one, other)
