"""What both sides train, and how strengths are tuned. Needs nothing but NumPy.

A side is a class `Trainer(setting, method)` with a method `train(tasks, strength, seed, given)`,
which returns the weights after each task, and what `timed` gives for each task. `seed` determines
all that is left to chance. If `given` is true, methods without replay take the samples in the order
of `batches`.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BATCH, HIDDEN, RATE, EPSILON = 32, 100, 0.005, 1e-7  # of Adam
BUFFER = 96  # samples: whole batches, or Avalanche's replay has smaller ones in between
TEMPERATURE, DAMPING, BETA = 2.0, 0.1, 0.5  # of LwF, of SI (its `xi`), of DER++
TUNING, HELD_OUT = range(100, 105), range(20)  # seeds
MORE = range(20, 100)  # for EWC on domain-incremental tasks, without those for tuning


@dataclass(frozen=True)
class Setting:
    """A sequence of tasks: `kind` is "task", "domain" or "class"."""

    name: str
    kind: str
    epochs: int
    per_class: int  # samples to train on; tasks are whole numbers of batches
    outputs: int = 10


SETTINGS = {
    s.name: s
    for s in (
        Setting("split digits, task", "task", 4, 64),
        Setting("split digits, domain", "domain", 4, 64, outputs=2),
        Setting("split digits, class", "class", 4, 64),
        Setting("permuted digits", "domain", 2, 64),
        Setting("rotated digits", "domain", 2, 64),
        Setting("split mnist1d, task", "task", 4, 128),
    )
}

# Of the size of split MNIST, to see times by; nothing is learned of accuracies.
LARGE = Setting("28 x 28 pixels, class", "class", 2, 6000)
TIMED = SETTINGS | {LARGE.name: LARGE}

GRID = [3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4]  # of EWC
# Methods, and the strengths to choose from, the same on both sides; none to choose: no list.
METHODS = {
    "naive": [],
    "joint": [],
    "replay": [],
    "EWC": GRID,
    "LwF": [0.3, 1.0, 3.0, 10.0],
    "DER++": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0],
    "SI": [1.0, 3.0, 10.0, 30.0],
    "DER++ at ends": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0],  # its buffer filled at the ends of tasks
    "EWC online": GRID,
    "EWC proximal": GRID,
    "EWC online proximal": GRID,
    "A-GEM": [],
}
# Ours only, to be compared with what is there.
SAME_THERE = {
    "DER++ at ends": "DER++",
    "EWC proximal": "EWC",
    "EWC online proximal": "EWC online",
}
EWC_FORMS = [method for method in METHODS if method.startswith("EWC")]
REPLAYING = ("replay", "DER++", "DER++ at ends", "A-GEM")
# Runs of each held-out seed, of which the mean counts; 1 if not given. Batches differ, and samples
# that are replayed. More where the sides go apart by more than rounding.
REPEATS = dict.fromkeys(REPLAYING, 20) | dict.fromkeys(EWC_FORMS, 10)


@dataclass
class Tasks:
    """What a file of `tasks.py` holds."""

    train: list[tuple[np.ndarray, np.ndarray]]
    test: list[tuple[np.ndarray, np.ndarray]]
    classes: list[tuple[int, ...]]
    weights: list[np.ndarray]  # initial ones: kernel and bias of each layer

    @classmethod
    def load(cls, path: Path) -> "Tasks":
        with np.load(path, allow_pickle=False) as file:
            held = dict(file)
        count = len(held["classes"])
        part = lambda name: [(held[f"{name}_x{i}"], held[f"{name}_y{i}"]) for i in range(count)]  # noqa: E731
        classes = [tuple(row) for row in held["classes"].tolist()]
        return cls(part("train"), part("test"), classes, [held[f"weight{i}"] for i in range(4)])


def batches(count: int, epochs: int, seed: int, task: int) -> list[np.ndarray]:
    """Returns, for each epoch, which samples are in which batch (rows), the same for both sides."""
    rng = np.random.default_rng([11, seed, task])
    return [rng.permutation(count).reshape(-1, BATCH) for _ in range(epochs)]


def path_of(folder: Path, setting: str, seed: int) -> Path:
    return folder / f"{setting.replace(',', '').replace(' ', '-')}-{seed}.npz"


def accuracies(weights: list[np.ndarray], tasks: Tasks, kind: str) -> list[float]:
    """Returns the accuracy on the test data of every task, computed here for both sides."""
    w0, b0, w1, b1 = (np.asarray(w, "float64") for w in weights)
    found = []
    for (x, y), classes in zip(tasks.test, tasks.classes, strict=True):
        logits = np.maximum(x @ w0 + b0, 0) @ w1 + b1
        if kind == "task":
            logits = np.where(np.isin(np.arange(logits.shape[1]), classes), logits, -np.inf)
        found.append(float(np.mean(logits.argmax(1) == y)))
    return found


class Runs:
    """Accuracies of runs that were done before, in a file with a line for each."""

    def __init__(self, path: Path):
        self._path, self._known = path, {}
        for line in path.read_text().splitlines() if path.exists() else ():
            if line.endswith("]"):  # whole
                *key, matrix = json.loads(line)
                self._known[json.dumps(key)] = matrix

    def matrix(
        self,
        trainer: Any,
        tasks: Path,
        setting: Setting,
        method: str,
        strength,
        seed: int,
        draw: int,
    ):
        """Returns the accuracy on each task (columns) after each task (rows)."""
        key = [*dataclasses.astuple(setting), method, strength, seed, draw]
        if json.dumps(key) not in self._known:
            data = Tasks.load(tasks)
            rows, _ = trainer.train(data, strength, draw, given=True)
            matrix = np.round([accuracies(row, data, setting.kind) for row in rows], 5).tolist()
            self._known[json.dumps(key)] = matrix
            with self._path.open("a") as file:
                file.write(json.dumps([*key, matrix]) + "\n")
        return self._known[json.dumps(key)]


def study(
    trainer: Any,
    setting: Setting,
    method: str,
    folder: Path,
    runs: Runs,
    tuning=TUNING,
    held_out=HELD_OUT,
    grid: list[float] | None = None,
) -> dict:
    """Chooses a strength on some seeds, and returns what it reaches on others."""

    def matrix(strength, seed, repeat=0):
        tasks = path_of(folder, setting.name, seed)
        draw = seed + 1000 * repeat
        return runs.matrix(trainer, tasks, setting, method, strength, seed, draw)

    def final(strength, seed):
        return round(statistics.fmean(matrix(strength, seed)[-1]), 5)

    grid = METHODS[method] if grid is None else grid
    tried = {strength: [final(strength, seed) for seed in tuning] for strength in grid}
    # Of equals, the weakest.
    strength = max(grid, key=lambda s: statistics.fmean(tried[s]), default=None)
    repeats = range(REPEATS.get(method, 1) if held_out != MORE else 1)
    matrices = np.array([[matrix(strength, s, repeat) for repeat in repeats] for s in held_out])
    return {
        "setting": setting.name,
        "method": method,
        "strength": strength,
        "tuning": [[s, found] for s, found in tried.items()],
        "matrices": matrices.mean(1).round(5).tolist(),
        "repeats": matrices[:, :, -1].mean(2).round(4).tolist(),
    }


def clock(trainer: Any, setting: Setting, strength: float | None, folder: Path, repeats: int):
    """Returns seconds a task, by the clock and of the processor: first run, further runs."""
    runs = []
    for seed in range(1 + repeats):
        tasks = Tasks.load(path_of(folder, setting.name, seed))
        _, taken = trainer.train(tasks, strength, seed, given=False)
        runs.append([round(statistics.fmean(part), 5) for part in zip(*taken, strict=True)])
    return {"first": runs[0], "again": runs[1:]}


def timed(function: Callable) -> tuple[float, float]:
    """Returns how long a call takes: by the clock, and of the processor."""
    clocks = time.perf_counter, time.process_time
    begin = [now() for now in clocks]
    function()
    wall, processor = (now() - then for now, then in zip(clocks, begin, strict=True))
    return wall, processor
