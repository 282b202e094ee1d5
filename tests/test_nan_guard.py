"""NaNGuard: poisoned batches, runs that diverge, and that nothing else is changed."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_optkit as ko
from keras_optkit.callbacks.nan_guard import NaNGuard

BACKEND = keras.backend.backend()
K = keras.optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 4)).astype("float32")
Y = (X @ RNG.normal(size=(4, 2)) + 0.3).astype("float32")


def network(optimizer, dropout=False, metrics=("mae",), **settings):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), keras.layers.Dense(4, name="first")]
    layers += [keras.layers.BatchNormalization()] if dropout else []
    # On torch Keras' dropout draws from the one generator of the process.
    layers += [keras.layers.Dropout(0.3)] if dropout and BACKEND != "torch" else []
    model = keras.Sequential([*layers, keras.layers.Dense(2, name="head")])
    settings = {"jit_compile": BACKEND == "jax", "metrics": list(metrics)} | settings
    model.compile(optimizer, "mse", **settings)
    return model


def fit(model, *callbacks, epochs=1, poison=(), **kwargs):
    """Trains in batches of 4; batch `poison`, of 12 in an epoch, has a target that is NaN."""
    y = Y.copy()
    for batch in poison:
        y[4 * batch] = np.nan
    kwargs = {"batch_size": 4, "shuffle": False, "verbose": 0} | kwargs
    return model.fit(X, y, epochs=epochs, callbacks=list(callbacks), **kwargs).history


def value(variable):
    return np.array(ops.convert_to_numpy(variable))


def state(model):
    return [value(v) for v in [*model.variables, *model.optimizer.variables]]


def finite(model):
    return all(np.isfinite(a).all() for a in state(model))


def rate(model):
    return float(value(model.optimizer.learning_rate))


def assert_same(model, other):
    for a, b in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(a, b)


OPTIMIZERS = {
    "adam": lambda: K.Adam(0.01),
    "radam": lambda: ko.optimizers.RAdam(0.01),
    "lookahead": lambda: ko.optimizers.Lookahead(ko.optimizers.RAdam(0.01), sync_period=3),
    "averaged": lambda: ko.optimizers.Averaged(K.SGD(0.01, momentum=0.9)),
    "scaled": lambda: K.LossScaleOptimizer(K.SGD(0.01), initial_scale=8.0),
    "multi": lambda: K.MultiOptimizer(K.OptimizerMap(K.SGD(0.01), {".*head/.*": K.Adam(0.01)})),
}
if not hasattr(K, "MultiOptimizer"):  # new in Keras 3.15
    del OPTIMIZERS["multi"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_without_incident_is_the_run_without_guard(name):
    plain, guarded = network(OPTIMIZERS[name](), True), network(OPTIMIZERS[name](), True)
    expected = fit(plain, epochs=2, validation_data=(X, Y))
    guard = NaNGuard(every=5)
    history = fit(guarded, guard, epochs=2, validation_data=(X, Y))
    assert history.pop("non_finite") == [0, 0]
    assert history == expected
    assert_same(guarded, plain)
    assert guard.incidents == [] and not guard._copies.taken


@pytest.mark.parametrize("name", set(OPTIMIZERS) - {"scaled"})
def test_rollback_is_to_the_newest_copy_and_leaves_out_the_poison(name):
    """With a look at every batch, what is left is a run that never saw the batch."""
    model, guard = network(OPTIMIZERS[name]()), NaNGuard(every=1, lr_factor=1.0, verbose=0)
    history = fit(model, guard, poison=[7], validation_data=(X, Y))
    expected = network(OPTIMIZERS[name]())
    keep = np.r_[0:28, 32:48]
    clean = expected.fit(
        X[keep], Y[keep], batch_size=4, shuffle=False, verbose=0, validation_data=(X, Y)
    ).history
    assert history.pop("non_finite") == [1]
    assert history == clean
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    (found,) = guard.incidents
    assert (found.step, found.back_to, found.found) == (8, 7, "loss+weights")


def test_the_learning_rate_falls_and_the_numbers_of_an_incident():
    model, guard = network(K.Adam(0.01)), NaNGuard(every=4, lr_factor=0.5)
    history = fit(model, guard, poison=[5], epochs=2)
    # Found when 8 updates are done, after which the copy of step 4 is taken up again.
    told = [(i.step, i.epoch, i.back_to, i.action) for i in guard.incidents]
    assert told == [(8, 0, 4, "rollback"), (16, 1, 12, "rollback")]
    np.testing.assert_allclose([i.learning_rate for i in guard.incidents], [0.005, 0.0025])
    assert rate(model) == pytest.approx(0.0025)
    assert history["non_finite"] == [1, 1] and np.isfinite(history["loss"]).all()
    assert finite(model)


@pytest.mark.parametrize("validation", [None, (X, Y)])
@pytest.mark.parametrize("batch", [0, 10, 11])
def test_found_at_the_end_of_an_epoch(batch, validation):
    """Before validation, and before the next epoch resets the metrics."""
    model, guard = network(K.SGD(0.05)), NaNGuard(every=100, lr_factor=0.5)
    history = fit(model, guard, poison=[batch], validation_data=validation)
    assert len(guard.incidents) == 1 and finite(model)
    assert np.isfinite(history.get("val_loss", [0.0])).all()
    assert guard.incidents[0].back_to == 0
    untouched = network(K.SGD(0.05))
    for a, b in zip(model.get_weights(), untouched.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_divergence_is_overcome():
    """Gradient descent with a rate far above 2 / curvature grows without end."""
    losses = {}
    for guard in (None, NaNGuard(every=3, lr_factor=0.1, max_retries=5, verbose=0)):
        model = network(K.SGD(1e4))
        start = float(model.evaluate(X, Y, verbose=0)[0])
        history = fit(model, *([guard] if guard else []), epochs=40)
        losses[guard is not None] = history["loss"][-1]
    assert not np.isfinite(losses[False])
    assert losses[True] < 0.5 * start and finite(model)
    assert len(guard.incidents) >= 2 and rate(model) < 1.0


@keras.saving.register_keras_serializable("tests")
class Quotient(keras.layers.Layer):
    """`w / x`, and 0 where `x` is: the value is finite, and the derivative there 0 / 0."""

    def build(self, shape):
        self.w = self.add_weight((shape[-1],), "ones", name="w")

    def call(self, x):
        return ops.where(x == 0, 0.0, self.w / x)


@pytest.mark.parametrize("action", ["rollback", "stop"])
def test_not_finite_in_the_gradient_only(action):
    x = np.ones((24, 2), "float32")
    x[14] = 0.0
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), Quotient()])
    model.compile(K.SGD(0.01), "mse", jit_compile=BACKEND == "jax")
    guard = NaNGuard(action, every=1, verbose=0)
    options = {"batch_size": 4, "shuffle": False, "verbose": 0, "callbacks": [guard]}
    if action == "stop":
        with pytest.warns(UserWarning, match="NaNGuard stops: weights not finite in epoch 1, af"):
            model.fit(x, 0 * x, **options)
    else:
        model.fit(x, 0 * x, **options)
    assert guard.incidents[0].found == "weights" and guard.incidents[0].back_to == 3
    assert finite(model) and model.get_weights()[0][0] < 1


def test_stop_keeps_the_last_good_copy_where_keras_keeps_nan():
    plain = network(K.Adam(0.01))
    fit(plain, keras.callbacks.TerminateOnNaN(), poison=[5], epochs=2)
    assert not finite(plain)
    ours = network(K.Adam(0.01))
    with pytest.warns(UserWarning, match=r"NaNGuard stops: loss and weights not finite in epoch 1"):
        history = fit(ours, NaNGuard("stop", every=3), poison=[5], epochs=2)
    expected = network(K.Adam(0.01))
    expected.fit(X[:12], Y[:12], batch_size=4, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(history["loss"]) == 1 and np.isfinite(history["loss"]).all()
    assert rate(ours) == pytest.approx(0.01)
    assert int(value(ours.optimizer.iterations)) == 3


def test_giving_up_stops_with_good_weights():
    model, guard = network(K.Adam(0.01)), NaNGuard(every=1, max_retries=2, verbose=0)
    with pytest.warns(UserWarning, match="NaNGuard stops"):
        history = fit(model, guard, poison=range(6, 12), epochs=3, validation_data=(X, Y))
    assert [i.action for i in guard.incidents] == ["rollback", "rollback", "stop"]
    # The copy taken just before is left after it has failed once.
    assert [i.back_to for i in guard.incidents] == [6, 5, 5]
    assert len(history["loss"]) == 1 and finite(model)
    assert np.isfinite(history["loss"]).all() and np.isfinite(history["val_loss"]).all()


def test_a_good_look_in_between_makes_retries_count_anew():
    model, guard = network(K.Adam(0.01)), NaNGuard(every=1, max_retries=1, verbose=0)
    fit(model, guard, poison=[2, 5, 8])
    assert [i.action for i in guard.incidents] == ["rollback"] * 3
    assert guard.retries == 0


def test_weights_about_to_fail_are_not_tried_twice():
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 8:  # finite, so it is copied; the square of its outputs is not
                kernel = self.model.layers[-1].kernel
                kernel.assign(np.full(kernel.shape, 1e30, "float32"))

    model, guard = network(K.SGD(0.01)), NaNGuard(every=2, verbose=0)
    fit(model, Spoil(), guard)
    assert [(i.step, i.back_to) for i in guard.incidents] == [(10, 8), (10, 6)]
    assert finite(model) and np.abs(model.get_weights()[2]).max() < 10


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_skip(policy):
    keras.config.set_dtype_policy(policy)
    try:
        inner = K.SGD(0.01)
        skipping = ko.optimizers.SkipNonFinite(inner) if policy == "float32" else inner
        model = network(skipping)
    finally:
        keras.config.set_dtype_policy("float32")
    guard = NaNGuard("skip", every=4, verbose=0)
    history = fit(model, guard, poison=[5])
    assert [(i.found, i.action) for i in guard.incidents] == [("loss", "skip")]
    if policy == "float32":  # else too large a scale costs steps too
        assert int(value(model.optimizer.iterations)) == 11
    assert np.isfinite(history["loss"]).all() and history["non_finite"] == [1]
    assert finite(model) and rate(model) == pytest.approx(0.01)


def test_skip_stops_if_the_weights_go_all_the_same():
    optimizer = ko.optimizers.SkipNonFinite(K.SGD(0.01), max_consecutive=1)
    model, guard = network(optimizer), NaNGuard("skip", every=1, verbose=0)
    with pytest.warns(UserWarning, match="NaNGuard stops"):
        fit(model, guard, poison=[5, 6])
    assert [i.action for i in guard.incidents] == ["skip", "stop"] and finite(model)


def test_mixed_precision_rolls_back_too():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(ko.optimizers.RAdam(0.01))
    finally:
        keras.config.set_dtype_policy("float32")
    guard = NaNGuard(every=2, verbose=0)
    fit(model, guard, poison=[5])
    assert [i.found for i in guard.incidents] == ["loss"] and finite(model)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no steps_per_execution on torch")
def test_several_steps_per_execution():
    model = network(K.Adam(0.01), steps_per_execution=4)
    guard = NaNGuard(every=6, verbose=0)
    fit(model, guard, poison=[5], epochs=2)
    # Looks before batches 0 and 8, then, with 4 carried over, 4 of the next epoch, and at its end.
    assert [(i.epoch, i.back_to) for i in guard.incidents] == [(0, 0), (1, 8)]
    assert finite(model)


@pytest.mark.skipif(BACKEND == "torch", reason="torch's dropout has no seeds of its own")
def test_dropout_goes_on_with_new_seeds():
    model, guard = network(K.Adam(0.01), dropout=True), NaNGuard(every=1, verbose=0)
    seed = next(v for v in model.variables if "seed" in v.path)
    before = value(seed)
    fit(model, guard, poison=[5])
    plain = network(K.Adam(0.01), dropout=True)
    fit(plain)
    expected = next(v for v in plain.variables if "seed" in v.path)
    np.testing.assert_array_equal(value(seed), value(expected))
    assert not np.array_equal(before, value(seed)) and finite(model)


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX keeps the state out of the model")
def test_jax_syncs_only_when_due(monkeypatch):
    model = network(K.Adam(0.01))
    synced, batches, sync = [], [], model.jax_state_sync

    def counted():
        if not model._jax_state_synced:
            synced.append(len(batches))
        sync()

    monkeypatch.setattr(model, "jax_state_sync", counted)

    class Count(keras.callbacks.Callback):
        async_safe = True

        def on_train_batch_begin(self, batch, logs=None):
            batches.append(batch)

    monkeypatch.setattr(model, "jax_state_sync", counted)
    fit(model, NaNGuard(every=5), Count(), epochs=2)
    # At 5 and 10, where the epoch ends; 2 batches are carried over.
    assert synced == [5, 10, 12, 15, 20, 24]


def test_after_an_exception_nothing_is_left_but_what_training_did():
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 6:
                raise KeyboardInterrupt

    model, plain, guard = network(K.Adam(0.01)), network(K.Adam(0.01)), NaNGuard(every=2)
    for each, callbacks in ((model, [guard, Fail()]), (plain, [Fail()])):
        with pytest.raises(KeyboardInterrupt):
            fit(each, *callbacks)
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(model.evaluate(X, Y, verbose=0, callbacks=[guard])[0])
    fit(model, guard, poison=[3])
    assert len(guard.incidents) == 1 and finite(model)


def test_bad_from_the_start():
    model = network(K.Adam(0.01))
    model.layers[0].bias.assign(np.full((4,), np.nan, "float32"))
    with pytest.raises(ValueError, match=r"no good weights to go back to: the weights are not fin"):
        fit(model, NaNGuard())


def test_state_and_another_model(capsys):
    model, guard = network(K.Adam(0.01)), NaNGuard(every=4)
    fit(model, guard, poison=[5])
    line = capsys.readouterr().out
    assert line == (
        "NaNGuard: loss and weights not finite in epoch 1, after 8 updates; back to the weights "
        "after 4, learning rate 0.005\n"
    )
    twin = NaNGuard(every=4)
    twin.load_state(json.loads(json.dumps(guard.state(), allow_nan=False)))
    assert twin.incidents == guard.incidents and twin.state() == guard.state()
    twin.set_model(model)
    twin.on_train_begin()
    twin.on_epoch_begin(0)
    twin.on_epoch_end(0, logs := {})  # the same epoch, resumed in its middle
    assert logs["non_finite"] == 1
    fit(model, twin)
    assert len(twin.incidents) == 1
    fit(network(K.Adam(0.01)), twin)
    assert twin.incidents == []


def test_schedules():
    schedule = ko.schedules.LinearDecay(0.01, 20)
    with pytest.raises(ValueError, match=r"cannot lower the .* with `lr_factor=1` it does not.*0"):
        fit(network(K.SGD(schedule)), NaNGuard())
    model, guard = network(K.SGD(schedule)), NaNGuard(every=4, lr_factor=1, verbose=0)
    fit(model, guard, poison=[5])
    assert guard.incidents[0].learning_rate is None and finite(model)
    assert int(value(model.optimizer.iterations)) == 8  # the schedule goes back too


def test_skipping_is_required():
    with pytest.raises(ValueError, match=r"needs an optimizer that leaves out.*SkipNonFinite\(ker"):
        fit(network(K.Adam()), NaNGuard("skip"))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"action": "raise"}, r"`action` must be one of 'rollback', 'skip', 'stop'\."),
        ({"every": 0}, r"`every` must be an integer of at least 1\."),
        ({"lr_factor": 0.0}, r"`lr_factor` must be in \(0, 1\]\."),
        ({"lr_factor": 1.5}, r"`lr_factor` must be in \(0, 1\]\. .*1\.5"),
        ({"max_retries": 0}, r"`max_retries` must be an integer of at least 1\."),
        ({"verbose": 2}, r"`verbose` must be one of 0, 1\."),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        NaNGuard(**kwargs)
