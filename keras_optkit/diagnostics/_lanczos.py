"""Eigenvalues of a symmetric matrix that is known by its products with vectors."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Product = Callable[[np.ndarray], np.ndarray]


class Ritz(NamedTuple):
    """What a Krylov space knows of a matrix.

    Args:
        values: Approximate eigenvalues, ascending.
        vectors: Approximate eigenvectors as columns, in coordinates of the basis.
        residuals: Length of `A v - value v` for each; an eigenvalue is no farther than that.
        weights: Share of each in the start vector; they make the nodes a Gauss quadrature.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    weights: np.ndarray


class End(NamedTuple):
    """Eigenvalues at one end of a spectrum, the outermost first.

    Args:
        values: The eigenvalues.
        residuals: Length of `A v - value v` for each.
        vectors: Eigenvectors of length 1, as rows.
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: np.ndarray


@dataclasses.dataclass
class Krylov:
    """An orthonormal basis in which the matrix is tridiagonal.

    Args:
        basis: The vectors, as rows; on the host, since a device has more urgent needs.
        alphas: Diagonal, in float64.
        betas: Off-diagonal; the last one leads out of the space.
        rounding: How far the matrix is from tridiagonal in this basis. In exact arithmetic it is
            0, so this is the size of the errors in a product, and no eigenvalue is known better.
    """

    basis: np.ndarray
    alphas: list[float] = dataclasses.field(default_factory=list)
    betas: list[float] = dataclasses.field(default_factory=list)
    rounding: float = 0.0

    def ritz(self) -> Ritz:
        """Returns eigenvalues and eigenvectors of the tridiagonal matrix."""
        inner = self.betas[:-1]
        matrix = np.diag(self.alphas) + np.diag(inner, 1) + np.diag(inner, -1)
        values, vectors = np.linalg.eigh(matrix)
        return Ritz(values, vectors, self.betas[-1] * abs(vectors[-1]), vectors[0] ** 2)

    def ends(self, count: int) -> tuple[End, End]:
        """Returns the `count` largest eigenvalues and the `count` smallest."""
        ritz = self.ritz()

        def end(which: slice) -> End:
            coordinates = ritz.vectors[:, which].T.astype(self.basis.dtype)
            vectors = coordinates @ self.basis[: len(self.alphas)]
            return End(ritz.values[which], ritz.residuals[which], vectors)

        return end(slice(None, -count - 1, -1)), end(slice(count))


def lanczos(
    product: Product,
    start: np.ndarray,
    steps: int,
    generator: np.random.Generator,
    done: Callable[[Krylov], bool] = lambda _: False,
) -> Krylov:
    """Returns the Krylov space of a start vector, by the method of Lanczos.

    Each new vector is made orthogonal to all before, twice. Where the space cannot grow, a random
    vector goes on, so that as many steps as the matrix has rows find all its eigenvalues.

    Args:
        product: Returns the matrix times a vector.
        start: The first vector, of any length but 0.
        steps: Number of products at most.
        generator: Where random vectors come from.
        done: Whether to stop, asked after each product.
    """
    size, steps = len(start), min(steps, len(start))
    krylov = Krylov(np.empty((steps, size), start.dtype))
    vector = start / _norm(start)
    for j in range(steps):
        krylov.basis[j] = vector
        basis = krylov.basis[: j + 1]
        vector = product(vector)
        length = _norm(vector)
        first = basis @ vector
        vector = vector - first @ basis
        again = basis @ vector
        vector = vector - again @ basis
        beta = _norm(vector)
        epsilon = float(np.finfo(start.dtype).eps)
        krylov.rounding = max(krylov.rounding, _norm(first[: max(j - 1, 0)]), epsilon * length)
        krylov.alphas.append(float(first[j]) + float(again[j]))
        if beta <= 10 * epsilon * length:
            beta, vector = 0.0, generator.standard_normal(size).astype(start.dtype)
            for _ in range(2):
                vector = vector - (basis @ vector) @ basis
        krylov.betas.append(0.0 if j + 1 == size else beta)
        if j + 1 == size or done(krylov):
            break
        vector = vector / _norm(vector)
    return krylov


def quadrature(
    krylovs: list[Krylov], size: int, exact: bool
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Returns nodes, weights, trace and its standard error.

    Args:
        krylovs: Spaces of start vectors whose entries are 1 or -1, or none.
        size: Number of rows of the matrix.
        exact: Whether `krylovs` is one that holds all eigenvalues.
    """
    if not krylovs:
        return np.empty(0), np.empty(0), np.nan, np.nan
    found = [krylov.ritz() for krylov in krylovs]
    nodes = np.concatenate([ritz.values for ritz in found])
    if exact:
        return nodes, np.full(size, 1 / size), float(nodes.sum()), 0.0
    weights = np.concatenate([ritz.weights for ritz in found]) / len(found)
    order = np.argsort(nodes)
    traces = size * np.array([krylov.alphas[0] for krylov in krylovs])
    error = traces.std(ddof=1) / len(traces) ** 0.5 if len(traces) > 1 else np.nan
    return nodes[order], weights[order], float(traces.mean()), float(error)


def _norm(vector: np.ndarray) -> float:
    return float(np.sqrt(np.sum(np.square(vector, dtype="float64"))))
