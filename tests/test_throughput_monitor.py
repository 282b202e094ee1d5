"""ThroughputMonitor: its arithmetic on a clock that the test sets, and its counts of examples."""

import itertools
import time
import types

import keras
import numpy as np
import pytest

from keras_optkit.callbacks import ThroughputMonitor, throughput_monitor

BACKEND = keras.backend.backend()

X = np.random.default_rng(0).normal(size=(22, 3)).astype("float32")
Y = X[:, :1]
KEYS = {"steps_per_second", "examples_per_second", "step_time_p50", "step_time_p95"}


def compiled(cls=keras.Model, **kwargs):
    inputs = keras.Input((3,))
    model = cls(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse", **kwargs)
    return model


def fit(model, *callbacks, epochs=2, **kwargs):
    kwargs = {"batch_size": 4, "verbose": 0} | kwargs
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **kwargs).history


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        clock = types.SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(throughput_monitor, "time", clock)


class Loss:
    """A loss tracker that has seen so many examples."""

    def __init__(self, count):
        self.count = np.float32(count)


def told(monitor, clock, epochs, steps=1, examples=None, validation=0.0):
    """Calls the hooks; `epochs` holds the seconds of each call. Returns the logs of each epoch."""
    model = types.SimpleNamespace(_loss_tracker=None if examples is None else Loss(examples))
    monitor.set_model(model)
    monitor.set_params({"verbose": 0, "epochs": 10})
    monitor.on_train_begin()
    found = []
    for epoch, calls in enumerate(epochs):
        monitor.on_epoch_begin(epoch)
        for call, seconds in enumerate(calls, 1):
            clock.now += seconds
            monitor.on_train_batch_end(call * steps - 1)
        if validation:
            monitor.on_test_begin()
            clock.now += validation
            if examples is not None:
                model._loss_tracker = Loss(7.0)
            monitor.on_test_end()
        logs = {}
        monitor.on_epoch_end(epoch, logs)
        if examples is not None:
            model._loss_tracker = Loss(examples)
        found.append(logs)
    monitor.on_train_end()
    return found


@pytest.mark.parametrize("steps", [1, 4])
def test_numbers(monkeypatch, steps):
    seconds = np.random.default_rng(1).uniform(0.1, 0.3, 30)
    compiling = [5.0, *seconds]  # the first call may compile, and is left out
    clock = Clock(monkeypatch)
    examples = 31 * steps * 8 - 3  # the last batch is smaller
    first, second = told(
        ThroughputMonitor(), clock, [compiling, compiling], steps, examples, validation=9.0
    )
    for logs in (first, second):
        each = np.repeat(seconds / steps, steps)
        expected = {
            "steps_per_second": 30 * steps / seconds.sum(),
            "examples_per_second": 30 * steps / seconds.sum() * examples / (31 * steps),
            "step_time_p50": np.percentile(each, 50),
            "step_time_p95": np.percentile(each, 95),
        }
        assert logs.keys() == KEYS
        for name, value in expected.items():
            np.testing.assert_allclose(logs[name], value, rtol=1e-9, err_msg=name)


def test_one_call_and_no_count(monkeypatch):
    clock = Clock(monkeypatch)
    (logs,) = told(ThroughputMonitor(), clock, [[2.0]], steps=4)
    assert logs == {"steps_per_second": 2.0, "step_time_p50": 0.5, "step_time_p95": 0.5}
    (logs,) = told(ThroughputMonitor(batch_size=8), clock, [[9.0, 0.5, 0.5]])
    assert (logs["steps_per_second"], logs["examples_per_second"]) == (2.0, 16.0)


def test_ends_out_of_order(monkeypatch):
    """Keras may call from several threads."""
    clock, monitor = Clock(monkeypatch), ThroughputMonitor()
    monitor.set_model(types.SimpleNamespace())
    monitor.on_train_begin()
    monitor.on_epoch_begin(0)
    for batch, now in ((0, 1.0), (2, 3.0), (1, 2.0)):
        clock.now = now
        monitor.on_train_batch_end(batch)
    logs = {}
    monitor.on_epoch_end(0, logs)
    assert logs == {"steps_per_second": 1.0, "step_time_p50": 1.0, "step_time_p95": 1.0}


def test_seconds_left(monkeypatch):
    clock, monitor = Clock(monkeypatch), ThroughputMonitor()
    told(monitor, clock, [[60.0, 1.0]], validation=2.0)
    assert monitor.seconds_left == 9 * 63.0
    told(monitor, clock, [[60.0, 1.0], [1.0, 1.0], [2.0, 2.0]], validation=2.0)
    assert monitor.seconds_left == 7 * 5.0, "the mean of 4 and 6, without the first"


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("executions", [1, 2])
def test_counts_of_examples(validated, executions, monkeypatch):
    if BACKEND == "torch" and executions > 1:
        pytest.skip("Keras has no steps_per_execution on torch")
    counts = []
    count = ThroughputMonitor._count
    monkeypatch.setattr(
        ThroughputMonitor, "_count", lambda self: counts.append(count(self)) or counts[-1]
    )
    kwargs = {"validation_data": (X[:7], Y[:7])} if validated else {}
    model = compiled(steps_per_execution=executions)
    history = fit(model, ThroughputMonitor(), epochs=3, **kwargs)
    assert counts == [22.0] * 3, "5 batches of 4 and one of 2"
    assert history.keys() >= KEYS
    assert all(len(history[key]) == 3 for key in KEYS)
    assert np.isfinite([history[key] for key in KEYS]).all()


def test_a_train_step_that_tracks_nothing():
    class Custom(keras.Model):
        def train_step(self, *arguments):
            if BACKEND == "jax":
                return {"loss": 0.0}, arguments[0]
            return {"loss": 0.0}

    history = fit(compiled(Custom), ThroughputMonitor())
    assert history.keys() >= KEYS - {"examples_per_second"}
    assert "examples_per_second" not in history
    assert "examples_per_second" in fit(compiled(Custom), ThroughputMonitor(batch_size=4))


def test_a_slow_step_is_seen():
    """Whose time is not spent in dispatching it: the data are late."""

    def late():
        for i in itertools.count():
            time.sleep(0.03)
            yield X[i % 3 :][:4], Y[i % 3 :][:4]

    model = compiled()
    monitor = ThroughputMonitor()
    history = model.fit(late(), steps_per_epoch=12, epochs=2, verbose=0, callbacks=[monitor])
    assert history.history["step_time_p50"][-1] > 0.015
    rate = history.history["steps_per_second"][-1]
    assert 4 < rate < 40
    np.testing.assert_allclose(history.history["examples_per_second"][-1], 4 * rate, rtol=1e-6)


def test_line(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    told(ThroughputMonitor(verbose=1), clock, [[0.004] * 5], examples=5e4)
    assert capsys.readouterr().out == (
        "Epoch 1: 2,500,000 examples/s, step 4 ms (95 %: 4 ms), 0:00:00 left\n"
    )
    told(ThroughputMonitor(verbose=1), clock, [[400.0] * 2])
    assert "0 steps/s, step 4e+05 ms (95 %: 4e+05 ms), 2:00:00 left" in capsys.readouterr().out


def test_lines_of_their_own(capsys):
    fit(compiled(), ThroughputMonitor(verbose=1), epochs=3, verbose=1)
    lines = [line.split("\r")[-1].strip("\b") for line in capsys.readouterr().out.split("\n")]
    assert [line[:8] for line in lines if " left" in line] == [f"Epoch {n}:" for n in (1, 2, 3)]
    assert sum("━" in line for line in lines) == 3, "one bar for each epoch"


def test_keras_need_not_wait_and_training_is_not_changed():
    assert ThroughputMonitor.async_safe
    weights = []
    for callbacks in ([], [ThroughputMonitor()]):
        keras.utils.set_random_seed(1)
        model = compiled()
        fit(model, *callbacks)
        weights.append(model.get_weights()[0])
    np.testing.assert_array_equal(*weights)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        ThroughputMonitor(batch_size=0)
    with pytest.raises(ValueError, match="`verbose` must be one of 0, 1"):
        ThroughputMonitor(verbose=2)
