import re
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from keras_optkit import _match
from keras_optkit.optimizers import LARS, Group, Lookahead, RAdam, layer_decay, no_decay_groups
from keras_optkit.transforms import GlobalNormClip
from tests.oracles import make_weights, read, run

START = {
    "encoder/dense/kernel": np.float32([[1.0, 2.0], [3.0, 4.0]]),
    "encoder/dense/bias": np.float32([5.0, 6.0]),
    "head/kernel": np.float32([[7.0], [8.0]]),
    "head/bias": np.float32([9.0]),
}
ONES = [[np.ones_like(w) for w in START.values()]]
ZEROS = [[np.zeros_like(w) for w in START.values()]]


def plain(learning_rate=1.0, **kwargs):
    """Gradient descent by a rule of this package: `w = w - learning_rate * g`."""
    return LARS(learning_rate, momentum=0.0, exclude=".*", **kwargs)


def moves(optimizer, gradients, jit=False):
    """Returns what one step takes off each weight, one number for each."""
    weights = make_weights(START)
    before = read(weights)
    (after,) = run(optimizer, weights, gradients, jit)
    return [float((b - a).mean()) for a, b in zip(after, before, strict=True)]


def quietly(function, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*args)


@pytest.mark.parametrize("jit", [False, True])
def test_multiplier_scales_the_learning_rate(jit):
    optimizer = plain(0.5, groups=[Group("encoder", lr_multiplier=0.25)])
    np.testing.assert_allclose(moves(optimizer, ONES, jit), [0.125, 0.125, 0.5, 0.5], rtol=1e-6)


def test_multiplier_scales_decoupled_decay_too():
    optimizer = RAdam(0.5, weight_decay=0.25, groups=[Group("head", lr_multiplier=0.5)])
    expected = [0.125 * 2.5, 0.125 * 5.5, 0.0625 * 7.5, 0.0625 * 9]
    np.testing.assert_allclose(moves(optimizer, ZEROS), expected, rtol=1e-6)


def test_multiplier_of_zero_keeps_the_weight_and_moves_its_slots():
    optimizer = RAdam(0.5, groups=[Group("head", lr_multiplier=0.0)])
    assert moves(optimizer, ONES)[2:] == [0.0, 0.0]
    assert all(np.all(m != 0) for m in read(named(optimizer, "momentum")))


@pytest.mark.parametrize("own", [None, 0.5])
def test_decay_takes_the_place_of_the_optimizers(own):
    groups = [Group("bias", weight_decay=0.0), Group("head/kernel", weight_decay=0.25)]
    optimizer = RAdam(0.5, weight_decay=own, groups=groups)
    expected = [0.5 * (own or 0) * 2.5, 0.0, 0.125 * 7.5, 0.0]
    np.testing.assert_allclose(moves(optimizer, ZEROS), expected, rtol=1e-6)


def test_decay_takes_the_place_of_a_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.0])
    optimizer = RAdam(0.5, weight_decay=schedule, groups=[Group("head", weight_decay=0.25)])
    weights = make_weights(START)
    before = read(weights)
    first, second = run(optimizer, weights, ZEROS * 2)
    factors = [0.75, 0.75, 0.875, 0.875]
    for a, b, c, factor in zip(first, before, second, factors, strict=True):
        np.testing.assert_allclose(a, factor * b, rtol=1e-6)
        np.testing.assert_allclose(c, a * (1 if factor == 0.75 else factor), rtol=1e-6)


def named(optimizer, ending):
    return [v for v in optimizer.variables if v.name.endswith(ending)]


@pytest.mark.parametrize("jit", [False, True])
def test_frozen_weights_and_their_slots_are_untouched(jit):
    optimizer = RAdam(0.5, weight_decay=0.5, groups=[Group("encoder", frozen=True)])
    weights = make_weights(START)
    *_, after = run(optimizer, weights, ONES * 8, jit)
    for number, (weight, start) in enumerate(zip(after, START.values(), strict=True)):
        assert np.array_equal(weight, start) == (number < 2)
    for slot in ("momentum", "velocity"):
        values = read(named(optimizer, slot))
        assert len(values) == 4
        assert [bool(np.any(v)) for v in values] == [False, False, True, True]


@pytest.mark.parametrize(
    "clip", [{"gradient_transforms": [GlobalNormClip(1.0)]}, {"global_clipnorm": 1.0}]
)
def test_frozen_weights_do_not_count_in_global_norms(clip):
    gradients = [[np.full_like(w, n + 1) for n, w in enumerate(START.values())]]
    optimizer = plain(groups=[Group("encoder", frozen=True)], **clip)
    norm = np.sqrt(2 * 3**2 + 4**2)
    expected = [0, 0, 3 / norm, 4 / norm]
    np.testing.assert_allclose(moves(optimizer, gradients), expected, rtol=1e-6)


def test_frozen_weights_stay_frozen_in_a_wrapper():
    optimizer = Lookahead(RAdam(0.5, groups=[Group("encoder", frozen=True)]), sync_period=2)
    *_, after = run(optimizer, make_weights(START), ONES * 5)
    for number, (weight, start) in enumerate(zip(after, START.values(), strict=True)):
        assert np.array_equal(weight, start) == (number < 2)


def test_frozen_weights_are_not_lost_to_their_average():
    optimizer = plain(0.5, use_ema=True, groups=[Group("encoder", frozen=True)])
    weights = make_weights(START)
    list(run(optimizer, weights, ONES * 2))
    optimizer.finalize_variable_values(weights)
    for weight, start in zip(read(weights)[:2], START.values(), strict=False):
        np.testing.assert_array_equal(weight, start)


def test_groups_combine():
    groups = [
        Group("encoder", lr_multiplier=0.5, weight_decay=0.5),
        Group("kernel", lr_multiplier=0.5, weight_decay=0.25),
        Group(["encoder/dense", "head"], lr_multiplier=0.5),
    ]
    optimizer = RAdam(1.0, weight_decay=1.0, groups=groups)
    expected = [0.125 * 0.25 * 2.5, 0.25 * 0.5 * 5.5, 0.25 * 0.25 * 7.5, 0.5 * 1.0 * 9]
    np.testing.assert_allclose(moves(optimizer, ZEROS), expected, rtol=1e-6)


def test_one_frozen_is_enough():
    groups = [Group("kernel", frozen=True), Group("head", lr_multiplier=2.0)]
    assert moves(plain(groups=groups), ONES) == [0.0, 1.0, 0.0, 2.0]


def test_a_predicate_chooses_weights():
    optimizer = plain(groups=[Group(lambda variable: len(variable.shape) > 1, lr_multiplier=0.5)])
    assert moves(optimizer, ONES) == [0.5, 1.0, 0.5, 1.0]


def test_a_predicate_is_saved_if_it_is_registered():
    group = Group(short, lr_multiplier=0.5)
    twin = Group.from_config(group.get_config())
    assert twin.pattern is short


@keras.saving.register_keras_serializable("tests")
def short(variable):
    return len(variable.shape) < 2


# What a pattern matches.

NAMES = st.text("abc_1", min_size=1, max_size=4)
PATHS = st.lists(NAMES, min_size=1, max_size=4)
ANYTHING = st.text(st.characters(codec="ascii", exclude_characters="/\n"), min_size=1)


@settings(max_examples=300, deadline=None)
@given(PATHS, st.lists(st.lists(NAMES, min_size=1, max_size=2), min_size=1, max_size=3))
def test_a_pattern_is_for_whole_segments(path, alternatives):
    pattern = "|".join("/".join(alternative) for alternative in alternatives)
    runs = [path[i:j] for i in range(len(path)) for j in range(i + 1, len(path) + 1)]
    assert _match.matches([pattern], "/".join(path)) == any(a in runs for a in alternatives)


@settings(max_examples=300, deadline=None)
@given(PATHS, NAMES)
def test_a_pattern_with_a_tail_is_for_beginnings_of_segments(path, beginning):
    expected = any(segment.startswith(beginning) for segment in path)
    assert _match.matches([f"{beginning}.*"], "/".join(path)) == expected


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="ascii", exclude_characters="/\n"), min_size=1), min_size=1
    )
)
def test_a_literal_pattern_matches_its_path(path):
    path = "/".join(path)
    assert re.compile(_match.literal(path))
    assert _match.matches([_match.literal(path)], path)
    assert not _match.matches([_match.literal(path)], f"x{path}y")
    assert not _match.matches([_match.literal(f"{path}/w", "m")], f"{path}/v")


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("head", "head/kernel", True),
        ("head", "model/head/kernel", True),
        ("head", "forehead/kernel", False),
        ("head", "head_1/kernel", False),
        ("dense.*", "dense_1/bias", True),
        ("block1/conv", "net/block1/conv/kernel", True),
        ("block1/conv", "net/block1/conv_2/kernel", False),
        ("a|b", "b/kernel", True),
        ("a|b", "ab/kernel", False),
        (r"conv\d+", "conv12/kernel", True),
        (r"conv\d+", "conv/kernel", False),
        ("bias", "bias", True),
    ],
)
def test_examples_of_patterns(pattern, path, expected):
    assert _match.matches([pattern], path) == expected


def test_matches_any_of_several_and_none_of_none():
    assert _match.matches(["a", "b"], "b/c")
    assert not _match.matches([], "b/c")


def test_a_pattern_that_matches_nothing_warns_and_lists_the_paths():
    groups = [Group(["encoder", "encoder/conv"], lr_multiplier=0.5)]
    with pytest.warns(UserWarning) as caught:
        assert moves(plain(groups=groups), ONES) == [0.5, 0.5, 1.0, 1.0]
    (message,) = [str(w.message) for w in caught if w.category is UserWarning]
    assert message.startswith("Group: the pattern 'encoder/conv' matches none of the weights")
    assert message.endswith("The paths are: " + ", ".join(START))


def test_a_predicate_that_holds_for_nothing_warns():
    with pytest.warns(UserWarning, match=r"Group: the pattern '.*lambda.*' matches none"):
        moves(plain(groups=[Group(lambda variable: False)]), ONES)


def test_lists_twenty_paths_at_most():
    paths = [f"layer_{i}/kernel" for i in range(30)]
    with pytest.warns(UserWarning, match=r"layer_19/kernel, \.\.\.$") as caught:
        _match.warn_unmatched("Group", ["head"], paths)
    assert "layer_20" not in str(caught[0].message)


# Groups made from models.


def chain(name="net", build=True):
    model = keras.Sequential(
        [
            layers.Dense(3, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(1, name="last"),
        ],
        name=name,
    )
    if build:
        model.build((None, 3))
    return model


def data():
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    return x, np.float32(x.sum(axis=1, keepdims=True))


def multipliers(groups, variables):
    """Returns the product of the multipliers of all groups that hold each weight."""
    return [float(np.prod([g.lr_multiplier for g in groups if g.holds(v)])) for v in variables]


@pytest.mark.parametrize("name", ["net", "a+b(c)"])
def test_no_decay_groups_hold_all_flat_weights_and_no_others(name):
    model = chain(name)
    (group,) = no_decay_groups(model)
    assert group.weight_decay == 0.0
    assert group.lr_multiplier == 1.0
    held = [v.path.split("/", 1)[-1] for v in model.trainable_variables if group.holds(v)]
    assert sorted(held) == ["first/bias", "last/bias", "norm/beta", "norm/gamma"]


def test_no_decay_groups_keep_a_kernel_whose_name_ends_like_a_bias():
    model = keras.Sequential([layers.Dense(2, name="bias"), layers.Dense(1, name="x")], name="net")
    model.build((None, 2))
    (group,) = no_decay_groups(model)
    held = [v.path for v in model.trainable_variables if group.holds(v)]
    assert held == ["net/bias/bias", "net/x/bias"]


def test_no_decay_groups_of_a_model_without_flat_weights():
    model = keras.Sequential([layers.Input((2,)), layers.Dense(1, use_bias=False)])
    assert no_decay_groups(model) == []


def test_layer_decay_falls_with_the_distance_from_the_output():
    model = chain()
    groups = layer_decay(model, 0.5)
    assert [g.lr_multiplier for g in groups] == [0.25, 0.5, 1.0]
    assert all(g.weight_decay is None for g in groups)
    expected = [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    assert multipliers(groups, model.trainable_variables) == expected


def test_layer_decay_takes_a_model_inside_as_one_layer():
    # Even where its layers have the names of those outside.
    inner = keras.Sequential([layers.Dense(3, name="first"), layers.Dense(3, name="b")], name="enc")
    parts = [layers.Dense(3, name="first"), inner, layers.Dense(1, name="b")]
    model = keras.Sequential(parts, name="net")
    model(data()[0])
    expected = [0.25] * 2 + [0.5] * 4 + [1.0] * 2
    assert multipliers(layer_decay(model, 0.5), model.trainable_variables) == expected
    (group,) = no_decay_groups(model)
    assert [group.holds(v) for v in model.trainable_variables] == [False, True] * 4


def test_layer_decay_of_a_functional_model():
    inner = keras.Sequential([layers.Input((3,)), layers.Dense(3, name="out")], name="enc")
    inputs = keras.Input((3,))
    outputs = layers.Dense(1, name="out")(inner(layers.Dense(3, name="stem")(inputs)))
    model = keras.Model(inputs, outputs, name="net")
    found = dict(
        zip(
            [v.path for v in model.trainable_variables],
            multipliers(layer_decay(model, 0.5), model.trainable_variables),
            strict=True,
        )
    )
    assert found == {
        "stem/kernel": 0.25,
        "stem/bias": 0.25,
        "enc/out/kernel": 0.5,
        "enc/out/bias": 0.5,
        "out/kernel": 1.0,
        "out/bias": 1.0,
    }


def test_layer_decay_survives_reloading_a_model_built_by_fit(tmp_path):
    model = chain(build=False)
    model(np.zeros((1, 3), "float32"))
    assert model.trainable_variables[0].path == "net/first/kernel"
    model.compile(RAdam(0.5, groups=layer_decay(model, 0.5)), "mse")
    model.fit(*data(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = quietly(keras.saving.load_model, tmp_path / "model.keras")
    assert loaded.trainable_variables[0].path == "first/kernel"
    groups = loaded.optimizer.groups
    assert multipliers(groups, loaded.trainable_variables) == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("function", [no_decay_groups, lambda model: layer_decay(model, 0.5)])
def test_groups_are_made_from_built_models_only(function):
    with pytest.raises(ValueError, match="`model` must be built, so that it has weights to group"):
        function(chain(build=False))
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model. Received"):
        function(layers.Dense(1))


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_layer_decay_is_a_share(decay):
    with pytest.raises(ValueError, match=r"`decay` must be in \(0, 1\]. Received: decay="):
        layer_decay(chain(), decay)


# Saving.


def ends():
    return [layers.Dense(2, name="first"), layers.Dense(1, name="last")]


def decays(model):
    """Returns which weights of `model` shrink, at gradients of zero."""
    variables = model.trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    (after,) = run(model.optimizer, variables, [[np.zeros(v.shape) for v in variables]])
    return {
        v.path.removeprefix("net/"): bool(np.any(w != 1))
        for v, w in zip(variables, after, strict=True)
    }


@pytest.mark.parametrize("by", ["var_list", "var_names"])
def test_exclusion_from_decay_survives_save_and_load(by, tmp_path):
    model = keras.Sequential(ends(), name="net")
    optimizer = RAdam(0.5, beta_1=0.0, weight_decay=0.5)
    model.compile(optimizer, "mse")
    model(data()[0])
    if by == "var_list":
        flat = [v for v in model.trainable_variables if len(v.shape) < 2]
        optimizer.exclude_from_weight_decay(var_list=flat)
    else:
        optimizer.exclude_from_weight_decay(var_names=["ias"])  # Keras' way: anywhere in the path
    model.fit(*data(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = quietly(keras.saving.load_model, tmp_path / "model.keras")
    expected = {"first/kernel": True, "first/bias": False, "last/kernel": True, "last/bias": False}
    assert decays(model) == expected
    assert decays(loaded) == expected


@pytest.mark.parametrize("inner", [RAdam, keras.optimizers.AdamW])
def test_exclusion_from_decay_reaches_the_optimizer_inside(inner):
    weights, optimizer = make_weights(START), Lookahead(inner(0.5, weight_decay=0.5))
    optimizer.exclude_from_weight_decay(var_list=weights[:1])
    before = read(weights)
    (after,) = run(optimizer, weights, ZEROS)
    factors = [float((a / b).mean()) for a, b in zip(after, before, strict=True)]
    np.testing.assert_allclose(factors, [1.0, 0.75, 0.75, 0.75])


def test_exclusion_from_decay_must_come_before_building():
    optimizer = RAdam(weight_decay=0.1)
    optimizer.build(make_weights(START))
    with pytest.raises(ValueError, match="must be called before the optimizer is built"):
        optimizer.exclude_from_weight_decay(var_names=["bias"])


def test_exclusion_from_decay_beats_groups():
    optimizer = RAdam(0.5, groups=[Group("head", weight_decay=0.5)])
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert moves(optimizer, ZEROS) == [0.0, 0.0, 0.25 * 7.5, 0.0]


def test_exclusion_of_a_variable_is_of_no_other():
    start = {"dense/kernel": np.ones(2), "encoder/dense/kernel": np.ones(2)}
    weights = make_weights(start)
    optimizer = RAdam(0.5, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=weights[:1])
    (after,) = run(optimizer, weights, [[np.zeros(2), np.zeros(2)]])
    np.testing.assert_array_equal(after[0], 1.0)
    np.testing.assert_allclose(after[1], 0.75)


def renamed(tmp_path, groups):
    """Saves a model whose paths begin with its name, which they lose when it is reloaded."""
    model = keras.Sequential(ends(), name="net")
    model.compile(plain(0.5, groups=groups), "mse")
    model.fit(*data(), verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    return model


def trains(model):
    """Returns how far each weight goes with a gradient of one."""
    variables = model.trainable_variables
    before = read(variables)
    (after,) = run(model.optimizer, variables, [[np.ones(v.shape) for v in variables]])
    return [round(float((b - a).mean()), 4) for a, b in zip(after, before, strict=True)]


def test_the_file_decides_if_patterns_match_other_weights_now(tmp_path):
    model = renamed(tmp_path, [Group("net/first", lr_multiplier=0.5), Group("bias", frozen=True)])
    with pytest.warns(UserWarning) as caught:
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    messages = [str(w.message) for w in caught]
    (message,) = [m for m in messages if "match other weights now" in m]
    assert message.endswith("The weights that differ: first/kernel, first/bias")
    assert any("'net/first' matches none" in m for m in messages)
    assert trains(loaded) == trains(model) == [0.25, 0.0, 0.5, 0.0]


def test_a_group_by_predicate_comes_back_from_a_file(tmp_path):
    model = renamed(tmp_path, [Group(short, lr_multiplier=0.5)])
    loaded = quietly(keras.saving.load_model, tmp_path / "model.keras")
    assert trains(loaded) == trains(model) == [0.5, 0.25, 0.5, 0.25]


@pytest.mark.parametrize("groups", [[], [Group("first"), Group("last")]], ids=len)
def test_a_file_for_another_number_of_groups_is_refused(groups, tmp_path):
    renamed(tmp_path, [Group("first", lr_multiplier=0.5)])
    other = keras.Sequential([layers.Input((3,)), *ends()])
    other.compile(plain(0.5, groups=groups), "mse")
    other.optimizer.build(other.trainable_variables)
    message = (
        "The file's table of groups is for 4 weights in 1 groups, but this optimizer has 4 "
        rf"weights in {len(groups)}\. Give it the `groups` it was saved with, or load the "
        "model with compile=False"
    )
    with pytest.raises(ValueError, match=message):
        other.load_weights(tmp_path / "model.weights.h5")


def test_groups_are_in_the_config():
    groups = [Group("a", lr_multiplier=0.5), Group(["b", "c.*"], weight_decay=0.25, frozen=True)]
    twin = RAdam.from_config(RAdam(groups=groups).get_config())
    assert [g.get_config() for g in twin.groups] == [g.get_config() for g in groups]
    assert repr(twin.groups[1]) == "Group(pattern=('b', 'c.*'), weight_decay=0.25, frozen=True)"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pattern": []}, ValueError, "`pattern` must name at least one. Received: pattern="),
        ({"pattern": ""}, TypeError, "`pattern` must be a regular expression, or a list of them"),
        ({"pattern": 3}, TypeError, "`pattern` must be a regular expression, or a list of them"),
        ({"pattern": ["a", "["]}, ValueError, r"valid regular expressions; '\[' is not: .*escape"),
        ({"pattern": "a", "lr_multiplier": -1}, ValueError, "`lr_multiplier` must be at least 0"),
        ({"pattern": "a", "weight_decay": -1}, ValueError, "`weight_decay` must be at least 0"),
        ({"pattern": "a", "frozen": 1}, TypeError, "`frozen` must be True or False"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Group(**arguments)


@pytest.mark.parametrize("groups", [None, Group("a"), ["a"]])
def test_an_optimizer_takes_a_list_of_groups_only(groups):
    with pytest.raises(TypeError, match="`groups` must be a list of keras_optkit Group objects"):
        RAdam(groups=groups)
