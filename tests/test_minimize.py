from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.optimizers._line_search import Trial, line_search
from keras_optkit.optimizers.minimize import minimize

METHODS = ("lbfgs", "cg", "gd")
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(60, 4)) * [1, 2, 3, 0.5]).astype("float32")
Y = (X @ RNG.normal(size=(4, 1)) + RNG.normal(size=(60, 1)) > 0.3).astype("float32")
L2 = 0.05


def dense(loss="mse", l2=L2, **kwargs):
    keras.utils.set_random_seed(1)
    regularizer = keras.regularizers.L2(l2) if l2 else None
    layer = layers.Dense(1, kernel_regularizer=regularizer, **kwargs)
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile(loss=loss)
    return model


def network(*extra, loss="mse"):
    keras.utils.set_random_seed(2)
    first = layers.Dense(6, activation="tanh", kernel_regularizer="l2")
    model = keras.Sequential([keras.Input((4,)), first, *extra, layers.Dense(1)])
    model.compile(loss=loss)
    return model


def logistic():
    return dense(keras.losses.BinaryCrossentropy(from_logits=True))


def flat(model):
    weights = [ops.convert_to_numpy(v).ravel() for v in model.trainable_variables]
    return np.concatenate(weights).astype("float64")


def state(model):
    return [ops.convert_to_numpy(v).copy() for v in model.variables]


def logistic_judge(w):
    """Returns the loss of `logistic` and its gradient in float64."""
    x = np.c_[X, np.ones(len(X))].astype("float64")
    z, penalized = x @ w, w * [1, 1, 1, 1, 0]
    loss = np.mean(np.logaddexp(0, z) - Y[:, 0] * z) + L2 * penalized @ penalized
    return loss, x.T @ (1 / (1 + np.exp(-z)) - Y[:, 0]) / len(x) + 2 * L2 * penalized


def lbfgs_direction(points, gradients, history):
    """Nocedal & Wright (2006), equation 7.19: the recurrence of BFGS, as a matrix."""
    pairs = [
        (b - a, d - c) for (a, b), (c, d) in zip(pairwise(points), pairwise(gradients), strict=True)
    ]
    n = len(points[0])
    h = np.eye(n)
    if pairs:
        s, y = pairs[-1]
        h *= s @ y / (y @ y)
    for s, y in pairs[-history:]:
        v = np.eye(n) - np.outer(y, s) / (y @ s)
        h = v.T @ h @ v + np.outer(s, s) / (y @ s)
    return -h @ gradients[-1]


def cg_direction(points, gradients, history):
    """Equations 5.44 and 5.45, from the first point on."""
    p = -gradients[0]
    for old, new in pairwise(gradients):
        p = -new + max(new @ (new - old) / (old @ old), 0) * p
        if p @ new > -0.01 * new @ new:
            p = -new
    return p


DIRECTIONS = {
    "lbfgs": lbfgs_direction,
    "cg": cg_direction,
    "gd": lambda points, gradients, history: -gradients[-1],
}


@pytest.mark.parametrize(("method", "history"), [("lbfgs", 10), ("lbfgs", 3), ("cg", 1), ("gd", 1)])
def test_every_step_follows_the_book(method, history):
    model = logistic()
    points = [flat(model)]
    result = minimize(
        model,
        X,
        Y,
        method,
        history=history,
        callback=lambda _: points.append(flat(model)),
        tolerance=1e-3,
        verbose=0,
    )
    losses, gradients = zip(*map(logistic_judge, points), strict=True)
    np.testing.assert_allclose(result.history, losses, rtol=1e-6)
    assert len(points) > 5
    for k in range(len(points) - 1):
        p = DIRECTIONS[method](points[: k + 1], gradients[: k + 1], history)
        step = points[k + 1] - points[k]
        alpha = step @ p / (p @ p)
        error = np.linalg.norm(step - alpha * p) / np.linalg.norm(step)
        assert error < 2e-3, f"step {k}: direction off by {error}"
        slope = gradients[k] @ step
        fallen = losses[k + 1] - losses[k]
        assert fallen <= 1e-4 * slope + 1e-7, f"step {k}: condition 3.7a"
        left = abs(gradients[k + 1] @ step) / abs(slope)
        assert left <= (0.9 if method == "lbfgs" else 0.4) + 1e-3, f"step {k}: condition 3.7b"


@pytest.mark.parametrize("method", ["lbfgs", "cg"])
def test_agrees_with_scipy(method):
    optimize = pytest.importorskip("scipy.optimize")
    model = logistic()
    names = {"lbfgs": "L-BFGS-B", "cg": "CG"}
    theirs = optimize.minimize(
        logistic_judge, flat(model), jac=True, method=names[method], options={"gtol": 1e-6}
    )
    result = minimize(model, X, Y, method, tolerance=1e-6, verbose=0)
    exact = optimize.minimize(
        logistic_judge, flat(model), jac=True, method="BFGS", options={"gtol": 1e-10}
    )
    np.testing.assert_allclose(flat(model), exact.x, atol=2e-5)
    np.testing.assert_allclose(result.loss, exact.fun, rtol=1e-6)
    assert result.converged
    assert result.evaluations <= 1.6 * theirs.nfev + 5


@pytest.mark.parametrize("method", METHODS)
def test_finds_the_ridge_solution_to_the_last_digits(method):
    model = dense()
    result = minimize(model, X, Y, method, verbose=0)
    x = np.c_[X, np.ones(60)].astype("float64")
    solution = np.linalg.solve(x.T @ x / 60 + L2 * np.diag([1, 1, 1, 1, 0]), x.T @ Y / 60)[:, 0]
    # A loss of seven digits alone tells the place of its minimum to three or four.
    np.testing.assert_allclose(flat(model), solution, atol=1e-6)
    loss = np.mean((x @ solution - Y[:, 0]) ** 2) + L2 * np.sum(solution[:4] ** 2)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-6)
    assert result.converged
    assert result.evaluations < 250
    assert result.history[0] == result.initial_loss > result.loss
    assert len(result.history) == result.iterations + 1
    assert "converged" in repr(result)


@pytest.mark.parametrize("slope", [-1e-3, -1.0, -1e3])
@pytest.mark.parametrize("first", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("c_2", [0.1, 0.9])
def test_line_search_meets_the_wolfe_conditions(first, slope, c_2):
    functions = [
        lambda a: (slope * (a - a * a / 6), slope * (1 - a / 3)),
        lambda a: (slope * a / (1 + a * a), slope * (1 - a * a) / (1 + a * a) ** 2),
        lambda a: (slope * np.sin(a) + a**4, slope * np.cos(a) + 4 * a**3),
    ]
    for function in functions:
        found, well = line_search(function, Trial(0.0, *function(0.0)), first, 1e-4, c_2)
        loss, end = function(found.step)
        assert well
        assert loss <= function(0.0)[0] + 1e-4 * found.step * slope
        assert abs(end) <= c_2 * abs(slope)


def test_batches_change_nothing():
    results, weights = [], []
    for size in (None, 16):
        model = network()
        results.append(minimize(model, X, Y, batch_size=size, max_iterations=4, verbose=0))
        weights.append(flat(model))
    for result, w in zip(results, weights, strict=True):
        np.testing.assert_allclose(result.history, results[0].history, rtol=2e-6)
        np.testing.assert_allclose(w, weights[0], atol=1e-4)


def test_sample_weights_and_a_loss_by_name():
    weight = np.linspace(0, 2, 60).astype("float32")
    model = dense()
    model.optimizer = None
    minimize(model, X, Y, loss="mse", sample_weight=weight, verbose=0)
    x = np.c_[X, np.ones(60)].astype("float64")
    a = x.T @ (weight[:, None] * x) / 60 + L2 * np.diag([1, 1, 1, 1, 0])
    np.testing.assert_allclose(
        flat(model), np.linalg.solve(a, x.T @ (weight * Y[:, 0]) / 60), atol=1e-6
    )
    compiled = dense()
    minimize(compiled, X, Y, sample_weight=weight, verbose=0)
    np.testing.assert_allclose(flat(compiled), flat(model), atol=1e-6)


def test_several_inputs_and_outputs():
    keras.utils.set_random_seed(0)
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    both = layers.Concatenate()([a, b])
    outputs = {"u": layers.Dense(1, name="u")(both), "v": layers.Dense(1, name="v")(b)}
    model = keras.Model({"a": a, "b": b}, outputs)
    model.compile(loss={"u": "mse", "v": "mse"}, loss_weights={"u": 1.0, "v": 2.0})
    data = {"a": X[:, :2], "b": X[:, 2:]}
    result = minimize(model, data, {"u": Y, "v": 1 - Y}, verbose=0, batch_size=20)
    full = np.c_[X, np.ones(60)].astype("float64")
    rest = [
        np.linalg.lstsq(x, y, rcond=None)[1][0] / 60 for x, y in ((full, Y), (full[:, 2:], 1 - Y))
    ]
    np.testing.assert_allclose(result.loss, rest[0] + 2 * rest[1], rtol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_only_trainable_weights_move(training):
    extra = [layers.BatchNormalization(), layers.Dense(3, trainable=False)]
    model = network(*extra, *([] if training else [layers.Dropout(0.5)]))
    before = state(model)
    result = minimize(model, X, Y, training=training, max_iterations=5, verbose=0)
    assert result.loss < result.initial_loss
    trainable = [any(v is t for t in model.trainable_variables) for v in model.variables]
    for moves, old, new in zip(trainable, before, state(model), strict=True):
        assert moves != np.array_equal(old, new)


class Physics(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(1)
        self.tracker = keras.metrics.Mean()

    def call(self, x):
        return self.inner(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        loss = ops.mean(ops.square(y_pred - 1)) + ops.mean(ops.square(self(2 * x) - 1))
        self.tracker.update_state(loss)
        return loss


def test_a_loss_of_the_models_own():
    model = Physics()
    model(X[:1])
    result = minimize(model, X, verbose=0)
    assert result.loss < 1e-12
    assert float(model.tracker.count) == 0
    np.testing.assert_allclose(flat(model), [0, 0, 0, 0, 1], atol=1e-6)


def test_embeddings():
    model = keras.Sequential(
        [keras.Input((2,), dtype="int32"), layers.Embedding(3, 1), layers.Flatten()]
    )
    model.add(layers.Dense(1))
    model.compile(loss="mse")
    result = minimize(
        model, np.array([[0, 1], [1, 2], [2, 2]]), np.array([1.0, 2.0, 3.0]), verbose=0
    )
    assert result.loss < 1e-10


def test_best_weights_stay_when_interrupted():
    for error in (KeyboardInterrupt, ZeroDivisionError):
        model, seen = network(), []

        def interrupt(result, seen=seen, model=model, error=error):
            seen.append((result.loss, flat(model)))
            if result.iterations == 4:
                raise error

        with pytest.raises(error):
            minimize(model, X, Y, callback=interrupt, verbose=0)
        np.testing.assert_array_equal(flat(model), seen[-1][1])
        assert min(loss for loss, _ in seen) == seen[-1][0]


def test_limits():
    model = network()
    result = minimize(model, X, Y, callback=lambda r: r.iterations == 3, verbose=0)
    assert (result.iterations, result.converged) == (3, False)
    assert "callback" in result.message
    np.testing.assert_allclose(model.evaluate(X, Y, verbose=0), result.loss, rtol=1e-5)
    result = minimize(model, X, Y, max_iterations=2, verbose=0)
    assert (result.iterations, result.converged) == (2, False)
    result = minimize(model, X, Y, max_seconds=1e-6, verbose=0)
    assert (result.iterations, result.loss) == (0, result.initial_loss)
    result = minimize(model, X, Y, tolerance=1e9, verbose=0)
    assert (result.iterations, result.converged) == (0, True)


def test_steps_back_from_where_the_loss_is_not_finite():
    def loss(y, y_pred):
        return y_pred - ops.log(y_pred)  # NaN below 0; the first step goes there

    model = dense(loss, l2=0, bias_initializer=keras.initializers.Constant(30.0), use_bias=True)
    x = np.ones((8, 4), "float32") * [1, -1, 1, -1]
    result = minimize(model, x.astype("float32"), x[:, :1], verbose=0)
    assert result.converged
    np.testing.assert_allclose(result.loss, 1, rtol=1e-6)


def test_knows_a_loss_that_is_rounding_errors_only():
    # Of values near 1, so that they are far larger than the last digits of the loss.
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2), layers.Dense(1)])
    x = X[:8]
    result = minimize(model, x, x.sum(axis=1, keepdims=True), loss="mse", verbose=0)
    assert result.converged and result.loss < 1e-12


def test_says_when_gradient_and_loss_disagree():
    def loss(y, y_pred):
        return ops.stop_gradient(3 * y_pred) - y_pred + 1000 * ops.square(y_pred - y_pred)

    model = dense(loss, l2=0)
    before = flat(model)
    result = minimize(model, np.abs(X), Y, verbose=0)
    assert not result.converged
    assert "stop_gradient" in result.message
    np.testing.assert_allclose(flat(model), before, atol=1e-6)


def unbuilt():
    model = keras.Sequential([layers.Dense(1)])
    model.compile(loss="mse")
    return model


def not_compiled():
    return keras.Sequential([keras.Input((4,)), layers.Dense(1)])


def nothing_trainable():
    model = dense()
    model.trainable = False
    return model


def infinite():
    model = dense()
    model.set_weights([np.full((4, 1), np.inf), np.zeros(1)])
    return model


def half():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, dtype="mixed_bfloat16", name="h")])
    model.compile(loss="mse")
    return model


SUM = keras.losses.MeanSquaredError(reduction="sum")


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (dense, {"method": "newton"}, ValueError, "`method` must be one of 'lbfgs', 'cg', 'gd'"),
        (dense, {"tolerance": -1}, ValueError, "`tolerance` must be at least 0"),
        (dense, {"max_iterations": 0}, ValueError, "`max_iterations` must be an integer of at"),
        (dense, {"history": 0}, ValueError, "`history` must be an integer of at least 1"),
        (dense, {"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1"),
        (dense, {"max_seconds": "1"}, TypeError, "`max_seconds` must be a number"),
        (dense, {"callback": 3}, TypeError, "`callback` must be callable. Received: callback=3"),
        (dense, {"loss": ["mse"]}, TypeError, "`loss` must be one loss"),
        (dense, {"y": Y[:50]}, ValueError, "same number of samples.* 60 for x, 50 for y"),
        (dense, {"x": iter([X])}, TypeError, "turn a dataset or a generator into arrays"),
        (unbuilt, {}, ValueError, "`model` must be built"),
        (not_compiled, {}, ValueError, "There is no loss to minimize"),
        (nothing_trainable, {}, ValueError, "`model` must have trainable weights"),
        (infinite, {}, ValueError, "must be finite at the start"),
        (half, {}, ValueError, "half precision in h"),
        (lambda: 3, {}, TypeError, "`model` must be a keras.Model. Received: model=3"),
        (
            lambda: dense(kernel_constraint="non_neg"),
            {},
            ValueError,
            "know no constraints.* constraints on .*kernel",
        ),
        (
            lambda: network(layers.Dropout(0.5, name="drop"), layers.GaussianNoise(1, name="fog")),
            {"training": True},
            ValueError,
            "but drop, fog draws random numbers. Use `training=False`.* Received: training=True",
        ),
        (lambda: dense(SUM), {"batch_size": 7}, ValueError, "`batch_size` needs a loss that is a"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_bad_arguments(make, arguments, error, message):
    model = make()
    before = state(model) if isinstance(model, keras.Model) else None
    with pytest.raises(error, match=message):
        minimize(model, **({"x": X, "y": Y, "verbose": 0} | arguments))
    if before is not None:
        for old, new in zip(before, state(model), strict=True):
            np.testing.assert_array_equal(old, new)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="JAX has no float64 by default, and Keras rounds a sum of losses to float32 on torch",
)
def test_double_precision():
    keras.config.set_floatx("float64")
    try:
        model = dense(dtype="float64")
        result = minimize(model, X, Y, tolerance=1e-13, verbose=0)
    finally:
        keras.config.set_floatx("float32")
    x = np.c_[X, np.ones(60)].astype("float64")
    solution = np.linalg.solve(x.T @ x / 60 + L2 * np.diag([1, 1, 1, 1, 0]), x.T @ Y / 60)[:, 0]
    assert result.converged
    # Keras keeps the strength of a penalty in float32.
    np.testing.assert_allclose(flat(model), solution, atol=1e-8)


def test_progress_bar(capsys):
    minimize(network(), X, Y, max_iterations=2, verbose=0)
    assert capsys.readouterr().out == ""
    keras.utils.enable_interactive_logging()
    minimize(network(), X, Y, max_iterations=2, verbose=1)
    assert "gradient_norm" in capsys.readouterr().out
