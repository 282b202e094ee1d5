"""The eigenvalues of a Hessian, and what they say."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from keras_optkit._drawing import axes_or_current


class Density(NamedTuple):
    """Share of eigenvalues per unit of the axis; the area below is 1.

    Args:
        grid: Eigenvalues, ascending.
        values: Density at each.
    """

    grid: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(repr=False, eq=False)
class HessianSpectrum:
    """What `hessian_spectrum` found. In words by `str`, as a picture by `plot`.

    Args:
        largest: The largest eigenvalues, descending.
        smallest: The smallest eigenvalues, ascending.
        largest_residuals: `|H v - value v|` of each; there is an eigenvalue no farther off.
        smallest_residuals: Likewise.
        largest_vectors: Eigenvectors as rows if asked for, else None. Their entries are those
            of `model.trainable_variables`, flattened and joined.
        smallest_vectors: Likewise.
        trace: Sum of all eigenvalues; an estimate unless `exact`, NaN without probes.
        trace_error: Standard error of `trace`; NaN with one probe.
        nodes: Eigenvalues that stand for all, ascending; all there are if `exact`.
        weights: Share of the spectrum that each node stands for; their sum is 1.
        rounding: Size of the rounding errors in a product `H v`: what is nearer to 0 is 0.
        loss: The loss at these weights.
        parameters: Number of trainable weights, and of eigenvalues.
        products: How many Hessian-vector products it took.
        seconds: Wall time, with tracing and compiling.
        converged: Whether all residuals are within the tolerance.
        exact: Whether all eigenvalues were computed.
    """

    largest: np.ndarray
    smallest: np.ndarray
    largest_residuals: np.ndarray
    smallest_residuals: np.ndarray
    largest_vectors: np.ndarray | None
    smallest_vectors: np.ndarray | None
    trace: float
    trace_error: float
    nodes: np.ndarray
    weights: np.ndarray
    rounding: float
    loss: float
    parameters: int
    products: int
    seconds: float
    converged: bool
    exact: bool

    @property
    def condition_number(self) -> float:
        """`largest[0] / smallest[0]`: at least this, until the smallest has converged.

        Infinite where the smallest is 0 up to rounding, and NaN where it is negative.
        """
        low = float(self.smallest[0])
        if abs(low) <= self.rounding:
            return math.inf
        return float(self.largest[0]) / low if low > 0 else math.nan

    @property
    def negative_share(self) -> float:
        """Share of eigenvalues below 0 by more than rounding; NaN without probes."""
        return float(self.weights[self.nodes < -self.rounding].sum()) if len(self.nodes) else np.nan

    @property
    def density(self) -> Density:
        """The spectrum, with each node a Gaussian as wide as a hundredth of the whole.

        Raises:
            ValueError: Without probes.
        """
        if not len(self.nodes):
            raise ValueError("`density` needs `probes` of at least 1. Received: probes=0")
        low, high = self.nodes[0], self.nodes[-1]
        width = max((high - low) / 100, self.rounding, float(np.finfo(float).tiny))
        grid = np.linspace(low - 4 * width, high + 4 * width, 1001)
        bells = np.exp(-(((grid[:, None] - self.nodes) / width) ** 2) / 2)
        return Density(grid, bells @ self.weights / (width * math.sqrt(2 * math.pi)))

    @property
    def verdict(self) -> str:
        """What the eigenvalues say about training from here, in words."""
        high, low, ratio = self.largest[0], self.smallest[0], self.condition_number
        if max(high, -low) <= self.rounding:
            return "flat: all eigenvalues are 0 up to rounding"
        if high <= self.rounding:
            return "concave: no direction curves upwards; this is far from a minimum"
        below = f"plain gradient descent needs a learning rate below 2/{high:.3g} = {2 / high:.3g}"
        if low < -self.rounding:
            share = self.negative_share
            part = "" if math.isnan(share) else f" and {100 * share:.2g} % of all are negative"
            return (
                f"saddle: the smallest eigenvalue is {low:.3g}{part}, so the loss falls from here "
                f"even where the gradient vanishes; go on training. {below.capitalize()}"
            )
        if ratio > ILL:
            size = "infinite up to rounding" if math.isinf(ratio) else f"{ratio:.1e}"
            return (
                f"ill-conditioned: {size}; {below}, and then crawls along the flattest direction; "
                "try normalization, scaled inputs, momentum, an adaptive optimizer or `minimize`"
            )
        return f"well-conditioned: {ratio:.3g}; {below}"

    def plot(self, axes: Any = None) -> Any:
        """Draws the density on a logarithmic scale, and returns the matplotlib axes.

        Args:
            axes: Matplotlib axes to draw into; by default the current ones.
        """
        grid, values = self.density
        axes = axes_or_current(axes)
        axes.semilogy(grid, np.maximum(values, 1e-6 * values.max()))
        ends = np.unique(np.concatenate([self.smallest, self.largest]))
        axes.plot(ends, np.full(len(ends), 1e-6 * values.max()), "|", label="eigenvalues")
        axes.set(xlabel="eigenvalue of the Hessian", ylabel="density")
        axes.legend()
        return axes

    def __str__(self):
        end = "" if self.converged else ", not converged"
        around = "" if self.exact else f" +- {self.trace_error:.2g}"
        return (
            f"{self.verdict}. Eigenvalues {_listed(self.largest)} ... "
            f"{_listed(self.smallest[::-1])}{end}; trace {self.trace:.4g}{around}; "
            f"loss {self.loss:.6g}; {self.parameters} weights, {self.products} products, "
            f"{self.seconds:.1f} s"
        )

    def __repr__(self):
        return f"HessianSpectrum({self})"


ILL = 1e3  # from where on steps of gradient descent are counted in thousands


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
