"""The Fisher information against closed forms in float64, with every loss and kind of labels."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.continual import MaskedCrossentropy, _per_sample, fisher_diagonal
from keras_optkit.testing._models import assert_same
from tests.data import golden_fisher

BACKEND = keras.backend.backend()
LOSSES = keras.losses
ROWS = 23
X = np.random.default_rng(0).normal(size=(ROWS, 4)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 3, ROWS)


def linear(units=3, activation=None):
    keras.utils.set_random_seed(0)
    layer = layers.Dense(units, activation, bias_initializer="normal")
    return keras.Sequential([layers.Input((4,)), layer])


def logits(model, x=X):
    kernel, bias = map(np.float64, model.get_weights())
    return np.float64(x) @ kernel + bias


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def of_linear(squares, x=X):
    """Returns the means for kernel and bias, given those of squares of gradients by the logits."""
    return [np.float64(x).T ** 2 @ squares / len(x), squares.mean(0)]


def measured(model, y=None, labels="exact", **kwargs):
    return fisher_diagonal(model, X, y, labels, verbose=0, **kwargs)


def assert_close(actual, expected, tolerance=1e-5):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * np.abs(e).max())


CROSSENTROPY = {
    "logits": (None, LOSSES.SparseCategoricalCrossentropy(from_logits=True)),
    "one-hot logits": (None, LOSSES.CategoricalCrossentropy(from_logits=True)),
    "softmax": ("softmax", "sparse_categorical_crossentropy"),
    "one-hot softmax": ("softmax", LOSSES.CategoricalCrossentropy()),
}


@pytest.mark.parametrize("name", CROSSENTROPY)
def test_softmax_regression_in_closed_form(name):
    activation, loss = CROSSENTROPY[name]
    model = linear(activation=activation)
    p = softmax(logits(model))
    # Of each logit, E[(p - y)^2] = p (1 - p).
    assert_close(measured(model, loss=loss), of_linear(p * (1 - p)))
    y = np.eye(3)[LABELS]
    given = y if "one-hot" in name else LABELS
    expected = of_linear((p - y) ** 2)
    assert_close(measured(model, given, "empirical", loss=loss, batch_size=5), expected)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("units", [1, 2])
def test_logistic_regression_in_closed_form(activation, units):
    loss = LOSSES.BinaryCrossentropy(from_logits=activation is None)
    model = linear(units, activation)
    p = 1 / (1 + np.exp(-logits(model)))
    assert_close(measured(model, loss=loss), of_linear(p * (1 - p) / units))
    y = np.stack([LABELS % 2, LABELS // 2], 1)[:, :units]
    expected = of_linear(((p - y) / units) ** 2)
    assert_close(measured(model, y, "empirical", loss=loss), expected)


@pytest.mark.parametrize("loss", ["mse", LOSSES.MeanSquaredError()])
def test_linear_gaussian_in_closed_form(loss):
    model = linear(2)
    # Normally distributed with variance N / 2 = 1.
    assert_close(measured(model, loss=loss), of_linear(np.ones((ROWS, 2))))
    y = np.random.default_rng(2).normal(size=(ROWS, 2)).astype("float32")
    assert_close(
        measured(model, y, "empirical", loss=loss), of_linear((logits(model) - np.float64(y)) ** 2)
    )


@pytest.mark.parametrize("labels", ["exact", "sampled"])
def test_heads_in_closed_form(labels):
    model, loss = linear(5), MaskedCrossentropy([(0, 3), (1, 2)])  # and 4 competes with all
    y = np.arange(ROWS) % 5
    rivals = np.ones((5, 5), bool)
    rivals[:4] = False
    for head in ([0, 3], [1, 2]):
        rivals[np.ix_(head, head)] = True
    p = softmax(np.where(rivals[y], logits(model), -np.inf))
    expected = of_linear(p * (1 - p))
    many = 1 if labels == "exact" else 300
    x, y = np.concatenate([X] * many), np.concatenate([y] * many)
    found = fisher_diagonal(model, x, y, labels, loss=loss, batch_size=len(x), verbose=0)
    assert_close(found, expected, 1e-5 if many == 1 else 0.1)
    with pytest.raises(ValueError, match="`y` must be given for MaskedCrossentropy"):
        measured(model, labels=labels, loss=loss)


def golden(name):
    keras.utils.set_random_seed(0)
    if name == "convolutional":
        body = [layers.Input((5, 5, 1)), layers.Conv2D(2, 3, activation="tanh"), layers.Flatten()]
        return keras.Sequential([*body, layers.Dense(3)])
    tokens = layers.Input((4,), dtype="int32")
    x = layers.Embedding(6, 4)(tokens)
    x = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(1, 2)(x, x))
    return keras.Model(tokens, layers.Dense(3)(x))


@pytest.mark.parametrize("name", golden_fisher.NETWORKS)
def test_golden_arrays_of_torch_in_float64(name):
    with np.load(golden_fisher.FILE) as file:
        kept = {key.removeprefix(f"{name}/"): file[key] for key in file if key.startswith(name)}

    def arrays(kind):
        return [kept[f"{kind}/{i}"] for i in range(len(model.weights))]

    model = golden(name)
    model.set_weights(arrays("weights"))
    loss = LOSSES.SparseCategoricalCrossentropy(from_logits=True)
    for labels in ("exact", "empirical"):
        found = fisher_diagonal(model, kept["x"], kept["y"], labels, loss=loss, verbose=0)
        for f, e in zip(found, arrays(labels), strict=True):
            # No bias of a key matters to a softmax, so all that is left there is rounding.
            np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-5 * max(e.max(), 1e-6))
        assert max(f.max() for f in found) > 0.01


SAMPLED = {
    "softmax": (3, None, LOSSES.SparseCategoricalCrossentropy(from_logits=True)),
    "probabilities": (3, "softmax", "categorical_crossentropy"),
    "binary": (2, "sigmoid", "binary_crossentropy"),
    "gaussian": (2, None, "mse"),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_labels_are_right_in_the_mean(name):
    units, activation, loss = SAMPLED[name]
    model = linear(units, activation)
    x = np.concatenate([X] * 200)
    draws = fisher_diagonal(model, x, labels="sampled", loss=loss, batch_size=1000, verbose=0)
    # 4600 draws of a variance of at most twice the mean's square.
    assert_close(draws, measured(model, loss=loss), tolerance=0.1)
    one, two, again = (
        measured(model, labels="sampled", loss=loss, seed=seed, batch_size=size)
        for seed, size in ((1, 4), (2, 4), (1, 23))
    )
    assert_close(again, one, tolerance=1e-6)
    assert np.abs(one[0] - two[0]).max() > 1e-3


def test_positions_of_a_sequence_are_averaged():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Input((5, 4)), layers.Dense(3)])
    x = np.random.default_rng(3).normal(size=(6, 5, 4)).astype("float32")
    loss = LOSSES.SparseCategoricalCrossentropy(from_logits=True)
    p = softmax(logits(model, x)).reshape(30, 3)
    expected = of_linear(p * (1 - p), x.reshape(30, 4))
    actual = fisher_diagonal(model, x, loss=loss, verbose=0)
    assert_close(actual, expected)
    many = np.concatenate([x] * 300)
    draws = fisher_diagonal(model, many, labels="sampled", loss=loss, batch_size=900, verbose=0)
    assert_close(draws, expected, tolerance=0.1)


def deep():
    """Returns a network with statistics, seeds and more than Dense layers."""
    keras.utils.set_random_seed(0)
    body = [
        layers.Conv2D(2, 3, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling2D(),
        layers.Dropout(0.5),
        layers.Flatten(),
        layers.Dense(3, kernel_regularizer="l2"),
    ]
    model = keras.Sequential([layers.Input((4, 4, 1)), *body])
    model.compile("sgd", LOSSES.SparseCategoricalCrossentropy(from_logits=True))
    images = np.random.default_rng(4).normal(size=(ROWS, 4, 4, 1)).astype("float32")
    model.fit(images, LABELS, verbose=0)  # statistics that are not those of the start
    return model, images


def one_by_one(model, x, y):
    """Returns the means of squared steps of plain SGD on one sample, by Keras."""
    judge = keras.models.clone_model(model)
    judge.layers[1].trainable = False  # so that statistics are as in inference
    judge.layers[4].rate = 0.0
    judge.layers[-1].kernel.regularizer = None
    judge.compile(keras.optimizers.SGD(1.0), model.loss, jit_compile=False)
    totals = [0.0] * len(judge.trainable_variables)
    for i in range(len(x)):
        judge.set_weights(model.get_weights())
        start = [v.numpy() for v in judge.trainable_variables]
        judge.train_on_batch(x[i : i + 1], y[i : i + 1])
        steps = [v.numpy() - w for v, w in zip(judge.trainable_variables, start, strict=True)]
        totals = [t + np.float64(s) ** 2 for t, s in zip(totals, steps, strict=True)]
    return [t / len(x) for t in totals]


@pytest.mark.parametrize("together", [True, False])
def test_statistics_dropout_and_penalties_as_in_inference(together, monkeypatch):
    if not together:
        monkeypatch.setattr(_per_sample, "TOGETHER", False)
    elif BACKEND == "jax":
        monkeypatch.setattr("jax.default_backend", lambda: "gpu")  # or it would not try
    model, images = deep()
    x, y = images[:4], LABELS[:4]
    actual = fisher_diagonal(model, x, y, "empirical", verbose=0)
    expected = one_by_one(model, x, y)
    of_statistics = [a for a in actual if a.shape == (2,)][1:]
    assert len(of_statistics) == 2
    assert all((a > 0).all() for a in of_statistics)
    rest = [a for a in actual if not any(a is b for b in of_statistics)]
    assert_close(rest, expected, tolerance=1e-3)


def test_the_model_is_left_as_it_is():
    model, images = deep()
    before = [
        np.array(ops.convert_to_numpy(v)) for v in (*model.variables, *model.metrics_variables)
    ]
    random = np.random.get_state()[1].copy()
    for labels in ("sampled", "empirical"):
        fisher_diagonal(model, images, LABELS, labels, n_samples=4, verbose=0)
    after = [ops.convert_to_numpy(v) for v in (*model.variables, *model.metrics_variables)]
    assert_same(after, before, "left as it is")
    np.testing.assert_array_equal(np.random.get_state()[1], random)
    fresh = linear()
    fresh.compile("sgd", LOSSES.SparseCategoricalCrossentropy(from_logits=True))
    measured(fresh, LABELS, "empirical")
    assert not fresh._compile_loss.built


def test_layers_that_cannot_be_mapped_over_samples_are_taken_one_by_one(monkeypatch):
    if BACKEND == "jax":
        monkeypatch.setattr("jax.default_backend", lambda: "gpu")  # or it would not try

    class Branching(layers.Layer):
        """Asks for the value of its inputs, which is not known where samples are mapped."""

        def call(self, inputs):
            if BACKEND == "torch" and float(inputs.sum()) > 1e9:
                return inputs * 2
            if BACKEND == "jax":
                assert "Batch" not in type(inputs).__name__
            return inputs

    model = linear()
    model = keras.Sequential([*model.layers, Branching()])
    model.build((None, 4))
    p = softmax(logits(model))
    loss = LOSSES.SparseCategoricalCrossentropy(from_logits=True)
    assert_close(measured(model, loss=loss), of_linear(p * (1 - p)))


def test_several_inputs_and_outputs_embeddings_and_datasets():
    keras.utils.set_random_seed(0)
    ids, numbers = layers.Input((2,), name="ids"), layers.Input((3,), name="numbers")
    embedded = layers.Flatten()(layers.Embedding(5, 2, name="table")(ids))
    joined = layers.Concatenate()([embedded, numbers])
    outputs = {"a": layers.Dense(1, name="a")(joined), "b": layers.Dense(2, name="b")(joined)}
    model = keras.Model({"ids": ids, "numbers": numbers}, outputs)
    model.compile("sgd", {"a": "mse", "b": "mae"}, loss_weights={"a": 1.0, "b": 0.0})
    rng = np.random.default_rng(0)
    x = {"ids": rng.integers(0, 5, (6, 2)), "numbers": rng.normal(size=(6, 3)).astype("float32")}
    y = {
        name: rng.normal(size=(6, units)).astype("float32") for name, units in (("a", 1), ("b", 2))
    }
    actual = dict(
        zip(
            [v.path for v in model.trainable_variables],
            fisher_diagonal(model, x, y, "empirical", verbose=0),
            strict=True,
        )
    )
    table = np.float64(model.get_layer("table").get_weights()[0])
    kernel, bias = map(np.float64, model.get_layer("a").get_weights())
    features = np.concatenate([table[x["ids"]].reshape(6, 4), x["numbers"]], 1)
    error = 2 * (features @ kernel + bias - y["a"])
    np.testing.assert_allclose(actual["a/kernel"], (features**2).T @ error**2 / 6, rtol=1e-5)
    np.testing.assert_array_equal(actual["b/kernel"], 0)
    expected = np.zeros((5, 2))
    for row, e in zip(x["ids"], error[:, 0], strict=True):
        gradient = np.zeros((5, 2))
        np.add.at(gradient, row, e * kernel[:4, 0].reshape(2, 2))
        expected += gradient**2 / 6
    np.testing.assert_allclose(actual["table/embeddings"], expected, rtol=1e-5, atol=1e-9)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            rows = slice(3 * i, 3 * i + 3)
            return {k: v[rows] for k, v in x.items()}, {k: v[rows] for k, v in y.items()}

    again = fisher_diagonal(model, Batches(), labels="empirical", verbose=0)
    assert_same(again, list(actual.values()), "a dataset", atol=1e-7)


def test_some_samples_only():
    model = linear(2)
    chosen = np.sort(np.random.default_rng(3).choice(ROWS, 5, replace=False))
    expected = fisher_diagonal(model, X[chosen], loss="mse", verbose=0)
    assert_same(measured(model, loss="mse", n_samples=5, seed=3), expected, "chosen")
    assert_close(measured(model, loss="mse", n_samples=500), measured(model, loss="mse"), 1e-12)


@pytest.mark.parametrize("labels", ["exact", "sampled", "empirical"])
def test_mixed_precision_is_computed_in_float32(labels):
    plain = linear()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = linear()
    finally:
        keras.config.set_dtype_policy("float32")
    loss = LOSSES.SparseCategoricalCrossentropy(from_logits=True)
    one, two = (measured(m, LABELS, labels, loss=loss) for m in (plain, model))
    assert_same(two, one, "mixed", atol=1e-7)


def test_the_progress_bar_speaks_only_if_asked(capsys):
    fisher_diagonal(linear(2), X, loss="mse", verbose=1)
    assert f"{ROWS}/{ROWS}" in capsys.readouterr().out
    fisher_diagonal(linear(2), X, loss="mse", verbose=0)
    assert not capsys.readouterr().out


def test_what_does_not_work_is_said():
    model = linear()
    for loss in (
        "mae",
        LOSSES.Huber(),
        LOSSES.SparseCategoricalCrossentropy(ignore_class=1),
        ["mse"],
        lambda y, p: ops.sum(p),
    ):
        with pytest.raises((ValueError, TypeError), match=r"categorical_crossentropy|must be one"):
            measured(model, loss=loss)
    assert len(measured(model, np.zeros((ROWS, 3)), "empirical", loss="mae")) == 2
    with pytest.raises(ValueError, match="There is no loss to differentiate"):
        measured(model)
    with pytest.raises(ValueError, match="must be built"):
        measured(keras.Sequential([layers.Dense(1)]), loss="mse")
    with pytest.raises(ValueError, match="`y` must be given"):
        measured(model, None, "empirical", loss="mse")
    with pytest.raises(ValueError, match="`labels` must be one of"):
        measured(model, labels="true", loss="mse")
    with pytest.raises(ValueError, match="same number of samples"):
        measured(model, np.zeros(3), loss="mse")
    with pytest.raises(ValueError, match="`n_samples` must be an integer of at least 1"):
        measured(model, loss="mse", n_samples=0)
    with pytest.raises(ValueError, match="must be one number"):
        measured(
            model, np.zeros((ROWS, 3)), "empirical", loss=LOSSES.MeanSquaredError(reduction=None)
        )
    broken = X.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        fisher_diagonal(model, broken, loss=LOSSES.CategoricalCrossentropy(True), verbose=0)
    half = keras.Sequential([layers.Input((4,)), layers.Dense(3, dtype="bfloat16")])
    with pytest.raises(ValueError, match="in float32"):
        measured(half, loss="mse")
