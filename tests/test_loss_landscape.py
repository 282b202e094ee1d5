"""Loss landscapes against `evaluate` at moved weights, and directions against the paper."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_optkit as ko
from keras_optkit.diagnostics.loss_landscape import loss_landscape

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6, 6, 2)).astype("float32")
Y = RNG.integers(0, 3, 24)


def network(**kwargs):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, activation="relu", name="conv", **kwargs),
            layers.DepthwiseConv2D(2, depth_multiplier=2, name="depthwise", **kwargs),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dropout(0.5, name="drop"),
            layers.Dense(3, kernel_regularizer="l2", name="head", **kwargs),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def fitted(seed=1):
    """Returns a model whose biases and statistics are not those of the start either."""
    model = network()
    rng = np.random.default_rng(seed)
    model.set_weights([w + rng.uniform(0, 0.3, w.shape) for w in model.get_weights()])
    return model


def state(model):
    return [ops.convert_to_numpy(v).copy() for v in model.variables]


def evaluated(model, weights):
    model.set_weights(weights)
    return model.evaluate(X, Y, batch_size=len(X), verbose=0)[0]


def landscape(model, *args, **kwargs):
    return loss_landscape(model, (X, Y), *args, verbose=0, **kwargs)


def test_filters_are_as_long_as_those_of_the_weights():
    model = fitted()
    found = landscape(model, points=2)
    assert len(found.directions) == 2
    for direction in found.directions:
        axes = {"conv": (0, 1, 2), "depthwise": (0, 1), "head": (0,)}
        for variable, step in zip(model.weights, direction, strict=True):
            weight = ops.convert_to_numpy(variable).astype("float64")
            assert step.shape == weight.shape
            if weight.ndim == 1:  # biases and BatchNormalization, as in the paper
                assert not step.any(), variable.path
                continue
            along = axes[variable.path.split("/")[-2]]
            expected = np.linalg.norm(weight.reshape(-1, *weight.shape[len(along) :]), axis=0)
            length = np.sqrt(np.sum(step**2, axis=along))
            np.testing.assert_allclose(length, expected, rtol=1e-6)
            assert length.size == math.prod(weight.shape[len(along) :]) > 1
    first, second = (np.concatenate([s.ravel() for s in d]) for d in found.directions)
    assert abs(first @ second) / (first @ first) < 0.4


def test_losses_are_those_of_evaluate():
    model = fitted()
    before = state(model)
    found = landscape(model, points=3, span=(-0.5, 1))
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_allclose(found.coordinates, [-0.5, 0.25, 1])
    assert found.losses.shape == (3, 3)
    twin = network()
    for i, a in enumerate(found.coordinates):
        for j, b in enumerate(found.coordinates):
            steps = zip(model.get_weights(), *found.directions, strict=True)
            expected = evaluated(twin, [w + a * d + b * e for w, d, e in steps])
            np.testing.assert_allclose(found.losses[i, j], expected, rtol=1e-5)
    assert np.ptp(found.losses) > 0.01
    for mine, theirs in zip(found.weights(0, 0), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_line_in_batches():
    model = fitted()
    found = landscape(model, 1, points=3)
    assert found.losses.shape == (3,)
    batches = landscape(model, 1, points=3, batch_size=7)
    np.testing.assert_allclose(batches.losses, found.losses, rtol=1e-5)
    twin = network()
    for value, place in zip(found.losses, (-1, 0, 1), strict=True):
        np.testing.assert_allclose(value, evaluated(twin, found.weights(place)), rtol=1e-5)


def test_between_models_with_their_statistics():
    models = [fitted(seed) for seed in (1, 2)]
    ends = [model.get_weights() for model in models]
    assert not np.array_equal(ends[0][5], ends[1][5])
    model = network()
    found = landscape(model, between=ends, points=5, span=(0, 1))
    np.testing.assert_allclose(found.losses[0], evaluated(network(), ends[0]), rtol=1e-5)
    np.testing.assert_allclose(found.losses[-1], evaluated(network(), ends[1]), rtol=1e-5)
    middle = [(a + b) / 2 for a, b in zip(*ends, strict=True)]
    np.testing.assert_allclose(found.losses[2], evaluated(network(), middle), rtol=1e-5)
    for mine, theirs in zip(model.get_weights(), network().get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    line = np.linspace(found.losses[0], found.losses[-1], 5)
    assert found.barrier == pytest.approx(max(found.losses - line))
    assert f"barrier {found.barrier:.3g}" in str(found)


def test_a_plane_through_three_models():
    ends = [fitted(seed).get_weights() for seed in (1, 2, 3)]
    found = landscape(network(), between=ends, points=2)
    expected = [evaluated(network(), end) for end in ends]
    got = [found.losses[0, 0], found.losses[1, 0], found.losses[0, 1]]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert math.isnan(found.barrier)


def test_the_seed_decides():
    model = fitted()
    first, again, other = (landscape(model, 1, points=2, seed=s).losses for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_frozen_weights_stay():
    model = fitted()
    model.get_layer("conv").trainable = False
    found = landscape(model, 1, points=2)
    names = [variable.path.split("/")[-2] for variable in model.weights]
    moved = {n for n, d in zip(names, found.directions[0], strict=True) if d.any()}
    assert moved == {"depthwise", "head"}


def test_one_trace_for_all_points():
    traced = []

    def loss(y_true, y_pred):
        traced.append(1)
        return ops.mean(ops.square(y_pred), axis=-1)

    model = fitted()
    landscape(model, 1, points=2, loss=loss)
    few = len(traced)
    traced.clear()
    landscape(model, 1, points=9, loss=loss)
    assert len(traced) == (few + 7 if keras.backend.backend() == "torch" else few)


def test_a_mixed_policy_is_computed_in_float32():
    exact = landscape(network(), 1, points=3)
    mixed = landscape(network(dtype="mixed_bfloat16"), 1, points=3)
    np.testing.assert_allclose(mixed.losses, exact.losses, rtol=1e-6)


def test_losses_that_are_not_finite():
    model = network()

    def loss(y_true, y_pred):
        return ops.log(
            1.5 - ops.mean(ops.square(y_pred - ops.stop_gradient(y_pred))) - scale(model)
        )

    def scale(model):
        kernel = ops.convert_to_tensor(model.get_layer("head").kernel)
        return ops.sum(ops.square(kernel)) / start

    start = float(ops.sum(ops.square(model.get_layer("head").kernel)))
    found = landscape(model, 1, points=3, loss=loss)
    assert np.isfinite(found.losses[1]) and np.isnan(found.losses[[0, 2]]).any()
    assert "not finite" in str(found)


def test_words_and_plots():
    plt = pytest.importorskip("matplotlib.pyplot")
    model = fitted()
    line, plane = landscape(model, 1, points=3), landscape(model, points=3)
    axes = line.plot(plt.figure().gca())
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), line.losses)
    assert plane.plot(plt.figure().gca()).collections
    plt.close("all")
    low = line.coordinates[np.argmin(line.losses)]
    assert f"3 losses: lowest {min(line.losses):.6g} at ({low:.3g})" in str(line)
    assert repr(plane).startswith("LossLandscape(9 losses: ")


def test_progress(capsys):
    loss_landscape(fitted(), (X, Y), 1, points=3)
    assert "3/3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dimensions": 3}, ValueError, "`dimensions` must be one of None, 1, 2"),
        ({"points": 1}, ValueError, "`points` must be an integer of at least 2"),
        ({"span": 1.0}, TypeError, "`span` must be two numbers. Received: span=1.0"),
        ({"span": (1, 0)}, ValueError, "`span` must be ascending"),
        ({"span": (0, "1")}, TypeError, "`span` must be a number"),
        ({"seed": -1}, ValueError, "`seed` must be an integer of at least 0"),
        ({"verbose": 2}, ValueError, "`verbose` must be one of 0, 1"),
        ({"between": [[]]}, ValueError, "two sets of weights for a line.* 1 sets"),
        ({"between": [[], []]}, ValueError, "as `model.get_weights\\(\\)` returns .* set 0"),
        ({"training": True}, ValueError, "drop draws random numbers"),
        ({"data": X}, TypeError, "`data` must be"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        loss_landscape(network(), **({"data": (X, Y), "points": 2, "verbose": 0} | arguments))


def test_line_or_plane_must_fit_what_is_given():
    weights = network().get_weights()
    with pytest.raises(ValueError, match="2 sets, and dimensions=2"):
        landscape(network(), 2, between=[weights, weights])
    with pytest.raises(ValueError, match="`coordinates` must be 1 numbers"):
        landscape(network(), 1, points=2).weights(0, 1)


def test_is_public():
    assert ko.diagnostics.loss_landscape is loss_landscape
    assert ko.diagnostics.LossLandscape
