"""Each schedule of the catalogue against its formula in float64, optax and torch."""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from keras import ops

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
    StepDecay,
    WarmupStableDecay,
)

BACKEND = keras.backend.backend()
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="optax judges where it runs anyway")
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="torch judges where it runs anyway")
few = hypothesis.settings(deadline=None, max_examples=25, derandomize=True)

T = np.arange(60)
FAR = 2**24 + 1
peaks = st.floats(2**-20, 10, width=32)


def values(schedule, steps, dtype="int32"):
    return ops.convert_to_numpy(schedule(ops.convert_to_tensor(np.asarray(steps, dtype))))


# The judges: formulas of the papers in float64, for arrays of steps.


def step_decay(t, initial, every, factor, minimum=0.0):
    return np.maximum(initial * factor ** (t // every), minimum)


def multi_step(t, initial, boundaries, factor):
    return initial * factor ** np.searchsorted(boundaries, t, side="right")


def linear(t, initial, steps, final=0.0):
    return initial + (final - initial) * np.clip(t / steps, 0, 1)


def rex(t, initial, steps, final=0.0):
    z = np.clip(t / steps, 0, 1)
    return final + (initial - final) * (1 - z) / (0.5 + 0.5 * (1 - z))


def noam(t, d_model, warmup_steps):
    step = t + 1.0
    return d_model**-0.5 * np.minimum(step**-0.5, step * warmup_steps**-1.5)


def one_cycle(t, values, steps, fraction, shape):
    """The curve through `values` at 0, the ends of the phases, and the last step."""
    ends = [0, *(i * (fraction * steps - 1) for i in range(1, len(values) - 1)), steps - 1]
    ways = [np.clip((t - start) / (end - start), 0, 1) for start, end in itertools.pairwise(ends)]
    if shape == "cosine":
        ways = [(1 - np.cos(np.pi * x)) / 2 for x in ways]
    changes = np.diff(values)
    return values[0] + sum(x * change for x, change in zip(ways, changes, strict=True))


def cyclic(t, low, high, half, mode="triangular", gamma=1.0):
    """Smith, 2015, as in the code of section 3."""
    cycle = np.floor(1 + t / (2 * half))
    x = np.abs(t / half - 2 * cycle + 1)
    scale = {"triangular": 1.0, "triangular2": 2.0 ** (1 - cycle), "exp_range": gamma**t}[mode]
    return low + (high - low) * np.maximum(0, 1 - x) * scale


def stable(t, peak, n, s, d, final, shape):
    x = np.clip((t - n - s) / d, 0, 1)
    if shape == "exponential":
        decay = peak * (final / peak) ** x
    else:
        left = {"linear": 1 - x, "cosine": (1 + np.cos(np.pi * x)) / 2, "sqrt": 1 - np.sqrt(x)}
        decay = final + (peak - final) * left[shape]
    return np.where(t < n, peak * (t + 1) / max(n, 1), decay)


def restarts(t, peak, period, factor=1, peak_factor=1.0, n=0, minimum=0.0):
    """One step after another, by whole numbers."""
    found = []
    for step in map(int, t):
        start, length, i = 0, period, 0
        if factor == 1:
            i = step // period
            start = i * period
        while step >= start + length:
            start, i = start + length, i + 1
            length = round(period * factor**i)
        u, p = step - start, max(minimum, peak * peak_factor**i)
        wave = (1 + math.cos(math.pi * (u - n) / (length - n))) / 2
        found.append(minimum + (p - minimum) * ((u + 1) / n if u < n else wave))
    return np.array(found)


JUDGED = {
    "step": (StepDecay(0.3, 7, 0.6), step_decay(T, 0.3, 7, 0.6)),
    "step to minimum": (StepDecay(0.3, 7, 0.6, 0.1), step_decay(T, 0.3, 7, 0.6, 0.1)),
    "multi step": (MultiStep(0.3, [1, 20, 21], 0.7), multi_step(T, 0.3, [1, 20, 21], 0.7)),
    "multi step, none": (MultiStep(0.3, []), np.full(60, 0.3)),
    "linear": (LinearDecay(0.3, 50), linear(T, 0.3, 50)),
    "linear to": (LinearDecay(0.3, 50, 0.1), linear(T, 0.3, 50, 0.1)),
    "linear, rising": (LinearDecay(0.0, 50, 0.1), linear(T, 0.0, 50, 0.1)),
    "rex": (REX(0.3, 50), rex(T, 0.3, 50)),
    "rex to": (REX(0.3, 50, 0.1), rex(T, 0.3, 50, 0.1)),
    "noam": (InverseSquareRoot.for_width(512, 20), noam(T, 512, 20)),
    "noam, scaled": (InverseSquareRoot.for_width(64, 1, scale=2.0), 2 * noam(T, 64, 1)),
    "triangular": (Cyclic(0.1, 0.3, 7), cyclic(T, 0.1, 0.3, 7)),
    "triangular2": (Cyclic(0.1, 0.3, 7, "triangular2"), cyclic(T, 0.1, 0.3, 7, "triangular2")),
    "exp_range": (Cyclic(0.1, 0.3, 7, "exp_range", 0.97),
                  cyclic(T, 0.1, 0.3, 7, "exp_range", 0.97)),
    "one step up": (Cyclic(0.1, 0.3, 1), cyclic(T, 0.1, 0.3, 1)),
    "restarts": (CosineRestarts(0.3, 7), restarts(T, 0.3, 7)),
    "restarts, longer": (CosineRestarts(0.3, 5, 2, 0.8, 3, 0.01),
                         restarts(T, 0.3, 5, 2, 0.8, 3, 0.01)),
    "restarts, 1.5": (CosineRestarts(0.3, 4, 1.5, 0.5, minimum=0.1),
                      restarts(T, 0.3, 4, 1.5, 0.5, minimum=0.1)),
    "restarts, at each step": (CosineRestarts(0.3, 1), np.full(60, 0.3)),
    "per epoch": (PerEpoch(LinearDecay(0.3, 5), 7), linear(T // 7, 0.3, 5)),
    "scale": (Scale(LinearDecay(0.3, 50), 2.5), 2.5 * linear(T, 0.3, 50)),
    "product": (Product([Cyclic(0.5, 1, 7), LinearDecay(0.3, 50), 2]),
                2 * cyclic(T, 0.5, 1, 7) * linear(T, 0.3, 50)),
}  # fmt: skip
JUDGED |= {
    f"stable, {shape}, {n}, {s}": (
        WarmupStableDecay(0.3, n, s, 30, 0.02, shape), stable(T, 0.3, n, s, 30, 0.02, shape)
    )
    for shape in ("linear", "cosine", "sqrt", "exponential") for n, s in [(10, 8), (0, 0)]
}  # fmt: skip
for shape in ("linear", "cosine"):
    for three, rates, momenta in [
        (False, (0.012, 0.3, 0.000012), (0.95, 0.85, 0.95)),
        (True, (0.012, 0.3, 0.012, 0.000012), (0.95, 0.85, 0.95, 0.95)),
    ]:
        for steps, fraction in [(50, 0.3), (53, 0.37), (4, 0.4)]:
            cycle = OneCycle(0.3, steps, fraction, 25, 1000, shape, three)
            name = f"{shape} cycle of {steps}{', three' * three}"
            JUDGED[name] = (cycle, one_cycle(T, rates, steps, fraction, shape))
            expected = one_cycle(T, momenta, steps, fraction, shape)
            JUDGED[f"{name}, momentum"] = (cycle.momentum(), expected)


@pytest.mark.parametrize("name", JUDGED)
def test_judge(name):
    schedule, expected = JUDGED[name]
    scale = np.max(expected)
    np.testing.assert_allclose(values(schedule, T), expected, rtol=1e-6, atol=1e-8 * scale)


def relative_error(schedule, expected, steps):
    """Returns the largest, where the formula is not 0."""
    found = values(schedule, steps)
    return np.max(np.abs(found - expected)[expected > 0] / expected[expected > 0])


def test_the_last_steps_are_as_precise_as_the_first():
    n = 100_000
    t = np.r_[0:5, n // 2, n - 5 : n]
    left = np.float64(n - t) / n
    assert relative_error(LinearDecay(0.3, n), 0.3 * left, t) < 3e-7
    assert relative_error(REX(0.3, n), 0.3 * 2 * left / (1 + left), t) < 3e-7
    wave = np.sin(np.pi / 2 * left) ** 2
    assert relative_error(CosineRestarts(0.3, n), 0.3 * wave, t) < 6e-7
    assert relative_error(WarmupStableDecay(0.3, 0, 0, n, 0.0, "cosine"), 0.3 * wave, t) < 6e-7
    root = left / (1 + np.sqrt(1 - left))
    assert relative_error(WarmupStableDecay(0.3, 0, 0, n, 0.0, "sqrt"), 0.3 * root, t) < 3e-7


def test_many_drops_do_not_add_up_the_error_of_the_factor():
    t = np.arange(0, 5000, 100)
    assert relative_error(StepDecay(0.3, 1, 0.999), step_decay(t, 0.3, 1, 0.999), t) < 1e-6
    t = np.arange(0, 5000, 100) + 1
    schedule = Cyclic(0.0, 0.3, 2, "exp_range", 0.999)
    assert relative_error(schedule, cyclic(t, 0.0, 0.3, 2, "exp_range", 0.999), t) < 1e-6


# Above 2^24, where float32 skips every other step.


@pytest.mark.parametrize(
    ("schedule", "judge", "base"),
    [
        (StepDecay(1.0, FAR, 0.5), lambda t: step_decay(t, 1.0, FAR, 0.5), FAR),
        (StepDecay(1.0, 3, 0.9999995), lambda t: step_decay(t, 1.0, 3, 0.9999995), FAR),
        (MultiStep(1.0, [FAR, FAR + 1], 0.5), lambda t: multi_step(t, 1, [FAR, FAR + 1], 0.5), FAR),
        (Cyclic(0.1, 1.0, 5), lambda t: cyclic(t, 0.1, 1.0, 5), FAR),
        (Cyclic(0.1, 1.0, 5), lambda t: cyclic(t, 0.1, 1.0, 5), 2**31 - 30),
        (CosineRestarts(1.0, 7), lambda t: restarts(t, 1.0, 7), 2**31 - 30),
        (CosineRestarts(1.0, FAR), lambda t: restarts(t, 1.0, FAR), FAR),
        (PerEpoch(MultiStep(1.0, [FAR]), 2),
         lambda t: multi_step(t // 2, 1.0, [FAR], 0.1), 2 * FAR),
        (OneCycle(1.0, 2 * FAR + 4, 0.5, shape="linear"),
         lambda t: one_cycle(t, (0.04, 1.0, 4e-6), 2 * FAR + 4, 0.5, "linear"), FAR),
        (WarmupStableDecay(1.0, 10, FAR, 9),
         lambda t: stable(t, 1.0, 10, FAR, 9, 0, "linear"), FAR),
    ],
)  # fmt: skip
def test_exact_above_two_to_the_24(schedule, judge, base):
    t = base + np.arange(-10, 25)
    np.testing.assert_allclose(values(schedule, t), judge(np.int64(t)), rtol=1e-6, atol=1e-8)
    if BACKEND != "jax":  # which has no int64 unless asked
        ours = values(schedule, t, "int64")
        np.testing.assert_allclose(ours, judge(np.int64(t)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("factor", [2, 3, 10, 1.5])
def test_every_restart_is_on_its_step(factor):
    first, limit = 10, 2**31 - 1
    dtype = "int32"
    if BACKEND != "jax":
        limit, dtype = 2**50, "int64"
    starts, length = [0], first
    while starts[-1] + length < limit:
        starts.append(starts[-1] + length)
        length = round(first * factor ** (len(starts) - 1))
    starts = np.array(starts[1:])
    schedule = CosineRestarts(1.0, first, factor, minimum=0.25)
    assert np.all(values(schedule, starts, dtype) == 1.0)
    assert np.all(values(schedule, starts - 1, dtype) < 0.28)
    halved = CosineRestarts(1.0, first, factor, 0.5)
    np.testing.assert_allclose(
        values(halved, starts, dtype), 0.5 ** np.arange(1, len(starts) + 1), rtol=1e-5
    )


# Second opinions.


@on_jax
def test_as_optax():
    import optax

    def same(ours, theirs, t=T):
        theirs = np.array([theirs(step) for step in t])
        np.testing.assert_allclose(values(ours, t), theirs, rtol=2e-6, atol=1e-7)

    same(StepDecay(0.3, 7, 0.6), optax.exponential_decay(0.3, 7, 0.6, staircase=True))
    floor = optax.exponential_decay(0.3, 7, 0.6, staircase=True, end_value=0.1)
    same(StepDecay(0.3, 7, 0.6, 0.1), floor)
    same(MultiStep(0.3, [3, 9], 0.5), optax.piecewise_constant_schedule(0.3, {3: 0.5, 9: 0.5}))
    same(LinearDecay(0.3, 40, 0.1), optax.linear_schedule(0.3, 0.1, 40))
    same(LinearDecay(0.3, 40), optax.polynomial_schedule(0.3, 0.0, 1, 40))
    stages = [optax.constant_schedule(0.3), optax.linear_schedule(0.3, 0.1, 10)]
    same(WarmupStableDecay(0.3, 0, 5, 10, 0.1), optax.join_schedules(stages, [5]))
    # One step more: their cycle peaks at 12 of 40, and ends at 40.
    same(OneCycle(0.3, 41, 13 / 41), optax.cosine_onecycle_schedule(40, 0.3, 0.3))
    theirs = optax.linear_onecycle_schedule(40, 0.3, 0.3, 0.6)
    same(OneCycle(0.3, 41, 13 / 41, shape="linear", three_phase=True), theirs)


@on_jax
@pytest.mark.parametrize("n", [0, 3])
def test_restarts_as_optax(n):
    import optax

    cycles = [
        {"init_value": 0.01, "peak_value": 0.3 * 0.8**i, "warmup_steps": n,
         "decay_steps": 5 * 2**i, "end_value": 0.01}
        for i in range(4)
    ]  # fmt: skip
    theirs = np.array([optax.sgdr_schedule(cycles)(t) for t in range(75)])
    ours = values(CosineRestarts(0.3, 5, 2, 0.8, n, 0.01), np.arange(75))
    for i in range(4):
        start, end = 5 * (2**i - 1), 5 * (2 ** (i + 1) - 1)
        ahead = theirs[start + 1 : start + n + 1]  # in a warmup, one step ahead
        np.testing.assert_allclose(ours[start : start + n], ahead, rtol=2e-6)
        np.testing.assert_allclose(ours[start + n : end], theirs[start + n : end], rtol=2e-6)


@on_torch
def test_as_torch():
    import torch

    schedulers = torch.optim.lr_scheduler

    def same(ours, name, *args, momentum=None, steps=60, **kwargs):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3, momentum=0.9)
        scheduler = getattr(schedulers, name)(optimizer, *args, **kwargs)
        rates, momenta = [], []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            momenta.append(optimizer.param_groups[0]["momentum"])
            optimizer.step()
            scheduler.step()
        t = np.arange(steps)
        np.testing.assert_allclose(values(ours, t), rates, rtol=1e-6, atol=1e-8, err_msg=name)
        if momentum is not None:
            np.testing.assert_allclose(values(momentum, t), momenta, rtol=1e-6, err_msg=name)

    same(StepDecay(0.3, 7, 0.6), "StepLR", 7, 0.6)
    same(MultiStep(0.3, [3, 20], 0.6), "MultiStepLR", [3, 20], 0.6)
    same(LinearDecay(0.3, 40, 0.03), "LinearLR", 1.0, 0.1, 40)
    for mode, gamma in [("triangular", 1.0), ("triangular2", 1.0), ("exp_range", 0.97)]:
        same(Cyclic(0.1, 0.3, 7, mode, gamma), "CyclicLR", 0.1, 0.3, 7, mode=mode, gamma=gamma)
    for factor in (1, 2, 3):
        name = "CosineAnnealingWarmRestarts"
        same(CosineRestarts(0.3, 5, factor, minimum=0.01), name, 5, factor, 0.01)
    for shape, strategy in [("linear", "linear"), ("cosine", "cos")]:
        for three_phase in (False, True):
            for steps, fraction in [(60, 0.3), (57, 0.37)]:
                ours = OneCycle(0.3, steps, fraction, 10, 100, shape, three_phase)
                momentum = ours.momentum(0.8, 0.9)
                phases = {"pct_start": fraction, "three_phase": three_phase}
                phases |= {"anneal_strategy": strategy, "total_steps": steps}
                bounds = {"div_factor": 10, "final_div_factor": 100}
                bounds |= {"base_momentum": 0.8, "max_momentum": 0.9}
                same(ours, "OneCycleLR", 0.3, momentum=momentum, steps=steps, **phases, **bounds)


# What must always hold.


@few
@hypothesis.given(
    make=st.sampled_from([LinearDecay, REX]),
    initial=peaks,
    steps=st.integers(1, 50),
    share=st.just(0.0) | st.floats(2**-20, 1),
)
def test_decays_stay_between_their_ends_and_fall(make, initial, steps, share):
    final = initial * share
    v = values(make(initial, steps, final), T)
    assert np.all(np.diff(v) <= 1e-6 * initial)
    assert np.all(v >= final * (1 - 1e-6))
    np.testing.assert_allclose(v[0], initial, rtol=2e-7)  # XLA multiplies by 1 / steps
    np.testing.assert_allclose(v[steps:], final, rtol=1e-6)
    line = linear(T, initial, steps, final)
    assert np.all(v >= line - 1e-6 * initial)


@few
@hypothesis.given(
    peak=peaks,
    steps=st.integers(8, 60),
    fraction=st.floats(0.15, 0.5),
    divisors=st.tuples(st.floats(1, 1000), st.floats(1, 1e5)),
    shape=st.sampled_from(["linear", "cosine"]),
    three_phase=st.booleans(),
)
def test_one_cycle_rises_falls_and_has_no_jumps(
    peak, steps, fraction, divisors, shape, three_phase
):
    cycle = OneCycle(peak, steps, fraction, *divisors, shape, three_phase)
    v, m, slack = values(cycle, T), values(cycle.momentum(0.5, 0.75), T), 1e-6
    top = fraction * steps - 1
    up, down = T[1:] <= top, T[:-1] >= top
    assert np.all(np.diff(v)[up] >= -slack * peak) and np.all(np.diff(v)[down] <= slack * peak)
    assert np.all(np.diff(m)[up] <= slack) and np.all(np.diff(m)[down] >= -slack)
    assert np.all(v <= peak * (1 + slack)) and np.all(v >= v[-1] * (1 - slack))
    assert np.all((m >= 0.5 - slack) & (m <= 0.75 + slack))
    np.testing.assert_allclose(v[0], peak / divisors[0], rtol=1e-6)
    np.testing.assert_allclose(v[steps - 1 :], peak / divisors[0] / divisors[1], rtol=1e-6)
    shortest = min(top, steps - 1 - top * (2 if three_phase else 1))
    if not three_phase or shortest >= 1:
        assert np.max(np.abs(np.diff(v))) <= peak * math.pi / 2 / shortest * (1 + slack)


@few
@hypothesis.given(
    peak=peaks,
    n=st.integers(0, 15),
    s=st.integers(0, 15),
    d=st.integers(1, 25),
    share=st.floats(0.01, 1),
    shape=st.sampled_from(["linear", "cosine", "sqrt", "exponential"]),
)
def test_warmup_stable_decay_meets_at_its_joins(peak, n, s, d, share, shape):
    v = values(WarmupStableDecay(peak, n, s, d, peak * share, shape), T)
    assert np.all(np.diff(v[: n + s]) >= 0) and np.all(np.diff(v[n + s :]) <= 1e-6 * peak)
    np.testing.assert_allclose(v[max(n - 1, 0) : n + s + 1], peak, rtol=1e-6)
    np.testing.assert_allclose(v[n + s + d :], peak * share, rtol=1e-6)
    if n:
        np.testing.assert_allclose(v[0], peak / n, rtol=1e-6)


@few
@hypothesis.given(
    peak=peaks,
    period=st.integers(1, 20),
    factor=st.sampled_from([1, 2, 3, 1.25]),
    peak_factor=st.floats(0.25, 1),
    warmup=st.integers(0, 19),
    share=st.just(0.0) | st.floats(2**-20, 1),
)
def test_restarts_properties(peak, period, factor, peak_factor, warmup, share):
    arguments = (peak, period, factor, peak_factor, min(warmup, period - 1), peak * share)
    v = values(CosineRestarts(*arguments), T)
    np.testing.assert_allclose(v, restarts(T, *arguments), rtol=1e-6, atol=1e-6 * peak)
    assert np.all(v >= peak * share * (1 - 1e-6)) and np.all(v <= peak * (1 + 1e-6))


@few
@hypothesis.given(
    low=peaks,
    more=st.floats(0, 10),
    half=st.integers(1, 30),
    mode=st.sampled_from(["triangular", "triangular2", "exp_range"]),
)
def test_cyclic_stays_between_its_bounds_without_jumps(low, more, half, mode):
    v = values(Cyclic(low, low + more, half, mode, 0.99), T)
    slack = 1e-6 * (low + more)
    assert np.all(v >= low - slack) and np.all(v <= low + more + slack)
    np.testing.assert_allclose(v[:: 2 * half], low, rtol=1e-6)
    decay = more * 0.01 if mode == "exp_range" else 0.0
    assert np.max(np.abs(np.diff(v))) <= more / half + decay + slack
    assert values(Cyclic(low, low + more, half), [half])[0] == v.dtype.type(low + more)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepDecay(-0.1, 5), r"`initial` must be at least 0\. .*initial=-0\.1"),
        (lambda: StepDecay(0.1, 0), r"`every` must be an integer of at least 1\. .*every=0"),
        (lambda: StepDecay(0.1, 5, 1.5), r"`factor` must be in \(0, 1\]\. .*factor=1\.5"),
        (lambda: StepDecay(0.1, 5, minimum=0.2), r"`minimum` must be in \[0, 0\.1\]\. .*=0\.2"),
        (lambda: MultiStep(0.1, 5), r"`boundaries` must be a list of integers.*boundaries=5"),
        (lambda: MultiStep(0.1, [5, 3]), r"`boundaries` must increase.*boundaries=\[5, 3\]"),
        (lambda: MultiStep(0.1, [5], 0), r"`factor` must be greater than 0\. .*factor=0"),
        (lambda: LinearDecay(0.1, 0), r"`steps` must be an integer of at least 1\. .*steps=0"),
        (lambda: LinearDecay(0.1, 5, -1), r"`final` must be at least 0\. .*final=-1"),
        (lambda: REX(0.1, 1.5), r"`steps` must be an integer\. .*steps=1\.5"),
        (lambda: InverseSquareRoot(0.1, 0), r"`warmup_steps` must be an integer of at least 1\."),
        (lambda: InverseSquareRoot.for_width(0), r"`d_model` must be an integer of at least 1\."),
        (lambda: OneCycle(0.1, 1), r"`steps` must be an integer of at least 2\. .*steps=1"),
        (lambda: OneCycle(0.1, 10, 0.1), r"`warmup_fraction` must be greater than 1 / steps, 0\.1,"
                                         r" .*warmup_fraction=0\.1"),
        (lambda: OneCycle(0.1, 10, 1.0), r"`warmup_fraction` must be in \(0, 1\)\."),
        (lambda: OneCycle(0.1, 10, 0.6, three_phase=True), r"`warmup_fraction` must leave steps .*"
                                                           r"at most 0\.5\. .*fraction=0\.6"),
        (lambda: OneCycle(0.1, 10, initial_divisor=0.5), r"`initial_divisor` must be at least 1\."),
        (lambda: OneCycle(0.1, 10, shape="sine"), r"`shape` must be one of 'cosine', 'linear'\."),
        (lambda: OneCycle(0.1, 10, three_phase=1), r"`three_phase` must be True or False\."),
        (lambda: OneCycleMomentum(10, 0.9, 0.8), r"`low` must be in \[0, 0\.8\]\. .*low=0\.9"),
        (lambda: OneCycleMomentum(10, high=1.0), r"`high` must be in \[0, 1\)\. .*high=1\.0"),
        (lambda: Cyclic(0.2, 0.1, 5), r"`high` must be at least 0\.2\. .*high=0\.1"),
        (lambda: Cyclic(0.1, 0.2, 0), r"`half_cycle_steps` must be an integer of at least 1\."),
        (lambda: Cyclic(0.1, 0.2, 5, "saw"), r"`mode` must be one of 'triangular', .*mode='saw'"),
        (lambda: Cyclic(0.1, 0.2, 5, gamma=0), r"`gamma` must be in \(0, 1\]\. .*gamma=0"),
        (lambda: WarmupStableDecay(0.1, -1, 5, 5), r"`warmup_steps` must be an .* least 0\."),
        (lambda: WarmupStableDecay(0.1, 1, 5, 0), r"`decay_steps` must be an integer of at least"),
        (lambda: WarmupStableDecay(0.1, 1, 5, 5, 0.2), r"`final` must be in \[0, 0\.1\]\."),
        (lambda: WarmupStableDecay(0.1, 1, 5, 5, decay_shape="exponential"),
         r"`final` must be greater than 0 for .*a tenth of the peak is common.*final=0\.0"),
        (lambda: CosineRestarts(0.1, 5, 0.5), r"`period_factor` must be at least 1\. .*=0\.5"),
        (lambda: CosineRestarts(0.1, 5, 1, 2), r"`peak_factor` must be in \(0, 1\]\. .*=2"),
        (lambda: CosineRestarts(0.1, 5, warmup_steps=5), r"`warmup_steps` must be less than "
                                                         r"`first_period`, 5, .*warmup_steps=5"),
        (lambda: CosineRestarts(0.1, 5, minimum=1), r"`minimum` must be in \[0, 0\.1\]\. .*=1"),
        (lambda: PerEpoch("x", 5), r"`schedule` must be a number or .*schedule='x'"),
        (lambda: PerEpoch(0.1, 0), r"`steps_per_epoch` must be an integer of at least 1\."),
        (lambda: Scale(0.1, -1), r"`factor` must be at least 0\. .*factor=-1"),
        (lambda: Product([]), r"`schedules` must hold at least one .*schedules=\[\]"),
        (lambda: Product(0.1), r"`schedules` must be a list of numbers or schedules\. .*=0\.1"),
    ],
)  # fmt: skip
def test_bad_arguments(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
