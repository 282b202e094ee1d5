"""The n-th smallest of many numbers, by counting, as sorting takes far longer."""

import keras
from keras import ops

INFINITY = 0x7F800000  # the bits of a float32


def nth_smallest(values, n, float_of):
    """Returns entry `n` of the sorted `values`, which hold no NaN.

    Floats are in order where integers of their bits are, but for the sign. So 32 halvings of the
    range between the infinities find the least float that more than `n` values do not exceed.

    Args:
        values: Tensor of any shape.
        n: Scalar int32 tensor, from 0.
        float_of: Function that returns the float32 of a scalar int32's bits.
    """
    if keras.backend.standardize_dtype(values.dtype) == "float64":
        return ops.take(ops.sort(ops.reshape(values, (-1,))), n)

    def float_at(place):
        return float_of(ops.where(place < 0, ops.bitwise_xor(place, 0x7FFFFFFF), place))

    def halve(_, ends):
        low, high = ends
        middle = ops.bitwise_and(low, high) + ops.right_shift(ops.bitwise_xor(low, high), 1)
        enough = ops.sum(ops.cast(values <= float_at(middle), "int32")) > n
        return ops.where(enough, low, middle + 1), ops.where(enough, middle, high)

    values = ops.cast(values, "float32")
    ends = (ops.convert_to_tensor(e, "int32") for e in (~INFINITY, INFINITY))
    least = float_at(ops.fori_loop(0, 32, halve, tuple(ends))[1])
    # As one of the values: the least float may be a tiny one that counts as 0.
    return ops.max(ops.where(values <= least, values, -float("inf")))
