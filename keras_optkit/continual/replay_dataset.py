"""New samples with old ones among them, for `fit`."""

import functools
import math
import sys
import warnings
from typing import Any

import keras
from keras.src.trainers.epoch_iterator import EpochIterator

from keras_optkit import _check
from keras_optkit.continual import _nested
from keras_optkit.continual._ahead import Ahead
from keras_optkit.continual._mixture import Mixture
from keras_optkit.continual.replay_buffer import ReplayBuffer


class ReplayDataset(keras.utils.PyDataset):
    """Batches of new samples, each followed by samples from a buffer.

    Every batch has the same shape, so nothing is compiled twice, neither for the last batch of an
    epoch nor for the next task: the last batch is filled up with the samples that the epoch began
    with, and while the buffer is empty, the replayed part repeats the new samples. (If it is as
    large as the new part, or a multiple of it, the mean loss is then that of the new samples.)

    A batch is a function of `seed`, of the epochs that this dataset has gone through, of its
    number, and of the buffer. It does not depend on `workers`, nor on what else draws random
    numbers. Pass `shuffle=False` to `fit`: the samples are shuffled here in every epoch, and Keras
    would give the batches in an order of its own, from Python's global random numbers.

    Args:
        x: Inputs: an array with one row for each sample, or a dict, tuple or list of arrays.
        y: Targets, likewise, with the structure, shapes and dtypes of those in the buffer.
        buffer: A `ReplayBuffer`. If it holds a `sample_weight`, replayed samples get theirs.
        batch_size: New samples in a batch, at least 1.
        replay_batch_size: Replayed samples in a batch, at least 1; by default `replay_ratio`
            times `batch_size`.
        replay_ratio: Replayed samples for each new one, above 0; 1 if neither is given.
        sample_weight: Weight of each new sample in the loss; None for 1. Batches hold weights if
            any are given, here, by `replay_weight`, or in the buffer.
        replay_weight: Factor on the weights of replayed samples, at least 0. The loss stays
            divided by the whole batch, so with 2 they count twice.
        shuffle: Whether each epoch has another order of the new samples.
        seed: Of the random numbers, 0 or more.
        add_while_training: Whether new samples go into the buffer as they come, each once, after
            the samples to replay have been drawn. For streams without tasks, with one epoch, on
            one replica. After a crash a stream must begin anew: `TrainingState` refuses it, as it
            does not keep the buffer, while it brings other datasets back to where they were.
        workers: Threads that fetch batches ahead, 0 for none; for data that are slow to read,
            such as a `numpy.memmap`. Keras' own do not keep batches and epochs together.

    Raises:
        ValueError: If numbers of samples differ, if the data are not like those in the buffer, or
            if with `add_while_training` batches are fetched out of order.

    Example:
        >>> buffer = keras_optkit.continual.ReplayBuffer(100)
        >>> data = keras_optkit.continual.ReplayDataset(x, y, buffer, batch_size=4)
        >>> history = model.fit(data, epochs=2, shuffle=False)
        >>> buffer.add(x, y)

    Reference:
        [Chaudhry et al., 2019](https://arxiv.org/abs/1902.10486), "ER": as many replayed samples
        as new ones. There samples join the buffer while training, as by `add_while_training`.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        buffer: ReplayBuffer,
        batch_size: int = 32,
        replay_batch_size: int | None = None,
        replay_ratio: float | None = None,
        *,
        sample_weight: Any = None,
        replay_weight: float = 1.0,
        shuffle: bool = True,
        seed: int = 0,
        add_while_training: bool = False,
        workers: int = 1,
    ):
        # Keras sees one worker. With more it fetches batches ahead, drops the one that it has
        # built the model with, and gives what is left at the end of an epoch to the next.
        super().__init__(workers=1)
        self.buffer = _check.instance("buffer", buffer, ReplayBuffer, "a ReplayBuffer")
        self.batch_size = _check.integer("batch_size", batch_size, low=1)
        self.replay_batch_size = _replayed(replay_batch_size, replay_ratio, self.batch_size)
        self.replay_weight = _check.in_range("replay_weight", replay_weight, low=0)
        self.shuffle = _check.flag("shuffle", shuffle)
        self.seed = _check.integer("seed", seed, low=0)
        self.add_while_training = _check.flag("add_while_training", add_while_training)
        self.threads = _check.integer("workers", workers, low=0)
        self.shares = 1  # parts of a batch that hold new and replayed samples alike
        if add_while_training and self.threads > 1:
            raise ValueError(
                "With `add_while_training`, what a batch replays depends on the batches before, "
                f"so use workers=1. {_check.received('workers', workers)}"
            )
        weight = {}
        if sample_weight is not None:
            weights = _nested.to_array(sample_weight, "sample_weight")
            weight["sample_weight"] = weights.astype(keras.config.floatx())
        self._mixture = self._mix({"x": x, "y": y}, weight)
        self._ahead = Ahead(self.threads)
        self._begun = self._warned = False
        self.load_state({"epoch": 0})

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self._mixture.size / self.batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> tuple:
        """Returns batch `index` of the present epoch: `(x, y)` or `(x, y, sample_weight)`."""
        if not 0 <= index < self.num_batches:
            raise IndexError(
                f"There are {self.num_batches} batches. {_check.received('index', index)}"
            )
        if self.add_while_training:
            batch = self._in_order(index)
        else:
            self._warn_of_other_order(index)
            make = functools.partial(self._mixture.batch, self._epoch)
            batch = self._ahead.get(make, index, self.num_batches)
        self._given.add(index)
        return batch

    def on_epoch_begin(self) -> None:
        """Called by Keras."""
        self._begun = True

    def on_epoch_end(self) -> None:
        """Called by Keras, also after it has looked at batches that it does not train on."""
        self._ahead.clear()
        looked = not self._begun or _resets()
        if not looked and len(self._given) == self.num_batches:
            self.load_state({"epoch": self._epoch + 1})
        elif looked and not self.add_while_training:
            self._given.clear()
        self._begun = False

    def state(self) -> dict[str, int]:
        """Returns what `load_state` needs; the buffer has a state of its own.

        Raises:
            ValueError: With `add_while_training`.
        """
        if self.add_while_training:
            raise ValueError(
                "TrainingState cannot resume training in which samples join the buffer, since it "
                "does not keep the buffer. Let them join at the ends of tasks, as by "
                'DERpp(..., fill="consolidate") or `buffer.add`, or save the model between fits.'
            )
        return {"epoch": self._epoch}

    def load_state(self, state: dict[str, int]) -> None:
        """Goes to the beginning of an epoch."""
        self._epoch = int(state["epoch"])
        self._given: set[int] = set()
        self._first: dict[int, tuple] = {}

    def _join(self, index: int, batch: tuple) -> None:
        """Shows the new samples of a batch to the buffer."""
        if self._epoch == 0:
            self.buffer.add(**self._mixture.to_keep(0, index))

    def _mix(self, data: dict[str, Any], weight: dict[str, Any]) -> Mixture:
        return Mixture(self, data, weight)

    def _warn_of_other_order(self, index: int) -> None:
        if self._begun and index > len(self._given) and not self._warned:
            self._warned = True
            warnings.warn(
                "`fit` gives the batches of this ReplayDataset in an order of its own, which its "
                "`seed` does not determine. Call fit(..., shuffle=False); the dataset shuffles.",
                stacklevel=3,
            )

    def _in_order(self, index: int) -> tuple:
        """Returns a batch after which its new samples have joined the buffer."""
        if index in self._first:
            return self._first[index]
        if index > len(self._given):
            raise ValueError(
                "With `add_while_training`, batches must be fetched in order, because each "
                f"changes the buffer. Received: batch {index} before batch {len(self._given)}. "
                "Call fit(..., shuffle=False)."
            )
        batch = self._mixture.batch(self._epoch, index)
        if index not in self._given:
            self._join(index, batch)
        if index < 2:  # which Keras fetches twice, the first time to see what they are like
            self._first[index] = batch
        return batch


def _resets() -> bool:
    """Whether `fit` is about to begin, having looked at a batch to see what they are like.

    Keras does not say so, and such an epoch of a single batch looks like any other.
    """
    ends = (EpochIterator.reset.__code__, EpochIterator._enumerate_iterator.__code__)
    frame = sys._getframe()
    while frame is not None and frame.f_code not in ends:
        frame = frame.f_back
    return frame is not None and frame.f_code is ends[0]


def _replayed(replay_batch_size: int | None, replay_ratio: float | None, batch_size: int) -> int:
    if replay_batch_size is not None:
        if replay_ratio is not None:
            raise ValueError(
                "Give `replay_batch_size` or `replay_ratio`, not both. "
                f"Received: {replay_batch_size=}, {replay_ratio=}"
            )
        return _check.integer("replay_batch_size", replay_batch_size, low=1)
    ratio = 1.0 if replay_ratio is None else replay_ratio
    ratio = _check.in_range("replay_ratio", ratio, 0, closed="neither")
    return max(1, round(ratio * batch_size))
