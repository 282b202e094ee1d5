import copy
import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_optkit.optimizers import LARS, Group, Lookahead, RAdam
from tests import oracles
from tests.oracles import assert_steps, follow, make_weights, optax_steps, read, run

SHAPES = {"dense/kernel": (4, 3), "dense/bias": (3,), "scale": ()}
RATE = 0.0625

INNER = {
    "RAdam": (lambda **kwargs: RAdam(RATE, **kwargs), oracles.RAdam),
    "SGD": (
        lambda **kwargs: keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True, **kwargs),
        lambda: oracles.SGD(0.9, nesterov=True),
    ),
    # With betas that float32 holds exactly: Keras' `1 - beta_2**t` loses digits at 0.999.
    "AdamW": (
        lambda **kwargs: keras.optimizers.AdamW(RATE, 0.1, 0.875, 0.9375, **kwargs),
        lambda: oracles.AdamW(0.875, 0.9375, weight_decay=0.1),
    ),
}


def problem(steps, seed=0):
    return oracles.problem(SHAPES, steps, seed)


def named(optimizer, ending):
    return [v for v in optimizer.variables if v.name.endswith(ending)]


def judges(make=oracles.RAdam, **settings):
    return [oracles.Lookahead(make(), **settings) for _ in SHAPES]


def rates():
    return itertools.repeat(RATE)


@pytest.mark.parametrize("inner_momentum", ["keep", "reset", "pullback"])
@pytest.mark.parametrize("name", INNER)
def test_follows_the_paper(name, inner_momentum):
    ours, theirs = INNER[name]
    start, gradients = problem(22)
    judge = judges(theirs, sync_period=5, slow_step=0.75, momentum=inner_momentum)
    expected = follow(judge, start.values(), gradients, rates())
    optimizer = Lookahead(ours(), sync_period=5, slow_step=0.75, inner_momentum=inner_momentum)
    assert_steps(run(optimizer, make_weights(start), gradients), expected)


@pytest.mark.parametrize("inner_momentum", ["keep", "pullback"])
def test_follows_the_paper_when_compiled(inner_momentum):
    start, gradients = problem(9)
    judge = judges(sync_period=2, momentum=inner_momentum)
    expected = follow(judge, start.values(), gradients, rates())
    optimizer = Lookahead(RAdam(RATE), sync_period=2, inner_momentum=inner_momentum)
    assert_steps(run(optimizer, make_weights(start), gradients, jit=True), expected)


@pytest.mark.parametrize("sync_period", [1, 3])
def test_agrees_with_optax(sync_period):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    start, gradients = problem(20, seed=1)
    inner = keras.optimizers.SGD(RATE, momentum=0.9)
    optimizer = Lookahead(inner, sync_period=sync_period, slow_step=0.25)
    ours = list(run(optimizer, make_weights(start), gradients))
    with jax.enable_x64(True):
        theirs = optax.lookahead(optax.sgd(RATE, 0.9), sync_period, 0.25)
        params = optax.LookaheadParams.init_synced({p: np.float64(w) for p, w in start.items()})
        state = theirs.init(params)
        update = jax.jit(theirs.update)
        for step, gradient in enumerate(gradients):
            named = {p: np.float64(g) for p, g in zip(start, gradient, strict=True)}
            moves, state = update(named, state, params)
            params = optax.apply_updates(params, moves)
            assert_steps([ours[step]], [[np.asarray(params.fast[p]) for p in start]])
            if (step + 1) % sync_period == 0:  # the model holds the slow weights, to evaluate
                assert_steps([ours[step]], [[np.asarray(params.slow[p]) for p in start]])


def test_agrees_with_the_inner_optimizer_of_optax_alone():
    # That the two libraries' SGD agree, so that the test above is about Lookahead.
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    start, gradients = problem(20, seed=1)
    ours = list(run(keras.optimizers.SGD(RATE, momentum=0.9), make_weights(start), gradients))
    with jax.enable_x64(True):
        assert_steps(ours, optax_steps(optax.sgd(RATE, 0.9), start, gradients))


def test_whole_step_every_time_is_the_inner_optimizer():
    start, gradients = problem(8)
    optimizer = Lookahead(RAdam(RATE), sync_period=1, slow_step=1.0)
    alone = run(RAdam(RATE), make_weights(start), gradients)
    assert_steps(run(optimizer, make_weights(start), gradients), alone, tolerance=2e-7)


def test_resets_all_momenta_and_nothing_else():
    start, gradients = problem(4)
    inner = RAdam(RATE)
    optimizer = Lookahead(inner, sync_period=4, inner_momentum="reset")
    weights = make_weights(start)
    list(run(optimizer, weights, gradients[:3]))
    momenta, velocities = (named(inner, slot) for slot in ("momentum", "velocity"))
    assert all(np.all(m != 0) for m in read(momenta))
    list(run(optimizer, weights, gradients[3:]))
    assert all(np.all(m == 0) for m in read(momenta))
    assert all(np.all(v != 0) for v in read(velocities))
    assert int(inner.iterations) == 4


@pytest.mark.parametrize("when", ["between build and first step", "within a cycle", "at its end"])
def test_weights_set_by_hand_survive(when):
    start, gradients = problem(12)
    other, _ = problem(0, seed=7)
    first = {"between build and first step": 0, "within a cycle": 4, "at its end": 6}[when]
    judge = judges(sync_period=3)
    expected = list(follow(judge, start.values(), gradients[:first], rates()))
    expected += follow(judge, other.values(), gradients[first:], rates())
    optimizer, weights = Lookahead(RAdam(RATE), sync_period=3), make_weights(start)
    optimizer.build(weights)
    actual = list(run(optimizer, weights, gradients[:first]))
    for weight, value in zip(weights, other.values(), strict=True):
        weight.assign(value)
    actual += run(optimizer, weights, gradients[first:])
    assert_steps(actual, expected)


def test_built_by_fit_equals_built_before():
    x = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
    y = np.float32(x.sum(axis=1, keepdims=True))
    trained = []
    for build in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
        inner = keras.optimizers.SGD(RATE, momentum=0.9)
        optimizer = Lookahead(inner, sync_period=3, inner_momentum="pullback")
        if build:
            model.build((None, 3))
            optimizer.build(model.trainable_variables)
        model.compile(optimizer, "mse")
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        trained.append(model.get_weights())
    for within, before in zip(*trained, strict=True):
        np.testing.assert_allclose(within, before, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "where", "jit"),
    [
        ("RAdam", "wrapper", False),
        ("RAdam", "inner", False),
        ("RAdam", "inner", True),
        ("AdamW", "wrapper", False),
        ("AdamW", "inner", False),
        ("SGD", "wrapper", True),
    ],
)
def test_counts_updates_not_batches(name, where, jit):
    ours, theirs = INNER[name]
    start, batches = problem(16)
    means = [
        [(a + b) / 2 for a, b in zip(*pair, strict=True)]
        for pair in zip(batches[::2], batches[1::2], strict=True)
    ]
    expected = follow(judges(theirs, sync_period=3), start.values(), means, rates())
    inside = {"gradient_accumulation_steps": 2} if where == "inner" else {}
    outside = {"gradient_accumulation_steps": 2} if where == "wrapper" else {}
    optimizer = Lookahead(ours(**inside), sync_period=3, **outside)
    actual = list(run(optimizer, make_weights(start), batches, jit))
    assert_steps(actual[1::2], expected)
    for before, after in zip(actual[1:-1:2], actual[2::2], strict=True):
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)
    assert int(optimizer.iterations) == 8


@pytest.mark.parametrize("jit", [False, True])
def test_nested(jit):
    start, gradients = problem(13)
    each = [oracles.Lookahead(oracles.SGD(0.9), 2, 0.5) for _ in SHAPES]
    for judge in each:
        judge.m = None  # of no concern to the outer one, which keeps momentum
    judge = [oracles.Lookahead(inner, 3, 0.25) for inner in each]
    expected = follow(judge, start.values(), gradients, rates())
    inner = Lookahead(keras.optimizers.SGD(RATE, momentum=0.9), sync_period=2)
    optimizer = Lookahead(inner, sync_period=3, slow_step=0.25)
    assert_steps(run(optimizer, make_weights(start), gradients, jit), expected)


def test_nested_accumulation_is_the_outermost_ones():
    start, batches = problem(8)
    inner = keras.optimizers.SGD(RATE, gradient_accumulation_steps=2)
    optimizer = Lookahead(Lookahead(inner, sync_period=2), sync_period=3)
    assert optimizer.gradient_accumulation_steps == 2
    assert optimizer.inner_optimizer.gradient_accumulation_steps is None
    assert inner.gradient_accumulation_steps is None
    means = [
        [(a + b) / 2 for a, b in zip(*pair, strict=True)]
        for pair in zip(batches[::2], batches[1::2], strict=True)
    ]
    plain = Lookahead(Lookahead(keras.optimizers.SGD(RATE), sync_period=2), sync_period=3)
    expected = run(plain, make_weights(start), means)
    assert_steps(list(run(optimizer, make_weights(start), batches))[1::2], expected)


@pytest.mark.parametrize("make", [lambda: RAdam(0.5), lambda: keras.optimizers.SGD(0.5)])
def test_learning_rate_is_the_inner_ones(make):
    start, gradients = problem(2)
    inner = make()
    optimizer = Lookahead(Lookahead(inner))
    assert float(ops.convert_to_numpy(optimizer.learning_rate)) == 0.5
    optimizer.learning_rate = 0.25
    assert float(ops.convert_to_numpy(inner.learning_rate)) == 0.25
    inner.learning_rate = 0.0
    assert float(ops.convert_to_numpy(optimizer.learning_rate)) == 0.0
    weights = make_weights(start)
    before = read(weights)
    list(run(optimizer, weights, gradients))
    for a, b in zip(read(weights), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_learning_rate_of_a_schedule_is_read_and_not_set():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.25])
    optimizer = Lookahead(RAdam(schedule))
    start, gradients = problem(1)
    assert float(ops.convert_to_numpy(optimizer.learning_rate)) == 0.5
    list(run(optimizer, make_weights(start), gradients))
    assert float(ops.convert_to_numpy(optimizer.learning_rate)) == 0.25
    with pytest.raises(TypeError, match="LearningRateSchedule"):
        optimizer.learning_rate = 0.1


@pytest.mark.parametrize("after", [0, 4])
def test_deepcopy_goes_on_identically(after):
    start, gradients = problem(10)
    optimizer, weights = Lookahead(INNER["AdamW"][0](), sync_period=3), make_weights(start)
    optimizer.build(weights)
    list(run(optimizer, weights, gradients[:after]))
    twin = copy.deepcopy(optimizer)
    here = read(weights)
    one = list(run(optimizer, weights, gradients[after:]))
    for weight, value in zip(weights, here, strict=True):
        weight.assign(value)
    two = list(run(twin, weights, gradients[after:]))
    assert_steps(two, one, tolerance=0)


def test_deepcopy_of_one_not_built():
    optimizer = Lookahead(RAdam(0.25, beta_1=0.5), sync_period=4, inner_momentum="reset")
    twin = copy.deepcopy(optimizer)
    assert twin.inner_optimizer is not optimizer.inner_optimizer
    assert twin.get_config() == optimizer.get_config()


def test_weight_without_a_gradient_stays():
    start, gradients = problem(7)
    for step in gradients:
        step[1] = None
    judge = judges(sync_period=2)
    present = {path: w for path, w in start.items() if path != "dense/bias"}
    given = [[g for g in step if g is not None] for step in gradients]
    expected = list(follow([judge[0], judge[2]], present.values(), given, rates()))
    for weights in expected:
        weights.insert(1, np.float64(start["dense/bias"]))
    optimizer = Lookahead(RAdam(RATE), sync_period=2)
    with pytest.warns(UserWarning, match="Gradients do not exist for variables.*bias"):
        actual = list(run(optimizer, make_weights(start), gradients))
    assert_steps(actual, expected)
    for weights in actual:
        np.testing.assert_array_equal(weights[1], start["dense/bias"])


def test_half_precision_weights_are_pulled_in_float32():
    # In bfloat16 the slow weights would stay at 256: the way to go is less than a half step.
    (weight,) = make_weights({"w": np.full(2, 256.0)}, dtype="bfloat16")
    optimizer = Lookahead(keras.optimizers.SGD(1.0), sync_period=2, slow_step=0.5)
    assert keras.backend.standardize_dtype(weight.dtype) == "bfloat16"
    expected = [254.0, 254.0]  # 256 -> 254 -> 252, then half way back
    for value in expected:
        optimizer.apply([ops.convert_to_tensor([2.0, 2.0], dtype="bfloat16")], [weight])
        np.testing.assert_array_equal(read([weight])[0], value)
    (slow,) = named(optimizer, "slow")
    assert keras.backend.standardize_dtype(slow.dtype) == "float32"


@pytest.mark.parametrize("jit", [False, True])
def test_constraints_hold_after_a_synchronization(jit):
    # What lies between two vectors of norm 1 is shorter.
    (weight,) = make_weights({"w": np.float32([[0.6], [0.8]])})
    weight.constraint = keras.constraints.UnitNorm()
    optimizer = Lookahead(keras.optimizers.SGD(1.0), sync_period=2)
    gradients = [[np.float32([[1.0], [0.5]])]] * 4
    for step, (actual,) in enumerate(run(optimizer, [weight], gradients, jit), 1):
        norm = np.sqrt(np.sum(actual**2))
        np.testing.assert_allclose(norm, 1, rtol=1e-6, err_msg=f"step {step}")


def test_slow_weights_have_memory_of_their_own():
    # A frozen weight stays the array it was, and JAX must not be given that array twice.
    start, gradients = problem(4)
    inner = RAdam(RATE, groups=[Group("dense", frozen=True)])
    optimizer, weights = Lookahead(inner, sync_period=4), make_weights(start)
    list(run(optimizer, weights, gradients[:1]))
    *_, after = run(optimizer, weights, gradients[1:], jit=True)
    np.testing.assert_array_equal(after[0], start["dense/kernel"])
    assert after[2] != start["scale"]


def test_momentum_is_required_where_it_is_to_be_changed():
    start, gradients = problem(1)
    optimizer = Lookahead(keras.optimizers.SGD(0.1), inner_momentum="reset")
    with pytest.raises(ValueError, match='`inner_momentum` must be "keep" for an optimizer with'):
        next(run(optimizer, make_weights(start), gradients))


def test_resets_the_momentum_of_lars():
    start, gradients = problem(2)
    inner, weights = LARS(1.0), make_weights(start)
    list(run(Lookahead(inner, sync_period=2, inner_momentum="reset"), weights, gradients))
    assert all(np.all(v == 0) for v in read(named(inner, "momentum")))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sync_period": 0}, ValueError, "`sync_period` must be an integer of at least 1"),
        ({"sync_period": 2.0}, TypeError, "`sync_period` must be an integer. Received"),
        ({"slow_step": 0.0}, ValueError, r"`slow_step` must be in \(0, 1\]. Received: slow_step=0"),
        ({"slow_step": 1.5}, ValueError, r"`slow_step` must be in \(0, 1\]"),
        ({"inner_momentum": "drop"}, ValueError, "must be one of 'keep', 'reset', 'pullback'"),
        ({"clipnorm": 1.0}, TypeError, r"'clipnorm'.*belong to the optimizer inside"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Lookahead(RAdam(), **arguments)


def test_wraps_optimizers_only():
    with pytest.raises(TypeError, match="`inner_optimizer` must be a Keras optimizer or its name"):
        Lookahead(0.1)
    assert isinstance(Lookahead("adamw").inner_optimizer, keras.optimizers.AdamW)
