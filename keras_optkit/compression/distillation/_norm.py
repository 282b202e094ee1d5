"""The length of vectors."""

from keras import ops


def norm(vectors):
    """Returns the norms over the last axis; the gradient at 0 is 0."""
    return ops.sqrt(ops.maximum(ops.sum(ops.square(vectors), axis=-1), 1e-24))
