"""EarlyStopping against Keras' and Prechelt's, over restarts, and around averaging optimizers."""

import json
import math
import pickle
import types

import keras
import numpy as np
import pytest

import keras_optkit as ko
from keras_optkit.callbacks import EarlyStopping, SwapAveragedWeights, _clock

BACKEND = keras.backend.backend()
K = keras.optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 3)).astype("float32")
Y = (X @ RNG.normal(size=(3, 1)) + 0.1 * RNG.normal(size=(16, 1))).astype("float32")
VALIDATION = (X[::2] + 0.1, Y[::2])


def compiled(optimizer=None, **kwargs):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="head")])
    model.compile(optimizer or K.SGD(0.01), "mse", **kwargs)
    return model


class Told(keras.callbacks.Callback):
    """Puts series of numbers into the logs, one of each for each epoch; first in the list."""

    def __init__(self, **series):
        super().__init__()
        self.series = series

    def on_epoch_end(self, epoch, logs=None):
        logs.update({name: numbers[epoch] for name, numbers in self.series.items()})


class Weights(keras.callbacks.Callback):
    """Keeps what the model holds at the end of each epoch; last in the list."""

    def on_train_begin(self, logs=None):
        self.after = []

    def on_epoch_end(self, epoch, logs=None):
        self.after.append(self.model.get_weights())


def fit(model, *callbacks, epochs=1, **kwargs):
    kwargs = {"batch_size": 4, "shuffle": False, "verbose": 0} | kwargs
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **kwargs).history


class NoModel:
    """What a callback that restores nothing needs of a model."""

    stop_training = False


def told(callback, begin=0, model=None, **series):
    """Calls the hooks of epochs from `begin` on until a stop; returns how many there were."""
    model = model or NoModel()
    model.stop_training = False
    callback.set_model(model)
    callback.set_params({"verbose": 0})
    callback.on_train_begin()
    count = 0
    for epoch, numbers in enumerate(zip(*series.values(), strict=True), begin):
        callback.on_epoch_begin(epoch)
        for batch in range(4):
            callback.on_train_batch_begin(batch, {})
            callback.on_train_batch_end(batch, {})
        callback.on_epoch_end(epoch, dict(zip(series, numbers, strict=True)))
        count += 1
        if model.stop_training:
            break
    callback.on_train_end()
    return count


def saved(state):
    return pickle.loads(pickle.dumps(state))


def optimizer_values(model):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]


def assert_all_equal(a, b, message=""):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=message)


def walk(seed, length=30):
    """A noisy curve that falls and rises again."""
    rng = np.random.default_rng(seed)
    t = np.arange(length)
    return np.round(np.abs(1 + 0.002 * (t - 12) ** 2 + 0.2 * rng.normal(size=length)), 2).tolist()


class TestPatience:
    @pytest.mark.parametrize("patience", [0, 1, 3, 6])
    @pytest.mark.parametrize("mode", ["min", "max"])
    def test_stops_when_keras_does(self, patience, mode):
        for seed in range(12):
            series, start = walk(seed), 4 * (seed % 2)
            # Not a multiple of 0.01, which would leave it to the rounding of differences.
            arguments = {"mode": mode, "patience": patience, "min_delta": 0.055 * (seed % 3)}
            ours = EarlyStopping(**arguments, start_from=start)
            theirs = keras.callbacks.EarlyStopping(**arguments, start_from_epoch=start)
            counts = [told(c, val_loss=series) for c in (ours, theirs)]
            assert counts[0] == counts[1], f"series {seed}"
            for name in ("best", "best_epoch", "stopped_epoch"):
                assert getattr(ours, name) == getattr(theirs, name), f"{name}, series {seed}"

    def test_relative_and_baseline(self):
        shrinking = [100 * 0.97**t for t in range(20)]
        assert told(EarlyStopping(relative=True, min_delta=0.05, patience=1), loss=[1.0]) == 1
        stop = EarlyStopping(relative=True, min_delta=0.02, patience=2)
        assert told(stop, val_loss=shrinking) == 20
        stop = EarlyStopping(relative=True, min_delta=0.05, patience=1)
        assert told(stop, val_loss=shrinking) == 2
        stop = EarlyStopping(patience=3, baseline=90.0)  # 90 is passed at the fifth
        assert told(stop, val_loss=shrinking) == 3
        assert stop.best_epoch == 2
        assert told(EarlyStopping(patience=5, baseline=90.0), val_loss=shrinking) == 20

    def test_smoothing_is_a_weighted_mean(self):
        series, smoothing = walk(3), 0.8
        smoothed = [
            np.average(series[: t + 1], weights=smoothing ** np.arange(t, -1, -1.0))
            for t in range(len(series))
        ]
        stop = EarlyStopping(smoothing=smoothing, patience=4)
        plain = EarlyStopping(patience=4)
        count = told(stop, val_loss=series)
        assert count == told(plain, val_loss=smoothed)
        assert count != told(EarlyStopping(patience=4), val_loss=series)
        np.testing.assert_allclose(stop.best, plain.best, rtol=1e-14)

    def test_first_metric_is_nan(self):
        series = [math.nan, 3.0, 2.0, math.inf, 1.0, 1.5, 1.5, 1.5]
        ours = EarlyStopping(patience=3, smoothing=0.0)
        theirs = keras.callbacks.EarlyStopping(patience=3)
        assert told(ours, val_loss=series) == 8
        assert (ours.best, ours.best_epoch) == (1.0, 4)
        assert told(theirs, val_loss=series) == 4, "Keras keeps NaN as the best"
        assert math.isnan(theirs.best)

    def test_nan_does_not_poison_the_average(self):
        stop = EarlyStopping(patience=9, smoothing=0.5)
        told(stop, val_loss=[math.nan, 2.0, math.nan, 1.0])
        np.testing.assert_allclose(stop.best, (2.0 * 0.5 + 1.0) / 1.5)


class TestOtherReasons:
    def test_target(self):
        stop = EarlyStopping("val_accuracy", target=0.9)
        assert told(stop, val_accuracy=[0.5, 0.8, 0.9, 1.0]) == 3
        assert stop.reason == "val_accuracy reached 0.9"
        assert stop.stopped_epoch == 2

    @pytest.mark.parametrize("sign", [1, -1])
    def test_max_gap(self, sign):
        name = "loss" if sign > 0 else "accuracy"
        train, val = [sign * x for x in (1.0, 0.8, 0.5, 0.4)], [sign * x for x in (1, 1, 1, 1)]
        stop = EarlyStopping(f"val_{name}", max_gap=0.45)
        assert told(stop, **{name: train, f"val_{name}": val}) == 3
        assert "is 0.5 worse than in training" in stop.reason

    def test_seconds_and_restarts(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(_clock, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

        class Slow(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                now[0] += 1.0

        stop = EarlyStopping("loss", max_seconds=10, patience=99)
        fit(compiled(), Slow(), stop, epochs=2)  # of 4 batches each
        assert stop.reason is None
        again = EarlyStopping("loss", max_seconds=10, patience=99)
        again.load_state(json.loads(json.dumps(stop.state())))
        now[0] += 1000.0  # between the two nobody trains
        history = fit(compiled(), Slow(), again, epochs=5, initial_epoch=2)
        assert len(history["loss"]) == 1
        assert again.reason == "training has taken 10 seconds"
        waiting = EarlyStopping("val_loss", unit="second", patience=6.0)
        history = fit(compiled(), Told(val_loss=[2.0, 1.0, 3, 3, 3]), Slow(), waiting, epochs=5)
        assert len(history["loss"]) == 4, "the best after 8 seconds, a stop after 14"
        assert waiting.reason == "no improvement of val_loss for 6 seconds"

    @pytest.mark.parametrize("first", [1.0, math.nan])
    def test_waiting_begins_with_the_first_look(self, first):
        stop = EarlyStopping(unit="step", patience=3)
        assert told(stop, val_loss=[first, 0.5]) == 2, "an epoch has 4 steps"
        assert stop.state()["steps"] == 8

    def test_steps_of_a_validation_metric(self):
        stop = EarlyStopping(unit="step", patience=6)
        assert told(stop, val_loss=[2.0, 1.0, 1.0, 1.0, 1.0]) == 4
        assert stop.reason == "no improvement of val_loss for 6 steps"
        assert stop.wait == 8, "the epoch goes on where only hooks are called"


class TestSteps:
    @pytest.mark.parametrize("executions", [1, 2])
    def test_windows_of_a_training_metric(self, executions):
        if BACKEND == "torch" and executions > 1:
            pytest.skip("Keras has no steps_per_execution on torch")
        x = RNG.normal(size=(32, 3)).astype("float32")
        y = RNG.normal(size=(32, 1)).astype("float32")
        model = compiled(K.SGD(0.0), steps_per_execution=executions)
        kernel, bias = model.get_weights()
        errors = np.square(x.astype("float64") @ kernel + bias - y).reshape(8, 4).mean(1)
        windows = errors.reshape(4, 2).mean(1)  # of 2 batches each
        stop = EarlyStopping("loss", unit="step", every=2, patience=20, restore="weights")
        model.fit(x, y, batch_size=4, shuffle=False, epochs=9, verbose=0, callbacks=[stop])
        np.testing.assert_allclose(stop.best, windows.min(), rtol=1e-5)
        assert stop.best_epoch == 0
        at = 2 * (int(windows.argmin()) + 1)
        assert stop.stopped_epoch == (at + 20 - 1) // 8
        assert stop.state()["steps"] == at + 20

    def test_restores_the_weights_of_that_step(self):
        class Kept(keras.callbacks.Callback):
            weights = []  # noqa: RUF012

            def on_train_batch_end(self, batch, logs=None):
                self.weights.append(self.model.get_weights())

        model, kept = compiled(K.SGD(0.9)), Kept()  # diverges: the first steps are best
        stop = EarlyStopping("loss", unit="step", every=1, patience=6, restore="weights")
        fit(model, kept, stop, epochs=9)
        at = stop.state()["steps"] - 6
        assert_all_equal(model.get_weights(), kept.weights[at - 1])
        assert len(kept.weights) == stop.state()["steps"]

    def test_short_epochs_are_looked_at_once(self):
        stop = EarlyStopping("loss", unit="step", patience=99)
        history = fit(compiled(), stop, epochs=3)
        assert stop.state()["looks"] == 3
        np.testing.assert_allclose(stop.best, min(history["loss"]), rtol=1e-6)

    def test_only_looking_at_steps_makes_keras_wait(self):
        assert EarlyStopping("loss").async_safe
        assert EarlyStopping("val_loss", unit="step").async_safe
        assert not EarlyStopping("loss", unit="step").async_safe


def prechelt(criterion, va, tr, alpha, k, s):
    """The first epoch, from 1, after which to stop; the paper, word for word."""

    def e_opt(t):
        return min(va[u - 1] for u in range(1, t + 1))

    def gl(t):
        return 100 * (va[t - 1] / e_opt(t) - 1)

    def progress(t):
        strip = [tr[u - 1] for u in range(t - k + 1, t + 1)]
        return 1000 * (sum(strip) / (k * min(strip)) - 1)

    def up(s, t):
        if t % k or t - k < 1:
            return False
        rises = va[t - 1] > va[t - k - 1]
        return rises if s == 1 else up(s - 1, t - k) and rises

    for t in range(1, len(va) + 1):
        if criterion == "GL" and gl(t) > alpha:
            return t
        if criterion == "PQ" and t % k == 0 and gl(t) / progress(t) > alpha:
            return t
        if criterion == "UP" and up(s, t):
            return t
    return None


class TestPrechelt:
    @pytest.mark.parametrize("criterion", ["GL", "PQ", "UP"])
    @pytest.mark.parametrize(("alpha", "strip", "s"), [(1.0, 5, 1), (3.0, 3, 2), (20.0, 2, 3)])
    def test_is_the_paper(self, criterion, alpha, strip, s):
        stops = []
        for seed in range(20):
            va = walk(seed, 60)
            tr = (np.exp(-np.arange(60) / 40) + 0.01 * np.array(walk(seed + 99, 60))).tolist()
            stop = EarlyStopping(criterion=criterion, alpha=alpha, strip=strip, patience=s)
            count = told(stop, loss=tr, val_loss=va)
            expected = prechelt(criterion, va, tr, alpha, strip, s)
            assert (count if stop.reason else None) == expected, f"series {seed}"
            stops.append(expected)
        assert len(set(stops)) > 3, "the series tell the criteria apart"

    def test_up_where_more_is_better(self):
        stop = EarlyStopping("val_accuracy", criterion="UP", strip=1, patience=2)
        assert told(stop, val_accuracy=[0.5, 0.6, 0.5, 0.6, 0.5, 0.4, 0.3]) == 6

    def test_edges(self):
        assert told(EarlyStopping(criterion="GL"), val_loss=[math.nan, 2.0, 1.0, 1.01, 2.0]) == 5
        assert told(EarlyStopping(criterion="GL"), val_loss=[1.0, math.nan, 1.0]) == 2
        assert told(EarlyStopping(criterion="GL"), val_loss=[0.0, 0.0, 0.1]) == 3
        stop = EarlyStopping(criterion="PQ", strip=2)  # training stands still
        assert told(stop, loss=[1.0] * 4, val_loss=[1.0, 1.0, 1.0, 1.1]) == 4
        with pytest.raises(ValueError, match=r'at least 0\. Write criterion="patience"'):
            told(EarlyStopping(criterion="GL"), val_loss=[-1.0])


CASES = {
    "patience": {"patience": 4, "smoothing": 0.3},
    "relative": {"patience": 3, "relative": True, "min_delta": 0.02, "start_from": 3},
    "GL": {"criterion": "GL", "alpha": 40.0},
    "PQ": {"criterion": "PQ", "strip": 3, "alpha": 0.3},
    "UP": {"criterion": "UP", "strip": 3, "patience": 1},
    "steps": {"unit": "step", "patience": 19},
}


class TestRestart:
    @pytest.mark.parametrize("case", CASES)
    def test_any_epoch(self, case):
        model = NoModel()
        series = {"loss": walk(7), "val_loss": walk(8)}
        whole = EarlyStopping(**CASES[case])
        count = told(whole, model=model, **series)
        assert whole.reason and count > 5
        for cut in range(1, count):
            first, second = EarlyStopping(**CASES[case]), EarlyStopping(**CASES[case])
            begin = {name: numbers[:cut] for name, numbers in series.items()}
            rest = {name: numbers[cut:] for name, numbers in series.items()}
            told(first, model=model, **begin)
            second.load_state(json.loads(json.dumps(first.state())))
            assert told(second, cut, model=model, **rest) == count - cut, f"cut after {cut}"
            assert second.state() == {**whole.state(), "seconds": second.state()["seconds"]}

    def test_keras_forgets(self):
        series = [1.0, 0.1, 0.5, 0.4, 0.3, 0.2, 0.15, 0.14]
        model = compiled()
        options = {"patience": 4, "restore_best_weights": True}
        told(keras.callbacks.EarlyStopping(**options), val_loss=series[:4], model=model)
        theirs = keras.callbacks.EarlyStopping(**options)  # of a new process
        assert told(theirs, 4, val_loss=series[4:], model=model) == 4
        assert theirs.best == 0.14
        ours = EarlyStopping(patience=4, restore="weights")
        told(ours, val_loss=series[:4], model=model)
        assert told(ours, 4, val_loss=series[4:], model=model) == 2
        assert ours.best == 0.1

    def test_best_weights_come_from_before(self):
        losses = [3.0, 1.0, 2.0, 2.0, 2.0]
        weights, first = Weights(), EarlyStopping(restore="all")
        fit(compiled(K.Adam(0.1)), Told(val_loss=losses), first, weights, epochs=3)
        second = EarlyStopping(restore="all", patience=2)
        second.load_state(saved(first.state()))
        twin = compiled(K.Adam(0.1))
        fit(twin, epochs=1)
        fit(twin, Told(val_loss=losses), second, epochs=5, initial_epoch=3)
        assert second.best_epoch == 1
        assert_all_equal(twin.get_weights(), weights.after[1])
        assert int(keras.ops.convert_to_numpy(twin.optimizer.iterations)) == 8

    def test_a_fit_from_epoch_0_begins_anew(self):
        stop, model = EarlyStopping(patience=1), NoModel()
        assert told(stop, val_loss=[1.0, 2.0, 3.0], model=model) == 2
        assert told(stop, val_loss=[5.0, 4.0, 3.0], model=model) == 3
        assert (stop.best, stop.reason) == (3.0, None)
        assert told(stop, 7, val_loss=[9.0], model=NoModel()) == 1
        assert stop.best == 9.0, "another model"

    def test_after_a_stop_it_waits_again(self):
        stop, model = EarlyStopping(patience=2), NoModel()
        assert told(stop, val_loss=[1.0, 2.0, 2.0, 2.0], model=model) == 3
        assert told(stop, 3, val_loss=[2.0, 2.0, 2.0, 2.0], model=model) == 2
        assert (stop.best, stop.stopped_epoch) == (1.0, 4)


OPTIMIZERS = {
    "adam": lambda: K.Adam(0.05),
    "scaled": lambda: K.LossScaleOptimizer(K.Adam(0.05)),
    "lookahead": lambda: ko.optimizers.Lookahead(ko.optimizers.RAdam(0.05), sync_period=3),
    "averaged": lambda: ko.optimizers.Averaged(K.Adam(0.05), decay=0.9),
    "schedule-free": lambda: ko.optimizers.ScheduleFreeAdamW(0.05),
}
if hasattr(K, "MultiOptimizer"):
    OPTIMIZERS["multi"] = lambda: K.MultiOptimizer(
        K.OptimizerMap(K.SGD(0.05), {".*kernel": K.Adam(0.05)})
    )
LOSSES = [3.0, 2.0, 1.0, 2.0, 2.0, 2.0]


class TestRestore:
    @pytest.mark.parametrize("case", OPTIMIZERS)
    def test_all_is_as_if_training_had_ended_there(self, case):
        short, long = compiled(OPTIMIZERS[case]()), compiled(OPTIMIZERS[case]())
        stop = EarlyStopping(patience=2, restore="all")
        fit(long, Told(val_loss=LOSSES), stop, epochs=6)
        assert (stop.stopped_epoch, stop.best_epoch) == (4, 2)
        fit(short, epochs=3)
        if case in ("averaged", "schedule-free"):  # `fit` has ended with evaluation weights
            short.optimizer.use_training_weights()
        else:
            assert_all_equal(long.get_weights(), short.get_weights())
            assert_all_equal(optimizer_values(long), optimizer_values(short))
        for model in (short, long):
            fit(model, epochs=1)
        for a, b in zip(long.get_weights(), short.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)

    def test_keras_restores_no_optimizer(self):
        short, long = compiled(K.Adam(0.05)), compiled(K.Adam(0.05))
        stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
        fit(long, Told(val_loss=LOSSES), stop, epochs=6)
        fit(short, epochs=3)
        assert_all_equal(long.get_weights(), short.get_weights())
        assert int(keras.ops.convert_to_numpy(long.optimizer.iterations)) == 20, "and short has 12"
        for model in (short, long):
            fit(model, epochs=1)
        assert np.abs(long.get_weights()[0] - short.get_weights()[0]).max() > 1e-3

    @pytest.mark.parametrize("case", ["averaged", "schedule-free"])
    @pytest.mark.parametrize(
        ("restore", "swap"),
        [("weights", "first"), ("weights", "last"), ("weights", "none"), ("all", "first")],
    )
    def test_what_was_validated_is_what_is_left(self, case, restore, swap):
        model, weights = compiled(OPTIMIZERS[case]()), Weights()
        stop = EarlyStopping("told_loss", patience=2, restore=restore)
        callbacks = [Told(told_loss=LOSSES), stop, weights]
        if swap != "none":
            callbacks.insert(0 if swap == "first" else 2, SwapAveragedWeights())
        history = fit(model, *callbacks, epochs=6, validation_data=VALIDATION)
        assert_all_equal(model.get_weights(), weights.after[2])
        left = model.evaluate(*VALIDATION, verbose=0)
        np.testing.assert_allclose(left, history["val_loss"][2], rtol=1e-6)
        assert abs(left - history["val_loss"][4]) > 1e-3

    @pytest.mark.parametrize("case", ["averaged", "schedule-free"])
    @pytest.mark.parametrize("swap", [True, False])
    def test_the_next_fit_starts_near_them(self, case, swap):
        make = {
            "averaged": lambda: ko.optimizers.Averaged(K.SGD(0.05), decay=0.9),
            "schedule-free": lambda: ko.optimizers.ScheduleFreeSGD(0.05),
        }[case]
        model = compiled(make())
        stop = EarlyStopping(patience=2, restore="weights")
        swaps = [SwapAveragedWeights()] if swap else []
        fit(model, *swaps, Told(val_loss=LOSSES), stop, epochs=6)
        best = model.get_weights()
        optimizer = model.optimizer
        if not swap:  # then they are the training weights, and it goes on exactly there
            optimizer.use_training_weights()
            assert_all_equal(model.get_weights(), best)
        else:  # the averages; what was trained is as far from them as it was at the end
            assert optimizer.use_evaluation_weights() is False
            optimizer.use_training_weights()
            assert np.abs(model.get_weights()[0] - best[0]).max() > 0
            optimizer.use_evaluation_weights()
            np.testing.assert_allclose(model.get_weights()[0], best[0], rtol=0, atol=1e-6)
        losses = fit(model, *swaps, epochs=2)["loss"]
        assert np.isfinite(losses).all()

    def test_ema_of_keras(self):
        model, weights = compiled(K.Adam(0.05, use_ema=True)), Weights()
        stop = EarlyStopping(patience=2, restore="all")
        fit(model, Told(val_loss=LOSSES), stop, weights, epochs=6)
        assert_all_equal(model.get_weights(), weights.after[2])
        fit(model, epochs=1)  # after Keras' own end of `fit` this crashes on JAX

    def test_the_copies_are_nobody_elses(self):
        model, weights = compiled(K.Adam(0.05)), Weights()
        stop = EarlyStopping(patience=9, restore="all")
        fit(model, Told(val_loss=LOSSES), stop, weights, epochs=5)
        fit(model, epochs=2)  # donates, or writes into, what the model holds
        assert_all_equal(stop.state()["best_weights"]["values"][:2], weights.after[2])

    def test_batch_normalization_and_a_metric_without_restore(self):
        keras.utils.set_random_seed(1)
        layers = [keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        model, weights = keras.Sequential(layers), Weights()
        model.compile("adam", "mse")
        fit(model, Told(val_loss=LOSSES), EarlyStopping(restore="weights"), weights, epochs=6)
        assert_all_equal(model.get_weights(), weights.after[2], "moving statistics too")
        fit(model, Told(val_loss=LOSSES), EarlyStopping(patience=2), weights, epochs=6)
        assert_all_equal(model.get_weights(), weights.after[-1])

    def test_half_precision_goes_through_a_state(self):
        keras.config.set_dtype_policy("bfloat16")
        try:
            model = compiled(K.SGD(0.5))
        finally:
            keras.config.set_dtype_policy("float32")
        weights = Weights()
        stop = EarlyStopping(restore="weights", patience=9)
        fit(model, Told(val_loss=LOSSES), stop, weights, epochs=4)
        again = EarlyStopping(restore="weights", patience=9)
        again.load_state(saved(stop.state()))
        fit(model, Told(val_loss=LOSSES), again, epochs=6, initial_epoch=4)
        np.testing.assert_array_equal(
            model.get_weights()[0].astype("float32"), weights.after[2][0].astype("float32")
        )

    def test_an_exception_leaves_the_model_as_it_is(self):
        class Fails(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == 4:
                    raise RuntimeError("out of power")

        model, weights = compiled(), Weights()
        stop = EarlyStopping(patience=9, restore="weights")
        with pytest.raises(RuntimeError, match="out of power"):
            fit(model, Told(val_loss=LOSSES), stop, weights, Fails(), epochs=6)
        assert_all_equal(model.get_weights(), weights.after[4])
        assert fit(model, Told(val_loss=LOSSES), stop, weights, epochs=6, initial_epoch=4)
        assert stop.best_epoch == 2

    def test_other_models_are_refused(self):
        stop = EarlyStopping(restore="weights")
        fit(compiled(), Told(val_loss=[1.0]), stop)
        wide = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
        wide.compile("sgd", "mse")
        again = EarlyStopping(restore="weights")
        again.load_state(stop.state())
        with pytest.raises(ValueError, match="are of another model"):
            fit(wide, Told(val_loss=[2.0]), again)


class TestNames:
    def test_a_wrong_name_is_an_error(self):
        with pytest.raises(ValueError, match=r"monitor='los', .*there are 'loss'"):
            fit(compiled(), EarlyStopping("los", mode="min"))
        with pytest.raises(ValueError, match=r"'val_mae'; there are 'loss', 'val_loss'"):
            fit(compiled(), EarlyStopping("val_mae"), validation_data=VALIDATION)

    def test_no_validation_is_a_warning(self):
        with pytest.warns(UserWarning, match="no 'val_loss' after epoch 1") as found:
            fit(compiled(), EarlyStopping(), epochs=3)
        assert len([w for w in found if "val_loss" in str(w.message)]) == 1

    @pytest.mark.filterwarnings("error:EarlyStopping")
    def test_validation_now_and_then(self):
        stop = EarlyStopping(patience=1, min_delta=1e9)
        with pytest.warns(UserWarning, match="no 'val_loss' after epoch 1"):
            history = fit(compiled(), stop, epochs=9, validation_data=VALIDATION, validation_freq=2)
        assert len(history["loss"]) == 4, "patience counts epochs with validation"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"restore_best_weights": True}, r'Write restore="weights", or .*restore_best_weights'),
            ({"start_from_epoch": 3}, r"no argument `start_from_epoch`\. Write start_from\."),
            ({"patient": 3}, r"EarlyStopping has no argument `patient`\. Received"),
            ({"patience": 1.5}, r"`patience` must be an integer"),
            ({"patience": 0.0, "unit": "second"}, r"`patience` must be greater than 0"),
            ({"unit": "batch"}, r"`unit` must be one of 'epoch', 'step', 'second'"),
            ({"smoothing": 1.0}, r"`smoothing` must be in \[0, 1\)\. .*smoothing=1\.0"),
            ({"min_delta": -1.0}, r"`min_delta` must be at least 0"),
            ({"max_gap": 0}, r"`max_gap` must be greater than 0"),
            ({"max_seconds": -1}, r"`max_seconds` must be greater than 0"),
            ({"target": math.nan}, r"`target` must be a finite number"),
            ({"restore": True}, r"`restore` must be one of None, 'weights', 'all'"),
            ({"criterion": "gl"}, r"`criterion` must be one of"),
            ({"criterion": "GL", "unit": "step"}, r'`unit` must be "epoch" for Prechelt'),
            ({"criterion": "GL", "mode": "max"}, r'criterion="GL" needs an error'),
            ({"criterion": "PQ", "monitor": "loss"}, r'`monitor` must begin with "val_"'),
            ({"max_gap": 1.0, "monitor": "loss"}, r'`monitor` must begin with "val_"'),
            ({"monitor": "val_thing"}, r'`mode` must be "min" or "max"'),
            ({"every": 0}, r"`every` must be an integer of at least 1"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises((ValueError, TypeError), match=message):
            EarlyStopping(**arguments)


def test_lines_of_their_own(capsys):
    """A progress bar is drawn again and again; each of our lines is there once, and whole."""
    model = compiled()
    stop = EarlyStopping(patience=2, restore="weights", verbose=1)
    plateau = ko.callbacks.Plateau(patience=1, verbose=1)
    losses = [3.0, 1.0, 2.0, 2.0]
    fit(model, Told(val_loss=losses), stop, plateau, epochs=4, verbose=1)
    lines = [line.split("\r")[-1].strip("\b") for line in capsys.readouterr().out.split("\n")]
    ours = [line for line in lines if "lowered" in line or "stopped" in line or "restored" in line]
    assert ours == [
        "Epoch 3: learning rate lowered from 0.01 to 0.005",
        "Epoch 4: stopped, no improvement of val_loss for 2 epochs",
        "Weights of epoch 2 restored: val_loss was 1",
        "Epoch 4: learning rate lowered from 0.005 to 0.0025",
    ]
    assert sum("━" in line for line in lines) == 4, "one bar for each epoch"


def test_the_alias_of_plateau():
    assert ko.callbacks.ReduceLROnPlateau is ko.callbacks.Plateau
    saved = keras.saving.serialize_keras_object(ko.callbacks.ReduceLROnPlateau())
    assert saved["registered_name"] == "keras_optkit>Plateau"
