"""Unfreeze: what rests stays bit for bit, what trains does so as if it had just been made."""

import copy
import json

import keras
import numpy as np
import pytest

import keras_optkit as ko
from keras_optkit.callbacks.unfreeze import Unfreeze

BACKEND = keras.backend.backend()
STEPS = 1 if BACKEND == "torch" else 3  # which Keras does not have on torch
K = keras.optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = (X @ RNG.normal(size=(4, 2)) + 0.3).astype("float32")
STAGES = {0: "head", 1: "middle", 3: ["first", "norm"]}


def network(optimizer, batch_norm=False, **settings):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), keras.layers.Dense(4, name="first")]
    layers += [keras.layers.BatchNormalization(name="norm")] if batch_norm else []
    layers += [keras.layers.Dense(3, "tanh", name="middle"), keras.layers.Dense(2, name="head")]
    model = keras.Sequential(layers, name="m")
    model.compile(optimizer, "mse", **{"jit_compile": BACKEND == "jax"} | settings)
    return model


def fit(model, *callbacks, epochs=5, start=0, **kwargs):
    kwargs = {"batch_size": 4, "shuffle": False, "verbose": 0} | kwargs
    options = {"epochs": epochs, "initial_epoch": start, "callbacks": list(callbacks)}
    return model.fit(X, Y, **options, **kwargs)


def value(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def by_layer(model):
    """Returns weights and slots of each layer after the other."""
    found = {layer.name: [value(w) for w in layer.trainable_variables] for layer in model.layers}
    for v in model.optimizer.variables:
        for name, values in found.items():
            if f"{name}_kernel" in v.path or f"{name}_bias" in v.path:
                values.append(value(v))
    return found


class Record(keras.callbacks.Callback):
    """Keeps all weights and slots, as they are at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(by_layer(self.model))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


OPTIMIZERS = {
    "radam": lambda: ko.optimizers.RAdam(0.05, weight_decay=0.1),
    "yogi": lambda: ko.optimizers.Yogi(0.05, weight_decay=0.1, global_clipnorm=1.0),
    "prodigy": lambda: ko.optimizers.Prodigy(weight_decay=0.1),
    "lookahead": lambda: ko.optimizers.Lookahead(ko.optimizers.RAdam(0.05), sync_period=3),
    "scaled": lambda: K.LossScaleOptimizer(ko.optimizers.RAdam(0.05, weight_decay=0.1)),
    "accumulating": lambda: ko.optimizers.LAMB(0.05, gradient_accumulation_steps=2),
    "averaging": lambda: ko.optimizers.RAdam(0.05, use_ema=True, ema_overwrite_frequency=2),
    "cautious": lambda: ko.optimizers.AdaBelief(0.05, weight_decay=0.1, cautious=True),
    "skipping": lambda: ko.optimizers.SkipNonFinite(ko.optimizers.ADOPT(0.05)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_rests_is_untouched_and_what_trains_moves(name):
    model, record = network(OPTIMIZERS[name]()), Record()
    model.optimizer.build(model.trainable_variables)
    epochs = [by_layer(model)]
    fit(model, Unfreeze(STAGES), record)
    epochs += record.epochs
    for layer, start in (("head", 0), ("middle", 1), ("first", 3)):
        for epoch in range(4):  # `use_ema` changes the weights at the end of `fit`
            # Sums of gradients within an accumulation are no state of an update.
            now, then = epochs[epoch + 1][layer], epochs[epoch][layer]
            if name in ("accumulating", "averaging", "lookahead"):
                now, then = now[:2], then[:2]
            assert same(now, then) == (epoch < start), f"{layer} in epoch {epoch}"


def momentum(learning_rate=0.1):
    return ko.optimizers.LARS(learning_rate, momentum=0.9, exclude=".*")


def test_gradients_of_resting_weights_do_not_count_in_norms():
    start = network(momentum()).get_weights()
    ours = network(ko.optimizers.RAdam(0.05, global_clipnorm=0.1))
    fit(ours, Unfreeze({0: "head", 9: ".*"}), epochs=2)
    groups = [ko.optimizers.Group(["first", "middle"], frozen=True)]
    theirs = network(ko.optimizers.RAdam(0.05, global_clipnorm=0.1, groups=groups))
    fit(theirs, epochs=2)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
    assert not np.array_equal(ours.get_weights()[-1], start[-1])


@pytest.mark.parametrize("jit", [False, True])
def test_a_weight_that_starts_late_counts_its_own_steps(jit):
    """Adam in float64: the bias correction of each weight is by its own steps."""
    if BACKEND == "torch" and jit:
        pytest.skip("torch.compile needs a C++ compiler")
    rate, b1, b2, epsilon = 0.05, 0.9, 0.999, 1e-7
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), keras.layers.Dense(2, use_bias=True, name="head")]
    model = keras.Sequential(layers)
    model.compile(ko.optimizers.AdaBelief(rate, b1, b2, epsilon), "mse", jit_compile=jit)
    w, bias = (np.array(v, "float64") for v in model.get_weights())
    stages = {0: "head/kernel", 2: ko.optimizers.Group("bias", lr_multiplier=0.5)}
    fit(model, Unfreeze(stages), epochs=4)
    x, y = X.astype("float64"), Y.astype("float64")
    moments = {"w": [0, 0, 0], "b": [0, 0, 0]}

    def move(key, weight, gradient, lr):
        m, s, t = moments[key]
        m = b1 * m + (1 - b1) * gradient
        s = b2 * s + (1 - b2) * (gradient - m) ** 2 + epsilon
        t += 1
        moments[key] = [m, s, t]
        hat = s / (1 - b2**t)
        return weight - lr * m / (1 - b1**t) / (np.sqrt(hat) + epsilon)

    for step in range(24):
        rows = slice(step % 6 * 4, step % 6 * 4 + 4)
        error = 2 / 8 * (x[rows] @ w + bias - y[rows])
        w = move("w", w, x[rows].T @ error, rate)
        if step >= 12:
            bias = move("b", bias, error.sum(0), rate / 2)
    np.testing.assert_allclose(model.get_weights()[0], w, atol=2e-5)
    np.testing.assert_allclose(model.get_weights()[1], bias, atol=2e-5)


class Traces(ko.optimizers.RAdam):
    """Counts how often its step is traced; on torch, run."""

    traces = 0

    def _update(self, gradients, variables):
        type(self).traces += 1
        super()._update(gradients, variables)


def test_traced_once():
    Traces.traces = 0
    model = network(Traces(0.05))
    fit(model, Unfreeze(STAGES), epochs=1)
    first = Traces.traces
    assert first <= 2 or BACKEND == "torch"  # TensorFlow traces twice where it makes variables
    fit(model, Unfreeze(STAGES), epochs=5, start=1)
    fit(model, Unfreeze({0: ko.optimizers.Group("middle", lr_multiplier=0.3)}), epochs=1)
    assert Traces.traces == (36 if BACKEND == "torch" else first)


def test_a_model_that_has_trained_before():
    model = network(ko.optimizers.RAdam(0.05))
    fit(model, epochs=1)
    before = by_layer(model)
    fit(model, Unfreeze({0: "head", 2: "first|middle"}), epochs=2)
    after = by_layer(model)
    assert same(before["first"], after["first"]) and same(before["middle"], after["middle"])
    assert not same(before["head"], after["head"])
    fit(model, epochs=1)  # without the callback the optimizer remembers
    assert same(by_layer(model)["first"], before["first"])
    fit(model, Unfreeze({0: ".*"}), epochs=1)
    assert not same(by_layer(model)["first"], before["first"])


def test_nothing_is_frozen_for_a_run_of_all_weights():
    plain, ours = network(ko.optimizers.RAdam(0.05, weight_decay=0.1)), None
    fit(plain)
    ours = network(ko.optimizers.RAdam(0.05, weight_decay=0.1))
    fit(ours, Unfreeze({0: ".*"}))
    for a, b in zip(plain.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stop", [1, 2, 4])
@pytest.mark.parametrize("name", ["radam", "lookahead"])
def test_a_saved_model_goes_on(stop, name, tmp_path):
    whole = network(OPTIMIZERS[name]())
    fit(whole, Unfreeze(STAGES))
    model = network(OPTIMIZERS[name]())
    fit(model, Unfreeze(STAGES), epochs=stop)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(value(a), value(b))
    before = by_layer(loaded)
    fit(loaded, epochs=1)  # without the callback: what was frozen stays so
    assert same(by_layer(loaded)["first"][:2], before["first"][:2]) == (stop < 4)
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    fit(loaded, Unfreeze(STAGES), start=stop)
    for a, b in zip(loaded.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_copies_keep_their_paces_and_new_optimizers_have_none():
    model = network(ko.optimizers.Lookahead(ko.optimizers.RAdam(0.05)))
    count = len(model.optimizer.variables)
    model.optimizer.build(model.trainable_variables)
    unused = len(model.optimizer.variables)
    fit(model, Unfreeze({0: "head", 5: ".*"}), epochs=1)
    assert len(model.optimizer.variables) == unused + 2 > count
    twin = copy.deepcopy(model.optimizer)
    np.testing.assert_array_equal(value(twin.rule._pace), [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(value(twin.rule._counts), [0, 0, 0, 0, 6, 6])


def test_mixed_precision_and_several_steps_per_execution():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(ko.optimizers.RAdam(0.01, weight_decay=0.1), steps_per_execution=STEPS)
    finally:
        keras.config.set_dtype_policy("float32")
    model.optimizer.build(model.trainable_variables)
    before = by_layer(model)
    fit(model, Unfreeze({0: "head", 1: "middle", 4: "first"}), epochs=3)
    after = by_layer(model)
    assert [same(before[n], after[n]) for n in ("first", "middle", "head")] == [True, False, False]


@pytest.mark.skipif(not hasattr(K, "MultiOptimizer"), reason="new in Keras 3.15")
def test_several_optimizers():
    parts = {".*head/.*": ko.optimizers.Yogi(0.05)}
    model = network(K.MultiOptimizer(K.OptimizerMap(ko.optimizers.RAdam(0.05), parts)))
    before = by_layer(model)
    fit(model, Unfreeze({0: "first", 2: "head|middle"}), epochs=2)
    after = by_layer(model)
    assert [same(before[n][:2], after[n][:2]) for n in ("first", "middle", "head")] == [
        False, True, True,
    ]  # fmt: skip


def test_with_a_monitor_of_gradients():
    model, monitor = network(ko.optimizers.RAdam(0.05)), ko.callbacks.GradientMonitor(every=1)
    fit(model, monitor, Unfreeze({0: "head", 2: ".*"}), epochs=3)
    still = np.array(monitor.update_ratios)[:, monitor.layers.index("first")] == 0
    assert still.tolist() == [True] * 12 + [False] * 6


def test_layers_stay_trainable_and_statistics_move():
    model = network(ko.optimizers.RAdam(0.05), batch_norm=True)
    mean = value(model.get_layer("norm").moving_mean)
    gamma = value(model.get_layer("norm").gamma)
    fit(model, Unfreeze({0: "head", 5: ".*"}), epochs=1)
    assert all(layer.trainable for layer in model.layers)
    assert not np.array_equal(mean, value(model.get_layer("norm").moving_mean))
    np.testing.assert_array_equal(gamma, value(model.get_layer("norm").gamma))


def test_what_matches_nothing_is_told_and_what_no_stage_names_trains():
    model = network(ko.optimizers.RAdam(0.05))
    before = by_layer(model)
    with pytest.warns(UserWarning, match=r"Unfreeze: the pattern 'block' matches none"):
        fit(model, Unfreeze({1: ["first", "block"]}), epochs=1)
    after = by_layer(model)
    assert [same(before[n][:2], after[n][:2]) for n in ("first", "middle", "head")] == [
        True, False, False,
    ]  # fmt: skip


def test_verbose(capsys):
    fit(network(ko.optimizers.RAdam(0.05)), Unfreeze({0: "head", 1: "first"}, verbose=1), epochs=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Epoch 1", "Epoch 2"]
    assert "head/kernel" in lines[0] and "first/bias" in lines[1] and "middle" not in str(lines)


def test_optimizers_that_cannot():
    for optimizer in (K.Adam(), ko.optimizers.Lookahead(K.SGD(0.1))):
        with pytest.raises(
            ValueError, match=r"optimizer of keras_optkit.*RAdam, inside.*optimizer=<"
        ):
            fit(network(optimizer), Unfreeze({0: "head"}))
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile(ko.optimizers.RAdam(), "mse")
    if BACKEND == "tensorflow":  # the others build the model in time
        with pytest.raises(ValueError, match=r"build the model, by a keras\.Input"):
            fit(model, Unfreeze({0: "dense"}))


def test_config():
    group = ko.optimizers.Group("first", lr_multiplier=0.1)
    unfreeze = Unfreeze({3: group, 0: "head", 1: ["middle", "norm"]}, verbose=1)
    assert list(unfreeze.stages) == [0, 1, 3]
    config = json.loads(json.dumps(unfreeze.get_config()))
    twin = Unfreeze.from_config(config)
    assert twin.get_config() == unfreeze.get_config() and list(twin.stages) == [0, 1, 3]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"stages": "head"}, r"`stages` must be a dict from epochs .*stages='head'"),
        ({"stages": {}}, r"`stages` must hold at least one epoch\."),
        ({"stages": {-1: "head"}}, r"must be an integer of at least 0\."),
        ({"stages": {0.5: "head"}}, r"must be an integer\."),
        ({"stages": {0: "("}}, r"`stages\[0\]` must hold valid regular expressions"),
        ({"stages": {0: []}}, r"`stages\[0\]` must name at least one\."),
        ({"stages": {0: ko.optimizers.Group("a", frozen=True)}}, r"`stages\[0\]` may be a Group"),
        ({"stages": {0: ko.optimizers.Group("a", 0.0)}}, r"greater than 0, or it would never"),
        ({"stages": {0: "head"}, "verbose": 2}, r"`verbose` must be one of 0, 1\."),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Unfreeze(**kwargs)
