"""Stage 6: five digits more, without forgetting the first five."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_optkit import continual
from keras_optkit._demo.data import Digits, Part
from keras_optkit._demo.model import network
from keras_optkit._demo.plan import Context, Outcome, Plan
from keras_optkit._demo.progress import Progress

NAIVE, EWC, REPLAY, BOTH = LEARNERS = ("no help", "EWC", "replay", "EWC and replay")
NAMES = ("0 to 4", "5 to 9")
# Chosen on validation data, with other seeds.
STRENGTH, KEPT = 1e2, 50


def learn(context: Context) -> Outcome:
    """Teaches a network the digits 0 to 4, then 5 to 9 under the same five labels, in four ways.

    The labels are the same, since EWC alone does not help where a task brings new ones.
    """
    buffer = continual.ReplayBuffer(KEPT, "class_balanced")
    matrices = learned((NAIVE, EWC), None, context.plan, context.digits)
    matrices |= learned((REPLAY, BOTH), buffer, context.plan, context.digits)
    _draw(context, matrices)
    numbers: dict[str, Any] = {
        name: {
            "accuracies": R.tolist(),
            "accuracy": continual.accuracy(R),
            "forgetting": continual.forgetting(R),
        }
        for name, R in matrices.items()
    }
    heads = (f"digits {name}" for name in NAMES)
    columns = ("one task after the other", *heads, "accuracy", "forgetting")
    rows = [
        (
            name,
            *(f"{score:.1%}" for score in found["accuracies"][-1]),
            f"{found['accuracy']:.1%}",
            f"{100 * found['forgetting']:.1f} points",
        )
        for name, found in numbers.items()
    ]
    return Outcome(columns, rows, numbers, concluded(numbers))


def learned(
    names: tuple[str, str], buffer: continual.ReplayBuffer | None, plan: Plan, digits: Digits
) -> dict[str, np.ndarray]:
    """Returns two accuracy matrices: the second task without EWC, and with it."""
    ewc = continual.EWC(STRENGTH, n_samples=100)
    learner = continual.ContinualModel(network(0), [ewc], buffer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    tasks = two_tasks(digits.train, digits.test)
    parts = zip(*two_tasks(digits.validation), strict=True)
    images, labels = map(np.concatenate, parts)

    def fit(name: str, task: continual.Task) -> None:
        learner.fit(
            *task,
            batch_size=plan.batch_size // 2,  # replay doubles it
            epochs=plan.epochs // 2,
            validation_data=(images, labels),
            validation_batch_size=len(labels),
            verbose=0,
            callbacks=[Progress(f"{name}, {task.name}")],
        )

    first, second = tasks
    fit(names[0], first)
    learner.consolidate(*first)
    start = continual.evaluate_tasks(learner, tasks)
    state = [*learner.variables, *learner.optimizer.variables]
    values = [np.array(keras.ops.convert_to_numpy(v)) for v in state]
    matrices = {}
    for name, strength in zip(names, (0.0, STRENGTH), strict=True):
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)
        learner.strengths = [strength]  # at 0, EWC adds nothing
        fit(name, second)
        matrices[name] = continual.evaluate_tasks(learner, tasks, start)
    return matrices


def two_tasks(train: Part, test: Part | None = None) -> list[continual.Task]:
    """Returns both tasks; a label is the digit's place among the five of its task."""
    tasks = continual.split_tasks(*train, 5, "domain", test=test)
    return [dataclasses.replace(t, name=n) for t, n in zip(tasks, NAMES, strict=True)]


def concluded(numbers: dict[str, dict[str, Any]]) -> str:
    """Returns a sentence that is true of the numbers."""
    naive, ewc, replay, both = (numbers[name]["accuracies"][-1][0] for name in LEARNERS)
    start = numbers[NAIVE]["accuracies"][0][0]
    return (
        f"Having learned 5 to 9, the network knows {naive:.0%} of the digits 0 to 4, of "
        f"{start:.0%} before; with EWC {ewc:.0%}, with a replay of {KEPT} images {replay:.0%}, "
        f"with both {both:.0%}."
    )


def _draw(context: Context, matrices: dict[str, np.ndarray]) -> None:
    # Not pyplot, which keeps state and may ask for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7.5), layout="constrained")
    pairs = zip(figure.subplots(2, 2).flat, matrices.items(), strict=True)
    for axes, (name, R) in pairs:
        continual.plot_matrix(R, NAMES, axes).set_title(name[0].upper() + name[1:])
    figure.suptitle("Accuracy in %, one task after the other")
    figure.savefig(context.out / "forgetting.png", dpi=150)
