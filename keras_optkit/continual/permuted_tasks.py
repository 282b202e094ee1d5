"""Tasks that differ by the order of the inputs."""

from typing import Any

import numpy as np

from keras_optkit import _check
from keras_optkit.continual import _nested
from keras_optkit.continual._labels import classes_of
from keras_optkit.continual.task import Task


def permuted_tasks(
    x: Any, y: Any, n: int, seed: int = 0, *, test: tuple[Any, Any] | None = None
) -> list[Task]:
    """Makes tasks by permuting the features of every sample, as in permuted MNIST.

    The first task has the data as they are; each other one has a permutation of its own, the same
    for all its samples. All numbers of a sample change places, those of an image its channels
    included. The classes stay the same, so the setting is `"domain"`. Each task is a copy of `x`.

    Args:
        x: Inputs: an array with one row for each sample, or a dict, tuple or list of arrays, of
            which each is permuted by itself.
        y: Targets.
        n: Number of tasks, at least 1.
        seed: Of the permutations, 0 or more.
        test: `(x, y)` for testing, permuted in the same ways.

    Example:
        >>> first, second = keras_optkit.continual.permuted_tasks(x, y, 2)
        >>> first.train[0].shape == second.train[0].shape
        True

    Reference:
        [Goodfellow et al., 2013](https://arxiv.org/abs/1312.6211).
        [van de Ven & Tolias, 2019](https://arxiv.org/abs/1904.07734), whose code, too, leaves the
        first task as it is.
    """
    n = _check.integer("n", n, low=1)
    rng = np.random.default_rng(_check.integer("seed", seed, low=0))
    _, arrays, _ = _nested.flatten(x, "x")
    sizes = [int(np.prod(array.shape[1:])) for array in arrays]
    orders = [
        [rng.permutation(size) if number else np.arange(size) for size in sizes]
        for number in range(n)
    ]
    return [
        Task(
            f"permutation {number}" if number else "as it is",
            (_permuted(x, order), y),
            None if test is None else (_permuted(test[0], order), test[1]),
            classes_of(y),
            "domain",
        )
        for number, order in enumerate(orders)
    ]


def _permuted(x: Any, orders: list[np.ndarray]) -> Any:
    structure, arrays, _ = _nested.flatten(x, "x")
    return _nested.rebuild(
        structure,
        [
            array.reshape(len(array), -1)[:, order].reshape(array.shape)
            for array, order in zip(arrays, orders, strict=True)
        ],
    )
