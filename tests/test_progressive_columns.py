"""Progressive networks against equation 2 of the paper, and what they promise."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.continual import ProgressiveColumns
from keras_optkit.testing._models import assert_same, data

BACKEND = keras.backend.backend()
JIT = BACKEND == "jax"


def dense(units=(5, 4, 2), last=None):
    keras.utils.set_random_seed(len(units))
    body = [layers.Dense(n, "tanh", name=f"d{i}") for i, n in enumerate(units[:-1])]
    return keras.Sequential([layers.Input((4,)), *body, layers.Dense(units[-1], last, name="head")])


def convolutional(data_format="channels_last"):
    keras.utils.set_random_seed(0)
    shape = (6, 6, 2) if data_format == "channels_last" else (2, 6, 6)
    return keras.Sequential(
        [
            layers.Input(shape),
            layers.Conv2D(3, 3, activation="relu", data_format=data_format, name="c0"),
            layers.BatchNormalization(axis=3 if data_format == "channels_last" else 1),
            layers.Dropout(0.5),
            layers.Conv2D(4, 2, strides=2, activation="relu", data_format=data_format, name="c1"),
            layers.Flatten(),
            layers.Dense(2, name="head"),
        ]
    )


def relu(x):
    return np.maximum(x, 0)


def weights_of(model, prefix):
    """Returns the weights of layers whose names begin so, in float64, by the rest of the name."""
    return {
        layer.name.removeprefix(prefix): [np.float64(w) for w in layer.get_weights()]
        for layer in model.layers
        if layer.name.startswith(prefix)
    }


def equation_2(model, x, columns, names, last):
    """Rusu et al., 2016, equation 2, for dense layers with tanh: the output of the last column."""
    hidden = []
    for k in range(columns):
        entering, h = [], np.float64(x)
        for i, name in enumerate(names):
            kernel, bias = weights_of(model, f"column_{k}_")[name]
            entering.append(h)
            z = h @ kernel + bias
            if i and k:
                found = weights_of(model, f"lateral_column_{k}_{name}_")
                a = [found[f"scale_{j}"][0] for j in range(k)]
                features = np.concatenate([a[j] * hidden[j][i] for j in range(k)], -1)
                z = z + relu(features @ found["project"][0]) @ found["connect"][0]
            h = last(z) if i == len(names) - 1 else np.tanh(z)
        hidden.append(entering)
    return h


def train(model, x, y, loss="mse"):
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=JIT)
    model.fit(x, y, epochs=2, verbose=0)


def test_outputs_are_those_of_equation_2():
    x, y = data()
    template = dense((5, 4, 2), "sigmoid")
    columns = ProgressiveColumns(template)
    first = columns.for_task(0)
    np.testing.assert_allclose(first.predict(x, verbose=0), template.predict(x, verbose=0), 1e-6)
    columns.add_column()
    wider = dense((6, 3, 4))
    last = columns.add_column(wider)
    own = weights_of(last, "column_2_")
    for name, theirs in zip(("0_d0", "2_d1", "4_head"), wider.layers, strict=True):
        assert_same(own[name], theirs.get_weights(), name)
    assert len(columns) == 3
    for _ in range(2):
        actual = last.predict(x, verbose=0)
        names = ("0_d0", "2_d1", "4_head")
        expected = equation_2(columns.joint(), x, 3, names, lambda z: z)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
        train(last, x, np.repeat(y, 4, 1))
    without = expected - equation_2(columns.joint(), x * 0, 3, names, lambda z: z)
    assert np.abs(without).max() > 1e-3
    middle = columns.for_task(1).predict(x, verbose=0)
    expected = equation_2(
        columns.joint(), x, 2, (*names[:2], "4_head"), lambda z: 1 / (1 + np.exp(-z))
    )
    np.testing.assert_allclose(middle, expected, rtol=1e-5, atol=1e-6)


def test_convolutions_have_adapters_of_size_1():
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype("float32")
    columns = ProgressiveColumns(convolutional())
    model = columns.add_column()
    found = weights_of(model, "lateral_column_1_4_c1_")
    scale, project, connect = (found[k][0] for k in ("scale_0", "project", "connect"))
    assert project.shape == (1, 1, 3, 3)
    # Keras numbers the names it gives to layers.
    (norm,) = (layer for layer in model.layers if layer.name.startswith("column_0_2_"))
    outputs = [norm.output, model.get_layer("lateral_column_1_4_c1_connect").output]
    features, lateral = keras.Model(model.input, outputs)(x)
    hidden = relu(scale * np.float64(ops.convert_to_numpy(features)) @ project[0, 0])
    expected = np.zeros((3, 2, 2, 4))
    for i in range(2):
        for j in range(2):
            patch = hidden[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            expected[:, i, j] = np.einsum("nabc,abcd->nd", patch, connect)
    np.testing.assert_allclose(ops.convert_to_numpy(lateral), expected, rtol=1e-5, atol=1e-6)
    assert "connect" in weights_of(model, "lateral_column_1_7_head_")


def test_earlier_tasks_stay_to_the_last_bit():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 6, 6, 2)).astype("float32")
    columns, outputs = ProgressiveColumns(convolutional()), []
    for task in range(3):
        model = columns.for_task(0) if task == 0 else columns.add_column()
        before = [w.copy() for w in model.get_weights()]
        frozen = [w.path for w in model.non_trainable_weights]
        train(model, x, rng.normal(size=(16, 2)).astype("float32"))
        for variable, old in zip(model.weights, before, strict=True):
            moved = not np.array_equal(ops.convert_to_numpy(variable), old)
            own = f"column_{task}_" in variable.path  # its moving statistics too
            assert moved == own, variable.path
            assert (variable.path in frozen) == (not own or "moving" in variable.path)
        for k, expected in enumerate(outputs):
            found = columns.for_task(k).predict(x, verbose=0)
            np.testing.assert_array_equal(found, expected, err_msg=f"task {k} after {task}")
        outputs.append(columns.for_task(task).predict(x, verbose=0))
    for found, expected in zip(columns.joint().predict(x, verbose=0), outputs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_features_of_frozen_columns_have_no_noise():
    x = np.ones((64, 6, 6, 2), "float32")
    columns = ProgressiveColumns(convolutional())
    model = columns.add_column()
    lent = model.get_layer("lateral_column_1_4_c1_scale_0").output
    features = keras.Model(model.input, lent)
    found = [ops.convert_to_numpy(features(x, training=mode)) for mode in (True, False)]
    np.testing.assert_array_equal(*found)


def test_a_new_process_grows_on(tmp_path):
    x, y = data()
    columns = ProgressiveColumns(dense((5, 4, 1)))
    train(columns.for_task(0), x, y)
    train(columns.add_column(activation="tanh"), x, -y)
    columns.save(tmp_path / "columns.keras")
    columns.for_task(1).save(tmp_path / "second.keras")
    np.savez(tmp_path / "data.npz", x, y)
    script = """
import numpy, sys
from pathlib import Path
import keras, keras_optkit
at = Path(sys.argv[1])
x, y = numpy.load(at / "data.npz").values()
columns = keras_optkit.continual.ProgressiveColumns.load(at / "columns.keras")
assert len(columns) == 2
second = keras.saving.load_model(at / "second.keras")
outputs = [columns.for_task(k).predict(x, verbose=0) for k in (0, 1)]
outputs.append(second.predict(x, verbose=0))
third = columns.add_column()
third.compile("sgd", "mse", jit_compile=False)
third.fit(x, y, verbose=0)
outputs += [columns.for_task(k).predict(x, verbose=0) for k in (0, 1)]
numpy.savez(at / "outputs.npz", *outputs)
assert sorted(w.path for w in third.trainable_weights if "column_2" not in w.path) == []
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    expected = [columns.for_task(k).predict(x, verbose=0) for k in (0, 1, 1, 0, 1)]
    with np.load(tmp_path / "outputs.npz") as found:
        assert_same([found[key] for key in found], expected, "reloaded")
    if BACKEND == "tensorflow":
        import tensorflow as tf

        columns.for_task(1).export(tmp_path / "export", verbose=False)
        loaded = tf.saved_model.load(str(tmp_path / "export"))  # which must stay
        served = loaded.serve(x)
        np.testing.assert_allclose(served, expected[1], rtol=1e-5, atol=1e-6)


def branched():
    inputs = layers.Input((4,))
    hidden = layers.Dense(4)(inputs)
    return keras.Model(inputs, layers.Dense(1)(layers.Add()([hidden, inputs])))


def shared():
    inputs, layer = layers.Input((4,)), layers.Dense(4)
    return keras.Model(inputs, layers.Dense(1)(layer(layer(inputs))))


def test_what_does_not_fit_is_said(tmp_path):
    def sequential(*body, shape=(4,)):
        return keras.Sequential([layers.Input(shape), *body])

    with pytest.raises(TypeError, match=r"`model` must be a keras\.Model"):
        ProgressiveColumns(layers.Dense(1))
    for model, words in (
        (keras.Sequential([layers.Dense(1)]), "must be a Sequential or Functional model with an"),
        (branched(), "no branches. Received: 'add.*' of type Add, with 2 inputs"),
        (shared(), "must use each layer once"),
        (sequential(layers.LSTM(2), layers.Dense(1), shape=(3, 4)), "of type LSTM"),
        (sequential(dense(), layers.Dense(1)), "of type Sequential"),
        (sequential(layers.Dense(1)), "must have a hidden Dense or Conv layer"),
    ):
        with pytest.raises(ValueError, match=words):
            ProgressiveColumns(model)
    columns = ProgressiveColumns(convolutional())
    before = [w.copy() for w in columns.for_task(0).get_weights()]
    strided = sequential(
        layers.Conv2D(3, 3, strides=2),
        layers.Conv2D(4, 2),
        layers.Flatten(),
        layers.Dense(2),
        shape=(6, 6, 2),
    )
    for model, words in (
        (dense(), r"All columns see the same inputs, of shape \(6, 6, 2\)"),
        (strided, "must have the same shape but for channels"),
        (
            sequential(layers.Conv2D(3, 3), layers.Flatten(), layers.Dense(2), shape=(6, 6, 2)),
            r"same order as the first, \['Conv2D', 'Conv2D', 'Dense'\]",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            columns.add_column(model)
    assert len(columns) == 1
    assert columns.for_task(0).trainable_weights
    assert_same(columns.for_task(0).get_weights(), before, "nothing has changed")
    for task in (-1, 1):
        with pytest.raises(ValueError, match="`task` must be one of 0 to 0"):
            columns.for_task(task)
    dense().save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=r"is not a file that ProgressiveColumns.save wrote"):
        ProgressiveColumns.load(tmp_path / "other.keras")
