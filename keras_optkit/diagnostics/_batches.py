"""Batches without an end, in an order that a seed determines where that is possible."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_optkit.optimizers._problem import check_data


def source(data: Any, batch_size: int):
    """Returns a function that takes a seed and returns an iterator over batches without an end.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)`, or what yields such batches again and again.
        batch_size: Samples in a batch of arrays; fewer if there are fewer.
    """
    if isinstance(data, (tuple, list)):
        return functools.partial(_of_arrays, _arrays(data), batch_size)
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            raise ValueError(
                "`data` must be finite; define `__len__` on it. Received: a PyDataset whose "
                "`num_batches` is None"
            )
        return functools.partial(_of_dataset, data)
    if hasattr(data, "shape") or isinstance(data, (str, dict)) or not isinstance(data, Iterable):
        raise TypeError(
            "`data` must be `(x, y)` or `(x, y, sample_weight)`, or a dataset that yields such "
            f"batches; for a loss that needs no targets, `(x,)`. Received: {type(data).__name__}"
        )
    if iter(data) is data:
        raise TypeError(
            "`data` must be something to read several times, and an iterator can be read only "
            "once; give the dataset it was made from, or a PyDataset. Received: "
            f"{type(data).__name__}"
        )
    return functools.partial(_of_batches, data)


def _arrays(data):
    if not 1 <= len(data) <= 3:
        raise ValueError(
            "`data` must be `(x, y)` or `(x, y, sample_weight)`, or a dataset that yields such "
            f"batches. Received: a {type(data).__name__} of {len(data)}"
        )
    check_data(*keras.utils.unpack_x_y_sample_weight(tuple(data)))
    return tree.map_structure(
        lambda leaf: None if leaf is None else np.asarray(ops.convert_to_numpy(leaf)),
        tuple(data),
        none_is_leaf=True,
    )


def _of_arrays(arrays, batch_size: int, seed: int) -> Iterator:
    # Always of one size, as another shape would compile the step again: a batch that begins
    # with the last samples of one pass ends with the first of the next.
    samples = len(next(a for a in tree.flatten(arrays) if a is not None))
    size = min(batch_size, samples)
    order = _order(samples, seed)
    while True:
        rows = np.fromiter(order, int, size)
        yield tree.map_structure(
            lambda a, rows=rows: None if a is None else a[rows], arrays, none_is_leaf=True
        )


def _of_dataset(data, seed: int) -> Iterator:
    if not data.num_batches:
        raise _nothing(data)
    for index in _order(data.num_batches, seed):
        yield _as_tuple(data[index])


def _of_batches(data, seed: int) -> Iterator:
    while True:
        empty = True
        for batch in data:
            empty = False
            yield _as_tuple(batch)
        if empty:
            raise _nothing(data)


def _order(count: int, seed: int) -> Iterator[int]:
    """Yields one permutation of `range(count)` after the other."""
    generator = np.random.default_rng(seed)
    while True:
        yield from generator.permutation(count).tolist()


def _as_tuple(batch):
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)


def _nothing(data) -> ValueError:
    return ValueError(
        f"`data` must have at least one batch. Received: an empty {type(data).__name__}"
    )
