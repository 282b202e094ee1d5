"""LearningRateLogger against schedules in float64, for every kind of optimizer."""

import csv
import json

import keras
import numpy as np
import pytest

import keras_optkit as ko
from keras_optkit.callbacks import LearningRateLogger, Plateau

BACKEND = keras.backend.backend()
K = keras.optimizers

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = X[:, :1]
BATCHES = 6  # of an epoch


def schedule():
    return K.schedules.PolynomialDecay(0.1, 20, 0.01)


def rate(count):
    """The rate of `schedule` at its step `count`."""
    return 0.01 + (0.1 - 0.01) * (1 - min(count, 20) / 20)


def compiled(optimizer, **kwargs):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((3,)), keras.layers.Dense(2, name="body")]
    model = keras.Sequential([*layers, keras.layers.Dense(1, name="head")])
    model.compile(optimizer, "mse", **kwargs)
    return model


def fit(model, *callbacks, epochs=2, **kwargs):
    kwargs = {"batch_size": 4, "shuffle": False, "verbose": 0} | kwargs
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **kwargs).history


# For each optimizer: the batches of an update, and what its schedule is asked at update u.
CASES = {
    "keras": (lambda: K.Adam(schedule()), 1, lambda u: u),
    "ours": (lambda: ko.optimizers.RAdam(schedule()), 1, lambda u: u),
    "keras accumulating": (
        lambda: K.SGD(schedule(), gradient_accumulation_steps=3),
        3,
        lambda u: 3 * u + 2,
    ),
    "ours accumulating": (
        lambda: ko.optimizers.RAdam(schedule(), gradient_accumulation_steps=3),
        3,
        lambda u: u,
    ),
    "ours by batches": (
        lambda: ko.optimizers.RAdam(
            schedule(), gradient_accumulation_steps=3, schedule_unit="batch"
        ),
        3,
        lambda u: 3 * u + 2,
    ),
    "wrapper accumulating": (
        lambda: ko.optimizers.Lookahead(K.SGD(schedule()), gradient_accumulation_steps=3),
        3,
        lambda u: u,
    ),
    "wrapper by batches": (
        lambda: ko.optimizers.Lookahead(
            ko.optimizers.RAdam(schedule(), schedule_unit="batch"), gradient_accumulation_steps=3
        ),
        3,
        lambda u: 3 * u + 2,
    ),
    "scaled": (lambda: K.LossScaleOptimizer(K.Adam(schedule())), 1, lambda u: u),
    "averaged": (lambda: ko.optimizers.Averaged(K.Adam(schedule())), 1, lambda u: u),
}


@pytest.mark.parametrize("case", CASES)
def test_rates_of_updates(case):
    make, period, count = CASES[case]
    loggers = {every: LearningRateLogger(every=every) for every in (1, 2)}
    history = fit(compiled(make()), *loggers.values(), epochs=3)
    updates = 3 * BATCHES // period
    for every, logger in loggers.items():
        assert logger.steps == list(range(0, updates, every))
        assert logger.names == ["learning_rate"]
        expected = [rate(count(update)) for update in logger.steps]
        np.testing.assert_allclose(logger.values[:, 0], expected, rtol=1e-6)
    last = [rate(count((epoch + 1) * BATCHES // period - 1)) for epoch in range(3)]
    np.testing.assert_allclose(history["learning_rate"], last, rtol=1e-6)


def test_the_rate_is_the_one_that_moves_the_weights():
    """With a constant gradient of 1, a step of SGD is its rate."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(K.SGD(schedule()), loss=lambda y, p: keras.ops.mean(p))

    class Steps(keras.callbacks.Callback):
        weights = [float(model.get_weights()[0][0, 0])]  # noqa: RUF012

        def on_train_batch_end(self, batch, logs=None):
            self.weights.append(float(self.model.get_weights()[0][0, 0]))

    steps, logger = Steps(), LearningRateLogger(every=1)
    ones = np.ones((8, 1), "float32")
    model.fit(ones, ones, batch_size=2, epochs=2, verbose=0, callbacks=[steps, logger])
    np.testing.assert_allclose(logger.values[:, 0], -np.diff(steps.weights), rtol=1e-4)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no steps_per_execution on torch")
@pytest.mark.parametrize("case", ["keras", "keras accumulating", "wrapper accumulating"])
def test_several_steps_per_execution(case):
    make, period, count = CASES[case]
    logger = LearningRateLogger(every=1)
    fit(compiled(make(), steps_per_execution=4), logger)  # calls of 4 and 2 batches
    assert logger.steps == list(range(2 * BATCHES // period))
    np.testing.assert_allclose(
        logger.values[:, 0], [rate(count(u)) for u in logger.steps], rtol=1e-6
    )


def test_skipped_steps_do_not_count():
    """A loss scale far too high: the first steps only halve it."""
    scaled = K.LossScaleOptimizer(K.SGD(schedule()), initial_scale=2.0**127)
    logger = LearningRateLogger(every=1)
    model = compiled(scaled)
    fit(model, logger, epochs=3)
    done = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    assert 0 < done < 18
    assert logger.steps == list(range(done))
    np.testing.assert_allclose(logger.values[:, 0], [rate(u) for u in range(done)], rtol=1e-6)


def test_keras_has_no_rate_of_a_schedule():
    assert "learning_rate" not in fit(compiled(K.SGD(schedule())))


def test_a_rate_that_callbacks_change():
    class Told(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = 1.0

    def expected(history, logger):
        assert history["learning_rate"] == pytest.approx([1e-2, 1e-2, 5e-3, 2.5e-3])
        assert logger.steps == list(range(0, 24, 2))
        each = [1e-2] * 6 + [5e-3] * 3 + [2.5e-3] * 3
        np.testing.assert_allclose(logger.values[:, 0], each, rtol=1e-6)

    logger, plateau = LearningRateLogger(every=2), Plateau(patience=1)
    expected(fit(compiled(K.SGD(0.01)), Told(), plateau, logger, epochs=4), logger)
    logger, plateau = LearningRateLogger(every=2), Plateau(patience=1)
    expected(fit(compiled(K.SGD(0.01)), Told(), logger, plateau, epochs=4), logger)


def test_a_rate_that_changes_within_an_epoch():
    class Halve(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            optimizer = self.model.optimizer
            optimizer.learning_rate = 0.5 * float(
                keras.ops.convert_to_numpy(optimizer.learning_rate)
            )

    logger = LearningRateLogger(every=1)
    fit(compiled(K.SGD(0.5)), Halve(), logger, epochs=2)
    np.testing.assert_allclose(logger.values[:, 0], 0.5 ** np.arange(1, 13), rtol=1e-6)


def test_a_function():
    logger = LearningRateLogger(every=4)
    history = fit(compiled(K.SGD(lambda: 0.125)), logger)
    assert logger.values.tolist() == [[0.125]] * 3
    assert history["learning_rate"] == [0.125] * 2


def test_groups():
    def head(variable):
        return "head" in variable.path

    groups = [
        ko.optimizers.Group(["body", "bias"], lr_multiplier=0.5),
        ko.optimizers.Group(head, lr_multiplier=2.0),
        ko.optimizers.Group("bias", frozen=True),
        ko.optimizers.Group("bias", lr_multiplier=3.0),
    ]
    history = fit(compiled(ko.optimizers.RAdam(schedule(), groups=groups)), LearningRateLogger())
    base = [rate(5), rate(11)]
    names = ["body+1", "head", "bias", "bias#2"]
    for name, factor in zip(names, (0.5, 2.0, 0.0, 3.0), strict=True):
        found = history[f"learning_rate/{name}"]
        np.testing.assert_allclose(found, np.multiply(base, factor), rtol=1e-6)


@pytest.mark.skipif(not hasattr(K, "MultiOptimizer"), reason="new in Keras 3.15")
def test_several_optimizers():
    parts = K.SGD(0.25, name="one"), K.Adam(schedule(), name="two")
    model = compiled(K.MultiOptimizer(K.OptimizerMap(parts[0], {".*head.*": parts[1]})))
    logger = LearningRateLogger(every=1)
    history = fit(model, logger)
    assert sorted(logger.names) == ["learning_rate_one", "learning_rate_two"]
    assert history["learning_rate_one"] == [0.25, 0.25]
    np.testing.assert_allclose(history["learning_rate_two"], [rate(5), rate(11)], rtol=1e-6)
    second = logger.values[:, logger.names.index("learning_rate_two")]
    np.testing.assert_allclose(second, [rate(u) for u in range(12)], rtol=1e-6)


def test_restart_and_csv(tmp_path):
    path = tmp_path / "deep" / "rates.csv"
    model = compiled(K.SGD(schedule()))
    first = LearningRateLogger(every=5, csv=path)
    fit(model, first, epochs=2)
    assert first.steps == [0, 5, 10]
    second = LearningRateLogger(every=5, csv=path)
    second.load_state(json.loads(json.dumps(first.state())))
    fit(model, second, epochs=3, initial_epoch=2)
    assert second.steps == [0, 5, 10, 15]
    with path.open(newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["step", "learning_rate"]
    expected = [[step, rate(step)] for step in (0, 5, 10, 15)]
    np.testing.assert_allclose(np.array(table[1:], float), expected, rtol=1e-6)
    fit(compiled(K.SGD(schedule())), second, epochs=1)  # from step 0 again
    assert second.steps == [0, 5]
    assert len(path.read_text().splitlines()) == 3


def test_rows_of_epochs(tmp_path):
    logger = LearningRateLogger(csv=tmp_path / "rates.csv")
    fit(compiled(K.SGD(schedule())), logger, epochs=3)
    assert logger.steps == [5, 11, 17]
    np.testing.assert_allclose(logger.values[:, 0], [rate(5), rate(11), rate(17)], rtol=1e-6)
    assert len((tmp_path / "rates.csv").read_text().splitlines()) == 4


@pytest.mark.skipif(BACKEND != "jax", reason="the other backends have no state to fetch")
def test_jax_state_stays_where_it_is(monkeypatch):
    model = compiled(K.Adam(schedule()))
    fit(model, epochs=1)
    calls = []
    sync = type(model).jax_state_sync
    monkeypatch.setattr(
        type(model),
        "jax_state_sync",
        lambda self: (calls.append(1) if not self._jax_state_synced else None, sync(self)),
    )
    fit(model, epochs=2)
    plain = len(calls)
    fit(model, LearningRateLogger(every=1), epochs=2)
    assert len(calls) == 2 * plain


def test_training_is_not_changed():
    plain, model = compiled(K.Adam(schedule())), compiled(K.Adam(schedule()))
    fit(plain)
    fit(model, LearningRateLogger(every=1))
    for a, b in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`every` must be an integer of at least 1"):
        LearningRateLogger(every=0)
    with pytest.raises(TypeError, match="`csv` must be a path"):
        LearningRateLogger(csv=3)
    model = compiled(K.SGD(0.1))
    model.optimizer = None
    logger = LearningRateLogger()
    logger.set_model(model)
    with pytest.raises(ValueError, match=r"reads `model\.optimizer`, and there is none"):
        logger.on_train_begin()


def test_an_empty_one():
    assert LearningRateLogger().values.shape == (0, 0)
