"""Training that survives a crash."""

import os
import time
import warnings
from typing import Any, Literal

import keras

from keras_optkit import _check, _processes
from keras_optkit._registry import register
from keras_optkit.callbacks import _fit
from keras_optkit.callbacks._base import Callback
from keras_optkit.callbacks._run import Run


@register
class TrainingState(Callback):
    """Goes on, bit for bit, where a `fit` was killed: run the same script again.

    Each checkpoint holds weights, optimizer, metrics, the states of Dropout and of all random
    numbers, what the callbacks know, and the position in the data, in the middle of an epoch
    too. It is a directory that is there whole or not at all: written aside, brought to the
    disk, renamed. One that is damaged is noticed by its checksums, and the one before is used.
    If it cannot be written, the disk being full, training goes on with a warning.

    What Keras can save is in the checkpoint's `model.weights.h5`, for `model.load_weights`.

    `epochs` of `fit` is the total: a run that has reached it, or was stopped by a callback,
    is over, and run again only gets its weights and its History; with more `epochs` a run that
    was not stopped goes on. Each `fit` needs a directory of its own; remove it to begin anew.

    Arrays and `DataLoader`s are brought to their position by drawing the first batches of the
    epoch again. For other data past epochs are gone through again, without training: all
    batches of a `tf.data` pipeline, a generator, or data with `steps_per_epoch`; of a
    `keras.utils.PyDataset` only the hooks `on_epoch_begin` and `on_epoch_end`, or
    `load_state(state)` if it has that and `state()`. They must give the same batches in each
    process: seed a pipeline's shuffles and a generator's random numbers; arrays need no seed.

    Of several processes that train one model, on JAX or under a `tf.distribute` strategy, the first
    writes, and all read: `directory` must be the same for all. Each goes on in its own share of
    the data. Callbacks get the states of those of the first.

    Callbacks keep what they know through `state` and `load_state`, or `get_state` and
    `set_state`; Keras' own are known. It is called after all others, wherever it stands in the
    list, and they get their states back at the hook at which these were saved.

    Args:
        directory: Where to write; made if it is missing.
        every: `"epoch"`, or how many units to wait from one checkpoint to the next, more than 0.
            The last epoch always ends with one.
        unit: Of a number `every`: `"batch"` or `"second"`.
        keep: How many checkpoints to keep, at least 1, beside that of the finished run.
        callbacks: Whose states are kept, all of the same `fit`; None for all it has. The
            History always is.

    Attributes:
        epoch: Epochs that were done at the last checkpoint.
        batch: Batches of the next epoch that were done by then.

    Raises:
        ValueError: When training begins: if the directory cannot be written to, if its
            checkpoint is of another model, or if `callbacks` has one that is not in the `fit`.

    Example:
        >>> state = keras_optkit.callbacks.TrainingState("run")
        >>> history = model.fit(x, y, epochs=3, callbacks=[state])

    Reference:
        `keras.callbacks.BackupAndRestore`, which repeats the batches since an epoch began, knows
        neither random numbers nor callbacks, and overwrites its only copy.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        every: float | Literal["epoch"] = "epoch",
        unit: Literal["batch", "second"] = "batch",
        keep: int = 2,
        callbacks: list[keras.callbacks.Callback] | None = None,
    ):
        super().__init__()
        _check.instance("directory", directory, (str, os.PathLike), "a path")
        self.directory = os.fspath(directory)
        self.unit = _check.one_of("unit", unit, ("batch", "second"))
        self.every = _every(every, self.unit)
        self.keep = _check.integer("keep", keep, low=1)
        self.callbacks = _listed(callbacks)
        self.epoch = self.batch = 0
        self._run: Run | None = None
        self._initial_epoch: tuple[Any] | None = None

    def set_params(self, params):
        super().set_params(params)
        self._leave()
        _fit.put_last(self)
        if _fit.find(self._model) is not None:  # before any `on_train_begin`: see `Run.open`
            self._run = self._open()

    def on_train_begin(self, logs=None):
        self._run = run = self._run or self._open()
        run.begin(self._between)
        self._over = bool(run.saved.get("finished"))
        self._behind = self.batch > 0  # the batches of the present epoch that are done
        self._epoch: int | None = None
        self._offset = 0  # batches since the last checkpoint when the epoch began
        self._clock = time.monotonic()
        if run.path is not None:
            model = self._model
            self._initial_epoch = (model._initial_epoch,)
            total = self._total() or 0
            model._initial_epoch = max(self.epoch, total) if self._over else self.epoch
        if run.position is None and self.every != "epoch":
            warnings.warn(
                "TrainingState writes checkpoints at the ends of epochs only: it cannot tell "
                "where a loop without `fit` stands in its data.",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch, logs=None):
        self._put_back()
        self._epoch, self._over = epoch, False
        if self._run is not None and self._run.position is not None and not self._behind:
            self._run.position.begin_epoch()

    def on_epoch_end(self, epoch, logs=None):
        position = None if self._run is None else self._run.position
        done = self._offset + (0 if position is None else position.seen)
        last = epoch + 1 == self._total() or getattr(self._model, "stop_training", False)
        if last or self.every == "epoch" or self._due(done):
            self._save(epoch + 1, 0)
            done = 0
        self._offset = done

    def on_train_end(self, logs=None):
        if self._run is not None and self._over:
            self._run.restore()  # whatever other callbacks have made of the end
        elif self._epoch is not None:
            self._save(self._epoch + 1, 0, finished=True)
        self._leave()

    def _between(self, batch: int, resumed: bool) -> None:
        if resumed:
            assert self._run is not None
            self._run.restore()
            self._behind = False
        elif self._due(self._offset + batch):
            self._save(self._epoch, batch)
        else:
            return
        self._offset = -batch

    def _open(self) -> Run:
        run = Run(self, self.directory, self.keep, self.callbacks)
        run.open(self._total())
        self.epoch, self.batch = run.saved.get("epoch", 0), run.saved.get("batch", 0)
        return run

    def _leave(self) -> None:
        self._put_back()
        self._run = None

    def _put_back(self) -> None:
        """Lets the next `fit` begin where it would have begun."""
        if self._initial_epoch is not None:
            (self._model._initial_epoch,) = self._initial_epoch
            self._initial_epoch = None

    def _total(self) -> int | None:
        return (self.params or {}).get("epochs")

    def _due(self, batches: int) -> bool:
        if isinstance(self.every, str):
            return False
        if self.unit == "batch":
            return batches >= self.every
        waited = time.monotonic() - self._clock
        return _processes.of_the_first(self._model, waited) >= self.every

    def _save(self, epoch: int | None, batch: int, finished: bool = False) -> None:
        assert self._run is not None and epoch is not None
        self._clock = time.monotonic()
        if self._run.save(epoch, batch, finished):
            self.epoch, self.batch = epoch, batch


def _every(every: Any, unit: str) -> float | Literal["epoch"]:
    if every == "epoch":
        if unit != "batch":
            raise ValueError(
                "`unit` goes with a number `every`, as in every=60. "
                + _check.received("unit", unit)
            )
        return "epoch"
    if isinstance(every, str):
        raise ValueError(
            '`every` must be "epoch", or a number of `unit`s. ' + _check.received("every", every)
        )
    if unit == "batch":
        return _check.integer("every", every, low=1)
    return _check.in_range("every", every, 0, closed="neither")


def _listed(callbacks: Any) -> list[keras.callbacks.Callback] | None:
    if callbacks is None:
        return None
    if isinstance(callbacks, (list, tuple)) and all(
        isinstance(callback, keras.callbacks.Callback) for callback in callbacks
    ):
        return list(callbacks)
    raise TypeError(
        "`callbacks` must be a list of callbacks that `fit` has too. "
        + _check.received("callbacks", callbacks)
    )
