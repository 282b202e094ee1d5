"""What is inside of an optimizer."""

from collections.abc import Iterator

import keras


def chain(optimizer) -> Iterator:
    """Yields an optimizer and all that it holds: wrappers one, a `MultiOptimizer` several."""
    yield optimizer
    for inner in _held(optimizer):
        yield from chain(inner)


def leaves(optimizer) -> list[keras.optimizers.Optimizer]:
    """Returns the optimizers at the end of all wrappers."""
    return [inner for inner in chain(optimizer) if not _held(inner)]


def _held(optimizer) -> list:
    inner = getattr(optimizer, "inner_optimizer", None)
    return list(getattr(optimizer, "optimizers", ())) if inner is None else [inner]
