"""The penalty `sum F (w - a)^2`, and what can be done with several of them."""

import numpy as np
from keras import ops


def total(weights: list, anchors: list, importances: list):
    """Returns `sum F (w - a)^2` over all lists."""
    parts = [
        ops.sum(f * ops.square(ops.cast(w, f.dtype) - a))
        for w, a, f in zip(weights, anchors, importances, strict=True)
    ]
    return sum(parts[1:], parts[0])


def joined(importance, anchor, new_importance, new_anchor) -> tuple:
    """Returns importance and anchor of one penalty that is the sum of two, and what it lacks.

    ```text
    F (w - a)^2 + G (w - b)^2 = (F + G)(w - (F a + G b) / (F + G))^2 + F G / (F + G) (a - b)^2
    ```
    """
    both = importance + new_importance
    weight = np.divide(new_importance, both, out=np.ones_like(both), where=both > 0)
    difference = new_anchor - anchor
    return (
        both,
        anchor + weight * difference,
        float(np.sum(importance * weight * difference**2)),
    )


def pulled(weight, pairs: list):
    """Returns where `weight` is after an exact proximal step of several penalties.

    That is what minimizes `|v - w|^2 / 2 + sum k (v - a)^2 / 2`; never past the anchors, however
    large `k` is.

    Args:
        weight: The weight `w`.
        pairs: Strengths `k` and anchors `a`.
    """
    strength = sum(k for k, _ in pairs)
    # Sums of products could overflow, but shares cannot.
    strength = ops.minimum(strength, LARGE)
    mean = weight
    if len(pairs) == 1:
        mean = pairs[0][1]
    else:
        safe = ops.maximum(strength, 1 / LARGE)
        mean = sum(ops.minimum(k, LARGE) / safe * (a - weight) for k, a in pairs) + weight
    return weight + (mean - weight) * (strength / (1 + strength))


LARGE = 1e30
