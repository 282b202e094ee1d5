"""The channels that a tensor of a graph carries."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """Which channel each entry along one axis of a tensor belongs to.

    Args:
        axis: The axis, counted from the batch's 0.
        ids: Numbers of channels, one for each entry; a number may come twice.
    """

    axis: int
    ids: np.ndarray
