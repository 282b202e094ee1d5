"""How `EarlyStopping` goes about it."""

from typing import Any, Literal

from keras_optkit import _processes
from keras_optkit.callbacks._clock import Clock
from keras_optkit.callbacks._metric import Average
from keras_optkit.callbacks._monitored import Monitored
from keras_optkit.callbacks._prechelt import Prechelt
from keras_optkit.callbacks._snapshot import Snapshot

Unit = Literal["epoch", "step", "second"]
Criterion = Literal["patience", "GL", "PQ", "UP"]


class Stopping(Monitored):
    """Base of `EarlyStopping`: all but its arguments."""

    monitor: str
    patience: float
    unit: Unit
    every: int
    smoothing: float
    baseline: float | None
    target: float | None
    max_gap: float | None
    max_seconds: float | None
    start_from: float
    restore: Literal["weights", "all"] | None
    criterion: Criterion
    alpha: float
    strip: int

    @property
    def async_safe(self) -> bool:
        """Whether Keras may go on to the next step without us: not if we look at each."""
        return not self._looks_at_batches

    @property
    def wait(self) -> float:
        return 0 if self._since is None else self._now() - self._since

    def state(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "stopped_epoch": self.stopped_epoch,
            "reason": self.reason,
            "looks": self._looks,
            "steps": self._steps,
            "window": list(self._window),
            "seconds": self._clock.seconds,
            "since": self._since,
            "average": self._average.state(),
            "average_gap": self._average_gap.state(),
            "errors": self._prechelt.state(),
            "best_weights": None if self._best is None else self._best.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.best: float | None = state["best"]
        self.best_epoch: int = state["best_epoch"]
        self.stopped_epoch: int = state["stopped_epoch"]
        self.reason: str | None = state["reason"]
        self._looks: int = state["looks"]
        self._steps: int = state["steps"]
        self._window = tuple(state.get("window", (0, 0.0)))
        self._clock = Clock(state["seconds"])
        self._since: float | None = state["since"]
        self._average = Average(self.smoothing, *state["average"])
        self._average_gap = Average(self.smoothing, *state["average_gap"])
        self._prechelt = Prechelt(self.alpha, self.strip, self.patience, **state["errors"])
        best = state["best_weights"]
        self._best = None if best is None else Snapshot(**best)
        self._of = None

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._together = _processes.place(self._model)[1] > 1
        if self.restore == "all" and getattr(self.model, "optimizer", None) is None:
            raise ValueError(
                'restore="all" restores `model.optimizer`, and there is none. Call '
                "`model.compile(optimizer=..., loss=...)` before `fit`, or write "
                f'restore="weights". Received: model={self.model}'
            )

    def on_epoch_begin(self, epoch, logs=None):
        fresh = self._fresh
        super().on_epoch_begin(epoch, logs)
        if fresh:
            self._clock.start()
        self._epoch, self._batches = epoch, -1

    def on_train_batch_begin(self, batch, logs=None):
        if self._batches < 0:  # an epoch may be resumed in its middle
            self._batches, self._before = batch, self._steps - batch
            if not batch:
                self._window = (0, 0.0)

    def on_train_batch_end(self, batch, logs=None):
        # Not a sum: in several threads, the later batch may come first.
        self._batches = max(self._batches, batch + 1)
        self._steps = self._before + self._batches
        if self._looks_at_batches and self._batches - self._window[0] >= self.every:
            self._look_at_batches(logs)
        if self._looks_at_the_clock:
            if self._together:
                return  # not at the same batch in all of them
            self._clock.tick()
        self._check_patience()
        self._check_time()

    def on_epoch_end(self, epoch, logs=None):
        self._clock.tick()
        if self._together and self._looks_at_the_clock:
            self._clock.seconds = _processes.of_the_first(self._model, self._clock.seconds)
        value = self._look(epoch, logs, self.monitor)
        if self._looks_at_batches:
            if not self._window[0]:
                self._look_at_batches(logs)
        elif value is not None and self._started():
            # The training metric only where it is needed: not every model has it.
            paired = self.max_gap is not None or self.criterion == "PQ"
            partner = self.monitor.removeprefix("val_")
            self._judge(value, self._look(epoch, logs, partner) if paired else None)
        self._check_patience()
        self._check_time()

    def on_train_end(self, logs=None):
        self._clock.tick()
        if self.restore and self._best is not None:
            self._best.restore(self.model)
            if self.verbose:
                self.say(
                    f"{'Weights' if self.restore == 'weights' else 'Weights and optimizer'} of "
                    f"epoch {self.best_epoch + 1} restored: {self.monitor} was {self.best:.6g}"
                )
        super().on_train_end(logs)

    def _restart(self) -> None:
        nothing = {"best": None, "best_epoch": 0, "stopped_epoch": 0, "reason": None, "looks": 0}
        nothing |= {"steps": 0, "seconds": 0.0, "average": [0.0, 0], "average_gap": [0.0, 0]}
        nothing |= {"since": None, "errors": {}, "best_weights": None}
        self.load_state(nothing)
        self._epoch, self._batches, self._before = 0, 0, 0
        self._together = False

    def _go_on(self) -> None:
        if self.reason is not None:
            self.reason, self.stopped_epoch, self._since = None, 0, self._now()

    @property
    def _looks_at_batches(self) -> bool:
        return self.unit == "step" and not self.monitor.startswith("val_")

    @property
    def _looks_at_the_clock(self) -> bool:
        return self.max_seconds is not None or self.unit == "second"

    def _now(self) -> float:
        """Returns the time in units."""
        return {"epoch": self._looks, "step": self._steps, "second": self._clock.seconds}[self.unit]

    def _started(self) -> bool:
        return (self._epoch if self.unit == "epoch" else self._now()) >= self.start_from

    def _look_at_batches(self, logs) -> None:
        """Looks at the mean of the batches since the last look; Keras logs that since the epoch."""
        running = self._look(self._epoch, logs, self.monitor)
        if running is None:
            return
        (begin, before), end = self._window, self._batches
        self._window = (end, running)
        if self._started():
            self._judge((end * running - begin * before) / (end - begin), None)

    def _judge(self, value: float, training: float | None) -> None:
        if training is not None and self.max_gap is not None:
            gap = self._average_gap(-self._sign * (value - training))
            if gap > self.max_gap:
                self._stop(f"{self.monitor} is {gap:.6g} worse than in training")
        value = self._average(value)
        if self._since is None:  # nothing can have improved before
            self._since = self._now()
        self._looks += 1
        if self._improves(value, self.best):
            self.best, self.best_epoch = value, self._epoch
            if self.baseline is None or self._improves(value, self.baseline):
                self._since = self._now()
            if self.restore:
                self._best = Snapshot.of(self.model, self.restore)
        if self.target is not None and self._sign * (value - self.target) >= 0:
            self._stop(f"{self.monitor} reached {value:.6g}")
        if self.criterion != "patience":
            self._prechelt.add(self._error(value), training)
            verdict = self._prechelt.verdict(self.criterion)
            if verdict is not None:
                self._stop(f"{verdict} of {self.monitor}")

    def _error(self, value: float) -> float:
        """Returns `value` as something of which less is better."""
        if self.criterion != "UP" and value < 0:
            raise ValueError(
                f'criterion="{self.criterion}" compares errors by their ratio, so they must be at '
                f'least 0. Write criterion="patience". Received: {self.monitor}={value}'
            )
        return -self._sign * value

    def _check_patience(self) -> None:
        if self.criterion == "patience" and self.wait >= self.patience and self.wait > 0:
            shown = f"{self.wait:.6g} {self.unit}{'' if self.wait == 1 else 's'}"
            self._stop(f"no improvement of {self.monitor} for {shown}")

    def _check_time(self) -> None:
        if self.max_seconds is not None and self._clock.seconds >= self.max_seconds:
            self._stop(f"training has taken {self._clock.seconds:.6g} seconds")

    def _stop(self, reason: str) -> None:
        if self.reason is None:
            self.reason, self.stopped_epoch = reason, self._epoch
            if self.verbose:
                self.say(f"Epoch {self._epoch + 1}: stopped, {reason}")
        self._model.stop_training = True  # not `self.model`, which on JAX fetches all weights
