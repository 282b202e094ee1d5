"""Judge: the same training, left in peace, compared bit for bit."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_optkit as ko
from keras_optkit.callbacks import TrainingState, _plain
from keras_optkit.diagnostics import _random_state

BACKEND = keras.backend.backend()
X = np.random.RandomState(0).normal(size=(22, 3)).astype("float32")
Y = X[:, :1] * X[:, 1:2]
BATCH, BATCHES, EPOCHS = 4, 6, 3


class Shuffled(keras.utils.PyDataset):
    """Shuffles by random numbers of its own where Keras suggests it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.random = np.random.RandomState(3)
        self.order = np.arange(len(X))

    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        rows = self.order[index * BATCH : (index + 1) * BATCH]
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.random.shuffle(self.order)


class Remembering(Shuffled):
    """Shuffles by what only it can say."""

    def __init__(self):
        super().__init__()
        self.random = np.random.RandomState(random.SystemRandom().getrandbits(32))

    def state(self):
        return {"order": self.order.copy(), "random": list(self.random.get_state())}

    def load_state(self, state):
        self.order = state["order"].copy()
        self.random.set_state(tuple(state["random"]))


def pipeline(unknown_length=False, seed=5):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(22, seed=seed).batch(BATCH)
    return data.filter(lambda x, y: True) if unknown_length else data


def generator():
    rows = np.random.RandomState(2)
    while True:
        at = rows.randint(0, 22, BATCH)
        yield X[at], Y[at]


def loader():
    import torch

    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    return torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)


def arrays(**kwargs):
    return {"x": X, "y": Y, "batch_size": BATCH, **kwargs}


# Each has the arguments of `fit`, made anew for each process.
SOURCES = {
    "arrays": lambda: arrays(),
    "arrays in batches": lambda: arrays(shuffle="batch"),
    "arrays in parts": lambda: arrays(steps_per_epoch=3),
    "PyDataset": lambda: {"x": Shuffled()},
    "PyDataset with a state": lambda: {"x": Remembering()},
    "tf.data": lambda: {"x": pipeline()},
    "tf.data, unknown length": lambda: {"x": pipeline(unknown_length=True)},
    "generator": lambda: {"x": generator(), "steps_per_epoch": BATCHES},
    "DataLoader": lambda: {"x": loader()},
}


def network(optimizer=None, **compile):
    inputs = keras.Input((3,))
    x = keras.layers.Dense(5, "tanh", name="hidden")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.3)(x)
    model = keras.Model(inputs, keras.layers.Dense(1, dtype="float32", name="out")(x))
    model.compile(optimizer or keras.optimizers.Adam(0.02), "mse", metrics=["mae"], **compile)
    return model


def seeded(**kwargs):
    keras.utils.set_random_seed(7)
    return network(keras.optimizers.Adam(0.02, **kwargs))


class Fork(keras.callbacks.Callback):
    """Keeps what a crash after so many batches would have left."""

    def __init__(self, directory, at, to):
        super().__init__()
        self.directory, self.left, self.to = directory, at, to

    def on_train_batch_end(self, batch, logs=None):
        self.left -= self._model.steps_per_execution
        if 0 >= self.left > -self._model.steps_per_execution:
            shutil.copytree(self.directory, self.to)


class Interrupt(keras.callbacks.Callback):
    def __init__(self, at, error=KeyboardInterrupt):
        super().__init__()
        self.left, self.error = at, error

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise self.error


def values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def fit(directory, fork=None, *, source=arrays, make=network, others=list, every=2, **kwargs):
    """Trains in what might be another process; returns all that can be compared."""
    for seed in (np.random.seed, random.seed):
        seed(random.SystemRandom().getrandbits(32))
    model, callbacks = make(), others()
    state = TrainingState(directory, **({"every": every} if isinstance(every, int) else every))
    forks = [] if fork is None else [Fork(directory, *fork)]
    callbacks = [state, *callbacks, *forks]
    kwargs = {"epochs": EPOCHS, "verbose": 0} | source() | kwargs
    history = model.fit(callbacks=callbacks, **kwargs)
    states = [c.state() for c in callbacks if hasattr(c, "state") and c is not state]
    states = [{name: x for name, x in each.items() if name != "seconds"} for each in states]
    return values(model), history.history, history.epoch, states


def assert_same(one, other):
    for number, (a, b) in enumerate(zip(one[0], other[0], strict=True)):
        np.testing.assert_array_equal(a, b, err_msg=f"variable {number}")
    assert repr(one[1:]) == repr(other[1:])


def survives(tmp_path, first=8, second=5, **kwargs):
    """Compares a training with those that go on from where it, and then they, have crashed."""
    run, crashed, twice = (tmp_path / name for name in ("run", "crashed", "twice"))
    whole = fit(run, (first, crashed), **kwargs)
    assert_same(whole, fit(crashed, (second, twice), **kwargs))
    assert_same(whole, fit(twice, **kwargs))
    assert_same(whole, fit(twice, **kwargs))  # which is over by now


@pytest.fixture(autouse=True)
def unseeded():
    """As in a new process: other tests have set TensorFlow's seed."""
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(None)


@pytest.mark.parametrize("name", SOURCES)
def test_goes_on_bit_for_bit_from_the_middle_of_an_epoch(tmp_path, name):
    if name == "DataLoader" and BACKEND != "torch":
        pytest.skip("a loader of torch")
    first, second = (5, 3) if name == "arrays in parts" else (8, 5)
    survives(tmp_path, first, second, source=SOURCES[name])


def test_orders_differ_between_epochs_and_runs(tmp_path):

    first = fit(tmp_path / "one", every={})
    second = fit(tmp_path / "two", every={})
    assert first[1]["loss"] != second[1]["loss"]


def averaged(swap=True):
    return {
        "make": lambda: network(ko.optimizers.Averaged(keras.optimizers.Adam(0.02))),
        "others": lambda: [ko.callbacks.SwapAveragedWeights()] if swap else [],
        "validation_data": (X, Y),
    }


SETUPS = {
    "EarlyStopping with the best weights": lambda: {
        "others": lambda: [
            keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=1e9),
        ],
    },
    "ours": lambda: {
        "others": lambda: [
            ko.callbacks.Plateau("loss", patience=1, min_delta=1e9, relative=False),
            ko.callbacks.GradientMonitor(every=2),
            ko.callbacks.ActivationMonitor(X, every=3, unit="batch"),
            ko.callbacks.EarlyStopping("loss", unit="step", every=4, patience=99),
        ],
    },
    "averages, swapped": averaged,
    "averages, not swapped": lambda: averaged(swap=False),
    "schedule-free": lambda: {
        "make": lambda: network(ko.optimizers.ScheduleFreeAdamW(0.02)),
        "others": lambda: [ko.callbacks.SwapAveragedWeights()],
    },
    "Keras' averages": lambda: {
        "make": lambda: network(keras.optimizers.Adam(0.02, use_ema=True)),
    },
    "accumulation, Lookahead": lambda: {
        "make": lambda: network(
            ko.optimizers.Lookahead(
                keras.optimizers.AdamW(0.02), sync_period=2, gradient_accumulation_steps=3
            )
        )
    },
    "steps_per_execution": lambda: {"make": lambda: network(steps_per_execution=2)},
}


@pytest.mark.parametrize("name", SETUPS)
def test_goes_on_bit_for_bit_with(tmp_path, name):
    if name == "steps_per_execution" and BACKEND == "torch":
        pytest.skip("Keras has none on torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        survives(tmp_path, **SETUPS[name]())


def test_goes_on_bit_for_bit_in_mixed_precision(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        survives(tmp_path)
    finally:
        keras.config.set_dtype_policy(before)


def test_an_exception_or_interruption_leaves_what_was_saved(tmp_path):
    whole = fit(tmp_path / "whole", source=lambda: arrays(shuffle=False), make=seeded)
    for at, error in ((3, KeyboardInterrupt), (6, RuntimeError)):
        with pytest.raises(error):
            others = lambda at=at, error=error: [Interrupt(at, error)]  # noqa: E731
            fit(tmp_path / "run", source=lambda: arrays(shuffle=False), make=seeded, others=others)
    assert_same(whole, fit(tmp_path / "run", source=lambda: arrays(shuffle=False), make=seeded))


def test_more_epochs_go_on_and_a_stopped_run_does_not(tmp_path):
    stop = lambda: [keras.callbacks.EarlyStopping("loss", patience=1, min_delta=1e9)]  # noqa: E731
    same = {"source": lambda: arrays(shuffle=False), "make": lambda: seeded(use_ema=True)}
    whole = fit(tmp_path / "whole", epochs=4, **same)
    fit(tmp_path / "run", epochs=2, **same)
    assert_same(whole, fit(tmp_path / "run", epochs=4, **same))
    stopped = fit(tmp_path / "stopped", epochs=9, others=stop, **same)
    assert stopped[2] == [0, 1]
    assert_same(stopped, fit(tmp_path / "stopped", epochs=9, others=stop, **same))


def test_the_model_and_the_next_fit_are_as_ever(tmp_path):
    fit(tmp_path, epochs=1)
    model = network()
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[TrainingState(tmp_path)])
    assert model._initial_epoch is None
    assert model.fit(X, Y, epochs=2, verbose=0).epoch == [0, 1]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "manifest"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(tmp_path, damage):
    run, crashed = tmp_path / "run", tmp_path / "crashed"
    whole = fit(run, (8, crashed))
    newest = sorted(crashed.iterdir())[-1]
    file = newest / ("manifest.json" if damage == "manifest" else "model.weights.h5")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "missing":
            file.unlink()
        case "truncated":
            file.write_bytes(content[: len(content) // 2])
        case _:
            file.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        again = fit(crashed)
    assert_same(whole, again)
    assert not list(crashed.glob("corrupt-*"))


def test_a_full_disk_costs_a_warning_and_nothing_else(tmp_path, monkeypatch):
    state = TrainingState(tmp_path, every=2, keep=9)
    model, left = network(), [2]

    def fsync(descriptor, plain=os.fsync):
        left[0] -= 1 / 5
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.warns(UserWarning, match="could not write a checkpoint"):
        model.fit(**arrays(), epochs=2, verbose=0, callbacks=[state])
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found and all(name.startswith("checkpoint-") for name in found)
    assert (state.epoch, state.batch) == (0, 2 * len(found))


def test_a_file_that_cannot_grow_is_a_full_disk(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    model = network()
    state = TrainingState(tmp_path)
    limit = lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))  # noqa: E731
    after = keras.callbacks.LambdaCallback(on_epoch_begin=limit)
    try:
        with pytest.warns(UserWarning, match="could not write a checkpoint"):
            model.fit(**arrays(), epochs=2, verbose=0, callbacks=[state, after])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())


def test_another_model_is_refused_with_what_differs(tmp_path):
    fit(tmp_path, epochs=1)
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="alone")])
    other.compile("sgd", "mse")
    with pytest.raises(
        ValueError, match=r"(?s)not of this model.*Adam.*SGD.*\(3, 5\).*alone/kernel"
    ):
        other.fit(X, Y, verbose=0, callbacks=[TrainingState(tmp_path)])


def test_arguments_are_checked(tmp_path):
    for arguments, error in (
        ({"every": "batch"}, "`every` must be"),
        ({"every": 0}, "`every` must be"),
        ({"every": -1.0, "unit": "second"}, "`every` must be"),
        ({"every": 2, "unit": "hour"}, "`unit` must be"),
        ({"unit": "second"}, "`unit` goes with"),
        ({"keep": 0}, "`keep` must be"),
    ):
        with pytest.raises(ValueError, match=error):
            TrainingState(tmp_path, **arguments)
    with pytest.raises(TypeError, match="`callbacks` must be a list"):
        TrainingState(tmp_path, callbacks=["loss"])
    with pytest.raises(TypeError, match="`directory` must be a path"):
        TrainingState(None)
    stranger = keras.callbacks.EarlyStopping()
    with pytest.raises(ValueError, match="`callbacks` must hold callbacks of the same `fit`"):
        network().fit(X, Y, verbose=0, callbacks=[TrainingState(tmp_path, callbacks=[stranger])])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`directory` must be one that TrainingState can write"):
        network().fit(X, Y, verbose=0, callbacks=[TrainingState(tmp_path / "file" / "run")])


def test_what_cannot_be_exact_is_said(tmp_path):
    with pytest.warns(UserWarning, match="has no seed"):
        fit(tmp_path / "shuffle", source=lambda: {"x": pipeline(seed=None)}, epochs=1)
    with pytest.warns(UserWarning, match="workers=1"):
        fit(tmp_path / "workers", source=lambda: {"x": Shuffled(workers=2)}, epochs=1)


def test_a_loop_without_fit_gets_checkpoints_of_epochs(tmp_path):
    def loop(epochs):
        model = seeded()
        model.optimizer.build(model.trainable_variables)
        state = TrainingState(tmp_path)
        hooks = keras.callbacks.CallbackList([state], model=model, epochs=epochs)
        hooks.on_train_begin()
        for epoch in range(state.epoch, epochs):
            hooks.on_epoch_begin(epoch)
            model.train_on_batch(X, Y)
            hooks.on_epoch_end(epoch)
        hooks.on_train_end()
        return values(model)

    loop(2)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["checkpoint-000001", "checkpoint-000002", "finished-000003"]
    again = loop(4)
    for one, other in zip(again, loop(4), strict=True):
        np.testing.assert_array_equal(one, other)


def test_random_states_are_read_without_a_change_and_come_back():
    keras.utils.set_random_seed(4)
    state = _random_state.read()
    one = random.random(), np.random.normal(), keras.ops.convert_to_numpy(keras.random.normal(()))
    _random_state.write(state)
    two = random.random(), np.random.normal(), keras.ops.convert_to_numpy(keras.random.normal(()))
    assert one == two


def test_plain_data_come_back_with_their_arrays():
    half = keras.ops.convert_to_numpy(keras.ops.ones((2, 1), "bfloat16"))
    data = {"a": [1, float("inf"), None, "x"], "b": {"c": half, "d": np.arange(3), "e": half}}
    arrays: dict = {}
    packed = json.loads(json.dumps(_plain.pack(data, arrays, "data")))
    back = _plain.unpack(packed, arrays)
    assert repr(back) == repr(data) and len(arrays) == 2
    with pytest.raises(TypeError, match=r"data\['a'\] must be plain data"):
        _plain.pack({"a": object()}, {}, "data")


@pytest.mark.slow
def test_survives_being_killed_at_any_time(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks" / "crash.py"
    table = tmp_path / "table.json"
    kills = 6 if BACKEND == "torch" else 20
    command = [sys.executable, script, "--only", "TrainingState", "--json", table]
    command += ["--kills", str(kills)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not ended.returncode, ended.stderr
    (row,) = json.loads(table.read_text())
    assert row["kills"] >= kills and row["largest difference"] == 0
    assert row["lost"] == row["runs that differ"] == row["found damaged"] == 0
