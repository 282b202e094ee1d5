"""What every way of choosing the weights to prune is."""

import dataclasses
import math
from typing import Any, Literal

from keras import ops

from keras_optkit._config import Configurable
from keras_optkit.compression.pruning._masks import kept, largest, largest_of_all

Scope = Literal["layer", "global"]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Weights to choose from: lists with one tensor for each weight, float32 or wider.

    Args:
        weights: Their values; of pruned ones what a last update has made of the zero.
        gradients: Their gradients in that update.
        scores: What `Method.score` has made, if the method has it.
        masks: Boolean tensors, true where a weight is not pruned today.
        sparsity: Share of zeros to have, a float32 scalar.
        progress: How far the schedule is, a float32 scalar from 0 to 1.
        step: Number of this step, from 1, an integer scalar.
    """

    weights: list
    gradients: list
    scores: list
    masks: list
    sparsity: Any
    progress: Any
    step: Any


class Method(Configurable):
    """Base of the ways to choose which weights are pruned: a pure function to masks.

    A subclass writes `select` with `keras.ops`, and what else it needs; it stores its
    constructor's arguments under their own names.
    """

    has_scores = False  # whether `score` is to be called for each update
    has_start = False  # whether `start` makes masks before the first update
    trains_sparse = False  # whether pruned weights get no gradient, and come back as 0

    def check(self, paths: list[str], shapes: list[tuple[int, ...]]) -> None:
        """Raises a ValueError if a weight has a shape that cannot be pruned in this way."""

    def start(self, weights: list, sparsity) -> list:
        """Returns masks for the weights that training begins with."""
        raise NotImplementedError

    def score(self, weight, gradient, score):
        """Returns the new score of a weight's entries, from those before an update."""
        raise NotImplementedError

    def select(self, candidates: Candidates) -> list:
        """Returns new masks, true where a weight stays."""
        raise NotImplementedError(
            f"{type(self).__name__} must define `select(self, candidates)` and return masks."
        )


def select_by(scores: list, sparsity, scope: Scope) -> list:
    """Returns masks that keep the entries of the largest scores."""
    if scope == "layer":
        return [largest(s, kept(math.prod(s.shape), sparsity)) for s in scores]
    scores = [ops.cast(s, "float32") for s in scores]
    return largest_of_all(scores, kept(sum(math.prod(s.shape) for s in scores), sparsity))
