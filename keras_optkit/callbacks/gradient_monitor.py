"""Gradient monitor."""

import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.callbacks._gradient_recorder import MEASURES, GradientRecorder, Measure
from keras_optkit.callbacks._instrument import Instrument
from keras_optkit.callbacks._reader import Reader
from keras_optkit.callbacks._recorder import function, path
from keras_optkit.callbacks._records import Records


@register
class GradientMonitor(GradientRecorder):
    """Measures gradients, weights and updates of each layer while `fit` runs, and warns.

    Norms over all weights of a layer, taken inside the compiled step of whatever optimizer the
    model has, of what it gets to see: unscaled, accumulated, summed over replicas, not yet
    clipped. With gradient `g` and weights `w` of a layer, and `g'` of the last measurement:

    ```text
    gradient_norm = |g|    weight_norm = |w| before    update_ratio = |w after - w before| / |w|
    cosine = g g' / (|g| |g'|)    zero_share, non_finite_share: of the entries of g
    ```

    Training is not changed. Steps that are not measured cost next to nothing; the measuring
    step is compiled apart, for this `fit`, and holds one copy of the weights, "cosine" another.
    The model has its own optimizer and its plain step again when `fit` ends, or at the first step
    after an exception.

    The History gets the means per epoch, as `gradient_norm` over all layers and, when `fit` ends,
    `gradient_norm/layer`, `weight_norm/layer` and so on; NaN if an epoch had no measurement. A
    `fit` that goes on where this callback stopped adds to its data; another model, or a step that
    was there before, begins anew. Of several processes that train one model, all measure the
    gradients of the whole batch; the first writes files, warns and calls `sink`.

    Args:
        every: Updates from one measurement to the next, 1 or more. The first update of a model
            is step 0; steps that are multiples of `every` are measured.
        csv: Path of a table to write: step, layer and the columns.
        tensorboard: Directory of an event file to write, for TensorBoard. Its histograms have the
            decimal logarithms of absolute values on their axis.
        vanishing: Share of the largest layer's gradient norm, in (0, 1), below which a gradient
            is tiny; `patience` times in a row, and the layer is flagged.
        exploding: Gradient norm, greater than 0, above which a layer is flagged at once.
        patience: Measurements in a row before a tiny gradient counts as vanishing, 1 or more.
        per: Whether to take the weights of a "layer" together, or each "variable" for itself,
            which then stands for a layer in all that is said here.
        measure: What to measure besides norms, some of "cosine", "zeros" and "histogram".
        sink: A function to call with each measurement: a step, and a dict for each layer, by
            column, all in a dict by layer.

    Attributes:
        layers: Names of the layers: paths of weights without the last segment and the model's name.
        steps: Step of each measurement, the number of updates done before.
        columns: Names of what is measured; `column(name)` returns an array of measurements times
            layers, and `plot(name)` draws it.
        gradient_norms: The column `gradient_norm`; so are the next two.
        weight_norms: Of the weights before the update.
        update_ratios: Relative size of updates; NaN where the weights are 0.
        histograms: Array of measurements times layers times bins: how many entries of the gradient
            lie between neighbours among `edges` in absolute value. The first bin takes all that is
            smaller, the last all that is greater or not finite.
        edges: From 1e-12 to 1e4, two a decade.
        flags: What was found, a list of `Flag`s: `kind`, `layer`, `step`, `message`.

    Example:
        >>> monitor = keras_optkit.callbacks.GradientMonitor(every=50, csv="gradients.csv")
        >>> history = model.fit(x, y, callbacks=[monitor])
        >>> worst = monitor.layers[monitor.gradient_norms[-1].argmin()]
    """

    async_safe = True  # Keras need not wait for each step on our account

    def __init__(
        self,
        every: int = 10,
        csv: str | os.PathLike | None = None,
        tensorboard: str | os.PathLike | None = None,
        vanishing: float = 1e-5,
        exploding: float = 1e3,
        patience: int = 3,
        per: Literal["layer", "variable"] = "layer",
        measure: Sequence[Measure] = (),
        sink: Callable[[int, dict], Any] | None = None,
    ):
        super().__init__()
        self.every = _check.integer("every", every, low=1)
        self.csv = path("csv", csv)
        self.tensorboard = path("tensorboard", tensorboard)
        self.vanishing = _check.in_range("vanishing", vanishing, 0, 1, closed="neither")
        self.exploding = _check.in_range("exploding", exploding, 0, closed="neither")
        self.patience = _check.integer("patience", patience, low=1)
        self.per = _check.one_of("per", per, ("layer", "variable"))
        _check.instance("measure", measure, (list, tuple), f"a list of some of {list(MEASURES)}")
        self.measure = tuple(_check.one_of("measure", item, MEASURES) for item in measure)
        self.sink = function("sink", sink)
        self._reader: Reader | None = None
        self._restart(Records(self.columns))

    def on_train_begin(self, logs=None):
        model = self.model
        if getattr(model, "optimizer", None) is None:
            raise ValueError(
                "GradientMonitor measures `model.optimizer`, and there is none. Call "
                "`model.compile(optimizer=..., loss=...)`; a model that keeps its optimizers under "
                f"other names cannot be monitored. Received: model={model}"
            )
        self._begin()
        self._reader = Reader(Instrument.on(model), self.every, measure=self.measure, per=self.per)

    def on_train_batch_begin(self, batch, logs=None):
        if self._reader is not None:
            self._reader.announce()

    def on_train_batch_end(self, batch, logs=None):
        self._collect()

    def on_epoch_end(self, epoch, logs=None):
        self._collect()
        means = self._end_epoch()
        if logs is not None:  # the History, like later callbacks, gets to see it
            logs["gradient_norm"] = means.get("gradient_norm", math.nan)

    def on_train_end(self, logs=None):
        self._collect()
        reader, self._reader, self._sinks = self._reader, None, ()
        if reader is None:
            return
        reader.close()
        if not self._begun and reader.batches >= self.every * reader.measured.period:
            warnings.warn(
                "GradientMonitor saw no update of `model.optimizer`. Are all weights frozen, does "
                "`train_step` use another optimizer, or did the loss scale skip every step?",
                stacklevel=2,
            )
        history = getattr(self.model, "history", None)
        if history is not None:
            history.history.update(self._series())

    def _collect(self) -> None:
        reader = self._reader
        if reader is None:
            return
        with reader.lock:  # Keras may call from several threads
            for measurement in reader.take():
                self._record(*measurement)
