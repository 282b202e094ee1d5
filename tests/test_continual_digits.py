"""That the methods do what they are for, on real digits, two classes at a time."""

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits

from keras_optkit.continual import (
    ContinualModel,
    DERpp,
    LwF,
    MaskedCrossentropy,
    ReplayBuffer,
    accuracy,
    evaluate_tasks,
    joint,
    split_tasks,
)

# Their formulas are checked on every backend; here it is how well they serve.
if keras.backend.backend() != "torch":
    pytest.skip("torch is the fastest, compiling nothing", allow_module_level=True)


def digits(setting):
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    return split_tasks(x[:800], y[:800], 2, setting, test=(x[800:], y[800:]))


def classifier(loss=None, seed=1, units=16):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([layers.Input((64,)), layers.Dense(units, "relu"), layers.Dense(10)])
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss)
    return model


def learned(tasks, penalties, loss=None, buffer=None, **options):
    model = classifier(loss, **options)
    learner = ContinualModel(model, penalties, buffer)
    learner.compile(model.optimizer, model.loss)
    for x, y in tasks:
        learner.fit(x, y, batch_size=16, epochs=4, verbose=0)
        learner.consolidate(x, y)
    return accuracy(evaluate_tasks(learner, tasks))


def test_lwf_serves_where_tasks_are_known():
    tasks = digits("task")
    groups = [task.classes for task in tasks]
    naive, lwf = (
        [learned(tasks, list(p), MaskedCrossentropy(groups), seed=s, units=8) for s in (0, 1)]
        for p in ((), (LwF(1.0, groups=groups),))
    )
    assert np.mean(lwf) > np.mean(naive) + 0.02
    assert min(lwf) > 0.9


def test_derpp_serves_where_tasks_are_to_be_found_and_lwf_does_not():
    tasks = digits("class")
    naive = learned(tasks, [])
    lwf = learned(tasks, [LwF(1.0)])
    derpp = learned(tasks, [DERpp(0.1, 0.5)], buffer=ReplayBuffer(100))
    both = accuracy(evaluate_tasks(joint(classifier(), tasks, epochs=4, verbose=0), tasks))
    assert naive < 0.3
    assert lwf < 0.4
    assert derpp > naive + 0.3
    assert both > derpp


def test_joint_says_what_it_needs():
    x, y = np.zeros((3, 64), "float32"), np.arange(3)
    with pytest.raises(ValueError, match="`tasks` must hold one task at least"):
        joint(classifier(), [])
    for other in ((x[:, 1:], y), (x, y.astype("float32")), ({"a": x}, y)):
        with pytest.raises(ValueError, match="All `tasks` must have data of the same structure"):
            joint(classifier(), [(x, y), other])
    with pytest.raises(ValueError, match="`model` must be compiled"):
        joint(keras.Sequential([layers.Input((64,)), layers.Dense(10)]), [(x, y)])
