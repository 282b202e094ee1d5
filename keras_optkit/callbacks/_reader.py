"""Fetching measurements from the device, only when there can be one."""

import threading
from collections import deque

import keras
import numpy as np

from keras_optkit.callbacks._instrument import Instrument

Measurement = tuple[int, list[str], np.ndarray, np.ndarray | None]


class Reader:
    """Counts batches on the host, fetches measurements after a step, hands them out in order.

    Fetching happens in the thread that trains, before JAX donates the arrays; what is made of
    it may happen in another, since Keras may call `on_train_batch_end` there.
    """

    def __init__(self, instrument: Instrument, every: int, **what):
        self.instrument = instrument
        self.measured = instrument.measure(every, **what)
        self.batches = 0
        self.lock = threading.Lock()
        self._announced = -1
        self._fetched: deque[Measurement] = deque()
        self._seen = 0
        done = int(keras.ops.convert_to_numpy(self.measured.updates))
        self._wait = -done % every * self.measured.period + 1  # batches, at least
        instrument.readers.append(self)

    def announce(self) -> None:
        """Says that the training loop is about to call the train function."""
        if self._announced == self.instrument.calls:
            raise RuntimeError(
                "GradientMonitor measures inside `model.train_function`, and this training loop "
                "does not call it. Train with `model.fit`."
            )
        self._announced = self.instrument.calls
        self.instrument.announce()

    def expects(self) -> bool:
        """Whether the next call may bring a measurement."""
        return self._wait <= self.instrument.model.steps_per_execution

    def after_call(self) -> None:
        """Fetches what the call that has just ended has measured."""
        measured, batches = self.measured, self.instrument.model.steps_per_execution
        self.batches += batches
        self._wait -= batches
        if self._wait > 0 or not measured.built:
            return
        store, fetch = measured.store, self.instrument.numpy
        count = int(fetch(store.count))
        if count == self._seen:  # a skipped step, or a short last call of an epoch
            return
        steps, results = fetch(store.steps), fetch(store.results)
        counted = "histogram" in measured.measure
        histograms = fetch(store.histograms) if counted else None
        for n in range(max(self._seen, count - measured.rows), count):
            row = n % measured.rows
            norms = results[row].astype("float64")
            with np.errstate(divide="ignore", invalid="ignore"):
                norms[:, 2] = np.where(norms[:, 1] == 0, np.nan, norms[:, 2] / norms[:, 1])
            counts = None if histograms is None else histograms[row]
            self._fetched.append((int(steps[row]), self._layers(), norms, counts))
        self._seen = count
        # It may have been any but the last of the batches of this call.
        self._wait = measured.every * measured.period - (batches - 1)

    def close(self) -> None:
        """Takes the instrument away."""
        self.instrument.remove()

    def take(self) -> list[Measurement]:
        """Returns the measurements not handed out yet; hold `lock` while you use them."""
        return [self._fetched.popleft() for _ in range(len(self._fetched))]

    def _layers(self) -> list[str]:
        """Returns names without that of the model, which a reloaded model does not have."""
        names = self.measured.layers
        short = [name.removeprefix(f"{self.instrument.model.name}/") for name in names]
        return short if len(set(short)) == len(names) else names
