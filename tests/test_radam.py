import itertools
from decimal import Decimal, localcontext
from itertools import repeat

import keras
import numpy as np
import pytest
from keras import ops

from keras_optkit.optimizers import RAdam
from tests import oracles
from tests.oracles import assert_steps, follow, make_weights, optax_steps, run

SHAPES = {"dense/kernel": (4, 3), "dense/bias": (3,), "scale": ()}


def problem(steps, seed=0):
    return oracles.problem(SHAPES, steps, seed, scaled=True)


def direction(optimizer, step, gradient, momentum, velocity):
    tensors = (ops.convert_to_tensor([x], dtype="float32") for x in (gradient, momentum, velocity))
    gradient, momentum, velocity = tensors
    step = ops.convert_to_tensor(step, dtype="float32")
    result, _ = optimizer.direction(
        gradient, gradient, step, (momentum, velocity), *optimizer.factors(step)
    )
    return float(ops.convert_to_numpy(result)[0])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta_1": 0.0, "beta_2": 0.9},
        {"beta_2": 0.9999},
        {"beta_1": 0.999, "beta_2": 0.9999, "epsilon": 1e-3},
        {"weight_decay": 0.1, "threshold": 4.0},
    ],
    ids=str,
)
def test_follows_the_paper(settings):
    start, gradients = problem(60)
    judges = [oracles.RAdam(**settings) for _ in start]
    expected = follow(judges, start.values(), gradients, repeat(0.05))
    optimizer = RAdam(0.05, **settings)
    assert_steps(run(optimizer, make_weights(start), gradients), expected)


def test_follows_the_paper_when_compiled():
    start, gradients = problem(12)
    judges = [oracles.RAdam(weight_decay=0.1) for _ in start]
    expected = follow(judges, start.values(), gradients, repeat(0.05))
    optimizer = RAdam(0.05, weight_decay=0.1)
    assert_steps(run(optimizer, make_weights(start), gradients, jit=True), expected)


@pytest.mark.parametrize("beta_2", [0.7, 0.9, 0.99, 0.999, 0.9999, 0.99999])
@pytest.mark.parametrize("beta_1", [0.0, 0.9, 0.999])
def test_direction_keeps_its_digits(beta_1, beta_2):
    # Weights move little at first, since r is small, and would hide an r without digits.
    optimizer = RAdam(beta_1=beta_1, beta_2=beta_2, epsilon=0.0)
    for step in [*range(1, 40), 100, 300, 1000, 3000, 10_000, 100_000, 10_000_000]:
        judge = oracles.RAdam(beta_1, beta_2, epsilon=0.0)
        judge.t, judge.m, judge.v = step - 1, 0.25, 0.75
        expected = -judge.step(0.0, 0.5, 1.0)
        actual = direction(optimizer, step, 0.5, 0.25, 0.75)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, err_msg=f"step {step}")


@pytest.mark.parametrize("threshold", [4.0, 5.0, 7.5])
@pytest.mark.parametrize("beta_2", [0.9, 0.95, 0.99, 0.999, 0.9999, 0.999999])
def test_rectification_starts_at_the_exact_step(beta_2, threshold):
    with localcontext(prec=60):
        b = Decimal(beta_2)
        rho_inf = 2 / (1 - b) - 1
        rho = (rho_inf - 2 * t * b**t / (1 - b**t) for t in itertools.count(1))
        first = next(t for t, value in enumerate(rho, 1) if value >= Decimal(threshold))
    optimizer = RAdam(beta_2=beta_2, threshold=threshold)
    for step in range(1, first + 3):
        # With a velocity this large, an adaptive step is tiny and a momentum step is not.
        adaptive = abs(direction(optimizer, step, 1.0, 1.0, 1e20)) < 1e-3
        assert adaptive == (step >= first), f"step {step}, first {first}"


def test_default_threshold_is_reached_at_step_six():
    optimizer = RAdam()
    moves = [direction(optimizer, step, 1.0, 1.0, 1e20) for step in (5, 6)]
    assert moves[0] > 1
    assert moves[1] < 1e-3


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_agrees_with_torch(weight_decay):
    torch = pytest.importorskip("torch")
    start, gradients = problem(60, seed=1)

    def theirs():
        weights = [torch.tensor(w, dtype=torch.float64, device="cpu") for w in start.values()]
        optimizer = torch.optim.RAdam(
            weights,
            float(np.float32(0.05)),
            eps=1e-12,  # added before the bias is corrected, so not quite ours
            weight_decay=weight_decay,
            decoupled_weight_decay=True,
        )
        for step in gradients:
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = torch.tensor(gradient, dtype=torch.float64, device="cpu")
            optimizer.step()
            yield [weight.numpy().copy() for weight in weights]

    optimizer = RAdam(0.05, epsilon=1e-12, weight_decay=weight_decay)
    assert_steps(run(optimizer, make_weights(start), gradients), theirs())


def test_agrees_with_optax():
    # Not at beta_2 = 0.9999, where optax's rho has no digits in float32.
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    start, gradients = problem(60, seed=2)
    optimizer = RAdam(0.05, epsilon=1e-3)
    ours = list(run(optimizer, make_weights(start), gradients))
    with jax.enable_x64(True):
        theirs = optax_steps(optax.radam(float(np.float32(0.05)), eps=1e-3), start, gradients)
        assert_steps(ours, theirs)


def test_schedule_is_asked_at_every_step():
    start, gradients = problem(10)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2, 6], [0.5, 0.125, 0.25])
    rates = [0.5] * 3 + [0.125] * 4 + [0.25] * 3
    judges = [oracles.RAdam(weight_decay=0.1) for _ in start]
    expected = follow(judges, start.values(), gradients, rates)
    optimizer = RAdam(schedule, weight_decay=0.1)
    assert_steps(run(optimizer, make_weights(start), gradients), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"beta_1": 1.0}, ValueError, r"`beta_1` must be in \[0, 1\). Received: beta_1=1.0"),
        ({"beta_1": -0.1}, ValueError, r"`beta_1` must be in \[0, 1\)"),
        ({"beta_2": 0.6}, ValueError, r"`beta_2` must be in \(0.6, 1\). Received: beta_2=0.6"),
        ({"beta_2": 1.0}, ValueError, r"`beta_2` must be in \(0.6, 1\)"),
        ({"epsilon": -1e-9}, ValueError, r"`epsilon` must be at least 0. Received: epsilon=-1e-09"),
        ({"threshold": 3.9}, ValueError, r"`threshold` must be in \[4, 1999\)"),
        ({"threshold": 7, "beta_2": 0.75}, ValueError, r"`threshold` must be in \[4, 7\)"),
        ({"beta_1": "0.9"}, TypeError, "`beta_1` must be a number. Received: beta_1='0.9'"),
        ({"beta_2": float("nan")}, ValueError, "beta_2=nan"),
        ({"beta1": 0.9}, TypeError, "RAdam has no argument 'beta1'. It takes .*beta_1, beta_2"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        RAdam(**arguments)
