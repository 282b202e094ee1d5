"""ActivationMonitor: its shares against NumPy, and that the model does not notice it."""

import csv
import json
import warnings

import keras
import numpy as np
import pytest

import keras_optkit as ko
from keras_optkit.callbacks import ActivationMonitor
from tests.conftest import two_replicas

BACKEND = keras.backend.backend()
K, L = keras.optimizers, keras.layers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype("float32")
Y = RNG.normal(size=(40, 2)).astype("float32")
PROBE = X[:16]


def classifier(optimizer=None, **compile_kwargs):
    """A model in which one of six ReLU units is dead, and two of five tanh units saturate."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), L.Dense(6, "relu", name="relu"), L.Dense(5, "tanh", name="tanh")]
    model = keras.Sequential([*layers, L.Dense(2, name="head")], name="m")
    kernel, bias, inner, rest, *head = model.get_weights()
    bias[2], rest[:2] = -100, [50, -50]
    model.set_weights([kernel, bias, inner, rest, *head])
    model.compile(optimizer or K.SGD(0.01), "mse", **compile_kwargs)
    return model


def fit(model, *callbacks, epochs=2, **kwargs):
    kwargs = {"batch_size": 8, "shuffle": False, "verbose": 0} | kwargs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="ActivationMonitor: layer")
        return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **kwargs)


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(v), "float64") for v in variables]


def assert_same(model, other):
    pairs = [*zip(model.variables, other.variables, strict=True)]
    pairs += zip(model.optimizer.variables, other.optimizer.variables, strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(*values([a, b]), err_msg=a.path)


def expected(weights, probe=PROBE, margin=0.01):
    """Returns silent units and the share of saturated outputs, in float64."""
    kernel, bias, inner, rest = (np.array(w, "float64") for w in weights[:4])
    hidden = np.maximum(probe @ kernel + bias, 0)
    out = np.tanh(hidden @ inner + rest)
    return (hidden == 0).all(0), np.mean(np.abs(out) > 1 - 2 * margin)


@pytest.mark.parametrize("case", ["epoch", "batch", "executions", "eager", "jit"])
def test_shares(case):
    settings = {
        "executions": {"steps_per_execution": 2},
        "eager": {"run_eagerly": True},
        "jit": {"jit_compile": True},
    }
    if BACKEND == "torch" and case in ("executions", "jit"):
        pytest.skip("one step at a time, and no C++ compiler for torch.compile")
    model, judged = classifier(**settings.get(case, {})), []
    unit = "batch" if case in ("batch", "executions") else "epoch"
    every = 2 if unit == "batch" else 1
    monitor = ActivationMonitor(PROBE, every=every, unit=unit, patience=2)

    class Judge(keras.callbacks.Callback):
        def look(self):
            judged.append(expected(self.model.get_weights()))

        def on_train_batch_begin(self, batch, logs=None):
            if unit == "batch" and batch % 2 == 0:
                self.look()

        def on_epoch_end(self, epoch, logs=None):
            if unit == "epoch":
                self.look()

    fit(model, monitor, Judge(), epochs=3)
    assert monitor.layers == ["relu", "tanh"]
    steps = [5, 10, 15] if unit == "epoch" else [0, 2, 4, 5, 7, 9, 10, 12, 14]
    assert monitor.steps == steps
    silent = np.array([s for s, _ in judged])
    np.testing.assert_allclose(monitor.column("silent")[:, 0], silent.mean(1), atol=1e-12)
    assert silent[:, 2].all() and silent.mean() < 0.5
    dead = (silent & np.concatenate([np.zeros_like(silent[:1]), silent[:-1]])).mean(1)
    np.testing.assert_allclose(monitor.column("dead")[:, 0], dead, atol=1e-12)
    found = monitor.column("saturated")[:, 1]
    np.testing.assert_allclose(found, [s for _, s in judged], atol=1e-6)
    assert (found >= 0.4).all()
    assert np.isnan(monitor.column("saturated")[:, 0]).all()
    assert np.isnan(monitor.column("dead")[:, 1]).all()
    assert monitor.dead_units == {"relu": np.flatnonzero(silent[-2:].all(0)).tolist()}


def convolutional():
    """Statistics, seeds, activations as layers and functions, channels, nesting, sharing."""
    keras.utils.set_random_seed(2)
    image = keras.Input((4, 1), name="image")
    hidden = L.Reshape((2, 2, 1))(image)
    hidden = L.Conv2D(3, 1, name="conv")(hidden)
    hidden = L.ReLU(name="rectified")(L.BatchNormalization()(hidden))
    hidden = L.Dropout(0.5)(L.LeakyReLU(name="leaky")(hidden))
    hidden = L.ReLU(negative_slope=0.1, name="slope")(hidden)
    inside = keras.Input((12,))
    block = keras.Model(inside, L.Dense(12, "sigmoid", name="squashed")(inside), name="block")
    hidden = block(block(L.Flatten()(hidden)))
    hidden = L.Activation("relu6", name="six")(hidden)
    hidden = L.Reshape((3, 4))(hidden)
    hidden = L.TimeDistributed(L.Dense(4, "relu", name="within"))(hidden)
    hidden = L.LSTM(3, name="lstm")(hidden)
    model = keras.Model(image, L.Dense(2, "softmax", name="head")(hidden))
    model.compile(K.Adam(0.01), "mse", metrics=["mae"])
    return model


class Custom(keras.Model):
    """Layers in lists, and a layer of layers."""

    class Block(L.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.inner = L.Dense(3, "relu", name="inner")

        def call(self, inputs):
            return self.inner(inputs)

    def __init__(self):
        super().__init__()
        self.blocks = [self.Block(), L.Dense(2, "tanh", name="tanh")]

    def call(self, inputs):  # takes no `training`
        for block in self.blocks:
            inputs = block(inputs)
        return inputs


def subclassed():
    keras.utils.set_random_seed(1)
    model = Custom()
    model.compile(K.SGD(0.01), "mse")
    return model


@pytest.mark.parametrize("make", [convolutional, subclassed, classifier])
@pytest.mark.parametrize("unit", ["epoch", "batch"])
def test_the_model_stays_as_it_is(make, unit):
    plain, model = make(), make()
    keras.utils.set_random_seed(3)  # which torch draws from, without a seed of a layer's own
    history = fit(plain).history
    keras.utils.set_random_seed(3)
    monitored = fit(model, ActivationMonitor(PROBE, unit=unit)).history
    for name in history:
        np.testing.assert_array_equal(history[name], monitored[name])
    assert_same(model, plain)
    for layer in model._flatten_layers():
        assert "call" not in vars(layer)
    assert vars(model).keys() == vars(plain).keys()


def test_layers_of_all_kinds():
    monitor, model = ActivationMonitor(PROBE, patience=1), convolutional()
    fit(model, monitor, epochs=1)
    assert monitor.layers == ["rectified", "block/squashed", "six"]
    assert np.isfinite(monitor.column("silent")[0, [0, 2]]).all()
    conv = keras.Model(model.inputs, model.get_layer("rectified").output)
    output = values([conv(PROBE[..., None], training=False)])[0]
    silent = (output == 0).all((0, 1, 2))
    assert silent.shape == (3,) and monitor.column("silent")[0, 0] == silent.mean()
    monitor, model = ActivationMonitor(PROBE, patience=1), subclassed()
    fit(model, monitor, epochs=1)
    assert monitor.layers == ["block/inner", "tanh"]
    kernel, bias = values(model.blocks[0].inner.variables)
    silent = (PROBE @ kernel + bias <= 0).all(0)
    assert monitor.column("silent")[0, 0] == silent.mean()


def test_a_layer_that_is_used_twice_is_silent_only_if_it_is_each_time():
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    shared = L.Dense(2, "relu", use_bias=False, name="shared")
    model = keras.Model([a, b], L.Add()([shared(a), shared(b)]))
    shared.set_weights([np.array([[1.0, -1.0]])])
    model.compile(K.SGD(0.0), "mse")
    ones = np.ones((8, 1), "float32")
    found = []
    for sign in (1, -1):
        monitor = ActivationMonitor([ones, sign * ones])
        model.fit([ones, ones], np.zeros((8, 2)), verbose=0, callbacks=[monitor])
        found.append(monitor.column("silent")[0, 0])
    assert found == [0.5, 0.0]


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        plain, model = classifier(), classifier()
    finally:
        keras.config.set_dtype_policy("float32")
    monitor = ActivationMonitor(PROBE, patience=1)
    fit(plain)
    fit(model, monitor)
    assert_same(model, plain)
    assert monitor.column("dead")[-1, 0] >= 1 / 6 and monitor.column("saturated")[-1, 1] >= 0.4


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: ko.optimizers.Lookahead(ko.optimizers.RAdam(0.01)),
        lambda: K.LossScaleOptimizer(K.Adam(0.01)),
        pytest.param(
            lambda: K.MultiOptimizer(K.OptimizerMap(K.SGD(0.05), {".*relu/.*": K.Adam(0.01)})),
            marks=pytest.mark.skipif(not hasattr(K, "MultiOptimizer"), reason="new in Keras 3.15"),
        ),
    ],
)
def test_wrappers_count_updates(optimizer):
    monitor = ActivationMonitor(PROBE, every=5, unit="batch")
    fit(classifier(optimizer()), monitor)
    assert monitor.steps == [0, 5]


def test_flags_warnings_and_history(tmp_path):
    model = classifier()
    kernel, bias, *rest = model.get_weights()
    bias[:4] = -100
    model.set_weights([kernel, bias, *rest])
    seen, path = [], tmp_path / "new" / "a.csv"
    monitor = ActivationMonitor(
        PROBE, saturated=0.3, csv=path, sink=lambda *measurement: seen.append(measurement)
    )
    with pytest.warns(UserWarning) as caught:
        history = model.fit(X, Y, epochs=3, verbose=0, callbacks=[monitor]).history
    told = [str(w.message) for w in caught if "ActivationMonitor" in str(w.message)]
    assert len(told) == 2, "once per kind"
    assert (
        "layer 'relu', step 4: 67% of the units are 0 on all of the probe: dead; try a" in told[0]
    )
    assert "layer 'tanh', step 4: 40% of the outputs are near their limits: saturated" in told[1]
    assert [(f.kind, f.layer, f.step) for f in monitor.flags] == [
        ("dead", "relu", 4),
        ("saturated", "tanh", 4),
    ]
    assert monitor.flags[0].share == 4 / 6 and monitor.dead_units == {"relu": [0, 1, 2, 3]}
    assert history["dead"] == [0, 4 / 6, 4 / 6] and history["silent/relu"] == [4 / 6] * 3
    np.testing.assert_allclose(history["saturated"], history["saturated/tanh"])
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["step", "layer", "silent", "dead", "saturated"]
    assert [float(x["silent"]) for x in lines] == pytest.approx([4 / 6, np.nan] * 3, nan_ok=True)
    assert [step for step, _ in seen] == monitor.steps == [2, 4, 6]
    assert seen[1][1]["relu"]["dead"] == 4 / 6
    import matplotlib.pyplot as plt

    shown = monitor.plot("dead", plt.figure().gca()).images[0].get_array()
    np.testing.assert_array_equal(shown[0], [0, 4 / 6, 4 / 6])
    plt.close()


def test_it_goes_on_after_a_restart():
    whole, first, second = (ActivationMonitor(PROBE, patience=3) for _ in range(3))
    model, other = classifier(), classifier()
    fit(model, whole, epochs=4)
    fit(other, first, epochs=2)
    second.load_state(json.loads(json.dumps(first.state())))
    fit(other, second, epochs=2)
    assert second.steps == whole.steps and second.dead_units == whole.dead_units
    for name in whole.columns:
        np.testing.assert_array_equal(second.column(name), whole.column(name))
    fit(classifier(), second, epochs=1)
    assert second.steps == [5] and second.dead_units == {"relu": []}


def test_an_exception_in_the_pass_leaves_the_layers_alone():
    model = classifier()
    with pytest.raises(Exception, match=r"."):
        fit(model, ActivationMonitor(np.zeros((3, 7), "float32")))
    assert all("call" not in vars(layer) for layer in model.layers)
    fit(model, ActivationMonitor(PROBE))


def test_no_layers_with_limits():
    model = keras.Sequential([keras.Input((4,)), L.Dense(2, "gelu")])
    model.compile("sgd", "mse")
    monitor = ActivationMonitor(PROBE)
    with pytest.warns(UserWarning, match="found no layer to look at: none has the activation relu"):
        history = model.fit(X, Y, verbose=0, callbacks=[monitor]).history
    assert monitor.steps == [] and np.isnan(history["dead"]).all()


@pytest.mark.skipif(BACKEND == "torch", reason="one device")
def test_two_devices():
    def train(scope, *monitor):
        with scope:
            model = classifier(jit_compile=BACKEND == "jax")
            fit(model, *monitor)

    monitor = ActivationMonitor(PROBE, patience=1)
    if BACKEND == "jax":
        scope = keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]).scope()
    else:
        scope = two_replicas().scope()
    one = ActivationMonitor(PROBE, patience=1)
    fit(classifier(), one)
    train(scope, monitor)
    assert monitor.steps == one.steps
    for name in one.columns:
        np.testing.assert_allclose(monitor.column(name), one.column(name), atol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"every": 0}, ValueError, "`every` must be an integer of at least 1"),
        ({"unit": "step"}, ValueError, "`unit` must be one of 'epoch', 'batch'"),
        ({"dead": 0}, ValueError, r"`dead` must be in \(0, 1\]"),
        ({"saturated": 1.5}, ValueError, r"`saturated` must be in \(0, 1\]"),
        ({"patience": 0}, ValueError, "`patience` must be an integer of at least 1"),
        ({"margin": 0.5}, ValueError, r"`margin` must be in \(0, 0.5\)"),
        ({"csv": 3}, TypeError, "`csv` must be a path"),
        ({"sink": 3}, TypeError, "`sink` must be None or a function"),
    ],
)
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        ActivationMonitor(PROBE, **kwargs)


def test_config():
    monitor = ActivationMonitor(PROBE, 3, "batch", 0.7, 0.8, 5, 0.02)
    config = json.loads(json.dumps(monitor.get_config()))
    again = ActivationMonitor.from_config(config)
    np.testing.assert_array_equal(again.probe, PROBE)
    assert (again.every, again.unit, again.dead, again.saturated) == (3, "batch", 0.7, 0.8)
    assert (again.patience, again.margin) == (5, 0.02)
