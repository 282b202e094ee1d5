from itertools import repeat

import keras
import numpy as np
import pytest
from keras import ops

from keras_optkit.optimizers import LARS, RAdam, Transformed
from keras_optkit.transforms import (
    AdaptiveClip,
    Centralize,
    GlobalNormClip,
    NormClip,
    Transform,
    ValueClip,
)
from tests import oracles
from tests.oracles import assert_steps, follow, make_weights, read, run

SHAPES = {"dense/kernel": (4, 3), "dense/bias": (3,), "scale": ()}
RATE = 0.0625


class Sign(Transform):
    """The least linear transform there is; it notes the steps it was called at."""

    def __init__(self):
        self.steps = []

    def get_config(self):
        return {}

    def __call__(self, gradients, variables, step):
        self.steps.append(step)
        return [ops.sign(g) for g in gradients]


class Times(Transform):
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, gradients, variables, step):
        return [self.factor * g for g in gradients]


class Plus(Transform):
    def __init__(self, term):
        self.term = term

    def __call__(self, gradients, variables, step):
        return [g + self.term for g in gradients]


def problem(steps, seed=0):
    return oracles.problem(SHAPES, steps, seed)


def plain(**kwargs):
    """Gradient descent by a rule of this package: `w = w - learning_rate * g`."""
    return LARS(1.0, momentum=0.0, exclude=".*", **kwargs)


def clipped(gradients, limit):
    """By the norm of all gradients together, in float64."""
    norm = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in gradients))
    return [np.float64(g) * min(1, limit / norm) for g in gradients]


def norm(weights, before):
    return np.sqrt(sum(np.sum((w - b) ** 2) for w, b in zip(weights, before, strict=True)))


@pytest.mark.parametrize("jit", [False, True])
def test_equals_the_transforms_by_hand_and_then_the_optimizer(jit):
    start, gradients = problem(10)
    by_hand = [clipped([3 * np.float64(g) for g in step], 2.0) for step in gradients]
    judges = [oracles.AdamW(0.875, 0.9375, weight_decay=0.1) for _ in start]
    expected = follow(judges, start.values(), by_hand, repeat(RATE))
    inner = keras.optimizers.AdamW(RATE, 0.1, 0.875, 0.9375)
    optimizer = Transformed(inner, [Times(3.0), GlobalNormClip(2.0)])
    assert_steps(run(optimizer, make_weights(start), gradients, jit), expected)


def test_applies_transforms_in_their_order():
    start = {"w": np.zeros(2, "float32")}
    gradients = [[np.ones(2, "float32")]]
    sgd = keras.optimizers.SGD
    (first,) = run(Transformed(sgd(1.0), [Times(3.0), Plus(1.0)]), make_weights(start), gradients)
    (second,) = run(Transformed(sgd(1.0), [Plus(1.0), Times(3.0)]), make_weights(start), gradients)
    np.testing.assert_array_equal(first[0], -4.0)
    np.testing.assert_array_equal(second[0], -6.0)


@pytest.mark.parametrize("make", [RAdam, LARS])
def test_equals_gradient_transforms_of_our_own(make):
    start, gradients = problem(8)
    transforms = [Centralize(), AdaptiveClip(0.5), ValueClip(0.25)]
    inside = run(make(RATE, gradient_transforms=transforms), make_weights(start), gradients)
    around = run(Transformed(make(RATE), transforms), make_weights(start), gradients)
    without = list(run(make(RATE), make_weights(start), gradients))
    inside = list(inside)
    assert_steps(around, inside, tolerance=0)
    assert np.abs(inside[-1][0] - without[-1][0]).max() > 1e-6


@pytest.mark.parametrize("jit", [False, True])
def test_clip_arguments_come_after_transforms(jit):
    start, gradients = problem(1)
    # Were it the other way round, the step would be 8 times as long as the limit.
    for limit in ({"global_clipnorm": 0.5}, {"clipnorm": 0.5}, {"clipvalue": 0.5}):
        weights = make_weights(start)
        before = read(weights)
        optimizer = plain(gradient_transforms=[Times(8.0)], **limit)
        (after,) = run(optimizer, weights, gradients, jit)
        if "global_clipnorm" in limit:
            np.testing.assert_allclose(norm(after, before), 0.5, rtol=1e-6)
        if "clipnorm" in limit:
            norms = [norm([a], [b]) for a, b in zip(after, before, strict=True)]
            np.testing.assert_allclose(norms, 0.5, rtol=1e-5)
        if "clipvalue" in limit:
            largest = max(np.abs(a - b).max() for a, b in zip(after, before, strict=True))
            np.testing.assert_allclose(largest, 0.5, rtol=1e-6)


def test_clip_arguments_of_the_inner_optimizer_come_after_transforms():
    start, gradients = problem(1)
    weights = make_weights(start)
    before = read(weights)
    optimizer = Transformed(keras.optimizers.SGD(1.0, global_clipnorm=0.5), [Times(8.0)])
    (after,) = run(optimizer, weights, gradients)
    np.testing.assert_allclose(norm(after, before), 0.5, rtol=1e-5)


@pytest.mark.parametrize("where", ["wrapper", "Keras' optimizer", "our optimizer", "itself"])
def test_a_transform_sees_the_mean_gradient_once_an_update(where):
    start, batches = problem(6)
    sign = Sign()
    optimizer = {
        "wrapper": lambda: Transformed(
            keras.optimizers.SGD(RATE), [sign], gradient_accumulation_steps=3
        ),
        "Keras' optimizer": lambda: Transformed(
            keras.optimizers.SGD(RATE, gradient_accumulation_steps=3), [sign]
        ),
        "our optimizer": lambda: Transformed(
            LARS(RATE, 0.0, exclude=".*", gradient_accumulation_steps=3), [sign]
        ),
        "itself": lambda: LARS(
            RATE, 0.0, exclude=".*", gradient_accumulation_steps=3, gradient_transforms=[sign]
        ),
    }[where]()
    means = [
        [np.mean([np.float64(g) for g in weight], axis=0) for weight in zip(*three, strict=True)]
        for three in (batches[:3], batches[3:])
    ]
    expected = [np.float64(w) for w in start.values()]
    actual = list(run(optimizer, make_weights(start), batches))
    for update, mean in enumerate(means):
        expected = [w - RATE * np.sign(g) for w, g in zip(expected, mean, strict=True)]
        assert_steps([actual[3 * update + 2]], [expected])
    assert_steps(actual[:2], [[np.float64(w) for w in start.values()]] * 2, tolerance=0)
    assert [float(ops.convert_to_numpy(step)) for step in sign.steps] == [1.0, 2.0]


def test_compiled_accumulation_transforms_the_mean():
    start, batches = problem(4)
    inner = keras.optimizers.SGD(RATE, gradient_accumulation_steps=2)
    optimizer = Transformed(inner, [GlobalNormClip(0.5)])
    means = [
        [(np.float64(a) + b) / 2 for a, b in zip(*pair, strict=True)]
        for pair in (batches[:2], batches[2:])
    ]
    judges = [oracles.SGD() for _ in start]
    expected = follow(judges, start.values(), [clipped(g, 0.5) for g in means], repeat(RATE))
    actual = list(run(optimizer, make_weights(start), batches, jit=True))
    assert_steps(actual[1::2], expected)


@pytest.mark.parametrize("where", ["wrapper", "inner"])
def test_a_transform_sees_gradients_without_the_loss_scale(where):
    start, gradients = problem(2)
    outside = {"loss_scale_factor": 64.0} if where == "wrapper" else {}
    inside = {"loss_scale_factor": 64.0} if where == "inner" else {}
    inner = keras.optimizers.SGD(RATE, **inside)
    optimizer = Transformed(inner, [GlobalNormClip(2.0)], **outside)
    assert float(optimizer.scale_loss(1.0)) == 64.0
    assert inner.loss_scale_factor is None
    judges = [oracles.SGD() for _ in start]
    by_hand = [clipped(step, 2.0) for step in gradients]
    expected = follow(judges, start.values(), by_hand, repeat(RATE))
    scaled = [[64 * g for g in step] for step in gradients]
    assert_steps(run(optimizer, make_weights(start), scaled), expected)


def test_taken_over_settings_survive_the_config():
    inner = keras.optimizers.SGD(RATE, gradient_accumulation_steps=2, loss_scale_factor=8.0)
    twin = Transformed.from_config(Transformed(inner, [NormClip(1.0)]).get_config())
    assert twin.gradient_accumulation_steps == 2
    assert twin.loss_scale_factor == 8.0
    assert twin.inner_optimizer.gradient_accumulation_steps is None
    assert twin.inner_optimizer.loss_scale_factor is None
    assert [type(t) for t in twin.transforms] == [NormClip]


def test_a_setting_on_both_is_refused():
    inner = keras.optimizers.SGD(gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="`gradient_accumulation_steps` is set on Transformed and"):
        Transformed(inner, [], gradient_accumulation_steps=3)
    inner = RAdam(loss_scale_factor=2.0)
    with pytest.raises(ValueError, match=r"`loss_scale_factor` .*=4.0 outside, 2.0 inside"):
        Transformed(inner, [], loss_scale_factor=4.0)


def test_warns_of_patterns_that_match_nothing():
    start, gradients = problem(1)
    optimizer = Transformed("sgd", [AdaptiveClip(exclude="head")])
    with pytest.warns(UserWarning, match="AdaptiveClip: the pattern 'head' matches none"):
        next(run(optimizer, make_weights(start), gradients))


@pytest.mark.parametrize("transforms", [None, NormClip(1.0), [NormClip], ["clip"]])
def test_takes_a_list_of_transforms_only(transforms):
    message = "`transforms` must be a list of keras_optkit Transform objects. Received"
    with pytest.raises(TypeError, match=message):
        Transformed("sgd", transforms)
