"""Stop training when it no longer helps."""

from typing import Any, Literal

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.callbacks._metric import refuse
from keras_optkit.callbacks._stopping import Criterion, Stopping, Unit


@register
class EarlyStopping(Stopping):
    """Stops when a metric no longer improves, at a target, or when time is up; and restores.

    Keras' callback of this name, with what it lacks: its state outlives the process; `patience`
    may be in steps or seconds; the metric may be smoothed; the state of the optimizer may be
    restored with the weights; a metric that is NaN never is the best; a name that there is not is
    an error. With the metric `m`, or its smoothed value, and `best`, the last improvement:

    ```text
    improvement:    m < best - min_delta  (relative: - min_delta |best|),  or > and + for "max"
    stop:           `patience` units since the last improvement;  m reaches `target`;
                    validation minus training metric > max_gap;  training takes > max_seconds
    "GL", "PQ":     stop when 100 (m / min m - 1) > alpha;  or that over the progress of training
    "UP":           stop when m rose over each of the last `patience` strips of epochs
    ```

    The best weights are restored when `fit` ends, for whatever reason but an exception. With an
    averaging optimizer they are what the model held when the metric was the best: put
    `SwapAveragedWeights` first, and they are the averages that were validated. Several processes
    go by the clock of the first, and look at it at the ends of epochs only. A `fit` from
    epoch 0 begins anew; one with an `initial_epoch`, or after `load_state`, goes on, and after a
    stop with new patience.

    Args:
        monitor: Name of the metric, as in the History.
        min_delta: What an improvement must exceed, at least 0, in units of the metric or, if
            `relative`, as a share of `best`.
        relative: Whether `min_delta` is a share.
        patience: Units without improvement after which to stop, at least 0, which is like 1.
        unit: `"epoch"` counts epochs that have the metric; `"step"` batches, `"second"` seconds of
            training, both since the first look and looked at after each batch. With `"step"` a
            training metric that is a mean, such as the loss, is looked at every `every` batches.
            Any other is looked at when an epoch ends: let `patience` be longer than that.
        every: Batches, at least 1, whose mean one look at a training metric takes.
        mode: `"min"` where less is better, `"max"` where more is; `"auto"` knows by the name.
        smoothing: Share of the old average that a new value leaves, in [0, 1); 0 for none.
        baseline: A value that must be improved on, too, to end the waiting.
        target: Value of the metric to stop at.
        max_gap: Difference to stop above, in units of the metric, greater than 0; `monitor` is
            then `"val_..."`.
        max_seconds: Seconds of training, restarts included, greater than 0. Looked at after each
            batch; validation still runs.
        start_from: Units before which the metric is not looked at.
        restore: `"weights"` puts the best weights back, `"all"` the optimizer's state too,
            learning rate and counters included; None leaves the last ones.
        criterion: `"patience"`, or one of Prechelt's for a validation error of at least 0.
        alpha: Threshold of `"GL"`, in percent, and of `"PQ"`; greater than 0.
        strip: Epochs of a strip for `"PQ"` and `"UP"`, at least 1.
        verbose: 1 to print a line on stopping and restoring, 0 to be silent.

    Attributes:
        best: Best value of the metric so far, or None.
        best_epoch: Its epoch, from 0.
        wait: Units since the last improvement.
        stopped_epoch: Epoch of the stop, from 0; 0 if there was none.
        reason: Why training was stopped, in words; None if it was not.

    Example:
        >>> stop = keras_optkit.callbacks.EarlyStopping(patience=3, restore="weights")
        >>> history = model.fit(x, y, validation_data=(x, y), callbacks=[stop])
        >>> state = stop.state()  # to be kept with the model, for `load_state` before `fit`

    Reference:
        [Prechelt, 1998](https://doi.org/10.1007/3-540-49430-8_3), section 2.2, without the
        additional stop at little progress.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        min_delta: float = 0.0,
        relative: bool = False,
        patience: float = 5,
        unit: Unit = "epoch",
        every: int = 100,
        mode: Literal["auto", "min", "max"] = "auto",
        smoothing: float = 0.0,
        baseline: float | None = None,
        target: float | None = None,
        max_gap: float | None = None,
        max_seconds: float | None = None,
        start_from: float = 0,
        restore: Literal["weights", "all"] | None = None,
        criterion: Criterion = "patience",
        alpha: float = 2.0,
        strip: int = 5,
        verbose: int = 0,
        **unknown: Any,
    ):
        refuse("EarlyStopping", unknown, PORTED)
        super().__init__()
        self._watch(monitor, mode, min_delta, relative, verbose)
        self.unit = _check.one_of("unit", unit, ("epoch", "step", "second"))
        if unit == "second":
            self.patience = _check.in_range("patience", patience, 0, closed="neither")
            self.start_from = _check.in_range("start_from", start_from, low=0)
        else:
            self.patience = _check.integer("patience", patience, low=0)
            self.start_from = _check.integer("start_from", start_from, low=0)
        self.every = _check.integer("every", every, low=1)
        self.smoothing = _check.in_range("smoothing", smoothing, 0, 1, closed="left")
        self.baseline = None if baseline is None else _check.in_range("baseline", baseline)
        self.target = None if target is None else _check.in_range("target", target)
        self.max_gap = _positive("max_gap", max_gap)
        self.max_seconds = _positive("max_seconds", max_seconds)
        self.restore = _check.one_of("restore", restore, (None, "weights", "all"))
        self.criterion = _check.one_of("criterion", criterion, ("patience", "GL", "PQ", "UP"))
        self.alpha = _check.in_range("alpha", alpha, 0, closed="neither")
        self.strip = _check.integer("strip", strip, low=1)
        self._check_together()
        self._restart()

    def _check_together(self) -> None:
        """Checks what arguments must be like for one another."""
        if self.criterion != "patience" and self.unit != "epoch":
            raise ValueError(
                '`unit` must be "epoch" for Prechelt\'s criteria, which are defined at the ends of '
                f"epochs. {_check.received('unit', self.unit)}, criterion={self.criterion!r}"
            )
        if self.criterion in ("GL", "PQ") and self._sign > 0:
            raise ValueError(
                f'criterion="{self.criterion}" needs an error, of which less is better, such as '
                f'"val_loss". {_check.received("monitor", self.monitor)}, mode={self.mode!r}'
            )
        paired = self.max_gap is not None or self.criterion == "PQ"
        if paired and not self.monitor.startswith("val_"):
            raise ValueError(
                '`monitor` must begin with "val_" for `max_gap` and for criterion="PQ", which '
                "compare it with the training metric of the rest of the name. "
                f"{_check.received('monitor', self.monitor)}"
            )


PORTED = {
    "restore_best_weights": 'Write restore="weights", or restore="all" for the optimizer too.',
    "start_from_epoch": "Write start_from.",
}


def _positive(name: str, value: float | None) -> float | None:
    return None if value is None else _check.in_range(name, value, 0, closed="neither")
