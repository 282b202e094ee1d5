"""Which samples a full buffer keeps: decisions about slots, without the samples.

Each policy draws the same number of random numbers for every sample, whether it needs them or
not. So what a buffer keeps does not depend on how the samples were divided into calls of `add`.
"""

from typing import Any, ClassVar

import numpy as np


class Policy:
    """Gives each new sample a slot, or -1 if it is not kept.

    The first `capacity` samples fill the slots from 0 on; later ones replace others.
    """

    draws: ClassVar[int] = 0
    needs_labels: ClassVar[bool] = False

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.seen = 0

    def place(self, labels: list, draws: np.ndarray) -> np.ndarray:
        """Returns the slot of each sample; a slot given twice belongs to the later sample.

        Args:
            labels: Classes of the samples, or as many of None.
            draws: Uniform random numbers in [0, 1), of shape `(samples, self.draws)`.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Returns what `load_state` needs to decide on like this."""
        return {"seen": self.seen}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.seen = int(state["seen"])


class Reservoir(Policy):
    """Algorithm R: after `t` samples each is in the buffer with probability `capacity / t`."""

    draws = 1

    def place(self, labels, draws):
        number = self.seen + np.arange(len(labels))
        slots = np.where(
            number < self.capacity, number, (draws[:, 0] * (number + 1)).astype("int64")
        )
        self.seen += len(labels)
        return np.where(slots < self.capacity, slots, -1)


class _ByClass(Policy):
    """Knows the slots of each class, in the order in which they were filled."""

    needs_labels = True

    def __init__(self, capacity):
        super().__init__(capacity)
        self.slots: dict[Any, list[int]] = {}
        self.met: dict[Any, int] = {}  # samples seen of each class

    def place(self, labels, draws):
        placed = np.empty(len(labels), "int64")
        for i, (label, numbers) in enumerate(zip(labels, draws.tolist(), strict=True)):
            own = self.slots.setdefault(label, [])
            self.met[label] = self.met.get(label, 0) + 1
            if self.seen < self.capacity:
                own.append(self.seen)
                placed[i] = self.seen
            else:
                placed[i] = self.decide(label, own, *numbers)
            self.seen += 1
        return placed

    def decide(self, label: Any, own: list[int], *numbers: float) -> int:
        """Returns the slot of a sample for which another must go, and takes note of it."""
        raise NotImplementedError

    def state(self):
        return super().state() | {
            "classes": np.asarray(list(self.slots)),
            "counts": np.asarray([len(own) for own in self.slots.values()], "int64"),
            "slots": np.asarray([slot for own in self.slots.values() for slot in own], "int64"),
            "met": np.asarray(list(self.met.values()), "int64"),
        }

    def load_state(self, state):
        super().load_state(state)
        labels = np.asarray(state["classes"]).tolist()
        ends = np.cumsum(np.asarray(state["counts"], "int64"))
        parts = np.split(np.asarray(state["slots"], "int64"), ends)[:-1]
        self.slots = {label: part.tolist() for label, part in zip(labels, parts, strict=True)}
        self.met = dict(zip(labels, np.asarray(state["met"]).tolist(), strict=True))


class ClassBalanced(_ByClass):
    """CBRS: takes room from the largest class, and samples uniformly within each class."""

    draws = 2

    def __init__(self, capacity):
        super().__init__(capacity)
        self.full: set = set()  # classes that are or were the largest of a full buffer

    def decide(self, label, own, *numbers):
        chance, choice = numbers
        if not self.full:
            self._note_full()
        if label in self.full:
            keep = chance * self.met[label] < len(own)
            return own[int(choice * len(own))] if keep else -1
        most = max(map(len, self.slots.values()))
        largest = [slots for slots in self.slots.values() if len(slots) == most]
        which = int(choice * most * len(largest))
        slot = largest[which // most].pop(which % most)
        own.append(slot)
        self._note_full()
        return slot

    def _note_full(self):
        most = max(map(len, self.slots.values()))
        self.full.update(label for label, own in self.slots.items() if len(own) == most)

    def state(self):
        full = np.asarray([label in self.full for label in self.slots], bool)
        return super().state() | {"full": full}

    def load_state(self, state):
        super().load_state(state)
        self.full = {label for label, full in zip(self.slots, state["full"], strict=True) if full}


class Ring(_ByClass):
    """The newest samples of each class, as many of each."""

    def decide(self, label, own, *numbers):
        most = max(map(len, self.slots.values()))
        if not own or len(own) < most - 1:
            largest = next(slots for slots in self.slots.values() if len(slots) == most)
            slot = largest.pop(0)
        else:
            slot = own.pop(0)
        own.append(slot)
        return slot


POLICIES: dict[str, type[Policy]] = {
    "reservoir": Reservoir,
    "class_balanced": ClassBalanced,
    "ring": Ring,
}
