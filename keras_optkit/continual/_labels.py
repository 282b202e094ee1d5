"""Classes of samples, read off their targets."""

from typing import Any

import numpy as np

from keras_optkit.continual import _nested


def labels_of(y: Any, wants: str) -> np.ndarray:
    """Returns the class of each sample: its label, or where its one-hot row is largest.

    `wants` tells the reader of an error what needs the labels.
    """
    structure, arrays, _ = _nested.flatten(y, "y")
    if structure != 0:
        raise ValueError(
            f"{wants} needs `y` to be one array of labels. "
            f"Received: {'None' if y is None else type(y).__name__}"
        )
    (array,) = arrays
    if array.ndim == 2 and array.shape[1] > 1:
        return array.argmax(axis=1)
    if array.ndim > 2:
        raise ValueError(
            f"{wants} needs one label for each sample, or one-hot rows: `y` of shape (n,), (n, 1) "
            f"or (n, classes). Received: y.shape={array.shape}"
        )
    return array.reshape(-1)


def classes_of(y: Any) -> tuple[int, ...]:
    """Returns the classes in `y`, or none if it does not hold classes."""
    structure, arrays, _ = _nested.flatten(y, "y")
    if structure != 0 or arrays[0].ndim > 2:
        return ()
    (array,) = arrays
    if array.ndim == 2 and array.shape[1] > 1:
        return tuple(range(array.shape[1]))
    labels = np.unique(array)
    if labels.dtype.kind not in "iufb" or not np.array_equal(labels, np.floor(labels)):
        return ()
    return tuple(int(label) for label in labels)
