"""The length and the direction of vectors."""

from keras import ops

TINY = 1e-24  # a squared length, below which a vector counts as 0


def norm(vectors):
    """Returns the norms over the last axis; the gradient at 0 is 0."""
    return ops.sqrt(ops.maximum(ops.sum(ops.square(vectors), axis=-1), TINY))


def unit(vectors):
    """Returns the vectors over the last axis with length 1; 0 stays 0, with a gradient of 0."""
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    long = squares > TINY
    return ops.where(long, vectors / ops.sqrt(ops.where(long, squares, 1.0)), 0.0)
