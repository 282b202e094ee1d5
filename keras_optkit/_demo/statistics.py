"""Numbers with their spread, and what they do and do not show."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# Two-sided 95 % points of Student's t, by degrees of freedom.
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def mean_std(values: Sequence[float] | np.ndarray, digits: int) -> str:
    """Returns `mean ± standard deviation`, or the value alone if there is but one."""
    values = np.asarray(values, "float64")
    if np.isnan(values).any():
        return f"not reached by {np.isnan(values).sum()} of {values.size}"
    if values.size == 1:
        return f"{values[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Returns the mean of `first - second` over seeds, and half of its 95 % interval.

    Runs of one seed share initial weights and the order of the data, so they are compared in
    pairs. The half width is infinite for a single seed and NaN if a value is.
    """
    differences = np.subtract(first, second)
    n = differences.size
    if n < 2:
        return float(differences.mean()), math.inf
    t = T_95.get(n - 1, 2.262)
    return float(differences.mean()), float(t * differences.std(ddof=1) / math.sqrt(n))


def compared(numbers: dict[str, dict[str, Any]], target: float, tested: int) -> str:
    """Returns a sentence on two optimizers that claims no more than the spread allows.

    Args:
        numbers: For each of two optimizers its `test_accuracy` and `epochs_to_target` per seed.
        target: The validation accuracy that `epochs_to_target` counts up to.
        tested: Number of test images; they limit what an accuracy can tell, too.
    """
    (ours, a), (baseline, b) = numbers.items()
    seeds = len(a["test_accuracy"])
    difference, half = interval(a["test_accuracy"], b["test_accuracy"])
    if seeds < 2:
        return f"One seed does not tell which of {ours} and {baseline} is better."
    # The same images test both, so their share of the error is that of the differing answers,
    # about as many as are wrong at all.
    wrong = 2 - np.mean(a["test_accuracy"]) - np.mean(b["test_accuracy"])
    half = math.hypot(half, 1.96 * math.sqrt(wrong / tested))
    said = f"{100 * difference:+.2f} points of test accuracy (95 % interval ± {100 * half:.2f})"
    if abs(difference) > half:
        accuracy = f"{ours if difference > 0 else baseline} is more accurate here: {said}"
    else:
        accuracy = f"{seeds} seeds do not tell {ours} and {baseline} apart: {said}"
    epochs, half = interval(a["epochs_to_target"], b["epochs_to_target"])
    half = max(half, 1.0)  # validation comes once an epoch, so less is not seen
    goal = f"{100 * target:.0f} % in validation"
    if math.isnan(epochs):
        speed = f"not every run reached {goal}"
    elif abs(epochs) > half:
        sooner = ours if epochs < 0 else baseline
        speed = f"{sooner} reaches {goal} {abs(epochs):.1f} epochs sooner"
    else:
        speed = f"epochs to {goal} differ by {epochs:+.1f} ± {half:.1f}, which may be chance"
    return f"{accuracy}; {speed}."
