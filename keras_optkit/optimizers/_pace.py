"""How fast single weights move, where that may change while training."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_optkit import _backend


class Pace(NamedTuple):
    """The step that a weight is at, counted from 1, and the factor of its learning rate.

    The factor is a number, and not 0, or a tensor, which may be 0: such a weight rests.
    """

    step: Any
    factor: Any = 1.0

    @property
    def rests(self) -> bool:
        """Whether the weight is known to rest, so that it need not take part."""
        return isinstance(self.factor, float) and self.factor == 0


def own_paces(factors, counts, indices: Sequence[int]) -> list[Pace]:
    """Returns a pace for each index into two vectors, of factors and of updates done."""
    factors, counts = _backend.numbers(factors), _backend.numbers(counts)
    steps: dict[int, Any] = {}  # one tensor for all weights at a step, if that is known
    paces = []
    for i in indices:
        key = counts[i] if isinstance(counts[i], int) else -1 - i
        if key not in steps:
            steps[key] = ops.cast(counts[i] + 1, "float32")
        paces.append(Pace(steps[key], factors[i]))
    return paces


def held(new: Sequence, old: Sequence, paces: Sequence[Pace]) -> list:
    """Returns `new`, but `old` for the weights that rest."""
    return [
        n if isinstance(factor, float) else ops.where(factor > 0, n, ops.cast(o, n.dtype))
        for n, o, (_, factor) in zip(new, old, paces, strict=True)
    ]
