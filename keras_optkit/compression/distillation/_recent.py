"""What the student's layers have put out, kept from its forward pass until the loss asks."""

import threading
import weakref
from typing import Any

from keras import tree

# Of this thread: the replicas of a strategy run in several, in turns.
_local = threading.local()


def keep(outputs, features: dict[str, Any]) -> None:
    """Keeps `features`, which belong to `outputs`, for as long as those are there."""
    leaf = tree.flatten(outputs)[0]

    def forget(reference):
        if getattr(_local, "kept", (None,))[0] is reference:
            del _local.kept

    _local.kept = weakref.ref(leaf, forget), features


def take(outputs) -> dict[str, Any] | None:
    """Returns what was kept for `outputs`, once, or None."""
    reference, features = getattr(_local, "kept", (None, None))
    if reference is None or reference() is not tree.flatten(outputs)[0]:
        return None
    del _local.kept
    return features
