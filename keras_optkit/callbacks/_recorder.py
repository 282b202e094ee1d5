"""What a monitor makes of its measurements."""

import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from keras_optkit import _check, _processes
from keras_optkit.callbacks._base import Callback
from keras_optkit.callbacks._heat import heat_map
from keras_optkit.callbacks._records import Records
from keras_optkit.callbacks._sinks import Call, Csv, Sink, TensorBoard


class Watch(Protocol):
    """Raises flags, each with a `kind`, a `layer` and a `message`."""

    flags: list

    def check(self, step: int, layers: Sequence[str], values: np.ndarray) -> list:
        """Returns the flags that a measurement raises for the first time."""
        ...


class Recorder(Callback):
    """Base of the monitors: data, flags, files, series and plots, but no measuring."""

    csv: str | None
    tensorboard: str | None
    sink: Callable[[int, dict], Any] | None
    _suffix: ClassVar[str]
    _histogram: ClassVar[tuple[str, Sequence[float]]] = ("", ())  # name and ends of bins
    _sinks: Sequence[Sink] = ()
    _begun = False
    _epochs: Sequence[dict[str, float]] = ()  # means of those before, in this `fit`

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is measured of each layer."""
        raise NotImplementedError

    def _new_watch(self) -> Watch:
        raise NotImplementedError

    @property
    def layers(self) -> list[str]:
        return self._records.layers

    @property
    def steps(self) -> list[int]:
        return self._records.steps

    @property
    def flags(self) -> list:
        return self._watch.flags

    def column(self, name: str) -> np.ndarray:
        """Returns one of `columns` as an array of measurements times layers."""
        return self._records.column(_check.one_of("name", name, self.columns))

    def plot(self, name: str | None = None, axes: Any = None) -> Any:
        """Draws a heat map of layers by steps, and returns the matplotlib axes.

        Args:
            name: One of `columns`; by default the first one.
            axes: Matplotlib axes to draw into; by default the current ones.
        """
        name = self.columns[0] if name is None else name
        return heat_map(name, self.column(name), self.layers, self.steps, axes)

    def state(self):
        records = self._records
        values = [value.tolist() for value in records.values]
        state = {"layers": list(records.layers), "steps": list(records.steps), "values": values}
        if records.histograms:
            state["histograms"] = [counts.tolist() for counts in records.histograms]
        return state | {"since": self._since, "epochs": list(self._epochs)}

    def load_state(self, state):
        widths = {len(line) for value in state["values"] for line in value}
        if widths - {len(self.columns)}:
            raise ValueError(
                f"`state` must be that of a {type(self).__name__} which measures the same: "
                f"{', '.join(self.columns)}. Received: lines of {sorted(widths)} numbers"
            )
        rest = {name: value for name, value in state.items() if name not in ("since", "epochs")}
        self._restart(Records(self.columns, **rest))
        self._since = state.get("since", len(self.steps))
        self._epochs = list(state.get("epochs", ()))

    def _restart(self, records: Records) -> None:
        """Begins with `records`, whose flags were reported when they were taken."""
        self._records, self._since = records, 0  # where those of the present epoch begin
        self._watch = self._new_watch()
        for step, values in zip(records.steps, records.values, strict=True):
            self._watch.check(step, records.layers, values)

    def _begin(self) -> None:
        """Prepares for a `fit`."""
        self._sinks, self._begun = (), False
        self._since = len(self.steps)
        self._epochs = []
        self._leads = _processes.leads(self._model)
        if not self._leads:
            return
        sinks: list[Sink] = [Csv(self.csv, self.columns)] if self.csv else []
        if self.tensorboard:
            more = self._suffix, *self._histogram
            sinks.append(TensorBoard(self.tensorboard, self.columns, *more))
        if self.sink is not None:
            sinks.append(Call(self.sink, self.columns))
        self._sinks = sinks

    def _record(self, step: int, layers: list[str], values: np.ndarray, counts=None) -> None:
        if not self._begun:
            self._begun = True
            if not self.steps or not self._records.goes_on(step, layers):
                self._restart(Records(self.columns, layers))
                for sink in self._sinks:
                    sink.restart()
        self._records.add(step, values, counts)
        flags = self._watch.check(step, layers, values)
        for message in messages(flags if self._leads else ()):
            warnings.warn(f"{type(self).__name__}: {message}", stacklevel=2)
        for sink in self._sinks:
            sink.write(step, layers, values, counts)

    def _end_epoch(self) -> dict[str, float]:
        """Returns the means over the epoch that ends."""
        means = self._records.means(self._since)
        self._since = len(self.steps)
        self._epochs = [*self._epochs, means]
        return means

    def _series(self) -> dict[str, list[float]]:
        """Returns the means of each epoch of this `fit`, layer by layer."""
        layers = self.layers if self._begun else []
        names = [f"{column}/{layer}" for column in self.columns for layer in layers]
        return {name: [means.get(name, math.nan) for means in self._epochs] for name in names}


def path(name: str, value: str | os.PathLike | None) -> str | None:
    """Returns `value`, a path or None, as a string."""
    if value is None:
        return None
    return os.fspath(_check.instance(name, value, (str, os.PathLike), "a path"))


def function(name: str, value: Any) -> Any:
    """Returns `value` if it is None or can be called."""
    if value is not None and not callable(value):
        raise TypeError(
            f"`{name}` must be None or a function of a step and a dict, "
            f"{{layer: {{column: number}}}}. {_check.received(name, value)}"
        )
    return value


def messages(flags: Sequence[Any]) -> list[str]:
    """Returns a message for each kind of flag, which names all layers."""
    kinds: dict[str, list[Any]] = {}
    for flag in flags:
        kinds.setdefault(flag.kind, []).append(flag)
    return [
        first.message + (f". Likewise: {', '.join(f.layer for f in rest)}" if rest else "")
        for first, *rest in kinds.values()
    ]
