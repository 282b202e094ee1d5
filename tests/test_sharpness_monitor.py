"""Sharpness against closed forms, and limits against the iterations they are limits of."""

import json
import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_optkit as ko
from keras_optkit.callbacks._sharpness import Sharpness
from keras_optkit.callbacks._stability import stability_limit
from keras_optkit.callbacks.sharpness_monitor import SharpnessMonitor

BACKEND = keras.backend.backend()
K = keras.optimizers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype("float32")
Y = RNG.integers(0, 2, (32, 1)).astype("float32")


def linear(optimizer, dtype=None):
    """Least squares, whose Hessian is `HESSIAN` wherever the weights are."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, use_bias=False, dtype=dtype)])
    model.compile(optimizer, "mse")
    return model


HESSIAN = 2 * X.astype("float64").T @ X.astype("float64") / len(X)
SHARPNESS = np.linalg.eigvalsh(HESSIAN)[-1]


def logistic(optimizer=None, **kwargs):
    keras.utils.set_random_seed(1)
    layer = layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.05))
    model = keras.Sequential([keras.Input((4,)), layer])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer or K.SGD(0.5), loss, **kwargs)
    return model


def logistic_sharpness(model):
    kernel, bias = (np.asarray(w, "float64") for w in model.get_weights())
    x = np.c_[X, np.ones(len(X))].astype("float64")
    p = 1 / (1 + np.exp(-(x[:, :-1] @ kernel + bias)))
    penalty = np.diag([0.1] * 4 + [0.0])
    return np.linalg.eigvalsh(x.T @ (p * (1 - p) * x) / len(x) + penalty)[-1]


def network(optimizer="sgd", **kwargs):
    keras.utils.set_random_seed(2)
    first = layers.Dense(6, "tanh")
    drop = layers.Dropout(0.3, name="drop")
    inner = (first, layers.BatchNormalization(), drop)
    model = keras.Sequential([keras.Input((4,)), *inner, layers.Dense(1)])
    model.compile(optimizer, "mse", **kwargs)
    return model


def fit(model, monitor, epochs=2, batch_size=8, **kwargs):
    callbacks = monitor if isinstance(monitor, list) else [monitor]
    arguments = {"epochs": epochs, "batch_size": batch_size, "shuffle": False} | kwargs
    return model.fit(X, Y, verbose=0, callbacks=callbacks, **arguments).history


class Judge(keras.callbacks.Callback):
    """Keeps what the sharpness is at the ends of epochs."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_epoch_end(self, epoch, logs=None):
        self.found.append(logistic_sharpness(self.model))


def test_follows_the_closed_form():
    monitor, judge = SharpnessMonitor((X, Y), tolerance=1e-3), Judge()
    history = fit(logistic(), [monitor, judge], epochs=6, batch_size=32)
    np.testing.assert_allclose(monitor.sharpness, judge.found, rtol=1e-3)
    assert np.ptp(judge.found) > 0.01
    assert history["sharpness"] == monitor.sharpness
    assert history["sharpness_limit"] == monitor.limits == [4.0] * 6
    assert monitor.steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_limit_is_where_the_iteration_begins_to_grow(beta, nesterov):
    rate = 0.1
    limit = stability_limit(linear(K.SGD(rate, momentum=beta, nesterov=nesterov)))

    def radius(curvature):
        def step(weight, velocity):  # `keras.optimizers.SGD`, line by line
            gradient = curvature * weight
            velocity = beta * velocity - rate * gradient
            return weight + (beta * velocity - rate * gradient if nesterov else velocity), velocity

        return max(abs(np.linalg.eigvals(np.array([step(1, 0), step(0, 1)]).T)))

    assert radius(0.999 * limit) <= 1 < radius(1.001 * limit)


@pytest.mark.parametrize("share", [0.95, 1.05])
def test_gradient_descent_diverges_beyond_the_limit(share):
    model = linear(K.SGD(share * 2 / SHARPNESS))
    monitor = SharpnessMonitor((X, np.zeros_like(Y)), tolerance=1e-4)
    optimum = np.linalg.lstsq(X, Y, rcond=None)[0]
    model.set_weights([optimum + 1])
    losses = fit(model, monitor, epochs=60, batch_size=32)["loss"]
    np.testing.assert_allclose(monitor.sharpness, SHARPNESS, rtol=1e-4)
    np.testing.assert_allclose(monitor.sharpness[0] / monitor.limits[0], share, rtol=1e-4)
    assert (losses[-1] > losses[30]) == (share > 1)
    assert monitor.verdict.startswith("at the edge of stability: sharpness ")


def sgd(**kwargs):
    return K.SGD(0.1, momentum=0.5, **kwargs)


def wrapped():
    found = {
        "plain": (sgd(), 30.0),
        "averaged": (ko.optimizers.Averaged(sgd()), 30.0),
        "guarded": (ko.optimizers.SkipNonFinite(sgd()), 30.0),
        "scaled": (K.LossScaleOptimizer(ko.optimizers.Averaged(sgd())), 30.0),
        "accumulated": (sgd(gradient_accumulation_steps=2), 30.0),
        "lookahead": (ko.optimizers.Lookahead(sgd()), None),
        "adam": (K.Adam(0.01), None),
        "ours": (ko.optimizers.RAdam(0.01), None),
    }
    if hasattr(K, "MultiOptimizer"):  # new in Keras 3.15
        found["several"] = K.MultiOptimizer(K.OptimizerMap(sgd())), None
    return found


@pytest.mark.parametrize("name", wrapped())
def test_around_every_kind_of_optimizer(name):
    optimizer, limit = wrapped()[name]
    model = linear(optimizer)
    monitor = SharpnessMonitor((X, Y), tolerance=1e-4)
    history = fit(model, monitor)
    np.testing.assert_allclose(monitor.sharpness, SHARPNESS, rtol=1e-4)
    assert ("sharpness_limit" in history) == (limit is not None)
    if limit is None:
        assert monitor.limits == [None, None]
        assert monitor.verdict.startswith("no limit known for this optimizer: sharpness ")
    else:
        np.testing.assert_allclose(monitor.limits, limit, rtol=1e-6)


def test_there_is_no_limit_for_what_changes_gradients():
    class Halved(K.SGD):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient / 2, variable, learning_rate)

    model = linear(Halved(0.1))
    monitor = SharpnessMonitor((X, Y))
    fit(model, monitor, epochs=1)
    assert monitor.limits == [None]
    sam = ko.optimizers.SAM(linear("sgd"), rho=0.1)
    sam.compile(K.SGD(0.1), "mse")
    fit(sam, monitor, epochs=1)
    np.testing.assert_allclose(monitor.sharpness, SHARPNESS, rtol=1e-2)
    assert monitor.limits == [None]


def test_limit_follows_a_schedule():
    schedule = K.schedules.PiecewiseConstantDecay([6], [0.1, 0.01])
    model = linear(K.SGD(schedule))
    monitor = SharpnessMonitor((X, Y))
    fit(model, monitor)
    np.testing.assert_allclose(monitor.limits, [20, 200], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2])
def test_before_every_few_batches(steps):
    if BACKEND == "torch" and steps > 1:
        pytest.skip("Keras runs one step at a time on torch")
    model = logistic(steps_per_execution=steps)
    expected = logistic_sharpness(model)
    monitor = SharpnessMonitor((X, Y), every=2, unit="batch", tolerance=1e-4)
    history = fit(model, monitor)  # 4 batches in each epoch
    assert monitor.steps == [0, 2, 4, 6]
    assert monitor.sharpness[0] == pytest.approx(expected, rel=1e-4)
    assert len(set(monitor.sharpness)) == 4
    assert history["sharpness"] == monitor.sharpness[1::2]


def test_every_few_epochs():
    monitor = SharpnessMonitor((X, Y), every=2)
    history = fit(logistic(), monitor, epochs=4)
    assert monitor.steps == [8, 16]
    assert [math.isnan(value) for value in history["sharpness"]] == [True, False] * 2
    assert history["sharpness_limit"] == [4.0] * 4


@pytest.mark.parametrize("unit", ["epoch", "batch"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_is_as_without(unit, jit_compile):
    if BACKEND == "torch" and jit_compile:
        pytest.skip("torch.compile needs a C++ compiler")

    def trained(callbacks):
        optimizer = ko.optimizers.Lookahead(K.Adam(0.01), sync_period=2)
        model = network(optimizer, jit_compile=jit_compile)
        fit(model, callbacks, shuffle=True)
        return [ops.convert_to_numpy(v) for v in (*model.variables, *optimizer.variables)]

    plain = trained([])
    watched = trained([SharpnessMonitor((X, Y), every=2 if unit == "batch" else 1, unit=unit)])
    for old, new in zip(plain, watched, strict=True):
        np.testing.assert_array_equal(old, new)


def test_traced_once_and_warm():
    traced, products = [], []

    def loss(y_true, y_pred):
        traced.append(1)
        return ops.mean(ops.square(y_true - y_pred), axis=-1)

    class Counter(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            products.append(monitor._meter.products)
            counts.append(len(traced))

    counts = []
    monitor = SharpnessMonitor((X, Y), loss=loss)
    fit(network(K.SGD(0.01)), [monitor, Counter()], epochs=4)
    if BACKEND != "torch":
        assert counts == counts[:1] * 4
    assert max(products[1:]) <= products[0]
    assert max(products[1:]) <= 8
    assert monitor._meter is None  # which holds the data


def test_a_direction_that_overtakes_is_seen():
    size = 100
    model = keras.Sequential([keras.Input((size,)), layers.Dense(1, use_bias=False)])

    def quartic(y_true, y_pred):  # whose Hessian is diagonal, with w^2
        return size * ops.power(y_pred[:, 0], 4) / 12

    monitor = SharpnessMonitor((np.eye(size, dtype="float32"), np.ones((size, 1))), loss=quartic)
    meter = Sharpness(monitor, model)
    weights = np.full((size, 1), 0.1, "float32")
    for step in range(8):
        weights[:2, 0] = 1, 0.9 + 0.03 * step
        model.set_weights([weights])
        found, expected = meter.measure(), float(np.max(weights**2))
        assert found == pytest.approx(expected, rel=1e-2), f"step {step}"
        assert step == 0 or meter.products <= 8


def test_mixed_precision_with_a_loss_scale():
    model = linear(K.LossScaleOptimizer(K.SGD(0.01)), dtype="mixed_float16")
    monitor = SharpnessMonitor((X, Y), tolerance=1e-4)
    fit(model, monitor, epochs=1)
    np.testing.assert_allclose(monitor.sharpness, SHARPNESS, rtol=1e-4)
    assert model.layers[0].compute_dtype == "float16"


def test_beside_a_gradient_monitor():
    monitor = SharpnessMonitor((X, Y), every=2, unit="batch")
    gradients = ko.callbacks.GradientMonitor(every=1)
    fit(linear(K.SGD(0.1)), [gradients, monitor])
    assert monitor.steps == [0, 2, 4, 6]
    np.testing.assert_allclose(monitor.limits, 20, rtol=1e-6)
    assert len(gradients.steps) == 8


def test_goes_on_after_a_restart():
    monitor = SharpnessMonitor((X, Y))
    model = logistic()
    fit(model, monitor)
    state = json.loads(json.dumps(monitor.state()))
    again = SharpnessMonitor((X, Y))
    again.load_state(state)
    assert json.dumps(again.state()) == json.dumps(monitor.state())  # with a NaN
    fit(model, again, epochs=4, initial_epoch=2)
    assert again.steps == [4, 8, 12, 16]
    assert monitor.steps == [4, 8]
    fit(logistic(), again, epochs=1)  # another model
    assert again.steps == [4]


def test_an_epoch_that_is_resumed_keeps_its_measurement():
    model, logs = logistic(), {}
    monitor, resumed = (SharpnessMonitor((X, Y), every=2, unit="batch") for _ in range(2))
    for one in (monitor, resumed):
        one.set_model(model)
    monitor.on_train_begin()
    monitor.on_train_batch_begin(0)
    resumed.load_state(monitor.state())
    resumed.on_train_begin()
    resumed.on_train_batch_begin(1)
    resumed.on_epoch_end(0, logs)
    assert logs["sharpness"] == monitor.sharpness[0]


def test_what_is_not_finite_is_nan():
    model = linear(K.SGD(0.1))
    model.set_weights([np.full((4, 1), np.nan)])
    monitor = SharpnessMonitor((X, np.array([[1e30]], "float32") * Y))
    fit(model, monitor, epochs=1)
    assert math.isnan(monitor.sharpness[0]) or monitor.sharpness[0] > 0

    def broken(y_true, y_pred):
        return ops.sqrt(ops.sum(ops.square(y_pred - ops.stop_gradient(y_pred)), axis=-1))

    monitor = SharpnessMonitor((X, Y), loss=broken)
    history = fit(logistic(), monitor, epochs=2)
    assert all(math.isnan(value) for value in [*monitor.sharpness, *history["sharpness"]])
    assert monitor.verdict.startswith("not finite: sharpness nan after 8 updates; lower the")


def test_verdicts(capsys):
    monitor = SharpnessMonitor((X, Y), verbose=1)
    assert monitor.verdict == "not measured yet"
    fit(linear(K.SGD(0.2 / SHARPNESS)), monitor, epochs=1)
    assert monitor.verdict.startswith("stable: sharpness ")
    assert f" is 0.1 of {10 * SHARPNESS:.3g}, the limit of this" in monitor.verdict
    assert monitor.verdict in capsys.readouterr().out
    fit(linear(K.SGD(3 / SHARPNESS)), monitor, epochs=1)
    assert monitor.verdict.startswith("unstable: sharpness ")


def test_plot():
    plt = pytest.importorskip("matplotlib.pyplot")
    monitor = SharpnessMonitor((X, Y))
    fit(linear(K.SGD(0.1)), monitor)
    axes = monitor.plot(plt.figure().gca())
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), monitor.sharpness)
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), monitor.limits)
    fit(linear("adam"), monitor)
    assert len(monitor.plot(plt.figure().gca()).lines) == 1
    plt.close("all")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "`every` must be an integer of at least 1"),
        ({"unit": "step"}, ValueError, "`unit` must be one of 'epoch', 'batch'"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1"),
        ({"training": 1}, TypeError, "`training` must be True or False"),
        ({"max_iterations": 0}, ValueError, "`max_iterations` must be an integer of at least"),
        ({"tolerance": 0}, ValueError, "`tolerance` must be greater than 0"),
        ({"seed": -1}, ValueError, "`seed` must be an integer of at least 0"),
        ({"verbose": 2}, ValueError, "`verbose` must be one of 0, 1"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        SharpnessMonitor((X, Y), **arguments)


def test_says_what_is_wrong_with_the_data():
    with pytest.raises(TypeError, match="`data` must be `"):
        fit(logistic(), SharpnessMonitor(X), epochs=1)
    with pytest.raises(ValueError, match="drop draws random numbers"):
        fit(network(), SharpnessMonitor((X, Y), training=True), epochs=1)
