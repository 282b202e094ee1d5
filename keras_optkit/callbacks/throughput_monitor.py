"""How fast training runs."""

import time

import keras
import numpy as np

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.callbacks._speaking import Speaking


@register
class ThroughputMonitor(Speaking):
    """Measures examples per second and the time of steps, and says when training will be done.

    The History gets, for each epoch, without validation and without the first call of the train
    function, which may compile:

    ```text
    steps_per_second       batches / time from the first to the last end of a call
    examples_per_second    steps_per_second * examples of the epoch / batches of the epoch
    step_time_p50, _p95    percentiles of the seconds from one end of a call to the next, per batch
    ```

    The clock is read when the logs of a batch have arrived, which Keras waits for in any event,
    in a thread of its own on JAX and torch. So it shows when steps were done, and no step waits for
    it. With `steps_per_execution`, or where a model returns logs that need no computing, it shows
    when calls returned. An epoch of one call is measured from its begin.

    The number of examples is what Keras weighed the mean loss by. A `train_step` that does not
    track the loss so needs `batch_size`; without it there is no `examples_per_second`.

    Args:
        batch_size: Examples per batch, at least 1; None knows by the model's loss.
        verbose: 1 to print a line after each epoch, 0 to be silent.

    Attributes:
        seconds_left: Estimate of the time until `fit` ends, validation included; None before the
            first epoch has ended. Early stopping is not foreseen.

    Example:
        >>> monitor = keras_optkit.callbacks.ThroughputMonitor()
        >>> history = model.fit(x, y, callbacks=[monitor])
        >>> speed = history.history["examples_per_second"][-1]
    """

    async_safe = True  # Keras need not wait for each step on our account

    def __init__(self, batch_size: int | None = None, verbose: int = 0):
        super().__init__()
        if batch_size is not None:
            batch_size = _check.integer("batch_size", batch_size, low=1)
        self.batch_size = batch_size
        self.verbose = _check.one_of("verbose", verbose, (0, 1))
        self.seconds_left: float | None = None
        self._restart()

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.seconds_left = None
        self._restart()

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._begin, self._ends = time.perf_counter(), []
        self._examples: float | None = None

    def on_train_batch_end(self, batch, logs=None):
        self._ends.append((batch + 1, time.perf_counter()))

    def on_test_begin(self, logs=None):
        if self._ends and self._examples is None:  # before validation makes the loss its own
            self._examples = self._count()

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        if not self._ends:
            return
        if self._examples is None:
            self._examples = self._count()
        measured = self._measure()
        self._durations.append(now - self._begin)
        typical = self._durations[1:] or self._durations  # the first epoch compiles
        epochs = (self.params or {}).get("epochs") or epoch + 1
        left = self.seconds_left = float(np.mean(typical)) * (epochs - epoch - 1)
        if logs is not None:
            logs.update(measured)
        if self.verbose:
            self.say(f"Epoch {epoch + 1}: {_sentence(measured, left)}")

    def _measure(self) -> dict[str, float]:
        """Returns what the History gets."""
        ends = sorted(self._ends)  # threads may have come in another order
        marks = ends if len(ends) > 1 else [(0, self._begin), *ends]
        batches, times = np.array(marks).T
        counts = np.diff(batches).astype(int)
        seconds = np.maximum(np.diff(times), 0) / counts
        each = np.repeat(seconds, counts)
        speed = counts.sum() / max(times[-1] - times[0], 1e-9)
        measured = {"steps_per_second": speed}
        if self._examples:
            measured["examples_per_second"] = speed * self._examples / ends[-1][0]
        measured |= {f"step_time_p{p}": np.percentile(each, p) for p in (50, 95)}
        return {name: float(value) for name, value in measured.items()}

    def _count(self) -> float:
        """Returns the number of examples of the epoch so far, or 0 if it is not known."""
        if self.batch_size is not None:
            return float(self.batch_size * max(self._ends)[0])
        count = getattr(getattr(self.model, "_loss_tracker", None), "count", None)
        return 0.0 if count is None else float(keras.ops.convert_to_numpy(count))

    def _restart(self) -> None:
        self._begin, self._ends, self._examples = time.perf_counter(), [], None
        self._durations: list[float] = []


def _sentence(measured: dict[str, float], left: float) -> str:
    unit = "examples" if "examples_per_second" in measured else "steps"
    middle, high = (1000 * measured[f"step_time_p{p}"] for p in (50, 95))
    minutes, seconds = divmod(round(left), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{measured[f'{unit}_per_second']:,.0f} {unit}/s, step {middle:.3g} ms "
        f"(95 %: {high:.3g} ms), {hours}:{minutes:02}:{seconds:02} left"
    )
