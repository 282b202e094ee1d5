"""The largest eigenvalue of a Hessian, again and again."""

import math

import numpy as np

from keras_optkit.diagnostics._fixed_loss import Curvature, NotFiniteError, fixed_loss
from keras_optkit.diagnostics._lanczos import Krylov, lanczos

LEADING = 3  # eigenvectors to start from: one that overtakes the first was close behind
NOISE = 0.1  # length of the random vector that is added, for one that came from nowhere


class Sharpness:
    """Measures the sharpness of a model's loss on fixed data.

    Args:
        settings: The `SharpnessMonitor` whose arguments to use.
        model: A built and compiled model.
    """

    def __init__(self, settings, model):
        self._objective = fixed_loss(
            model, settings.data, settings.loss, settings.batch_size, settings.training
        )
        self._steps, self._tolerance = settings.max_iterations, settings.tolerance
        self._generator = np.random.default_rng(settings.seed)
        self._start: np.ndarray | None = None
        self.products = 0

    def measure(self) -> float:
        """Returns the largest eigenvalue at the weights the model has now, or NaN."""
        self._objective.refresh()
        curvature = Curvature(self._objective)
        noise = self._generator.standard_normal(curvature.size).astype(curvature.dtype)
        noise /= np.linalg.norm(noise)
        start = noise if self._start is None else self._start + NOISE * noise
        try:
            krylov = lanczos(curvature, start, self._steps, self._generator, self._found)
        except NotFiniteError:
            return math.nan
        finally:
            self.products = curvature.products
        largest, _ = krylov.ends(LEADING)
        self._start = largest.vectors.sum(axis=0)
        return float(largest.values[0])

    def _found(self, krylov: Krylov) -> bool:
        ritz = krylov.ritz()
        return bool(ritz.residuals[-1] <= self._tolerance * abs(ritz.values).max())
