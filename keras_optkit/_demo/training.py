"""Stage 1: two optimizers under the same budget, over several seeds."""

import warnings
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_optkit._demo.data import Digits, Shuffled
from keras_optkit._demo.model import OPTIMIZERS, network
from keras_optkit._demo.plan import Context, Outcome, Plan
from keras_optkit._demo.progress import Progress
from keras_optkit._demo.statistics import compared, mean_std
from keras_optkit.callbacks import GradientMonitor

TARGET = 0.95


class Run(NamedTuple):
    """One training run and what came of it."""

    model: keras.Model
    monitor: GradientMonitor
    history: dict[str, list[float]]
    seconds: float
    seconds_per_epoch: float
    test_accuracy: float

    @property
    def epochs_to_target(self) -> float:
        """The first epoch, from 1, that ends with `TARGET` validation accuracy; NaN if none."""
        reached = np.asarray(self.history["val_accuracy"]) >= TARGET
        return float(np.argmax(reached)) + 1 if reached.any() else float("nan")


def compiled(name: str, plan: Plan, seed: int, digits: Digits) -> keras.Model:
    """Returns a fresh model with the optimizer called `name`."""
    model = network(seed)
    steps = plan.epochs * (len(digits.train[0]) // plan.batch_size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(OPTIMIZERS[name].make(model, steps), loss, metrics=["accuracy"])
    return model


def fit(
    model: keras.Model,
    plan: Plan,
    seed: int,
    digits: Digits,
    monitor: GradientMonitor,
    title: str,
    epochs: tuple[int, int] | None = None,
) -> Progress:
    """Trains from the first of `epochs` up to the last, by default all; see `model.history`."""
    progress = Progress(title)
    batches = Shuffled(digits.train, plan.batch_size, seed)
    first, last = epochs or (0, plan.epochs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="GradientMonitor")  # the table counts the flags
        model.fit(
            batches,
            initial_epoch=first,
            epochs=last,
            shuffle=False,  # else `fit` draws another order of the batches
            verbose=0,
            validation_data=digits.validation,
            validation_batch_size=len(digits.validation[0]),
            callbacks=[batches.follow(), monitor, progress],
        )
    return progress


def arrays(model: keras.Model) -> list[np.ndarray]:
    """Returns the weights of a model and the state of its optimizer."""
    return [keras.ops.convert_to_numpy(v) for v in [*model.weights, *model.optimizer.variables]]


def compare(context: Context) -> Outcome:
    """Trains with each optimizer from the same weights, on the same batches in the same order."""
    plan, digits = context.plan, context.digits
    for seed in range(plan.seeds):
        for name, recipe in OPTIMIZERS.items():
            table = context.out / f"gradients_{recipe.slug}_seed{seed}.csv"
            monitor = GradientMonitor(every=plan.every, csv=table)
            model = compiled(name, plan, seed, digits)
            progress = fit(model, plan, seed, digits, monitor, f"{name}, seed {seed}")
            history: Any = model.history
            accuracy = float(model.evaluate(*digits.test, len(digits.test[0]), verbose=0)[1])
            seconds = progress.seconds, progress.per_epoch
            run = Run(model, monitor, history.history, *seconds, accuracy)
            context.runs.setdefault(name, []).append(run)
    numbers: dict[str, Any] = {
        name: {
            "test_accuracy": [run.test_accuracy for run in runs],
            "epochs_to_target": [run.epochs_to_target for run in runs],
            "seconds": [run.seconds for run in runs],
            "seconds_per_epoch": [run.seconds_per_epoch for run in runs],
            "flags": [[flag.message for flag in run.monitor.flags] for run in runs],
        }
        for name, runs in context.runs.items()
    }
    rows = [
        (
            name,
            mean_std(np.multiply(found["test_accuracy"], 100), 2) + " %",
            mean_std(found["epochs_to_target"], 1),
            mean_std(found["seconds"], 1),
            mean_std(found["seconds_per_epoch"], 2),
            str(sum(map(len, found["flags"]))),
        )
        for name, found in numbers.items()
    ]
    target = f"epochs to {100 * TARGET:.0f} %"
    columns = ("optimizer", "test accuracy", target, "seconds", "s per epoch", "flags")
    return Outcome(columns, rows, numbers, compared(numbers, TARGET, len(digits.test[0])))
