"""The accuracy matrix, and the names of its tasks."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def names_of(tasks: Sequence[Any] | None, count: int) -> list[str]:
    """Returns a name for each of `count` tasks: theirs, or numbers from 1 on."""
    if tasks is None:
        return [str(number + 1) for number in range(count)]
    names = [str(getattr(task, "name", task)) for task in tasks]
    if len(names) != count:
        raise ValueError(
            f"`tasks` must be one for each of the {count} columns of `R`. Received: {names}"
        )
    return names


def matrix_of(R: Any) -> np.ndarray:
    """Returns an accuracy matrix with at least one row."""
    R = np.atleast_2d(np.asarray(R, "float64"))
    if R.ndim != 2 or not R.size:
        raise ValueError(
            "`R` must be a matrix with one row for each task learned and one column for each "
            f"task, as evaluate_tasks makes it. Received: R.shape={R.shape}"
        )
    return R
