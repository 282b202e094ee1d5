"""Power iteration, the yardstick for the method of Lanczos."""

import numpy as np

from keras_optkit.diagnostics._lanczos import End, Product


def power(
    product: Product,
    start: np.ndarray,
    count: int,
    steps: int,
    tolerance: float,
    generator: np.random.Generator,
) -> tuple[End, End]:
    """Returns the `count` largest eigenvalues and the `count` smallest.

    The eigenvalue of largest magnitude is found first; shifted by it, the matrix has its largest
    or its smallest eigenvalue foremost. What is found is taken out for the next.

    Args:
        product: Returns the matrix times a vector.
        start: The first vector, of any length but 0.
        count: How many to find at each end.
        steps: Number of products at most for each eigenvalue.
        tolerance: Residual, as a share of the largest magnitude, at which one is found.
        generator: Where the other start vectors come from.
    """
    foremost, residual, _ = _foremost(product, start, 1.0, 0.0, [], steps, tolerance)
    shift = abs(foremost) + residual

    def end(sign: float) -> End:
        found: list[tuple[float, float, np.ndarray]] = []
        for _ in range(count):
            fresh = generator.standard_normal(len(start)).astype(start.dtype)
            known = [vector for _, _, vector in found]
            limit = tolerance * shift
            found.append(_foremost(product, fresh, sign, shift, known, steps, limit, False))
        values, residuals, vectors = zip(*found, strict=True)
        order = np.argsort(-sign * np.array(values))
        return End(*(np.array(part)[order] for part in (values, residuals, vectors)))

    return end(1.0), end(-1.0)


def _foremost(product, vector, sign, shift, known, steps, tolerance, relative=True):
    """Returns eigenvalue, residual and eigenvector of `shift + sign * matrix` without `known`."""
    basis = np.array(known, vector.dtype).reshape(-1, len(vector))
    value, residual, image = 0.0, np.inf, vector
    for _ in range(steps):
        if residual <= (tolerance * abs(value) if relative else tolerance):
            break
        vector = image - (basis @ image) @ basis
        vector = vector / np.linalg.norm(vector)
        turned = product(vector)
        value = float(vector @ turned)
        residual = float(np.linalg.norm(turned - value * vector))
        image = sign * turned + shift * vector
    return value, residual, vector
