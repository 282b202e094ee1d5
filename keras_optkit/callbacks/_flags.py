"""Layers whose gradients need attention."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from keras_optkit.diagnostics._advice import ADVICE

Kind = Literal["vanishing", "exploding", "non-finite"]


@dataclasses.dataclass(frozen=True)
class Flag:
    """One layer found in trouble.

    Args:
        kind: `"vanishing"`, `"exploding"` or `"non-finite"`.
        layer: Name of the layer.
        step: Number of updates before the one that was measured.
        gradient_norm: Norm of the layer's gradient then.
        message: The same in words, with advice.
    """

    kind: Kind
    layer: str
    step: int
    gradient_norm: float
    message: str


class Watch:
    """Raises flags, one of a kind for each layer.

    Args:
        vanishing: See `GradientMonitor`, as for the others.
        exploding: ...
        patience: ...
    """

    def __init__(self, vanishing: float, exploding: float, patience: int):
        self.vanishing, self.exploding, self.patience = vanishing, exploding, patience
        self.flags: list[Flag] = []
        self._raised: set[tuple[Kind, str]] = set()
        self._tiny: Counter[str] = Counter()  # measurements in a row

    def check(self, step: int, layers: Sequence[str], values: np.ndarray) -> list[Flag]:
        """Returns the flags that a measurement raises for the first time."""
        norms = values[:, 0].tolist()
        finite = [_finite(*line) for line in values[:, :3].tolist()]
        largest = max(range(len(norms)), key=lambda i: norms[i] if finite[i] else -1.0)
        new = []
        for layer, norm, fine in zip(layers, norms, finite, strict=True):
            tiny = fine and norm < self.vanishing * norms[largest]
            self._tiny[layer] = self._tiny[layer] + 1 if tiny else 0
            if not fine:
                what = f"gradient norm {norm:.2g}" if not math.isfinite(norm) else "weights"
                new.append(self._flag("non-finite", layer, step, norm, f"non-finite {what}"))
            elif norm > self.exploding:
                limit = f"gradient norm {norm:.2g}, above {self.exploding:g}"
                new.append(self._flag("exploding", layer, step, norm, f"{limit}: exploding"))
            elif self._tiny[layer] >= self.patience:
                share = f"gradient {norm / norms[largest]:.1g} of that of {layers[largest]!r}"
                new.append(self._flag("vanishing", layer, step, norm, f"{share}: vanishing"))
        new = [flag for flag in new if (flag.kind, flag.layer) not in self._raised]
        self._raised |= {(flag.kind, flag.layer) for flag in new}
        self.flags += new
        return new

    @staticmethod
    def _flag(kind: Kind, layer: str, step: int, norm: float, found: str) -> Flag:
        message = f"layer {layer!r}, step {step}: {found}; {ADVICE[kind]}"
        return Flag(kind, layer, step, norm, message)


def _finite(gradient_norm: float, weight_norm: float, update_ratio: float) -> bool:
    defined = (gradient_norm, weight_norm, update_ratio if weight_norm else 0.0)
    return all(map(math.isfinite, defined))
