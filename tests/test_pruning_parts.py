"""Sparsity schedules and the choice of what to prune, against NumPy that knows no masks."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_optkit import compression
from keras_optkit.compression.pruning._masks import kept, largest, largest_of_all
from keras_optkit.compression.pruning._method import Candidates

RNG = np.random.default_rng(0)


def candidates(weights, sparsity=0.5, **known):
    tensors = {name: [ops.convert_to_tensor(a) for a in known.pop(name, [])] for name in LISTS}
    weights = [ops.convert_to_tensor(np.asarray(w, "float32")) for w in weights]
    rest = {"progress": ops.zeros(()), "step": ops.convert_to_tensor(1)} | known
    return Candidates(weights, sparsity=ops.full((), sparsity, "float32"), **tensors, **rest)


LISTS = ("gradients", "scores", "masks")


def select(method, *arguments, **known):
    masks = method.select(candidates(*arguments, **known))
    return [np.array(ops.convert_to_numpy(m)) for m in masks]


def count(size, sparsity):
    """The number that TF-MOT keeps."""
    return int(max(np.round(np.float32(size) * (np.float32(1) - np.float32(sparsity))), 1))


def first_largest(scores, number):
    """Sorts all, which the code under test does not."""
    flat = np.ravel(scores)
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(-flat, kind="stable")[:number]] = True
    return mask.reshape(np.shape(scores))


def schedules():
    constant, polynomial = compression.ConstantSparsity, compression.PolynomialSparsity
    return {
        "constant": (constant(0.5, 3, 20, 4), lambda s: 0.5),
        "endless": (constant(0.25, 0, frequency=7), lambda s: 0.25),
        "cubic": (polynomial(0.2, 0.8, 2, 30, frequency=4), cubic),
        "linear": (polynomial(0.0, 0.9, 5, 15, 1, 5), lambda s: 0.9 * np.clip((s - 5) / 10, 0, 1)),
        "at once": (polynomial(0.0, 0.9, 5, 5), lambda s: 0.9 * (s >= 5)),
    }


def cubic(step):
    part = np.clip((step - 2) / 28, 0, 1)
    return 0.8 + (0.2 - 0.8) * (1 - part) ** 3


@pytest.mark.parametrize("name", schedules())
def test_schedule_follows_its_formula(name):
    schedule, formula = schedules()[name]
    for step in range(40):
        end = np.inf if schedule.end_step == -1 else schedule.end_step
        in_range = schedule.begin_step <= step <= end
        due = in_range and (step - schedule.begin_step) % schedule.frequency == 0
        tensor = ops.convert_to_tensor(step, dtype="int32")
        assert bool(schedule.due(step)) == due == bool(schedule.due(tensor)), step
        np.testing.assert_allclose(float(schedule(tensor)), formula(step), atol=1e-6)


def test_schedule_ends_at_its_final_sparsity_exactly():
    schedule = compression.PolynomialSparsity(0.1, 0.7, 3, 1_000_003, power=2.5)
    assert float(schedule(1_000_003)) == np.float32(0.7) == float(schedule(2**31 - 1))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([1, 2, 7, 60]), st.integers(0, 2**32 - 1), st.floats(0, 0.999))
def test_number_of_zeros_is_exact_and_ties_go_to_the_first(size, seed, sparsity):
    scores = np.random.default_rng(seed).integers(0, 5, size).astype("float32")
    number = count(scores.size, sparsity)
    mask = largest(ops.convert_to_tensor(scores), kept(scores.size, sparsity))
    np.testing.assert_array_equal(ops.convert_to_numpy(mask), first_largest(scores, number))


@pytest.mark.parametrize("number", [0, 1, 5, 6])
def test_largest_takes_any_number(number):
    scores = np.array([[3.0, 1, 3], [2, 2, 0]], "float32")
    mask = largest(ops.convert_to_tensor(scores), ops.convert_to_tensor(number, dtype="int32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(mask), first_largest(scores, number))


def test_global_magnitude_has_one_threshold():
    weights = [RNG.normal(size=(4, 5)), 3 * RNG.normal(size=(7,)), RNG.normal(size=(2, 3, 2))]
    masks = select(compression.Magnitude("global"), weights, 0.7)
    flat = np.concatenate([np.abs(np.float32(w)).ravel() for w in weights])
    expected = first_largest(flat, count(flat.size, 0.7))
    np.testing.assert_array_equal(np.concatenate([m.ravel() for m in masks]), expected)
    assert largest_of_all([], 0) == []


@pytest.mark.parametrize("shape", [(8, 3), (7, 3), (2, 3), (3, 3, 5, 2), (5, 9, 4)])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 3), (3, 4)])
def test_n_of_m_keeps_n_in_each_group_of_inputs(shape, n, m):
    weight = np.round(RNG.normal(size=shape) * 2)  # with ties
    (mask,) = select(compression.NofM(n, m), [weight])
    columns = np.moveaxis(np.abs(weight), -2, -1).reshape(-1, shape[-2])
    found = np.moveaxis(mask, -2, -1).reshape(-1, shape[-2])
    for column, kept_here in zip(columns, found, strict=True):
        for i in range(0, len(column), m):
            group = column[i : i + m]
            expected = first_largest(group, min(n, len(group)))
            np.testing.assert_array_equal(kept_here[i : i + m], expected)


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("shape", [(8, 6), (7, 5), (3, 9)])
def test_blocks_stay_or_go_together(shape, pooling):
    weight = RNG.normal(size=shape).astype("float32")
    (mask,) = select(compression.Block((4, 2), pooling), [weight], 0.5)
    corners = [(i, j) for i in range(0, shape[0], 4) for j in range(0, shape[1], 2)]
    blocks = [np.abs(weight[i : i + 4, j : j + 2]) for i, j in corners]
    scores = np.array([getattr(b, pooling)() for b in blocks], "float32")
    stays = first_largest(scores, count(len(blocks), 0.5))
    for (i, j), stay in zip(corners, stays, strict=True):
        assert (mask[i : i + 4, j : j + 2] == stay).all()


def test_random_prunes_evenly_and_more_and_more():
    weights = [np.ones((50, 40)), np.ones((50, 40))]
    some = select(compression.Random(seed=1), weights, 0.3)
    more = select(compression.Random(seed=1), weights, 0.6)
    for a, b in zip(some, more, strict=True):
        assert a.sum() == 1400 and b.sum() == 800
        assert not (b & ~a).any(), "what was pruned came back"
    assert (some[0] != some[1]).any()
    # 40 columns with 35 of 50 each: a chi-square of 39 degrees, its 0.9999 quantile.
    columns = some[0].sum(axis=0)
    assert ((columns - 35) ** 2 / (50 * 0.7 * 0.3)).sum() < 81.5


@pytest.mark.parametrize("method", [compression.Gradient(0.75), compression.Movement()])
def test_saliency_accumulates_and_selects(method):
    score, expected = ops.zeros((3, 4)), np.zeros((3, 4))
    for _ in range(5):
        weight, gradient = RNG.normal(size=(2, 3, 4)).astype("float32")
        score = method.score(ops.convert_to_tensor(weight), ops.convert_to_tensor(gradient), score)
        product = weight.astype("float64") * gradient
        if isinstance(method, compression.Movement):
            expected = expected - product
        else:
            expected = 0.75 * expected + 0.25 * np.abs(product)
    score = ops.convert_to_numpy(score)
    np.testing.assert_allclose(score, expected, atol=1e-6)
    (mask,) = select(method, [np.zeros((3, 4))], 0.5, scores=[score])
    np.testing.assert_array_equal(mask, first_largest(score, 6))


def test_rigl_drops_the_smallest_and_grows_where_gradients_are_largest():
    weight, gradient = RNG.normal(size=(2, 10, 10)).astype("float32")
    mask = first_largest(RNG.normal(size=(10, 10)), 40)
    weight = np.where(mask, weight, 0)
    known = {"gradients": [gradient], "masks": [mask], "progress": ops.full((), 0.25)}
    (new,) = select(compression.RigL(fraction=0.4), [weight], 0.6, **known)
    dropped = round(0.4 / 2 * (1 + np.cos(np.pi / 4)) * 40)
    stays = first_largest(np.where(mask, np.abs(weight), -1), 40 - dropped)
    grown = first_largest(np.where(stays, -1, np.abs(gradient)), dropped)
    np.testing.assert_array_equal(new, stays | grown)
    assert new.sum() == 40


def test_set_exchanges_the_smallest_by_lot():
    weight = RNG.normal(size=(10, 10)).astype("float32")
    mask = first_largest(RNG.normal(size=(10, 10)), 40)
    weight = np.where(mask, weight, 0)
    method = compression.SET(fraction=0.25)
    new = [
        select(method, [weight], 0.6, masks=[mask], step=ops.convert_to_tensor(s))[0]
        for s in (5, 5, 9)
    ]
    stays = first_largest(np.where(mask, np.abs(weight), -1), 30)
    for m in new:
        assert m.sum() == 40 and not (stays & ~m).any()
    np.testing.assert_array_equal(new[0], new[1])
    assert (new[0] != new[2]).any()


def test_tfmot_schedules_are_taken_over():
    class ConstantSparsity:  # as TF-MOT's, which need not be installed
        def get_config(self):
            config = {"target_sparsity": 0.4, "begin_step": 3, "end_step": -1, "frequency": 9}
            return {"class_name": "ConstantSparsity", "config": config}

    ours = compression.from_tfmot(ConstantSparsity())
    assert ours.get_config() == compression.ConstantSparsity(0.4, 3, -1, 9).get_config()
    for other in (0.5, ConstantSparsity, {"class_name": "ConstantSparsity"}):
        with pytest.raises(TypeError, match="ConstantSparsity or PolynomialDecay"):
            compression.from_tfmot(other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compression.ConstantSparsity(1.0, 0), r"`target_sparsity` must be in \[0, 1\)"),
        (lambda: compression.ConstantSparsity(0.5, -1), "`begin_step` must be an integer"),
        (lambda: compression.ConstantSparsity(0.5, 9, 3), "must not lie after `end_step`"),
        (lambda: compression.ConstantSparsity(0.5, 0, frequency=0), "`frequency`"),
        (lambda: compression.PolynomialSparsity(0.5, 0.2, 0, 9), "must not exceed"),
        (lambda: compression.PolynomialSparsity(0.0, 0.2, 0, -1), "`end_step` must be"),
        (lambda: compression.NofM(4, 4), "must be less than `m`"),
        (lambda: compression.Block((0, 4)), r"`shape\[0\]`"),
        (lambda: compression.Magnitude("all"), "`scope` must be one of"),
        (lambda: compression.RigL(0.0), "`fraction` must be in"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_custom_methods_and_schedules_say_what_is_missing():
    with pytest.raises(NotImplementedError, match="must define `select"):
        compression.Method().select(candidates([[1.0]]))
    with pytest.raises(NotImplementedError, match="must define `__call__"):
        compression.SparsitySchedule()(1)
    assert keras.saving.serialize_keras_object(compression.NofM())["registered_name"] == (
        "keras_optkit>NofM"
    )
