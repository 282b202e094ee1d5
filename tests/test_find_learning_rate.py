"""The learning rate range test against a descent in float64, and a model that is left alone."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_optkit as ko
from keras_optkit.diagnostics._batches import source
from keras_optkit.diagnostics._learning_rate_range import LearningRateRange
from keras_optkit.diagnostics.find_learning_rate import find_learning_rate

K = keras.optimizers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype("float32")
Y = RNG.normal(size=(24, 1)).astype("float32")


def linear(optimizer="sgd", **kwargs):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, use_bias=False, name="head")])
    model.compile(optimizer, "mse", **kwargs)
    return model


def network(optimizer, **kwargs):
    keras.utils.set_random_seed(2)
    hidden = [layers.Dense(6, "relu"), layers.Dropout(0.3), layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((3,)), *hidden, layers.Dense(1)])
    model.compile(optimizer, "mse", metrics=["mae"], **kwargs)
    return model


def find(model, data=(X, Y), steps=20, seeds=(0,), **kwargs):
    return find_learning_rate(model, data, steps=steps, seeds=seeds, verbose=0, **kwargs)


def descent(weights, rates, period=1, batches=None):
    """The loss before each step of gradient descent on least squares, in float64."""
    w, losses = weights.astype("float64"), []
    batches = [(X, Y)] * len(rates) * period if batches is None else batches
    pairs = iter(batches)
    for rate in rates:
        gradients, values = [], []
        for _ in range(period):
            x, y = (part.astype("float64") for part in next(pairs))
            error = x @ w - y
            values.append(np.mean(error**2))
            gradients.append(2 * x.T @ error / len(x))
        losses.append(np.mean(values))
        w = w - rate * np.mean(gradients, axis=0)
    return np.array(losses)


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [ops.convert_to_numpy(v).copy() for v in variables]


def test_the_curve_is_that_of_the_descent_and_diverges_where_it_must():
    model = linear()
    (weights,) = model.get_weights()
    found = find(model, steps=60, low=1e-3, high=30.0, batch_size=24, smoothing=0.0, diverge=1e3)
    reached = found.learning_rates
    np.testing.assert_allclose(reached, np.geomspace(1e-3, 30, 60)[: len(reached)], rtol=1e-12)
    losses = descent(weights, reached)
    # Along the steepest axis the error is multiplied by 1 - rate * eigenvalue. Past the limit what
    # grows is mostly rounding.
    limit = 2 / np.linalg.eigvalsh(2 * X.T.astype("float64") @ X / len(X)).max()
    below = reached < limit
    np.testing.assert_allclose(found.losses[0][below], losses[below], rtol=1e-5)
    assert len(reached) < 60 and losses[-1] > 1e3 * losses[:-1].min() > losses[-2] / 2
    assert found.stopped[0] == reached[-1]
    rising = reached[np.flatnonzero(np.diff(losses) > 0)[0]]
    assert limit <= rising < limit * 30


def test_one_dimension_diverges_at_two_over_the_eigenvalue():
    x = np.full((4, 3), [1.0, 0.0, 0.0], "float32")  # the loss is (w - 0)^2: eigenvalue 2
    model = linear()
    model.set_weights([np.ones((3, 1), "float32")])
    found = find(model, (x, 0 * Y[:4]), 41, low=0.11, high=10.0, smoothing=0.0, diverge=1e12)
    rates, losses = found.learning_rates, found.losses[0]
    growing = np.flatnonzero(np.diff(losses) > 0)[0]
    assert rates[growing - 1] < 1.0 < rates[growing]


@pytest.mark.parametrize("period", [2, 3])
def test_accumulated_batches_make_one_step(period):
    kwargs = {"low": 1e-3, "high": 0.3, "smoothing": 0.0, "batch_size": 8}
    for optimizer in (
        K.SGD(gradient_accumulation_steps=period),
        ko.optimizers.Lookahead(K.SGD(), gradient_accumulation_steps=period, sync_period=1000),
    ):
        model = linear(optimizer)
        (weights,) = model.get_weights()
        found = find(model, steps=10, **kwargs)
        batches = source((X, Y), 8)(0)
        losses = descent(weights, found.learning_rates, period, batches)
        np.testing.assert_allclose(found.losses[0], losses, rtol=2e-5)


def test_each_seed_has_its_own_order_and_curves_are_averaged():
    found = find(linear(), seeds=(3, 4), batch_size=7, low=1e-3, high=0.1, smoothing=0.5)
    (weights,) = linear().get_weights()
    curves = []
    for seed, losses in zip((3, 4), found.losses, strict=True):
        batches = source((X, Y), 7)(seed)
        expected = descent(weights, found.learning_rates, 1, batches)
        np.testing.assert_allclose(losses, expected, rtol=2e-5)
        mean, curve = 0.0, []
        for i, loss in enumerate(expected, 1):
            mean = 0.5 * mean + 0.5 * loss
            curve.append(mean / (1 - 0.5**i))
        curves.append(curve)
    np.testing.assert_allclose(found.smoothed, np.mean(curves, axis=0), rtol=2e-5)
    np.testing.assert_allclose(found.spread, np.std(curves, axis=0), rtol=1e-3, atol=1e-6)


def test_batches_keep_their_size_and_go_through_all_samples():
    batches = source((np.arange(10), None), 4)(0)
    taken = [next(batches)[0] for _ in range(5)]
    assert {len(rows) for rows in taken} == {4}
    whole = np.concatenate(taken)
    assert sorted(whole[:10]) == sorted(whole[10:]) == list(range(10))
    assert not np.array_equal(whole[:10], whole[10:])


OPTIMIZERS = {
    "adam": lambda: K.Adam(1e-3),
    "schedule": lambda: K.SGD(K.schedules.CosineDecay(0.1, 100), momentum=0.9),
    "wrapped": lambda: ko.optimizers.Lookahead(ko.optimizers.RAdam(1e-3)),
    "schedule-free": lambda: ko.optimizers.ScheduleFreeAdamW(1e-3),
    "loss scale": lambda: K.LossScaleOptimizer(K.Adam(1e-3)),
}


@pytest.mark.parametrize(
    ("name", "fitted"),
    [
        ("adam", False),
        ("adam", True),
        ("schedule", False),
        ("wrapped", True),
        ("schedule-free", False),
        ("loss scale", True),
    ],
)
def test_the_next_fit_is_that_without(name, fitted):
    results = []
    for finds in (True, False):
        model = network(OPTIMIZERS[name]())
        if fitted:
            model.fit(X, Y, batch_size=8, verbose=0)
            before = state(model)
            rule, function = model.optimizer, model.train_function
        if finds:
            found = find(model, steps=12, batch_size=8, low=1e-4, high=1.0)
            assert np.isfinite(found.losses[0][0])
        if fitted:
            for old, new in zip(before, state(model), strict=True):
                np.testing.assert_array_equal(old, new, err_msg=name)
            assert model.optimizer is rule and model.train_function is function
        history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0).history
        results.append((history, state(model)))
    (history, with_it), (other, without) = results
    assert history == other
    for one, two in zip(with_it, without, strict=True):
        np.testing.assert_array_equal(one, two, err_msg=name)


@pytest.mark.skipif(not hasattr(K, "MultiOptimizer"), reason="Keras has it since 3.15")
def test_several_optimizers_keep_their_ratio():
    def several(rate_of_kernel, rate_of_bias):
        kernel, bias = K.SGD(rate_of_kernel), K.SGD(rate_of_bias)
        model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
        optimizer = K.MultiOptimizer(lambda v: kernel if "kernel" in v.path else bias)
        model.compile(optimizer, "mse")
        model.set_weights([np.ones((3, 1)), np.ones(1)])
        return model

    found = find(several(0.1, 0.3), steps=10, batch_size=24, low=1e-3, high=0.1, smoothing=0.0)
    w, b = np.ones((3, 1)), 1.0
    for step, rate in enumerate(found.learning_rates):
        error = X.astype("float64") @ w + b - Y
        loss = np.mean(error**2)
        np.testing.assert_allclose(found.losses[0][step], loss, rtol=1e-5, err_msg=f"step {step}")
        w, b = w - rate * 2 * X.T @ error / 24, b - 3 * rate * 2 * error.mean()
    with pytest.raises(ValueError, match="keep their ratio to the first"):
        find(several(0.0, 0.3))


class OwnStep(keras.Model):
    """A model with parts that no config describes."""

    def __init__(self):
        super().__init__()
        self.head, self.traces = layers.Dense(1), 0

    def call(self, x, training=None):
        self.traces += bool(training)
        return self.head(x)


def test_subclassed_models_are_traced_once_for_all_rates_and_seeds():
    model = OwnStep()
    model(X)
    model.compile("sgd", "mse", steps_per_execution=4, run_eagerly=False)
    find(model, steps=15, seeds=(0, 1, 2), batch_size=10)
    assert model.steps_per_execution == 4
    if keras.backend.backend() != "torch":  # whose steps are plain Python
        assert model.traces <= 2


def test_an_exception_leaves_the_model_as_it_was():
    model = network(K.Adam(1e-3))
    model.fit(X, Y, verbose=0)
    before, rate = state(model), model.optimizer._learning_rate
    history, function = model.history, model.train_function

    class Breaks(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index == 3:
                raise RuntimeError("broken")
            return X[:8], Y[:8]

    with pytest.raises(Exception, match="broken"):
        find(model, Breaks())
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.optimizer._learning_rate is rate
    assert model.history is history and model.train_function is function
    assert "update_state" not in vars(model._loss_tracker)


def test_datasets_are_repeated():
    whole = find(linear(), steps=12, batch_size=24, low=1e-3, high=0.1).losses

    class Two(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return X, Y

    for data in (Two(), Repeats()):
        np.testing.assert_allclose(
            find(linear(), data, 12, low=1e-3, high=0.1).losses, whole, rtol=1e-4
        )


class Repeats:
    def __iter__(self):
        return iter([(X, Y), (X, Y)])


def test_a_tf_dataset_will_do():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(24)
    whole = find(linear(), steps=12, batch_size=24, low=1e-3, high=0.1).losses
    again = find(linear(), data, 12, low=1e-3, high=0.1).losses
    np.testing.assert_allclose(again, whole, rtol=1e-4)


def test_nan_stops_the_run():
    y = Y.copy()
    y[5] = np.nan
    found = find(linear(), (X, y), batch_size=24)
    assert found.losses.shape == (1, 1) and found.stopped[0] == found.learning_rates[0]
    with pytest.raises(ValueError, match="no learning rate to suggest"):
        _ = found.suggestion
    assert "never falls" in str(found)


def result(curve, seeds=1, **kwargs):
    rates = np.geomspace(1e-4, 1, len(curve))
    return LearningRateRange(rates, np.tile(curve, (seeds, 1)), 0.0, np.full(seeds, np.nan))


def test_suggestions_of_a_curve_that_is_known():
    rates = np.geomspace(1e-4, 1, 101)
    logs = np.log10(rates)
    curve = 1 / (1 + np.exp(4 * (logs + 2))) + np.where(logs > -1, (logs + 1) ** 2, 0)
    found = result(curve, 2)
    assert found.suggestion == found.steepest == pytest.approx(1e-2, rel=1e-6)
    assert found.steepest_of_seeds == [found.steepest] * 2
    assert found.minimum == rates[10:-1][np.argmin(curve[10:-1])] / 10
    assert found.valley == fastai_valley(rates[10:-1], curve[10:-1])
    assert "suggestion 0.01" in str(found) and "never diverged" in str(found)
    noisy = curve + RNG.normal(size=101) * 0.1
    assert result(noisy).valley == fastai_valley(rates[10:-1], noisy[10:-1])
    assert result(np.linspace(1, 2, 30)).steepest is None


def fastai_valley(rates, losses):
    """`fastai.callback.schedule.valley`, with the cut that is made before it."""
    n, start, end = len(losses), 0, 0
    lds = [1] * n
    for i in range(1, n):
        for j in range(i):
            if losses[i] < losses[j] and lds[i] < lds[j] + 1:
                lds[i] = lds[j] + 1
            if lds[end] < lds[i]:
                end = i
                start = end - lds[end]
    sections = (end - start) / 3
    return float(rates[start + int(sections) + int(sections / 2)])


def test_the_plot_shows_curves_and_suggestions():
    import matplotlib.pyplot as plt

    found = find(linear(), seeds=(0, 1), batch_size=8)
    axes = found.plot(plt.figure().gca())
    assert axes.get_xscale() == "log" and len(axes.lines) >= 3
    np.testing.assert_array_equal(axes.lines[2].get_ydata(), found.smoothed)
    assert any("steepest" in str(line.get_label()) for line in axes.lines)
    plt.close("all")


def test_bad_input():
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model"):
        find("model")
    with pytest.raises(ValueError, match=r"`model` must be built"):
        find(keras.Sequential([layers.Dense(1)]))
    with pytest.raises(ValueError, match=r"`model` must be compiled"):
        find(keras.Sequential([keras.Input((3,)), layers.Dense(1)]))
    bad = {"low": 0.0, "high": 1e-9, "steps": 5, "batch_size": 0, "smoothing": 1, "diverge": 1}
    for name, value in bad.items():
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            find(linear(), **{name: value})
    for seeds in (0, (), "01", (0.5,)):
        with pytest.raises(TypeError, match="`seeds"):
            find(linear(), seeds=seeds)
    with pytest.raises(TypeError, match="can be read only once"):
        find(linear(), iter([(X, Y)]))
    with pytest.raises(TypeError, match="`data` must be"):
        find(linear(), X)
    with pytest.raises(ValueError, match="same number of samples"):
        find(linear(), (X, Y[:3]))
    with pytest.raises(Exception, match="at least one batch"):
        find(linear(), type("Empty", (), {"__iter__": lambda self: iter([])})())


def test_it_is_public():
    assert ko.diagnostics.find_learning_rate is find_learning_rate
    assert isinstance(find(linear(), steps=10), ko.diagnostics.LearningRateRange)
    assert math.isfinite(find(linear(), batch_size=24).suggestion)
