"""All the data of a diagnosis, from whatever holds it."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops, tree


def whole(data: Any) -> tuple[Any, Any, Any, int | None]:
    """Returns `x, y, sample_weight` as arrays, and the size of batches if `data` comes in them.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)`, or something finite that yields such batches.
    """
    if isinstance(data, (tuple, list)):
        if not 1 <= len(data) <= 3:
            raise ValueError(
                "`data` must be `(x, y)` or `(x, y, sample_weight)`, or a dataset that yields such "
                f"batches. Received: a {type(data).__name__} of {len(data)}"
            )
        return *keras.utils.unpack_x_y_sample_weight(tuple(data)), None
    batches = [_host(keras.utils.unpack_x_y_sample_weight(batch)) for batch in _batches(data)]
    if not batches:
        raise ValueError(
            f"`data` must have at least one batch. Received: an empty {type(data).__name__}; an "
            "iterator can be read once only, so give what it was made from"
        )
    try:
        x, y, sample_weight = tree.map_structure(_joined, *batches, none_is_leaf=False)
    except ValueError as error:
        raise ValueError(
            "Batches of `data` must be of one structure, and of one shape but for the first axis; "
            "pad all to one length, or give `(x, y)` for all samples. Received: batches with "
            + " and ".join(sorted({str(_shapes(batch)) for batch in batches})[:2])
        ) from error
    return x, y, sample_weight, len(tree.flatten(batches[0])[0])


def _batches(data: Any) -> Iterable:
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            raise ValueError(
                "`data` must be finite; define `__len__` on it. Received: a PyDataset whose "
                "`num_batches` is None"
            )
        return (data[i] for i in range(data.num_batches))
    if hasattr(data, "shape") or isinstance(data, (str, dict)) or not isinstance(data, Iterable):
        raise TypeError(
            "`data` must be `(x, y)` or `(x, y, sample_weight)`, or a dataset that yields such "
            f"batches; for a loss that needs no targets, `(x,)`. Received: {type(data).__name__}"
        )
    cardinality = getattr(data, "cardinality", None)  # of a `tf.data.Dataset`
    if cardinality is not None and int(cardinality()) == -1:
        raise ValueError("`data` must be finite; use its `take(n)`. Received: an infinite dataset")
    return data


def _host(batch):
    return tree.map_structure(
        lambda leaf: np.asarray(ops.convert_to_numpy(leaf)), batch, none_is_leaf=False
    )


def _joined(*parts):
    return np.concatenate(parts)


def _shapes(batch):
    return [leaf.shape for leaf in tree.flatten(batch) if leaf is not None]
