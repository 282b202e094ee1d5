"""Models and data small enough to train in a blink."""

import keras
import numpy as np

BATCH = 8


def data(rows: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs of shape `(rows, 4)` and targets of shape `(rows, 1)`."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4)).astype("float32")
    return x, (x @ rng.normal(size=(4, 1)) + 0.1 * rng.normal(size=(rows, 1))).astype("float32")


def network(built: bool = True, dtype: str | None = None) -> keras.Sequential:
    """Returns a two-layer network, `body` and `head`, the same one every time."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(3, "tanh", dtype=dtype, name="body"),
        keras.layers.Dense(1, dtype=dtype, name="head"),
    ]
    return keras.Sequential([keras.layers.Input((4,)), *layers] if built else layers)


def fit(model: keras.Model, optimizer=None, epochs: int = 1, **kwargs) -> keras.Model:
    """Compiles `model`, if an optimizer is given, and trains it on `data()`, or `x`, in order."""
    x, y = kwargs.pop("data", None) or data()
    # JAX is slow without, TensorFlow is slow to compile.
    jit_compile = kwargs.pop("jit_compile", keras.backend.backend() == "jax")
    if optimizer is not None:
        model.compile(optimizer, "mse", jit_compile=jit_compile)
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0} | kwargs
    model.fit(x, y, epochs=epochs, **options)
    return model


def state(model: keras.Model) -> list[np.ndarray]:
    """Returns all weights and optimizer variables."""
    variables = [*model.weights, *model.optimizer.variables]
    arrays = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    # NumPy's files have no bfloat16.
    return [a.astype("float32") if a.dtype.name == "bfloat16" else a for a in arrays]


def assert_same(actual, expected, message: str, atol: float = 0.0) -> None:
    """Compares two lists of arrays, bit for bit if `atol` is 0."""
    assert len(actual) == len(expected), f"{message}: {len(actual)} arrays, not {len(expected)}"
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
        np.testing.assert_allclose(a, b, rtol=atol, atol=atol, err_msg=f"{message}: array {i}")
