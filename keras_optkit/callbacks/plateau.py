"""Lower learning rates when a metric stops improving."""

import warnings
import weakref
from typing import Any, Literal

import keras
import numpy as np

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.callbacks._direction import direction
from keras_optkit.callbacks._metric import improves
from keras_optkit.callbacks._settable import rate_of, rates_of, settable
from keras_optkit.callbacks._speaking import Speaking


@register
class Plateau(Speaking):
    """Lowers the learning rate when a metric has stopped improving, and goes on after a restart.

    For training whose length is not known: stay at a rate while it helps, then take smaller
    steps. With the metric `m` of an epoch and `best`, the last value that was an improvement:

    ```text
    improvement:   m < best - min_delta * |best|    or, with relative=False, m < best - min_delta
                   m > best + min_delta * |best|    and so on, where more is better
    after `patience` epochs without one:    learning_rate = max(minimum, learning_rate * factor)
    ```

    A metric that is not finite is no improvement, and never becomes `best`. The rate is set at the
    ends of epochs only, on the optimizer inside of wrappers, on each of a `MultiOptimizer`, and
    is saved with it; `state` holds the rest. The History gets the epoch's `learning_rate`.
    Another `fit` goes on where this one stops; another model begins anew. It is also exported as
    `ReduceLROnPlateau`, the name of Keras' callback for this.

    Args:
        monitor: Name of the metric, as in the History.
        factor: What the learning rate is multiplied by, in (0, 1).
        patience: Epochs without improvement that make a plateau, at least 1.
        min_delta: What an improvement must exceed, at least 0: a share of `best`, or, if not
            `relative`, a difference in units of the metric.
        relative: Whether `min_delta` is a share.
        mode: `"min"` where less is better, `"max"` where more is; `"auto"` knows by the name.
        cooldown: Epochs after a plateau that count for nothing but `best`, at least 0.
        minimum: Learning rate to stop at, at least 0.
        verbose: 1 to print a line when the learning rate falls, 0 to be silent.

    Attributes:
        best: Best value of the metric so far, or None.
        wait: Epochs since then, or since the last plateau or cooldown.
        cooldown_left: Epochs of cooldown to come.
        reductions: How often the learning rate was lowered.

    Example:
        >>> plateau = keras_optkit.callbacks.Plateau("val_loss", factor=0.2, patience=3)
        >>> history = model.fit(x, y, validation_data=(x, y), callbacks=[plateau])
        >>> state = plateau.state()  # to be kept with the model, for `load_state` before `fit`

    Reference:
        `torch.optim.lr_scheduler.ReduceLROnPlateau`, whose `patience` is one less and whose share
        of a negative `best` has the wrong sign. The `patience` of `keras.callbacks.
        ReduceLROnPlateau` is that of this class; its `cooldown` is one epoch shorter.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.5,
        patience: int = 5,
        min_delta: float = 1e-4,
        relative: bool = True,
        mode: Literal["auto", "min", "max"] = "auto",
        cooldown: int = 0,
        minimum: float = 0.0,
        verbose: int = 0,
    ):
        super().__init__()
        self.monitor = _check.instance("monitor", monitor, str, "the name of a metric")
        self.factor = _check.in_range("factor", factor, 0, 1, closed="neither")
        self.patience = _check.integer("patience", patience, low=1)
        self.min_delta = _check.in_range("min_delta", min_delta, low=0)
        self.relative = _check.flag("relative", relative)
        self.mode = _check.one_of("mode", mode, ("auto", "min", "max"))
        self.cooldown = _check.integer("cooldown", cooldown, low=0)
        self.minimum = _check.in_range("minimum", minimum, low=0)
        self.verbose = _check.one_of("verbose", verbose, (0, 1))
        self._sign = {"min": -1, "max": 1}[direction(self.monitor, self.mode)]
        self._warned = False
        self._restart()

    def state(self) -> dict[str, Any]:
        names = ("best", "wait", "cooldown_left", "reductions")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: dict[str, Any]) -> None:
        self.best: float | None = state["best"]
        self.wait: int = state["wait"]
        self.cooldown_left: int = state["cooldown_left"]
        self.reductions: int = state["reductions"]
        self._of: weakref.ref | None = None

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        settable(self.model, "Plateau")
        if self._of is not None and self._of() is not self.model:
            self._restart()
        self._of, self._warned = weakref.ref(self.model), False

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        optimizers = settable(self.model, "Plateau")
        value, available = logs.get(self.monitor), list(logs)
        logs.update(rates_of(optimizers))
        if value is not None:
            self._count(float(value))
            if self.wait >= self.patience:
                self._reduce(epoch, optimizers)
        elif self.best is None and not self._warned:
            self._warned = True
            warnings.warn(
                f"Plateau found no {self.monitor!r} after epoch {epoch + 1}, and lowers no "
                "learning rate after epochs without it. Is `validation_data` missing, or the name "
                f"another one? Received: logs with {available}",
                stacklevel=2,
            )

    def _count(self, value: float) -> None:
        if self._improves(value):
            self.best, self.wait = value, 0
        else:
            self.wait += 1
        if self.cooldown_left:
            self.cooldown_left -= 1
            self.wait = 0

    def _improves(self, value: float) -> bool:
        return improves(value, self.best, self._sign, self.min_delta, self.relative)

    def _reduce(self, epoch: int, optimizers: list[keras.optimizers.Optimizer]) -> None:
        self.wait, self.cooldown_left = 0, self.cooldown
        reduced = False
        for optimizer in optimizers:
            old = rate_of(optimizer)
            new = float(np.float32(max(old * self.factor, self.minimum)))  # as it will be read
            if new < old:
                optimizer.learning_rate = new
                reduced = True
                if self.verbose:
                    self.say(
                        f"Epoch {epoch + 1}: learning rate lowered from {old:.4g} to {new:.4g}"
                    )
        self.reductions += reduced

    def _restart(self) -> None:
        self.load_state({"best": None, "wait": 0, "cooldown_left": 0, "reductions": 0})
