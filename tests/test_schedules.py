"""Schedules against float64 NumPy, optax, and what must always hold."""

import inspect
import json
import sys

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from keras import ops
from keras.optimizers.schedules import CosineDecay, PiecewiseConstantDecay, PolynomialDecay

import keras_optkit
from keras_optkit.schedules import (
    REX,
    CosineRestarts,
    Cyclic,
    InverseSquareRoot,
    LinearDecay,
    MultiStep,
    OneCycle,
    OneCycleMomentum,
    PerEpoch,
    Product,
    Scale,
    Schedule,
    Sequence,
    StepDecay,
    Warmup,
    WarmupStableDecay,
)

BACKEND = keras.backend.backend()
INSTANCES = [
    Warmup(CosineDecay(0.1, 20), steps=5, shape="exponential", start_factor=0.01),
    Sequence([0.5, Warmup(PolynomialDecay(0.1, 10), 3), CosineDecay(0.2, 7)], boundaries=[4, 20]),
    CosineRestarts(0.3, 5, period_factor=2.0, peak_factor=0.7, warmup_steps=2, minimum=0.01),
    Cyclic(0.01, 0.2, half_cycle_steps=4, mode="exp_range", gamma=0.97),
    InverseSquareRoot(0.2, warmup_steps=4),
    LinearDecay(0.2, steps=20, final=0.05),
    MultiStep(0.2, [4, 19], factor=0.3),
    OneCycle(0.3, steps=20, warmup_fraction=0.25, three_phase=True),
    OneCycleMomentum(steps=20, low=0.8, high=0.9, shape="linear"),
    PerEpoch(LinearDecay(0.2, steps=6), steps_per_epoch=4),
    Product([Cyclic(0.5, 1.0, half_cycle_steps=3), StepDecay(0.3, 5), 0.9]),
    REX(0.2, steps=20, final=0.01),
    Scale(CosineDecay(0.1, 20), factor=3.0),
    StepDecay(0.3, every=4, factor=0.6, minimum=0.02),
    WarmupStableDecay(0.2, warmup_steps=4, stable_steps=5, decay_steps=11, decay_shape="sqrt"),
]
SHAPES = ("linear", "cosine", "exponential")


def values(schedule, steps):
    return ops.convert_to_numpy(schedule(np.asarray(steps, "int32")))


def ramp(shape, x, f):
    """The factors of a warmup, in float64 and as the docstring has them."""
    if shape == "linear":
        return f + (1 - f) * x
    if shape == "cosine":
        return f + (1 - f) * (1 - np.cos(np.pi * x)) / 2
    return f ** (1 - x)


def cosine(t, start, steps):
    return start * 0.5 * (1 + np.cos(np.pi * np.minimum(t, steps) / steps))


def compiled(schedule):
    if BACKEND == "jax":
        import jax

        return jax.jit(schedule)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(schedule, jit_compile=True)
    return schedule


def test_every_schedule_has_an_instance():
    classes = {c for _, c in inspect.getmembers(keras_optkit.schedules, inspect.isclass)}
    assert {type(s) for s in INSTANCES} == classes - {Schedule}


@pytest.mark.parametrize("schedule", INSTANCES, ids=lambda s: type(s).__name__)
def test_config_round_trip(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    assert config["registered_name"] == f"keras_optkit>{type(schedule).__name__}"
    loaded = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert type(loaded) is type(schedule)
    assert loaded.get_config() == schedule.get_config()
    np.testing.assert_array_equal(values(loaded, range(40)), values(schedule, range(40)))


@pytest.mark.parametrize("schedule", INSTANCES, ids=lambda s: type(s).__name__)
def test_an_optimizer_saves_and_follows_the_schedule(schedule):
    optimizer = keras.optimizers.SGD(schedule)
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    weight = keras.Variable(0.0, name="weight")
    optimizer.build([weight])
    for step in range(8):
        before = float(ops.convert_to_numpy(weight))
        optimizer.apply([ops.ones(())], [weight])
        moved = before - float(ops.convert_to_numpy(weight))
        np.testing.assert_allclose(
            moved, values(schedule, step), rtol=1e-5, atol=1e-7, err_msg=f"step {step}"
        )


@pytest.mark.parametrize("schedule", INSTANCES, ids=lambda s: type(s).__name__)
def test_steps_of_every_kind(schedule):
    grid = np.arange(30)
    vector = values(schedule, grid)
    assert vector.shape == (30,)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(ops.convert_to_numpy(schedule(grid)), vector, rtol=1e-6)
    square = ops.convert_to_numpy(schedule(ops.convert_to_tensor(grid.reshape(5, 6))))
    np.testing.assert_allclose(square.ravel(), vector, rtol=1e-6)
    variable = keras.Variable(0, dtype="int32", name="iterations", trainable=False)
    for step in (0, 2, 4, 5, 19, 29):
        variable.assign(step)
        for given in (step, np.int64(step), ops.convert_to_tensor(step, "int32"), variable):
            value = schedule(given)
            assert keras.backend.standardize_dtype(value.dtype) == "float32"
            assert tuple(value.shape) == ()
            np.testing.assert_allclose(ops.convert_to_numpy(value), vector[step], rtol=1e-6)


@pytest.mark.parametrize("schedule", INSTANCES, ids=lambda s: type(s).__name__)
def test_compiled_as_eager(schedule):
    function = compiled(schedule)
    for step in (0, 3, 4, 5, 30):
        value = ops.convert_to_numpy(function(ops.convert_to_tensor(step, "int32")))
        np.testing.assert_allclose(value, values(schedule, step), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("start_factor", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("steps", [1, 7, 10_000])
def test_warmup_judge(shape, start_factor, steps):
    if shape == "exponential" and start_factor == 0:
        pytest.skip("an error, tested below")
    schedule = Warmup(CosineDecay(0.2, 50), steps, shape, start_factor)
    t = np.sort(np.r_[0:10, np.linspace(0, steps + 40, 60).astype(int)])
    up = 0.2 * ramp(shape, np.minimum((t + 1) / steps, 1), start_factor)
    expected = np.where(t < steps, up, cosine(t - steps, 0.2, 50))
    ours = values(schedule, t)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=2e-8)  # the decay cancels at its end
    np.testing.assert_allclose(ours[t < steps], expected[t < steps], rtol=1e-6)


def test_warmup_as_optax():
    optax = pytest.importorskip("optax")
    ours = values(Warmup(CosineDecay(0.2, 50), 10, start_factor=0.1), range(70))
    theirs = optax.warmup_cosine_decay_schedule(0.02, 0.2, warmup_steps=10, decay_steps=60)
    t = np.arange(70)
    np.testing.assert_allclose(ours[:10], theirs(t[:10] + 1), rtol=1e-6)
    np.testing.assert_allclose(ours[10:], theirs(t[10:]), rtol=1e-6, atol=2e-8)
    theirs = optax.warmup_exponential_decay_schedule(0.0, 0.2, 10, 5, 0.5)
    decay = keras.optimizers.schedules.ExponentialDecay(0.2, 5, 0.5)
    np.testing.assert_allclose(values(Warmup(decay, 10), t)[10:], theirs(t)[10:], rtol=1e-6)


def test_sequence_judge():
    t = np.arange(60)
    ours = values(Sequence([CosineDecay(0.3, 10), 0.05, CosineDecay(0.1, 20)], [12, 30]), t)
    expected = np.where(t < 12, cosine(t, 0.3, 10), 0.05)
    expected = np.where(t < 30, expected, cosine(t - 30, 0.1, 20))
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=2e-8)
    assert ours[12] == ours[29] == np.float32(0.05)
    assert ours[30] == np.float32(0.1)


def test_sequence_as_optax():
    optax = pytest.importorskip("optax")
    theirs = optax.join_schedules(
        [optax.linear_schedule(0.0, 1.0, 8), optax.constant_schedule(0.7),
         optax.cosine_decay_schedule(0.2, 10, alpha=0.1)],
        [8, 15],
    )  # fmt: skip
    rise = PolynomialDecay(0.0, 8, end_learning_rate=1.0)
    ours = Sequence([rise, 0.7, CosineDecay(0.2, 10, alpha=0.1)], [8, 15])
    t = np.arange(40)
    np.testing.assert_allclose(values(ours, t), theirs(t), rtol=1e-6)


def test_sequence_of_numbers_and_of_one():
    np.testing.assert_array_equal(values(Sequence([3, 2, 1], [2, 3]), range(5)), [3, 3, 2, 1, 1])
    np.testing.assert_array_equal(values(Sequence((0.5,), ()), range(3)), [0.5, 0.5, 0.5])


def test_exact_above_two_to_the_24():
    start = 2**24 + 1
    fall = PolynomialDecay(1.0, 10, end_learning_rate=0.0)
    steps = start + np.arange(-3, 11)
    expected = 1 - np.clip(np.arange(-3, 11), 0, 10) / 10
    for schedule in (Sequence([1.0, fall], [start]), Warmup(fall, start)):
        np.testing.assert_allclose(values(schedule, steps), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.skipif(BACKEND == "jax", reason="no int64 unless asked for")
def test_exact_above_two_to_the_31():
    step = 2**40 + 3 + np.arange(4)
    decay = PiecewiseConstantDecay([2**40 - 6], [0.5, 0.25])
    for schedule in (Sequence([1.0, decay], [10]), Warmup(decay, 10)):
        ours = ops.convert_to_numpy(schedule(ops.convert_to_tensor(step, "int64")))
        np.testing.assert_array_equal(ours, [0.5, 0.5, 0.25, 0.25])


def test_the_step_before_an_unused_branch_stays_finite():
    growth = keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.01)  # 100**t at negative t
    assert np.all(np.isfinite(values(Sequence([1.0, growth], [1000]), range(0, 1100, 7))))


@hypothesis.settings(deadline=None, max_examples=40, derandomize=True)
@hypothesis.given(
    shape=st.sampled_from(SHAPES),
    steps=st.integers(1, 50),
    peak=st.floats(2**-20, 10, width=32),
    start_factor=st.floats(2**-10, 1, width=32),
    seed=st.integers(0, 1000),
)
def test_warmup_properties(shape, steps, peak, start_factor, seed):
    schedule = Warmup(CosineDecay(peak, 20), steps, shape, start_factor)
    t = np.arange(72)
    v = values(schedule, t)
    assert np.all(v >= 0)
    assert np.all(v <= peak * (1 + 1e-6))
    assert np.all(v[:steps] >= start_factor * peak * (1 - 1e-6))
    assert np.all(np.diff(v[:steps]) >= -1e-6 * peak)  # rises
    assert np.all(np.diff(v[steps:]) <= 1e-6 * peak)  # falls
    np.testing.assert_allclose(v[steps - 1], peak, rtol=1e-6)  # continuous at the join:
    np.testing.assert_allclose(v[steps], peak, rtol=1e-6)
    first = ramp(shape, 1 / steps, start_factor)
    np.testing.assert_allclose(v[0], peak * first, rtol=2e-6)
    step = seed % len(t)
    np.testing.assert_allclose(values(schedule, step), v[step], rtol=1e-6, atol=1e-6 * peak)


@hypothesis.settings(deadline=None, max_examples=40, derandomize=True)
@hypothesis.given(
    numbers=st.lists(st.floats(0, 10, width=32), min_size=1, max_size=5),
    gaps=st.lists(st.integers(1, 20), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
def test_sequence_properties(numbers, gaps, seed):
    boundaries = [int(b) for b in np.cumsum(gaps)][: len(numbers) - 1]
    schedule = Sequence(numbers, boundaries)
    t = np.arange(90)
    v = values(schedule, t)
    index = np.searchsorted(boundaries, t, side="right")
    np.testing.assert_array_equal(v, np.float32(numbers)[index])
    assert values(schedule, seed % 90) == v[seed % 90]


def test_nested_schedules():
    inner = Sequence([PiecewiseConstantDecay([2], [0.4, 0.2]), 0.1], [5])
    schedule = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(Warmup(inner, 4))
    )
    expected = np.float32([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(values(schedule, range(12)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "inner",
    [
        PiecewiseConstantDecay([2], [0.4, 0.2]),
        CosineDecay(0.1, 9, warmup_target=0.2, warmup_steps=3),
    ],
)
def test_schedules_of_keras_that_take_one_step_at_a_time(inner):
    schedule = Sequence([0.3, inner], [3])
    t = np.arange(12)
    expected = [values(schedule, step) for step in t]
    np.testing.assert_allclose(values(schedule, t), expected, rtol=1e-6)
    np.testing.assert_allclose(values(schedule, t.reshape(3, 4)).ravel(), expected, rtol=1e-6)
    if BACKEND != "torch":
        traced = compiled(schedule)(ops.convert_to_tensor(t, "int32"))
        np.testing.assert_allclose(ops.convert_to_numpy(traced), expected, rtol=1e-6)


def test_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, axes = plt.subplots()
    schedule = INSTANCES[0]
    assert schedule.plot(12, axes) is axes
    x, y = axes.lines[0].get_data()
    np.testing.assert_array_equal(x, np.arange(12))
    np.testing.assert_array_equal(y, values(schedule, range(12)))
    assert axes.get_xlabel() == "step"
    assert schedule.plot(3) is axes  # the current ones
    plt.close("all")


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "keras_optkit\[plots\]"'):
        INSTANCES[0].plot(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Warmup("0.1", 5), r"`schedule` must be a number or a keras\S*LearningRateSchedule"
                                   r".*keras_optkit\.schedules\.Schedule\..*schedule='0\.1'"),
        (lambda: Warmup(True, 5), r"`schedule` must be a number or .*schedule=True"),
        (lambda: Warmup(lambda step: 1.0, 5), r"`schedule` must be a number or .*schedule=<func"),
        (lambda: Warmup(-1.0, 5), r"`schedule` must be at least 0\. .*schedule=-1\.0"),
        (lambda: Warmup(float("inf"), 5), r"`schedule` must be at least 0\. .*schedule=inf"),
        (lambda: Warmup(1.0, 0), r"`steps` must be an integer of at least 1\. .*steps=0"),
        (lambda: Warmup(1.0, 2.5), r"`steps` must be an integer\. .*steps=2\.5"),
        (lambda: Warmup(1.0, 5, "step"), r"`shape` must be one of 'linear'.*shape='step'"),
        (lambda: Warmup(1.0, 5, start_factor=1.5), r"`start_factor` must be in \[0, 1\]\. .*=1\.5"),
        (lambda: Warmup(1.0, 5, "exponential"),
         r"`start_factor` must be greater than 0 for .*1e-3 is common.*start_factor=0\.0"),
        (lambda: Sequence(0.1, []), r"`schedules` must be a list of numbers.*schedules=0\.1"),
        (lambda: Sequence([0.1, None], [5]), r"`schedules\[1\]` must be a number or .*\]=None"),
        (lambda: Sequence([], []), r"`schedules` must hold at least one .*schedules=\[\]"),
        (lambda: Sequence([1, 2], 5), r"`boundaries` must be a list of integers.*boundaries=5"),
        (lambda: Sequence([1, 2], [5, 6]), r"one step fewer than .* 2: .*boundaries=\[5, 6\]"),
        (lambda: Sequence([1, 2, 3], [5, 5]), r"`boundaries` must increase.*boundaries=\[5, 5\]"),
        (lambda: Sequence([1, 2], [0]), r"`boundaries\[0\]` must be an integer of at least 1\."),
        (lambda: Sequence([1, 2], [1.5]), r"`boundaries\[0\]` must be an integer\. .*1\.5"),
        (lambda: INSTANCES[0].plot(0), r"`steps` must be an integer of at least 1\. .*steps=0"),
    ],
)  # fmt: skip
def test_bad_arguments(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_schedule_without_call():
    with pytest.raises(NotImplementedError, match=r"Schedule must define `__call__"):
        Schedule()(0)
