"""What the demo prints, and the numbers it leaves behind."""

import csv
import json
import math
from importlib import metadata

import keras

from keras_optkit import __version__
from keras_optkit._demo import plots
from keras_optkit._demo.plan import Context
from keras_optkit._demo.training import OPTIMIZERS


def announce(context: Context) -> None:
    """Prints what will be done, on what."""
    plan, digits = context.plan, context.digits
    seeds = "1 seed" if plan.seeds == 1 else f"{plan.seeds} seeds"
    print(
        f"keras_optkit {__version__}, Keras {keras.__version__} on {keras.backend.backend()}\n"
        f"Handwritten digits: {len(digits.train[0])} to train, {len(digits.validation[0])} to "
        f"validate, {len(digits.test[0])} to test; {plan.epochs} epochs, {seeds}",
        flush=True,
    )


def conclude(context: Context, seconds: float) -> None:
    """Prints the table and the conclusions, and writes plots, JSON and CSV."""
    write_json(context, seconds)
    write_history(context)
    pictures = plots.draw(context)
    print("\n" + "\n".join(table(context)) + "\n")
    for outcome in context.outcomes.values():
        print(f"- {outcome.conclusion}")
    names = [path.name for path in pictures]
    names += ["diagnosis.png", "compression.png", "forgetting.png"]
    files = [*names, "results.json", "history.csv"]
    print(f"\n{seconds:.0f} seconds. In {context.out}: {', '.join(files)}")


def table(context: Context) -> list[str]:
    """Returns the lines of one table, a section for each stage."""
    sections = [[outcome.columns, *outcome.rows] for outcome in context.outcomes.values()]
    first = max(len(row[0]) for section in sections for row in section)
    lines, width = [], 0
    for section in sections:
        widths = [max(map(len, column)) for column in zip(*section, strict=True)]
        widths[0] = first
        cells = [
            "   ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in section
        ]
        lines.append(cells)
        width = max(width, *map(len, cells))
    rule = "-" * width
    return [rule, *(line for head, *rows in lines for line in (head, rule, *rows, rule))]


def write_json(context: Context, seconds: float) -> None:
    """Writes `results.json`: versions, plan, and the numbers of every stage."""
    results = {
        "backend": keras.backend.backend(),
        "versions": {"keras_optkit": __version__, "keras": metadata.version("keras")},
        "plan": vars(context.plan),
        "seconds": seconds,
        "stages": {name: outcome.numbers for name, outcome in context.outcomes.items()},
    }
    text = json.dumps(without_nan(results), indent=2, ensure_ascii=False)
    (context.out / "results.json").write_text(text + "\n", encoding="utf-8")


def without_nan(value):
    """Returns plain data with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_history(context: Context) -> None:
    """Writes `history.csv`: a line per optimizer, seed and epoch."""
    columns = ("loss", "accuracy", "val_loss", "val_accuracy", "gradient_norm")
    with (context.out / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("optimizer", "seed", "epoch", *columns))
        for name in OPTIMIZERS:
            for seed, run in enumerate(context.runs[name]):
                for epoch in range(context.plan.epochs):
                    values = (f"{run.history[column][epoch]:.6g}" for column in columns)
                    writer.writerow((name, seed, epoch + 1, *values))
