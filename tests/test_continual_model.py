"""Penalties against the papers in float64, step by step, and every promise of the wrapper."""

import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.callbacks import TrainingState
from keras_optkit.continual import (
    EWC,
    MAS,
    SI,
    ContinualModel,
    L2Anchor,
    ReplayBuffer,
    ReplayDataset,
)
from keras_optkit.testing._models import assert_same, fit, network, state
from tests import oracles
from tests.conftest import two_replicas
from tests.tracing import Counting

BACKEND = keras.backend.backend()
RATE = 0.125  # the same in float32 and float64
JIT = BACKEND == "jax"
SGD = keras.optimizers.SGD


def tasks(count=3, rows=8):
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        x = rng.normal(size=(rows, 4)).astype("float32")
        made.append((x, np.sin(x @ rng.normal(size=(4, 1))).astype("float32")))
    return made


def outputs(weights, x):
    kernel, bias, head, head_bias = weights
    hidden = np.tanh(np.float64(x) @ kernel + bias)
    return hidden, hidden @ head + head_bias


def backward(weights, x, hidden, error):
    """Returns the gradients of `sum(error * outputs)`."""
    back = error @ weights[2].T * (1 - hidden**2)
    return [np.float64(x).T @ back, back.sum(0), hidden.T @ error, error.sum(0)]


def each(weights, x, y, measure):
    """Returns the mean over samples of `measure(gradient)`, where `measure` gets all it needs."""
    total = 0.0
    for i in range(len(x)):
        hidden, f = outputs(weights, x[i : i + 1])
        slope = backward(weights, x[i : i + 1], hidden, np.ones((1, 1)))
        part = [measure(s, (f - y[i : i + 1]).item(), f.item()) / len(x) for s in slope]
        total = part if i == 0 else [t + p for t, p in zip(total, part, strict=True)]
    return total


def squares(slope, error, f):
    return 2 * slope**2  # of a normal distribution of variance 1/2


def given(slope, error, f):
    return (2 * error * slope) ** 2


def lengths(slope, error, f):
    return np.abs(2 * f * slope)


class Judge:
    """One of the methods, eager, in float64; a list of `(factor, F, anchor)` is the penalty."""

    def __init__(self, start, strength):
        self.weights = [np.float64(w) for w in start]
        self.strength, self.terms = strength, []
        self.optimizers = [oracles.SGD(0.9) for _ in start]
        self.begin()

    def begin(self):
        self.anchor = [w.copy() for w in self.weights]
        self.path = [np.zeros_like(w) for w in self.weights]

    def step(self, x, y):
        """Returns the loss before the step."""
        hidden, f = outputs(self.weights, x)
        loss = np.mean((f - y) ** 2)
        gradient = backward(self.weights, x, hidden, 2 * (f - y) / len(x))
        for factor, importance, anchor in self.terms:
            for i, w in enumerate(self.weights):
                pull = self.strength * factor * importance[i] * (w - anchor[i])
                loss += np.sum(pull * (w - anchor[i]))
                gradient[i] = gradient[i] + 2 * pull
        moved = [
            o.step(w, g, RATE)
            for o, w, g in zip(self.optimizers, self.weights, gradient, strict=True)
        ]
        for i, (new, old) in enumerate(zip(moved, self.weights, strict=True)):
            self.path[i] = self.path[i] - gradient[i] * (new - old)
        self.weights = moved
        return loss

    def end(self, x, y):
        raise NotImplementedError


class Separate(Judge):
    measure = staticmethod(squares)

    def end(self, x, y):
        self.terms.append((0.5, each(self.weights, x, y, self.measure), self.weights))


class Empirical(Separate):
    measure = staticmethod(given)


class Online(Judge):
    def end(self, x, y):
        new = each(self.weights, x, y, squares)
        if self.terms:
            new = [0.5 * f + g for f, g in zip(self.terms[0][1], new, strict=True)]
        self.terms = [(0.5, new, self.weights)]


class Anchored(Judge):
    def end(self, x, y):
        self.terms = [(0.5, [np.ones_like(w) for w in self.weights], self.weights)]


class Aljundi(Judge):
    def end(self, x, y):
        new = each(self.weights, x, y, lengths)
        if self.terms:
            new = [f + g for f, g in zip(self.terms[0][1], new, strict=True)]
        self.terms = [(1.0, new, self.weights)]


class Zenke(Judge):
    """As `update_omega` and `surrogate_loss` of van de Ven's code."""

    def end(self, x, y):
        new = [
            p / ((w - a) ** 2 + 0.0625)
            for p, w, a in zip(self.path, self.weights, self.anchor, strict=True)
        ]
        if self.terms:
            new = [f + g for f, g in zip(self.terms[0][1], new, strict=True)]
        self.terms = [(1.0, new, self.weights)]
        self.begin()


METHODS = {
    "EWC": (lambda **kw: EWC(0.5, batch_size=3, **kw), Separate, 0.5),
    "EWC, empirical": (lambda **kw: EWC(2.0, labels="empirical", **kw), Empirical, 2.0),
    "online EWC": (lambda **kw: EWC(0.5, mode="online", gamma=0.5, **kw), Online, 0.5),
    "MAS": (lambda **kw: MAS(0.25, **kw), Aljundi, 0.25),
    "SI": (lambda **kw: SI(2.0, epsilon=0.0625, **kw), Zenke, 2.0),
    "L2Anchor": (lambda **kw: L2Anchor(0.5, **kw), Anchored, 0.5),
}


def learner(penalties, optimizer=None, model=None, buffer=None):
    made = ContinualModel(network() if model is None else model, penalties, buffer)
    made.compile(optimizer or SGD(RATE, momentum=0.9), "mse", jit_compile=JIT)
    return made


@pytest.mark.parametrize("name", METHODS)
def test_every_step_and_loss_is_the_papers(name):
    make, judged, strength = METHODS[name]
    model = learner([make()])
    judge = judged(model.strip().get_weights(), strength)
    step = 0
    for x, y in tasks():
        for _ in range(4):
            step += 1
            model.reset_metrics()  # before Keras 3.15 the loss is the mean so far
            loss = float(model.train_on_batch(x, y))
            message = f"step {step}"
            np.testing.assert_allclose(loss, judge.step(x, y), rtol=1e-5, err_msg=message)
            for a, e in zip(model.strip().get_weights(), judge.weights, strict=True):
                np.testing.assert_allclose(a, e, rtol=1e-5, atol=3e-6, err_msg=message)
        model.consolidate(x, y)
        judge.end(x, y)
    x, y = tasks()[0]
    evaluated = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(evaluated, judge.step(x, y), rtol=1e-5)
    assert model.tasks == 3


def test_the_penalties_matter():
    # Or the test above would pass without.
    for name, (_, judged, strength) in METHODS.items():
        ends = []
        for factor in (strength, 0.0):
            judge = judged(network().get_weights(), factor)
            for x, y in tasks():
                for _ in range(4):
                    judge.step(x, y)
                judge.end(x, y)
            ends.append(judge.weights)
        difference = max(np.abs(a - b).max() for a, b in zip(*ends, strict=True))
        assert difference > 1e-2, name


def test_linear_gaussian_ewc_is_joint_ridge():
    rng = np.random.default_rng(0)
    # With orthogonal inputs the Fisher information is diagonal, and EWC exact.
    x_1 = (np.linalg.qr(rng.normal(size=(8, 4)))[0] * [1, 2, 3, 4]).astype("float32")
    x_2 = rng.normal(size=(8, 4)).astype("float32")
    y_1, y_2 = rng.normal(size=(2, 8, 1)).astype("float32")
    keras.utils.set_random_seed(0)
    linear = keras.Sequential([layers.Input((4,)), layers.Dense(1, use_bias=False)])
    linear.set_weights([np.linalg.lstsq(np.float64(x_1), np.float64(y_1))[0]])
    model = learner([EWC(1.0)], SGD(0.1, momentum=0.9), linear)
    model.consolidate(x_1, y_1, pretrained=True)
    many = [np.tile(a, (300, 1)) for a in (x_2, y_2)]
    model.fit(*many, batch_size=8, shuffle=False, verbose=0)
    both = np.linalg.lstsq(np.float64(np.r_[x_1, x_2]), np.float64(np.r_[y_1, y_2]))[0]
    np.testing.assert_allclose(linear.get_weights()[0], both, rtol=1e-5, atol=1e-5)


def proximal(weights, terms, strength):
    """Returns the exact proximal step for all terms together."""
    new = []
    for i, w in enumerate(weights):
        k = [RATE * strength * 2 * factor * np.maximum(f[i], 0) for factor, f, _ in terms]
        pulls = sum(k * a[i] for k, (*_, a) in zip(k, terms, strict=True))
        new.append((w + pulls) / (1 + sum(k)))
    return new


@pytest.mark.parametrize("name", METHODS)
def test_the_proximal_step_is_exact(name):
    make, judged, strength = METHODS[name]
    model = learner([make(update="proximal")])
    judge = judged(model.strip().get_weights(), 0.0)
    step = 0
    for x, y in tasks():
        for _ in range(3):
            step += 1
            model.reset_metrics()  # before Keras 3.15 the loss is the mean so far
            loss = float(model.train_on_batch(x, y))
            path, before = [p.copy() for p in judge.path], judge.weights
            np.testing.assert_allclose(loss, judge.step(x, y), rtol=1e-5, err_msg=f"step {step}")
            moved = proximal(judge.weights, judge.terms, strength)
            # The path is that of the weights, all that moves them included.
            for i, (new, half, old) in enumerate(zip(moved, judge.weights, before, strict=True)):
                along = (judge.path[i] - path[i]) / np.where(half == old, 1, half - old)
                judge.path[i] = path[i] + along * (new - old)
            judge.weights = moved
            for a, e in zip(model.strip().get_weights(), judge.weights, strict=True):
                np.testing.assert_allclose(a, e, rtol=1e-5, atol=3e-6, err_msg=f"step {step}")
        model.consolidate(x, y)
        judge.end(x, y)


def test_a_huge_strength_is_stable_if_proximal():
    (x, y), (x_2, y_2) = tasks(2)
    penalties = [EWC(1e8, update="proximal"), L2Anchor(1e8, update="proximal")]
    model = learner(penalties, keras.optimizers.Adam(RATE))
    model.fit(x, y, verbose=0)
    model.consolidate(x, y)
    before = model.strip().get_weights()
    for strength in (1e8, 1e30):
        model.strengths = [strength] * 2
        model.fit(x_2, y_2, epochs=5, verbose=0)
        assert all(np.isfinite(w).all() for w in model.get_weights())
        assert_same(model.strip().get_weights(), before, f"held at {strength}", atol=1e-6)
    exploding = learner([EWC(1e8)], SGD(RATE))
    exploding.consolidate(x, y, pretrained=True)
    exploding.fit(x_2, y_2, epochs=5, verbose=0)
    assert not all(np.isfinite(w).all() for w in exploding.get_weights())


def test_several_proximal_penalties_make_one_step():
    (x, y), _ = tasks(2)
    model = learner([L2Anchor(2.0, update="proximal"), SI(0.5, update="proximal")], SGD(RATE))
    model.fit(x, y, verbose=0)
    model.consolidate()
    first = model.strip().get_weights()
    model.fit(x, y, verbose=0)
    between = model.strip().get_weights()
    importances = [ops.convert_to_numpy(v) for v in model._memory.held[1][1].slots["importance"]]
    plain = fit(network(), SGD(RATE), data=(x, y))
    assert_same(plain.get_weights(), first, "before the first task ends", atol=1e-6)
    fit(plain, data=(x, y))
    terms = [(0.5 * 2.0, [np.ones_like(w) for w in first], first), (0.5, importances, first)]
    expected = proximal([np.float64(w) for w in plain.get_weights()], terms, 1.0)
    assert_same(between, expected, "both", atol=3e-6)


def test_proximal_steps_count_updates():
    (x, y), (x_2, y_2) = tasks(2)
    results = []
    for steps in (None, 2):
        model = learner([MAS(0.5, update="proximal")], SGD(RATE, gradient_accumulation_steps=steps))
        model.consolidate(x, y, pretrained=True)
        size = 8 // (steps or 1)
        model.fit(x_2, y_2, batch_size=size, epochs=3, shuffle=False, verbose=0)
        results.append(model.strip().get_weights())
    assert_same(*results, "accumulated", atol=1e-6)


def test_schedules_scaled_losses_and_skipped_updates():
    (x, y), (x_2, y_2) = tasks(2)
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([2], [RATE, RATE / 2])
    results = []
    for scale in (None, 2.0**10, "dynamic"):
        plain = SGD(rate, loss_scale_factor=None if scale == "dynamic" else scale)
        optimizer = plain
        if scale == "dynamic":
            optimizer = keras.optimizers.LossScaleOptimizer(plain, initial_scale=2.0**9)
        model = learner([EWC(2.0, update="proximal"), SI(1.0)], optimizer)
        model.train_on_batch(x, y)
        if scale == "dynamic":
            broken = x.copy()
            broken[0] = np.inf
            before = model.get_weights()
            model.train_on_batch(broken, y)
            steps = [w for w in model.weights if "steps" in w.path]
            others = [
                (a, b)
                for w, a, b in zip(model.weights, model.get_weights(), before, strict=True)
                if not any(w is s for s in steps)
            ]
            assert_same(*map(list, zip(*others, strict=True)), "skipped")
        model.consolidate(x, y)
        for _ in range(3):
            model.train_on_batch(x_2, y_2)
        model.consolidate(x_2, y_2)
        results.append(model.get_weights())
    assert_same(results[1], results[0], "scaled", atol=1e-5)
    assert_same(results[2], results[0], "dynamic", atol=1e-5)


def test_mixed_precision_follows_float32():
    (x, y), (x_2, y_2) = tasks(2)
    results = []
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            inside = network()
        finally:
            keras.config.set_dtype_policy("float32")
        scaled = keras.optimizers.LossScaleOptimizer(SGD(RATE), initial_scale=256.0)
        model = learner([EWC(0.5), SI(0.5), MAS(0.1, update="proximal")], scaled, inside)
        for task in ((x, y), (x_2, y_2)):
            model.fit(*task, epochs=2, verbose=0)
            model.consolidate(*task)
        results.append(model.strip().get_weights())
    assert_same(*results[::-1], "float16", atol=4e-3)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras runs torch eagerly")
@pytest.mark.parametrize("replays", [None, 10])
def test_tasks_compile_nothing_anew(replays):
    layer = Counting()
    keras.utils.set_random_seed(0)
    body = [layers.Input((4,)), layers.Dense(3), layer, layers.Dense(1)]
    model = learner(
        [EWC(1.0), SI(1.0), MAS(1.0, update="proximal"), L2Anchor(1.0)],
        None,
        keras.Sequential(body),
        ReplayBuffer(replays) if replays else None,
    )
    counts = []
    for i, (x, y) in enumerate(tasks(5)):
        model.strengths = [1.0 + i] * 4
        model.fit(x, y, verbose=0)
        model.consolidate(x, y)
        counts.append(layer.traced)
    assert counts[0] > 0
    assert len(set(counts)) == 1, counts


def test_strengths_can_change_between_tasks():
    (x, y), (x_2, y_2) = tasks(2)
    results = []
    for start in (4.0, 1.0):
        model = learner([L2Anchor(start)], SGD(RATE))
        model.fit(x, y, verbose=0)
        model.consolidate()
        if start == 1.0:
            model.strengths = [4.0]
        model.fit(x_2, y_2, epochs=2, verbose=0)
        assert model.strengths == [4.0]
        assert model.get_config()["penalties"][0]["config"]["strength"] == 4.0
        results.append(model.strip().get_weights())
    assert_same(*results, "changed")


def regularized(constrained=False):
    keras.utils.set_random_seed(0)
    constraint = keras.constraints.NonNeg() if constrained else None
    body = [
        layers.Input((4,)),
        layers.Dense(3, "tanh", kernel_regularizer=keras.regularizers.L2(0.125)),
        layers.BatchNormalization(),
        layers.Dense(1, kernel_constraint=constraint),
    ]
    return keras.Sequential(body)


def test_stripped_is_as_if_never_wrapped(tmp_path):
    x, y = tasks(1)[0]
    inside, plain = regularized(), regularized()
    config = keras.saving.serialize_keras_object(inside)
    regularizers = [v.regularizer for v in inside.variables]
    model = learner([EWC(1.0), SI(1.0, update="proximal")], SGD(RATE), inside)
    plain.compile(SGD(RATE), "mse", jit_compile=JIT)
    losses = [
        each.fit(x, y, epochs=3, verbose=0, shuffle=False).history["loss"]
        for each in (model, plain)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-6)  # the regularizer's part included
    model.consolidate(x, y)
    stripped = model.strip()
    assert stripped is inside
    assert_same(stripped.get_weights(), plain.get_weights(), "stripped", atol=1e-6)
    assert not stripped.compiled
    assert len(stripped.losses) == 1
    assert keras.saving.serialize_keras_object(stripped) == config
    assert [v.regularizer for v in inside.variables] == regularizers
    stripped.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert b"keras_optkit" not in file.read("config.json")  # so it loads without the package
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(loaded.get_weights(), stripped.get_weights(), "loaded")
    if BACKEND == "tensorflow":
        model.export(tmp_path / "export", verbose=False)


def test_constraints_hold_after_proximal_steps():
    x, y = tasks(1)[0]
    model = learner([L2Anchor(10.0, update="proximal")], SGD(RATE), regularized(constrained=True))
    model.consolidate(pretrained=True)  # at a start with negative weights
    model.fit(x, y, epochs=2, verbose=0)
    assert (model.strip().layers[-1].get_weights()[0] >= 0).all()


def test_anchors_are_copies():
    x, y = tasks(1)[0]
    model = learner([EWC(0.0), L2Anchor(0.0), SI(0.0)], SGD(RATE))
    for _ in range(2):
        model.fit(x, y, verbose=0)
        model.consolidate(x, y)
        held = [
            ops.convert_to_numpy(v).copy() for _, s in model._memory.held for v in s.slots["anchor"]
        ]
        assert_same(held[4:8], model.strip().get_weights(), "at the weights", atol=1e-7)
        for anchors in (s.slots["anchor"] for _, s in model._memory.held):
            for a, w in zip(anchors, model.strip().trainable_variables, strict=True):
                arrays = map(ops.convert_to_numpy, (a, w))
                assert not np.shares_memory(*arrays)
        model.fit(x, -y, verbose=0)
        now = [ops.convert_to_numpy(v) for _, s in model._memory.held for v in s.slots["anchor"]]
        assert_same(now, held, "they stay")


def test_frozen_layers_are_left_alone():
    x, y = tasks(1)[0]
    inside = network()
    model = learner([EWC(1.0), SI(1.0), MAS(1.0, update="proximal")], SGD(RATE), inside)
    model.fit(x, y, verbose=0)
    model.consolidate(x, y)
    inside.layers[0].trainable = False
    model.compile(SGD(RATE), "mse", jit_compile=JIT)
    before = inside.get_weights()
    for _ in range(2):
        model.fit(x, -y, epochs=2, verbose=0)
        model.consolidate(x, -y)
    after = inside.get_weights()
    assert_same(after[:2], before[:2], "frozen")
    assert not np.array_equal(after[2], before[2])


def test_penalties_on_weights_are_among_the_losses_as_regularizers_are():
    (x, y), (x_2, y_2) = tasks(2)
    model = learner([EWC(3.0), MAS(1.0, update="proximal")], SGD(RATE), regularized())
    model.fit(x, y, verbose=0)
    model.consolidate(x, y)
    model.fit(x_2, y_2, verbose=0)
    own = model.strip().losses
    assert len(own) == 1 and len(model.losses) == 2
    held = model._memory.held[0][1]
    terms = zip(held.arrays("importance"), held.arrays("anchor"), held.arrays(), strict=True)
    expected = 1.5 * sum(np.sum(f * (w - a) ** 2) for f, a, w in terms)
    assert expected > 1e-4
    np.testing.assert_allclose(ops.convert_to_numpy(model.losses[1]), expected, rtol=1e-5)
    squares = np.mean((model.predict(x_2, verbose=0) - y_2) ** 2)
    total = squares + sum(float(ops.convert_to_numpy(part)) for part in model.losses)
    np.testing.assert_allclose(model.evaluate(x_2, y_2, verbose=0), total, rtol=1e-5)


def test_weights_are_loaded_before_compile_and_fit_asks_for_it(tmp_path):
    x, y = tasks(1)[0]
    saved = learner([EWC(1.0)], SGD(RATE), buffer=ReplayBuffer(4))
    saved.fit(x, y, verbose=0)
    saved.save_weights(tmp_path / "model.weights.h5")
    model = ContinualModel(network(), [EWC(1.0)], ReplayBuffer(4))
    model.load_weights(tmp_path / "model.weights.h5")
    assert_same(model.strip().get_weights(), saved.strip().get_weights(), "loaded")
    with pytest.raises(ValueError, match="compile"):
        model.fit(x, y, verbose=0)


def test_metrics_come_third_and_compiling_anew_forgets_no_training(tmp_path):
    x, y = tasks(1)[0]
    model = ContinualModel(network(), [EWC(1.0)], ReplayBuffer(4))
    model.compile(SGD(RATE), "mse", ["mae"])
    assert "mae" in model.fit(x, y, verbose=0).history
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert "mae" in loaded.evaluate(x, y, verbose=0, return_dict=True)
    for made in (model, loaded):
        made.compile(SGD(RATE / 2), "mse")
        made.consolidate(x, y)


def test_importances_are_of_the_layers_trained_at_the_time():
    (x, _), results = tasks(1)[0], []
    for turns in ([(True, False), (False, True)], [(True, True)]):
        keras.utils.set_random_seed(0)
        both = [layers.Dense(4, "tanh"), layers.Dense(4)]
        model = ContinualModel(keras.Sequential([layers.Input((4,)), *both]), [MAS(1.0)])
        for turn in turns:
            both[0].trainable, both[1].trainable = turn
            model.consolidate(x, pretrained=True)
        results.append([ops.convert_to_numpy(v) for v in model.weights if "importance" in v.path])
    assert len(results[0]) == 4
    assert_same(*results, "importances", atol=1e-6)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_a_file_of_other_penalties_changes_nothing(tmp_path, suffix):
    (x, y), (x_2, y_2) = tasks(2)
    saved = learner([EWC(1.0)], keras.optimizers.Adam(0.01))
    saved.fit(x, y, verbose=0)
    saved.consolidate(x, y)
    (saved.save if suffix == ".keras" else saved.save_weights)(tmp_path / f"file{suffix}")
    for penalties in ([MAS(1.0)], [L2Anchor(1.0)], [EWC(1.0), L2Anchor(1.0)], []):
        model = learner(penalties, keras.optimizers.Adam(0.01))  # MAS keeps as many arrays
        model.fit(x_2, y_2, epochs=3, verbose=0)
        model.consolidate(x_2, y_2)
        before = state(model)
        with pytest.raises(ValueError, match=r"was written with penalties \['EWC'\]"):
            model.load_weights(tmp_path / f"file{suffix}")
        assert_same(state(model), before, "nothing has changed")
    model = learner([EWC(2.0)], keras.optimizers.Adam(0.01))
    model.load_weights(tmp_path / f"file{suffix}")
    assert_same(model.get_weights(), saved.get_weights(), "of the same penalties")


class Stop(keras.callbacks.Callback):
    """Fails after some batches, as a crash would."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def on_train_batch_end(self, batch, logs=None):
        self.after -= 1
        if not self.after:
            raise RuntimeError("stopped")


def test_goes_on_from_the_middle_of_an_epoch(tmp_path):
    def script(at, *callbacks):
        model = learner([EWC(1.0)], keras.optimizers.Adam(0.01), buffer=ReplayBuffer(5, seed=2))
        for number, (x, y) in enumerate(tasks(2, rows=12)):
            resumes = [TrainingState(at / str(number), every=1, unit="batch")] if at else []
            given = [*callbacks, *resumes]
            model.fit(x, y, batch_size=4, epochs=3, callbacks=given, verbose=0)
            model.consolidate(x, y)
        return [*state(model), *model.buffer.data()]

    expected = script(None)
    with pytest.raises(RuntimeError, match="stopped"):
        script(tmp_path, Stop(9 + 5))  # in the second epoch of the second task
    assert_same(script(tmp_path), expected, "went on")
    _, (x, y) = tasks(2, rows=12)
    for task, message in ((0, "after 0 tasks, .* has consolidated 1"), (1, "on other data")):
        model = learner([EWC(1.0)], keras.optimizers.Adam(0.01))
        model.consolidate(*tasks(1, rows=12)[0], pretrained=True)
        before, wrong = state(model), (x, y) if task == 0 else (x + 1, y)
        resumes = [TrainingState(tmp_path / str(task))]
        with pytest.raises(ValueError, match=message):
            model.fit(*wrong, batch_size=4, epochs=3, callbacks=resumes, verbose=0)
        assert_same(state(model)[: len(before)], before, "nothing has changed")
    model = learner([EWC(1.0)], keras.optimizers.Adam(0.01))
    model.consolidate(x, y, pretrained=True)  # the second task, which was the first there
    with pytest.raises(ValueError, match="Task 1 of the file was of other data"):
        model.fit(x, y, epochs=3, callbacks=resumes, verbose=0)


def test_batches_are_those_of_a_replay_dataset():
    (x, y), (x_2, y_2) = tasks(2)
    model = learner([], SGD(RATE), buffer=ReplayBuffer(5, seed=7))
    plain, buffer = fit(network(), SGD(RATE), epochs=0), ReplayBuffer(5, seed=7)
    for task in ((x, y), (x_2, y_2)):
        seed = np.random.SeedSequence([7, int(ops.convert_to_numpy(plain.optimizer.iterations))])
        batches = ReplayDataset(*task, buffer, 2, seed=int(seed.generate_state(1)[0]))
        model.fit(*task, batch_size=2, epochs=2, verbose=0)
        plain.fit(batches, epochs=2, shuffle=False, verbose=0)
        model.consolidate(*task)
        buffer.add(*task)
        assert_same(model.strip().get_weights(), plain.get_weights(), "replayed", atol=1e-6)
        assert_same(model.buffer.data(), buffer.data(), "kept")
    weighted = np.linspace(0, 1, 8, dtype="float32")
    batches = ReplayDataset(x, y, buffer, 4, sample_weight=weighted, shuffle=False)
    plain.fit(batches, shuffle=False, verbose=0)
    batches = ReplayDataset(x, y, model.buffer, 4, sample_weight=weighted, shuffle=False)
    model.fit(batches, shuffle=False, verbose=0)
    assert_same(model.strip().get_weights(), plain.get_weights(), "given", atol=1e-6)


def test_what_does_not_fit_the_buffer_is_said():
    x, y = tasks(1)[0]
    with pytest.raises(TypeError, match="`buffer` must be a ReplayBuffer, or None"):
        ContinualModel(network(), [], 500)
    model = learner([EWC(1.0)], SGD(RATE), buffer=ReplayBuffer(5))
    model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="call `learner"):
        learner([], buffer=ReplayBuffer(5)).consolidate()
    model.consolidate(x, y)
    before, held = model.get_weights(), model.buffer.data()
    for wrong in ((x, np.concatenate([y, y], 1)), (x, y.astype("float64"))):
        with pytest.raises(ValueError, match="must be like what the buffer holds"):
            model.consolidate(*wrong)
        with pytest.raises(ValueError, match="must be like what the buffer holds"):
            model.fit(*wrong, verbose=0)
    assert_same(model.get_weights(), before, "nothing has changed")
    assert_same(model.buffer.data(), held, "nothing has changed")
    with pytest.raises(TypeError, match="must be arrays, or `x` a ReplayDataset"):
        model.fit(iter([(x, y)]), verbose=0)
    with pytest.raises(ValueError, match="give `validation_data` instead"):
        model.fit(x, y, validation_split=0.5, verbose=0)


def run_two_tasks(model):
    for x, y in tasks(2):
        model.fit(x, y, epochs=2, batch_size=4, shuffle=False, verbose=0)
        model.consolidate(x, y)
    return model.get_weights()


if BACKEND == "tensorflow":

    def test_replicas_equal_one_device():
        def penalties():
            return [EWC(1.0), SI(0.5), MAS(0.25, update="proximal"), L2Anchor(0.125)]

        one = learner(penalties(), SGD(RATE))
        with two_replicas().scope():
            two = ContinualModel(network(), penalties())
            two.compile(SGD(RATE), "mse", jit_compile=False)
        assert_same(run_two_tasks(two), run_two_tasks(one), "replicas", atol=1e-5)
        (x, y), _ = tasks(2)
        evaluated = [model.evaluate(x, y, verbose=0) for model in (one, two)]
        np.testing.assert_allclose(*evaluated, rtol=1e-5)


if BACKEND == "jax":

    def test_data_parallel_equals_one_device():
        def run():
            penalties = [EWC(1.0), SI(0.5), MAS(0.25, update="proximal"), L2Anchor(0.125)]
            return run_two_tasks(learner(penalties, SGD(RATE)))

        one = run()
        with keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]).scope():
            two = run()
        assert_same(two, one, "devices", atol=1e-5)


def test_what_does_not_work_is_said():
    x, y = tasks(1)[0]
    with pytest.raises(ValueError, match=r"must be built: call it once"):
        ContinualModel(network(built=False), [EWC(1.0)])
    with pytest.raises(TypeError, match="`penalties` must be a list of penalties"):
        ContinualModel(network(), ["EWC"])
    with pytest.raises(TypeError, match="`model` must be a keras"):
        ContinualModel(layers.Dense(1), [])
    with pytest.raises(ValueError, match="cannot wrap a ContinualModel"):
        ContinualModel(ContinualModel(network()), [])
    for make in (EWC, SI, MAS, L2Anchor):
        with pytest.raises(ValueError, match="`strength` must be at least 0"):
            make(-1.0)
        with pytest.raises(ValueError, match="`update` must be one of 'loss', 'proximal'"):
            make(1.0, update="step")
    with pytest.raises(ValueError, match="`mode` must be one of 'separate', 'online'"):
        EWC(1.0, mode="both")
    with pytest.raises(ValueError, match=r"`gamma` must be in \[0, 1\]"):
        EWC(1.0, mode="online", gamma=1.5)
    with pytest.raises(ValueError, match="`epsilon` must be greater than 0"):
        SI(1.0, epsilon=0.0)
    model = ContinualModel(network(), [EWC(1.0), SI(1.0)])
    with pytest.raises(ValueError, match="EWC measures the gradients of the loss, so call"):
        model.consolidate(x, y, pretrained=True)
    for _ in range(2):  # neither compiled nor trained, and not trained
        with pytest.raises(ValueError, match=r"nothing was trained yet: call `learner.compile`"):
            model.consolidate(x, y)
        model.compile("sgd", "mse", jit_compile=JIT)
    with pytest.raises(ValueError, match=r"call `learner.consolidate\(x, y\)`"):
        model.consolidate(pretrained=True)
    before = model.get_weights()
    with pytest.raises(ValueError, match="SI measures importances while a model is trained"):
        model.consolidate(x, y, pretrained=True)
    assert_same(model.get_weights(), before, "nothing has changed")
    assert model.tasks == 0
    with pytest.raises(ValueError, match="`strengths` must have one number for each of 2"):
        model.strengths = [1.0]
    model.compile("sgd", "mae", jit_compile=JIT)
    model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="need a loss whose likelihood is known"):
        model.consolidate(x, y)
    accumulating = learner([SI(1.0)], SGD(RATE, gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match="SI needs the gradient of every update"):
        accumulating.fit(x, y, verbose=0)
