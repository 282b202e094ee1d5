"""Learners of every kind, saved in the middle of a task, go on bit for bit in a new process."""

import subprocess
import sys

import keras
import numpy as np
from keras import layers

from keras_optkit.continual import (
    AGEM,
    EWC,
    MAS,
    SI,
    ContinualModel,
    DERpp,
    L2Anchor,
    LwF,
    ReplayBuffer,
)
from keras_optkit.testing._models import assert_same, state

JIT = keras.backend.backend() == "jax"
PENALTIES = [
    EWC(1.0, labels="sampled", n_samples=5, seed=3),
    SI(0.5),
    MAS(0.25, update="proximal"),
    L2Anchor(0.125),
]
KINDS = {
    "penalties": lambda model: ContinualModel(model, PENALTIES, ReplayBuffer(5, seed=2)),
    "AGEM": lambda model: AGEM(model, ReplayBuffer(9, seed=5), 6, [EWC(1.0)]),
    "DER++": lambda model: ContinualModel(model, [DERpp(0.5, 0.5), LwF(0.5)], ReplayBuffer(7)),
    "DER++ at the ends of tasks": lambda model: ContinualModel(
        model, DERpp(0.5, 0.5, fill="consolidate"), ReplayBuffer(7, "class_balanced")
    ),
}
GO_ON = """
def go_on(model, x_2, y_2, x_3, y_3):
    model.consolidate(x_2, y_2)
    model.fit(x_3, y_3, verbose=0, batch_size=4, epochs=2)
    model.consolidate(x_3, y_3)
    assert model.tasks == 3
    held = keras.tree.flatten([model.buffer.data(), model.buffer.sample(3)])
    return [*state(model), *held]
"""
ELSEWHERE = """
import numpy, sys
from pathlib import Path
import keras, keras_optkit
from keras_optkit.testing._models import state
at = Path(sys.argv[1])
data = numpy.load(at / "data.npz").values()
for file in at.glob("*.keras"):
    model = keras.saving.load_model(file)
    numpy.savez(file.with_suffix(".npz"), *go_on(model, *data))
"""


def network():
    keras.utils.set_random_seed(0)
    regularizer = keras.regularizers.L2(0.125)
    body = [layers.Dense(3, "tanh", kernel_regularizer=regularizer), layers.BatchNormalization()]
    return keras.Sequential([layers.Input((4,)), *body, layers.Dense(4)])


def test_a_new_process_goes_on_bit_for_bit_without_custom_objects(tmp_path):
    rng = np.random.default_rng(0)
    data = [
        part
        for group in ([0, 2], [1, 3], [2, 3])
        for part in (rng.normal(size=(8, 4)).astype("float32"), rng.choice(group, 8))
    ]
    np.savez(tmp_path / "data.npz", *data[2:])
    own: dict = {"keras": keras, "state": state}
    exec(GO_ON, own)
    expected = {}
    for name, make in KINDS.items():
        inside = network()
        model = make(inside)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=JIT)
        model.fit(*data[:2], verbose=0, batch_size=4)
        model.consolidate(*data[:2])
        model.fit(*data[2:4], verbose=0, batch_size=4)
        model.save(tmp_path / f"{name}.keras")
        expected[name] = own["go_on"](model, *data[2:])
        assert model.strip() is inside
    subprocess.run([sys.executable, "-c", GO_ON + ELSEWHERE, str(tmp_path)], check=True)
    for name, arrays in expected.items():
        with np.load(tmp_path / f"{name}.npz") as resumed:
            assert_same([resumed[key] for key in resumed], arrays, name)
