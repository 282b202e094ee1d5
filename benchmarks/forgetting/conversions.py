"""Strengths of other libraries in terms of ours, checked by the gradients that they add."""

from pathlib import Path

import keras
import numpy as np

from forgetting.study import BATCH, BETA, SETTINGS, TEMPERATURE, Tasks, path_of
from keras_optkit import continual

SETTING = SETTINGS["split digits, class"]
BUFFERED = 32
STRONG = 1e3  # so that the gradient of the loss, which is taken off again, is small beside


def rows(folder: Path) -> list[dict]:
    """Returns, for each conversion, how far its gradient is from the peer's."""
    tasks = Tasks.load(path_of(folder, SETTING.name, 0))
    with np.load(folder / "conversions.npz") as file:
        held = dict(file)
    case = Case(tasks, *([held[f"{name}{i}"] for i in range(4)] for name in ("anchor", "weight")))
    count = len(tasks.train[0][0])
    heads = [(0, 1)]
    checks = {
        "EWC, Avalanche, batch 1": lambda: case.ewc(2.0, "empirical"),
        f"EWC, Avalanche, batch {BATCH}": lambda: case.ewc(2.0 / BATCH, "empirical"),
        "EWC, van de Ven": lambda: case.ewc(count / (count - 1), "exact"),
        "EWC, Mammoth": lambda: case.ewc(2.0, "empirical"),
        "LwF, Avalanche": lambda: case.lwf(continual.LwF(1.0, TEMPERATURE)),
        "LwF, Mammoth": lambda: case.lwf(continual.LwF(1.0, TEMPERATURE)),
        "LwF, van de Ven": lambda: case.lwf(continual.LwF(1.0, TEMPERATURE, heads)),
        "DER++, Avalanche and Mammoth": lambda: case.der(1.0 / SETTING.outputs, BETA),
    }
    found = []
    for name, ours in checks.items():
        theirs = np.concatenate([held[f"{name}{i}"].ravel() for i in range(4)])
        mine = np.concatenate([part.ravel() for part in ours()])
        found.append(
            {
                "name": name,
                "off": float(f"{np.max(np.abs(mine - theirs)) / np.max(np.abs(theirs)):.2g}"),
                "ratio": float(f"{np.linalg.norm(mine) / np.linalg.norm(theirs):.4g}"),
                "cosine": float(
                    f"{mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs):.4g}"
                ),
            }
        )
    return found


class Case:
    """A network as it was after the first task, and as it is in the second."""

    def __init__(self, tasks: Tasks, anchor: list[np.ndarray], weights: list[np.ndarray]):
        self.first, self.second = tasks.train[:2]
        self.anchor, self.weights = anchor, weights

    def ewc(self, strength: float, labels) -> list[np.ndarray]:
        """Returns the gradient of the penalty after the first task."""
        return self._added([continual.EWC(strength, labels=labels)], *self.second)

    def lwf(self, penalty) -> list[np.ndarray]:
        return self._added([penalty], *self.second)

    def der(self, alpha: float, beta: float) -> list[np.ndarray]:
        """Returns what is added for samples of the first task, with logits of that time."""
        x, y = (part[:BUFFERED] for part in self.first)
        old = self._learner([])
        old.model.set_weights(self.anchor)
        buffer = continual.ReplayBuffer(BUFFERED)
        buffer.add(x, y, logits=np.asarray(old.model(x)))
        learner = self._learner([continual.DERpp(alpha, beta, BUFFERED)], buffer)
        steps = [self._step(each, *self.second) for each in (learner, old)]
        return [without - with_ for with_, without in zip(*steps, strict=True)]

    def _added(self, penalties: list, x, y) -> list[np.ndarray]:
        """Returns what penalties add to the gradient, from steps of SGD with and without."""
        learner = self._learner(penalties)
        learner.model.set_weights(self.anchor)
        learner.consolidate(*self.first, pretrained=True)
        strengths, steps = learner.strengths, []
        for factor in (STRONG, 0):
            learner.strengths = [factor * strength for strength in strengths]
            steps.append(self._step(learner, x, y))
        return [(without - with_) / STRONG for with_, without in zip(*steps, strict=True)]

    def _step(self, learner: continual.ContinualModel, x, y) -> list[np.ndarray]:
        learner.model.set_weights(self.weights)
        learner.fit(x, y, batch_size=len(x), verbose=0, shuffle=False)
        return learner.model.get_weights()

    def _learner(self, penalties: list, buffer=None) -> continual.ContinualModel:
        model = keras.Sequential(
            [
                keras.layers.Input(self.anchor[0].shape[:1]),
                keras.layers.Dense(self.anchor[0].shape[1], "relu"),
                keras.layers.Dense(self.anchor[2].shape[1]),
            ]
        )
        learner = continual.ContinualModel(model, penalties, buffer)
        learner.compile(
            keras.optimizers.SGD(1.0),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return learner
