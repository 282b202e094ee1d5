"""Plateau against torch, over restarts, and around every kind of optimizer."""

import json
import math

import keras
import numpy as np
import pytest

import keras_optkit as ko
from keras_optkit.callbacks.plateau import Plateau

BACKEND = keras.backend.backend()
K = keras.optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3)).astype("float32")
Y = RNG.normal(size=(8, 1)).astype("float32")


def compiled(optimizer):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="head")])
    model.compile(optimizer, "mse")
    return model


class Told(keras.callbacks.Callback):
    """Puts a series of numbers into the logs, one for each epoch, in front of a Plateau."""

    def __init__(self, series, name="val_loss"):
        super().__init__()
        self.series, self.name = series, name

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.series[epoch]


def fit(model, plateau, series, start=0, end=None, name="val_loss"):
    callbacks = [Told(series, name), plateau]
    epochs = {"epochs": len(series) if end is None else end, "initial_epoch": start}
    return model.fit(
        X, Y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks, **epochs
    ).history


def rate(optimizer):
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def told(plateau, series, optimizer=None):
    """Returns the learning rate after each number, without a training in between."""
    model = compiled(optimizer or K.SGD(1.0))
    plateau.set_model(model)
    plateau.on_train_begin()
    rates = []
    for epoch, value in enumerate(series):
        plateau.on_epoch_end(epoch, {"val_loss": value})
        rates.append(rate(model.optimizer))
    return rates


def judge(series, factor, patience, min_delta, relative, mode, cooldown, minimum):
    """The rates and the times of reduction, from the definition."""
    sign = 1 if mode == "max" else -1
    lr, best, bad, rest, rates = 1.0, None, 0, 0, []
    for m in series:
        margin = 0 if best is None else min_delta * (abs(best) if relative else 1)
        if math.isfinite(m) and (best is None or sign * m > sign * best + margin):
            best, bad = m, 0
        else:
            bad += 1
        if rest:
            rest, bad = rest - 1, 0
        if bad == patience:
            lr, bad, rest = max(lr * factor, minimum), 0, cooldown
        rates.append(lr)
    return rates


def series_of(seed, length=80):
    rng = np.random.default_rng(seed)
    found = 1 + 3 * np.exp(-np.arange(length) / 20) + 0.1 * rng.normal(size=length)
    return found.tolist()


SETTINGS = [
    {"factor": 0.5, "patience": 3, "min_delta": 1e-4, "relative": True, "mode": "min",
     "cooldown": 0, "minimum": 0.0},
    {"factor": 0.3, "patience": 1, "min_delta": 0.05, "relative": True, "mode": "min",
     "cooldown": 2, "minimum": 0.01},
    {"factor": 0.7, "patience": 2, "min_delta": 0.1, "relative": False, "mode": "max",
     "cooldown": 1, "minimum": 0.0},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("offset", [0.0, -3.0])
def test_judge(settings, offset):
    series = [value + offset for value in series_of(1)]
    series[10], series[20], series[21] = math.nan, math.inf, -math.inf
    plateau = Plateau(**settings)
    rates = told(plateau, series)
    expected = judge(series, **settings)
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    assert plateau.reductions == np.count_nonzero(np.diff([1.0, *expected])) > 0


@pytest.mark.skipif(BACKEND != "torch", reason="torch judges where it runs anyway")
@pytest.mark.parametrize("settings", SETTINGS)
def test_as_torch(settings):
    import torch

    for seed in range(5):
        series = series_of(seed)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, settings["mode"], settings["factor"], settings["patience"] - 1,
            settings["min_delta"], "rel" if settings["relative"] else "abs",
            settings["cooldown"], settings["minimum"], eps=0.0,
        )  # fmt: skip
        expected = []
        for value in series:
            scheduler.step(value)
            expected.append(optimizer.param_groups[0]["lr"])
        plateau = Plateau(**settings)
        np.testing.assert_allclose(told(plateau, series), expected, rtol=1e-5)
        state = scheduler.best, scheduler.num_bad_epochs, scheduler.cooldown_counter
        assert (plateau.best, plateau.wait, plateau.cooldown_left) == state


def test_a_first_metric_that_is_not_finite_freezes_nothing():
    for first in (math.nan, math.inf, -math.inf):
        plateau = Plateau(patience=3)
        assert told(plateau, [first, 3.0, 2.0, 1.0, 0.5, 0.4, 0.3]) == [1.0] * 7
        assert plateau.best == 0.3


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_an_interrupted_run_is_the_uninterrupted_one(stop, tmp_path):
    series = [math.nan, 3.0, 2.0, 2.0, 2.0, 2.1, 1.9, 1.9, 1.9, 1.9, 1.9]

    def callback():
        return Plateau(factor=0.3, patience=2, cooldown=1)

    whole, plateau = compiled(K.SGD(0.1, momentum=0.9)), callback()
    history = fit(whole, plateau, series)

    model, first, second = compiled(K.SGD(0.1, momentum=0.9)), callback(), callback()
    before = fit(model, first, series, end=stop)
    model.save(tmp_path / "m.keras")
    state = json.dumps(first.state(), allow_nan=False)
    model = keras.models.load_model(tmp_path / "m.keras")
    second.load_state(json.loads(state))
    after = fit(model, second, series, start=stop)

    assert before["learning_rate"] + after["learning_rate"] == history["learning_rate"]
    assert len(set(history["learning_rate"])) == 3 and plateau.reductions == 2
    assert rate(model.optimizer) == rate(whole.optimizer)
    assert second.state() == plateau.state()
    for ours, theirs in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


OPTIMIZERS = {
    "plain": lambda: K.Adam(0.5),
    "ours": lambda: ko.optimizers.RAdam(0.5),
    "wrapped": lambda: ko.optimizers.Lookahead(ko.optimizers.RAdam(0.5)),
    "scaled": lambda: K.LossScaleOptimizer(ko.optimizers.Lookahead(K.SGD(0.5))),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_within_others(name):
    model = compiled(OPTIMIZERS[name]())
    history = fit(model, Plateau(factor=0.5, patience=2), [1.0] * 6)
    assert history["learning_rate"] == [0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert rate(model.optimizer) == 0.125


def test_a_lower_rate_moves_the_weights_less():
    def steps(*callbacks):
        model = compiled(K.SGD(0.1))
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[Told([1.0]), *callbacks])
        before = model.get_weights()
        model.train_on_batch(X, Y)
        return [b - a for a, b in zip(model.get_weights(), before, strict=True)]

    for plain, lower in zip(steps(), steps(StartBehind(factor=0.25, patience=1)), strict=True):
        np.testing.assert_allclose(lower, 0.25 * plain, rtol=1e-3)


class StartBehind(Plateau):
    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.best = 0.5


@pytest.mark.skipif(not hasattr(K, "MultiOptimizer"), reason="new in Keras 3.15")
def test_several_optimizers():
    head, rest = K.SGD(0.5, name="a"), ko.optimizers.Lookahead(K.SGD(0.1, name="b"))
    model = compiled(K.MultiOptimizer(K.OptimizerMap(head, {".*bias": rest})))
    plateau = Plateau(factor=0.5, patience=1, minimum=0.1)
    history = fit(model, plateau, [1.0, 1.0, 1.0, 1.0])
    assert history["learning_rate_a"] == [0.5, 0.5, 0.25, 0.125]
    np.testing.assert_allclose(history["learning_rate_b"], [0.1] * 4)
    np.testing.assert_allclose([rate(head), rate(rest)], [0.1, 0.1])
    assert plateau.reductions == 3


def test_learning_rates_that_cannot_be_set_are_told_at_once():
    message = r"Plateau sets the learning rate, but that of 'sgd' follows a schedule.* Give that"
    schedule = ko.schedules.LinearDecay(0.1, 10)
    for optimizer in (K.SGD(schedule, name="sgd"), K.SGD(lambda: 0.1, name="sgd"),
                      ko.optimizers.Lookahead(K.SGD(schedule, name="sgd"))):  # fmt: skip
        model = compiled(optimizer)
        before = model.get_weights()
        with pytest.raises(ValueError, match=message):
            fit(model, Plateau(), [1.0])
        np.testing.assert_array_equal(model.get_weights()[0], before[0])
    plateau = Plateau()
    plateau.set_model(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match=r"`model.optimizer`, and there is none\. Call"):
        plateau.on_train_begin()


def test_a_metric_that_is_not_there():
    model, plateau = compiled(K.SGD(0.1)), Plateau("val_mae", patience=1)
    with pytest.warns(
        UserWarning, match=r"no 'val_mae' .* epoch 1, .* \['loss', 'val_loss'\]"
    ) as w:
        fit(model, plateau, [1.0, 1.0, 1.0])
    assert len([x for x in w if "Plateau" in str(x.message)]) == 1
    assert plateau.best is None and plateau.reductions == 0


def test_epochs_without_the_metric_do_not_count(recwarn):
    plateau = Plateau(patience=2)
    model = compiled(K.SGD(1.0))
    plateau.set_model(model)
    plateau.on_train_begin()
    for epoch, logs in enumerate([{"val_loss": 1.0}, {}, {"val_loss": 1.0}, {}, {"val_loss": 1.0}]):
        assert rate(model.optimizer) == 1.0
        plateau.on_epoch_end(epoch, logs)
    assert rate(model.optimizer) == 0.5
    assert not any("Plateau" in str(w.message) for w in recwarn)


def test_a_second_fit_goes_on_and_another_model_begins_anew():
    plateau, model = Plateau(patience=3), compiled(K.SGD(0.1))
    fit(model, plateau, [1.0, 1.0])
    fit(model, plateau, [1.0, 0.9])
    assert (plateau.best, plateau.wait) == (0.9, 0)
    fit(model, plateau, [1.0])
    fit(compiled(K.SGD(0.1)), plateau, [5.0])
    assert (plateau.best, plateau.wait) == (5.0, 0)


def test_the_minimum_is_reached_once_and_kept():
    plateau = Plateau(factor=0.1, patience=1, minimum=0.03)
    rates = told(plateau, [1.0] * 5)
    np.testing.assert_allclose(rates, [1.0, 0.1, 0.03, 0.03, 0.03], rtol=1e-6)
    assert plateau.reductions == 2
    plateau = Plateau(factor=0.5, patience=1, minimum=2.0)  # above where it starts
    assert told(plateau, [1.0, 1.0]) == [1.0, 1.0] and plateau.reductions == 0


@pytest.mark.parametrize(
    ("monitor", "better"),
    [
        ("loss", "min"), ("val_loss", "min"), ("val_head_loss", "min"), ("root_mse", "min"),
        ("mean_squared_error", "min"), ("sparse_top_k_categorical_accuracy", "max"),
        ("val_accuracy", "max"), ("val_auc_1", "max"), ("acc", "max"), ("f1_score", "max"),
        ("kl_divergence", "min"),
    ],
)  # fmt: skip
def test_the_name_tells_what_is_better(monitor, better):
    plateau = Plateau(monitor, patience=1, min_delta=0.0)
    plateau.set_model(compiled(K.SGD(1.0)))
    plateau.on_train_begin()
    for value in (1.0, 2.0):
        plateau.on_epoch_end(0, {monitor: value})
    assert plateau.best == (1.0 if better == "min" else 2.0)


def test_verbose(capsys):
    told(Plateau(patience=1), [1.0, 1.0])
    assert capsys.readouterr().out == ""
    told(Plateau(patience=1, verbose=1), [1.0, 1.0])
    assert capsys.readouterr().out == "Epoch 2: learning rate lowered from 1 to 0.5\n"


def test_config():
    plateau = Plateau("val_mae", 0.2, 3, 0.01, False, "min", 2, 1e-6, 1)
    config = json.loads(json.dumps(plateau.get_config()))
    assert config["monitor"] == "val_mae" and config["minimum"] == 1e-6
    saved = keras.saving.serialize_keras_object(plateau)
    assert saved["registered_name"] == "keras_optkit>Plateau"
    restored = keras.saving.deserialize_keras_object(saved)
    assert type(restored) is Plateau and restored.get_config() == config


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"monitor": None}, r"`monitor` must be the name of a metric\. .*monitor=None"),
        ({"monitor": "val_gap"}, r'`mode` must be "min" or "max" for .*monitor=\'val_gap\''),
        ({"monitor": "error_score"}, r'`mode` must be "min" or "max" for .*monitor'),
        ({"factor": 1.0}, r"`factor` must be in \(0, 1\)\. .*factor=1\.0"),
        ({"factor": 0.0}, r"`factor` must be in \(0, 1\)\."),
        ({"patience": 0}, r"`patience` must be an integer of at least 1\."),
        ({"min_delta": -1e-4}, r"`min_delta` must be at least 0\."),
        ({"relative": "yes"}, r"`relative` must be True or False\."),
        ({"mode": "up"}, r"`mode` must be one of 'auto', 'min', 'max'\. .*mode='up'"),
        ({"cooldown": -1}, r"`cooldown` must be an integer of at least 0\."),
        ({"minimum": -1}, r"`minimum` must be at least 0\."),
        ({"verbose": 2}, r"`verbose` must be one of 0, 1\. .*verbose=2"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Plateau(**kwargs)


def test_keras_forgets_when_restarted_and_freezes_on_nan():
    class KerasToo(keras.callbacks.ReduceLROnPlateau):
        reductions = 0

        def on_epoch_end(self, epoch, logs=None):
            before = rate(self.model.optimizer)
            super().on_epoch_end(epoch, logs)
            self.reductions += rate(self.model.optimizer) < before

    series = [0.5, 1.0, 1.0, 1.0, 1.0]
    theirs, model = KerasToo(patience=3), compiled(K.SGD(1.0))
    fit(model, theirs, series, end=3)
    fit(model, theirs, series, start=3)
    ours, model = Plateau(patience=3), compiled(K.SGD(1.0))
    fit(model, ours, series, end=3)
    again = Plateau(patience=3)
    again.load_state(json.loads(json.dumps(ours.state())))
    fit(model, again, series, start=3)
    assert (again.reductions, theirs.reductions) == (1, 0)

    improving = [math.nan, 3.0, 2.0, 1.0, 0.5]
    theirs, ours = KerasToo(patience=3), Plateau(patience=3)
    fit(compiled(K.SGD(1.0)), theirs, improving)
    fit(compiled(K.SGD(1.0)), ours, improving)
    assert (ours.reductions, theirs.reductions) == (0, 1)
