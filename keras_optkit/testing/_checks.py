"""What every optimizer must do, one function for each thing."""

import copy
import inspect
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_optkit._config import parameters
from keras_optkit.testing._models import assert_same, data, fit, network, state


def round_trips(make):
    """Its config gives an equal optimizer and survives being used."""
    config = make().get_config()
    before = copy.deepcopy(config)
    twin = type(make()).from_config(config)
    assert config == before, "`from_config` changed its argument"
    assert twin.get_config() == before, f"{twin.get_config()} is not {before}"


def holds_every_argument(make):
    """Each constructor argument is in the config and, if it is the class' own, in the docstring."""
    cls, config = type(make()), make().get_config()
    missing = parameters(cls).keys() - config.keys()
    assert not missing, f"`get_config` lacks {sorted(missing)}"
    own = inspect.signature(cls.__init__).parameters.keys() - {"self", "kwargs"}
    unexplained = [name for name in own if f"{name}:" not in (cls.__doc__ or "")]
    assert not unexplained, f"the docstring does not explain {sorted(unexplained)}"


def resumes_from_file(make):
    """A saved and reloaded model goes on bit for bit like one that was never saved."""
    model = fit(network(), make())
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
    assert_same(state(loaded), state(model), "loaded")
    assert_same(state(fit(loaded)), state(fit(model)), "resumed")


def resumes_from_weights(make):
    """Weights-only files hold the optimizer's state too."""
    model = fit(network(), make())
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.weights.h5"
        model.save_weights(path)
        fresh = network()
        fresh.compile(make(), "mse", jit_compile=keras.backend.backend() == "jax")
        fresh.optimizer.build(fresh.trainable_variables)
        fresh.load_weights(path)
    assert_same(state(fit(fresh)), state(fit(model)), "resumed from weights")


def does_not_mind_when_it_is_built(make):
    """Built by `fit`, which TensorFlow traces, it trains as when built before."""
    before, within = network(), network(built=False)
    optimizer = make()
    optimizer.build(before.trainable_variables)
    assert_same(
        fit(within, make(), epochs=2).get_weights(),
        fit(before, optimizer, epochs=2).get_weights(),
        "built by fit",
        atol=1e-7,
    )


def compiles(make):
    """Compiled by XLA it does what it does eagerly."""
    if keras.backend.backend() == "torch":
        return  # runs eagerly, as Keras does unless told otherwise
    compiled = fit(network(), make(), jit_compile=True)
    plain = fit(network(), make(), jit_compile=False)
    assert_same(compiled.get_weights(), plain.get_weights(), "jit_compile", atol=1e-5)


def traces_once(make):
    """Training on does not trace again."""
    model, optimizer = network(), make()
    calls, apply = [], optimizer.apply

    def counted(*args, **kwargs):
        calls.append(None)
        return apply(*args, **kwargs)

    object.__setattr__(optimizer, "apply", counted)
    fit(model, optimizer)
    traces = len(calls)
    fit(model)
    expected = 2 * traces if keras.backend.backend() == "torch" else traces
    assert len(calls) == expected, f"traced {len(calls) - traces} times more in the second fit"


def moves_half_precision(make):
    """bfloat16 weights move and stay finite."""
    model = network(dtype="bfloat16")
    before = model.get_weights()
    fit(model, make(), epochs=2)
    for old, new in zip(before, model.get_weights(), strict=True):
        new = np.asarray(new, "float32")
        assert np.isfinite(new).all(), "a bfloat16 weight is not finite"
        assert (new != np.asarray(old, "float32")).any(), "a bfloat16 weight does not move"


def skips_non_finite_steps(make):
    """In a `LossScaleOptimizer`, which mixed precision brings, bad steps leave no trace."""
    optimizer = keras.optimizers.LossScaleOptimizer(make(), initial_scale=8.0)
    model = fit(network(dtype="mixed_float16"), optimizer)
    before = [*model.get_weights(), *map(ops.convert_to_numpy, optimizer.inner_optimizer.variables)]
    x, y = data()
    fit(model, data=(x * np.inf, y))
    after = [*model.get_weights(), *map(ops.convert_to_numpy, optimizer.inner_optimizer.variables)]
    assert_same(after, before, "after non-finite steps")
    assert all(np.isfinite(w).all() for w in model.get_weights())


def shares_a_model(make):
    """It trains part of a model inside a `MultiOptimizer`, as it would train that part alone."""
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        return  # new in Keras 3.15
    model = network()
    first = [v.path for v in model.layers[0].trainable_variables]
    ours, theirs = make(), keras.optimizers.SGD(0.0)
    multi = keras.optimizers.MultiOptimizer(lambda v: ours if v.path in first else theirs)
    fit(model, multi)
    alone = network()
    alone.layers[1].trainable = False
    fit(alone, make())
    assert_same(
        [v.numpy() for v in model.layers[0].weights],
        [v.numpy() for v in alone.layers[0].weights],
        "in a MultiOptimizer",
        atol=1e-5,
    )


def adds_up_repeated_rows(make):
    """An embedding looked up twice in a batch trains like the same matrix times one-hot rows."""
    ids = np.array([[0, 0, 1], [2, 1, 0], [0, 0, 0], [1, 1, 2]] * 4)
    y = np.arange(16, dtype="float32")[:, None] / 8
    keras.utils.set_random_seed(0)
    head = [keras.layers.Flatten(), keras.layers.Dense(1, kernel_initializer="ones", name="head")]
    table = np.random.default_rng(1).normal(size=(3, 2)).astype("float32")
    lookup = keras.Sequential([keras.layers.Input((3,)), keras.layers.Embedding(3, 2), *head])
    keras.utils.set_random_seed(0)
    head = [keras.layers.Flatten(), keras.layers.Dense(1, kernel_initializer="ones", name="head")]
    product = keras.Sequential(
        [keras.layers.Input((3, 3)), keras.layers.Dense(2, use_bias=False), *head]
    )
    for model in (lookup, product):
        model.layers[0].set_weights([table])
    fit(lookup, make(), data=(ids, y))
    fit(product, make(), data=(np.eye(3, dtype="float32")[ids], y))
    assert_same(lookup.get_weights(), product.get_weights(), "embedding", atol=1e-5)


def copies_deeply(make):
    """`copy.deepcopy` keeps the state."""
    model = fit(network(), make())
    optimizer = model.optimizer
    twin = copy.deepcopy(optimizer)
    assert_same(
        [ops.convert_to_numpy(v) for v in twin.variables],
        [ops.convert_to_numpy(v) for v in optimizer.variables],
        "deepcopy",
    )


def bears_missing_gradients(make):
    """A weight without a gradient stays, with a warning; the others move."""
    used, unused = (
        keras.Variable(np.eye(3, dtype="float32"), name=name) for name in ("used", "unused")
    )
    gradient = np.random.default_rng(0).normal(size=(3, 3)).astype("float32")
    optimizer = make()
    optimizer.build([used, unused])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            optimizer.apply([ops.convert_to_tensor(gradient), None], [used, unused])
    assert any("unused" in str(w.message) for w in caught), "no warning names the weight"
    assert (used.numpy() != np.eye(3)).all() and (unused.numpy() == np.eye(3)).all()


def takes_any_shape(make):
    """Scalars and weights without entries do no harm."""
    shapes = [(), (0,), (0, 3), (2, 3), (1, 1, 2, 2)]
    variables = [keras.Variable(np.ones(s, "float32"), name=f"w{i}") for i, s in enumerate(shapes)]
    optimizer = make()
    optimizer.build(variables)
    for _ in range(3):
        optimizer.apply([ops.ones(s) for s in shapes], variables)
    for variable in variables:
        value = variable.numpy()
        assert np.isfinite(value).all() and (value != 1).all(), f"shape {value.shape}: {value}"


def accumulates(make):
    """Two half batches with accumulation make the update of the whole, and one update only."""
    x, y = data()
    whole = fit(network(), make(), batch_size=8)
    halves = fit(network(), make(gradient_accumulation_steps=2), batch_size=4)
    assert_same(halves.get_weights(), whole.get_weights(), "accumulated", atol=1e-6)
    assert int(halves.optimizer.iterations) == int(whole.optimizer.iterations)
    before = halves.get_weights()
    fit(halves, data=(x[:4], y[:4]))
    assert_same(halves.get_weights(), before, "a batch that only accumulates")


def works_with_callbacks(make):
    """Keras' callbacks read and set its learning rate, and back it up."""
    model = network()
    model.compile(make(), "mse", jit_compile=keras.backend.backend() == "jax")
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)
    before = float(ops.convert_to_numpy(model.optimizer.learning_rate))
    with tempfile.TemporaryDirectory() as directory:
        backup = keras.callbacks.BackupAndRestore(directory)
        fit(model, epochs=2, callbacks=[schedule, plateau, backup])
    after = float(ops.convert_to_numpy(model.optimizer.learning_rate))
    # Halved by the scheduler in each epoch, and by the plateau after the second.
    np.testing.assert_allclose(after, before / 8, rtol=1e-6)


CHECKS = (
    round_trips,
    holds_every_argument,
    resumes_from_file,
    resumes_from_weights,
    does_not_mind_when_it_is_built,
    compiles,
    traces_once,
    moves_half_precision,
    skips_non_finite_steps,
    shares_a_model,
    adds_up_repeated_rows,
    copies_deeply,
    bears_missing_gradients,
    takes_any_shape,
    accumulates,
    works_with_callbacks,
)
