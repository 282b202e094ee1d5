"""What the stages share: the plan of the runs, what they have found, and what they return."""

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """Size of the runs.

    Args:
        seeds: Runs per optimizer; each seed sets the initial weights and the order of the data.
        epochs: Passes over the training part.
        batch_size: Images per update; 64 makes 12 updates an epoch, two cycles of Lookahead.
        every: Updates from one measurement of the gradients to the next.
    """

    seeds: int = 3
    epochs: int = 24
    batch_size: int = 64
    every: int = 6


QUICK = Plan(seeds=1, epochs=4)


@dataclasses.dataclass
class Context:
    """What a stage may use.

    Args:
        out: Directory for files.
        plan: Size of the runs.
        digits: The data, a `Digits`.
        runs: For each optimizer its `Run`s, one per seed; the first stage fills it.
        outcomes: What the stages so far have returned, by name of the stage.
    """

    out: Path
    plan: Plan
    digits: Any
    runs: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    outcomes: dict[str, "Outcome"] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a stage has to say.

    Args:
        columns: Heads of its part of the table.
        rows: Its part of the table, a cell for each column.
        numbers: The same for programs, as plain data; goes into `results.json`.
        conclusion: A closing sentence, true of the numbers.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    numbers: dict[str, Any]
    conclusion: str
