"""How many channels stay, and which."""

from collections.abc import Callable

import numpy as np

from keras_optkit.compression.channels._groups import Group


def count(channels: int, ratio: float, round_to: int) -> int:
    """Returns how many of `channels` stay: the possible number closest to the exact one."""
    exact = (1 - ratio) * channels
    possible = [*range(round_to, channels, round_to), channels]
    return min(possible, key=lambda n: (abs(n - exact), -n))


def choose(
    groups: list[Group], scores: dict[str, np.ndarray], ratio: float, round_to: int
) -> dict[str, np.ndarray]:
    """Returns by group which channels stay, in order; of equals the first."""
    kept = {}
    for group in groups:
        number = count(group.public.channels, ratio, round_to)
        order = np.argsort(-scores[group.public.name], kind="stable")
        kept[group.public.name] = np.sort(order[:number])
    return kept


def smallest_ratio(cost: Callable[[float], float], target: float, steps: int) -> float:
    """Returns about the smallest ratio whose cost is no more than `target`, which 1's is."""
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high
