"""Arrays for the inputs of a LiteRT file."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_optkit import _check
from keras_optkit.compression.litert._names import valid

Shape = tuple[int | None, ...]


def named(
    name: str, x: Any, shapes: dict[str, Shape], ordered: bool = False
) -> dict[str, np.ndarray]:
    """Returns the arrays in `x` by the names of inputs.

    Args:
        name: Names the argument in errors.
        x: An array, or a dict of arrays for several inputs.
        shapes: The shapes of the inputs by name; the first axis is that of samples.
        ordered: Whether the order of `shapes` means something, so that `x` may be a list too.

    Raises:
        ValueError: If `x` does not fit.
    """
    arrays = {key: np.asarray(value) for key, value in _by_name(name, x, shapes, ordered).items()}
    for key, array in arrays.items():
        shape = shapes[key]
        fits = array.ndim == len(shape) and all(
            expected in (None, extent)
            for expected, extent in zip(shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            expected = ("samples", *("any" if extent is None else extent for extent in shape[1:]))
            raise ValueError(
                f"`{name}` does not fit the input {key!r}, whose shape is "
                f"({', '.join(map(str, expected))}). Received: shape {array.shape}"
            )
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"`{name}` must have the same number of samples for every input. Received: {lengths}"
        )
    if 0 in lengths.values():
        raise ValueError(f"`{name}` holds no samples. Received: {lengths}")
    return arrays


def _by_name(name: str, x: Any, shapes: dict[str, Shape], ordered: bool) -> dict[str, Any]:
    if isinstance(x, Mapping):
        given = {valid(key): value for key, value in x.items()}
        if not shapes.keys() <= given.keys():
            raise ValueError(
                f"`{name}` must have an array for each of the inputs {', '.join(shapes)}. "
                f"Received: {', '.join(map(str, x)) or 'an empty dict'}"
            )
        return {key: given[key] for key in shapes}
    if len(shapes) == 1:
        return {key: x[0] if is_arrays(x, 1) else x for key in shapes}
    if ordered and is_arrays(x, len(shapes)):
        return dict(zip(shapes, x, strict=True))
    # Files have their inputs in an order of their own.
    kinds = "a dict or a list" if ordered else "a dict"
    raise ValueError(
        f"`{name}` must be {kinds} with an array for each of the inputs {', '.join(shapes)}. "
        f"{_check.received(name, type(x))}"
    )


def is_arrays(x: Any, count: int) -> bool:
    """Returns whether `x` is a list of `count` arrays."""
    return isinstance(x, (list, tuple)) and len(x) == count and all(hasattr(a, "shape") for a in x)
