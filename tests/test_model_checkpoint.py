"""ModelCheckpoint: the best files, over restarts, crashes and full disks."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_optkit as ko
from keras_optkit.callbacks import ModelCheckpoint, SwapAveragedWeights

K = keras.optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3)).astype("float32")
Y = RNG.normal(size=(8, 1)).astype("float32")


def compiled(optimizer=None):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="head")])
    model.compile(optimizer or K.Adam(0.05), "mse")
    return model


class Told(keras.callbacks.Callback):
    """Puts a series of numbers into the logs; first in the list."""

    def __init__(self, series):
        super().__init__()
        self.series = series

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.series[epoch]


class Weights(keras.callbacks.Callback):
    """Keeps what the model holds at the end of each epoch; last in the list."""

    def on_train_begin(self, logs=None):
        self.after = []

    def on_epoch_end(self, epoch, logs=None):
        self.after.append(self.model.get_weights())


def fit(model, *callbacks, epochs=1, **kwargs):
    kwargs = {"batch_size": 4, "shuffle": False, "verbose": 0} | kwargs
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **kwargs).history


def names(directory):
    return sorted(path.name for path in directory.iterdir())


class Stub:
    """A model that writes its turn into a file."""

    def __init__(self):
        self.turn = 0

    def save(self, path):
        Path(path).write_text(str(self.turn))

    save_weights = save


def told(callback, series, begin=0, model=None):
    model = model or Stub()
    callback.set_model(model)
    callback.set_params({"verbose": 0})
    callback.on_train_begin()
    for epoch, value in enumerate(series, begin):
        model.turn = epoch
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {"val_loss": value, "loss": 2 * value})
    callback.on_train_end()
    return callback


@pytest.mark.parametrize("save", ["model", "weights"])
def test_the_best_epoch_is_in_the_file(tmp_path, save):
    path = tmp_path / "deep" / {"model": "m.keras", "weights": "m.weights.h5"}[save]
    model, weights = compiled(), Weights()
    checkpoint = ModelCheckpoint(path, save=save)
    fit(model, Told([3.0, 1.0, 2.0, 1.5]), checkpoint, weights, epochs=4)
    if save == "model":
        loaded = keras.saving.load_model(path)
        assert int(keras.ops.convert_to_numpy(loaded.optimizer.iterations)) == 4
    else:
        loaded = compiled()
        loaded.optimizer.build(loaded.trainable_variables)
        loaded.load_weights(path)
    for a, b in zip(loaded.get_weights(), weights.after[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert (checkpoint.best, checkpoint.best_epoch) == (1.0, 1)
    assert checkpoint.best_path == str(path)
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_best_are_kept_and_worse_ones_deleted(tmp_path, mode, keep):
    sign = 1 if mode == "min" else -1
    for seed in range(5):
        directory = tmp_path / str(seed)
        directory.mkdir()
        (directory / "bystander.keras").write_text("not ours")
        series = (1.0 * sign * np.random.default_rng(seed).permutation(9)).tolist()
        path = directory / "{epoch:02d}-{val_loss:.1f}-{loss}.keras"
        checkpoint = told(ModelCheckpoint(path, mode=mode, keep=keep), series)
        best = sorted(range(9), key=lambda epoch: sign * series[epoch])[:keep]
        expected = [f"{e + 1:02d}-{series[e]:.1f}-{2.0 * series[e]}.keras" for e in best]
        assert names(directory) == sorted([*expected, "bystander.keras"])
        assert [os.path.basename(path) for _, _, path in checkpoint.kept] == expected
        assert (directory / expected[0]).read_text() == str(best[0])


def test_min_delta():
    series = [100.0, 97.0, 94.0, 93.0]
    files = {}
    for relative, delta in ((False, 5.0), (True, 0.05), (True, 0.02), (False, 0.0)):
        checkpoint = ModelCheckpoint("m.keras", min_delta=delta, relative=relative)
        checkpoint._keep = lambda value, epoch, path, c=checkpoint: c.load_state(
            {"kept": [(value, epoch, path)]}
        )
        files[relative, delta] = told(checkpoint, series).best
    assert files == {(False, 5.0): 94.0, (True, 0.05): 94.0, (True, 0.02): 94.0, (False, 0.0): 93.0}


def test_not_finite_is_never_best(tmp_path):
    series = [math.nan, math.inf, 2.0, math.nan, 3.0]
    ours = told(ModelCheckpoint(tmp_path / "ours.keras"), series)
    assert (ours.best, (tmp_path / "ours.keras").read_text()) == (2.0, "2")
    told(ModelCheckpoint(tmp_path / "{epoch}.keras", keep=2), series)
    assert names(tmp_path) == ["3.keras", "5.keras", "ours.keras"]
    every = told(ModelCheckpoint(tmp_path / "all" / "{epoch}.keras", keep=None), series)
    assert names(tmp_path / "all") == [f"{n}.keras" for n in range(1, 6)]
    assert every.best == 2.0
    model, path = compiled(), tmp_path / "theirs.keras"
    theirs = keras.callbacks.ModelCheckpoint(path, save_best_only=True)
    fit(model, Told(series), theirs, epochs=5)
    assert math.isnan(theirs.best), "Keras keeps the first epoch, whose loss is NaN"


def test_every_restart_is_as_if_there_was_none(tmp_path):
    series = [5.0, 3.0, 4.0, 1.0, 2.0, 0.5]
    for cut in range(1, 6):
        directory = tmp_path / str(cut)
        path = directory / "{epoch}.keras"
        first = told(ModelCheckpoint(path, keep=2), series[:cut])
        second = ModelCheckpoint(path, keep=2)
        second.load_state(json.loads(json.dumps(first.state())))
        told(second, series[cut:], cut)
        assert names(directory) == ["4.keras", "6.keras"]
        assert second.state() == told(ModelCheckpoint(path, keep=2), series).state()


def test_after_a_restart_keras_overwrites_the_best(tmp_path):
    path = {name: tmp_path / f"{name}.keras" for name in ("ours", "theirs")}

    def callbacks():
        theirs = keras.callbacks.ModelCheckpoint(path["theirs"], save_best_only=True)
        return ModelCheckpoint(path["ours"]), theirs

    series, weights = [1.0, 2.0, 3.0, 2.5], Weights()
    ours, theirs = callbacks()
    model = compiled()
    fit(model, Told(series), ours, theirs, weights, epochs=2)
    state = json.loads(json.dumps(ours.state()))
    best = weights.after[0]
    ours, theirs = callbacks()
    ours.load_state(state)
    fit(model, Told(series), ours, theirs, epochs=4, initial_epoch=2)
    loaded = {name: keras.saving.load_model(path[name]).get_weights()[0] for name in path}
    np.testing.assert_array_equal(loaded["ours"], best[0])
    assert np.abs(loaded["theirs"] - best[0]).max() > 0


def test_fits_that_begin_anew(tmp_path):
    path = tmp_path / "m.keras"
    checkpoint, model = ModelCheckpoint(path), Stub()
    told(checkpoint, [1.0, 2.0], model=model)
    told(checkpoint, [3.0], 2, model)
    assert checkpoint.best == 1.0, "a later epoch goes on"
    told(checkpoint, [4.0], model=model)
    assert checkpoint.best == 4.0, "epoch 0 begins anew"
    told(checkpoint, [5.0], 1, Stub())
    assert checkpoint.best == 5.0, "and so does another model"


def test_names_that_are_the_same(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "{val_loss:.0f}.keras", keep=2)
    told(checkpoint, [2.1, 1.9, 2.2, 1.2])
    assert names(tmp_path) == ["1.keras", "2.keras"]
    assert (tmp_path / "2.keras").read_text() == "1", "1.9 is better than 2.1 and 2.2"
    assert [value for value, _, _ in checkpoint.kept] == [1.2, 1.9]


class Full(Stub):
    """A model too large for the disk, from some epoch on."""

    def __init__(self, begin):
        super().__init__()
        self.begin = begin

    def save(self, path):
        Path(path).write_text("half a file")
        if self.turn >= self.begin:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().save(path)


def test_a_full_disk(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "m.keras")
    with pytest.warns(UserWarning, match=r"could not write .* after epoch 2.*No space left"):
        told(checkpoint, [3.0, 2.0, 1.0], model=Full(1))
    assert (names(tmp_path), (tmp_path / "m.keras").read_text()) == (["m.keras"], "0")
    assert checkpoint.best == 3.0
    several = ModelCheckpoint(tmp_path / "{epoch}.keras", keep=2)
    with pytest.warns(UserWarning, match="could not write"):
        told(several, [3.0, 2.5, 1.0], model=Full(2))
    assert names(tmp_path) == ["1.keras", "2.keras", "m.keras"], "nothing is deleted for nothing"
    with pytest.raises(OSError, match="No space left"):
        told(ModelCheckpoint(tmp_path / "other.keras"), [1.0], model=Full(0))
    assert "other.keras" not in names(tmp_path)


def test_killed_while_writing(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from keras_optkit.callbacks import ModelCheckpoint
from tests.test_model_checkpoint import Stub, told

class Killed(Stub):
    def save(self, path):
        Path(path).write_text("half a file")
        if self.turn == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        super().save(path)

told(ModelCheckpoint(sys.argv[1]), [2.0, 1.0], model=Killed())
"""
    path = tmp_path / "m.keras"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=root, check=False)
    assert done.returncode == -9
    assert path.read_text() == "0"


def test_the_file_reaches_the_disk_before_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda d: (calls.append("fsync"), fsync(d)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    told(ModelCheckpoint(tmp_path / "m.keras"), [1.0])
    assert calls == ["fsync", "replace", "fsync"][: 3 if os.name == "posix" else 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ko.optimizers.Averaged(K.Adam(0.05), decay=0.9),
        lambda: ko.optimizers.ScheduleFreeAdamW(0.05),
    ],
)
@pytest.mark.parametrize("swap", [True, False])
def test_averaging_optimizers_save_what_was_validated(tmp_path, make, swap):
    path, model = tmp_path / "m.keras", compiled(make())
    swaps = [SwapAveragedWeights()] if swap else []
    data = (X[::2] + 0.1, Y[::2])
    losses = fit(model, *swaps, ModelCheckpoint(path), epochs=4, validation_data=data)["val_loss"]
    loaded = keras.saving.load_model(path)
    np.testing.assert_allclose(loaded.evaluate(*data, verbose=0), min(losses), rtol=1e-6)
    if swap:  # and going on from the file is going on from the weights that were trained
        loaded.optimizer.use_training_weights()
        left = loaded.evaluate(*data, verbose=0)
        assert abs(left - min(losses)) > 1e-4


def test_lines_of_their_own(tmp_path, capsys):
    path = tmp_path / "m.keras"
    fit(compiled(), Told([2.0, 1.0, 3.0]), ModelCheckpoint(path, verbose=1), epochs=3, verbose=1)
    lines = [line.split("\r")[-1].strip("\b") for line in capsys.readouterr().out.split("\n")]
    expected = [f"Epoch {n}: val_loss {value} saved to {path}" for n, value in ((1, 2), (2, 1))]
    assert [line for line in lines if "saved" in line] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filepath": 3}, r"`filepath` must be a path"),
        ({"filepath": "m.h5"}, r'`filepath` must end with "\.keras"'),
        ({"save": "weights"}, r'`filepath` must end with "\.weights\.h5" for save="weights"'),
        ({"keep": 2}, r"`filepath` must hold a field, such as \{epoch\}"),
        ({"keep": None}, r"or write keep=1"),
        ({"keep": 0}, r"`keep` must be an integer of at least 1"),
        ({"save": "all"}, r"`save` must be one of 'model', 'weights'"),
        ({"save_best_only": True}, r"no argument `save_best_only`\. Write keep=1 for True"),
        ({"save_weights_only": True}, r'Write save="weights" for True'),
        ({"save_freq": 10}, r"saves at the ends of epochs"),
        ({"monitor": "thing"}, r'`mode` must be "min" or "max"'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ModelCheckpoint(**{"filepath": "m.keras"} | arguments)


def test_bad_names(tmp_path):
    with pytest.raises(ValueError, match=r"`filepath` must have fields .* 'val_loss', 'loss'"):
        told(ModelCheckpoint(tmp_path / "{val_acc}.keras"), [1.0])
    with pytest.raises(ValueError, match=r"there are 'loss'"):
        fit(compiled(), ModelCheckpoint(tmp_path / "m.keras", "mae"))
