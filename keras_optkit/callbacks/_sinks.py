"""Where measurements go: files, opened anew for each so that none stays open, and functions."""

import csv
import itertools
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

_numbers = itertools.count()


class Sink(Protocol):
    """What a monitor hands its measurements to."""

    def restart(self) -> None:
        """Forgets an earlier run."""

    def write(
        self, step: int, layers: Sequence[str], values: np.ndarray, counts: np.ndarray | None
    ) -> None:
        """Adds a measurement: `values` holds the columns of each layer, `counts` histograms."""


class Csv:
    """A table with one line per layer and measurement; histograms are left out."""

    def __init__(self, path: str, columns: Sequence[str]):
        self.path, self.columns = Path(path), columns

    def restart(self) -> None:
        """Begins an empty table."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._append([("step", "layer", *self.columns)], "w")

    def write(self, step, layers, values, counts=None) -> None:
        """Adds a measurement."""
        if not self.path.exists():
            self.restart()
        lines = zip(layers, values, strict=True)
        self._append([(step, layer, *(f"{x:.9g}" for x in line)) for layer, line in lines], "a")

    def _append(self, lines, mode: str) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)


class TensorBoard:
    """An event file with a scalar per layer and column, and a histogram per layer.

    Args:
        directory: Where to make it.
        columns: Names of the scalars.
        suffix: End of the file's name.
        histogram: Name of the histograms.
        limits: Ends of the histograms' bins, on the axis to show them on.
    """

    def __init__(self, directory: str, columns, suffix: str, histogram="", limits=()):
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise ImportError(
                "`tensorboard` asks for event files, which the package tensorboard writes, and it "
                'is not installed. Run: pip install "keras_optkit[plots]". Or use `csv`.'
            ) from error
        self._writer, self._proto, self._event = RecordWriter, summary_pb2, event_pb2.Event
        self._columns, self._histogram, self._limits = columns, histogram, list(limits)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self.path = Path(directory) / f"{name}.{next(_numbers)}.{suffix}"

    def restart(self) -> None:
        """Does nothing: an event file belongs to one `fit`."""

    def write(self, step, layers, values, counts=None) -> None:
        """Adds a measurement."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        make: Any = self._proto.Summary.Value
        found = [
            make(tag=f"{column}/{layer}", simple_value=value)
            for layer, line in zip(layers, values.tolist(), strict=True)
            for column, value in zip(self._columns, line, strict=True)
        ]
        for layer, line in zip(layers, () if counts is None else counts, strict=False):
            found.append(make(tag=f"{self._histogram}/{layer}", histo=self._bars(line)))
        summary = self._proto.Summary(value=found)
        self._append(self._event(wall_time=time.time(), step=step, summary=summary))

    def _bars(self, counts):
        ends = np.array(self._limits)
        middles = ends - np.diff(ends, prepend=2 * ends[0] - ends[1]) / 2
        full = np.flatnonzero(counts)
        return self._proto.HistogramProto(
            min=middles[full[0]],
            max=middles[full[-1]],
            num=counts.sum(),
            sum=(counts * middles).sum(),
            sum_squares=(counts * middles**2).sum(),
            bucket_limit=self._limits,
            bucket=counts.astype("float64"),
        )

    def _append(self, event) -> None:
        with self.path.open("ab") as file:
            self._writer(file).write(event.SerializeToString())


class Call:
    """A function of the step and of a dict with a dict of numbers for each layer."""

    def __init__(self, function: Callable[[int, dict], Any], columns: Sequence[str]):
        self._function, self._columns = function, columns

    def restart(self) -> None:
        """Does nothing: the step tells."""

    def write(self, step, layers, values, counts=None) -> None:
        """Passes on a measurement."""
        rows = [dict(zip(self._columns, line, strict=True)) for line in values.tolist()]
        for row, line in zip(rows, () if counts is None else counts, strict=False):
            row["histogram"] = line
        self._function(step, dict(zip(layers, rows, strict=True)))
