import copy
import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_optkit import _check, _registry
from keras_optkit._config import Configurable
from keras_optkit.compression import Pruned
from keras_optkit.optimizers import (
    LARS,
    Averaged,
    Group,
    Lookahead,
    Optimizer,
    RAdam,
    ScheduleFreeSGD,
    SkipNonFinite,
    Transformed,
    Yogi,
)
from keras_optkit.transforms import GlobalNormClip, Transform
from tests import oracles
from tests.oracles import assert_steps, follow, make_weights, read, run

SHAPES = {"dense/kernel": (4, 3), "dense/bias": (3,), "scale": ()}
Piecewise = keras.optimizers.schedules.PiecewiseConstantDecay


class Descent(Optimizer):
    """Moves by twice the gradient, and counts the times it did."""

    slots = ("count",)

    def __init__(self, learning_rate=1.0, **kwargs):
        super().__init__(learning_rate, **kwargs)

    def direction(self, gradient, weight, step, slots):
        (count,) = slots
        return 2 * gradient, (count + 1,)


class Square(Transform):
    def __call__(self, gradients, variables, step):
        return [ops.square(g) for g in gradients]


def problem(steps, seed=0):
    return oracles.problem(SHAPES, steps, seed)


def named(optimizer, ending):
    return [v for v in optimizer.variables if v.name.endswith(ending)]


def value(tensor):
    return float(ops.convert_to_numpy(tensor))


def means(batches, count):
    """Returns the mean gradients of each `count` batches, in float64."""
    return [
        [np.mean([np.float64(g) for g in weight], axis=0) for weight in zip(*some, strict=True)]
        for some in (batches[i : i + count] for i in range(0, len(batches), count))
    ]


# The order of a step.


class AtLeastOne(keras.constraints.Constraint):
    def __call__(self, w):
        return ops.maximum(w, 1.0)


@pytest.mark.parametrize("jit", [False, True])
def test_order_of_a_step(jit):
    optimizer = Descent(
        0.5,
        loss_scale_factor=4.0,
        gradient_accumulation_steps=2,
        gradient_transforms=[Square()],
        clipvalue=3.0,
        groups=[Group("w", lr_multiplier=0.5, weight_decay=1.0)],
        use_ema=True,
        ema_momentum=0.5,
    )
    (weight,) = make_weights({"w": 2.0}, constraint=None)
    weight.constraint = AtLeastOne()
    # Unscaled, 1 and 3; accumulated, 2; transformed, 4; clipped, 3; by the rule, 6; with decay,
    # 8; at half of 0.5, from 2 to 0; constrained, 1. Then 0 and 0: from 1 to 0.75, and so on.
    batches = [[np.float32(g)] for g in (4.0, 12.0, 0.0, 0.0, -4.0, -4.0)]
    actual = [w for (w,) in run(optimizer, [weight], batches, jit)]
    # Of -1 and -1: squared, 1; by the rule, 2; with decay, 3; from 1 to 0.25; constrained, 1.
    np.testing.assert_array_equal(actual, [2.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    (average,) = named(optimizer, "average")
    assert value(average) == 1.0  # of constrained weights only, and of none before the first
    assert value(named(optimizer, "count")[0]) == 3.0
    assert value(optimizer.iterations) == 3


@pytest.mark.parametrize(
    ("settings", "gradient", "expected"),
    [
        ({}, 2.0, 2 - 0.5 * 4),
        ({"loss_scale_factor": 4.0}, 2.0, 2 - 0.5 * 1),
        ({"gradient_transforms": [Square()]}, 2.0, 2 - 0.5 * 8),
        ({"gradient_transforms": [Square()], "loss_scale_factor": 4.0}, 8.0, 2 - 0.5 * 8),
        ({"gradient_transforms": [Square()], "clipvalue": 3.0}, 2.0, 2 - 0.5 * 6),
        ({"weight_decay": 0.5}, 2.0, 2 - 0.5 * (4 + 1)),
        ({"weight_decay": 0.5, "clipvalue": 1.0}, 2.0, 2 - 0.5 * (2 + 1)),
        ({"groups": [Group("w", lr_multiplier=0.5, weight_decay=0.25)]}, 2.0, 2 - 0.25 * 4.5),
    ],
    ids=str,
)
def test_parts_of_a_step(settings, gradient, expected):
    optimizer = Descent(0.5, **settings)
    (after,) = run(optimizer, make_weights({"w": 2.0}), [[np.float32(gradient)]])
    assert float(after[0]) == expected


def test_averages_are_of_constrained_weights():
    (weight,) = make_weights({"w": 4.0})
    weight.constraint = keras.constraints.NonNeg()
    optimizer = Descent(1.0, use_ema=True, ema_momentum=0.5)
    averages = []
    for gradient in (1.0, 5.0):  # from 4 to 2, then to -8, constrained to 0
        next(run(optimizer, [weight], [[np.float32(gradient)]]))
        averages.append(value(named(optimizer, "average")[0]))
    assert averages == [2.0, 1.0]
    assert value(weight) == 0.0


# Gradient accumulation.


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_accumulated_batches_equal_their_mean(count, jit):
    start, batches = problem(2 * count)
    settings = {"weight_decay": 0.1, "use_ema": True, "gradient_transforms": [GlobalNormClip(2.0)]}
    whole = RAdam(0.125, threshold=4.0, beta_2=0.9, **settings)
    expected = list(run(whole, make_weights(start), means(batches, count)))
    optimizer = RAdam(
        0.125, threshold=4.0, beta_2=0.9, gradient_accumulation_steps=count, **settings
    )
    actual = list(run(optimizer, make_weights(start), batches, jit))
    assert_steps(actual[count - 1 :: count], expected)
    for slot in ("momentum", "velocity", "average"):
        assert_steps([read(named(optimizer, slot))], [read(named(whole, slot))])
    assert int(optimizer.iterations) == int(whole.iterations) == 2


def test_a_gradient_may_be_missing_in_the_first_of_the_batches():
    weights, optimizer = make_weights({"a": 0.0, "b": 0.0}), Descent(gradient_accumulation_steps=2)
    optimizer.build(weights)
    one = np.float32(1.0)
    with pytest.warns(UserWarning, match="'b'"):
        *_, after = run(optimizer, weights, [[one, one], [one, one], [one, None], [one, one]])
    assert [float(w) for w in after] == [-4.0, -3.0]


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: RAdam(0.1, weight_decay=0.1, use_ema=True, gradient_accumulation_steps=3),
        lambda: Lookahead(LARS(0.1, use_ema=True), sync_period=2, gradient_accumulation_steps=3),
        lambda: Transformed(
            keras.optimizers.AdamW(0.1, use_ema=True, gradient_accumulation_steps=3), []
        ),
    ],
    ids=["rule", "wrapper", "Keras inside"],
)
def test_batches_in_between_change_nothing_but_the_sum(make, jit):
    start, batches = problem(6)
    weights, optimizer = make_weights(start), make()
    weights[0].constraint = keras.constraints.NonNeg()
    optimizer.build(weights)

    def state():
        sums = ("gradient_accumulator", "iteration")
        kept = [v for v in [*weights, *optimizer.variables] if not v.name.endswith(sums)]
        kept.append(optimizer.iterations)
        return [np.array(ops.convert_to_numpy(v)) for v in kept]

    before = state()
    for step, _ in enumerate(run(optimizer, weights, batches, jit), 1):
        after = state()
        same = [np.array_equal(a, b) for a, b in zip(after, before, strict=True)]
        if step % 3:
            assert all(same), f"step {step}"
        else:
            assert not all(same[:-1]), f"step {step}"
            assert not same[-1], f"step {step}"
            assert np.all(after[0] >= 0), f"step {step}"
        before = after


def test_sums_are_float32_for_half_precision_weights():
    # 256 + 1 is 256 in bfloat16: the sum of 256 and eight times 1 would be short of 264.
    (weight,) = make_weights({"w": np.zeros(1)}, dtype="bfloat16")
    optimizer = Descent(0.5, gradient_accumulation_steps=9)
    batches = [[np.full(1, 256.0)]] + [[np.ones(1)]] * 8
    *_, (after,) = run(optimizer, [weight], batches)
    np.testing.assert_allclose(after, -264 / 9, rtol=2**-8)
    np.testing.assert_allclose(read(named(optimizer, "gradient_accumulator")), [[264.0]])


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="asks XLA for its plan")
def test_sums_need_no_second_copy():
    import jax

    def temporary(optimizer):
        weights = make_weights({str(i): np.ones((64, 64)) for i in range(10)})
        optimizer.build(weights)
        arrays = [v.value for v in weights], [v.value for v in optimizer.variables]

        def update(weights, state, gradients):
            return optimizer.stateless_apply(state, gradients, weights)

        step = jax.jit(update, donate_argnums=(0, 1)).lower(*arrays, arrays[0]).compile()
        return step.memory_analysis().temp_size_in_bytes / (10 * 64 * 64 * 4)

    assert temporary(RAdam(gradient_accumulation_steps=3)) < 0.1
    assert temporary(keras.optimizers.Adam(gradient_accumulation_steps=3)) > 1


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("unit", "rates"), [("update", [1.0, 1.0, 0.25]), ("batch", [1.0, 0.25, 0.25])]
)
def test_schedules_count_updates_or_batches(unit, rates, jit):
    # At 1 for the counts 0 and 1: updates 0 and 1, or batch 1, which makes the first update.
    schedule = Piecewise([1], [1.0, 0.25])
    optimizer = Descent(schedule, gradient_accumulation_steps=2, schedule_unit=unit)
    batches = [[np.float32(0.5)]] * 6
    actual = [w for (w,) in run(optimizer, make_weights({"w": 0.0}), batches, jit)]
    np.testing.assert_array_equal(actual[1::2], -np.cumsum(rates))


@pytest.mark.parametrize(("unit", "decays"), [("update", [0.5, 0.5, 0.0]), ("batch", [0.5, 0, 0])])
def test_scheduled_decay_counts_like_the_learning_rate(unit, decays):
    schedule = Piecewise([1], [0.5, 0.0])
    optimizer = Descent(
        1.0, weight_decay=schedule, gradient_accumulation_steps=2, schedule_unit=unit
    )
    actual = [w for (w,) in run(optimizer, make_weights({"w": 8.0}), [[np.float32(0.0)]] * 6)]
    np.testing.assert_array_equal(actual[1::2], 8 * np.cumprod(1 - np.array(decays)))


def test_schedules_of_an_inner_optimizer_count_batches_if_told_so():
    schedule = Piecewise([1], [1.0, 0.25])
    inner = Descent(schedule, gradient_accumulation_steps=2, schedule_unit="batch")
    actual = [
        w for (w,) in run(Transformed(inner, []), make_weights({"w": 0.0}), [[np.float32(0.5)]] * 6)
    ]
    np.testing.assert_array_equal(actual[1::2], -np.cumsum([1.0, 0.25, 0.25]))


# Weight decay.


@pytest.mark.parametrize("jit", [False, True])
def test_decay_by_a_schedule(jit):
    start, gradients = problem(6)
    decays = [0.5] * 3 + [0.0625] * 3
    expected = [np.float64(w) for w in start.values()]
    optimizer = Descent(0.25, weight_decay=Piecewise([2], [0.5, 0.0625]))
    for step, actual in enumerate(run(optimizer, make_weights(start), gradients, jit), 1):
        decay = decays[step - 1]
        expected = [
            w - 0.25 * (2 * np.float64(g) + decay * w)
            for w, g in zip(expected, gradients[step - 1], strict=True)
        ]
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-6, atol=1e-6, err_msg=f"step {step}")


def test_decay_is_times_the_scheduled_learning_rate():
    optimizer = Descent(Piecewise([0], [0.5, 0.25]), weight_decay=0.5)
    actual = [w for (w,) in run(optimizer, make_weights({"w": 8.0}), [[np.float32(0.0)]] * 2)]
    np.testing.assert_array_equal(actual, [6.0, 5.25])


# Averages.


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize("frequency", [None, 2])
def test_averages(frequency, count, jit):
    start, batches = problem(4 * (count or 1))
    gradients = means(batches, count or 1)
    weights, averages = [np.float64(w) for w in start.values()], None
    expected = []
    for update, step in enumerate(gradients, 1):
        weights = [w - 0.5 * g for w, g in zip(weights, step, strict=True)]
        pairs = zip(averages or weights, weights, strict=True)
        averages = [0.75 * a + 0.25 * w for a, w in pairs]
        if frequency and update % frequency == 0:
            weights = averages
        expected.append(weights)
    optimizer = Descent(
        0.25,
        use_ema=True,
        ema_momentum=0.75,
        ema_overwrite_frequency=frequency,
        gradient_accumulation_steps=count,
    )
    variables = make_weights(start)
    actual = list(run(optimizer, variables, batches, jit))
    assert_steps(actual[(count or 1) - 1 :: count or 1], expected)
    assert_steps([read(named(optimizer, "average"))], [averages])
    optimizer.finalize_variable_values(variables)
    assert_steps([read(variables)], [averages])


def test_a_second_fit_with_averages_goes_on():
    # Keras' own averages share arrays with the weights, which JAX then donates twice.
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    model.compile(RAdam(0.1, use_ema=True, ema_momentum=0.5), "mse")
    seen = []
    for _ in range(2):
        model.fit(x, x[:, :1], batch_size=4, verbose=0)
        averages = read(named(model.optimizer, "average"))
        assert_steps([read(model.trainable_variables)], [averages], tolerance=0)
        seen.append(averages)
    assert np.abs(seen[1][0] - seen[0][0]).max() > 1e-4
    assert int(model.optimizer.iterations) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: RAdam(0.1, use_ema=True),
        lambda: Lookahead(keras.optimizers.Adam(use_ema=True)),
        lambda: Averaged("adam"),
        lambda: ScheduleFreeSGD(0.1),
        lambda: Pruned(keras.optimizers.Adam(use_ema=True), 0.5),
    ],
    ids=["rule", "Keras inside", "Averaged", "schedule-free", "Pruned"],
)
def test_an_error_in_the_first_step_is_the_one_to_see(make):
    class Broken(keras.layers.Dense):
        def call(self, x, training=False):
            if training:
                raise ValueError("what is wrong")
            return super().call(x)

    model = keras.Sequential([keras.Input((3,)), Broken(1)])
    model.compile(make(), "mse")
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="what is wrong"):
        model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)


def test_weights_without_gradients_are_not_lost_to_their_average():
    optimizer = Descent(0.5, use_ema=True)
    weights = make_weights({"used": 1.0, "unused": 1.0})
    with pytest.warns(UserWarning, match="unused"):
        list(run(optimizer, weights, [[np.float32(1.0), None]] * 2))
    optimizer.finalize_variable_values(weights)
    assert value(weights[1]) == 1.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: RAdam(0.5, use_ema=True, gradient_accumulation_steps=2),
        lambda: SkipNonFinite(keras.optimizers.SGD(0.5, use_ema=True)),
    ],
    ids=["accumulating", "skipping"],
)
def test_before_the_first_update_no_averages_are_taken(make):
    weights, optimizer = make_weights({"w": 1.0}), make()
    list(run(optimizer, weights, [[np.float32(np.inf)]]))
    optimizer.finalize_variable_values(weights)
    assert value(weights[0]) == 1.0


def test_weights_frozen_later_do_not_mix_up_averages():
    weights, optimizer = make_weights({"a": 1.0, "b": 2.0}), Descent(0.5, use_ema=True)
    list(run(optimizer, weights, [[np.float32(1.0), np.float32(1.0)]] * 2))
    optimizer.finalize_variable_values(weights[1:])
    _, average = read(named(optimizer, "average"))
    assert value(weights[1]) == average > 0 and value(weights[0]) == -1.0


# Clipping and loss scaling.


def test_clipnorm_is_for_each_weight():
    gradients = [[np.float32([3.0, 4.0]), np.float32([0.3, 0.4])]]
    start = {"a": np.zeros(2), "b": np.zeros(2)}
    (after,) = run(Descent(0.5, clipnorm=1.0), make_weights(start), gradients)
    np.testing.assert_allclose(after, [[-0.6, -0.8], [-0.3, -0.4]], rtol=1e-6)


def test_global_clipnorm_is_for_all_together():
    gradients = [[np.float32([3.0, 0.0]), np.float32([0.0, 4.0])]]
    start = {"a": np.zeros(2), "b": np.zeros(2)}
    (after,) = run(Descent(0.5, global_clipnorm=1.0), make_weights(start), gradients)
    np.testing.assert_allclose(after, [[-0.6, 0], [0, -0.8]], rtol=1e-6)
    (after,) = run(Descent(0.5, global_clipnorm=6.0), make_weights(start), gradients)
    np.testing.assert_array_equal(after, [[-3.0, 0], [0, -4.0]])


def test_clipvalue_is_for_each_entry():
    gradients = [[np.float32([3.0, -0.25])]]
    (after,) = run(Descent(0.5, clipvalue=0.5), make_weights({"a": np.zeros(2)}), gradients)
    np.testing.assert_array_equal(after[0], [-0.5, 0.25])


def test_accumulated_gradients_are_clipped_not_the_batches():
    optimizer = Descent(0.5, clipvalue=1.0, gradient_accumulation_steps=2)
    batches = [[np.float32(4.0)], [np.float32(-3.0)]]
    *_, (after,) = run(optimizer, make_weights({"w": 0.0}), batches)
    assert float(after) == -0.5


def test_loss_scale_is_divided_out():
    start, gradients = problem(3)
    optimizer = RAdam(0.1, loss_scale_factor=1024.0)
    assert float(optimizer.scale_loss(2.0)) == 2048.0
    scaled = [[1024 * g for g in step] for step in gradients]
    expected = run(RAdam(0.1), make_weights(start), gradients)
    assert_steps(run(optimizer, make_weights(start), scaled), expected, tolerance=0)


# Kinds of weights and gradients.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("make", [RAdam, lambda rate: LARS(rate, trust_coefficient=1.0)])
def test_half_precision_weights_move_by_float32_arithmetic(make, dtype):
    start, gradients = problem(12)
    weights = make_weights(start, dtype=dtype)
    full = make_weights({path: w for path, w in zip(start, read(weights), strict=True)})
    optimizer = make(0.125)
    *_, half = run(optimizer, weights, gradients)
    *_, single = run(make(0.125), full, gradients)
    for weight, a, e, before in zip(weights, half, single, start.values(), strict=True):
        assert keras.backend.standardize_dtype(weight.dtype) == dtype
        np.testing.assert_allclose(a, e, rtol=0.05, atol=0.1)
        assert np.all(a != before)
    slots = named(optimizer, ("momentum", "velocity"))
    assert slots
    assert {keras.backend.standardize_dtype(v.dtype) for v in slots} == {"float32"}


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unless told so")
@pytest.mark.parametrize("make", [RAdam, LARS, Descent])
def test_float64_weights_stay_float64(make):
    start, gradients = problem(8)
    weights = make_weights(start, dtype="float64")
    before = [ops.convert_to_numpy(w).copy() for w in weights]
    optimizer = Lookahead(make(0.25, use_ema=True, weight_decay=0.5), sync_period=3)
    list(run(optimizer, weights, gradients))
    for weight, start in zip(weights, before, strict=True):
        after = ops.convert_to_numpy(weight)
        assert after.dtype == "float64"
        assert np.any(after != np.float32(after))
        assert np.all(after != start)
    kept = [v for v in optimizer.variables if not v.name.endswith(("iteration", "learning_rate"))]
    assert {keras.backend.standardize_dtype(v.dtype) for v in kept} == {"float64"}


@pytest.mark.parametrize("make", [RAdam, LARS, lambda rate: Lookahead(RAdam(rate), 2)])
def test_weights_without_entries_and_scalars(make):
    start = {"none": np.zeros((0, 3)), "scalar": np.float32(2.0), "one": np.ones((1, 1))}
    gradients = [[np.ones_like(w) for w in start.values()]] * 3
    *_, after = run(make(0.125), make_weights(start), gradients)
    assert after[0].shape == (0, 3)
    assert after[1] < 2
    assert after[2] < 1


def test_weights_without_gradients_and_their_slots_stay():
    start, gradients = problem(7)
    for step in gradients:
        step[0] = None
    optimizer = RAdam(0.1, weight_decay=0.5)
    judges = [oracles.RAdam(weight_decay=0.5) for _ in range(2)]
    others = [step[1:] for step in gradients]
    expected = follow(judges, list(start.values())[1:], others, [0.1] * 7)
    weights = make_weights(start)
    with pytest.warns(UserWarning, match=r"do not exist for variables \['dense/kernel'\]"):
        actual = list(run(optimizer, weights, gradients))
    assert_steps([step[1:] for step in actual], expected)
    np.testing.assert_array_equal(actual[-1][0], start["dense/kernel"])
    assert not np.any(read(named(optimizer, "dense_kernel_momentum"))[0])


def test_a_step_without_any_gradient_is_refused():
    optimizer = Descent()
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        next(run(optimizer, make_weights({"w": 1.0}), [[None]]))


def test_some_of_the_weights_may_be_given():
    weights = make_weights({"a": np.ones(2), "b": np.ones(2)})
    optimizer = Descent(0.25)
    optimizer.build(weights)
    next(run(optimizer, weights[1:], [[np.ones(2)]]))
    np.testing.assert_array_equal(read(weights), [[1.0, 1.0], [0.5, 0.5]])


def embedding_gradient(table, ids, upstream):
    """Returns the gradient of looking up `ids` as the backend gives it: sparse where it can be."""
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                looked_up = tf.nn.embedding_lookup(table.value, ids)
                loss = tf.reduce_sum(looked_up * upstream)
            gradient = tape.gradient(loss, table.value)
            assert isinstance(gradient, tf.IndexedSlices)
            return gradient
        case "torch":
            import torch

            weight = table.value.detach().clone().requires_grad_()
            looked_up = torch.nn.functional.embedding(torch.tensor(ids), weight, sparse=True)
            (looked_up * torch.tensor(upstream)).sum().backward()
            assert weight.grad.is_sparse
            return weight.grad
    import jax

    return jax.grad(lambda t: (t[ids] * upstream).sum())(table.value)


@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize("make", [RAdam, LARS, lambda rate, **kw: Lookahead(RAdam(rate), 2, **kw)])
def test_repeated_ids_in_an_embedding_add_up(make, count):
    rng = np.random.default_rng(0)
    start = {"embeddings": np.float32(rng.normal(size=(5, 2)))}
    sparse, dense = make_weights(start), make_weights(start)
    ours = make(0.125, gradient_accumulation_steps=count)
    theirs = make(0.125, gradient_accumulation_steps=count)
    for step in range(8):
        ids = rng.integers(0, 3, size=6)
        upstream = np.float32(rng.normal(size=(6, 2)))
        whole = np.zeros((5, 2), "float32")
        np.add.at(whole, ids, upstream)
        ours.apply([embedding_gradient(sparse[0], ids, upstream)], sparse)
        theirs.apply([ops.convert_to_tensor(whole)], dense)
        message = f"step {step + 1}"
        np.testing.assert_allclose(*read([*sparse, *dense]), rtol=1e-6, atol=1e-6, err_msg=message)
    assert np.any(read(sparse)[0] != start["embeddings"])


# Arguments and configs.


@pytest.mark.parametrize("make", [RAdam, LARS, lambda rate: Lookahead(RAdam(rate))])
def test_from_config_leaves_its_argument_alone(make):
    config = make(0.5).get_config()
    before = copy.deepcopy(config)
    twin = type(make(0.5)).from_config(config)
    assert config == before
    assert twin.get_config() == before


def test_every_argument_survives_the_config():
    optimizer = RAdam(
        Piecewise([2], [0.5, 0.25]),
        beta_1=0.5,
        weight_decay=Piecewise([3], [0.5, 0.125]),
        global_clipnorm=2.0,
        use_ema=True,
        ema_momentum=0.5,
        ema_overwrite_frequency=3,
        loss_scale_factor=8.0,
        gradient_accumulation_steps=2,
        gradient_transforms=[GlobalNormClip(3.0)],
        groups=[Group("a|b", lr_multiplier=0.5)],
        schedule_unit="batch",
        name="mine",
    )
    twin = RAdam.from_config(optimizer.get_config())
    assert twin.get_config() == optimizer.get_config()
    assert twin.beta_1 == 0.5
    assert twin.weight_decay.boundaries == [3]
    assert (twin.global_clipnorm, twin.ema_overwrite_frequency, twin.name) == (2.0, 3, "mine")
    assert (twin.loss_scale_factor, twin.gradient_accumulation_steps) == (8.0, 2)
    assert twin.gradient_transforms[0].max_norm == 3.0
    assert twin.groups[0].pattern == ("a|b",)


def test_deepcopy_keeps_the_state_and_goes_on_identically():
    start, gradients = problem(10)
    weights = make_weights(start)
    optimizer = RAdam(0.1, use_ema=True, gradient_accumulation_steps=2)
    list(run(optimizer, weights, gradients[:5]))
    twin, here = copy.deepcopy(optimizer), read(weights)
    one = list(run(optimizer, weights, gradients[5:]))
    for weight, before in zip(weights, here, strict=True):
        weight.assign(before)
    assert_steps(list(run(twin, weights, gradients[5:])), one, tolerance=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RAdam(lambda: 0.5),
        lambda: RAdam(0.5, groups=[Group(lambda v: True, lr_multiplier=0.5)]),
    ],
    ids=["learning rate", "group"],
)
def test_deepcopy_of_an_optimizer_with_a_lambda(make):
    copy.deepcopy(make())


def test_learning_rate_of_every_kind():
    assert value(Descent(1).learning_rate) == 1.0
    assert value(Descent(np.float32(0.5)).learning_rate) == 0.5
    assert value(Descent(0).learning_rate) == 0.0
    rate = keras.Variable(0.25)
    optimizer = Descent(lambda: rate)
    (after,) = run(optimizer, make_weights({"w": 1.0}), [[np.float32(1.0)]])
    assert float(after[0]) == 0.5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"learning_rate": -1}, ValueError, "`learning_rate` must be at least 0. Received: lear"),
        ({"learning_rate": "fast"}, TypeError, "`learning_rate` must be a number, a LearningRateS"),
        ({"learning_rate": True}, TypeError, "`learning_rate` must be a number"),
        ({"learning_rate": float("inf")}, ValueError, "learning_rate=inf"),
        ({"weight_decay": -0.1}, ValueError, "`weight_decay` must be at least 0. Received: weight"),
        ({"weight_decay": "0.1"}, TypeError, "`weight_decay` must be a number"),
        ({"clipnorm": 0}, ValueError, "`clipnorm` must be greater than 0. Received: clipnorm=0"),
        ({"clipvalue": -1}, ValueError, "`clipvalue` must be greater than 0"),
        ({"global_clipnorm": 0.0}, ValueError, "`global_clipnorm` must be greater than 0"),
        ({"clipnorm": 1, "clipvalue": 1}, ValueError, "Only one of `clipnorm`, `clipvalue` and"),
        ({"use_ema": 1}, TypeError, "`use_ema` must be True or False. Received: use_ema=1"),
        ({"use_ema": True, "ema_momentum": 2}, ValueError, r"`ema_momentum` must be in .*\[0, 1\]"),
        ({"loss_scale_factor": 0}, ValueError, "`loss_scale_factor` must be greater than 0"),
        ({"gradient_accumulation_steps": 1}, ValueError, "must be an integer of at least 2"),
        ({"gradient_accumulation_steps": 2.0}, TypeError, "_steps` must be an integer. Received"),
        ({"schedule_unit": "epoch"}, ValueError, "must be one of 'update', 'batch'. Received"),
        ({"gradient_transforms": [1]}, TypeError, "must be a list of keras_optkit Transform obj"),
        ({"decay": 0.1}, TypeError, "Descent has no argument 'decay'. It takes learning_rate, wei"),
        ({"lr": 1, "wd": 2}, TypeError, "Descent has no argument 'lr', 'wd'. It takes"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Descent(**arguments)


def test_a_rule_must_say_how_it_moves():
    with pytest.raises(NotImplementedError):
        next(run(Optimizer(0.1), make_weights({"w": 1.0}), [[np.float32(1.0)]]))


def test_gradients_and_weights_must_be_as_many():
    weights = make_weights({"a": 1.0, "b": 1.0})
    with pytest.raises(ValueError, match=r"one gradient, or None, .* 1 gradients for 2 variables"):
        Descent().apply([ops.ones(())], weights)
    with pytest.raises(ValueError, match="must know the variables to move"):
        Descent().apply([ops.ones(())])


# Wrappers.


def test_a_loss_scale_optimizer_cannot_be_wrapped():
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    message = r"Lookahead cannot wrap .* other way round: LossScaleOptimizer\(Lookahead\(...\)\)"
    with pytest.raises(ValueError, match=message):
        Lookahead(inner)


def test_accumulation_on_both_is_refused():
    message = r"is set on Lookahead .* Received: gradient_accumulation_steps=2 outside, 3 inside"
    with pytest.raises(ValueError, match=message):
        Lookahead(RAdam(gradient_accumulation_steps=3), gradient_accumulation_steps=2)


def test_an_optimizer_that_accumulates_already_cannot_be_wrapped():
    inner = RAdam(gradient_accumulation_steps=3)
    inner.build(make_weights({"w": 1.0}))
    with pytest.raises(ValueError, match="is built to do so already"):
        Lookahead(inner)


def test_the_loss_scale_of_a_wrapper_is_checked():
    with pytest.raises(ValueError, match="`loss_scale_factor` must be greater than 0"):
        Lookahead(RAdam(), loss_scale_factor=-1.0)


# The floor below.


def test_a_saved_name_is_given_once():
    class RAdam:
        pass

    with pytest.raises(ValueError, match=r'"keras_optkit>RAdam" is already the saved name of .*'):
        _registry.register(RAdam)
    assert _registry.REGISTRY["RAdam"] is not RAdam


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "rule"),
    [
        ((0, 1, "both"), [0, 0.5, 1], [-0.1, 1.1], "in [0, 1]"),
        ((0, 1, "left"), [0, 0.5], [-0.1, 1], "in [0, 1)"),
        ((0, 1, "right"), [0.5, 1], [0, 1.1], "in (0, 1]"),
        ((0, 1, "neither"), [0.5], [0, 1], "in (0, 1)"),
        ((2, None, "both"), [2, 1e30], [1.9], "at least 2"),
        ((2, None, "neither"), [2.1], [2], "greater than 2"),
        ((None, 2, "both"), [2, -5], [2.1], "at most 2"),
        ((None, 2, "left"), [1.9], [2], "less than 2"),
        ((None, None, "both"), [-5, 5], [], "a finite number"),
    ],
)
def test_in_range(limits, inside, outside, rule):
    for number in inside:
        checked = _check.in_range("size", number, *limits)
        assert checked == number
        assert type(checked) is float
    for number in [*outside, float("nan"), float("inf"), -float("inf")]:
        message = re.escape(f"`size` must be {rule}. Received: size={number!r}")
        with pytest.raises(ValueError, match=f"^{message}$"):
            _check.in_range("size", number, *limits)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (_check.in_range, ("1",), TypeError, "`x` must be a number. Received: x='1'"),
        (_check.in_range, (None,), TypeError, "`x` must be a number. Received: x=None"),
        (_check.integer, (1.5,), TypeError, "`x` must be an integer. Received: x=1.5"),
        (_check.integer, (True,), TypeError, "`x` must be an integer. Received: x=True"),
        (_check.integer, (0, 1), ValueError, "`x` must be an integer of at least 1. Received: x=0"),
        (_check.one_of, (3, (1, 2)), ValueError, "`x` must be one of 1, 2. Received: x=3"),
        (_check.instance, (3, str, "a text"), TypeError, "`x` must be a text. Received: x=3"),
        (_check.flag, (0,), TypeError, "`x` must be True or False. Received: x=0"),
    ],
)
def test_messages_of_checks(function, arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        function("x", *arguments)


def test_checks_return_what_they_let_through():
    assert _check.integer("x", np.int64(3), low=3) == 3
    assert type(_check.integer("x", np.int64(3))) is int
    assert _check.one_of("x", None, (None, 1)) is None
    assert _check.flag("x", False) is False
    assert _check.patterns("x", None) == ()
    assert _check.patterns("x", "a|b") == ("a|b",)
    assert _check.patterns("x", ["a", "b"]) == ("a", "b")


def test_repr_shows_what_differs_from_the_defaults():
    class Part(Configurable):
        def __init__(self, size, colour="red", *, weight=1.0):
            self.size, self.colour, self.weight = size, colour, weight

    assert repr(Part(3)) == "Part(size=3)"
    assert repr(Part(3, weight=2.0)) == "Part(size=3, weight=2.0)"
    assert repr(Part(size="x", colour="blue")) == "Part(size='x', colour='blue')"
    assert Part(3, "blue").get_config() == {"size": 3, "colour": "blue", "weight": 1.0}
    assert repr(GlobalNormClip(1.0)) == "GlobalNormClip(max_norm=1.0)"

    class Plain(Optimizer):
        def __init__(self, learning_rate):
            super().__init__(learning_rate)

    assert repr(Plain(0.5)) == "Plain(learning_rate=0.5)"


def test_a_subclass_with_a_rule_of_its_own_is_not_taken_for_elementwise():
    class Normalized(RAdam):
        def direction(self, gradient, weight, step, slots, *shared):
            return gradient / ops.sqrt(ops.sum(ops.square(gradient))), slots

    class Renamed(RAdam):
        pass

    assert Renamed(0.1).runs_by_entry() and not Normalized(0.1).runs_by_entry()
    assert not Renamed(0.1, cautious=True).runs_by_entry()
    gradients = [np.full((300, 300), 2.0, "float32"), np.full(3, 1.0, "float32")]
    weights = make_weights({"large": np.zeros((300, 300)), "small": np.zeros(3)})
    large, small = next(run(Normalized(1.0), weights, [gradients]))
    np.testing.assert_allclose(large, -1 / 300, rtol=1e-4)
    np.testing.assert_allclose(small, -1 / np.sqrt(3), rtol=1e-5)


@pytest.mark.parametrize("sizes", [(3,), (70_000,), (65_536, 5), (10, 200_000, 40, 7)])
def test_pieces_of_weights_are_whole_weights(sizes):
    # On torch rules run on pieces of 2^16 entries, of several weights or of one.
    rng = np.random.default_rng(0)
    start = {f"w{i}": rng.normal(size=size).astype("float32") for i, size in enumerate(sizes)}
    gradients = [rng.normal(size=size).astype("float32") for size in sizes]
    rates = [1.0, 0.5, 1.0, 0.25][: len(sizes)]
    groups = [Group(f"w{i}", lr_multiplier=rate) for i, rate in enumerate(rates)]
    optimizer = Yogi(0.1, groups=groups)
    moved = list(run(optimizer, make_weights(start), [gradients, gradients]))
    for i, (path, value) in enumerate(start.items()):
        alone = list(
            run(
                Yogi(0.1 * rates[i]),
                make_weights({path: value}),
                [gradients[i : i + 1]] * 2,
            )
        )
        for step in (0, 1):
            np.testing.assert_allclose(moved[step][i], alone[step][0], rtol=1e-6, atol=1e-7)


def test_a_slot_may_take_the_old_weight():
    class Remembers(Optimizer):
        slots = ("before",)
        elementwise = True

        def update(self, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
            return weight - learning_rate * gradient, (weight,)

    weights = make_weights({"w": np.ones(3)})
    optimizer = Remembers(0.1)
    list(run(optimizer, weights, [[np.ones(3)]]))
    np.testing.assert_allclose(optimizer.variables[-1].numpy(), np.ones(3))
