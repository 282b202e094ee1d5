"""Layers whose activations need attention."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from keras_optkit.diagnostics._advice import ADVICE

ActivationKind = Literal["dead", "saturated"]


@dataclasses.dataclass(frozen=True)
class ActivationFlag:
    """One layer found in trouble.

    Args:
        kind: `"dead"` or `"saturated"`.
        layer: Name of the layer.
        step: Number of updates done.
        share: How many of its units are dead, or of its outputs saturated, of 1.
        message: The same in words, with advice.
    """

    kind: ActivationKind
    layer: str
    step: int
    share: float
    message: str


class ActivationWatch:
    """Raises flags, one of a kind for each layer.

    Args:
        dead: See `ActivationMonitor`, as for the others.
        saturated: ...
        patience: ...
    """

    def __init__(self, dead: float, saturated: float, patience: int):
        self.dead, self.saturated, self.patience = dead, saturated, patience
        self.flags: list[ActivationFlag] = []
        self._full: Counter[str] = Counter()  # measurements in a row

    def check(self, step: int, layers: Sequence[str], values: np.ndarray) -> list[ActivationFlag]:
        """Returns the flags that a measurement raises for the first time."""
        new = []
        for layer, (_, dead, saturated) in zip(layers, values.tolist(), strict=True):
            self._full[layer] = self._full[layer] + 1 if saturated >= self.saturated else 0
            if dead >= self.dead:
                found = f"{dead:.0%} of the units are 0 on all of the probe: dead"
                new.append(self._flag("dead", layer, step, dead, found))
            if self._full[layer] >= self.patience:
                found = f"{saturated:.0%} of the outputs are near their limits: saturated"
                new.append(self._flag("saturated", layer, step, saturated, found))
        raised = {(flag.kind, flag.layer) for flag in self.flags}
        new = [flag for flag in new if (flag.kind, flag.layer) not in raised]
        self.flags += new
        return new

    @staticmethod
    def _flag(kind: ActivationKind, layer: str, step: int, share: float, found: str):
        message = f"layer {layer!r}, step {step}: {found}; {ADVICE[kind]}"
        return ActivationFlag(kind, layer, step, share, message)
