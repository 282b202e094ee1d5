"""What `Pruned` adds to an update between the turns at which it makes new masks.

    KERAS_BACKEND=jax python benchmarks/pruning_step.py

Each contestant moves the same variables by the same gradients, nothing else, in turns with the
optimizer it is compared with. A ratio is the median over the repeats of the time to that of the
bare optimizer in the same round; a second bare one shows how far equals differ. The masks are made
in the first update, and no turn comes while time is taken; the rows "a turn" have one in each.
`--report` prints the table of all results.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import keras
from optimizer_step import BACKEND, SHAPES, arrays, keras_step

from keras_optkit.compression import ConstantSparsity, Magnitude, Pruned

RESULTS = Path(__file__).parent / "results"
MODES = {"tensorflow": ["graph", "xla"], "jax": ["jit"], "torch": ["eager"]}
INNER = {
    "AdamW": lambda: keras.optimizers.AdamW(1e-4),
    "SGD with momentum": lambda: keras.optimizers.SGD(1e-4, momentum=0.9),
}


def contestants(inner) -> dict:
    """Returns makers of optimizers; the first is what the others are compared with."""
    # `include`, since the variables of the benchmark have no names.
    between, always = ConstantSparsity(0.8, 2, 10**6, 10**5), ConstantSparsity(0.8, 2, frequency=1)
    return {
        "bare": inner,
        "bare again": inner,
        "Pruned, between turns": lambda: Pruned(inner(), between, include=".*"),
        "Pruned, a turn": lambda: Pruned(inner(), always, include=".*"),
        "Pruned, global, a turn": lambda: Pruned(
            inner(), always, Magnitude("global"), include=".*"
        ),
    }


def measure(shapes, mode: str, inner, repeats: int, calls: int) -> list[dict]:
    """Returns a row for each contestant but the first."""
    values, gradients = arrays(shapes)
    steps = {}
    for name, make in contestants(inner).items():
        steps[name] = keras_step(make, values, gradients, mode)
        for _ in range(3):  # compiles, and makes the masks
            steps[name]()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            count = 1 if "a turn" in name else calls
            start = time.perf_counter()
            for _ in range(count):
                step()
            times[name].append((time.perf_counter() - start) / count)
    rows = []
    for name, series in times.items():
        ratios = [a / b for a, b in zip(series, times["bare"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        rows.append(
            {
                "optimizer": name,
                "ratio": round(statistics.median(ratios), 3),
                "quartiles": [round(low, 3), round(high, 3)],
                "fastest": round(min(series) / min(times["bare"]), 3),
                "milliseconds": round(1e3 * statistics.median(series), 3),
            }
        )
    return rows


def report(found: list[dict]) -> None:
    """Prints the table."""
    print("| backend | weights | inner | optimizer | ratio | middle half | ms |")
    print("|---|---|---|---|---|---|---|")
    for row in found:
        low, high = row["quartiles"]
        start = f"{row['backend']} {row['mode']} | {row['shapes']} | {row['inner']}"
        numbers = f"{row['ratio']:.2f} | {low:.2f} to {high:.2f} | {row['milliseconds']:.1f}"
        print(f"| {start} | {row['optimizer']} | {numbers} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--calls", type=int, default=6, help="updates of a repeat")
    parser.add_argument("--only", default="", help="part of the name of a shape set")
    parser.add_argument("--mode", default="", help="one of the modes of the backend")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if arguments.report:
        files = sorted(RESULTS.glob("pruning_step_*.json"))
        report([row for file in files for row in json.loads(file.read_text())])
        return
    found = []
    for mode in MODES[BACKEND]:
        for title, shapes in SHAPES.items():
            if arguments.only not in title or arguments.mode not in mode:
                continue
            matrices = [s for s in shapes() if len(s) > 1]
            for name, inner in INNER.items():
                rows = measure(matrices, mode, inner, arguments.repeats, arguments.calls)
                place = {"backend": BACKEND, "mode": mode, "shapes": title, "inner": name}
                found += [place | row for row in rows]
                report(found[-len(rows) :])
    path = RESULTS / f"pruning_step_{BACKEND}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
