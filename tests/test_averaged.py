"""Averages of weights, and when a model holds them."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_optkit.callbacks import SwapAveragedWeights
from keras_optkit.optimizers import (
    Averaged,
    Lookahead,
    ScheduleFreeSGD,
    Transformed,
    recalibrate_batchnorm,
)
from keras_optkit.testing._models import assert_same, data, fit, network, state
from keras_optkit.transforms import GlobalNormClip
from tests import oracles
from tests.oracles import assert_steps, make_weights, run

SHAPES = {"dense/kernel": (3, 2), "dense/bias": (2,)}
SGD = keras.optimizers.SGD


def averages(iterates, kind, decay, start, every, debias):
    """Yields the average after each update, from its definition."""
    average, n = None, 0
    for t, weights in enumerate(iterates, 1):
        taken = t > start and (t - start) % every == 0
        if taken or n == 0:  # until the first turn the average is the weights
            n += taken
            keep = 0.0
            if n > 1:
                keep = (n - 1) / n
                if kind == "ema":
                    keep = min(decay, (1 + n) / (10 + n)) if debias else decay
            old = average if n > 1 else weights
            average = [keep * a + (1 - keep) * w for a, w in zip(old, weights, strict=True)]
        yield average if n else weights


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("kind", "start", "every", "debias"),
    [("ema", 0, 1, True), ("ema", 3, 2, False), ("swa", 4, 3, True), ("polyak", 0, 1, True)],
)
def test_average(kind, start, every, debias, jit):
    begin, gradients = oracles.problem(SHAPES, 16)
    plain = list(run(SGD(0.1, momentum=0.9), make_weights(begin), gradients))
    expected = list(averages(plain, kind, 0.7, start, every, debias))
    optimizer = Averaged(SGD(0.1, momentum=0.9), kind, 0.7, start, every, debias)
    weights = make_weights(begin)
    for t, training in enumerate(run(optimizer, weights, gradients, jit)):
        if t in (2, 5, 9, 15):  # looking changes nothing
            moved = optimizer.use_evaluation_weights()
            assert moved == (t + 1 >= start + every)
            held = oracles.read(weights)
            optimizer.use_training_weights()
            assert_steps([held], [expected[t]])
        assert_steps([oracles.read(weights)], [plain[t]])
        del training


def test_fit_ends_with_the_average_and_goes_on_from_the_training_weights():
    plain = fit(network(), SGD(0.1), epochs=1)
    after_one = plain.get_weights()
    fit(plain, epochs=1)
    model = fit(network(), Averaged(SGD(0.1), "polyak"), callbacks=[SwapAveragedWeights()])
    assert not np.allclose(model.get_weights()[0], after_one[0], atol=1e-4)
    model.optimizer.use_training_weights()
    assert_same(model.get_weights(), after_one, "training weights", atol=1e-6)
    model.optimizer.use_evaluation_weights()
    fit(model, callbacks=[SwapAveragedWeights()])
    model.optimizer.use_training_weights()
    assert_same(model.get_weights(), plain.get_weights(), "second fit", atol=1e-6)


def test_a_second_fit_without_the_callback_takes_one_gradient_elsewhere():
    model = fit(network(), Averaged(SGD(0.1), "polyak"))
    x, y = data(8)
    held = network()
    held.set_weights(model.get_weights())
    fit(held, SGD(1.0), data=(x, y))  # shows the gradient there
    at_average = [a - b for a, b in zip(model.get_weights(), held.get_weights(), strict=True)]
    model.optimizer.use_training_weights()
    before = model.get_weights()
    model.optimizer.use_evaluation_weights()
    fit(model, data=(x, y))
    model.optimizer.use_training_weights()
    expected = [w - 0.1 * g for w, g in zip(before, at_average, strict=True)]
    assert_same(model.get_weights(), expected, "second fit", atol=1e-6)


def test_accumulation_averages_updates():
    x, y = data()
    whole = fit(network(), Averaged(SGD(0.1), "polyak"), data=(x, y), batch_size=8)
    inner = SGD(0.1, gradient_accumulation_steps=2)
    halves = fit(network(), Averaged(inner, "polyak"), data=(x, y), batch_size=4)
    assert_same(halves.get_weights(), whole.get_weights(), "averages", atol=1e-6)


def make(kind):
    if kind == "schedule-free":
        return ScheduleFreeSGD(0.1)
    averaged = Averaged(SGD(0.1, momentum=0.9), "polyak")
    return averaged if kind == "averaged" else Transformed(averaged, [GlobalNormClip(1.0)])


class Looks(keras.callbacks.Callback):
    """Notes the first weight whenever something looks at it."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def note(self, when):
        kernel = ops.convert_to_numpy(self.model.layers[0].kernel)
        self.seen.setdefault(when, []).append(np.array(kernel))

    def on_test_begin(self, logs=None):
        self.note("validation")

    def on_epoch_end(self, epoch, logs=None):
        self.note("epoch end")

    def on_epoch_begin(self, epoch, logs=None):
        self.note("epoch begin")


@pytest.mark.parametrize("kind", ["averaged", "schedule-free", "wrapped"])
def test_validation_and_checkpoints_see_the_average(kind):
    looks, swap = Looks(), SwapAveragedWeights()
    model = fit(
        network(), make(kind), 3, callbacks=[swap, looks], validation_data=data(), jit_compile=False
    )
    plain = fit(network(), make(kind), 3, jit_compile=False)
    assert_same(state(model), state(plain), "looking changes nothing", atol=1e-6)
    for epoch in range(3):
        average = looks.seen["epoch end"][epoch]
        np.testing.assert_array_equal(looks.seen["validation"][epoch], average)
        if epoch:
            before = looks.seen["epoch end"][epoch - 1]
            assert np.abs(looks.seen["epoch begin"][epoch] - before).max() > 1e-3
    np.testing.assert_array_equal(model.layers[0].kernel.numpy(), looks.seen["epoch end"][-1])


def test_predict_and_evaluate_put_the_training_weights_back():
    model = fit(network(), Averaged(SGD(0.1), "polyak"))
    model.optimizer.use_training_weights()
    before = model.get_weights()
    x, y = data()
    swap = SwapAveragedWeights()
    averaged = model.predict(x, verbose=0, callbacks=[swap])
    assert_same(model.get_weights(), before, "after predict")
    loss = model.evaluate(x, y, verbose=0, callbacks=[swap])
    assert_same(model.get_weights(), before, "after evaluate")
    model.optimizer.use_evaluation_weights()
    assert_same([model.predict(x, verbose=0)], [averaged], "predicted by the average")
    np.testing.assert_allclose(loss, np.mean((averaged - y) ** 2), rtol=1e-5)


@pytest.mark.parametrize("kind", ["averaged", "schedule-free"])
def test_an_exception_in_validation_loses_nothing(kind):
    class Fails(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    swap = SwapAveragedWeights()
    model = network()
    with pytest.raises(KeyboardInterrupt):
        fit(model, make(kind), callbacks=[swap, Fails()], validation_data=data())
    evaluated = model.get_weights()
    model.optimizer.use_training_weights()
    assert np.abs(model.get_weights()[0] - evaluated[0]).max() > 1e-3
    model.optimizer.use_evaluation_weights()
    fit(model, callbacks=[SwapAveragedWeights()])
    straight = fit(network(), make(kind), callbacks=[swap])
    fit(straight, callbacks=[swap])
    assert_same(model.get_weights(), straight.get_weights(), "after an exception", atol=1e-6)
    model.optimizer.use_training_weights()
    straight.optimizer.use_training_weights()
    assert_same(model.get_weights(), straight.get_weights(), "training weights", atol=1e-6)


def test_early_stopping_restores_the_average(tmp_path):
    swap, looks = SwapAveragedWeights(), Looks()
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    stop.on_epoch_end = lambda epoch, logs=None, act=stop.on_epoch_end: act(
        epoch, {"val_loss": [1.0, 2.0, 3.0][epoch]}
    )
    model = fit(network(), make("averaged"), 3, callbacks=[swap, looks, stop])
    assert len(looks.seen["epoch end"]) == 2
    assert np.abs(looks.seen["epoch begin"][1] - looks.seen["epoch end"][0]).max() > 1e-3
    np.testing.assert_array_equal(model.layers[0].kernel.numpy(), looks.seen["epoch end"][0])


def test_a_file_saved_with_the_average_goes_on(tmp_path):
    swap = SwapAveragedWeights()
    model = fit(network(), make("averaged"), callbacks=[swap])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(loaded.get_weights(), model.get_weights(), "loaded")
    fit(loaded, callbacks=[swap])
    fit(model, callbacks=[swap])
    assert_same(state(loaded), state(model), "went on")


def test_loss_scale():
    optimizer = keras.optimizers.LossScaleOptimizer(make("averaged"), initial_scale=8.0)
    swap, looks = SwapAveragedWeights(), Looks()
    model = fit(
        network(dtype="mixed_float16"),
        optimizer,
        2,
        callbacks=[swap, looks],
        validation_data=data(),
    )
    np.testing.assert_array_equal(looks.seen["validation"][1], looks.seen["epoch end"][1])
    assert np.abs(looks.seen["epoch begin"][1] - looks.seen["epoch end"][0]).max() > 1e-3
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_bad_input():
    with pytest.raises(ValueError, match="`use_ema` must be False for the optimizer inside Ave"):
        Averaged(SGD(0.1, use_ema=True))
    with pytest.raises(ValueError, match="`use_ema` must be False for the optimizer inside Ave"):
        Averaged(Lookahead(SGD(0.1, use_ema=True)))
    for inner in (ScheduleFreeSGD(0.1), Averaged("sgd"), Lookahead(Averaged("sgd"))):
        with pytest.raises(ValueError, match="must not average weights itself"):
            Averaged(inner)
    with pytest.raises(ValueError, match="`kind` must be one of 'ema', 'swa', 'polyak'"):
        Averaged(SGD(0.1), "mean")
    with pytest.raises(ValueError, match="needs an optimizer that keeps weights to evaluate"):
        fit(network(), SGD(0.1), callbacks=[SwapAveragedWeights()])


def normalized():
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Dense(3),
        keras.layers.BatchNormalization(momentum=0.9, name="norm"),
        keras.layers.Dropout(0.5, seed=3),
        keras.layers.Dense(1),
    ]
    return keras.Sequential([keras.layers.Input((4,)), *layers])


def test_recalibrates_batchnorm():
    model = normalized()
    x, _ = data()
    norm = model.get_layer("norm")
    norm.moving_mean.assign(np.full(3, np.nan))
    before = [(v, v.numpy().copy()) for v in model.variables]
    recalibrate_batchnorm(model, x, batch_size=8)
    seen = x.astype("float64") @ model.layers[0].kernel.numpy() + model.layers[0].bias.numpy()
    batches = seen.reshape(4, 8, 3)
    np.testing.assert_allclose(norm.moving_mean.numpy(), batches.mean(axis=(0, 1)), atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance.numpy(), batches.var(1).mean(0), rtol=1e-5)
    for variable, value in before:
        if "moving" not in variable.path:
            np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)
    assert norm.momentum == 0.9

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return x[8 * index : 8 * index + 8], None

    first = norm.moving_mean.numpy().copy()
    recalibrate_batchnorm(model, Batches())
    np.testing.assert_allclose(norm.moving_mean.numpy(), first, atol=1e-6)


def test_recalibration_of_nothing():
    with pytest.raises(ValueError, match="`model` must be built and have BatchNormalization"):
        recalibrate_batchnorm(network(), data()[0])
    model = normalized()
    norm = model.get_layer("norm")
    with pytest.raises(ValueError, match="`data` must hold at least one batch"):
        recalibrate_batchnorm(model, np.zeros((0, 4), "float32"))
    assert norm.momentum == 0.9 and (norm.moving_mean.numpy() == 0).all()


def test_weights_put_in_by_hand_are_kept():
    model = fit(network(), Averaged(SGD(1e-9), "polyak"))
    new = [w + 5 for w in model.get_weights()]
    model.set_weights(new)
    fit(model, callbacks=[SwapAveragedWeights()])
    model.optimizer.use_training_weights()
    assert_same(model.get_weights(), new, "after the next fit", atol=1e-5)


def test_another_model_leaves_the_first_alone():
    optimizer = Averaged(SGD(0.1), "polyak")
    model = fit(network(), optimizer)
    before = model.get_weights()
    optimizer.finalize_variable_values(network().trainable_variables)
    assert_same(model.get_weights(), before, "the first model")


def test_weights_frozen_later_are_still_averages_after_fit():
    weights, optimizer = make_weights({"a": 0.0, "b": 0.0}), Averaged(SGD(1.0), "polyak")
    list(run(optimizer, weights, [[np.float32(-1.0)] * 2] * 3))
    optimizer.finalize_variable_values(weights[1:])
    assert [float(w.numpy()) for w in weights] == [2.0, 2.0]


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("make", [lambda: Averaged(SGD(1.0)), lambda: ScheduleFreeSGD(1.0)])
def test_lookahead_starts_from_the_training_weights(make, jit):
    def train(evaluates):
        weights, optimizer = make_weights({"w": 0.0}), Lookahead(make(), sync_period=1)
        list(run(optimizer, weights, [[np.float32(-1.0)]] * 3))
        if evaluates:
            optimizer.finalize_variable_values(weights)
        return list(run(optimizer, weights, [[np.float32(0.0)]], jit))

    assert_steps(train(True), train(False))


def test_names_of_our_own_optimizers():
    assert type(Lookahead("schedulefreesgd").inner_optimizer) is ScheduleFreeSGD
    assert isinstance(Lookahead("adam").inner_optimizer, keras.optimizers.Adam)
    with pytest.raises(ValueError, match="adamm"):
        Lookahead("adamm")
