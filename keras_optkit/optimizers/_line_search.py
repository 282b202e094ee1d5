"""A line search for the strong Wolfe conditions, on plain numbers."""

import math
from collections.abc import Callable
from typing import NamedTuple


class Trial(NamedTuple):
    """A step length, with the loss there and its slope along the line."""

    step: float
    loss: float
    slope: float


def line_search(
    at: Callable[[float], tuple[float, float]],
    start: Trial,
    step: float,
    c_1: float,
    c_2: float,
    trials: int = 20,
) -> tuple[Trial, bool]:
    """Returns a trial, and whether it meets the strong Wolfe conditions.

    Nocedal & Wright (2006), algorithms 3.5 and 3.6 as one loop, since both keep `low`, the best
    trial that falls enough, and differ only in whether there is a `high` on its other side yet. If
    the trials run out, `low` has to do, which may be the start.

    Args:
        at: The loss and its slope at a step length.
        start: The trial at step length 0.
        step: First step length to try.
        c_1: Share of the start's slope that the loss must fall by on average.
        c_2: Share of the start's slope that may be left.
        trials: Number of evaluations at most.
    """
    before, low, high = start, start, None
    for _ in range(trials):
        trial = Trial(step, *at(step))
        if trial.loss > start.loss + c_1 * step * start.slope or trial.loss >= low.loss:
            high = trial
        elif abs(trial.slope) <= c_2 * abs(start.slope):
            return trial, True
        else:
            direction = 1.0 if high is None else high.step - low.step
            if trial.slope * direction >= 0:
                high = low
            before, low = low, trial
        if high is None:
            # Further on, to where a cubic has its minimum, but at least twice as far.
            wanted = _cubic_minimum(before, low)
            step = min(max(wanted, 2 * low.step), 10 * low.step)
        else:
            width = high.step - low.step
            if abs(width) <= 1e-12 * max(abs(high.step), abs(low.step)):
                break
            wanted = (_cubic_minimum(low, high) - low.step) / width
            step = low.step + min(max(wanted, 0.1), 0.9) * width
    return low, False


def _cubic_minimum(a: Trial, b: Trial) -> float:
    """Returns where the cubic through two trials is least (equation 3.59), or the far end."""
    width = b.step - a.step
    if width == 0:
        return b.step
    d_1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.step - b.step)
    d_2 = math.copysign(math.sqrt(max(d_1 * d_1 - a.slope * b.slope, 0.0)), width)
    below = b.slope - a.slope + 2 * d_2
    found = b.step - width * (b.slope + d_2 - d_1) / below if below else math.nan
    return found if math.isfinite(found) else (a.step + b.step) / 2
