"""Progress of a run as one line of plain text."""

import sys
import time

import keras
import numpy as np


class Progress(keras.callbacks.Callback):
    """Keeps one line up to date on a terminal; elsewhere writes it once, when the run ends.

    Args:
        title: Begins the line.

    Attributes:
        seconds: Those of the whole run.
        per_epoch: Those of an epoch with its validation, once all is compiled.
    """

    seconds = per_epoch = float("nan")

    def __init__(self, title: str):
        super().__init__()
        self.title = title
        self._width = 0

    def on_train_begin(self, logs=None):
        self._times = [time.perf_counter()]
        self._show("compiling")

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        self._times.append(time.perf_counter())
        self._show(
            f"epoch {epoch + 1:2}/{self.params['epochs']}  loss {logs['loss']:.4f}  "
            f"accuracy {logs['accuracy']:.3f}  validation {logs['val_accuracy']:.3f}"
        )

    def on_train_end(self, logs=None):
        self.seconds = self._times[-1] - self._times[0]
        if len(self._times) > 2:
            self.per_epoch = float(np.median(np.diff(self._times[1:])))
        print("" if sys.stdout.isatty() else self._line, flush=True)

    def _show(self, text: str) -> None:
        self._line = f"  {self.title:<28} {text}"
        if sys.stdout.isatty():
            print(f"\r{self._line:<{self._width}}", end="", flush=True)
            self._width = len(self._line)
