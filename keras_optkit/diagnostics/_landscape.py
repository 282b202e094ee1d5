"""A loss along one or two directions."""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_optkit import _check
from keras_optkit._drawing import axes_or_current


@dataclasses.dataclass(repr=False, eq=False)
class LossLandscape:
    """What `loss_landscape` found.

    Args:
        coordinates: Where the loss was computed, along each direction; ascending.
        losses: The losses: `losses[i]` at `coordinates[i]`, or `losses[i, j]` at
            `coordinates[i]` along the first direction and `coordinates[j]` along the second.
        origin: The weights at coordinate 0, like `model.get_weights()`.
        directions: One or two steps of length 1 in these coordinates, each like
            `model.get_weights()`.
    """

    coordinates: np.ndarray
    losses: np.ndarray
    origin: list[np.ndarray]
    directions: list[list[np.ndarray]]

    def weights(self, *coordinates: float) -> list[np.ndarray]:
        """Returns the weights at a place, for `model.set_weights`.

        Args:
            *coordinates: One number for each direction.
        """
        if len(coordinates) != len(self.directions):
            raise ValueError(
                f"`coordinates` must be {len(self.directions)} numbers, one for each direction. "
                f"{_check.received('coordinates', coordinates)}"
            )
        return [
            (start + sum(c * d for c, d in zip(coordinates, steps, strict=True))).astype(
                start.dtype
            )
            for start, *steps in zip(self.origin, *self.directions, strict=True)
        ]

    @property
    def barrier(self) -> float:
        """How far the loss between coordinates 0 and 1 rises above the line from end to end.

        NaN for two directions, or if 0 and 1 are not both among the coordinates.
        """
        inside = (self.coordinates >= 0) & (self.coordinates <= 1)
        t, losses = self.coordinates[inside], self.losses[inside]
        if losses.ndim > 1 or len(t) < 2 or t[0] != 0 or t[-1] != 1:
            return math.nan
        return float(np.max(losses - (1 - t) * losses[0] - t * losses[-1]))

    def plot(self, axes: Any = None) -> Any:
        """Draws the loss, as a line or as contours, and returns the matplotlib axes.

        Args:
            axes: Matplotlib axes to draw into; by default the current ones.
        """
        axes = axes_or_current(axes)
        if self.losses.ndim == 1:
            axes.plot(self.coordinates, self.losses)
            axes.set(xlabel="along the direction", ylabel="loss")
        else:
            drawn = np.ma.masked_invalid(self.losses.T)
            filled = axes.contourf(self.coordinates, self.coordinates, drawn, levels=30)
            axes.figure.colorbar(filled, ax=axes, label="loss")
            axes.set(xlabel="along the first direction", ylabel="along the second")
        return axes

    def __str__(self):
        finite = np.isfinite(self.losses)
        if not finite.any():
            return f"no loss of {self.losses.size} is finite"
        low = np.unravel_index(np.argmin(np.where(finite, self.losses, np.inf)), finite.shape)
        place = ", ".join(f"{self.coordinates[i]:.3g}" for i in low)
        parts = [
            f"{self.losses.size} losses: lowest {self.losses[low]:.6g} at ({place})",
            f"highest {self.losses[finite].max():.6g}",
        ]
        if not math.isnan(self.barrier):
            parts.append(f"barrier {self.barrier:.3g}")
        if not finite.all():
            parts.append(f"{np.count_nonzero(~finite)} not finite")
        return "; ".join(parts)

    def __repr__(self):
        return f"LossLandscape({self})"
