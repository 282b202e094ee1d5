"""Batches of new samples and of samples from a buffer, each a function of its number."""

from typing import Any

import keras
import numpy as np

from keras_optkit.continual import _nested


class Mixture:
    """Makes the batches of a `ReplayDataset`, which holds the settings.

    Args:
        settings: The dataset: its `buffer`, sizes, `replay_weight`, `shuffle` and `seed`.
        data: `x` and `y`.
        weight: `sample_weight`, or nothing.
        also: What else the buffer is to hold, as arrays without rows.
    """

    def __init__(
        self,
        settings: Any,
        data: dict[str, Any],
        weight: dict[str, Any],
        also: dict[str, np.ndarray] | None = None,
    ):
        self._settings, self._also = settings, also or {}
        self._structure, self._arrays, names = _nested.flatten(data)
        _, self._weights, weight_names = _nested.flatten(weight)
        self.size = _nested.rows(self._arrays + self._weights, names + weight_names)
        if not self.size:
            raise ValueError("`x` must hold at least one sample. Received none.")
        # What else the buffer holds is only asked for if samples are to join it.
        joining = {**weight, **self._also}
        others = joining if settings.add_while_training else settings.buffer.extras
        none = {name: _nested.take(part, slice(0)) for name, part in {**data, **others}.items()}
        settings.buffer.check(**none)
        self._order: tuple[int, np.ndarray] = (-1, np.arange(0))

    def batch(self, epoch: int, index: int) -> tuple:
        """Returns a batch as `fit` takes it."""
        which = self._new(epoch, index)
        new, new_weight = self._samples(which)
        old, old_weight = self._replayed(epoch, index, which)
        both = [self._joined(*pair) for pair in zip(new, old, strict=True)]
        batch = _nested.rebuild(self._structure, both)
        weighted = self._weights or self._settings.replay_weight != 1 or self._buffer_weighs()
        weights = self._joined(new_weight, old_weight.astype(new_weight.dtype))
        return keras.utils.pack_x_y_sample_weight(
            batch["x"], batch["y"], weights if weighted else None
        )

    def to_keep(self, epoch: int, index: int) -> dict[str, Any]:
        """Returns the new samples of a batch, without those that fill it up."""
        which = self._new(epoch, index)[: self.size - index * self._settings.batch_size]
        new, weight = self._samples(which)
        extras = {"sample_weight": weight} if self._weights else {}
        for name, none in self._also.items():
            extras[name] = np.zeros((len(which), *none.shape[1:]), none.dtype)
        return {**_nested.rebuild(self._structure, new), **extras}

    def _joined(self, new: np.ndarray, old: np.ndarray) -> np.ndarray:
        """Returns new and old rows, as many of each in every share of the batch."""
        parts = (np.split(rows, self._settings.shares) for rows in (new, old))
        return np.concatenate([half for both in zip(*parts, strict=True) for half in both])

    def _new(self, epoch: int, index: int) -> np.ndarray:
        """Returns which samples are the new ones of a batch."""
        known, order = self._order
        if known != epoch:
            order = np.arange(self.size)
            if self._settings.shuffle:
                self._generator(epoch, 0).shuffle(order)
            self._order = (epoch, order)
        start = index * self._settings.batch_size
        return order[np.arange(start, start + self._settings.batch_size) % self.size]

    def _replayed(
        self, epoch: int, index: int, which: np.ndarray
    ) -> tuple[list[np.ndarray], np.ndarray]:
        count, buffer = self._settings.replay_batch_size, self._settings.buffer
        if not len(buffer):
            return self._samples(np.resize(which, count))
        x, y, *extras = buffer.sample(count, self._generator(epoch, 1 + index))
        _, old, _ = _nested.flatten({"x": x, "y": y})
        weight = extras[0]["sample_weight"] if self._buffer_weighs() else _ones(count)
        return old, self._settings.replay_weight * weight

    def _samples(self, which: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Returns rows of all arrays, and their weights."""
        weight = self._weights[0][which] if self._weights else _ones(len(which))
        return [array[which] for array in self._arrays], weight

    def _buffer_weighs(self) -> bool:
        return "sample_weight" in self._settings.buffer.extras

    def _generator(self, epoch: int, purpose: int) -> np.random.Generator:
        sequence = np.random.SeedSequence(self._settings.seed, spawn_key=(epoch, purpose))
        return np.random.Generator(np.random.PCG64(sequence))


def _ones(count: int) -> np.ndarray:
    return np.ones(count, keras.config.floatx())
