"""Sizes of activations against NumPy, and against the theory of wide networks."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_optkit as ko
from keras_optkit.diagnostics.check_initialization import check_initialization

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6)).astype("float32")
Y = RNG.normal(size=(16, 2)).astype("float32")


def network(*hidden, inputs=6, last=2):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((inputs,)), *hidden, layers.Dense(last, name="last")])
    model.compile("sgd", "mse")
    return model


def deep(initializer, activation="relu", depth=8, width=64):
    return network(
        *(layers.Dense(width, activation, kernel_initializer=initializer) for _ in range(depth))
    )


def state(model):
    return [ops.convert_to_numpy(v).copy() for v in model.variables]


def test_rows_are_those_of_a_pass_by_hand():
    model = network(layers.Dense(5, "relu", name="first"))
    first, last = check_initialization(model, (X, Y)).rows
    a, b, c, d = (w.astype("float64") for w in model.get_weights())
    before = X @ a + b
    hidden = np.maximum(before, 0)
    out = hidden @ c + d
    by_out = 2 * (out - Y) / Y.size
    by_hidden = by_out @ c.T
    for row, output, pre, gradient in (
        (first, hidden, before, by_hidden),
        (last, out, out, by_out),
    ):
        got = [row.mean, row.std, row.before, row.gradient]
        expected = [output.mean(), output.std(), pre.std(), gradient.std()]
        np.testing.assert_allclose(got, expected, rtol=5e-6, err_msg=row.layer)
        assert row.zeros == np.mean(output == 0)
    assert [first.layer, last.layer] == ["first", "last"]
    assert [first.activation, last.activation] == ["relu", "tanh"]


@pytest.mark.parametrize(
    ("initializer", "activation", "factor"),
    [
        ("he_normal", "relu", 1.0),  # n (2 / n) / 2
        ("glorot_normal", "relu", 0.5),
        ("lecun_normal", None, 1.0),
        (keras.initializers.VarianceScaling(3.0, "fan_in", "untruncated_normal"), None, 3.0),
    ],
)
def test_growth_is_that_of_the_theory_of_wide_networks(initializer, activation, factor):
    model = deep(initializer, activation, depth=5, width=800)
    x = RNG.normal(size=(64, 6)).astype("float32")
    y = RNG.normal(size=(64, 2)).astype("float32")
    report = check_initialization(model, (x, y))
    # A sample's size is itself random in the first layers, so means over few of them scatter.
    assert report.growth == pytest.approx(factor, rel=0.08)
    assert report.gradient_growth == pytest.approx(factor, rel=0.08)


def test_the_verdict_names_the_initializer_for_the_activation():
    wide = keras.initializers.RandomNormal(stddev=0.5)
    narrow = keras.initializers.RandomNormal(stddev=0.05)
    expected = {
        "relu": "HeNormal",
        "tanh": "GlorotUniform",
        "sigmoid": "VarianceScaling(16",
        "selu": "LecunNormal",
    }
    assert check_initialization(deep("he_normal"), X).verdict == []
    assert check_initialization(deep(wide), X).verdict[0].startswith("Exploding")
    for activation in ("relu", "tanh", "selu"):
        (verdict,) = check_initialization(deep(narrow, activation), X).verdict
        assert verdict.startswith("Vanishing") and expected[activation] in verdict
    _, back = check_initialization(deep(narrow), (X, Y)).verdict
    assert back.startswith("Vanishing: the variance of gradients")
    sigmoid = check_initialization(deep(narrow, "sigmoid"), (X, Y)).verdict
    assert any(expected["sigmoid"] in line for line in sigmoid)


def test_an_activation_may_be_a_layer():
    model = network(
        layers.Dense(5), layers.BatchNormalization(), layers.LeakyReLU(), layers.Dense(4)
    )
    rows = check_initialization(model, X).rows
    assert [row.activation for row in rows if row.before] == ["relu", "tanh", "tanh"]


@pytest.mark.parametrize("initializer", ["zeros", keras.initializers.Constant(0.1)])
def test_constant_weights_are_symmetric(initializer):
    report = check_initialization(network(layers.Dense(5, kernel_initializer=initializer)), (X, Y))
    (verdict,) = report.verdict
    assert verdict.startswith("Symmetric") and report.rows[0].constant


def test_a_last_layer_of_zeros_is_common():
    model = deep("he_normal")
    model.layers[-1].kernel.assign(np.zeros((64, 2)))
    assert check_initialization(model, X).verdict == []


def test_dead_and_not_finite():
    bias = keras.initializers.Constant(-1e3)
    dead = network(layers.Dense(5, "relu", name="off", bias_initializer=bias))
    assert check_initialization(dead, X).verdict == [
        "Dead: all outputs of off are 0; look at biases and inputs."
    ]
    assert check_initialization(dead, X * np.nan).verdict[0].startswith("Not finite")


def test_rescale_gives_each_layer_a_variance_of_1():
    model = deep(keras.initializers.RandomNormal(stddev=0.3), depth=4)
    before = model.get_weights()
    report = check_initialization(model, (X, Y), rescale=True)
    assert report.verdict == []
    h = X.astype("float64")
    for i, layer in enumerate(model.layers):
        kernel, bias = (w.astype("float64") for w in layer.get_weights())
        z = h @ kernel + bias
        assert z.var() == pytest.approx(1, abs=1e-5), layer.name  # exact, as biases are 0
        np.testing.assert_allclose(kernel, before[2 * i] * report.factors[layer.name], rtol=1e-5)
        h = np.maximum(z, 0)
    assert "Kernels were multiplied" in str(report)


def test_rescale_takes_several_steps_where_there_are_biases():
    hidden = layers.Conv1D(4, 1, bias_initializer=keras.initializers.RandomNormal(stddev=0.5))
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3, 6)), hidden, layers.Flatten(), layers.Dense(2)])
    x = RNG.normal(size=(16, 3, 6)).astype("float32")
    report = check_initialization(model, x, rescale=True)
    assert [row.before for row in report.rows if row.before] == pytest.approx([1, 1], abs=0.006)
    with pytest.raises(ValueError, match="`rescale` needs activations that differ"):
        check_initialization(network(layers.Dense(5, kernel_initializer="zeros")), X, rescale=True)


class Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = layers.Dense(6, "relu", name="inside")

    def build(self, shape):
        self.inside.build(shape)

    def call(self, x):
        return x + self.inside(x)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.block, self.head = Block(), layers.Dense(2, name="head")

    def call(self, x, training=None):
        return self.head(self.block(self.block(x)))


def test_layers_inside_of_layers_and_of_models_are_found():
    model = Subclassed()
    model(X)
    model.compile("sgd", "mse")
    names = [row.layer for row in check_initialization(model, (X, Y)).rows]
    assert names == ["inside (call 1)", "inside (call 2)", "head"]
    outer = keras.Sequential([keras.Input((6,)), network(layers.Dense(3, name="deep"), last=4)])
    assert [row.layer for row in check_initialization(outer, X).rows] == ["deep", "last"]
    recurrent = keras.Sequential(
        [keras.Input((5, 6)), layers.LSTM(3, name="lstm"), layers.Dense(2, name="head")]
    )
    x = np.ones((2, 5, 6), "float32")
    assert [row.layer for row in check_initialization(recurrent, x).rows] == ["lstm", "head"]


def test_the_model_is_left_as_it_is():
    model = network(layers.Dense(5, "relu"), layers.BatchNormalization(), layers.Dropout(0.5))
    before, drawn = state(model), np.random.get_state()[1].copy()
    attributes = [(set(vars(layer)), layer.call) for layer in model.layers]
    activation = model.layers[0].activation
    for training in (False, True):
        check_initialization(model, (X, Y), training=training)
    with pytest.raises(Exception, match=""):  # a batch of the wrong width, while tapped
        check_initialization(model, X[:, :2])
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(np.random.get_state()[1], drawn)
    assert [(set(vars(layer)), layer.call) for layer in model.layers] == attributes
    assert model.layers[0].activation is activation


def test_training_normalizes():
    model = network(layers.Dense(50, kernel_initializer="ones"), layers.BatchNormalization())
    norm = check_initialization(model, X, training=True).rows[1]
    assert norm.std == pytest.approx(1, abs=1e-3) and math.isclose(norm.mean, 0, abs_tol=1e-5)
    assert check_initialization(model, X).rows[1].std > 1.5


def test_the_table_is_aligned():
    report = check_initialization(deep("he_normal", depth=2), (X, Y))
    lines = str(report).splitlines()
    assert len(lines) == 5 and len({len(line) for line in lines[:4]}) == 1
    assert lines[-1] == "Activations keep their size well enough."


def test_bad_input():
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model"):
        check_initialization("model", X)
    with pytest.raises(ValueError, match=r"`model` must be built"):
        check_initialization(keras.Sequential([layers.Dense(1)]), X)
    bare = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"Gradients need a loss"):
        check_initialization(bare, (X, Y))
    assert check_initialization(bare, (X,)).rows[0].gradient is None
    for name in ("rescale", "training"):
        with pytest.raises(TypeError, match=f"`{name}` must be True or False"):
            check_initialization(bare, X, **{name: 1})
    with pytest.raises(ValueError, match="`batch` must be inputs"):
        check_initialization(bare, (X, Y, Y, Y))


def test_it_is_public():
    assert ko.diagnostics.check_initialization is check_initialization
    assert isinstance(check_initialization(network(), X), ko.diagnostics.Initialization)
