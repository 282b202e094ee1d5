"""How slots are kept: as rules compute with them, or in fewer bits."""

import math

import numpy as np
from keras import ops

from keras_optkit.optimizers._slots import add_slot, working_dtype

BLOCK = 256  # entries that share a scale
SPREAD = 0x9E3779B9  # from number to number far apart, modulo 2^32


class Plain:
    """Keeps the value itself."""

    def add(self, optimizer, variable, name: str, shape) -> tuple:
        """Returns new variables of `optimizer`, for a slot of `variable`."""
        return (add_slot(optimizer, variable, name, shape),)

    def decoded(self, tensors: list, like):
        """Returns what the values of those variables stand for, in the precision of `like`."""
        return tensors[0]

    def encoded(self, value, key) -> tuple:
        """Returns new values of those variables; `key` is a function that makes a seed."""
        return (value,)


class Rounded(Plain):
    """Keeps 16 bits of 32, rounded up or down by chance, so that the mean is right.

    The nearest one would not do: steps of less than half a unit in the last place, such as
    `1 - beta_2` times anything, would change nothing for ever.
    """

    def add(self, optimizer, variable, name, shape):
        return (add_slot(optimizer, variable, name, shape, "bfloat16"),)

    def decoded(self, tensors, like):
        return ops.cast(tensors[0], working_dtype(like))

    def encoded(self, value, key):
        value = ops.cast(value, "float32")
        # Of sign and magnitude: what carries into the upper half lifts the magnitude.
        lifted = ops.view(value, "int32") + ops.bitwise_and(noise(value.shape, key()), 0xFFFF)
        rounded = ops.view(ops.bitwise_and(lifted, -0x10000), "float32")
        return (ops.cast(ops.where(ops.isfinite(value), rounded, value), "bfloat16"),)


class Blockwise(Plain):
    """Keeps 8 bits for each entry, and the largest entry of each block.

    A code stands for a share of the largest. The shares are dense near 1 and reach down over
    seven decades, since the squared gradients of a block differ by as much; evenly spaced ones
    would make most of them 0. The largest is exact, so that a block rises and falls freely: of the
    paper's shares 1 is one but -1 is not, and the sign of the scale makes up for that.
    """

    def __init__(self, signed: bool):
        self.shares = dynamic_shares(signed)
        self._between = ((self.shares[:-1] + self.shares[1:]) / 2).astype("float32")
        self._signed = signed

    def add(self, optimizer, variable, name, shape):
        codes = add_slot(optimizer, variable, f"{name}_codes", shape, "uint8", self._zero())
        count = -(-math.prod(variable.shape) // BLOCK)
        return codes, add_slot(optimizer, variable, f"{name}_scales", (count,), "float32")

    def decoded(self, tensors, like):
        codes, scales = tensors
        shares = ops.take(ops.convert_to_tensor(self.shares), ops.cast(_blocks(codes), "int32"))
        value = _unblocked(shares * scales[:, None], codes.shape)
        return ops.cast(value, working_dtype(like))

    def encoded(self, value, key):
        blocks = _blocks(ops.cast(value, "float32"))
        high, low = ops.max(blocks, axis=1), ops.min(blocks, axis=1)
        scales = ops.where(high >= -low, high, low)
        shares = blocks / ops.where(scales == 0, 1.0, scales)[:, None]
        codes = ops.searchsorted(ops.convert_to_tensor(self._between), ops.reshape(shares, (-1,)))
        codes = ops.reshape(codes, shares.shape)
        if not self._signed:  # never 0, by which others divide
            codes = ops.where(shares > 0, ops.maximum(codes, 1), codes)
        return ops.cast(_unblocked(codes, value.shape), "uint8"), scales

    def _zero(self) -> int:
        return int(np.searchsorted(self.shares, 0.0))


def dynamic_shares(signed: bool) -> np.ndarray:
    """Returns the 256 numbers that codes stand for: 0, 1, and more of them in larger decades.

    In the decade below `10^-j`, the middles of `2^(6-j)` equal parts, of each sign; of twice as
    many if there is one sign only.
    """
    shares = [0.0, 1.0]
    for decade in range(7):
        parts = 2 ** (decade + (not signed))
        edges = np.linspace(0.1, 1, parts + 1) * 10.0 ** (decade - 6)
        middles = (edges[:-1] + edges[1:]) / 2
        shares += [*middles, *(-middles if signed else [])]
    return np.array(sorted(shares), "float32")


def noise(shape, key):
    """Returns 32 random bits for each entry, the same ones on every backend and any devices.

    A hash of the entry's number and of `key`, an int32 scalar.
    """
    entries = ops.reshape(ops.arange(math.prod(shape), dtype="int32"), shape)
    return _mixed(entries + key)


def key_of(step, index: int, slot: int):
    """Returns a seed for a slot of the weight number `index`; `step` is an int32 scalar."""
    return _mixed(_mixed(step) + _signed((16 * index + slot + 1) * SPREAD))


def _mixed(x):
    """Returns int32 bits of which each depends on all of those of `x`."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ops.bitwise_xor(x, _shifted(x, shift)) * _signed(factor)
    return ops.bitwise_xor(x, _shifted(x, 16))


def _shifted(x, places: int):
    """Returns `x` shifted to the right, with zeros from the left."""
    return ops.bitwise_and(ops.right_shift(x, places), 2 ** (32 - places) - 1)


def _signed(number: int) -> int:
    """Returns the int32 of the same lower 32 bits."""
    return (number + 2**31) % 2**32 - 2**31


def _blocks(tensor):
    """Returns a matrix with a block in each row, filled up by zeros."""
    flat = ops.reshape(tensor, (-1,))
    rest = -flat.shape[0] % BLOCK
    return ops.reshape(ops.pad(flat, (0, rest)) if rest else flat, (-1, BLOCK))


def _unblocked(blocks, shape):
    return ops.reshape(ops.reshape(blocks, (-1,))[: math.prod(shape)], shape)


PLAIN = Plain()
ENCODINGS = {
    None: {},
    "bfloat16": {"means": Rounded(), "squares": Rounded()},
    "int8": {"means": Blockwise(signed=True), "squares": Blockwise(signed=False)},
}
