"""Learning rates as data."""

import csv as csv_files
import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_optkit import _check, _processes
from keras_optkit._registry import register
from keras_optkit.callbacks._base import Callback
from keras_optkit.callbacks._learning_rates import Rates


@register
class LearningRateLogger(Callback):
    """Puts the learning rates into the History: of schedules, of groups, of each optimizer.

    Keras' History has no learning rate that follows a schedule. With this callback it has the
    rate of the last update of each epoch as `learning_rate`; those of a `MultiOptimizer` as
    `learning_rate_<name>`; and those of a `Group`, times its multiplier, after a slash:
    `learning_rate/backbone`. A callback before this one that logs the rate is believed.

    Updates are counted as the optimizers count them: several batches make one if gradients are
    accumulated, and skipped ones do not count. Nothing is fetched from the device but a counter
    and, if it is no schedule, the rate; and only when a row is due. A `fit` that goes on where
    the data end adds to them; any other begins anew.

    Args:
        every: Updates, 1 or more, from one row of data to the next; None makes a row of each
            epoch, of its last update.
        csv: Path of a table to write: step and rates.

    Attributes:
        names: Names of the rates, as in the History.
        steps: Step of each row, the number of updates done before.
        values: Array of rows times rates.

    Example:
        >>> logger = keras_optkit.callbacks.LearningRateLogger(every=1)
        >>> history = model.fit(x, y, callbacks=[logger])
        >>> rates = history.history["learning_rate"], logger.steps, logger.values
    """

    def __init__(self, every: int | None = None, csv: str | os.PathLike | None = None):
        super().__init__()
        self.every = None if every is None else _check.integer("every", every, low=1)
        if csv is not None:
            csv = os.fspath(_check.instance("csv", csv, (str, os.PathLike), "a path"))
        self.csv = csv
        self._rates: Rates | None = None
        self.load_state({"names": [], "steps": [], "values": []})

    @property
    def values(self) -> np.ndarray:
        return np.reshape(np.array(self._rows, "float64"), (len(self.steps), len(self.names)))

    def state(self) -> dict[str, Any]:
        rows = [list(row) for row in self._rows]
        return {"names": list(self.names), "steps": list(self.steps), "values": rows}

    def load_state(self, state: dict[str, Any]) -> None:
        self.names: list[str] = list(state["names"])
        self.steps: list[int] = list(state["steps"])
        self._rows: list[list[float]] = [list(row) for row in state["values"]]
        self._written = len(self.steps)

    def on_train_begin(self, logs=None):
        if getattr(self.model, "optimizer", None) is None:
            raise ValueError(
                "LearningRateLogger reads `model.optimizer`, and there is none. Call "
                f"`model.compile(optimizer=..., loss=...)` before `fit`. Received: "
                f"model={self.model}"
            )
        self._rates = Rates(self.model)
        self._begun = False
        self._batches = self._wait_for = 0

    # At the begin, since Keras calls it between two steps, when nothing else uses their state.
    def on_train_batch_begin(self, batch, logs=None):
        if self.every is None or self._rates is None:
            return
        known = (self.params or {}).get("steps") or batch + self._model.steps_per_execution
        batches = min(self._model.steps_per_execution, known - batch)
        self._batches += batches
        if self._batches >= self._wait_for:
            self._record_due(self._rates, batches)

    def on_epoch_end(self, epoch, logs=None):
        if self._rates is None:
            return
        updates, _ = self._rates.position()
        last = max(updates - 1, 0)  # with 0, none has been made yet
        rates = self._rates.at(last)
        if self.every is None and updates:
            self._record(last, rates)
        for name, rate in rates.items():
            if logs is not None:
                logs.setdefault(name, rate)
        self._write()

    def on_train_end(self, logs=None):
        self._write()
        self._rates = None

    def _record_due(self, rates: Rates, batches: int) -> None:
        """Records what is due of the updates that the next `batches` batches make."""
        every, position = self.every or 1, rates.position()
        step = -(-position[0] // every) * every
        while (needed := rates.batches_until(step, position)) <= batches:
            self._record(step, rates.at(step))
            step += every
        # Skipped steps may make it later, nothing makes it earlier.
        self._wait_for = self._batches - batches + needed

    def _record(self, step: int, rates: dict[str, float]) -> None:
        if self._begun and self.steps and step <= self.steps[-1]:
            return  # a step that was skipped when it was due
        if not self._begun:
            self._begun = True
            if self.names != list(rates) or any(step <= last for last in self.steps[-1:]):
                self.load_state({"names": list(rates), "steps": [], "values": []})
        self.steps.append(step)
        self._rows.append(list(rates.values()))

    def _write(self) -> None:
        """Adds the new rows to the table."""
        new = slice(self._written, None)
        if self.csv is None or not self.steps[new] or not _processes.leads(self._model):
            return
        path = Path(self.csv)
        if self._written == 0 or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(path, "w", [("step", *self.names)])
        rows = zip(self.steps[new], self._rows[new], strict=True)
        self._append(path, "a", [(step, *(f"{rate:.9g}" for rate in row)) for step, row in rows])
        self._written = len(self.steps)

    @staticmethod
    def _append(path: Path, mode: str, rows: list) -> None:
        with path.open(mode, newline="", encoding="utf-8") as file:
            csv_files.writer(file).writerows(rows)
