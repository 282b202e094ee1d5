"""Which weights of a model can be pruned."""

import math
from collections.abc import Sequence

from keras_optkit import _match

NAMES = ("kernel", "recurrent_kernel", "pointwise_kernel", "embeddings")


def prunable(variables: Sequence, include: Sequence[str], exclude: Sequence[str]) -> list[int]:
    """Returns the indices of the weights to prune.

    Raises:
        ValueError: If there is none.
    """
    paths = [_match.path(v) for v in variables]
    for patterns in (include, exclude):
        _match.warn_unmatched("Pruned", patterns, paths)
    found = [
        i
        for i, (path, variable) in enumerate(zip(paths, variables, strict=True))
        if (_match.matches(include, path) if include else _usual(path, variable))
        and not _match.matches(exclude, path)
        and variable.shape
        and math.prod(variable.shape)
    ]
    if not found:
        raise ValueError(
            "There is no weight to prune. `include` and `exclude` are patterns for whole segments "
            f"of paths; without them kernels and embeddings are pruned. Received: include="
            f"{tuple(include)}, exclude={tuple(exclude)}, and weights {', '.join(paths)}"
        )
    return found


def _usual(path: str, variable) -> bool:
    *_, layer, name = ("", *path.split("/"))
    return len(variable.shape) > 1 and name.split(":")[0] in NAMES and "depthwise" not in layer
