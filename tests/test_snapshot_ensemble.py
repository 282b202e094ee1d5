"""SnapshotEnsemble: the paper's schedule, its members, and their mean."""

import json
import math
import os

import keras
import numpy as np
import pytest

import keras_optkit as ko
from keras_optkit.callbacks.snapshot_ensemble import SnapshotEnsemble

BACKEND = keras.backend.backend()
K = keras.optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = RNG.integers(3, size=(24,))


def network(optimizer=None, logits=False, **settings):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), keras.layers.Dense(4, name="body")]
    # On torch Keras' dropout draws from the one generator of the process.
    rate = 0.0 if BACKEND == "torch" else 0.2
    layers += [keras.layers.BatchNormalization(), keras.layers.Dropout(rate)]
    layers += [keras.layers.Dense(3, None if logits else "softmax", name="head")]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    settings = {"metrics": ["accuracy"], "jit_compile": BACKEND == "jax"} | settings
    model.compile(optimizer or K.SGD(0.1), loss, **settings)
    return model


def fit(model, *callbacks, epochs=6, start=0, **kwargs):
    kwargs = {"batch_size": 4, "shuffle": False, "verbose": 0} | kwargs
    options = {"epochs": epochs, "initial_epoch": start, "callbacks": list(callbacks)}
    return model.fit(X, Y, **options, **kwargs)


class Record(keras.callbacks.Callback):
    """Keeps all weights, as they are at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append([np.array(w) for w in self.model.get_weights()])


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def trained(logits=False, **kwargs):
    snapshots = SnapshotEnsemble(2, **kwargs)
    model = network(K.SGD(snapshots.schedule(0.2, steps_per_epoch=6)), logits)
    fit(model, snapshots)
    return model, snapshots


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def forward(weights, x):
    """The network in float64, with dropout at rest."""
    a, a0, gamma, beta, mean, variance, b, b0 = (np.array(w, "float64") for w in weights)
    hidden = (x.astype("float64") @ a + a0 - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    return softmax(hidden @ b + b0)


def test_schedule_is_equation_2():
    schedule = SnapshotEnsemble(epochs_per_cycle=5).schedule(0.1, steps_per_epoch=4)
    steps, cycles = 60, 3
    length = math.ceil(steps / cycles)
    for t in range(1, steps + 1):  # the paper counts from 1
        expected = 0.1 / 2 * (math.cos(math.pi * ((t - 1) % length) / length) + 1)
        assert float(schedule(t - 1)) == pytest.approx(expected, abs=1e-7), f"step {t}"


def test_members_are_the_weights_at_the_ends_of_cycles():
    snapshots, record = SnapshotEnsemble(2), Record()
    model, plain = network(), network()
    fit(model, snapshots, record, epochs=7)
    fit(plain, epochs=7)
    assert snapshots.epochs == [2, 4, 6]
    for member, epoch in zip(snapshots.members, snapshots.epochs, strict=True):
        assert_same(member, record.weights[epoch - 1])
    assert_same(model.get_weights(), plain.get_weights())  # left with its last weights


def test_predict_is_the_mean_of_probabilities():
    model, snapshots = trained()
    before = [np.array(v) for v in model.get_weights()]
    state = [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]
    mean = snapshots.predict(X, verbose=0)
    expected = np.mean([forward(member, X) for member in snapshots.members], axis=0)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    single = [forward(member, X) for member in snapshots.members]
    assert all(np.abs(one - expected).max() > 1e-4 for one in single)
    assert_same(model.get_weights(), before)
    assert_same([keras.ops.convert_to_numpy(v) for v in model.optimizer.variables], state)


def test_ensemble_is_one_model(tmp_path):
    _, snapshots = trained()
    ensemble = snapshots.ensemble()
    mean = snapshots.predict(X, verbose=0)
    np.testing.assert_allclose(ensemble.predict(X, verbose=0), mean, atol=1e-6)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), mean, atol=1e-6)


def test_logits_are_averaged_as_probabilities():
    _, snapshots = trained(logits=True, activation="softmax")
    expected = np.mean([forward(member, X) for member in snapshots.members], axis=0)
    np.testing.assert_allclose(snapshots.predict(X, verbose=0), expected, atol=1e-6)
    np.testing.assert_allclose(snapshots.ensemble().predict(X, verbose=0), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"Compile `ensemble\(\)` .*activation='softmax'"):
        snapshots.evaluate(X, Y)


def test_evaluate():
    _, snapshots = trained()
    loss, accuracy = snapshots.evaluate(X, Y, verbose=0)
    mean = np.mean([forward(member, X) for member in snapshots.members], axis=0)
    assert loss == pytest.approx(-np.log(mean[np.arange(24), Y]).mean(), abs=1e-5)
    assert accuracy == pytest.approx((mean.argmax(-1) == Y).mean(), abs=1e-6)


def test_several_inputs_and_outputs():
    keras.utils.set_random_seed(1)
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    both = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    outputs = {name: keras.layers.Dense(2, name=name)(both) for name in ("p", "q")}
    model = keras.Model(inputs, outputs)
    model.compile(K.SGD(0.1), {"p": "mse", "q": "mae"}, jit_compile=BACKEND == "jax")
    x = {"a": X, "b": X[::-1].copy()}
    y = {"p": X[:, :2], "q": X[:, 2:]}
    snapshots = SnapshotEnsemble(1)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[snapshots])
    mean, together = snapshots.predict(x, verbose=0), snapshots.ensemble().predict(x, verbose=0)
    flat = np.concatenate([x["a"], x["b"]], -1).astype("float64")
    weights = np.mean([np.array(m[0], "float64") for m in snapshots.members], 0)
    bias = np.mean([np.array(m[1], "float64") for m in snapshots.members], 0)
    np.testing.assert_allclose(mean["p"], flat @ weights + bias, atol=1e-5)
    for name in ("p", "q"):
        np.testing.assert_allclose(mean[name], together[name], atol=1e-6)
    expected = np.square(mean["p"] - y["p"]).mean() + np.abs(mean["q"] - y["q"]).mean()
    found = snapshots.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(expected, rel=1e-5)


@keras.saving.register_keras_serializable("tests")
class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3, "softmax")

    def call(self, x):
        return self.head(x)


def test_models_of_own_classes_predict():
    keras.utils.set_random_seed(1)
    model, snapshots = Own(), SnapshotEnsemble(1)
    model.compile(K.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=BACKEND == "jax")
    fit(model, snapshots, epochs=2)
    means = [softmax(X.astype("float64") @ w + b) for w, b in snapshots.members]
    np.testing.assert_allclose(snapshots.predict(X, verbose=0), np.mean(means, 0), atol=1e-6)
    with pytest.raises(ValueError, match=r"copies of a functional or sequential model"):
        snapshots.ensemble()


@pytest.mark.parametrize("directory", [False, True])
def test_an_interrupted_run_is_the_uninterrupted_one(directory, tmp_path):
    where = {"directory": tmp_path / "members"} if directory else {}
    _, expected = trained()
    schedule = SnapshotEnsemble(2).schedule(0.2, 6)
    model, first, second = network(K.SGD(schedule)), SnapshotEnsemble(2, **where), None
    fit(model, first, epochs=3)
    seeds = [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables if "seed" in v.path]
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for v, seed in zip([v for v in loaded.variables if "seed" in v.path], seeds, strict=True):
        v.assign(seed)
    second = SnapshotEnsemble(2, **where)
    state = first.state()
    second.load_state(json.loads(json.dumps(state)) if directory else state)
    assert_same(second.members[0], first.members[0])
    fit(loaded, second, epochs=6, start=3)
    assert second.epochs == expected.epochs == [2, 4, 6]
    for a, b in zip(second.members, expected.members, strict=True):
        assert_same(a, b)
    files = sorted(os.listdir(tmp_path / "members")) if directory else []
    assert files == (["member-2.npz", "member-4.npz", "member-6.npz"] if directory else [])


def test_only_the_last_are_kept():
    _, every = trained()
    _, last = trained(keep=2)
    assert last.epochs == [4, 6]
    for a, b in zip(last.members, every.members[1:], strict=True):
        assert_same(a, b)


def test_a_failed_write_leaves_no_half_of_a_file(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        args[0].write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        fit(network(), SnapshotEnsemble(1, directory=tmp_path), epochs=1)
    assert os.listdir(tmp_path) == []


def test_averaged_weights_behind_their_swap():
    optimizer = ko.optimizers.Averaged(K.SGD(0.1))
    model, snapshots = network(optimizer), SnapshotEnsemble(1)
    fit(model, ko.callbacks.SwapAveragedWeights(), snapshots, epochs=2)
    assert_same(snapshots.members[-1], model.get_weights())


def test_mixed_precision_and_several_steps_per_execution():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        snapshots = SnapshotEnsemble(2)
        schedule = snapshots.schedule(0.1, steps_per_epoch=6)
        model = network(K.SGD(schedule), steps_per_execution=1 if BACKEND == "torch" else 3)
    finally:
        keras.config.set_dtype_policy("float32")
    fit(model, snapshots, epochs=4)
    expected = np.mean([forward(member, X) for member in snapshots.members], axis=0)
    np.testing.assert_allclose(snapshots.predict(X, verbose=0), expected, atol=5e-3)
    assert snapshots.predict(X, verbose=0).dtype == "float32"


def test_members_are_finite_or_none():
    model, snapshots = network(K.SGD(float("1e38"))), SnapshotEnsemble(1)
    with pytest.warns(UserWarning, match="takes no member after epoch 2"):
        fit(model, snapshots, epochs=2)


def test_too_few_epochs_and_another_model():
    snapshots = SnapshotEnsemble(3)
    with pytest.warns(UserWarning, match=r"no cycle of 3 epochs has ended in 2\. Give `fit`"):
        fit(network(), snapshots, epochs=2)
    with pytest.raises(ValueError, match=r"no members yet.* 0 members"):
        snapshots.predict(X)
    fit(network(), snapshots, epochs=3)
    assert snapshots.epochs == [3]
    fit(network(), snapshots, epochs=3)
    assert snapshots.epochs == [3]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"epochs_per_cycle": 0}, r"`epochs_per_cycle` must be an integer of at least 1\."),
        ({"epochs_per_cycle": 1, "keep": 0}, r"`keep` must be an integer of at least 1\."),
        ({"epochs_per_cycle": 1, "activation": "softmacks"}, r"softmacks"),
        ({"epochs_per_cycle": 1, "directory": 3}, r"`directory` must be a path\."),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        SnapshotEnsemble(**kwargs)
