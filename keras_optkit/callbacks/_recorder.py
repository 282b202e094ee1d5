"""What a monitor makes of its measurements."""

import math
import warnings
from collections.abc import Sequence

import numpy as np

from keras_optkit.callbacks._base import Callback
from keras_optkit.callbacks._flags import Flag, Watch, messages
from keras_optkit.callbacks._records import Records
from keras_optkit.callbacks._sinks import COLUMNS, Csv, TensorBoard


class Recorder(Callback):
    """Base of `GradientMonitor`: data, flags, files and series, but no measuring."""

    csv: str | None
    tensorboard: str | None
    vanishing: float
    exploding: float
    patience: int
    _sinks: Sequence[Csv | TensorBoard] = ()
    _begun = False

    @property
    def layers(self) -> list[str]:
        return self._records.layers

    @property
    def steps(self) -> list[int]:
        return self._records.steps

    @property
    def gradient_norms(self) -> np.ndarray:
        return self._records.column("gradient_norm")

    @property
    def weight_norms(self) -> np.ndarray:
        return self._records.column("weight_norm")

    @property
    def update_ratios(self) -> np.ndarray:
        return self._records.column("update_ratio")

    @property
    def flags(self) -> list[Flag]:
        return self._watch.flags

    def state(self):
        records = self._records
        values = [value.tolist() for value in records.values]
        return {"layers": list(records.layers), "steps": list(records.steps), "values": values}

    def load_state(self, state):
        self._restart(Records(**state))

    def _restart(self, records: Records) -> None:
        """Begins with `records`, whose flags were reported when they were taken."""
        self._records = records
        self._watch = Watch(self.vanishing, self.exploding, self.patience)
        for step, values in zip(records.steps, records.values, strict=True):
            self._watch.check(step, records.layers, values)

    def _begin(self) -> None:
        """Prepares for a `fit`."""
        sinks = [Csv(self.csv)] if self.csv else []
        self._sinks = [*sinks, TensorBoard(self.tensorboard)] if self.tensorboard else sinks
        self._begun = False
        self._since = len(self.steps)
        self._epochs: list[dict[str, float]] = []

    def _record(self, step: int, layers: list[str], values: np.ndarray) -> None:
        if not self._begun:
            self._begun = True
            if not self.steps or not self._records.goes_on(step, layers):
                self._restart(Records(layers))
                self._since = 0
                for sink in self._sinks:
                    sink.restart()
        self._records.add(step, values)
        for message in messages(self._watch.check(step, layers, values)):
            warnings.warn(f"GradientMonitor: {message}", stacklevel=2)
        for sink in self._sinks:
            sink.write(step, layers, values)

    def _end_epoch(self) -> dict[str, float]:
        """Returns the means over the epoch that ends."""
        means = self._records.means(self._since)
        self._since = len(self.steps)
        self._epochs.append(means)
        return means

    def _series(self) -> dict[str, list[float]]:
        """Returns the means of each epoch of this `fit`, layer by layer."""
        layers = self.layers if self._begun else []
        names = [f"{column}/{layer}" for column in COLUMNS for layer in layers]
        return {name: [means.get(name, math.nan) for means in self._epochs] for name in names}
