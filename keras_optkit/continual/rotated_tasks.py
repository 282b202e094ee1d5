"""Tasks that differ by the angle of the images."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_optkit import _check
from keras_optkit.continual import _nested
from keras_optkit.continual._labels import classes_of
from keras_optkit.continual.task import Task


def rotated_tasks(
    x: Any, y: Any, angles: Iterable[float], *, test: tuple[Any, Any] | None = None
) -> list[Task]:
    """Makes tasks by turning the images, as in rotated MNIST.

    Images turn around their centre, counter-clockwise; pixels are interpolated linearly, and what
    comes in from outside is 0. The classes stay the same, so the setting is `"domain"`.

    Args:
        x: Images of shape `(n, height, width)` or `(n, height, width, channels)`.
        y: Targets.
        angles: One for each task, in degrees.
        test: `(x, y)` for testing, turned in the same ways.

    Example:
        >>> import numpy as np
        >>> images = np.zeros((8, 5, 5, 1))
        >>> tasks = keras_optkit.continual.rotated_tasks(images, np.arange(8), [0, 15, 30])
        >>> tasks[1].name
        '15 degrees'

    Reference:
        [Lopez-Paz & Ranzato, 2017](https://arxiv.org/abs/1706.08840), section 5.1.
    """
    angles = [_check.in_range("angles", angle) for angle in angles]
    return [
        Task(
            f"{angle:g} degrees",
            (_rotated(x, angle), y),
            None if test is None else (_rotated(test[0], angle), test[1]),
            classes_of(y),
            "domain",
        )
        for angle in angles
    ]


def _rotated(x: Any, angle: float) -> np.ndarray:
    images = _nested.to_array(x, "x")
    if images.ndim not in (3, 4):
        raise ValueError(
            "`x` must be images of shape (n, height, width) or (n, height, width, channels). "
            f"Received: x.shape={images.shape}"
        )
    height, width = images.shape[1:3]
    flat = images.reshape(len(images), height * width, -1)
    turned = np.zeros(flat.shape, np.result_type(flat.dtype, "float32"))
    for pixels, share in _corners(height, width, np.deg2rad(angle)):
        turned += flat[:, pixels] * share[:, None].astype(turned.dtype)
    if np.issubdtype(images.dtype, np.integer):
        turned = np.rint(turned)
    return turned.astype(images.dtype).reshape(images.shape)


def _corners(height: int, width: int, angle: float) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Yields, for the four pixels around where each one comes from, their numbers and shares."""
    rows, columns = np.divmod(np.arange(height * width), width)
    down, right = rows - (height - 1) / 2, columns - (width - 1) / 2
    cos, sin = np.cos(angle).round(12), np.sin(angle).round(12)  # a quarter turn is exact
    from_row = cos * down + sin * right + (height - 1) / 2
    from_column = cos * right - sin * down + (width - 1) / 2
    for i in (np.floor(from_row), np.floor(from_row) + 1):
        for j in (np.floor(from_column), np.floor(from_column) + 1):
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            share = (1 - abs(from_row - i)) * (1 - abs(from_column - j)) * inside
            yield np.where(inside, i * width + j, 0).astype("int64"), share
