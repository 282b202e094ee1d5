"""GradientMonitor: its numbers against float64 NumPy, and that training does not notice it."""

import contextlib
import csv
import itertools
import json
import sys
import warnings

import keras
import numpy as np
import pytest

import keras_optkit as ko
from keras_optkit.callbacks import GradientMonitor
from keras_optkit.callbacks._instrument import Instrument
from tests.conftest import two_replicas

BACKEND = keras.backend.backend()
K = keras.optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 4)).astype("float32")
Y = (X @ RNG.normal(size=(4, 2)) + 0.3).astype("float32")

OPTIMIZERS = {
    "momentum": lambda: K.SGD(0.05, momentum=0.9),
    "adam": lambda: K.Adam(0.01, clipnorm=1.0),
    "lookahead": lambda: ko.optimizers.Lookahead(ko.optimizers.RAdam(0.01)),
    "accumulating": lambda: K.Adam(0.01, gradient_accumulation_steps=4),
    "ours accumulating": lambda: ko.optimizers.RAdam(0.01, gradient_accumulation_steps=4),
    "wrapper accumulating": lambda: ko.optimizers.Lookahead(
        K.SGD(0.05), gradient_accumulation_steps=4
    ),
    "scaled": lambda: K.SGD(0.05, loss_scale_factor=8.0),
    "multi": lambda: K.MultiOptimizer(K.OptimizerMap(K.SGD(0.05), {".*first/.*": K.Adam(0.01)})),
}
if not hasattr(K, "MultiOptimizer"):  # new in Keras 3.15
    del OPTIMIZERS["multi"]


def linear(optimizer, **compile_kwargs):
    """A model whose gradients are known in closed form."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), keras.layers.Dense(3, name="first"), keras.layers.Dense(2)]
    layers[-1].name = "second"
    model = keras.Sequential(layers, name="m")
    model.compile(optimizer, "mse", **compile_kwargs)
    return model


def fit(model, *callbacks, epochs=2, x=X, y=Y, **kwargs):
    kwargs = {"batch_size": 4, "shuffle": False, "verbose": 0} | kwargs
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **kwargs)


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(v), "float64") for v in variables]


def assert_same(model, other, atol=0.0):
    pairs = zip(model.variables, other.variables, strict=True)
    pairs = [*pairs, *zip(model.optimizer.variables, other.optimizer.variables, strict=True)]
    for a, b in pairs:
        np.testing.assert_allclose(*values([a, b]), rtol=0, atol=atol, err_msg=a.path)


def assert_plain(model, optimizer):
    assert model.optimizer is optimizer
    assert not isinstance(model.train_function, Instrument)
    assert "train_step" not in vars(model)


class Oracle:
    """Two linear layers, mean squared error and momentum, in float64."""

    def __init__(self, weights, learning_rate, momentum=0.0):
        self.weights = [np.array(w, "float64") for w in weights]
        self.speed = [np.zeros_like(w) for w in self.weights]
        self.learning_rate, self.momentum = learning_rate, momentum

    def gradients(self, x, y):
        a, a0, b, b0 = self.weights
        hidden = x @ a + a0
        error = 2 / y.size * (hidden @ b + b0 - y)
        back = error @ b.T
        return [x.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]

    def update(self, gradients):
        """Moves the weights; returns gradient norm, weight norm and update ratio of each layer."""
        old = self.weights
        pairs = zip(self.speed, gradients, strict=True)
        self.speed = [self.momentum * v - self.learning_rate * g for v, g in pairs]
        self.weights = [w + v for w, v in zip(old, self.speed, strict=True)]
        norms = np.array([self.norms(t) for t in (gradients, old, self.speed)]).T
        norms[:, 2] /= norms[:, 1]
        return norms

    @staticmethod
    def norms(tensors):
        squares = [np.square(t).sum() for t in tensors]
        return [np.sqrt(squares[0] + squares[1]), np.sqrt(squares[2] + squares[3])]


def measured(monitor):
    return np.stack([monitor.gradient_norms, monitor.weight_norms, monitor.update_ratios], -1)


@pytest.mark.parametrize("case", ["graph", "jit", "eager", "scaled"])
def test_numbers(case):
    settings = {"graph": {"jit_compile": False}, "jit": {"jit_compile": True}}
    if case == "jit" and BACKEND == "torch":
        pytest.skip("torch.compile needs a C++ compiler")
    scale = 1024.0 if case == "scaled" else None
    optimizer = K.SGD(0.05, momentum=0.9, loss_scale_factor=scale)
    model = linear(optimizer, **settings.get(case, {"run_eagerly": case == "eager"}))
    oracle = Oracle(model.get_weights(), 0.05, 0.9)
    monitor = GradientMonitor(every=1)
    fit(model, monitor)
    assert monitor.layers == ["first", "second"]
    assert monitor.steps == list(range(24))
    for step, norms in enumerate(measured(monitor)):
        batch = slice(step % 12 * 4, step % 12 * 4 + 4)
        expected = oracle.update(oracle.gradients(X[batch], Y[batch]))
        np.testing.assert_allclose(norms, expected, rtol=2e-5, err_msg=f"step {step}")


@pytest.mark.parametrize(
    "make",
    [
        lambda: K.SGD(0.1, gradient_accumulation_steps=3),
        lambda: K.SGD(0.1, gradient_accumulation_steps=3, loss_scale_factor=4.0),
        lambda: ko.optimizers.Transformed(K.SGD(0.1), [], gradient_accumulation_steps=3),
        lambda: K.LossScaleOptimizer(K.SGD(0.1, gradient_accumulation_steps=3)),
        pytest.param(
            lambda: K.MultiOptimizer(
                K.OptimizerMap(K.SGD(0.1, gradient_accumulation_steps=3), {"never": K.SGD(0.1)})
            ),
            marks=pytest.mark.skipif(not hasattr(K, "MultiOptimizer"), reason="new in Keras 3.15"),
        ),
    ],
)
def test_mean_gradient_of_accumulation(make):
    every = 2
    model = linear(make())
    oracle = Oracle(model.get_weights(), 0.1)
    monitor = GradientMonitor(every=every)
    fit(model, monitor)
    expected = []
    for update in range(8):
        batches = [slice(i * 4, i * 4 + 4) for i in range(update % 4 * 3, update % 4 * 3 + 3)]
        each = [oracle.gradients(X[batch], Y[batch]) for batch in batches]
        expected.append(oracle.update([np.mean(g, axis=0) for g in zip(*each, strict=True)]))
    assert monitor.steps == list(range(0, 8, every))
    np.testing.assert_allclose(measured(monitor), expected[::every], rtol=2e-5)


RUNS = [(case, "default") for case in OPTIMIZERS]
if BACKEND == "tensorflow":
    RUNS += [(case, "jit") for case in ("momentum", "lookahead", "accumulating")]
if BACKEND != "torch":
    several = OPTIMIZERS.keys() & {"adam", "ours accumulating", "multi"}
    RUNS += [(case, "executions") for case in sorted(several)]


@pytest.mark.parametrize(("case", "settings"), RUNS)
def test_training_is_not_changed(case, settings):
    kwargs = {
        "default": {},
        "jit": {"jit_compile": True},
        "executions": {"steps_per_execution": 4},
    }[settings]
    plain, model = linear(OPTIMIZERS[case](), **kwargs), linear(OPTIMIZERS[case](), **kwargs)
    optimizer, inside = model.optimizer, getattr(model.optimizer, "inner_optimizer", None)
    monitor = GradientMonitor(every=3)
    fit(plain)
    fit(model, monitor)
    assert monitor.steps == list(range(0, 6 if "accumulating" in case else 24, 3))
    exact = BACKEND == "torch" or (BACKEND == "tensorflow" and settings != "jit")
    assert_same(model, plain, atol=0 if exact else 1e-6)
    assert_plain(model, optimizer)
    assert getattr(optimizer, "inner_optimizer", None) is inside


def test_mixed_precision():
    def make():
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(3, "tanh", name="first"), keras.layers.Dense(2, name="second")]
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = keras.Sequential(
                [keras.layers.Dense.from_config(x.get_config()) for x in layers]
            )
            for layer in model.layers:
                layer.dtype_policy = "mixed_float16"
        finally:
            keras.config.set_dtype_policy("float32")
        scaled = K.LossScaleOptimizer(K.Adam(0.01), initial_scale=2.0**20, dynamic_growth_steps=5)
        model.compile(scaled, "mse")
        return model

    plain, model, monitor = make(), make(), GradientMonitor(every=1)
    fit(plain)
    fit(model, monitor)
    done = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    assert 0 < done < 24, "some steps are skipped"
    assert monitor.steps == list(range(done))
    assert np.isfinite(monitor.gradient_norms).all() and monitor.gradient_norms.max() < 100
    assert_same(model, plain, atol=0 if BACKEND != "jax" else 1e-6)


def test_every_step_of_an_execution_is_kept():
    if BACKEND == "torch":
        pytest.skip("one step at a time")
    one, many = GradientMonitor(every=2), GradientMonitor(every=2)
    fit(linear(K.SGD(0.05)), one)
    fit(linear(K.SGD(0.05), steps_per_execution=5), many)  # 12 batches: 5, 5, 2
    assert one.steps == many.steps
    np.testing.assert_allclose(measured(one), measured(many), rtol=1e-5)


def test_embeddings_and_weights_without_gradient():
    def make():
        keras.utils.set_random_seed(2)
        tokens = keras.Input((3,), dtype="int32")
        hidden = keras.layers.Embedding(10, 4, name="embedding")(tokens)
        hidden = keras.layers.GlobalAveragePooling1D()(hidden)
        unused = keras.layers.Dense(2, name="unused")(hidden)
        output = keras.layers.Dense(2, name="output")(hidden)
        model = keras.Model(tokens, output + 0 * keras.ops.stop_gradient(unused))
        model.compile(K.Adam(0.01), "mse")
        return model

    tokens = np.tile(np.array([[1, 1, 2]], "int32"), (48, 1))  # repeated rows
    plain, model, monitor = make(), make(), GradientMonitor(every=1, patience=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(plain, x=tokens)
        fit(model, monitor, x=tokens)
    assert_same(model, plain, atol=0 if BACKEND != "jax" else 1e-6)
    assert (monitor.gradient_norms[:, monitor.layers.index("unused")] == 0).all()
    assert {(f.kind, f.layer) for f in monitor.flags} == {("vanishing", "unused")}

    expected = []  # of the embedding: each row's uses add up

    class Judge(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            table, kernel, bias = (
                values([v])[0] for v in self.model.trainable_variables[:1] + output
            )
            mean = (2 * table[1] + table[2]) / 3
            back = (mean @ kernel + bias - Y[batch * 4 : batch * 4 + 4]).sum(0) * 2 / 8 @ kernel.T
            expected.append(np.linalg.norm(back) * np.sqrt(4 / 9 + 1 / 9))

    watched = make()
    output = watched.get_layer("output").trainable_variables
    monitor = GradientMonitor(every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(watched, monitor, Judge(), x=tokens, epochs=1)
    found = monitor.gradient_norms[:, monitor.layers.index("embedding")]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_step_is_traced_once():
    if BACKEND == "torch":
        pytest.skip("nothing is traced")

    def count(*callbacks, **kwargs):
        calls = []

        class Counting(keras.layers.Dense):
            def call(self, inputs):
                calls.append(1)
                return super().call(inputs)

        model = keras.Sequential([keras.Input((4,)), Counting(2)])
        model.compile("adam", "mse", **kwargs)
        model.optimizer.build(model.trainable_variables)
        del calls[:]
        fit(model, *callbacks)
        return len(calls)

    for jit in (False, True) if BACKEND == "tensorflow" else (True,):
        once = count(jit_compile=jit)
        assert count(GradientMonitor(every=1), jit_compile=jit) == once
        plain = 1 if jit else 0  # XLA: the plain step when nothing is due
        assert count(GradientMonitor(every=5), jit_compile=jit) == once + plain


class Fails(keras.callbacks.Callback):
    def __init__(self, hook, error):
        super().__init__()
        self.hook, self.error = hook, error
        setattr(self, hook, self.fail)

    def fail(self, number, logs=None):
        if number == 5 or "epoch" in self.hook or "train_end" in self.hook:
            raise self.error("on purpose")


def failing_batches():
    for step in range(5):
        yield X[step * 4 : step * 4 + 4], Y[step * 4 : step * 4 + 4]
    raise ArithmeticError("on purpose")


@pytest.mark.parametrize(
    ("failure", "scaled"),
    [
        ("on_train_batch_begin", False),
        ("on_train_batch_end", True),
        ("on_epoch_begin", False),
        ("generator", False),
        ("generator", True),
        ("interrupt", False),
    ],
)
def test_exceptions_leave_nothing_behind(failure, scaled, tmp_path):
    def train(*callbacks):
        keras.utils.set_random_seed(1)
        model = linear(K.LossScaleOptimizer(K.Adam(0.01)) if scaled else K.Adam(0.01))
        inside = getattr(model.optimizer, "inner_optimizer", None)
        error = KeyboardInterrupt if failure == "interrupt" else ValueError
        hook = "on_train_batch_end" if failure == "interrupt" else failure
        try:
            if failure == "generator":
                model.fit(failing_batches(), verbose=0, callbacks=list(callbacks))
            else:
                fit(model, *callbacks, Fails(hook, error))
        except BaseException as caught:
            assert "on purpose" in str(caught)
        else:
            pytest.fail("nothing was raised")
        assert getattr(model.optimizer, "inner_optimizer", None) is inside
        return model

    monitor = GradientMonitor(every=2)
    plain, model = train(), train(monitor)
    optimizer = model.optimizer
    assert_same(model, plain, atol=1e-6)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    if model.optimizer.built:
        assert_same(loaded, model)
    fit(plain)
    fit(model)
    assert_plain(model, optimizer)
    assert all(step < 6 for step in monitor.steps)
    assert_same(model, plain, atol=1e-6)
    model.train_on_batch(X[:4], Y[:4])
    plain.train_on_batch(X[:4], Y[:4])
    fit(plain, epochs=1)
    fit(model, monitor, epochs=1)  # the same callback again
    assert len(monitor.steps) >= 6
    assert_same(model, plain, atol=1e-6)
    assert_plain(model, optimizer)


def test_train_on_batch_within_fit_is_unmonitored():
    class Extra(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.train_on_batch(X[:4], Y[:4])

    monitor, optimizer = GradientMonitor(every=1), K.Adam(0.01)
    plain, model = linear(K.Adam(0.01)), linear(optimizer)
    fit(plain, Extra())
    fit(model, Extra(), monitor)
    assert monitor.steps == [*range(12), *range(13, 25)]
    assert_same(model, plain, atol=1e-6)
    assert_plain(model, optimizer)


def test_two_monitors_and_a_single_callback():
    plain, model = linear(K.SGD(0.05)), linear(K.SGD(0.05))
    one, two = GradientMonitor(every=2), GradientMonitor(every=3)
    fit(plain)
    fit(model, one, two)
    assert (one.steps, two.steps) == (list(range(0, 24, 2)), list(range(0, 24, 3)))
    np.testing.assert_allclose(measured(one)[::3], measured(two)[::2], rtol=1e-6)
    assert_same(model, plain, atol=1e-6)
    alone = GradientMonitor(every=2)  # not in a list: Keras calls it from other threads
    model = linear(K.SGD(0.05))
    model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=alone)
    assert alone.steps == one.steps
    np.testing.assert_allclose(measured(one), measured(alone), rtol=1e-6)


def test_nothing_is_tracked(tmp_path):
    plain, model = linear(K.Adam(0.01)), linear(K.Adam(0.01))
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self._model.optimizer)

    optimizer = model.optimizer
    fit(plain)
    fit(model, GradientMonitor(every=1), Look())
    assert all(o is optimizer for o in seen)
    assert [v.path for v in model.variables] == [v.path for v in plain.variables]
    assert vars(model).keys() == vars(plain).keys()
    assert vars(model.optimizer).keys() == vars(plain.optimizer).keys()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        names = []
        for m in (model, plain):
            path = tf.train.Checkpoint(m).write(str(tmp_path / f"{len(names)}"))
            names.append([n.split("/.ATTR")[0] for n, _ in tf.train.list_variables(path)])
        assert names[0] == names[1]


def test_model_checkpoint_in_the_same_fit(tmp_path):
    model = linear(ko.optimizers.Lookahead(K.Adam(0.01)))
    path = tmp_path / "{batch}.keras"
    saving = keras.callbacks.ModelCheckpoint(path, save_freq=5)
    fit(model, GradientMonitor(every=2), saving, epochs=1)
    loaded, plain = (
        keras.saving.load_model(tmp_path / "10.keras"),
        linear(ko.optimizers.Lookahead(K.Adam(0.01))),
    )
    fit(plain, epochs=1, x=X[:40], y=Y[:40])
    assert type(loaded.optimizer) is ko.optimizers.Lookahead
    assert_same(loaded, plain, atol=1e-6)


def rescaled(factor, **kwargs):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), keras.layers.Dense(3, name="conv1")]
    layers += [keras.layers.Rescaling(factor), keras.layers.Dense(2, name="conv2")]
    model = keras.Sequential(layers)
    model.compile(K.SGD(1e-30), "mse", **kwargs)
    return model


def test_vanishing():
    monitor = GradientMonitor(every=2, patience=3)
    with pytest.warns(UserWarning, match=r"GradientMonitor: layer 'conv1', step 4: .*He init") as w:
        fit(rescaled(1e-9), monitor)
    assert len([x for x in w if "GradientMonitor" in str(x.message)]) == 1, "once per layer"
    (flag,) = monitor.flags
    assert (flag.kind, flag.layer, flag.step) == ("vanishing", "conv1", 4)
    assert "of that of 'conv2': vanishing; try" in flag.message
    assert flag.gradient_norm == monitor.gradient_norms[2, 0] > 0
    patient = GradientMonitor(every=2, patience=13)
    fit(rescaled(1e-9), patient)
    assert patient.flags == []


@pytest.mark.parametrize("size", [1e4, 1e25])  # the square of the second overflows
def test_exploding(size):
    monitor = GradientMonitor(every=4, exploding=100)
    with pytest.warns(UserWarning, match=r"above 100: exploding; try clipping.*Likewise: conv2"):
        fit(rescaled(1.0), monitor, y=Y * np.float32(size))
    flags = {(f.kind, f.layer, f.step) for f in monitor.flags}
    assert flags == {("exploding", "conv1", 0), ("exploding", "conv2", 0)}
    assert np.isfinite(monitor.gradient_norms).all()


def test_non_finite():
    bad = X.copy()
    bad[8 * 4] = np.nan
    monitor = GradientMonitor(every=4)
    with pytest.warns(UserWarning, match=r"layer 'conv1', step 8: non-finite gradient norm nan; "):
        fit(rescaled(1.0), monitor, x=bad)
    found = {(f.kind, f.layer, f.step) for f in monitor.flags}
    assert found == {("non-finite", "conv1", 8), ("non-finite", "conv2", 8)}
    assert np.isfinite(monitor.gradient_norms[:2]).all()


def test_weights_of_zero_are_fine():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="kernel")])
    model.add(keras.layers.Rescaling(0.0))
    model.add(keras.layers.BatchNormalization(gamma_initializer="zeros", name="zero"))
    model.compile(K.SGD(0.0), "mse")
    monitor = GradientMonitor(every=4)
    history = fit(model, monitor).history
    assert {f.kind for f in monitor.flags} <= {"vanishing"}
    assert np.isnan(monitor.update_ratios[:, 1]).all()
    assert (monitor.weight_norms[:, 1] == 0).all()
    assert np.isnan(history["update_ratio/zero"]).all()
    assert np.isfinite(history["update_ratio/kernel"]).all()


def test_history():
    model, monitor = linear(K.SGD(0.05)), GradientMonitor(every=5)  # steps 0 5 10 | 15 20
    validation = {"validation_data": (X[:8], Y[:8])}
    history = fit(model, monitor, epochs=2, **validation).history
    norms, ratios = monitor.gradient_norms, monitor.update_ratios
    together = np.sqrt(np.square(norms).sum(1))
    expected = [together[:3].mean(), together[3:].mean()]
    np.testing.assert_allclose(history["gradient_norm"], expected)
    for i, layer in enumerate(["first", "second"]):
        expected = [norms[:3, i].mean(), norms[3:, i].mean()]
        np.testing.assert_allclose(history[f"gradient_norm/{layer}"], expected)
        expected = [ratios[:3, i].mean(), ratios[3:, i].mean()]
        np.testing.assert_allclose(history[f"update_ratio/{layer}"], expected)
    assert len(history["weight_norm/first"]) == 2 and "val_loss" in history
    model, monitor = linear(K.SGD(0.05)), GradientMonitor(every=20)  # steps 0 | 20 | | 40
    history = fit(model, monitor, epochs=4).history
    missing = np.isnan([history["gradient_norm"], history["gradient_norm/first"]])
    assert missing.tolist() == [[False, False, True, False]] * 2


def test_a_second_fit_goes_on_or_begins_anew(tmp_path):
    path = tmp_path / "new" / "g.csv"
    monitor, model = GradientMonitor(every=2, csv=path), linear(K.SGD(0.05))
    fit(model, monitor, epochs=1)
    history = fit(model, monitor, epochs=1).history
    assert monitor.steps == list(range(0, 24, 2))
    mean = monitor.gradient_norms[6:, 0].mean()
    np.testing.assert_allclose(history["gradient_norm/first"], [mean])
    assert len(path.read_text().splitlines()) == 1 + 24
    state = json.loads(json.dumps(monitor.state()))
    resumed = GradientMonitor(every=2)
    resumed.load_state(state)
    np.testing.assert_array_equal(measured(resumed), measured(monitor))
    fit(model, resumed, epochs=1)
    assert resumed.steps == list(range(0, 36, 2))
    fit(linear(K.SGD(0.05)), monitor, epochs=1)
    assert monitor.steps == list(range(0, 12, 2))
    assert len(path.read_text().splitlines()) == 1 + 12


def test_csv(tmp_path):
    monitor = GradientMonitor(every=4, csv=tmp_path / "g.csv")
    fit(linear(K.SGD(0.05)), monitor)
    with open(tmp_path / "g.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    columns = ["step", "layer", "gradient_norm", "weight_norm", "update_ratio"]
    assert list(lines[0]) == columns
    assert [(int(x["step"]), x["layer"]) for x in lines[:3]] == [
        (0, "first"),
        (0, "second"),
        (4, "first"),
    ]
    found = np.array([[float(x[c]) for c in columns[2:]] for x in lines]).reshape(6, 2, 3)
    np.testing.assert_allclose(found, measured(monitor), rtol=1e-8)


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto import event_pb2
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    monitor = GradientMonitor(every=4, tensorboard=tmp_path / "logs")
    fit(linear(K.SGD(0.05)), monitor)
    (path,) = (tmp_path / "logs").iterdir()
    assert "tfevents" in path.name
    reader, found = PyRecordReader_New(str(path)), {}
    reader.GetNext()
    assert event_pb2.Event.FromString(reader.record()).file_version == "brain.Event:2"
    while True:
        try:
            reader.GetNext()
        except Exception:
            break
        event = event_pb2.Event.FromString(reader.record())
        found |= {(event.step, v.tag): v.simple_value for v in event.summary.value}
    assert len(found) == 6 * 2 * 3
    for row, step in enumerate(monitor.steps):
        for i, layer in enumerate(monitor.layers):
            norm = found[step, f"gradient_norm/{layer}"]
            np.testing.assert_allclose(norm, monitor.gradient_norms[row, i], rtol=1e-6)
            ratio = found[step, f"update_ratio/{layer}"]
            np.testing.assert_allclose(ratio, monitor.update_ratios[row, i], rtol=1e-6)


def test_missing_tensorboard_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(ImportError, match=r'pip install "keras_optkit\[plots\]"'):
        fit(linear(K.SGD(0.05)), GradientMonitor(tensorboard=tmp_path))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"every": 0}, ValueError, r"`every` must be an integer of at least 1. Received: every=0"),
        ({"every": 1.5}, TypeError, "`every` must be an integer"),
        ({"vanishing": 0}, ValueError, r"`vanishing` must be in \(0, 1\)"),
        ({"vanishing": 1}, ValueError, r"`vanishing` must be in \(0, 1\)"),
        ({"exploding": 0}, ValueError, "`exploding` must be greater than 0"),
        ({"exploding": float("nan")}, ValueError, "`exploding` must be greater than 0"),
        ({"patience": 0}, ValueError, "`patience` must be an integer of at least 1"),
        ({"csv": 3}, TypeError, "`csv` must be a path"),
        ({"tensorboard": True}, TypeError, "`tensorboard` must be a path"),
    ],
)
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        GradientMonitor(**kwargs)


def test_no_optimizer_and_own_loops():
    model = linear(None)
    with pytest.raises(ValueError, match=r"measures `model.optimizer`, and there is none. Call"):
        fit(model, GradientMonitor())
    model = linear(K.SGD(0.05))
    callbacks = keras.callbacks.CallbackList([GradientMonitor()], model=model)
    callbacks.on_train_begin()
    callbacks.on_train_batch_begin(0)
    callbacks.on_train_batch_end(0)
    with pytest.raises(RuntimeError, match=r"this training loop does not call it. Train with"):
        callbacks.on_train_batch_begin(1)


def test_another_optimizer_in_train_step_is_told():
    class Own(keras.Sequential):
        def train_step(self, *arguments):
            return ({"loss": 0.0}, arguments[0]) if BACKEND == "jax" else {"loss": 0.0}

    model = Own([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    frozen = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, trainable=False)])
    frozen.compile("sgd", "mse")
    for each in (model, frozen):
        with pytest.warns(UserWarning, match=r"GradientMonitor saw no update of `model.optimizer`"):
            fit(each, GradientMonitor(every=2))


def test_evaluate_and_predict_do_not_measure():
    model, monitor = linear(K.SGD(0.05)), GradientMonitor()
    model.evaluate(X, Y, verbose=0, callbacks=[monitor])
    model.predict(X, verbose=0, callbacks=[monitor])
    assert monitor.steps == [] and model.train_function is None
    assert monitor.gradient_norms.shape == (0, 0)


def test_config():
    monitor = GradientMonitor(7, csv="a.csv", vanishing=1e-3, exploding=10.0, patience=2)
    config = monitor.get_config()
    assert config == json.loads(json.dumps(config))
    assert GradientMonitor.from_config(config).get_config() == config
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(monitor))
    assert type(restored) is GradientMonitor and restored.get_config() == config
    assert ko.callbacks.Callback().state() == {} and ko.callbacks.Callback().load_state({}) is None


@pytest.mark.skipif(BACKEND == "torch", reason="one device")
@pytest.mark.parametrize("case", ["momentum", "lookahead"])  # Keras clips on each device
def test_two_devices(case):
    def train(scope, *monitor):
        with scope:
            model = linear(OPTIMIZERS[case](), jit_compile=BACKEND == "jax")
            fit(model, *monitor)
        return model

    def scope():
        if BACKEND == "jax":
            return keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]).scope()
        return two_replicas().scope()

    one, two = GradientMonitor(every=2), GradientMonitor(every=2)
    train(contextlib.nullcontext(), one)
    model, plain = train(scope(), two), train(scope())
    assert one.steps == two.steps == list(range(0, 24, 2))
    np.testing.assert_allclose(measured(one), measured(two), rtol=1e-4)
    assert_same(model, plain, atol=1e-6)


EXTRAS = ("cosine", "zeros", "histogram")


def vectors(every=1, epochs=2, layers=((0, 1), (2, 3)), momentum=0.9, x=X):
    """Returns the gradients at each measurement, flat for each group of weights, in float64."""
    oracle, found = Oracle(linear(None).get_weights(), 0.05, momentum), []
    for step in range(12 * epochs):
        batch = slice(step % 12 * 4, step % 12 * 4 + 4)
        gradients = oracle.gradients(x[batch], Y[batch])
        oracle.update(gradients)
        if step % every == 0:
            found.append([np.concatenate([gradients[i].ravel() for i in g]) for g in layers])
    return found


def cosines(found):
    pairs = itertools.pairwise(found)
    units = [[(a @ b) / np.sqrt(a @ a * (b @ b)) for a, b in zip(*p, strict=True)] for p in pairs]
    return np.array([[np.nan] * len(found[0]), *units])


@pytest.mark.parametrize("case", ["plain", "executions", "graph"])
def test_cosines_zeros_and_histograms(case):
    if BACKEND == "torch" and case != "plain":
        pytest.skip("one step at a time, and no graph")
    settings = {"executions": {"steps_per_execution": 4}, "graph": {"jit_compile": False}}
    x = np.where(np.arange(4) == 1, 0, X).astype("float32")  # a column of inputs, always 0
    monitor = GradientMonitor(every=2, measure=EXTRAS)
    fit(linear(K.SGD(0.05, momentum=0.9), **settings.get(case, {})), monitor, x=x)
    found = vectors(every=2, x=x)
    assert monitor.columns[3:] == ("cosine", "zero_share", "non_finite_share")
    np.testing.assert_allclose(monitor.column("cosine"), cosines(found), atol=2e-5)
    expected = [[np.mean(g == 0) for g in row] for row in found]
    assert expected[0][0] == 3 / 15
    np.testing.assert_allclose(monitor.column("zero_share"), expected, atol=1e-6)
    assert (monitor.column("non_finite_share") == 0).all()
    ends = [0, *monitor.edges, np.inf]
    counts = [[np.histogram(np.abs(g), ends)[0] for g in row] for row in found]
    assert np.abs(monitor.histograms - counts).sum() <= 2, "an entry beside an edge"
    np.testing.assert_array_equal(monitor.histograms.sum(-1), [[15, 8]] * 12)
    again = GradientMonitor(every=2, measure=EXTRAS)
    again.load_state(json.loads(json.dumps(monitor.state())))
    np.testing.assert_array_equal(again.histograms, monitor.histograms)


def test_each_variable_for_itself():
    monitor = GradientMonitor(every=3, per="variable", measure=["cosine"])
    fit(linear(K.SGD(0.05, momentum=0.9)), monitor)
    assert monitor.layers == ["first/kernel", "first/bias", "second/kernel", "second/bias"]
    found = vectors(every=3, layers=((0,), (1,), (2,), (3,)))
    expected = [[np.linalg.norm(g) for g in row] for row in found]
    np.testing.assert_allclose(monitor.gradient_norms, expected, rtol=2e-5)
    np.testing.assert_allclose(monitor.column("cosine"), cosines(found), atol=2e-5)


SEEN = OPTIMIZERS.keys() & {"accumulating", "ours accumulating", "multi", "scaled"}


@pytest.mark.parametrize("case", sorted(SEEN))
def test_extras_of_what_an_update_sees(case):
    plain, model = linear(OPTIMIZERS[case]()), linear(OPTIMIZERS[case]())
    monitor = GradientMonitor(every=1, measure=EXTRAS)
    fit(plain)
    fit(model, monitor)
    assert_same(model, plain, atol=1e-6)
    assert len(monitor.steps) == (6 if "accumulating" in case else 24)
    known = monitor.column("cosine")
    assert np.isnan(known[0]).all() and (np.abs(known[1:]) <= 1 + 1e-6).all()


def test_noise_scale():
    """Against the exact covariance of the gradient over batches, at weights that stay."""
    keras.utils.set_random_seed(3)
    n, batch = 4096, 8
    x = np.random.default_rng(1).normal(size=(n, 4)).astype("float32")
    y = (x @ np.ones((4, 1)) + np.random.default_rng(2).normal(size=(n, 1))).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(K.SGD(0.0), "mse")
    model.set_weights([np.full((4, 1), 0.3, "float32")])
    monitor = GradientMonitor(every=1, measure=["cosine"])
    fit(model, monitor, x=x, y=y, batch_size=batch, epochs=1)
    each = 2 * x * (0.3 * x.sum(1, keepdims=True) - y)
    means = each.reshape(-1, batch, 4).mean(1).astype("float64")
    before, after = means[:-1], means[1:]
    products = (before * after).sum(1)
    squares = (np.square(before).sum(1) + np.square(after).sum(1)) / 2
    exact = (squares - products).mean() / products.mean()
    np.testing.assert_allclose(monitor.noise_scale(), exact, rtol=1e-3)
    covariance = np.cov(each.astype("float64"), rowvar=False)
    truth = np.trace(covariance) / np.square(each.mean(0)).sum() / batch
    np.testing.assert_allclose(monitor.noise_scale(), truth, rtol=0.1)
    assert monitor.noise_scale(layer=monitor.layers[0]) == monitor.noise_scale()
    late = (squares - products)[-50:].mean() / products[-50:].mean()
    np.testing.assert_allclose(monitor.noise_scale(last=50), late, rtol=1e-3)
    with pytest.raises(ValueError, match=r'Make it with measure=\["cosine"\]'):
        GradientMonitor().noise_scale()
    with pytest.raises(ValueError, match="`layer` must be one of"):
        monitor.noise_scale(layer="none")


def test_non_finite_entries_are_counted():
    bad = X.copy()
    bad[8 * 4, 0] = np.inf
    monitor = GradientMonitor(every=8, measure=EXTRAS, per="variable")
    with pytest.warns(UserWarning, match="non-finite"):
        fit(rescaled(1.0), monitor, x=bad, epochs=1)
    share = monitor.column("non_finite_share")
    assert (share[0] == 0).all() and share[1, 0] > 0
    np.testing.assert_array_equal(monitor.histograms.sum(-1)[1], [12, 3, 6, 2])
    assert monitor.histograms[1, 0, -1] == round(share[1, 0] * 12)


def test_sink_and_plot(tmp_path):
    seen, path = [], tmp_path / "g.csv"
    monitor = GradientMonitor(
        every=5, csv=path, measure=EXTRAS, sink=lambda *given: seen.append(given)
    )
    with pytest.raises(ValueError, match="there are none yet"):
        monitor.plot()
    fit(linear(K.SGD(0.05)), monitor)
    assert [step for step, _ in seen] == monitor.steps
    layers = seen[1][1]
    assert layers["second"]["gradient_norm"] == monitor.gradient_norms[1, 1]
    np.testing.assert_array_equal(layers["first"]["histogram"], monitor.histograms[1, 0])
    assert path.read_text().splitlines()[0].endswith("cosine,zero_share,non_finite_share")
    import matplotlib.pyplot as plt

    for name in monitor.columns:
        axes = monitor.plot(name, plt.figure().gca())
        shown = axes.images[0].get_array()
        assert shown.shape == (2, 5)
        expected = monitor.column(name)[3, 1]
        expected = np.log10(expected) if name.endswith(("norm", "ratio")) else expected
        assert shown[1, 3] == expected
        assert [label.get_text() for label in axes.get_yticklabels()] == monitor.layers
        plt.close()
    with pytest.raises(ValueError, match="`name` must be one of 'gradient_norm'"):
        monitor.plot("loss")


def test_histograms_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator

    monitor = GradientMonitor(every=6, tensorboard=tmp_path, measure=["histogram"])
    fit(linear(K.SGD(0.05)), monitor)
    events = event_accumulator.EventAccumulator(str(tmp_path), {"tensors": 0, "histograms": 0})
    events.Reload()
    found = events.Histograms("gradient_log10/first")
    assert [event.step for event in found] == monitor.steps
    bars = found[1].histogram_value
    assert bars.num == 15
    np.testing.assert_array_equal(bars.bucket, monitor.histograms[1, 0])
    np.testing.assert_allclose(bars.bucket_limit[:-1], np.log10(monitor.edges))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"per": "weight"}, ValueError, "`per` must be one of 'layer', 'variable'"),
        ({"measure": "cosine"}, TypeError, "`measure` must be a list of some of"),
        ({"measure": ["angle"]}, ValueError, "`measure` must be one of 'cosine', 'zeros'"),
        ({"sink": "a.csv"}, TypeError, "`sink` must be None or a function of a step and a dict"),
    ],
)
def test_bad_extras(kwargs, error, message):
    with pytest.raises(error, match=message):
        GradientMonitor(**kwargs)


def test_a_state_of_other_columns_is_refused():
    monitor = GradientMonitor(every=6)
    fit(linear(K.SGD(0.05)), monitor)
    with pytest.raises(ValueError, match=r"which measures the same: .*cosine. Received: lines of"):
        GradientMonitor(measure=["cosine"]).load_state(monitor.state())
