"""Split and permuted MNIST with the settings of van de Ven & Tolias, and their table beside ours.

Not run here: MNIST is not part of this package. Give the path of Keras' `mnist.npz`, which
`keras.datasets.mnist.load_data()` downloads to `~/.keras/datasets/`:

    python examples/continual_mnist.py ~/.keras/datasets/mnist.npz --protocol split

Settings and table are those of https://arxiv.org/abs/1809.10635 (section 4.2, tables 3 and 4), for
"2019" of https://arxiv.org/abs/1904.07734, as far as its numbers could be checked. Strengths are
from the authors' code of the second, which tried larger ones for EWC than the first:
https://github.com/GMvandeVen/continual-learning/tree/preprints, param_values.py. There EWC measures
the Fisher information on all samples, with the likeliest label of each; here on 2000 of them, with
all labels in turn, or with the given one where each task has a head. The authors replay what a
generator makes up (DGR); "replay" and "A-GEM" here use a buffer.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_optkit import continual


@dataclasses.dataclass(frozen=True)
class Protocol:
    tasks: int
    units: int  # in each of two hidden layers of rectified linear units
    steps: int  # for each task
    learning_rate: float  # of Adam
    strengths: dict[str, dict[str, float]]  # by method and setting
    published: dict[str, tuple]  # by method: task-, domain- and class-incremental, in %
    batch_size: int = 128  # and as many replayed samples


SETTINGS = ("task", "domain", "class")
PROTOCOLS = {
    "split": Protocol(
        tasks=5,
        units=400,
        steps=2000,
        learning_rate=1e-3,
        strengths={
            "EWC": {"task": 1e7, "domain": 1e6, "class": 1e8},
            "SI": {"task": 50.0, "domain": 500.0, "class": 0.5},
        },
        published={
            "none": (85.15, 57.33, 19.90),
            "EWC": (85.48, 57.80, 19.90),
            "SI": (99.14, 63.77, 20.04),
            "LwF": (99.60, 71.02, 24.17),
            "DGR": (99.47, 95.74, 91.24),
            "DGR+distill": (99.59, 96.94, 91.84),
            "joint": (99.64, 98.41, 97.93),
            "EWC 2019": (98.64, 63.95, 20.01),
            "DGR 2019": (99.50, 95.72, 90.79),
            "iCaRL 2019": (None, None, 94.57),  # also from 2000 samples
        },
    ),
    "permuted": Protocol(
        tasks=10,
        units=1000,
        steps=5000,
        learning_rate=1e-4,
        strengths={
            "EWC": {"task": 500.0, "domain": 500.0, "class": 1.0},
            "SI": {"task": 5.0, "domain": 5.0, "class": 0.1},
        },
        published={
            "none": (81.79, 78.51, 17.26),
            "EWC": (94.74, 94.31, 25.04),
            "SI": (94.75, 95.33, 29.31),
            "LwF": (69.84, 72.64, 22.64),
            "DGR": (92.52, 95.09, 92.19),
            "DGR+distill": (97.51, 97.35, 96.38),
            "joint": (97.68, 97.59, 97.59),
        },
    ),
}
OURS = ("none", "EWC", "SI", "replay", "A-GEM")  # the last two have no line in the table
MEMORY = 2000  # samples that are replayed from


def load(path: str) -> tuple:
    """Returns images with numbers from 0 to 1, and labels: `(x, y), (x_test, y_test)`."""
    if not Path(path).expanduser().is_file():
        raise SystemExit(
            f"{path} is not there. It should be Keras' mnist.npz: where there is a network, "
            "`keras.datasets.mnist.load_data()` brings it to ~/.keras/datasets/mnist.npz."
        )
    with np.load(Path(path).expanduser(), allow_pickle=False) as file:
        if missing := {"x_train", "y_train", "x_test", "y_test"} - set(file.files):
            raise SystemExit(f"{path} is not Keras' mnist.npz: it lacks {sorted(missing)}.")
        parts = [(file[f"x_{kind}"], file[f"y_{kind}"]) for kind in ("train", "test")]
    train, test = ((x.astype("float32") / 255, y.astype("int32")) for x, y in parts)
    return train, test


def make_tasks(name: str, setting: Any, train: tuple, test: tuple, count: int) -> list:
    """Returns the tasks of a protocol in one of the settings."""
    if name == "split":
        (x, y), (x_test, y_test) = ((x.reshape(len(x), -1), y) for x, y in (train, test))
        return continual.split_tasks(x, y, 2, setting, test=(x_test, y_test))[:count]
    # Padded to 32 x 32, then permuted; each task has ten classes of its own but in "domain".
    wide = [(np.pad(x, ((0, 0), (2, 2), (2, 2))).reshape(len(x), -1), y) for x, y in (train, test)]
    tasks, made = continual.permuted_tasks(*wide[0], count, seed=1, test=wide[1]), []
    for number, task in enumerate(tasks):
        first = 0 if setting == "domain" else 10 * number
        held_out: Any = task.test
        (x, y), (x_test, y_test) = task.train, held_out
        made.append(
            continual.Task(
                task.name,
                (x, y + first),
                (x_test, y_test + first),
                tuple(range(first, first + 10)),
                setting,
            )
        )
    return made


def network(protocol: Protocol, tasks: list, seed: int) -> keras.Model:
    """Returns the multi-layer perceptron, with an output for each class of all tasks."""
    keras.utils.set_random_seed(seed)
    outputs = 1 + max(max(task.classes) for task in tasks)
    return keras.Sequential(
        [
            keras.Input(tasks[0].train[0].shape[1:]),
            keras.layers.Dense(protocol.units, "relu"),
            keras.layers.Dense(protocol.units, "relu"),
            keras.layers.Dense(outputs),
        ]
    )


def learner_of(method: str, model: keras.Model, protocol: Protocol, setting: str, seed: int):
    """Returns the model with a method around it."""
    buffer = continual.ReplayBuffer(MEMORY, "class_balanced", seed)
    strength = protocol.strengths.get(method, {}).get(setting, 0.0)
    labels = "empirical" if setting == "task" else "exact"  # heads of their own: see the docs
    return {
        "none": lambda: continual.ContinualModel(model),
        # The authors' penalty, too, is half of strength times the sum.
        "EWC": lambda: continual.ContinualModel(
            model, continual.EWC(strength, labels=labels, n_samples=2000)
        ),
        "SI": lambda: continual.ContinualModel(model, continual.SI(strength, epsilon=0.1)),
        "replay": lambda: continual.ContinualModel(model, [], buffer),
        "A-GEM": lambda: continual.AGEM(model, buffer, protocol.batch_size),
    }[method]()


def run(method: str, setting: str, protocol: Protocol, tasks: list, seed: int = 0) -> Any:
    """Learns all tasks, and returns the accuracy matrix."""
    learner = learner_of(method, network(protocol, tasks, seed), protocol, setting, seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if setting == "task":
        loss = continual.MaskedCrossentropy([task.classes for task in tasks])
    learner.compile(keras.optimizers.Adam(protocol.learning_rate), loss)
    rng, R = np.random.default_rng(seed), None
    for x, y in tasks:
        # A fixed number of steps: one pass over as many samples, drawn epoch by epoch.
        count = protocol.steps * protocol.batch_size
        epochs = [rng.permutation(len(x)) for _ in range(-(-count // len(x)))]
        rows = np.concatenate(epochs)[:count]
        learner.fit(x[rows], y[rows], batch_size=protocol.batch_size, shuffle=False, verbose=0)
        learner.consolidate(x, y)
        R = continual.evaluate_tasks(learner, tasks, R)
    return R


def table(protocol: Protocol, found: dict[str, dict[str, float]]) -> str:
    """Returns what was found beside what is published, in %."""
    lines = [f"{'':12}" + "".join(f"{s:>10}{'published':>11}" for s in SETTINGS)]
    for method in dict.fromkeys([*OURS, *protocol.published]):
        cells = []
        for place, setting in enumerate(SETTINGS):
            ours = found.get(method, {}).get(setting)
            theirs = protocol.published.get(method)
            cells.append(f"{'-' if ours is None else f'{100 * ours:.2f}':>10}")
            number = None if theirs is None else theirs[place]
            cells.append(f"{'-' if number is None else f'{number:.2f}':>11}")
        lines.append(f"{method:12}" + "".join(cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Split and permuted MNIST, one task after another")
    parser.add_argument("path", help="Keras' mnist.npz")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="split")
    parser.add_argument("--methods", nargs="+", choices=OURS, default=OURS)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="other than the published number")
    given = parser.parse_args(arguments)
    protocol, found = PROTOCOLS[given.protocol], {}
    if given.steps:
        protocol = dataclasses.replace(protocol, steps=given.steps)
    train, test = load(given.path)
    for setting in given.settings:
        tasks = make_tasks(given.protocol, setting, train, test, protocol.tasks)
        for method in given.methods:
            R = run(method, setting, protocol, tasks, given.seed)
            found.setdefault(method, {})[setting] = continual.accuracy(R)
            print(f"{setting:6} {method:7} {continual.accuracy(R):.2%}", file=sys.stderr)
    print(f"{given.protocol} MNIST, mean accuracy in %; published: means of 20 seeds")
    print(table(protocol, found))


if __name__ == "__main__":
    main()
