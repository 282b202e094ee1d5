"""A-GEM against the paper in float64, step by step, and what the wrapper promises."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.continual import AGEM, DER, L2Anchor, ReplayBuffer, ReplayDataset
from keras_optkit.testing._models import assert_same, network
from tests import oracles
from tests.conftest import two_replicas
from tests.tracing import Counting

BACKEND = keras.backend.backend()
RATE = 0.125  # the same in float32 and float64
JIT = BACKEND == "jax"
SGD = keras.optimizers.SGD
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OLD = 6  # samples to compare with


def tasks(count=3, rows=8):
    """Returns tasks of three classes that contradict each other."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, rows, 4)).astype("float32")
    teacher = rng.normal(size=(4, 3))
    labels = [(np.argmax(part @ teacher, -1) + t) % 3 for t, part in enumerate(x)]
    return [(part, label.astype("int32")) for part, label in zip(x, labels, strict=True)]


def regression():
    keras.utils.set_random_seed(0)
    return keras.Sequential([layers.Input((4,)), layers.Dense(3)])


def made(optimizer=None, model=None, buffer=None, **arguments):
    buffer = ReplayBuffer(9, seed=5) if buffer is None else buffer
    learner = AGEM(regression() if model is None else model, buffer, OLD, **arguments)
    learner.compile(optimizer or SGD(RATE, momentum=0.9), LOSS, jit_compile=JIT)
    return learner


def gradient(weights, x, y):
    """Of the mean crossentropy of a softmax regression."""
    kernel, bias = weights
    z = np.float64(x) @ kernel + bias
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    error = (p - np.eye(3)[y]) / len(x)
    return [np.float64(x).T @ error, error.sum(0)]


def projected(g, r):
    """Chaudhry et al., 2019, equation 11; returns also whether the two were in conflict."""
    flat_g, flat_r = (np.concatenate([part.ravel() for part in parts]) for parts in (g, r))
    product = flat_g @ flat_r
    if product >= 0:
        return g, False
    return [a - product / (flat_r @ flat_r) * b for a, b in zip(g, r, strict=True)], True


def test_every_step_is_the_papers():
    learner = made()
    weights = [np.float64(w) for w in learner.strip().get_weights()]
    optimizers, conflicts, step = [oracles.SGD(0.9), oracles.SGD(0.9)], [], 0
    for x, y in tasks():
        for _ in range(6):
            step += 1
            twins = [
                ReplayDataset(x, y, learner.buffer, 8, OLD, seed=step, shuffle=False)
                for _ in range(2)
            ]
            learner.fit(twins[0], shuffle=False, verbose=0)
            all_x, all_y = twins[1][0]
            np.testing.assert_array_equal(all_x[:8], x)
            g = gradient(weights, x, y)
            if len(learner.buffer):
                kept = {row.tobytes() for row in learner.buffer.data()[0]}
                assert {row.tobytes() for row in all_x[8:]} <= kept
                g, conflict = projected(g, gradient(weights, all_x[8:], all_y[8:]))
                conflicts.append(conflict)
            weights = [
                o.step(w, part, RATE) for o, w, part in zip(optimizers, weights, g, strict=True)
            ]
            assert_same(learner.strip().get_weights(), weights, f"step {step}", atol=2e-6)
        learner.consolidate(x, y)
    assert 2 < sum(conflicts) < len(conflicts)


def test_judge_solves_the_problem_of_the_paper():
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    g, other = rng.normal(size=(2, 15))
    for r in (other, -other):
        (ours,), _ = projected([g], [r])
        nearest = optimize.minimize(
            lambda z: np.sum((z - g) ** 2) / 2,
            np.zeros(15),
            jac=lambda z: z - g,
            constraints={"type": "ineq", "fun": lambda z, r=r: z @ r, "jac": lambda z, r=r: r},
            tol=1e-14,
        )
        np.testing.assert_allclose(ours, nearest.x, atol=1e-6)


def test_batches_and_arrays_and_single_batches_are_the_same():
    (x, y), (x_2, y_2), _ = tasks()
    ends = []
    for way in ("arrays", "batches", "single"):
        learner = made(SGD(RATE))
        learner.consolidate(x, y, pretrained=True)
        for step in range(3):
            seed = int(np.random.SeedSequence([5, step]).generate_state(1)[0])
            if way == "arrays":
                learner.fit(x_2, y_2, batch_size=8, shuffle=False, verbose=0)
            elif way == "batches":
                data = ReplayDataset(x_2, y_2, learner.buffer, 8, OLD, shuffle=False, seed=seed)
                learner.fit(data, shuffle=False, verbose=0)
            else:
                learner.train_on_batch(x_2, y_2)
        ends.append(learner.strip().get_weights())
    assert_same(ends[1], ends[0], "batches")
    assert_same(ends[2], ends[0], "single", atol=1e-7)


def normalizing():
    keras.utils.set_random_seed(0)
    body = [layers.Dense(4), layers.BatchNormalization(momentum=0.5)]
    return keras.Sequential([layers.Input((4,)), *body, layers.Dense(3)])


def test_loss_metrics_and_statistics_are_of_the_new_samples():
    (x, y), (x_2, y_2), _ = tasks()
    inside, plain = normalizing(), normalizing()
    learner = AGEM(inside, ReplayBuffer(9), OLD)
    logs = []
    for model in (learner, plain):
        model.compile(SGD(RATE), LOSS, metrics=["accuracy"], jit_compile=JIT)
        logs.append(model.train_on_batch(x_2, y_2, return_dict=True))
    # A buffer without samples: a plain step, whatever the repeated samples would say.
    assert_same(inside.get_weights(), plain.get_weights(), "first task", atol=1e-6)
    for _ in range(9):  # so that the next task is in conflict
        learner.train_on_batch(x, y)
    learner.consolidate(x, y)
    plain.set_weights(inside.get_weights())
    for model in (learner, plain):
        model.reset_metrics()
        logs.append(model.train_on_batch(x_2, y_2, return_dict=True))
    for key in ("loss", "accuracy"):
        for ours, theirs in (logs[:2], logs[2:]):
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-5, err_msg=key)
    pairs = zip(inside.non_trainable_variables, plain.non_trainable_variables, strict=True)
    for ours, theirs in pairs:
        if "moving" in ours.path:
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=ours.path)
    differences = [
        np.abs(a - b).max() for a, b in zip(inside.get_weights(), plain.get_weights(), strict=True)
    ]
    assert max(differences) > 1e-4  # there was a conflict


def test_no_weight_moves_against_the_old_samples():
    (x, y), (x_2, y_2), _ = tasks()
    learner = made(SGD(1e-3))
    learner.consolidate(x, y, pretrained=True)
    weights = [ops.convert_to_tensor(w) for w in learner.strip().get_weights()]
    learner.train_on_batch(x_2, y_2)  # so that it compares
    wanted, others = ([w * factor for w in weights] for factor in (1.0, -3.0))
    wanted[0] = wanted[0] + 0.25
    result = learner.change_gradients(wanted, weights, lambda at, batch: others, None)
    result, others = (
        np.concatenate([np.ravel(ops.convert_to_numpy(t)) for t in p]) for p in (result, others)
    )
    np.testing.assert_allclose(result @ others, 0, atol=1e-5)


@pytest.mark.parametrize("broken", [np.inf, np.nan])
def test_what_is_not_finite_is_handed_on(broken):
    # Or loss scaling would not skip a step whose comparison has failed.
    (x, y), _, _ = tasks()
    learner = made(SGD(RATE))
    learner.consolidate(x, y, pretrained=True)
    learner.train_on_batch(x, y)
    weights = [ops.convert_to_tensor(w) for w in learner.strip().get_weights()]
    finite, other = ([np.ones(w.shape, "float32") for w in weights] for _ in range(2))
    other[0][1, 1] = broken
    for g, r in ((finite, other), (other, finite)):
        for sign in (1, -1):
            pair = [
                [ops.convert_to_tensor(sign * a) for a in g],
                list(map(ops.convert_to_tensor, r)),
            ]
            result = learner.change_gradients(pair[0], weights, lambda at, b, r=pair[1]: r, None)
            assert not all(np.isfinite(ops.convert_to_numpy(t)).all() for t in result)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras runs torch eagerly")
def test_tasks_compile_nothing_anew():
    layer = Counting()
    keras.utils.set_random_seed(0)
    body = [layers.Input((4,)), layer, layers.Dense(3)]
    learner, counts = made(model=keras.Sequential(body)), []
    for x, y in tasks(5):
        learner.fit(x, y, batch_size=3, verbose=0)
        learner.consolidate(x, y)
        counts.append(layer.traced)
    assert counts[0] > 0
    assert len(set(counts)) == 1, counts


def run(learner):
    for x, y in tasks():
        learner.fit(x, y, epochs=3, batch_size=4, verbose=0)
        learner.consolidate(x, y)
    return learner.strip().get_weights()


if BACKEND == "tensorflow":

    def test_replicas_equal_one_device():
        one = made(penalties=[L2Anchor(0.1)])
        with two_replicas().scope():
            two = AGEM(regression(), ReplayBuffer(9, seed=5), OLD, [L2Anchor(0.1)])
            two.compile(SGD(RATE, momentum=0.9), LOSS, jit_compile=False)
        assert_same(run(two), run(one), "replicas", atol=1e-5)
        assert float(ops.convert_to_numpy(two._compares)) == 1
        (x, y), *_ = tasks()
        with pytest.raises(ValueError, match="call `fit` instead"):
            two.train_on_batch(x, y)
        with pytest.raises(ValueError, match="`batch_size` must be a multiple of 2, the number of"):
            two.fit(x, y, batch_size=3, verbose=0)


if BACKEND == "jax":

    def test_data_parallel_equals_one_device():
        one = run(made())
        with keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]).scope():
            two = run(made())
        assert_same(two, one, "devices", atol=1e-5)


def test_what_does_not_work_is_said():
    with pytest.raises(TypeError, match="`buffer` must be a ReplayBuffer"):
        AGEM(network(), None)
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        AGEM(network(), ReplayBuffer(5), 0)
    with pytest.raises(ValueError, match="AGEM does not train on what the buffer holds, and DER"):
        AGEM(regression(), ReplayBuffer(5), 3, DER(0.5))
    learner, (x, y) = made(), tasks()[0]
    data = ReplayDataset(x, y, learner.buffer, 4)
    with pytest.raises(ValueError, match=r"compares with 6 samples .* replay_batch_size=4"):
        learner.fit(data, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="AGEM cannot wrap a AGEM"):
        AGEM(learner, ReplayBuffer(5))


def test_a_stream_compares_with_what_came_before():
    x, y = (np.concatenate(parts) for parts in zip(*tasks(), strict=True))
    learner, plain = made(SGD(1.0)), regression()
    data = ReplayDataset(x, y, learner.buffer, 4, OLD, shuffle=False, add_while_training=True)
    learner.fit(data, shuffle=False, verbose=0)
    plain.compile(SGD(1.0), LOSS, jit_compile=JIT)
    plain.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    assert learner.buffer.seen == len(x)
    difference = learner.strip().get_weights()[0] - plain.get_weights()[0]
    assert np.abs(difference).max() > 1e-2
