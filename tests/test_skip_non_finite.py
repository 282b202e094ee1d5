"""Updates that are left out leave no trace but their count."""

import keras
import numpy as np
import pytest

from keras_optkit.callbacks import SwapAveragedWeights
from keras_optkit.optimizers import Averaged, Lookahead, RAdam, SkipNonFinite, Transformed
from keras_optkit.testing._models import assert_same, data, fit, network, state
from keras_optkit.transforms import GlobalNormClip
from tests import oracles
from tests.conftest import two_replicas
from tests.oracles import make_weights, run

BACKEND = keras.backend.backend()
SHAPES = {"dense/kernel": (3, 2), "dense/bias": (2,)}
INNER = {
    "Keras": lambda: keras.optimizers.Adam(0.1),
    "RAdam": lambda: RAdam(0.1, weight_decay=0.1, use_ema=True),
    "Lookahead": lambda: Lookahead(keras.optimizers.SGD(0.1, momentum=0.9), sync_period=2),
    "Averaged": lambda: Averaged(keras.optimizers.SGD(0.1, momentum=0.9), every=2),
}
JIT = pytest.mark.parametrize("jit", [False, True], ids=["eager", "compiled"])


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def bad(gradients, value):
    """Returns the gradients of a step with one entry made `value`."""
    spoilt = [g.copy() for g in gradients]
    spoilt[1][1] = value
    return spoilt


def counts(optimizer):
    return [int(keras.ops.convert_to_numpy(v)) for v in (optimizer.skipped, optimizer._in_a_row)]


@JIT
@pytest.mark.parametrize("name", INNER)
def test_a_skipped_update_leaves_no_trace(name, jit):
    start, gradients = oracles.problem(SHAPES, 6)
    plain = make_weights(start)
    inner = INNER[name]()
    expected = list(run(inner, plain, gradients, jit))
    spoilt = []
    for step, value in zip(gradients, [np.nan, np.inf, -np.inf, None, np.nan, None], strict=True):
        spoilt += [step] if value is None else [bad(step, value), step]
    weights = make_weights(start)
    optimizer = SkipNonFinite(INNER[name]())
    steps = list(run(optimizer, weights, spoilt, jit))
    assert counts(optimizer) == [4, 0]
    went = [steps[i] for i in (1, 3, 5, 6, 8, 9)]
    # XLA may fuse the two steps differently, which is a last bit.
    tolerance = 1e-6 if jit else 0.0
    for number, (ours, theirs) in enumerate(zip(went, expected, strict=True), 1):
        assert_same(ours, theirs, f"update {number}", atol=tolerance)
    for skipped in (2, 4, 7):
        assert_same(steps[skipped], steps[skipped - 1], f"call {skipped + 1}")
    ours = values(optimizer.inner_optimizer.variables)
    assert_same(ours, values(inner.variables), "inner state", atol=tolerance)


@JIT
def test_state_stays_bit_for_bit(jit):
    start, gradients = oracles.problem(SHAPES, 2)
    weights, optimizer = make_weights(start), SkipNonFinite(INNER["RAdam"]())
    optimizer.build(weights)
    steps = run(optimizer, weights, [gradients[0], bad(gradients[1], np.nan)], jit)
    next(steps)
    before = values([*weights, *optimizer.inner_optimizer.variables])
    next(steps)
    assert_same(values([*weights, *optimizer.inner_optimizer.variables]), before, "skipped")
    assert counts(optimizer) == [1, 1]


@JIT
@pytest.mark.parametrize(("size", "rate"), [(1e30, 1e-30), (3e38, 2e-38)])
def test_huge_gradients_are_finite(size, rate, jit):
    start, gradients = oracles.problem(SHAPES, 1)
    every = [[np.full_like(g, size) for g in gradients[0]]]
    weights = make_weights(start)
    optimizer = SkipNonFinite(keras.optimizers.SGD(rate))
    (moved,) = run(optimizer, weights, every, jit)
    assert counts(optimizer) == [0, 0]
    assert_same(moved, [w - size * rate for w in start.values()], "weights", atol=1e-5)


def test_float64_gradients_beyond_float32_are_finite():
    weights = make_weights({"dense/bias": np.zeros(2)}, "float64")
    if BACKEND == "jax":
        pytest.skip("JAX has no float64 unless told to")
    optimizer = SkipNonFinite(keras.optimizers.SGD(0.1))
    list(run(optimizer, weights, [[np.full(2, 1e200)]]))
    assert counts(optimizer) == [0, 0]


@JIT
def test_too_many_in_a_row_go_through(jit):
    start, gradients = oracles.problem(SHAPES, 1)
    good, nan = gradients[0], bad(gradients[0], np.nan)
    optimizer = SkipNonFinite(keras.optimizers.SGD(0.1), max_consecutive=2)
    weights = make_weights(start)
    seen, finite = [], []
    for moved in run(optimizer, weights, [nan, nan, good, nan, nan, nan, nan, good], jit):
        seen.append(counts(optimizer))
        finite.append(all(np.isfinite(w).all() for w in moved))
    # The count resets at the third; the sixth and seventh are let through.
    assert seen == [[1, 1], [2, 2], [2, 0], [3, 1], [4, 2], [4, 2], [4, 2], [4, 0]]
    assert finite == [True] * 5 + [False] * 3


@JIT
def test_none_skips_any_number(jit):
    start, gradients = oracles.problem(SHAPES, 1)
    optimizer = SkipNonFinite(keras.optimizers.SGD(0.1), max_consecutive=None)
    weights = make_weights(start)
    steps = list(run(optimizer, weights, [bad(gradients[0], np.nan)] * 15, jit))
    assert counts(optimizer) == [15, 15]
    assert_same(steps[-1], list(start.values()), "weights")


@JIT
def test_accumulation_skips_whole_updates(jit):
    start, gradients = oracles.problem(SHAPES, 6)
    spoilt = [*gradients[:2], gradients[2], bad(gradients[3], np.inf), *gradients[4:]]
    optimizer = SkipNonFinite(INNER["Keras"](), gradient_accumulation_steps=2)
    steps = list(run(optimizer, make_weights(start), spoilt, jit))
    assert counts(optimizer) == [1, 0]
    inner = keras.optimizers.Adam(0.1, gradient_accumulation_steps=2)
    fresh = SkipNonFinite(inner)
    expected = list(run(fresh, make_weights(start), gradients[:2] + gradients[4:], jit))
    assert_same(steps[3], steps[1], "the update with the infinity")
    assert_same(steps[5], expected[3], "the update after it")


def spoilt_data():
    """Returns the data of `fit` with a NaN in the second of four batches."""
    x, y = data()
    x = x.copy()
    x[8:16] = np.nan
    return x, y


def clean_data():
    x, y = data()
    rest = np.r_[0:8, 16:32]
    return x[rest], y[rest]


WRAPPED = {
    "alone": SkipNonFinite,
    "outermost": lambda inner: SkipNonFinite(Transformed(inner, [GlobalNormClip(0.5)])),
    "inside": lambda inner: Transformed(SkipNonFinite(inner), [GlobalNormClip(0.5)]),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_fit_goes_on_without_the_batch(name):
    def make():
        return WRAPPED[name](RAdam(0.05))

    model = fit(network(), make(), data=spoilt_data())
    clean = fit(network(), make(), data=clean_data())
    assert_same(model.get_weights(), clean.get_weights(), name, atol=1e-6)
    skips = model.optimizer
    if name == "inside":
        skips = skips.inner_optimizer
    assert counts(skips) == [1, 0]
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 3


@pytest.mark.skipif(BACKEND == "torch", reason="eager there")
def test_fit_compiled_by_xla():
    model = fit(network(), SkipNonFinite(RAdam(0.05)), data=spoilt_data(), jit_compile=True)
    clean = fit(network(), SkipNonFinite(RAdam(0.05)), data=clean_data(), jit_compile=True)
    assert_same(model.get_weights(), clean.get_weights(), "compiled", atol=1e-6)
    assert counts(model.optimizer) == [1, 0]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute")
def test_one_replica_with_a_nan_skips_for_all():
    x, y = spoilt_data()
    x[12:16] = data()[0][12:16]  # the other replica's half is fine
    with two_replicas().scope():
        model = network()
        model.compile(SkipNonFinite(RAdam(0.05)), "mse", jit_compile=False)
    fit(model, data=(x, y))
    clean = fit(network(), SkipNonFinite(RAdam(0.05)), data=clean_data())
    assert_same(model.get_weights(), clean.get_weights(), "two replicas", atol=1e-5)
    assert counts(model.optimizer) == [1, 0]


def test_averages_swap_through_it():
    optimizer = SkipNonFinite(Averaged(keras.optimizers.SGD(0.05), "polyak"))
    model = fit(network(), optimizer, data=spoilt_data(), callbacks=[SwapAveragedWeights()])
    average = Averaged(keras.optimizers.SGD(0.05), "polyak")
    clean = fit(network(), average, data=clean_data(), callbacks=[SwapAveragedWeights()])
    assert_same(model.get_weights(), clean.get_weights(), "average", atol=1e-6)


def test_the_counts_are_saved(tmp_path):
    x, y = spoilt_data()
    x[16:] = np.nan
    model = fit(network(), SkipNonFinite(RAdam(0.05), max_consecutive=4), data=(x, y))
    assert counts(model.optimizer) == [3, 3]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert counts(loaded.optimizer) == [3, 3]
    assert loaded.optimizer.max_consecutive == 4
    x, y = spoilt_data()
    assert_same(state(fit(loaded, data=(x, y))), state(fit(model, data=(x, y))), "went on")
    assert counts(loaded.optimizer) == [4, 0]


def test_bad_input():
    with pytest.raises(ValueError, match=r"`max_consecutive` must be .* at least 1"):
        SkipNonFinite(keras.optimizers.SGD(), max_consecutive=0)
    with pytest.raises(TypeError, match="`max_consecutive` must be an integer"):
        SkipNonFinite(keras.optimizers.SGD(), max_consecutive=2.5)
