"""Norms of gradients against a float64 network by hand."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_optkit as ko
from keras_optkit.diagnostics.gradient_flow_report import gradient_flow_report

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype("float32")
Y = RNG.normal(size=(12, 2)).astype("float32")
L2 = 0.02


def network(*extra, kernel="glorot_uniform"):
    keras.utils.set_random_seed(1)
    first = layers.Dense(
        5,
        "tanh",
        name="first",
        kernel_initializer=kernel,
        kernel_regularizer=keras.regularizers.L2(L2),
    )
    last = layers.Dense(2, name="last", bias_initializer="ones")
    model = keras.Sequential([keras.Input((4,)), first, *extra, last])
    model.compile("adam", "mse")
    return model


def by_hand(model, weight=None):
    """Loss, and norms of gradients and weights of both layers, in float64."""
    a, b, c, d = (w.astype("float64") for w in model.get_weights())
    weight = np.ones(len(X)) if weight is None else weight
    x, y = X.astype("float64"), Y.astype("float64")
    hidden = np.tanh(x @ a + b)
    error = hidden @ c + d - y
    loss = np.mean(weight * np.mean(error**2, axis=1)) + L2 * np.sum(a**2)
    out = 2 * error * weight[:, None] / y.size
    back = out @ c.T * (1 - hidden**2)
    first = [x.T @ back + 2 * L2 * a, back.sum(0)]
    last = [hidden.T @ out, out.sum(0)]
    norms = [math.sqrt(sum(np.sum(p**2) for p in parts)) for parts in (first, last, [a, b], [c, d])]
    return loss, norms[:2], norms[2:]


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [ops.convert_to_numpy(v).copy() for v in variables]


@pytest.mark.parametrize("weight", [None, RNG.uniform(0.5, 2, 12).astype("float32")])
def test_the_norms_are_those_of_a_gradient_by_hand(weight):
    model = network()
    report = gradient_flow_report(model, (X, Y) if weight is None else (X, Y, weight))
    loss, gradients, weights = by_hand(model, weight)
    assert [row.layer.rpartition("/")[2] for row in report.rows] == ["first", "last"]
    np.testing.assert_allclose(report.loss, loss, rtol=2e-6)
    np.testing.assert_allclose([r.gradient_norm for r in report.rows], gradients, rtol=3e-6)
    np.testing.assert_allclose([r.weight_norm for r in report.rows], weights, rtol=1e-6)
    shares = np.array(gradients) / max(gradients)
    np.testing.assert_allclose([r.share for r in report.rows], shares, rtol=6e-6)
    ratios = np.array(gradients) / weights
    np.testing.assert_allclose([r.ratio for r in report.rows], ratios, rtol=6e-6)


def test_a_step_of_sgd_moves_weights_by_these_norms():
    model = network(layers.BatchNormalization(name="norm"))
    rows = {r.layer.rpartition("/")[2]: r for r in gradient_flow_report(model, (X, Y)).rows}
    model.compile(keras.optimizers.SGD(1e-2), "mse")
    before = [ops.convert_to_numpy(v).copy() for v in model.trainable_variables]
    model.fit(X, Y, batch_size=12, shuffle=False, verbose=0)
    moved = [
        ops.convert_to_numpy(v) - b for v, b in zip(model.trainable_variables, before, strict=True)
    ]
    for i, name in enumerate(("first", "norm", "last")):
        norm = math.sqrt(sum(np.sum(m.astype("float64") ** 2) for m in moved[2 * i : 2 * i + 2]))
        np.testing.assert_allclose(rows[name].gradient_norm, norm / 1e-2, rtol=2e-4)


def test_model_and_random_numbers_are_left_alone():
    model = network(layers.BatchNormalization(), layers.Dropout(0.5))
    model.fit(X, Y, verbose=0)
    before, drawn = state(model), np.random.get_state()[1].copy()
    report = gradient_flow_report(model, (X, Y))
    assert all(np.isfinite(row.gradient_norm) for row in report.rows)
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(np.random.get_state()[1], drawn)


def test_the_verdict_names_what_is_wrong():
    assert gradient_flow_report(network(), (X, Y)).verdict == []
    assert "sizes that differ little" in str(gradient_flow_report(network(), (X, Y)))
    assert "first" in gradient_flow_report(network(), (X, Y), exploding=1e-6).verdict[0]
    (vanishing,) = gradient_flow_report(network(), (X, Y), vanishing=0.999).verdict
    assert vanishing.startswith("Vanishing") and "He initialization" in vanishing
    broken = gradient_flow_report(network(), (X * np.nan, Y)).verdict[0]
    assert broken.startswith("Not finite") and "first" in broken


def test_a_layer_the_loss_does_not_depend_on_has_a_gradient_of_0():
    dead = layers.Dense(3, "relu", name="dead", bias_initializer=keras.initializers.Constant(-1e3))
    report = gradient_flow_report(network(dead), (X, Y))
    row = next(r for r in report.rows if r.layer.endswith("dead"))
    assert row.gradient_norm == 0 and row.share == 0
    assert report.verdict[0].startswith("Gradients of 0:") and "dead" in report.verdict[0]


def test_the_table_is_aligned_and_the_plot_shows_the_norms():
    import matplotlib.pyplot as plt

    report = gradient_flow_report(network(), (X, Y))
    lines = str(report).splitlines()
    assert len(lines) == 5 and len({len(line) for line in lines[1:4]}) == 1
    axes = report.plot(plt.figure().gca())
    widths = [patch.get_width() for patch in axes.patches]
    assert widths == [row.gradient_norm for row in report.rows]
    plt.close("all")


def test_bad_input():
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model"):
        gradient_flow_report("model", (X, Y))
    with pytest.raises(ValueError, match=r"`model` must be built"):
        gradient_flow_report(keras.Sequential([layers.Dense(1)]), (X, Y))
    bare = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"There is no loss"):
        gradient_flow_report(bare, (X, Y))
    assert gradient_flow_report(bare, (X, Y), loss="mse").rows
    for name, value in {"vanishing": 0, "exploding": -1}.items():
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            gradient_flow_report(network(), (X, Y), **{name: value})
    with pytest.raises(ValueError, match="same number of samples"):
        gradient_flow_report(network(), (X, Y[:3]))


def test_it_is_public():
    assert ko.diagnostics.gradient_flow_report is gradient_flow_report
    assert isinstance(gradient_flow_report(network(), (X, Y)), ko.diagnostics.GradientFlow)
