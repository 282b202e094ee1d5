"""Which weights begin to train when."""

from collections.abc import Mapping
from typing import Any

from keras_optkit import _check, _match
from keras_optkit.optimizers import Group

Stage = str | tuple[str, ...] | Group


def as_stages(name: str, value: Any) -> dict[int, Stage]:
    """Returns `value`, checked, in the order of its epochs."""
    _check.instance(name, value, Mapping, "a dict from epochs to patterns of weight paths")
    if not value:
        raise ValueError(f"`{name}` must hold at least one epoch. {_check.received(name, value)}")
    # A config that was JSON has the epochs as strings.
    epochs = {int(e) if isinstance(e, str) and e.isdecimal() else e: s for e, s in value.items()}
    stages = {
        _check.integer(f"a key of {name}", epoch, low=0): _stage(f"{name}[{epoch}]", stage)
        for epoch, stage in epochs.items()
    }
    return dict(sorted(stages.items()))


def start_of(stages: Mapping[int, Stage], path: str) -> tuple[int | None, float]:
    """Returns the epoch in which the weight at `path` begins to train, and its pace."""
    for epoch, stage in stages.items():
        if _match.matches(patterns_of(stage), path):
            return epoch, stage.lr_multiplier if isinstance(stage, Group) else 1.0
    return None, 1.0


def patterns_of(stage: Stage) -> tuple[str, ...]:
    """Returns the patterns of a stage, which are never a function."""
    patterns: Any = stage.pattern if isinstance(stage, Group) else stage
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _stage(name: str, stage: Any) -> Stage:
    if not isinstance(stage, Group):
        patterns = _check.patterns(name, stage)
        if not patterns:
            raise ValueError(f"`{name}` must name at least one. {_check.received(name, stage)}")
        return stage if isinstance(stage, str) else patterns
    if callable(stage.pattern) or stage.frozen or stage.weight_decay is not None:
        raise ValueError(
            f"`{name}` may be a Group with patterns and an `lr_multiplier`, no more. Give the "
            f"optimizer the rest as `groups`. {_check.received(name, stage)}"
        )
    if stage.lr_multiplier == 0:
        raise ValueError(
            f"`{name}` must have an `lr_multiplier` greater than 0, or it would never train. "
            f"{_check.received(name, stage)}"
        )
    return stage
