"""The side of this package."""

import functools

import keras
import numpy as np

from forgetting.study import (
    BATCH,
    BETA,
    BUFFER,
    DAMPING,
    EPSILON,
    HIDDEN,
    RATE,
    REPLAYING,
    TEMPERATURE,
    Setting,
    Tasks,
    batches,
    timed,
)
from keras_optkit import continual

VERSIONS = {"keras": keras.__version__, "numpy": np.__version__, "backend": keras.backend.backend()}


class Trainer:
    """Trains one setting by one method; compiled once, and set back for each seed."""

    def __init__(self, setting: Setting, method: str):
        self.setting, self.method = setting, method
        self._learner: continual.ContinualModel | None = None
        self._fresh: list[list[np.ndarray]] = []

    def train(self, tasks: Tasks, strength: float | None, seed: int, given: bool):
        learner = self._start(tasks, strength, seed)
        keras.utils.set_random_seed(seed)
        given = given and learner.buffer is None
        rows, taken = [], []
        joint = [tuple(np.concatenate(arrays) for arrays in zip(*tasks.train, strict=True))]
        for i, (x, y) in enumerate(joint if self.method == "joint" else tasks.train):
            arrays, epochs = (x, y), self.setting.epochs
            if given:  # all epochs as one
                order = np.concatenate(batches(len(x), epochs, seed, i)).ravel()
                arrays, epochs = (x[order], y[order]), 1
            options = {"batch_size": BATCH, "verbose": 0, "shuffle": not given}

            def one(x=x, y=y, arrays=arrays, epochs=epochs, options=options):
                learner.fit(*arrays, epochs=epochs, **options)
                if self.method != "joint":
                    learner.consolidate(x, y)

            taken.append(timed(one))
            rows.append(learner.model.get_weights())
        share = len(tasks.train) / len(rows)
        return rows, [tuple(s / share for s in pair) for pair in taken]

    def _start(self, tasks: Tasks, strength: float | None, seed: int) -> continual.ContinualModel:
        """Returns the learner as it is before the first task, with the weights of the file."""
        learner = self._learner
        if learner is None:
            self._learner = learner = self._make(tasks, strength)
            learner.optimizer.build(learner.trainable_variables)
            self._fresh = [[np.array(v) for v in part] for part in _state(learner)]
        for variables, values in zip(_state(learner), self._fresh, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        learner.model.set_weights(tasks.weights)
        if strength is not None:
            learner.strengths = [strength]
        if learner.buffer is not None:
            learner.buffer.seed = seed
            learner.buffer.clear()
        return learner

    def _make(self, tasks: Tasks, strength: float | None) -> continual.ContinualModel:
        heads = tasks.classes if self.setting.kind == "task" else None
        model = keras.Sequential(
            [
                keras.layers.Input(tasks.weights[0].shape[:1]),
                keras.layers.Dense(HIDDEN, "relu"),
                keras.layers.Dense(self.setting.outputs),
            ]
        )
        # Given labels where tasks have heads, as on the other side.
        ewc = functools.partial(continual.EWC, strength, labels="empirical" if heads else "exact")
        penalties = {
            "EWC": lambda: [ewc()],
            "EWC online": lambda: [ewc(mode="online")],
            "EWC proximal": lambda: [ewc(update="proximal")],
            "EWC online proximal": lambda: [ewc(mode="online", update="proximal")],
            "LwF": lambda: [continual.LwF(strength, TEMPERATURE, groups=heads)],
            "DER++": lambda: [continual.DERpp(strength, BETA)],
            "DER++ at ends": lambda: [continual.DERpp(strength, BETA, fill="consolidate")],
            "SI": lambda: [continual.SI(strength, DAMPING)],
        }
        buffer = None
        if self.method in REPLAYING:
            buffer = continual.ReplayBuffer(BUFFER, "class_balanced")
        if self.method == "A-GEM":
            learner = continual.AGEM(model, buffer, BATCH)
        else:
            made = penalties.get(self.method, lambda: [])()
            learner = continual.ContinualModel(model, made, buffer)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        learner.compile(
            keras.optimizers.Adam(RATE, epsilon=EPSILON),
            continual.MaskedCrossentropy(heads)
            if heads and not self.method.startswith("DER++")
            else loss,
        )
        return learner


def _state(learner: continual.ContinualModel) -> tuple[list, list]:
    return learner.weights, learner.optimizer.variables
