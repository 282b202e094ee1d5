"""Files that measurements are written to, opened anew for each, so that none stays open."""

import csv
import itertools
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

COLUMNS = ("gradient_norm", "weight_norm", "update_ratio")

_numbers = itertools.count()


class Csv:
    """A table with one line per layer and measurement."""

    def __init__(self, path: str):
        self.path = Path(path)

    def restart(self) -> None:
        """Begins an empty table."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._append([("step", "layer", *COLUMNS)], "w")

    def write(self, step: int, layers: Sequence[str], values: np.ndarray) -> None:
        """Adds a measurement: `values` holds the columns of each layer."""
        if not self.path.exists():
            self.restart()
        lines = zip(layers, values, strict=True)
        self._append([(step, layer, *(f"{x:.9g}" for x in line)) for layer, line in lines], "a")

    def _append(self, lines, mode: str) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)


class TensorBoard:
    """An event file with a scalar per layer and column."""

    def __init__(self, directory: str):
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise ImportError(
                "`tensorboard` asks for event files, which the package tensorboard writes, and it "
                'is not installed. Run: pip install "keras_optkit[plots]". Or use `csv`.'
            ) from error
        self._writer, self._summary = RecordWriter, summary_pb2.Summary
        self._event = event_pb2.Event
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self.path = Path(directory) / f"{name}.{next(_numbers)}.gradients"

    def restart(self) -> None:
        """Does nothing: an event file belongs to one `fit`."""

    def write(self, step: int, layers: Sequence[str], values: np.ndarray) -> None:
        """Adds a measurement: `values` holds the columns of each layer."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        scalars = [
            self._summary.Value(tag=f"{column}/{layer}", simple_value=value)
            for layer, line in zip(layers, values.tolist(), strict=True)
            for column, value in zip(COLUMNS, line, strict=True)
        ]
        summary = self._summary(value=scalars)
        self._append(self._event(wall_time=time.time(), step=step, summary=summary))

    def _append(self, event) -> None:
        with self.path.open("ab") as file:
            self._writer(file).write(event.SerializeToString())
