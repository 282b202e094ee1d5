"""One `fit` and the directory it goes on from."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_optkit import _check, _processes
from keras_optkit.callbacks import _callback_states, _fit, _model_state, _saved
from keras_optkit.callbacks._checkpoints import FINISHED, Checkpoints
from keras_optkit.callbacks._position import Position, batch_spec


class Run:
    """Saves and restores all there is to a `fit`.

    Outside of a `fit`, in a loop of the user's, it knows neither data nor other callbacks.
    """

    def __init__(
        self,
        owner: keras.callbacks.Callback,
        directory: str,
        keep: int,
        callbacks: list[keras.callbacks.Callback] | None,
    ):
        self.model = owner._model  # not `owner.model`, which makes JAX copy all weights
        self.fit = _fit.find(self.model)
        self.position = None if self.fit is None else Position(self.fit.epoch_iterator)
        self.path: Path | None = None  # of the checkpoint to go on from, and what it says
        self.saved: dict[str, Any] = {}
        self._owner, self._keep = owner, keep
        self._leads = _processes.leads(self.model)
        self._checkpoints = Checkpoints(Path(directory))
        self._callbacks = self._selected(callbacks)

    def open(self, epochs: int | None) -> None:
        """Finds the checkpoint to go on from; callbacks whose hooks are to come get states."""
        failure = None
        try:
            if self._leads:
                self._checkpoints.open()
                self._choose(epochs)
        except OSError as error:
            failure = error
        directory = str(self._checkpoints.directory)
        if not _processes.all_of(self.model, failure is None):
            raise ValueError(
                f"`directory` must be one that TrainingState can write to: "
                f"{failure or 'the first process cannot'}. "
                f"{_check.received('directory', directory)}"
            ) from failure
        if not self._leads:  # what is damaged is set aside by now
            self._choose(epochs)
        name = "" if self.path is None else self.path.name
        names = _processes.gathered(self.model, name.encode())
        if len({*names}) > 1:
            raise ValueError(
                "`directory` must be one and the same for all processes. They found "
                f"{', '.join(one.decode() or 'none' for one in names)} in it. "
                f"{_check.received('directory', directory)}"
            )
        if self.path is not None:
            batch = None if self.fit is None else batch_spec(self.fit.epoch_iterator)
            _model_state.build(self.model, batch)
            _model_state.check(self.model, self.saved["model"], self.path, self.saved["batch"] > 0)
            _callback_states.write(self._callbacks, self.saved["callbacks"], early=True)

    def begin(self, between: Callable[[int, bool], None]) -> None:
        """Restores the checkpoint, and lets `between` be called from batch to batch.

        The owner is the last callback that is called, so nobody undoes this.
        """
        if self.position is not None:
            self.position.begin_fit()
        if self.path is not None:
            self._go_on(self.path)
        if self.position is not None:
            self.position.attach(between)

    def _go_on(self, path: Path) -> None:
        batch = self.saved["batch"]
        if batch and self.position is None:
            raise ValueError(
                f"The checkpoint {path} was written in the middle of an epoch, where only "
                "`fit` can go on. Received: a loop without `fit`"
            )
        self.restore()
        positions = self._positions()
        if self.position is None or positions[0] is None:
            return
        place, count = _processes.place(self.model)
        if len(positions) == count:
            self.position.resume(positions[place], batch)
        elif batch:
            raise ValueError(
                f"The checkpoint {path} was written in the middle of an epoch by {len(positions)} "
                f"processes, each with its share of the data, and now there are {count}. Go on "
                "with as many, to the end of the epoch at least."
            )
        else:
            warnings.warn(
                f"The checkpoint {path} was written by {len(positions)} processes, and now there "
                f"are {count}: training goes on with the same weights, but with other batches.",
                stacklevel=2,
            )

    def _positions(self) -> list[Any]:
        """Returns the position of each process in its data, or None where it had none."""
        others = self.saved.get("positions", [])
        return [self.saved["position"], *(_saved.from_bytes(data.tobytes()) for data in others)]

    def restore(self) -> None:
        """Sets model and callbacks to what the checkpoint has."""
        assert self.path is not None
        _model_state.read(self._owner.model, self.path, self.saved["others"])
        _callback_states.write(self._callbacks, self.saved["callbacks"])

    def save(self, epoch: int, batch: int, finished: bool = False) -> bool:
        """Writes a checkpoint if that is possible, and returns whether it was."""
        if self.fit is not None:
            self.fit.callbacks._flush_futures()  # hooks that run in other threads
        model = self._owner.model  # JAX: brings the variables up to date
        position = None if self.position is None else self.position.state()
        _, *others = _processes.gathered(model, _saved.to_bytes(position))
        state = {
            "epoch": epoch,
            "batch": batch,
            "stopped": bool(getattr(model, "stop_training", False)),
            "finished": finished,
            "model": _model_state.describe(model),
            "callbacks": _callback_states.read(self._callbacks),
            "position": position,
            "positions": [np.frombuffer(data, "uint8") for data in others],
        }
        # All processes do, since reading some variables takes all of them.
        weights, state["others"] = _model_state.written(model)

        def fill(directory: Path) -> None:
            (directory / _model_state.WEIGHTS).write_bytes(weights)
            _saved.write(directory, state)

        failure = None
        try:
            if self._leads:
                self._checkpoints.write(fill, finished)
        except OSError as error:
            failure = error
        if not _processes.all_of(model, failure is None):
            if self._leads:
                warnings.warn(
                    f"TrainingState could not write a checkpoint: {failure}. Training goes on; "
                    "after a crash it would begin at an older one.",
                    stacklevel=2,
                )
            return False
        if self._leads:
            self._checkpoints.prune(self._keep)
        return True

    def _choose(self, epochs: int | None) -> None:
        over = None
        for path in self._checkpoints.intact():
            saved = _saved.read(path)
            goes_on = not saved["stopped"] and epochs is not None and saved["epoch"] < epochs
            if path.name.startswith(FINISHED) and goes_on:
                over = path, saved  # what is before the end goes on, if it is as new
                continue
            if over is not None and saved["epoch"] < over[1]["epoch"]:
                path, saved = over
            self.path, self.saved = path, saved
            return
        if over is not None:
            self.path, self.saved = over

    def _selected(self, chosen: list | None) -> list[keras.callbacks.Callback]:
        if self.fit is None:
            return [] if chosen is None else chosen
        everyone = [c for c in self.fit.callbacks.callbacks if c is not self._owner]
        if chosen is None:
            return everyone
        for callback in chosen:
            if not any(callback is other for other in everyone):
                raise ValueError(
                    "`callbacks` must hold callbacks of the same `fit`, and one is not: "
                    f"{callback!r}. Pass it to `fit` too. {_check.received('callbacks', chosen)}"
                )
        history = keras.callbacks.History
        return [c for c in everyone if isinstance(c, history) or any(c is x for x in chosen)]
