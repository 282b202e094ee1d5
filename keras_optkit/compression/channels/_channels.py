"""Which channels can only go together."""

import numpy as np


class Channels:
    """A union-find over channels, each a number; those made at once form a space."""

    def __init__(self):
        self._parents: list[int] = []
        self._spaces: list[int] = []  # of each channel
        self._count = 0
        self.frozen: list[tuple[np.ndarray, str]] = []

    def new(self, size: int) -> np.ndarray:
        """Returns the numbers of `size` new channels that form a space."""
        ids = np.arange(len(self._parents), len(self._parents) + size)
        self._parents.extend(ids.tolist())
        self._spaces.extend([self._count] * size)
        self._count += 1
        return ids

    def unify(self, left: np.ndarray, right: np.ndarray) -> None:
        """Makes each channel of `left` go with the one of `right` at the same place."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            a, b = sorted((self._root(a), self._root(b)))
            self._parents[b] = a

    def freeze(self, ids: np.ndarray, reason: str) -> None:
        """Keeps channels in any case."""
        self.frozen.append((ids, reason))

    def roots(self) -> np.ndarray:
        """Returns for each channel the first of those it goes with."""
        return np.array([self._root(i) for i in range(len(self._parents))], int)

    def signatures(self, roots: np.ndarray) -> dict[int, tuple[int, ...]]:
        """Returns for each root the spaces in which it has channels."""
        pairs = np.unique(np.stack([roots, np.array(self._spaces, int)]), axis=1)
        found: dict[int, tuple[int, ...]] = {}
        for root, space in pairs.T.tolist():
            found[root] = (*found.get(root, ()), space)
        return found

    def _root(self, i: int) -> int:
        parents = self._parents
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i
