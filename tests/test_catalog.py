"""Finding one's way: what there is by name, and objects that say what they are."""

import re

import keras
import numpy as np
import pytest

import keras_optkit as ko
from keras_optkit import _catalog
from keras_optkit._registry import REGISTRY
from tests.test_contract import INSTANCES

SHOWN = [
    name
    for name in INSTANCES
    if not issubclass(REGISTRY.get(name, object), (keras.Model, keras.layers.Layer))
]


def test_names_of_a_kind():
    assert ko.list("optimizers", "ad*") == ["AdaBelief", "Adan", "AdEMAMix", "ADOPT"]
    assert ko.list("optimizers", "?AMB") == ["LAMB"]
    assert set(ko.list("wrappers")) < set(ko.list("optimizers"))
    assert {"Pruned", "EWCOptimizer", "Lookahead"} <= set(ko.list("wrappers"))  # wherever they lie
    assert {"Plateau", "ReduceLROnPlateau", "SparsityLogger"} <= set(ko.list("callbacks"))
    assert "quantize_model" in ko.list("functions", "quant*")
    assert ko.list("schedules", "no such*") == []
    assert ko.list() == list(_catalog.KINDS) and all(ko.list(kind) for kind in ko.list())
    with pytest.raises(ValueError, match=r"`kind` must be one of 'optimizers', .*kind='optimiser'"):
        ko.list("optimiser")


def test_what_trains_is_listed():
    listed = {name for kind in ko.list() for name in ko.list(kind)}
    layers = {n for n, c in REGISTRY.items() if issubclass(c, keras.layers.Layer)}
    assert INSTANCES.keys() - layers - listed <= {"Group", "ReplayBuffer"}


@pytest.mark.parametrize("name", SHOWN)
def test_the_repr_makes_an_equal_one(name):
    one = INSTANCES[name]()
    names = vars(keras.optimizers) | vars(keras.optimizers.schedules) | REGISTRY
    other = eval(repr(one), names | {"array": np.array})
    assert repr(other) == repr(one)
    configs = [re.sub(r"_\d+'", "'", str(each.get_config())) for each in (one, other)]  # of names
    assert configs[0] == configs[1]


def test_the_repr_is_short():
    cosine = keras.optimizers.schedules.CosineDecay(0.001, 100)
    inner = keras.optimizers.AdamW(cosine, weight_decay=0.1)
    shown = "AdamW(CosineDecay(initial_learning_rate=0.001, decay_steps=100), weight_decay=0.1)"
    assert repr(ko.optimizers.Lookahead(inner)) == f"Lookahead({shown})"
    assert repr(ko.optimizers.RAdam(name="mine")) == "RAdam(learning_rate=0.001, name='mine')"
    assert repr(ko.optimizers.RAdam(lambda: 0.1)).startswith("RAdam(learning_rate=test_the_repr")
    probe = ko.callbacks.ActivationMonitor(np.zeros((20, 4)))
    assert repr(probe) == "ActivationMonitor(probe=<float64 array of shape (20, 4)>)"
    optimizer = ko.optimizers.Yogi()
    optimizer.learning_rate = 0.25
    assert repr(optimizer) == "Yogi(learning_rate=0.25)"  # as it is now


def test_a_repr_while_a_backend_traces():
    said = []

    class Talkative(ko.transforms.Transform):
        def __call__(self, gradients, variables, step):
            said.append(repr(model.optimizer))
            return gradients

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    inner = ko.optimizers.RAdam(0.5, gradient_transforms=[Talkative()])
    model.compile(ko.optimizers.Lookahead(inner), "mse")
    model.fit(np.zeros((2, 2)), np.zeros((2, 1)), verbose=0)
    rate = r"(0\.5|<variable>)"
    expected = (
        rf"Lookahead\(RAdam\(learning_rate={rate}, gradient_transforms=\(Talkative\(\),\)\)\)"
    )
    assert said and re.fullmatch(expected, said[0]), said
