"""Which weight trains by which settings: groups and exclusions, resolved."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_optkit import _match
from keras_optkit.optimizers.group import Group


@dataclass(frozen=True)
class Policy:
    """The settings of one weight. `weight_decay=None` is the optimizer's own."""

    lr_multiplier: float = 1.0
    weight_decay: float | None = None
    frozen: bool = False


class Policies:
    """A table: does weight `i` belong to group `j`? It is saved with the optimizer's state.

    Patterns are over paths, and paths may change when a model is rebuilt, so what a file says
    counts more than what the patterns say afterwards.
    """

    def __init__(self, groups, variables):
        self.groups: tuple[Group, ...] = tuple(groups)
        self.paths = [_match.path(v) for v in variables]
        for group in self.groups:
            group.warn_unmatched(variables)
        self.table = np.array(
            [[group.holds(v) for group in self.groups] for v in variables], dtype="uint8"
        ).reshape(len(variables), len(self.groups))

    def of(self, index: int) -> Policy:
        """Returns the settings of the weight at `index`."""
        policy = {"lr_multiplier": 1.0, "weight_decay": None, "frozen": False}
        for group, member in zip(self.groups, self.table[index], strict=True):
            if member:
                policy["lr_multiplier"] *= group.lr_multiplier
                policy["frozen"] |= group.frozen
                if group.weight_decay is not None:
                    policy["weight_decay"] = group.weight_decay
        return Policy(**policy)

    def restore(self, saved: Any) -> None:
        """Takes over the table of a file.

        Raises:
            ValueError: If the file was written for other groups or another number of weights.
        """
        saved = np.asarray(saved, dtype="uint8")
        if saved.shape != self.table.shape:
            raise ValueError(
                f"The file's table of groups is for {saved.shape[0]} weights in {saved.shape[1]} "
                f"groups, but this optimizer has {self.table.shape[0]} weights in "
                f"{self.table.shape[1]}. Give it the `groups` it was saved with, or load the "
                "model with compile=False and compile it anew."
            )
        differing = [
            p for p, a, b in zip(self.paths, saved, self.table, strict=True) if any(a != b)
        ]
        if differing:
            warnings.warn(
                "`groups` match other weights now than when the file was written; the file's "
                f"choice is kept. To use today's patterns, load with compile=False and compile "
                f"anew. The weights that differ: {', '.join(differing[:20])}",
                stacklevel=2,
            )
        self.table = saved
