"""Where `fit` stands in its data, and how to get there again."""

import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
from keras.src.trainers.data_adapters.torch_data_loader_adapter import TorchDataLoaderAdapter

from keras_optkit import _backend
from keras_optkit.diagnostics import _random_state


class Position:
    """Brings the data of a new `fit` to the batch where another process has stopped.

    An epoch of arrays or of a torch loader is drawn by the process' random numbers when it
    begins, so it is begun with those and its first batches are passed over. Other data know
    of the epochs before, which are gone through again: of a `PyDataset` only its hooks.
    """

    def __init__(self, epoch_iterator: Any):
        self.epoch_iterator = epoch_iterator
        adapter = epoch_iterator.data_adapter
        whole = epoch_iterator.steps_per_epoch is None  # each epoch is a pass of its own
        self._dataset = adapter.py_dataset if isinstance(adapter, PyDatasetAdapter) else None
        finite = self._dataset is not None and self._dataset.num_batches is not None
        independent = isinstance(adapter, (ArrayDataAdapter, TorchDataLoaderAdapter))
        self._remembers = not (whole and independent)
        self._only_hooks = whole and finite
        self._key = random.SystemRandom().getrandbits(48)
        self._epochs = self._passes = 0  # begun since the beginning; of the present epoch
        self._begins: list[dict[str, Any]] = []  # random states, of the present epoch the last
        self._now_then: dict[str, Any] = {}
        self._skip = 0
        self.seen = 0  # batches of the present epoch that were given out

    def begin_fit(self) -> None:
        """Makes shuffles that no seed determines repeatable, or warns of them."""
        _backend.shuffle_arrays(self.epoch_iterator, self._next_key)
        if getattr(self.epoch_iterator.data_adapter, "enqueuer", None) is not None:
            warnings.warn(
                "TrainingState cannot bring a PyDataset back to exactly where it was if workers "
                "fetch batches ahead, of which Keras passes some on to the next epoch. Use "
                "workers=1.",
                stacklevel=2,
            )
        if _shuffles_unseeded(getattr(self.epoch_iterator.data_adapter, "_dataset", None)):
            warnings.warn(
                "TrainingState cannot bring a tf.data pipeline back to where it was if its "
                "`shuffle` has no seed: after a crash training goes on with other batches. Call "
                "`.shuffle(..., seed=1)`, or keras.utils.set_random_seed before making it.",
                stacklevel=2,
            )

    def begin_epoch(self) -> None:
        """To be called before each epoch that is not resumed."""
        self._epochs, self._passes = self._epochs + 1, 0
        if not self._remembers:
            self._begins.clear()
        self._begins.append(self._now())

    def state(self) -> dict[str, Any]:
        """Returns what `resume` needs."""
        return {
            "key": self._key,
            "epochs": self._epochs,
            "begins": list(self._begins),
            "now": self._now(),
        }

    def resume(self, state: dict[str, Any], batch: int) -> None:
        """Goes through the past epochs again; the next is to begin with `batch`."""
        self._key, self._begins = state["key"], list(state["begins"])
        if self._remembers:
            for number, begin in enumerate(self._begins[: -1 if batch else None], 1):
                self._epochs, self._passes = number, 0
                self._replay(begin)
        self._epochs, self._passes = state["epochs"], 0
        self._now_then = now = state["now"]
        self._skip = batch
        self._restore(now)

    def attach(self, between: Callable[[int, bool], None]) -> None:
        """Lets `between(batch, resumed)` be called before a batch is drawn, but for the first.

        There all callbacks have seen the batch before, and none knows of the one to come.
        """
        self.epoch_iterator._enumerate_iterator = lambda: self._epoch(between)

    def _epoch(self, between: Callable[[int, bool], None]) -> Iterator[tuple[int, int, Any]]:
        iterator, skip = self.epoch_iterator, self._skip
        self._skip = self.seen = 0
        if skip:
            self._restore(self._begins[-1])
        for begin, end, source in type(iterator)._enumerate_iterator(iterator):
            if begin >= skip:
                if begin:
                    between(begin, begin == skip)
                if skip and begin == skip:
                    _random_state.write(self._now_then["random"])
                self.seen = begin + iterator.steps_per_execution
                yield begin, end, source
            elif not _draw(source, iterator.steps_per_execution):
                raise ValueError(
                    f"The data end after {begin} batches, but the checkpoint was written after "
                    f"{skip} of the epoch. TrainingState goes on only with the data it began with."
                )

    def _replay(self, begin: dict[str, Any]) -> None:
        self._restore(begin)
        if self._only_hooks:
            assert self._dataset is not None
            self._dataset.on_epoch_begin()
            self._dataset.on_epoch_end()
            return
        iterator = self.epoch_iterator
        with warnings.catch_warnings(), iterator.catch_stop_iteration():
            warnings.simplefilter("ignore")  # that the data have ended was said the first time
            for _, _, source in iterator:
                if not (isinstance(source, list) or _draw(source, iterator.steps_per_execution)):
                    raise StopIteration

    def _now(self) -> dict[str, Any]:
        now = {"random": _random_state.read()}
        dataset: Any = self._dataset
        if hasattr(dataset, "state") and hasattr(dataset, "load_state"):
            now["dataset"] = dataset.state()
        return now

    def _restore(self, begin: dict[str, Any]) -> None:
        _random_state.write(begin["random"])
        dataset: Any = self._dataset
        if "dataset" in begin and hasattr(dataset, "load_state"):
            dataset.load_state(begin["dataset"])

    def _next_key(self) -> int:
        self._passes += 1
        return self._key + self._epochs * 2**12 + self._passes


def batch_spec(epoch_iterator: Any) -> Any:
    """Returns the shapes of a batch where `fit` has not built the model with one, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    if epoch_iterator._distribute_strategy.num_replicas_in_sync > 1:
        return None
    spec = epoch_iterator._distributed_dataset.element_spec
    return keras.tree.map_structure(lambda x: x if hasattr(x, "shape") else None, spec)


def _draw(source: Iterator, count: int) -> bool:
    """Draws batches; returns whether there was one."""
    nothing = object()
    return sum(next(source, nothing) is not nothing for _ in range(count)) > 0


def _shuffles_unseeded(dataset: Any) -> bool:
    """Whether a `tf.data` pipeline shuffles by seeds that TensorFlow makes up."""
    if dataset is None or not hasattr(dataset, "_inputs"):
        return False
    seeds = [getattr(dataset, name, None) for name in ("_seed", "_seed2")]
    if "Shuffle" in type(dataset).__name__ and all(s is not None and int(s) == 0 for s in seeds):
        return True
    return any(_shuffles_unseeded(source) for source in dataset._inputs())
