"""Eigenvalues of Hessians against closed forms and dense Hessians in float64."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_optkit as ko
from keras_optkit.diagnostics._fixed_loss import fixed_loss
from keras_optkit.diagnostics._lanczos import lanczos
from keras_optkit.diagnostics.hessian_spectrum import hessian_spectrum

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype("float32")
Y = RNG.normal(size=(40, 2)).astype("float32")
L2 = 0.01
SHAPES = [(4, 12), (12,), (12, 2), (2,)]
SIZE = sum(math.prod(shape) for shape in SHAPES)


def network(*extra, l2=L2, **kwargs):
    keras.utils.set_random_seed(1)
    first = layers.Dense(12, "tanh", kernel_regularizer=keras.regularizers.L2(l2), **kwargs)
    model = keras.Sequential([keras.Input((4,)), first, *extra, layers.Dense(2, **kwargs)])
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:  # the same on every backend
        variable.assign(0.5 * rng.normal(size=variable.shape))
    model.compile(loss="mse")
    return model


def gradient(flat, x, y, weight=None):
    """The gradient of the loss of `network`; complex numbers pass through."""
    parts = np.split(flat, np.cumsum([math.prod(shape) for shape in SHAPES])[:-1])
    a, b, c, d = (part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True))
    weight = np.ones(len(x)) if weight is None else weight
    hidden = np.tanh(x @ a + b)
    out = 2 * (hidden @ c + d - y) * weight[:, None] / y.size
    back = out @ c.T * (1 - hidden**2)
    by = [x.T @ back + 2 * L2 * a, back.sum(0), hidden.T @ out, out.sum(0)]
    return np.concatenate([part.ravel() for part in by])


def dense_hessian(model, x=X, y=Y, weight=None):
    """The derivative of `gradient` by complex steps, exact to the last digits of float64."""
    flat = np.concatenate([ops.convert_to_numpy(v).ravel() for v in model.trainable_variables])
    x, y, step = x.astype("float64"), y.astype("float64"), 1e-30
    rows = [gradient(flat + 1j * step * e, x, y, weight).imag / step for e in np.eye(SIZE)]
    return np.array(rows)


def spectrum(model, data=(X, Y), k=5, method="lanczos", **kwargs):
    return hessian_spectrum(model, data, k, method, verbose=0, **kwargs)


def state(model):
    return [ops.convert_to_numpy(v).copy() for v in model.variables]


def assert_unchanged(model, before):
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(old, new)


def quadratic(eigenvalues, outputs=1):
    """A linear model and data whose Hessian has these eigenvalues, once for each output."""
    size = len(eigenvalues)
    samples = 2 * size
    orthogonal = np.linalg.qr(np.random.default_rng(3).normal(size=(samples, size)))[0]
    rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(size, size)))[0]
    x = orthogonal * np.sqrt(np.array(eigenvalues) * samples * outputs / 2) @ rotation
    model = keras.Sequential([keras.Input((size,)), layers.Dense(outputs, use_bias=False)])
    model.compile(loss="mse")
    return model, (x.astype("float32"), np.zeros((samples, outputs), "float32"))


@pytest.mark.parametrize(
    ("method", "k", "arguments", "tolerance"),
    [
        ("lanczos", 3, {}, 1e-6),  # all eigenvalues
        ("lanczos", 3, {"max_iterations": 60}, 1e-5),
        ("power", 1, {"max_iterations": 3000, "tolerance": 2e-4, "probes": 0}, 1e-4),
    ],
)
def test_agrees_with_the_dense_hessian(method, k, arguments, tolerance):
    model = network()
    hessian = dense_hessian(model)
    expected, vectors = np.linalg.eigh(hessian)
    found = spectrum(model, method=method, k=k, eigenvectors=True, **arguments)
    scale = abs(expected).max()
    assert found.converged and found.exact == (not arguments)
    assert found.parameters == SIZE
    np.testing.assert_allclose(found.largest, expected[: -k - 1 : -1], atol=tolerance * scale)
    np.testing.assert_allclose(found.smallest, expected[:k], atol=tolerance * scale)
    np.testing.assert_allclose(abs(found.largest_vectors @ vectors[:, -1])[0], 1, atol=1e-4)
    for values, residuals, rows in (
        (found.largest, found.largest_residuals, found.largest_vectors),
        (found.smallest, found.smallest_residuals, found.smallest_vectors),
    ):
        np.testing.assert_allclose(rows @ rows.T, np.eye(k), atol=1e-3)
        true = np.linalg.norm(rows @ hessian - values[:, None] * rows, axis=1)
        assert (true <= residuals + 3e-6 * scale).all()
    assert math.isnan(found.condition_number)  # not convex


def test_all_eigenvalues_of_a_small_model():
    model = network()
    expected = np.linalg.eigvalsh(dense_hessian(model))
    found = spectrum(model)
    np.testing.assert_allclose(found.nodes, expected, atol=1e-6 * expected[-1])
    np.testing.assert_allclose(found.trace, expected.sum(), rtol=1e-5)
    assert found.trace_error == 0
    assert np.mean(expected < 0) > 0.1
    np.testing.assert_allclose(found.negative_share, np.mean(expected < 0))
    assert found.products == SIZE
    assert found.loss == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-6)


def test_trace_and_density_are_estimates_with_the_error_they_state():
    model = network()
    hessian = dense_hessian(model)
    expected = np.linalg.eigvalsh(hessian)
    found = spectrum(model, max_iterations=20, probes=60, probe_iterations=20, seed=1)
    off = hessian - np.diag(np.diag(hessian))
    error = math.sqrt(2 * np.sum(off**2) / 60)  # Hutchinson (1990), for random signs
    assert 0.7 * error < found.trace_error < 1.4 * error
    assert abs(found.trace - expected.sum()) < 3 * error
    np.testing.assert_allclose(found.weights.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(SIZE * found.nodes @ found.weights, found.trace, rtol=1e-4)
    squares = SIZE * found.nodes**2 @ found.weights
    np.testing.assert_allclose(squares, np.sum(expected**2), rtol=0.15)
    for level in (0.01, 0.1, 0.5):
        below = found.weights[found.nodes < level].sum()
        assert abs(below - np.mean(expected < level)) < 0.07, level
    assert abs(found.negative_share - np.mean(expected < 0)) < 0.07
    again = spectrum(model, max_iterations=20, probes=60, probe_iterations=20, seed=1)
    assert again.trace == found.trace
    other = spectrum(model, max_iterations=20, probes=60, probe_iterations=20, seed=2)
    assert other.trace != found.trace


def test_density_is_one():
    found = spectrum(network())
    grid, values = found.density
    np.testing.assert_allclose(np.trapezoid(values, grid), 1, rtol=1e-3)
    assert grid[0] < found.smallest[0] and grid[-1] > found.largest[0]
    np.testing.assert_allclose(np.trapezoid(values * grid, grid), found.trace / SIZE, rtol=1e-3)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_known_spectrum(outputs):
    eigenvalues = np.geomspace(0.01, 100, 10)
    model, data = quadratic(eigenvalues, outputs)
    found = spectrum(model, data, k=2 * outputs)
    expected = np.sort(np.repeat(eigenvalues, outputs))  # multiple ones too
    np.testing.assert_allclose(found.nodes, expected, atol=1e-5 * 100 / 4)
    np.testing.assert_allclose(found.condition_number, 1e4, rtol=1e-2)
    np.testing.assert_allclose(found.trace, expected.sum(), rtol=1e-5)
    assert found.negative_share == 0
    assert found.verdict.startswith("ill-conditioned: 1.0e+04; plain gradient descent needs a")
    assert "below 2/100 = 0.02" in found.verdict


def test_condition_number_without_all_eigenvalues():
    model, data = quadratic(np.linspace(1, 8, 40))
    found = spectrum(model, data, k=2, max_iterations=38)
    assert not found.exact and found.converged
    np.testing.assert_allclose(found.condition_number, 8, rtol=1e-4)
    assert found.verdict.startswith("well-conditioned: 8; ")


def test_says_when_it_has_not_converged():
    model, data = quadratic(np.linspace(1, 8, 60))
    found = spectrum(model, data, k=3, max_iterations=8, probes=1)
    assert not found.converged and "not converged" in str(found)
    assert found.products == 8
    assert math.isnan(found.trace_error)
    assert (found.largest_residuals > 1e-4 * 8).any()


def polynomial(factors):
    def loss(y_true, y_pred):
        return ops.sum(ops.square(y_pred) * ops.convert_to_tensor(factors, "float32"), axis=-1)

    return loss


@pytest.mark.parametrize(
    ("factors", "begins"),
    [
        ([1, -2], "saddle: the smallest eigenvalue is -4 and 50 % of all are negative"),
        ([-1, -2], "concave: "),
        ([0, 0], "flat: "),
        ([1, 0], "ill-conditioned: infinite up to rounding; "),
        ([1, 2], "well-conditioned: 2; "),
    ],
)
def test_verdicts(factors, begins):
    model = keras.Sequential([keras.Input((1,)), layers.Dense(2, use_bias=False)])
    ones = np.ones((4, 1), "float32")
    found = spectrum(model, (ones, ones), loss=polynomial(factors))
    assert found.verdict.startswith(begins), found.verdict
    expected = np.sort(2 * np.array(factors, "float64"))
    np.testing.assert_allclose(found.nodes, expected, atol=1e-6)
    assert str(found).startswith(begins) and repr(found) == f"HessianSpectrum({found})"


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(index * 12, min(index * 12 + 12, 40))
        return X[rows], Y[rows]


@pytest.mark.parametrize(
    ("data", "batch_size"),
    [
        ((X, Y), 7),
        ([X, Y], None),
        (Batches(), None),
        (Batches(), 40),
        (iter([(X[:30], Y[:30]), (X[30:], Y[30:])]), None),
    ],
)
def test_data_in_any_form(data, batch_size):
    expected = np.linalg.eigvalsh(dense_hessian(network()))
    found = spectrum(network(), data, batch_size=batch_size)
    np.testing.assert_allclose(found.nodes, expected, atol=2e-6 * expected[-1])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others need not have tf.data")
def test_tf_data():
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    expected = np.linalg.eigvalsh(dense_hessian(network()))
    found = spectrum(network(), dataset)
    np.testing.assert_allclose(found.nodes, expected, atol=2e-6 * expected[-1])
    with pytest.raises(ValueError, match="`data` must be finite; use its `take"):
        spectrum(network(), dataset.repeat())


def test_sample_weights():
    weight = RNG.uniform(0, 2, len(X)).astype("float32")
    expected = np.linalg.eigvalsh(dense_hessian(network(), weight=weight.astype("float64")))
    found = spectrum(network(), (X, Y, weight))
    np.testing.assert_allclose(found.nodes, expected, atol=1e-6 * expected[-1])


def test_a_model_under_a_mixed_policy_is_computed_in_float32():
    expected = np.linalg.eigvalsh(dense_hessian(network()))
    model = network(dtype="mixed_float16")
    found = spectrum(model)
    np.testing.assert_allclose(found.nodes, expected, atol=1e-6 * expected[-1])
    assert [layer.compute_dtype for layer in model.layers] == ["float16"] * 2

    def broken(y_true, y_pred):
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        spectrum(model, loss=broken)
    assert [layer.dtype_policy.name for layer in model.layers] == ["mixed_float16"] * 2


@pytest.mark.parametrize("training", [False, True])
def test_leaves_the_model_alone(training):
    extra = layers.BatchNormalization()
    model = network(extra) if training else network(extra, layers.Dropout(0.5))
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(X, Y, epochs=2, verbose=0)
    before = state(model)
    found = spectrum(model, training=training, max_iterations=30, probes=2)
    assert_unchanged(model, before)
    assert model.layers[-1].losses == []
    again = spectrum(model, training=training, max_iterations=30, probes=2)
    np.testing.assert_array_equal(found.largest, again.largest)
    other = spectrum(model, training=not training, max_iterations=30) if training else None
    assert other is None or abs(other.largest[0] / found.largest[0] - 1) > 0.01


def sequence(*inner):
    return keras.Sequential([keras.Input((5,)), layers.Embedding(7, 4), *inner, layers.Dense(2)])


class Attention(layers.Layer):
    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 3)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


KINDS = {
    "conv": lambda: keras.Sequential(
        [
            keras.Input((5,)),
            layers.Reshape((5, 1)),
            layers.Conv1D(4, 3, activation="gelu"),
            layers.AveragePooling1D(2),
            layers.LayerNormalization(),
            layers.Flatten(),
            layers.Dense(2, activation="tanh"),
        ]
    ),
    "batch": lambda: keras.Sequential(
        [keras.Input((5,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(2, "tanh")]
    ),
    "recurrent": lambda: sequence(layers.LSTM(3)),
    "attention": lambda: sequence(Attention(), layers.GlobalAveragePooling1D()),
}


FLOATS = ("conv", "batch")


@pytest.mark.parametrize("kind", KINDS)
def test_products_with_many_kinds_of_layers(kind):
    keras.utils.set_random_seed(2)
    model = KINDS[kind]()
    x = RNG.integers(0, 7, (16, 5)).astype("float32" if kind in FLOATS else "int32")
    y = RNG.integers(0, 2, 16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    objective = fixed_loss(model, (x, y), loss, None, kind == "batch")
    start = ops.convert_to_numpy(objective.start())
    vectors = RNG.normal(size=(2, len(start))).astype("float32")

    def gradient_at(point):
        point = ops.convert_to_tensor(point.astype("float32"))
        return ops.convert_to_numpy(objective(point, point)[1]).astype("float64")

    products = []
    for vector in vectors:
        given = ops.convert_to_tensor(start), ops.convert_to_tensor(vector)
        products.append(ops.convert_to_numpy(objective.product(*given)))
        step = 3e-3 / np.linalg.norm(vector)
        ahead, behind = (gradient_at(start + s * step * vector) for s in (1, -1))
        numeric = (ahead - behind) / (2 * step)
        error = np.linalg.norm(products[-1] - numeric) / np.linalg.norm(numeric)
        assert error < 5e-3, error
    np.testing.assert_allclose(vectors[0] @ products[1], vectors[1] @ products[0], rtol=1e-4)


def test_products_follow_the_weights_without_another_trace():
    traced = []

    def loss(y_true, y_pred):
        traced.append(1)
        return ops.mean(ops.square(y_true - y_pred), axis=-1)

    model = network()
    objective = fixed_loss(model, (X, Y), loss, None, False)
    vector = np.random.default_rng(5).normal(size=SIZE).astype("float32")
    for step in range(4):
        model.set_weights([1.1 * w for w in model.get_weights()])
        found = objective.product(objective.start(), ops.convert_to_tensor(vector))
        expected = dense_hessian(model) @ vector
        error = np.linalg.norm(ops.convert_to_numpy(found) - expected) / np.linalg.norm(expected)
        assert error < 1e-5, f"step {step}"
        if step == 1:
            count = len(traced)
    if BACKEND != "torch":  # which runs Python each time
        assert len(traced) == count


def test_lanczos_finds_multiple_eigenvalues_and_none():
    generator = np.random.default_rng(0)
    rotation = np.linalg.qr(generator.normal(size=(12, 12)))[0]
    values = np.array([-2.0] * 3 + [0.0] * 4 + [1.0, 5.0, 5.0, 5.0, 7.0])
    matrix = rotation * values @ rotation.T
    krylov = lanczos(lambda v: matrix @ v, generator.normal(size=12), 20, generator)
    np.testing.assert_allclose(krylov.ritz().values, values, atol=1e-12)
    np.testing.assert_allclose(krylov.basis @ krylov.basis.T, np.eye(12), atol=1e-13)
    nothing = lanczos(lambda v: 0 * v, generator.normal(size=4), 20, generator)
    np.testing.assert_array_equal(nothing.ritz().values, np.zeros(4))


def test_lanczos_knows_how_exact_the_products_are():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(50, 50))
    matrix += matrix.T

    def noisy(vector):
        return matrix @ vector + 1e-3 * generator.normal(size=50)

    clean = lanczos(lambda v: matrix @ v, generator.normal(size=50), 30, generator)
    rough = lanczos(noisy, generator.normal(size=50), 30, generator)
    assert clean.rounding < 1e-12
    assert 1e-3 < rough.rounding < 1e-2


def test_plot():
    plt = pytest.importorskip("matplotlib.pyplot")
    found = spectrum(network())
    axes = found.plot(plt.figure().gca())
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), found.density.grid)
    plt.close("all")


def test_progress(capsys):
    hessian_spectrum(network(), (X, Y), k=2)
    assert "product" in capsys.readouterr().out
    spectrum(network())
    assert capsys.readouterr().out == ""


def unbuilt():
    return keras.Sequential([layers.Dense(2)])


def not_compiled():
    return keras.Sequential([keras.Input((4,)), layers.Dense(2)])


def half():
    return network(dtype="bfloat16")


def rooted(y_true, y_pred):
    return ops.sum(ops.sqrt(ops.square(y_pred) - ops.square(ops.stop_gradient(y_pred))), axis=-1)


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (network, {"k": 0}, ValueError, "`k` must be an integer of at least 1"),
        (network, {"method": "qr"}, ValueError, "`method` must be one of 'lanczos', 'power'"),
        (network, {"max_iterations": 0}, ValueError, "`max_iterations` must be an integer of"),
        (network, {"max_iterations": 2, "k": 3}, ValueError, "`max_iterations` must be at least"),
        (network, {"tolerance": 0}, ValueError, "`tolerance` must be greater than 0"),
        (network, {"probes": -1}, ValueError, "`probes` must be an integer of at least 0"),
        (network, {"probe_iterations": 0}, ValueError, "`probe_iterations` must be an integer"),
        (network, {"eigenvectors": 1}, TypeError, "`eigenvectors` must be True or False"),
        (network, {"training": None}, TypeError, "`training` must be True or False"),
        (network, {"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1"),
        (network, {"seed": -1}, ValueError, "`seed` must be an integer of at least 0"),
        (network, {"data": X}, TypeError, r"`data` must be `\(x, y\)`.*Received: ndarray"),
        (network, {"data": (X, Y[:3])}, ValueError, "same number of samples"),
        (network, {"data": (X,) * 4}, ValueError, "Received: a tuple of 4"),
        (network, {"data": iter([])}, ValueError, "`data` must have at least one batch"),
        (
            network,
            {"data": iter([(X, Y), (X[:, :3], Y)])},
            ValueError,
            "of one shape but for the first axis",
        ),
        (unbuilt, {}, ValueError, "`model` must be built"),
        (not_compiled, {}, ValueError, "There is no loss to look at: call `model.compile"),
        (half, {}, ValueError, "`model` must keep its weights in float32"),
        (lambda: 3, {}, TypeError, "`model` must be a keras.Model"),
        (network, {"loss": rooted}, ValueError, "second derivatives of the loss must be finite"),
        (
            lambda: network(layers.Dropout(0.5, name="drop")),
            {"training": True},
            ValueError,
            "drop draws random numbers",
        ),
    ],
    ids=str,
)
def test_bad_arguments(make, arguments, error, message):
    model = make()
    with pytest.raises(error, match=message):
        hessian_spectrum(model, **({"data": (X, Y), "verbose": 0} | arguments))


def test_without_probes():
    found = spectrum(network(), max_iterations=30, probes=0, k=1)
    assert math.isnan(found.trace) and math.isnan(found.negative_share)
    assert found.verdict.startswith("saddle: ")
    with pytest.raises(ValueError, match="`density` needs `probes` of at least 1"):
        _ = found.density


def test_is_public():
    assert ko.diagnostics.hessian_spectrum is hessian_spectrum
    assert isinstance(spectrum(network()), ko.diagnostics.HessianSpectrum)
