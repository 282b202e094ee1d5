"""Activations and gradients of a model before training."""

import dataclasses
import math

from keras_optkit.diagnostics._table import table

# Changes of the variance from the first layer to the last that are too much. Gradients may differ
# more: they are small in queries and keys of attention, whatever the weights.
TOO_MUCH, TOO_MUCH_BACK = 100, 10_000

INITIALIZERS = {
    "relu": "keras.initializers.HeNormal()",
    "selu": 'keras.initializers.LecunNormal(), made for "selu"',
    "sigmoid": 'keras.initializers.VarianceScaling(16, "fan_avg", "uniform"), 4 times as wide as '
    "Glorot and Bengio's for tanh",
    "tanh": "keras.initializers.GlorotUniform()",
}


@dataclasses.dataclass(frozen=True)
class InitializationRow:
    """One call of one layer; numbers are over all samples and units.

    Args:
        layer: Name of the layer.
        mean: Mean of its output.
        std: Standard deviation of its output.
        zeros: Share of its outputs that are 0.
        before: Standard deviation before its activation; None where it has no kernel.
        gradient: Standard deviation of the gradient of the loss by its output; None without
            targets.
        constant: Whether all entries of its kernel are the same.
        activation: The activation that follows, as one of "relu", "selu", "sigmoid" and "tanh".
    """

    layer: str
    mean: float
    std: float
    zeros: float
    before: float | None
    gradient: float | None
    constant: bool
    activation: str


@dataclasses.dataclass(frozen=True)
class Initialization:
    """What `check_initialization` found; `str` makes a table of it, with what it means below.

    Args:
        rows: One for each call of a layer, in the order in which they finished.
        factors: What kernels were multiplied by, under the names of layers; empty if not asked for.
    """

    rows: list[InitializationRow]
    factors: dict[str, float]

    @property
    def growth(self) -> float:
        """Factor of the variance before activations from layer to layer; NaN for less than two.

        The geometric mean, over layers with a kernel but the last, whose size is up to the task.
        """
        sizes = [row.before for row in self._hidden() if row.before is not None]
        return _per_layer(sizes)

    @property
    def gradient_growth(self) -> float:
        """The same for gradients, from a layer to the one before; NaN without targets."""
        sizes = [row.gradient for row in self._hidden() if row.gradient is not None]
        return _per_layer(sizes[::-1])

    @property
    def verdict(self) -> list[str]:
        """What is wrong, and what to do about it; empty if nothing is."""
        found = []
        broken = [row.layer for row in self.rows if not math.isfinite(row.std)]
        if broken:
            found.append(f"Not finite: {_names(broken)}; look for NaN in the data.")
        hidden = self._hidden()
        same = [row.layer for row in hidden if row.constant]
        if same:
            found.append(
                f"Symmetric: all weights of {_names(same)} are the same, so their units stay the "
                f"same; use random weights, as of {self._initializer()}."
            )
        silent = [row.layer for row in self.rows[:-1] if row.zeros == 1 and not row.constant]
        if silent and not same:
            found.append(f"Dead: all outputs of {_names(silent)} are 0; look at biases and inputs.")
        if not same and not broken:
            forth, back = "layer by layer", "layer by layer towards the input"
            found += self._trend("variance before activations", self.growth, forth, TOO_MUCH)
            found += self._trend("variance of gradients", self.gradient_growth, back, TOO_MUCH_BACK)
        return found

    def __str__(self):
        head = ("layer", "mean", "std", "zeros", "before activation", "gradient")
        lines = [
            (
                r.layer,
                f"{r.mean:.3g}",
                f"{r.std:.3g}",
                f"{r.zeros:.0%}",
                "" if r.before is None else f"{r.before:.3g}",
                "" if r.gradient is None else f"{r.gradient:.3g}",
            )
            for r in self.rows
        ]
        words = self.verdict or ["Activations keep their size well enough."]
        if self.factors:
            words.append(
                "Kernels were multiplied: "
                + ", ".join(f"{name} by {factor:.3g}" for name, factor in self.factors.items())
                + "."
            )
        return "\n".join([*table(head, lines), *words])

    def _hidden(self) -> list[InitializationRow]:
        return [row for row in self.rows if row.before is not None][:-1]

    def _trend(self, what: str, factor: float, how: str, limit: float) -> list[str]:
        total = factor ** (len(self._hidden()) - 1)
        if not (total > limit or total < 1 / limit):
            return []
        kind, verb = ("Exploding", "grows") if total > 1 else ("Vanishing", "shrinks")
        return [
            f"{kind}: the {what} {verb} by a factor of {factor:.3g} {how}; use "
            f"{self._initializer()}, or `rescale=True`."
        ]

    def _initializer(self) -> str:
        kinds = list(dict.fromkeys(row.activation for row in self._hidden()))
        parts = [INITIALIZERS[kind] for kind in kinds]
        if len(kinds) == 1:
            return parts[0]
        return " and ".join(f"{part} before {k}" for k, part in zip(kinds, parts, strict=True))


def _per_layer(sizes: list[float]) -> float:
    if len(sizes) < 2 or not sizes[0]:
        return math.nan
    return (sizes[-1] / sizes[0]) ** (2 / (len(sizes) - 1))


def _names(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
