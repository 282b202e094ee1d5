"""Guard against losses and weights that are not finite."""

import math
import warnings
import weakref
from typing import Any, Literal

import keras

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.callbacks._copies import Copies, loss_of, not_finite
from keras_optkit.callbacks._guarded import (
    build_optimizer,
    require_settable,
    require_skipping,
    restored,
    updates,
)
from keras_optkit.callbacks._incidents import Incident, summary
from keras_optkit.callbacks._speaking import Speaking


@register
class NaNGuard(Speaking):
    """Goes back to good weights when the loss or a weight is no longer finite, and trains on.

    A NaN in one step makes weights and optimizer state useless, and with them hours of training.
    This callback looks every so many batches, and where an epoch ends; a running mean that was
    NaN once stays so, hence it misses none in between. If all is finite, it takes a copy; if not:

    ```text
    "rollback":  weights = newest copy; learning_rate = learning_rate * lr_factor; train on with
                 the next batches. Without a good look since, the copy before, which is kept
                 if the loss has doubled. After `max_retries` in a row, as "stop".
    "skip":      updates with a NaN are left out by the optimizer, a `SkipNonFinite` or in mixed
                 precision a `LossScaleOptimizer`; the loss of the epoch is mended. As "stop" if
                 a weight is not finite all the same.
    "stop":      weights = newest copy; training stops.
    ```

    Weights, their statistics, optimizer state with slots and step count, and the metrics of the
    epoch go back; random seeds go on. Up to two copies of weights and optimizer state are held
    in device memory while `fit` runs. Between looks it costs nothing, and changes nothing unless
    something is found. In mixed precision a loss may overflow in a step that is skipped anyway;
    there, "skip" loses no updates to that.

    The History gets `non_finite`, how often something was found in the epoch.

    Args:
        action: What to do: `"rollback"`, `"skip"` or `"stop"`.
        every: Batches from one look, and copy, to the next, 1 or more.
        lr_factor: What the learning rate is multiplied by after a rollback, in (0, 1]. With 1 it
            may also follow a schedule.
        max_retries: Rollbacks without a good look in between, at least 1.
        verbose: 1 to print a line when something is found, 0 to be silent. That training stops
            is a warning in any case.

    Attributes:
        incidents: What was found, a list of `Incident`s.
        retries: Rollbacks since the last good look.

    Raises:
        ValueError: When training begins, if a weight is not finite already, or if the optimizer
            cannot do what `action` needs.

    Example:
        >>> guard = keras_optkit.callbacks.NaNGuard("rollback", every=50, lr_factor=0.5)
        >>> history = model.fit(x, y, callbacks=[guard])
        >>> guard.incidents
        []

    Reference:
        `keras.callbacks.TerminateOnNaN` stops when the weights are NaN already, and keeps them.
    """

    # What is done in a batch is done in `on_train_batch_begin`, which Keras never defers; so it
    # need not wait for each step on our account.
    async_safe = True

    def __init__(
        self,
        action: Literal["rollback", "skip", "stop"] = "rollback",
        every: int = 100,
        lr_factor: float = 0.5,
        max_retries: int = 3,
        verbose: int = 1,
    ):
        super().__init__()
        self.action = _check.one_of("action", action, ("rollback", "skip", "stop"))
        self.every = _check.integer("every", every, low=1)
        self.lr_factor = _check.in_range("lr_factor", lr_factor, 0, 1, closed="right")
        self.max_retries = _check.integer("max_retries", max_retries, low=1)
        self.verbose = _check.one_of("verbose", verbose, (0, 1))
        self.incidents: list[Incident] = []
        self.retries = self._found = 0
        self._of: weakref.ref | None = None
        self._fitting = False
        self._copies = Copies()

    def state(self) -> dict[str, Any]:
        incidents = [incident.as_dict() for incident in self.incidents]
        return {"retries": self.retries, "incidents": incidents, "found": self._found}

    def load_state(self, state: dict[str, Any]) -> None:
        self.retries = state["retries"]
        self.incidents = [Incident(**incident) for incident in state["incidents"]]
        self._found = state.get("found", len(self.incidents))  # before the present epoch
        self._of = None

    def set_params(self, params):  # by `fit`, and by `evaluate` and `predict` outside of it
        super().set_params(params)
        self._fitting = False

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        model = self.model
        if self.action == "skip":
            require_skipping(model)
        elif self.action == "rollback" and self.lr_factor < 1:
            require_settable(model)
        if self._of is not None and self._of() is not model:
            self.incidents, self.retries = [], 0
        build_optimizer(model)
        self._of, self._fitting = weakref.ref(model), True
        self._copies = Copies()
        self._passed, self._last, self._stopped = 0, 0, False
        self._loss = math.inf

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._epoch, self._ended = epoch, False
        self._results: dict[str, Any] = {}
        self._passed, self._last = self._passed + self._last, 0

    def on_train_batch_begin(self, batch, logs=None):
        if not batch:  # else the epoch is resumed
            self._found = len(self.incidents)
        due = not self._copies.taken or self._passed + batch >= self.every
        self._last = batch + self._model.steps_per_execution
        if due and not self._stopped:
            self._passed = -batch
            self._look()

    def on_test_begin(self, logs=None):
        if self._fitting:  # before validation, which needs good weights, and resets the metrics
            self._end_epoch()

    def on_epoch_end(self, epoch, logs=None):
        self._end_epoch()
        if logs is not None:
            logs.update({name: x for name, x in self._results.items() if name in logs})
            logs["non_finite"] = len(self.incidents) - self._found

    def on_train_end(self, logs=None):
        self._fitting = False
        self._copies = Copies()
        super().on_train_end(logs)

    def _end_epoch(self) -> None:
        if self._ended:
            return
        self._ended, known = True, len(self.incidents)
        if self._stopped:  # Keras does one more step after it was told to stop
            self._copies.newest.restore(self.model, self._epoch)
        else:
            self._look(keep=False)
        if len(self.incidents) > known or self._stopped:
            results = self.model.get_metrics_result()
            self._results = keras.tree.map_structure(float, results)

    def _look(self, keep: bool = True) -> None:
        """Looks at loss and weights, and does what is to be done."""
        model = self.model
        if not (model.built and model.optimizer.built):  # TensorFlow builds in the first step
            return
        found = not_finite(model)
        if not found:
            self.retries = 0
            self._loss = loss_of(model) or self._loss  # which is 0 before the first batch
            if keep:
                self._copies.add(model, self._epoch, self._loss)
        elif not self._copies.taken:
            raise ValueError(
                f"NaNGuard has no good weights to go back to: the {' and the '.join(found)} are "
                "not finite from the start. Load or initialize weights that are; if the first "
                "batches make them so, build the model before `fit`, by a keras.Input or a call. "
                f"Received: model={model}"
            )
        else:
            self._act(model, found)

    def _act(self, model: keras.Model, found: list[str]) -> None:
        harmless = self.action == "skip" and "weights" not in found
        stops = not harmless and (self.action != "rollback" or self.retries >= self.max_retries)
        copies, step = self._copies, updates(model)
        if harmless:
            copies.newest.restore_metrics(model, self._epoch)
            back_to, rate = step, None
        else:
            if self.retries:
                copies.drop_newest()
            factor = 1.0 if stops else self.lr_factor
            rate = restored(model, factor, lambda: copies.newest.restore(model, self._epoch))
            back_to = updates(model)
            self.retries += not stops
        did = "skip" if harmless else "stop" if stops else "rollback"
        incident = Incident(step, self._epoch, "+".join(found), did, back_to, rate)
        self.incidents.append(incident)
        if stops:
            model.stop_training = self._stopped = True
            warnings.warn(f"NaNGuard stops: {summary(incident)}", stacklevel=2)
        elif self.verbose:
            self.say(f"NaNGuard: {summary(incident)}")
