"""Data to find ranges with."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from keras_optkit import _check
from keras_optkit._backend import litert
from keras_optkit.compression.litert._arrays import is_arrays, named


def calibration(data: Any, specs: list[litert.Spec], samples: int) -> list[dict[str, np.ndarray]]:
    """Returns the first samples of `data`, each as the file takes it.

    Raises:
        TypeError: If `data` is neither arrays nor an iterable of batches.
        ValueError: If the data do not fit, are none or not finite.
    """
    found = list(itertools.islice(_samples(data, specs), samples))
    if not found:
        raise ValueError("`data` holds no samples, and ranges cannot be found without any.")
    for sample in found:
        for name, array in sample.items():
            if not np.all(np.isfinite(array)):
                raise ValueError(
                    f"`data` must be finite, since ranges are found with it. Received: NaN or "
                    f"infinity in the input {name!r}"
                )
    return found


def _samples(data: Any, specs: list[litert.Spec]) -> Iterator[dict[str, np.ndarray]]:
    shapes = {name: shape for name, shape, _ in specs}
    for batch in _batches(data, len(specs)):
        arrays = named("data", batch, shapes, ordered=True)
        for row in range(len(next(iter(arrays.values())))):
            yield {
                name: np.repeat(arrays[name][row : row + 1], shape[0] or 1, axis=0).astype(dtype)
                for name, shape, dtype in specs
            }


def _batches(data: Any, inputs: int) -> Iterable[Any]:
    if hasattr(data, "shape") or isinstance(data, Mapping) or _is_whole(data, inputs):
        return [data]
    if not isinstance(data, Iterable):
        raise TypeError(
            "`data` must be an array, a list or dict of arrays, or an iterable over batches of "
            f"these. {_check.received('data', data)}"
        )
    # As for `fit`: inputs, labels, weights.
    return (batch[0] if isinstance(batch, tuple) else batch for batch in data)


def _is_whole(data: Any, inputs: int) -> bool:
    return inputs > 1 and is_arrays(data, inputs)
