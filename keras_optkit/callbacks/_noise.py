"""The gradient noise scale, from gradients measured one after the other."""

import math

import numpy as np


def noise_scale(norms: np.ndarray, cosines: np.ndarray) -> float:
    """Returns the noise scale in units of the batch, NaN without a pair of gradients.

    Args:
        norms: Gradient norms, measurements times layers.
        cosines: Cosines with the measurement before, of the same shape; NaN where there is none.
    """
    before = np.concatenate([np.full_like(norms[:1], np.nan), norms[:-1]])
    zero = (norms == 0) | (before == 0)  # which has no cosine, but a product
    known = (np.isfinite(cosines) | zero) & np.isfinite(before) & np.isfinite(norms)
    if not known.any():
        return math.nan
    products = np.where(known & ~zero, cosines * norms * before, 0).sum()
    squares = np.where(known, (norms**2 + before**2) / 2, 0).sum()
    return float((squares - products) / products) if products > 0 else math.inf
