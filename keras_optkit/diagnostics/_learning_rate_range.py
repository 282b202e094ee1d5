"""Losses over a range of learning rates."""

import dataclasses
from typing import Any

import numpy as np

from keras_optkit._drawing import axes_or_current


@dataclasses.dataclass(repr=False, eq=False)
class LearningRateRange:
    """What `find_learning_rate` found; `str` says it in words.

    With the mean `s` of the `smoothed` losses over all seeds, learning rates `r`, and without the
    first tenth of the steps, whose running means are of few losses, nor the last step, these are
    one number each, or None if the loss never falls:

    ```text
    steepest = r_i at the lowest d s / d log r                          the `suggestion`
    minimum = r_i / 10 at the lowest s_i
    valley = r_i in the middle of the longest decreasing subsequence of s
    ```

    Args:
        learning_rates: The rate of each step, ascending.
        losses: The loss before each step, by seed and step; NaN from where a seed has stopped.
        smoothing: Decay per step of the running mean of losses.
        stopped: For each seed the rate at which the loss diverged, or NaN if it did not.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    smoothing: float
    stopped: np.ndarray

    @property
    def smoothed(self) -> np.ndarray:
        """Running mean of the losses, averaged over seeds; NaN from where one has stopped."""
        return self._curves().mean(axis=0)

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of the running means between seeds."""
        return self._curves().std(axis=0)

    @property
    def suggestion(self) -> float:
        """The learning rate where the loss falls fastest, `steepest`."""
        if self.steepest is None:
            raise ValueError(
                "There is no learning rate to suggest, as the loss never falls. Lower `low`, take "
                f"more `steps`, or look at the data and the loss. Received: {self}"
            )
        return self.steepest

    @property
    def steepest(self) -> float | None:
        """The learning rate where the loss falls fastest with the logarithm of the rate."""
        return self._steepest(self.smoothed)

    @property
    def steepest_of_seeds(self) -> list[float | None]:
        """`steepest` of each seed by itself."""
        return [self._steepest(curve) for curve in self._curves()]

    @property
    def minimum(self) -> float | None:
        """A tenth of the learning rate with the lowest loss."""
        rates, curve = self._considered(self.smoothed)
        return None if self.steepest is None else float(rates[np.argmin(curve)] / 10)

    @property
    def valley(self) -> float | None:
        """The learning rate half way down the longest decreasing subsequence of losses."""
        rates, curve = self._considered(self.smoothed)
        if self.steepest is None:
            return None
        lengths = np.ones(len(curve), int)
        for i in range(1, len(curve)):
            longest = lengths[:i][curve[:i] > curve[i]]
            lengths[i] = 1 + (longest.max() if len(longest) else 0)
        end = int(np.argmax(lengths))
        section = lengths[end] / 3
        return float(rates[max(end - lengths[end] + int(section) + int(section / 2), 0)])

    def plot(self, axes: Any = None) -> Any:
        """Draws losses over learning rates, and returns the matplotlib axes.

        Args:
            axes: Matplotlib axes to draw into; by default the current ones.
        """
        axes = axes_or_current(axes)
        rates, curve, spread = self.learning_rates, self.smoothed, self.spread
        for losses in self.losses:
            axes.plot(rates, losses, color="lightgray", linewidth=0.8)
        axes.plot(rates, curve, color="C0", label="smoothed")
        axes.fill_between(rates, curve - spread, curve + spread, color="C0", alpha=0.2)
        for i, name in enumerate(("steepest", "valley", "minimum"), 1):
            rate = getattr(self, name)
            if rate is not None:
                axes.axvline(rate, color=f"C{i}", linestyle="--", label=f"{name} {rate:.2g}")
        finite = curve[np.isfinite(curve)]
        if len(finite):  # a loss that explodes hides all others
            margin = 0.1 * (finite.max() - finite.min()) or 1.0
            axes.set_ylim(finite.min() - margin, finite.max() + margin)
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.legend()
        return axes

    def __str__(self):
        low, high = self.learning_rates[[0, -1]]
        seeds = len(self.losses)
        tried = f"{len(self.learning_rates)} learning rates from {low:.3g} to {high:.3g}"
        tried += f", {seeds} seed{'s' * (seeds > 1)}"
        if self.steepest is None:
            parts = [f"the loss never falls over {tried}"]
        else:
            each = [rate for rate in self.steepest_of_seeds if rate is not None]
            between = f" (of single seeds {min(each):.3g} to {max(each):.3g})" if each[1:] else ""
            parts = [
                f"suggestion {self.steepest:.3g}, where the loss falls fastest{between}",
                f"half way down {self.valley:.3g}",
                f"a tenth of the rate of the lowest loss {self.minimum:.3g}",
                tried,
            ]
        ended = self.stopped[np.isfinite(self.stopped)]
        where = f"diverged at {ended.min():.3g}" if len(ended) else "never diverged"
        return "; ".join([*parts, where])

    def __repr__(self):
        return f"LearningRateRange({self})"

    def _curves(self) -> np.ndarray:
        return np.stack([smooth(losses, self.smoothing) for losses in self.losses])

    def _considered(self, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        finite = int(np.isfinite(curve).sum())
        part = slice(finite // 10, finite - 1)
        return self.learning_rates[part], curve[part]

    def _steepest(self, curve: np.ndarray) -> float | None:
        rates, curve = self._considered(curve)
        if len(curve) < 2:
            return None
        slopes = np.gradient(curve, np.log(rates))
        return float(rates[np.argmin(slopes)]) if slopes.min() < 0 else None


def smooth(losses: np.ndarray, smoothing: float) -> np.ndarray:
    """Returns the running mean of `losses`, corrected for its start at 0; NaN after a NaN.

    ```text
    m_i = smoothing m_{i-1} + (1 - smoothing) losses_i      s_i = m_i / (1 - smoothing^i)
    ```
    """
    mean, result = 0.0, np.full(len(losses), np.nan)
    for i, loss in enumerate(losses):
        if not np.isfinite(loss):
            break
        mean = smoothing * mean + (1 - smoothing) * loss
        result[i] = mean / (1 - smoothing ** (i + 1))
    return result
