"""Activation monitor."""

import math
import os
import warnings
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.callbacks._activation_flags import ActivationWatch
from keras_optkit.callbacks._probe import Probe
from keras_optkit.callbacks._recorder import Recorder, function, path
from keras_optkit.callbacks._records import Records


@register
class ActivationMonitor(Recorder):
    """Looks for dead and for saturated units on a probe batch while `fit` runs, and warns.

    A ReLU unit that is 0 for every sample gets no gradient, and may stay so for good; a tanh or
    sigmoid unit near its limits gets next to none. For each layer with such an activation, in
    a forward pass in inference mode:

    ```text
    silent = share of units whose output is 0 for all of the probe       (relu, relu6, ReLU)
    dead = share of units that were silent in each of the last `patience` measurements
    saturated = share of outputs within `margin` times the range of a limit
                                               (tanh, sigmoid, hard_tanh, hard_sigmoid)
    ```

    The units of a convolution are its channels. Layers are found wherever they are, in nested and
    subclassed models too, but not inside of wrappers and recurrent layers. What does not apply to
    a layer is NaN. Weights, statistics and seeds stay as they are. The pass is compiled once per
    `fit`. The History gets the means over layers, as `dead` and `saturated`, and, when `fit` ends,
    those of each epoch as `silent/layer` and so on.

    Args:
        probe: What to call the model with: an array, or a list or dict of arrays; some hundred
            samples of the training set will do. It is kept on the device during `fit`.
        every: Epochs or batches from one measurement to the next, 1 or more.
        unit: `"epoch"` to measure at the ends of epochs, `"batch"` before those batches of an
            epoch whose number, counted from 0, is a multiple of `every`.
        dead: Share of dead units, in (0, 1], from which on a layer is flagged.
        saturated: Share of saturated outputs, in (0, 1], that flags a layer if it is reached
            `patience` times in a row.
        patience: Measurements in a row before a silent unit counts as dead, 1 or more.
        margin: How near is near a limit, as a share of the range, in (0, 0.5).
        csv: Path of a table to write: step, layer and the columns.
        tensorboard: Directory of an event file to write, for TensorBoard.
        sink: A function to call with each measurement: a step, and a dict for each layer, by
            column, all in a dict by layer.

    Attributes:
        layers: Names of the layers in the order of the forward pass, with those around them.
        steps: Number of updates done before each measurement.
        columns: Names of what is measured; `column(name)` returns an array of measurements times
            layers, and `plot(name)` draws it.
        dead_units: By layer, the indices of the units that are dead by the last measurement.
        flags: What was found, a list of `ActivationFlag`s: `kind`, `layer`, `step`, `message`.

    Example:
        >>> monitor = keras_optkit.callbacks.ActivationMonitor(x[:256])
        >>> history = model.fit(x, y, epochs=2, callbacks=[monitor])
        >>> dead = monitor.dead_units  # empty where no layer has such an activation
    """

    _suffix = "activations"

    def __init__(
        self,
        probe: Any,
        every: int = 1,
        unit: Literal["epoch", "batch"] = "epoch",
        dead: float = 0.5,
        saturated: float = 0.5,
        patience: int = 2,
        margin: float = 0.01,
        csv: str | os.PathLike | None = None,
        tensorboard: str | os.PathLike | None = None,
        sink: Callable[[int, dict], Any] | None = None,
    ):
        super().__init__()
        self.probe = probe
        self.every = _check.integer("every", every, low=1)
        self.unit = _check.one_of("unit", unit, ("epoch", "batch"))
        self.dead = _check.in_range("dead", dead, 0, 1, closed="right")
        self.saturated = _check.in_range("saturated", saturated, 0, 1, closed="right")
        self.patience = _check.integer("patience", patience, low=1)
        self.margin = _check.in_range("margin", margin, 0, 0.5, closed="neither")
        self.csv = path("csv", csv)
        self.tensorboard = path("tensorboard", tensorboard)
        self.sink = function("sink", sink)
        self._compiled: Probe | None = None
        self._restart(Records(self.columns))

    @property
    def columns(self) -> tuple[str, ...]:
        return ("silent", "dead", "saturated")

    @property
    def dead_units(self) -> dict[str, list[int]]:
        runs = self._silent_for.items()
        return {x: np.flatnonzero(np.array(n) >= self.patience).tolist() for x, n in runs}

    def state(self):
        return super().state() | {"silent_for": self._silent_for}

    def load_state(self, state):
        rest = {name: value for name, value in state.items() if name != "silent_for"}
        super().load_state(rest)
        self._silent_for: dict[str, list[int]] = dict(state["silent_for"])

    def on_train_begin(self, logs=None):
        self._begin()
        self._compiled = None

    def on_train_batch_begin(self, batch, logs=None):
        if self.unit == "batch" and self._is_due(batch, self.every):
            self._measure()

    def on_epoch_end(self, epoch, logs=None):
        if self.unit == "epoch" and (epoch + 1) % self.every == 0:
            self._measure()
        means = self._end_epoch()
        for name in ("dead", "saturated"):
            known = [means.get(f"{name}/{layer}", math.nan) for layer in self.layers]
            known = [value for value in known if not math.isnan(value)]
            if logs is not None:  # the History, like later callbacks, gets to see it
                logs[name] = sum(known) / len(known) if known else math.nan

    def on_train_end(self, logs=None):
        self._compiled, self._sinks = None, ()
        history = getattr(self.model, "history", None)
        if history is not None:
            history.history.update(self._series())

    def _measure(self) -> None:
        model = self.model  # on JAX this fetches the weights
        if self._compiled is None:
            self._compiled = Probe(model, self.probe, self.margin)
            if not self._compiled.watched:
                warnings.warn(
                    "ActivationMonitor found no layer to look at: none has the activation relu, "
                    f"relu6, tanh, hard_tanh, sigmoid or hard_sigmoid. Received: model={model}",
                    stacklevel=2,
                )
        found = self._compiled()
        layers = self._compiled.layers
        if not layers:
            return
        step = _updates(model)
        if not self._begun and not self._records.goes_on(step, layers):
            self._silent_for = {}
        values = np.full((len(layers), len(self.columns)), np.nan)
        for row, layer, (silent, saturated) in zip(values, layers, found, strict=True):
            row[2] = saturated
            if silent is not None:
                before = np.array(self._silent_for.get(layer, np.zeros(len(silent), "int64")))
                runs = np.where(silent, before + 1, 0)
                self._silent_for[layer] = runs.tolist()
                row[:2] = silent.mean(), (runs >= self.patience).mean()
        self._record(step, layers, values)

    def _restart(self, records: Records) -> None:
        super()._restart(records)
        if not records.layers:
            self._silent_for = {}

    def _new_watch(self) -> ActivationWatch:
        return ActivationWatch(self.dead, self.saturated, self.patience)


def _updates(model: keras.Model) -> int:
    optimizer = getattr(model, "optimizer", None)
    return 0 if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations))
