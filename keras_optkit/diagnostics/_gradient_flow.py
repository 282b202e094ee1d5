"""Gradients of a model, layer by layer."""

import dataclasses
import math
from typing import Any

from keras_optkit._drawing import axes_or_current
from keras_optkit.diagnostics._advice import ADVICE
from keras_optkit.diagnostics._table import table


@dataclasses.dataclass(frozen=True)
class GradientFlowRow:
    """The weights of one layer, taken together.

    Args:
        layer: Path of the weights without the last segment.
        gradient_norm: Euclidean norm of the gradient.
        weight_norm: That of the weights.
        share: The gradient's norm as a share of the largest one; NaN if that is 0.
    """

    layer: str
    gradient_norm: float
    weight_norm: float
    share: float

    @property
    def ratio(self) -> float:
        """Gradient norm over weight norm, so the inverse of a learning rate; NaN at weights 0."""
        return self.gradient_norm / self.weight_norm if self.weight_norm else math.nan


@dataclasses.dataclass(frozen=True)
class GradientFlow:
    """What `gradient_flow_report` found; `str` makes a table of it, with what it means below.

    Args:
        loss: The loss of the batch, penalties included.
        rows: One for each layer that trains, from input to output.
        vanishing: Share of the largest norm below which a gradient is tiny.
        exploding: Norm above which a gradient is too large.
    """

    loss: float
    rows: list[GradientFlowRow]
    vanishing: float
    exploding: float

    @property
    def verdict(self) -> list[str]:
        """What is wrong, and what to do about it; empty if nothing is."""
        found = []
        broken = [r for r in self.rows if not math.isfinite(r.gradient_norm)]
        if broken or not math.isfinite(self.loss):
            where = f"gradients of {_names(broken)}" if broken else f"loss of {self.loss}"
            found.append(f"Not finite: {where}; {ADVICE['non-finite']}.")
        zero = [r for r in self.rows if r.gradient_norm == 0]
        if zero:
            found.append(
                f"Gradients of 0: {_names(zero)}; the loss does not depend on them, or their units "
                "or later ones are dead."
            )
        tiny = [r for r in self.rows if r.gradient_norm != 0 and r.share < self.vanishing]
        if tiny:
            found.append(
                f"Vanishing, below {self.vanishing:g} of the largest: {_names(tiny)}; "
                f"{ADVICE['vanishing']}."
            )
        large = [r for r in self.rows if self.exploding < r.gradient_norm < math.inf]
        if large:
            found.append(
                f"Exploding, above {self.exploding:g}: {_names(large)}; {ADVICE['exploding']}."
            )
        return found

    def plot(self, axes: Any = None) -> Any:
        """Draws the norms of gradients as bars, and returns the matplotlib axes.

        Args:
            axes: Matplotlib axes to draw into; by default the current ones.
        """
        axes = axes_or_current(axes)
        norms = [row.gradient_norm for row in self.rows]
        axes.barh([row.layer for row in self.rows], norms)
        if any(0 < norm < math.inf for norm in norms):
            axes.set_xscale("log")
        axes.invert_yaxis()  # the input on top, as in the table
        axes.set(xlabel="gradient norm")
        return axes

    def __str__(self):
        head = ("layer", "gradient norm", "weight norm", "ratio", "of largest")
        lines = [
            (r.layer, *(f"{x:.3g}" for x in (r.gradient_norm, r.weight_norm, r.ratio, r.share)))
            for r in self.rows
        ]
        words = self.verdict or ["Gradients reach all layers at sizes that differ little enough."]
        return "\n".join([f"loss {self.loss:.6g}", *table(head, lines), *words])


def _names(rows: list[GradientFlowRow]) -> str:
    names = [row.layer for row in rows]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
