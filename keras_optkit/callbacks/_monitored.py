"""Callbacks that watch a metric."""

import warnings
import weakref
from collections.abc import Mapping
from typing import Any, Literal

from keras_optkit import _check
from keras_optkit.callbacks._direction import direction
from keras_optkit.callbacks._metric import improves
from keras_optkit.callbacks._speaking import Speaking


class Monitored(Speaking):
    """Base: looks a metric up, and knows which `fit` goes on and which begins anew.

    One from a later epoch on (`initial_epoch`), or after `load_state`, goes on. One from epoch 0,
    or of another model, begins anew.
    """

    _fresh = False
    _of: weakref.ref | None = None  # None: no `fit` yet, or a state to go on with
    _validated = False
    _seen = False
    _warned = False

    def _watch(
        self,
        monitor: str,
        mode: Literal["auto", "min", "max"],
        min_delta: float,
        relative: bool,
        verbose: int,
    ) -> None:
        """Checks and stores what the constructors have in common."""
        self.monitor = _check.instance("monitor", monitor, str, "the name of a metric")
        self.mode = _check.one_of("mode", mode, ("auto", "min", "max"))
        self.min_delta = _check.in_range("min_delta", min_delta, low=0)
        self.relative = _check.flag("relative", relative)
        self.verbose = _check.one_of("verbose", verbose, (0, 1))
        self._sign = {"min": -1, "max": 1}[direction(self.monitor, self.mode)]

    def _restart(self) -> None:
        """Forgets everything."""
        raise NotImplementedError

    def _go_on(self) -> None:
        """Takes up what an earlier `fit`, or a loaded state, has left."""

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._fresh, self._seen, self._warned = True, False, False

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._validated = False
        if self._fresh:
            self._fresh = False
            if self._of is not None and (self._of() is not self._model or epoch == 0):
                self._restart()
            else:
                self._go_on()
            self._of = weakref.ref(self._model)

    def on_test_end(self, logs=None):
        self._validated = True

    def _improves(self, value: float, best: float | None) -> bool:
        return improves(value, best, self._sign, self.min_delta, self.relative)

    def _look(self, epoch: int, logs: Mapping[str, Any] | None, monitor: str) -> float | None:
        """Returns the metric called `monitor`, or None after an epoch without validation.

        Raises:
            ValueError: If there should be one, and is not.
        """
        logs = logs or {}
        if monitor in logs:
            self._seen = True
            return float(logs[monitor])
        callback, names = type(self).__name__, ", ".join(map(repr, logs)) or "none"
        if not monitor.startswith("val_") or self._validated:
            raise ValueError(
                f"`monitor` must name a metric of this model, or one that a callback listed before "
                f"{callback} puts into the logs. Received: monitor={self.monitor!r}, for which "
                f"{callback} needs {monitor!r}; there are {names}"
            )
        if not (self._seen or self._warned):
            self._warned = True
            warnings.warn(
                f"{callback} found no {monitor!r} after epoch {epoch + 1}, since no validation "
                "has run. It does nothing until one has. Is `validation_data` missing? "
                f"Received: logs with {names}",
                stacklevel=2,
            )
        return None
