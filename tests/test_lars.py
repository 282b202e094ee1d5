from itertools import repeat

import keras
import numpy as np
import pytest

from keras_optkit.optimizers import LARS, Group
from tests import oracles
from tests.oracles import assert_steps, follow, make_weights, optax_steps, run

SHAPES = {
    "dense/kernel": (4, 3),
    "dense/bias": (3,),
    "norm/gamma": (3,),
    "unbiased/kernel": (3, 2),
    "gain": (),
}
EXCLUDED = [path.endswith(("bias", "gamma")) for path in SHAPES]


def problem(steps, seed=0):
    return oracles.problem(SHAPES, steps, seed, scaled=True)


def judges(**settings):
    return [oracles.LARS(excluded=excluded, **settings) for excluded in EXCLUDED]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "nesterov": True},
        {"weight_decay": 0.01, "momentum": 0.0, "epsilon": 0.5},
        {"momentum": 0.99, "trust_coefficient": 1.0},
    ],
    ids=str,
)
def test_follows_the_paper(settings):
    start, gradients = problem(40)
    settings = {"trust_coefficient": 0.02} | settings
    expected = follow(judges(**settings), start.values(), gradients, repeat(0.1))
    optimizer = LARS(0.1, **settings)
    assert_steps(run(optimizer, make_weights(start), gradients), expected)


def test_follows_the_paper_when_compiled():
    start, gradients = problem(8)
    settings = {"trust_coefficient": 0.02, "weight_decay": 0.1, "nesterov": True}
    expected = follow(judges(**settings), start.values(), gradients, repeat(0.1))
    optimizer = LARS(0.1, **settings)
    assert_steps(run(optimizer, make_weights(start), gradients, jit=True), expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_holds_the_rate_it_was_made_with(nesterov):
    # Momentum that holds bare gradients, to be multiplied by today's rate, gives another path.
    start, gradients = problem(12)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3, 7], [0.5, 0.03125, 0.25])
    rates = [0.5] * 4 + [0.03125] * 4 + [0.25] * 4
    settings = {"trust_coefficient": 0.1, "weight_decay": 0.1, "nesterov": nesterov}
    expected = follow(judges(**settings), start.values(), gradients, rates)
    optimizer = LARS(schedule, **settings)
    assert_steps(run(optimizer, make_weights(start), gradients), expected)


def test_learning_rate_set_by_hand_changes_new_terms_only():
    start, gradients = problem(10)
    expected = list(follow(judges(), start.values(), gradients, [0.5] * 5 + [0.0] * 5))
    optimizer, weights = LARS(0.5), make_weights(start)
    actual = list(run(optimizer, weights, gradients[:5]))
    optimizer.learning_rate = 0.0
    actual += run(optimizer, weights, gradients[5:])
    assert_steps(actual, expected)
    assert not np.array_equal(actual[5][0], actual[4][0]), "momentum goes on at rate 0"


def test_ratio_is_one_where_a_norm_is_zero():
    # Step 1: weights of zero. Step 3: gradients of zero, but the decay still acts, at ratio 1.
    shapes = list(SHAPES.values())
    start, gradients = problem(5)
    start = {path: np.zeros_like(w) for path, w in start.items()}
    gradients[2] = [np.zeros(shape, "float32") for shape in shapes]
    settings = {"weight_decay": 0.1, "momentum": 0.5}
    expected = list(follow(judges(**settings), start.values(), gradients, repeat(0.25)))
    np.testing.assert_allclose(expected[0][0], -0.25 * gradients[0][0], rtol=1e-6)
    optimizer = LARS(0.25, **settings)
    assert_steps(run(optimizer, make_weights(start), gradients), expected)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_excluded_weights_train_by_plain_momentum(momentum):
    start, gradients = problem(20)
    plain = [oracles.SGD(momentum) for _ in start]
    expected = list(follow(plain, start.values(), gradients, repeat(0.1)))
    optimizer = LARS(0.1, momentum=momentum, weight_decay=0.5, exclude=["kernel", "bias|gain"])
    actual = list(run(optimizer, make_weights(start), gradients))
    names = list(SHAPES)
    included = names.index("norm/gamma")  # since these patterns take the place of the default's
    assert np.abs(actual[-1][included] - expected[-1][included]).max() > 0.01
    for weights in (*actual, *expected):
        del weights[included]
    assert_steps(actual, expected)


def test_excludes_all_weights_of_normalization_layers():
    layers = keras.layers
    kinds = layers.BatchNormalization, layers.GroupNormalization, layers.RMSNormalization
    for layer in (layers.LayerNormalization(), *(kind() for kind in kinds)):
        layer.build((None, 32))
        rules = [LARS().rule_for(v).__name__ for v in layer.trainable_variables]
        assert rules and set(rules) == {"update_excluded"}, layer.name


def test_excludes_nothing_when_told_so():
    start, gradients = problem(10)
    every = [oracles.LARS(weight_decay=0.1) for _ in start]
    expected = follow(every, start.values(), gradients, repeat(1.0))
    optimizer = LARS(1.0, weight_decay=0.1, exclude=())
    assert_steps(run(optimizer, make_weights(start), gradients), expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_agrees_with_optax_where_definitions_agree(nesterov):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    start, gradients = problem(40, seed=1)
    optimizer = LARS(0.1, trust_coefficient=0.02, nesterov=nesterov)
    ours = list(run(optimizer, make_weights(start), gradients))
    mask = {path: not excluded for path, excluded in zip(SHAPES, EXCLUDED, strict=True)}
    with jax.enable_x64(True):
        rate = float(np.float32(0.1))
        theirs = optax.lars(rate, 0.0, mask, 0.02, trust_ratio_mask=mask, nesterov=nesterov)
        assert_steps(ours, optax_steps(theirs, start, gradients))


def test_differs_from_optax_in_the_denominator_as_documented():
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    weight, gradient = np.float32([3.0, 4.0]), np.float32([1.0, -1.0])
    decay, rate, coefficient = 0.5, 1.0, 0.25
    optimizer = LARS(rate, trust_coefficient=coefficient, weight_decay=decay)
    start = {"kernel": weight}
    (ours,) = run(optimizer, make_weights(start), [[gradient]])
    with jax.enable_x64(True):
        transformation = optax.lars(rate, decay, trust_coefficient=coefficient)
        (theirs,) = optax_steps(transformation, start, [[gradient]])
    step = gradient + decay * weight
    paper = np.linalg.norm(gradient) + decay * np.linalg.norm(weight)
    np.testing.assert_allclose(ours[0], weight - coefficient * 5 / paper * step, rtol=1e-6)
    norm_of_sum = np.linalg.norm(step)
    np.testing.assert_allclose(theirs[0], weight - coefficient * 5 / norm_of_sum * step, rtol=1e-6)
    assert np.abs(ours[0] - theirs[0]).max() > 0.1


def test_decay_of_a_group_is_inside_the_ratio():
    start, gradients = problem(10)
    each = [
        oracles.LARS(weight_decay=0.5 if path.startswith("dense") else 0.1, excluded=excluded)
        for path, excluded in zip(SHAPES, EXCLUDED, strict=True)
    ]
    values = list(start.values())
    dense = follow(each[:2], values[:2], [g[:2] for g in gradients], repeat(0.5))
    others = follow(each[2:], values[2:], [g[2:] for g in gradients], repeat(1.0))
    expected = [a + b for a, b in zip(dense, others, strict=True)]
    groups = [Group("dense", weight_decay=0.5, lr_multiplier=0.5)]
    optimizer = LARS(1.0, weight_decay=0.1, groups=groups)
    assert_steps(run(optimizer, make_weights(start), gradients), expected)


def test_patterns_that_match_nothing_warn_unless_they_are_the_default():
    start, gradients = problem(1)
    with pytest.warns(UserWarning, match=r"LARS: the pattern 'biases' matches none.*dense/kernel"):
        next(run(LARS(exclude=["biases", "kernel"]), make_weights(start), gradients))
    only = {"kernel": start["dense/kernel"]}
    next(run(LARS(), make_weights(only), [gradients[0][:1]]))  # an unexpected warning would fail


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"momentum": 1.0}, ValueError, r"`momentum` must be in \[0, 1\). Received: momentum=1.0"),
        ({"trust_coefficient": 0}, ValueError, "`trust_coefficient` must be greater than 0"),
        ({"epsilon": -1}, ValueError, "`epsilon` must be at least 0. Received: epsilon=-1"),
        ({"nesterov": 1}, TypeError, "`nesterov` must be True or False. Received: nesterov=1"),
        ({"exclude": 3}, TypeError, "`exclude` must be a regular expression, or a list of them"),
        ({"exclude": "("}, ValueError, r"`exclude` must hold valid regular expressions; '\(' is"),
        ({"eta": 0.1}, TypeError, "LARS has no argument 'eta'. It takes .*trust_coefficient"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        LARS(**arguments)
