"""Kills a training again and again and compares what comes out with one left in peace.

    KERAS_BACKEND=jax python benchmarks/crash.py --kills 100

Each attempt is a process of its own, forked before the framework has started anything, and
ended by SIGKILL: the first few at each of the steps in which a checkpoint gets to the disk, the
others at any time. `batches redone` counts what was trained more than once; `lost` the attempts
that could not read what they found.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

# What one process has compiled the next ones load.
CACHE = tempfile.TemporaryDirectory()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_optkit as ko  # noqa: E402

EPOCHS, BATCHES, EVERY = 6, 30, 4
STAGES = 12


class Log(keras.callbacks.Callback):
    """Writes down each batch at once; a killed process cannot do it later."""

    def __init__(self, path):
        super().__init__()
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        os.write(self.file, f"{self.epoch} {batch} {logs['loss']!r}\n".encode())


def train(directory: Path, callback: str) -> None:
    """Trains to the end, and writes down what came out."""
    keras.utils.set_random_seed(0)
    x = np.random.RandomState(1).normal(size=(8 * BATCHES, 6)).astype("float32")
    y = x[:, :1] * x[:, 1:2]
    layers = [keras.layers.Dense(16, "tanh"), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    stop = keras.callbacks.EarlyStopping("loss", patience=100, restore_best_weights=True)
    keeper = {
        "none": lambda: [],
        "TrainingState": lambda: [ko.callbacks.TrainingState(directory / "run", EVERY)],
        "BackupAndRestore": lambda: [
            keras.callbacks.BackupAndRestore(
                directory / "backup", save_freq=EVERY, double_checkpoint=True
            )
        ],
    }[callback]()
    callbacks = [*keeper, stop, Log(directory / "batches")]
    history = model.fit(x, y, batch_size=8, epochs=EPOCHS, callbacks=callbacks, verbose=0)
    result = hashlib.sha256()
    for variable in [*model.weights, *model.optimizer.variables]:
        result.update(keras.ops.convert_to_numpy(variable).tobytes())
    weights = [keras.ops.convert_to_numpy(v).ravel() for v in model.weights]
    outcome = {
        "digest": result.hexdigest(),
        "weights": np.concatenate(weights).tolist(),
        "history": history.history,
    }
    aside = directory / "outcome.part"
    aside.write_text(json.dumps(outcome))
    os.replace(aside, directory / "outcome")


def attempt(directory: Path, callback: str, stage: int | None, delay: float | None) -> str:
    """Runs one process; returns whether it was `"killed"`, got to its `"end"` or `"failed"`."""
    begun = directory / "batches"
    before = begun.stat().st_size if begun.exists() else 0
    child = os.fork()
    if not child:
        code = 1
        try:
            if stage is not None:
                _die_at(stage)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                train(directory, callback)
            damaged = sum("is damaged" in str(warning.message) for warning in caught)
            with (directory / "damaged").open("a") as file:
                file.write("x" * damaged)
            code = 0
        except BaseException:
            with (directory / "errors").open("a") as file:
                traceback.print_exc(file=file)
        os._exit(code)
    deadline = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        now = time.monotonic()
        if delay is not None and deadline is None:
            if begun.exists() and begun.stat().st_size > before:
                deadline = now + delay
        elif deadline is not None and now >= deadline:
            os.kill(child, signal.SIGKILL)
            deadline = None
        time.sleep(0.002)
    if os.WIFSIGNALED(status):
        return "killed"
    return "end" if os.WEXITSTATUS(status) == 0 else "failed"


def _die_at(stage: int) -> None:
    """Lets this process kill itself before the so-manieth call that changes the disk."""
    left = itertools.count(stage, -1)

    def deadly(function):
        def call(*arguments, **kwargs):
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **kwargs)

        return call

    os.fsync, os.replace, shutil.rmtree = map(deadly, (os.fsync, os.replace, shutil.rmtree))


def measure(callback: str, kills: int, reference: dict, seed: int) -> dict:
    """Kills trainings until there were so many kills; each goes on until it has ended."""
    chance = random.Random(seed)
    killed = redone = damaged = failed = runs = wrong = 0
    difference = 0.0
    while killed < kills:
        with tempfile.TemporaryDirectory() as name:
            directory, outcome, failures = Path(name), "killed", 0
            while outcome != "end" and failures < 3:
                last = killed >= kills
                stage = killed + STAGES if killed < STAGES and callback == "TrainingState" else None
                delay = None if last or stage is not None else chance.uniform(0, 0.4)
                outcome = attempt(directory, callback, None if last else stage, delay)
                killed += outcome == "killed"
                failures += outcome == "failed"
            runs, failed = runs + 1, failed + failures
            if failures and callback == "TrainingState":
                sys.stderr.write((directory / "errors").read_text())
            batches = (directory / "batches").read_text().splitlines()
            redone += len(batches) - EPOCHS * BATCHES
            if (directory / "damaged").exists():
                damaged += (directory / "damaged").stat().st_size
            if outcome != "end":
                wrong += 1
                continue
            found = json.loads((directory / "outcome").read_text())
            gap = np.subtract(found["weights"], reference["weights"])
            difference = max(difference, float(np.abs(gap).max()))
            same = all(found[key] == reference[key] for key in ("digest", "history"))
            wrong += not same
    return {
        "callback": callback,
        "kills": killed,
        "runs": runs,
        "batches redone": redone,
        "found damaged": damaged,
        "lost": failed,
        "runs that differ": wrong,
        "largest difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("TrainingState", "BackupAndRestore"))
    parser.add_argument("--json", type=Path, help="where to write the table as data")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if attempt(Path(name), "none", None, None) != "end":
            sys.exit((Path(name) / "errors").read_text())
        reference = json.loads((Path(name) / "outcome").read_text())
    names = [arguments.only] if arguments.only else ["TrainingState", "BackupAndRestore"]
    table = [measure(name, arguments.kills, reference, arguments.seed) for name in names]
    print(f"{keras.backend.backend()}: {EPOCHS} epochs of {BATCHES} batches, saved every {EVERY}")
    widths = [max(len(key), *(len(f"{row[key]}") for row in table)) for key in table[0]]
    for row in (dict(zip(table[0], table[0], strict=True)), *table):
        print("  ".join(f"{row[key]!s:>{w}}" for key, w in zip(table[0], widths, strict=True)))
    if arguments.json:
        arguments.json.write_text(json.dumps(table))


if __name__ == "__main__":
    main()
