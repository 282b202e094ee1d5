"""What `GradientMonitor` costs: CPU time of `fit`, and of the update alone.

    KERAS_BACKEND=jax python benchmarks/monitor_overhead.py

Each contestant trains in a `fit` of its own, in a thread that waits for its turn at the start of
each epoch, so the repeats of all take turns and none compiles in the middle. A ratio is the
median over the repeats of CPU time to that of the unmonitored `fit` of the same round; a second
unmonitored one shows how far equals differ. `--report` prints the table of all results.
"""

import argparse
import json
import os
import statistics
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_optkit.callbacks import GradientMonitor
from keras_optkit.callbacks._measured import Measured

BACKEND = keras.backend.backend()
RESULTS = Path(__file__).parent / "results"
L = keras.layers
EXTRAS = ("cosine", "zeros", "histogram")

# Steps of an epoch, which is a repeat; the size of a batch; the layers.
MODELS = {
    "tiny MLP, 400 weights, batch 32": (100, 32, (20,), lambda: [L.Dense(16, "relu")]),
    "MLP, 1.1M weights, batch 128": (
        40,
        128,
        (784,),
        lambda: [L.Dense(1024, "relu"), L.Dense(256, "relu")],
    ),
    "conv net, 0.1M weights, batch 64": (
        20,
        64,
        (16, 16, 3),
        lambda: [
            L.Conv2D(32, 3, activation="relu"),
            L.BatchNormalization(),
            L.Conv2D(64, 3, 2, activation="relu"),
            L.Flatten(),
            L.Dense(32, "relu"),
        ],
    ),
}
MODES = {"jax": ["jit"], "tensorflow": ["xla", "graph"], "torch": ["eager"]}
MONITORS = {
    "none": lambda: [],
    "none again": lambda: [],
    "every=10": lambda: [GradientMonitor(every=10)],
    "every=1": lambda: [GradientMonitor(every=1)],
    "every=1, all extras": lambda: [GradientMonitor(every=1, measure=EXTRAS)],
}


class Turns(keras.callbacks.Callback):
    """Waits for its turn before each epoch, and notes the CPU time until its end."""

    def __init__(self, number: int, turn: list[int], condition: threading.Condition, count: int):
        super().__init__()
        self.number, self.turn, self.condition, self.count = number, turn, condition, count
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):
        with self.condition:
            self.condition.wait_for(lambda: self.turn[0] == self.number)
        self._start = time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.process_time() - self._start)
        self._pass_on()

    def _pass_on(self):
        with self.condition:
            self.turn[0] = (self.turn[0] + 1) % self.count
            self.condition.notify_all()


def fits(name: str, mode: str, repeats: int) -> dict[str, list[float]]:
    """Returns the CPU seconds of each epoch after the first two, by monitor."""
    steps, batch, shape, layers = MODELS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps * batch, *shape)).astype("float32")
    y = rng.integers(0, 10, len(x))
    turn, condition, threads, turns = [0], threading.Condition(), [], {}
    for number, (monitor, make) in enumerate(MONITORS.items()):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input(shape), *layers(), L.Dense(10, "softmax")])
        model.compile(
            keras.optimizers.Adam(1e-4),
            "sparse_categorical_crossentropy",
            jit_compile=mode in ("jit", "xla"),
        )
        turns[monitor] = Turns(number, turn, condition, len(MONITORS))
        settings = {"epochs": repeats + 2, "batch_size": batch, "shuffle": False, "verbose": 0}
        callbacks = [*make(), turns[monitor]]  # last, to count what others do at an epoch's end
        threads.append(
            threading.Thread(
                target=model.fit, args=(x, y), kwargs=settings | {"callbacks": callbacks}
            )
        )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {monitor: t.seconds[2:] for monitor, t in turns.items()}


def updates(mode: str, repeats: int, calls: int = 20) -> dict[str, list[float]]:
    """Returns the CPU seconds of so many updates alone of the MLP by Adam."""
    shapes = [(784, 1024), (1024,), (1024, 256), (256,), (256, 10), (10,)]
    rng = np.random.default_rng(0)
    draw = lambda: [0.1 * rng.normal(size=s).astype("float32") for s in shapes]  # noqa: E731
    contestants = {
        name: stepper(mode, draw(), draw(), every)
        for name, every in {"none": 0, "none again": 0, "every=10": 10, "every=1": 1}.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 2):
        for name, run in contestants.items():
            start = time.process_time()
            run(calls)
            if repeat >= 2:
                seconds[name].append(time.process_time() - start)
    return seconds


def stepper(mode: str, values, gradients, every: int):
    """Returns a function that does so many updates and waits for them, as `fit` does them."""
    variables = [keras.Variable(v, name=f"w{i}") for i, v in enumerate(values)]
    adam = keras.optimizers.Adam(1e-4)
    adam.build(variables)
    alternates = mode != "graph"
    measured = Measured(adam, every, 1, always=alternates) if every else adam
    measured.build(variables)
    own = measured.variables[: len(measured.variables) - len(adam.variables)]
    if BACKEND == "jax":
        import jax

        def compiled(optimizer):
            return jax.jit(
                lambda state, g: optimizer.stateless_apply(state[1], g, state[0]),
                donate_argnums=0,
            )

        plain, due = compiled(adam), compiled(measured)
        gradients = [jax.numpy.asarray(g) for g in gradients]
        state = [v.value for v in variables], [v.value for v in adam.variables]
        extra = [v.value for v in own]

        def run(calls):
            nonlocal state, extra
            for call in range(calls):
                if every and call % every == 0:
                    weights, rest = due((state[0], [*extra, *state[1]]), gradients)
                    extra, state = rest[: len(own)], (weights, rest[len(own) :])
                else:
                    state = plain(state, gradients)
            jax.block_until_ready(state)

    elif BACKEND == "tensorflow":
        import tensorflow as tf

        gradients = [tf.constant(g) for g in gradients]

        def compiled(optimizer):
            return tf.function(
                lambda *g: optimizer.apply(list(g), variables), jit_compile=mode == "xla"
            )

        plain, due = compiled(adam), compiled(measured)

        def run(calls):
            for call in range(calls):
                chosen = due if every and (not alternates or call % every == 0) else plain
                chosen(*gradients)
            adam.iterations.numpy()

    else:
        import torch

        gradients = [torch.tensor(g) for g in gradients]

        @torch.no_grad()
        def run(calls):
            for call in range(calls):
                chosen = measured if every and call % every == 0 else adam
                chosen.apply(gradients, variables)

    return run


def rows(what: str, mode: str, seconds: dict[str, list[float]]) -> list[dict]:
    """Returns a line of the table for each contestant but the first."""
    base = seconds["none"]
    found = []
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, base, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        found.append(
            {
                "backend": BACKEND,
                "mode": mode,
                "what": what,
                "monitor": name,
                "milliseconds": round(1e3 * statistics.median(times), 3),
                "ratio": round(statistics.median(ratios), 3),
                "quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
                "repeats": len(times),
            }
        )
    return found[1:]


def report(found: list[dict]) -> None:
    """Prints the table."""
    print("| backend | mode | what | monitor | CPU ratio | middle half |")
    print("|---|---|---|---|---|---|")
    for row in found:
        low, high = row["quartiles"]
        start = " | ".join(row[key] for key in ("backend", "mode", "what", "monitor"))
        print(f"| {start} | {row['ratio']:.2f} | {low:.2f} to {high:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if arguments.report:
        files = sorted(RESULTS.glob("monitor_overhead_*.json"))
        report([row for file in files for row in json.loads(file.read_text())])
        return
    found, path = [], RESULTS / f"monitor_overhead_{BACKEND}.json"
    for mode in MODES[BACKEND]:
        found += rows("update alone, 1.1M weights", mode, updates(mode, arguments.repeats))
        for name in MODELS:
            path.write_text(json.dumps(found, indent=1) + "\n")
            found += rows(f"fit, {name}", mode, fits(name, mode, arguments.repeats))
    path.write_text(json.dumps(found, indent=1) + "\n")
    report(found)


if __name__ == "__main__":
    main()
