"""L-BFGS against Adam on a physics-informed network, and what SciPy on the host costs.

    KERAS_BACKEND=jax python benchmarks/minimize.py

The network solves -u'' = f on [0, 1] with u(0) = u(1) = 0 for u = sin(pi x) + sin(4 pi x) / 4; the
loss is the mean squared residual at fixed points. Adam sees the same points in every step, with
cosine decay, at each of several learning rates, for as many evaluations of the gradient as L-BFGS
is given, and for ten times as many. Errors are those of u, at points that the training did not see.
"""

import argparse
import itertools
import json
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
from keras import layers, ops

from keras_optkit.optimizers._descent import Descent, Point
from keras_optkit.optimizers._objective import Objective
from keras_optkit.optimizers.minimize import minimize

RESULTS = Path(__file__).parent / "results"


def solution(x):
    return np.sin(np.pi * x) + np.sin(4 * np.pi * x) / 4


def source(x):
    return np.pi**2 * (np.sin(np.pi * x) + 4 * np.sin(4 * np.pi * x))


class Poisson(keras.Model):
    """u(x) = x (1 - x) network(x), and its residual as the loss."""

    def __init__(self, width=50, depth=4):
        super().__init__()
        hidden = [layers.Dense(width, activation="tanh") for _ in range(depth)]
        self.network = keras.Sequential([keras.Input((1,)), *hidden, layers.Dense(1)])

    def call(self, x):
        return x * (1 - x) * self.network(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        def slope(x):
            return jax.jvp(self, (x,), (ops.ones_like(x),))[1]

        curvature = jax.jvp(slope, (x,), (ops.ones_like(x),))[1]
        return ops.mean(ops.square(curvature + y)) / 1000


def pinn(seed: int) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    keras.utils.set_random_seed(seed)
    x = np.linspace(0, 1, 256, dtype="float32")[:, None]
    model = Poisson()
    model(x[:1])
    return model, x, source(x).astype("float32")


def error(model) -> float:
    """Returns the largest error of u."""
    x = np.random.default_rng(1).uniform(size=(1000, 1)).astype("float32")
    return float(np.abs(model.predict(x, verbose=0) - solution(x)).max())


def adam(seed: int, steps: int, rate: float) -> dict:
    model, x, y = pinn(seed)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)))
    began = time.perf_counter()
    # All steps in one epoch: the data as often as there are steps, without a copy.
    repeated = ((x, y) for _ in range(steps))
    model.fit(repeated, steps_per_epoch=steps, epochs=1, verbose=0)
    seconds = time.perf_counter() - began
    loss = float(model.compute_loss(x, y))
    row = {"method": f"Adam, learning rate {rate:g}", "evaluations": steps, "seconds": seconds}
    return row | {"loss": loss, "error": error(model)}


def ours(seed: int, method: str, evaluations: int) -> dict:
    model, x, y = pinn(seed)
    stop = lambda result: result.evaluations >= evaluations  # noqa: E731
    result = minimize(
        model, x, y, method, max_iterations=10**6, tolerance=0, callback=stop, verbose=0
    )
    row = {"method": f"minimize, {method}", "evaluations": result.evaluations}
    row |= {"seconds": result.seconds, "loss": result.loss, "error": error(model)}
    return row | {"message": result.message}


def overhead(name: str, model, x, y) -> list[dict]:
    """Returns what an iteration costs, in evaluations of the gradient."""
    objective = Objective(model, x, y, None, None, None, False)
    start = objective.start()
    objective(start, start)
    times = []
    for _ in range(9):
        began = time.perf_counter()
        objective(start, start)
        times.append(time.perf_counter() - began)
    once, rows = float(np.median(times)), []
    loss, gradient, _, norm = objective(start, start)
    for method in ("lbfgs", "cg"):
        marks: list = []

        def mark(descent, marks=marks):
            marks.append((time.perf_counter(), descent.evaluations))

        point = Point(start, loss, gradient, norm, loss)
        Descent(objective, point, 0, 30, np.inf, mark).run(method, 10)
        rest = [t - s - (b - a) * once for (s, a), (t, b) in itertools.pairwise(marks)]
        row = {"problem": name, "weights": int(ops.size(start)), "method": method}
        rest = float(np.median(rest))
        row |= {"evaluation_ms": 1e3 * once, "rest_ms": 1e3 * rest, "share": rest / once}
        rows.append(row)
    return rows


def mlp(width: int, samples: int):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(samples, 64)).astype("float32")
    hidden = [layers.Dense(width, activation="tanh") for _ in range(3)]
    model = keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(1)])
    model.compile(loss="mse")
    return model, x, np.sin(x.sum(1, keepdims=True))


def table(rows: list[dict], columns: list[str]) -> str:
    def shown(value):
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(shown(r.get(c, "")) for c in columns) + " |" for r in rows]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", choices=["fit", "overhead"])
    arguments = parser.parse_args()
    report: dict = {"keras": keras.__version__, "jax": jax.__version__, "fit": [], "overhead": []}
    if arguments.only != "overhead":
        for seed in range(arguments.seeds):
            n = arguments.evaluations
            runs = [ours(seed, "lbfgs", n), ours(seed, "lbfgs", 3 * n)]
            runs += [ours(seed, "cg", n), ours(seed, "gd", n)]
            runs += [adam(seed, k * n, rate) for k in (1, 10) for rate in (1e-3, 3e-3, 1e-2)]
            report["fit"] += [{"seed": seed} | run for run in runs]
        columns = ["seed", "method", "evaluations", "seconds", "loss", "error"]
        print(table(report["fit"], columns), flush=True)
    if arguments.only != "fit":
        report["overhead"] = overhead("PINN 4x50, 256 points", *pinn(0))
        for width, samples in ((200, 1000), (650, 1000)):
            name = f"MLP 3x{width}, {samples} samples"
            report["overhead"] += overhead(name, *mlp(width, samples))
        columns = ["problem", "weights", "method", "evaluation_ms", "rest_ms", "share"]
        print(table(report["overhead"], columns))
    if not arguments.only:
        (RESULTS / "minimize_jax.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
