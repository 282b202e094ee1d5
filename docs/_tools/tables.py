"""Tables of what was measured, in Markdown, for pages that show a part of it.

Those of `benchmarks/README.md` and `QUALITY.md` are what the benchmarks' `--report` makes of the
files in `benchmarks/results`; a test holds the ones against the others.
"""

import json
import re
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NONE = "\N{EN DASH}"
MODES = {  # column: file, mode
    "JAX": ("jax", "jit"),
    "TensorFlow, XLA": ("tensorflow", "xla"),
    "TensorFlow, graph": ("tensorflow", "graph"),
    "torch": ("torch", "eager"),
}


def section(page: str, heading: str, number: int = 0) -> list[list[str]]:
    """Returns the cells of a table of a page, by the heading above it."""
    text = (BENCHMARKS / page).read_text()
    match = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#+ |\Z)", text, re.S | re.M)
    tables = re.findall(r"(?:^\|.*\n)+", match[1], re.M)
    rows = [line.strip().strip("|").split("|") for line in tables[number].splitlines()]
    return [[cell.strip() for cell in row] for row in rows]


def columns(rows: list[list[str]], *names: str) -> list[list[str]]:
    """Returns some of the columns of a table."""
    places = [rows[0].index(name) for name in names]
    return [[row[i] for i in places] for row in rows]


def markdown(rows: list[list[str]]) -> str:
    """Returns a table as Markdown; its second row is the line."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def costs(shapes: str = "10M MLP") -> dict[str, dict[str, float]]:
    """Returns what an update costs, as a ratio to Keras' AdamW, by optimizer and mode."""
    found: dict[str, dict[str, float]] = {}
    for column, (backend, mode) in MODES.items():
        file = BENCHMARKS / "results" / f"optimizer_step_{backend}.json"
        for row in json.loads(file.read_text()):
            if row["shapes"] == shapes and row["mode"] == mode:
                found.setdefault(row["optimizer"], {})[column] = row["ratio"]
    return found


def update_cost() -> str:
    """Returns the costs of those optimizers that all backends have."""
    rows = [["update", *MODES], ["---"] * (1 + len(MODES))]
    for name, ratios in costs().items():
        if len(ratios) == len(MODES):
            rows.append([name, *(f"{ratios[mode]:.2f}" for mode in MODES)])
    return markdown(rows)


def quality() -> str:
    """Returns the summary of how well the rules train."""
    wanted = ("optimizer", "better / even / worse", "target reached", "speed-up, steps")
    return markdown(columns(section("QUALITY.md", "Results"), *wanted, "time a step"))


def large_batch() -> str:
    """Returns what they reach with a batch of 1024."""
    rows = section("QUALITY.md", "digits CNN, batch 1024")
    wanted = ("optimizer", "best, mean ± deviation", "than AdamW", "steps to target", "reached")
    return markdown(columns(rows, *wanted))


def beside(other: str) -> str:
    """Returns the README's table beside Keras and TF-MOT, of what one of them has."""
    text = (BENCHMARKS.parent / "README.md").read_text()
    table = re.search(r"^\| \| Keras 3.*\n(?:\|.*\n)+", text, re.M)[0].strip()
    table = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", table)  # the site does not have the tests
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    kept = columns(rows, "", other, "here", "shown by")
    return markdown([row for row in kept if row[1] != NONE])


TABLES = {
    "beside Keras": lambda: beside("Keras 3.15"),
    "beside TF-MOT": lambda: beside("TF-MOT 0.8"),
    "update cost": update_cost,
    "quality": quality,
    "large batch": large_batch,
    "pruning step": lambda: markdown(section("README.md", "What pruning costs")),
    "channels": lambda: markdown(section("README.md", "prune_channels")),
    "quantization": lambda: markdown(section("README.md", "quantize_model")),
    "crashes": lambda: markdown(section("README.md", "TrainingState")),
    "monitor": lambda: markdown(section("README.md", "GradientMonitor")),
    "buffer": lambda: markdown(section("README.md", "ReplayBuffer")),
}

if __name__ == "__main__":
    for name, table in TABLES.items():
        print(f"\n## {name}\n\n{table()}")
