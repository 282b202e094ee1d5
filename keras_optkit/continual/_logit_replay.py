"""Batches of new and old samples for `DER`, with the places of the outputs that go with them."""

import collections
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_optkit.continual import _nested
from keras_optkit.continual._mixture import Mixture
from keras_optkit.continual.replay_buffer import ReplayBuffer
from keras_optkit.continual.replay_dataset import ReplayDataset

PASSES = 2**31  # from here on, purposes of random numbers beside those of batches
AHEAD = 64  # batches that may have been fetched and not trained on, more than any backend does


class Remembered(NamedTuple):
    """Targets of a batch, and which outputs to keep or to match.

    A place is a row of the buffer; `capacity` stands for none.
    """

    targets: Any
    write: np.ndarray  # the place where to keep the outputs for a row
    read: np.ndarray  # the place of the outputs to match
    share: np.ndarray  # factor of the squared distance from them


def split(y: Any) -> tuple[Any, Remembered | None]:
    """Returns the targets of a batch, and what came with them."""
    return (y.targets, y) if isinstance(y, Remembered) else (y, None)


class LogitReplay(ReplayDataset):
    """Batches of new samples, of samples to match, and of samples to classify again.

    If they join the buffer, every new sample is shown to it each time it is trained on. What the
    model makes of it is only known in the step, which may be a few batches later; but the places
    are known.

    Args:
        x: Inputs.
        y: Targets.
        buffer: What to replay from.
        batch_size: New samples in a batch, and by default old ones in each part.
        replay_batch_size: Old samples in each part.
        classes: Outputs of the model.
        beta: Factor of the loss of the samples to classify again; None for no such part.
        joins: Whether new samples join the buffer.
        **options: Of `ReplayDataset`.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        buffer: ReplayBuffer,
        batch_size: int,
        replay_batch_size: int | None,
        classes: int,
        beta: float | None,
        joins: bool,
        **options: Any,
    ):
        self.beta, self._none = beta, np.zeros((0, classes), "float32")
        self.fetched = 0
        self.last: collections.deque[np.ndarray] = collections.deque(maxlen=AHEAD)
        self._training = False
        held = buffer.extras
        if len(buffer) and "logits" not in held:
            raise ValueError(
                "DER matches the outputs that went with each sample, and the buffer holds "
                f"{len(buffer)} samples without `logits`. Give the ContinualModel a ReplayBuffer "
                "of its own, or empty this one by `buffer.clear()`."
            )
        super().__init__(
            x, y, buffer, batch_size, replay_batch_size, add_while_training=joins, **options
        )

    def untrained(self, steps: int) -> np.ndarray:
        """Returns the places of samples that were fetched but not trained on, after some steps."""
        waiting = self.fetched - steps
        late = list(self.last)[-waiting:] if waiting > 0 else []
        places = np.unique(np.concatenate([*late, np.zeros(0, "int32")]))
        return places[places < self.buffer.capacity]

    def _mix(self, data, weight):
        return LogitMixture(self, data, weight, {"logits": self._none})

    def begin(self) -> None:
        """Says that from now on batches are trained on, and not only looked at."""
        self._training = True

    def on_epoch_end(self) -> None:
        if self._training or not self.add_while_training:
            super().on_epoch_end()
        self._begun = False  # else it was no epoch, though all of it may have been fetched

    def _in_order(self, index):
        batch = super()._in_order(index)
        if not self._training:
            self._first[index] = batch
        return batch

    def _join(self, index, batch):
        kept = self._mixture.to_keep(self._epoch, index)
        places = self.buffer._add(**kept)
        # Of two samples in one place the later one stays.
        later = {place: i for i, place in enumerate(places.tolist()) if place >= 0}
        write = batch[1].write
        for place, i in later.items():
            write[i] = place
        self.fetched += 1
        self.last.append(write)


class LogitMixture(Mixture):
    """Makes the batches of a `LogitReplay`."""

    def batch(self, epoch, index):
        settings = self._settings
        buffer, count = settings.buffer, settings.replay_batch_size
        betas = [0.0] if settings.beta is None else [0.0, settings.beta]
        which = self._new(epoch, index)
        new, new_weight = self._samples(which)
        rows = len(which) + count * len(betas)
        # A loss is divided by all rows: each part gets the mean of its own.
        parts, weights = [new], [new_weight * (rows / len(which))]
        write, read = np.full((2, rows), buffer.capacity, "int32")
        share = np.zeros(rows, new_weight.dtype)
        rng = self._generator(epoch, 1 + index)
        for part, beta in enumerate(betas):
            if not len(buffer):  # rows that count nothing
                parts.append(self._samples(np.resize(which, count))[0])
                weights.append(np.zeros(count, new_weight.dtype))
                continue
            places = self._places(epoch, index, part, rng)
            x, y, held = buffer._pair(places)
            weight = held.get("sample_weight", np.ones(count, new_weight.dtype))
            parts.append(_nested.flatten({"x": x, "y": y})[1])
            weights.append(weight * (beta * rows / count))
            if part == 0:
                here = slice(len(which), len(which) + count)
                read[here], share[here] = places, weight * (rows / count)
        arrays = [np.concatenate(several) for several in zip(*parts, strict=True)]
        batch = _nested.rebuild(self._structure, arrays)
        weight = np.concatenate(weights).astype(keras.config.floatx())
        return batch["x"], Remembered(batch["y"], write, read, share), weight

    def _places(self, epoch, index, part, rng) -> np.ndarray:
        """Returns which places to replay in a part of a batch."""
        settings = self._settings
        count, held = settings.replay_batch_size, len(settings.buffer)
        if settings.add_while_training:
            return settings.buffer._draw(count, rng)
        # The buffer stays as it is, so all samples can take turns.
        first = (epoch * settings.num_batches + index) * count
        turns, ranks = np.divmod(np.arange(first, first + count), held)
        orders = {
            turn: self._generator(turn, PASSES + part).permutation(held)
            for turn in range(turns[0], turns[-1] + 1)
        }
        return np.array([orders[turn][rank] for turn, rank in zip(turns, ranks, strict=True)])
