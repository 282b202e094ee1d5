"""Where a buffer keeps its samples: arrays with a place for each, allocated once."""

from typing import Any, NamedTuple

import numpy as np

from keras_optkit import _check
from keras_optkit.continual import _nested

CHUNK = 1024  # samples copied at a time


class Samples(NamedTuple):
    """Nested arrays, taken apart."""

    structure: Any
    arrays: list[np.ndarray]
    names: list[str]


class Storage:
    """Places for `capacity` samples, all like the first ones."""

    def __init__(self, capacity: int, max_bytes: int | None):
        self.capacity, self.max_bytes = capacity, max_bytes
        self.held = Samples(None, [], [])

    @property
    def nbytes(self) -> int:
        """Bytes of all places."""
        return sum(array.nbytes for array in self.held.arrays)

    def check(self, data: dict[str, Any]) -> Samples:
        """Returns samples taken apart, if they could be kept beside those that are."""
        structure, arrays, names = _nested.flatten(data)
        _nested.rows(arrays, names)
        if not self.held.arrays:
            return Samples(structure, arrays, names)
        if _nested.key(structure) != _nested.key(self.held.structure):
            raise ValueError(
                f"The buffer holds {', '.join(self.held.names)}, and further samples must have "
                f"the same structure. Received: {', '.join(names)}"
            )
        for name, array, kept in zip(names, arrays, self.held.arrays, strict=True):
            if array.shape[1:] != kept.shape[1:] or array.dtype != kept.dtype:
                raise ValueError(
                    f"`{name}` must be like what the buffer holds: rows of shape "
                    f"{kept.shape[1:]} and dtype {kept.dtype}. Received: rows of shape "
                    f"{array.shape[1:]} and dtype {array.dtype}"
                )
        return Samples(structure, arrays, names)

    def allocate(self, samples: Samples) -> None:
        """Makes the places, unless they are there."""
        if self.held.arrays:
            return
        rows = [(array.shape[1:], array.dtype) for array in samples.arrays]
        each = sum(dtype.itemsize * int(np.prod(shape)) for shape, dtype in rows)
        if self.max_bytes is not None and each * self.capacity > self.max_bytes:
            raise ValueError(
                f"{self.capacity} samples of {each} bytes take {each * self.capacity} bytes. For "
                f"at most {self.max_bytes}, use a capacity of at most {self.max_bytes // each}. "
                f"{_check.received('max_bytes', self.max_bytes)}"
            )
        places = [np.zeros((self.capacity, *shape), dtype) for shape, dtype in rows]
        self.held = samples._replace(arrays=places)

    def write(self, samples: Samples, slots: np.ndarray) -> None:
        """Puts samples in their slots, none where it is -1, the last one where it is the same."""
        given = np.flatnonzero(slots >= 0)[::-1]
        _, latest = np.unique(slots[given], return_index=True)
        which = given[latest]
        for start in range(0, len(which), CHUNK):  # bounds the copies on the way
            part = which[start : start + CHUNK]
            for kept, array in zip(self.held.arrays, samples.arrays, strict=True):
                kept[slots[part]] = array[part]

    def rows(self, which: Any) -> dict[str, Any]:
        """Returns samples in the form in which they came."""
        arrays = [array[which] for array in self.held.arrays]
        return _nested.rebuild(self.held.structure, arrays) or {}
