"""State in fewer bits: what is kept, how it is rounded, and that training does not mind."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_optkit import optimizers
from keras_optkit.optimizers._encoding import BLOCK, Blockwise, Rounded, dynamic_shares, key_of
from keras_optkit.testing._models import data, fit, network

RNG = np.random.default_rng(0)


def as_numpy(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def mixed(x):
    """The finalizer `lowbias32`, in arithmetic modulo 2^32."""
    x = np.asarray(x, "uint32")
    with np.errstate(over="ignore"):
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def key(step, index, slot):
    with np.errstate(over="ignore"):
        number = np.uint32(((16 * index + slot + 1) * 0x9E3779B9) % 2**32)
        return mixed(mixed(np.uint32(step)) + number)


def rounded(value, key):
    """Between two multiples of 2^16 in the bits, the upper one as often as it is near."""
    bits = np.asarray(value, "float32").view("uint32")
    with np.errstate(over="ignore"):
        draws = mixed(np.arange(bits.size, dtype="uint32") + key).reshape(bits.shape) % 2**16
    upper = bits % 2**16 + draws >= 2**16
    return ((bits // 2**16 + upper) * 2**16).astype("uint32").view("float32")


def blockwise(value, signed):
    """Codes and scales, by looking at the distance to each share."""
    shares = dynamic_shares(signed)
    flat = np.zeros(-(-value.size // BLOCK) * BLOCK, "float32")
    flat[: value.size] = value.ravel()
    blocks = flat.reshape(-1, BLOCK)
    scales = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)[:, 0]
    near = blocks / np.where(scales, scales, 1)[:, None]
    codes = np.abs(near[..., None] - shares).argmin(-1)
    if not signed:
        codes = np.where(near > 0, np.maximum(codes, 1), codes)
    return codes.ravel()[: value.size].reshape(value.shape), scales


def unblockwise(codes, scales, signed):
    shares = dynamic_shares(signed)[codes.ravel()]
    return (shares * np.repeat(scales, BLOCK)[: codes.size]).reshape(codes.shape)


def encode(encoding, value, step=1, index=0, slot=0):
    step = ops.convert_to_tensor(step, "int32")
    return encoding.encoded(ops.convert_to_tensor(value), lambda: key_of(step, index, slot))


@pytest.mark.parametrize("step", [1, 2, 12345])
def test_bfloat16_is_rounded_bit_for_bit_as_written_down(step):
    value = (RNG.normal(size=(37, 5)) * 10.0 ** RNG.integers(-30, 30, (37, 5))).astype("float32")
    (kept,) = encode(Rounded(), value, step, 7, 1)
    assert keras.backend.standardize_dtype(kept.dtype) == "bfloat16"
    np.testing.assert_array_equal(
        as_numpy(ops.cast(kept, "float32")), rounded(value, key(step, 7, 1))
    )
    special = np.array([[0.0, -0.0, np.inf, -np.inf, 1.5]], "float32")
    np.testing.assert_array_equal(
        as_numpy(ops.cast(encode(Rounded(), special)[0], "float32")), special
    )
    hidden = np.array([0x7FFFFFFF, 0x7F800001], "uint32").view("float32")  # NaN that might carry
    assert np.isnan(as_numpy(ops.cast(encode(Rounded(), hidden)[0], "float32"))).all()


def test_rounding_by_chance_is_right_on_the_mean():
    low, unit = 1.0, 2.0**-7
    for share in (0.1, 0.5, 0.93):
        value = np.full((500, 400), low + share * unit, "float32")
        up = [as_numpy(ops.cast(encode(Rounded(), value, t)[0], "float32")) > low for t in (1, 2)]
        bound = 5 * np.sqrt(share * (1 - share) / value.size)
        for draws in up:
            assert abs(draws.mean() - share) < bound
        # Entries, and steps, know nothing of each other.
        one, two = ((draws - share) / np.sqrt(share * (1 - share)) for draws in up)
        for other in (two, np.roll(one, 1, 1), np.roll(one, 1, 0)):
            assert abs((one * other).mean()) < 5 / np.sqrt(value.size)


def test_a_mean_that_moves_by_little_still_arrives():
    value, encoding = np.full((64, 64), 1.0, "float32"), Rounded()
    kept = encode(encoding, value)[0]
    for step in range(1, 301):
        mean = 0.999 * as_numpy(ops.cast(kept, "float32")) + 0.001 * 2.0
        (kept,) = encode(encoding, mean.astype("float32"), step)
    found = as_numpy(ops.cast(kept, "float32")).mean()
    np.testing.assert_allclose(found, 2 - 0.999**300, rtol=2e-3)  # the nearest would be 1 for ever


@pytest.mark.parametrize("signed", [True, False])
def test_blocks_are_encoded_as_written_down(signed):
    value = (RNG.normal(size=(29, 31)) * 10.0 ** RNG.uniform(-5, 0, (29, 31))).astype("float32")
    value[:9] = 0  # a block without anything
    value[20, 0] = -9  # one whose largest entry is negative
    value = value if signed else np.square(value)
    encoding = Blockwise(signed)
    codes, scales = encode(encoding, value)
    expected, largest = blockwise(value, signed)
    np.testing.assert_array_equal(as_numpy(scales), largest)
    assert (as_numpy(codes) == expected).mean() > 0.999  # the middle between two shares is either's
    decoded = as_numpy(encoding.decoded([codes, scales], ops.convert_to_tensor(value)))
    np.testing.assert_allclose(decoded, unblockwise(as_numpy(codes), largest, signed), rtol=1e-6)
    again = encode(encoding, decoded)
    np.testing.assert_array_equal(as_numpy(again[0]), as_numpy(codes))
    np.testing.assert_array_equal(as_numpy(again[1]), largest)
    # In the decade below the largest of a block, by half a cell of it.
    largest = np.abs(largest)
    share = np.abs(value) / np.repeat(largest, BLOCK)[: value.size].reshape(value.shape).clip(1e-30)
    cells = 64 if signed else 128
    top = (share > 0.1) & (share < 1)
    assert np.abs(decoded - value)[top].max() <= 0.5001 * 0.9 / cells * largest.max()
    if not signed:
        assert (decoded[value > 0] > 0).all()


def test_shares():
    for signed in (True, False):
        shares = dynamic_shares(signed)
        assert len(set(shares.tolist())) == 256 and {0.0, 1.0} <= set(shares.tolist())
        assert (shares.min() < -0.99) == signed
        assert np.abs(shares[shares != 0]).min() < 1e-6


class Adam(optimizers.Optimizer):
    slots = ("momentum", "velocity")

    def direction(self, gradient, weight, step, slots):
        momentum = 0.9 * slots[0] + 0.1 * gradient
        velocity = 0.99 * slots[1] + 0.01 * ops.square(gradient)
        return momentum / (ops.sqrt(velocity) + 1e-6), (momentum, velocity)


@pytest.mark.parametrize("kept", ["bfloat16", "int8"])
def test_rules_compute_on_what_is_kept(kept):
    weight, bias = (RNG.normal(size=s).astype("float32") for s in ((40, 30), (30,)))
    variables = [keras.Variable(bias, name="bias"), keras.Variable(weight, name="weight")]
    optimizer = Adam(0.01, state_dtype=kept)
    optimizer.build(variables)
    moments = [np.zeros_like(weight), np.zeros_like(weight)]
    for step in range(1, 9):
        gradients = [RNG.normal(size=v.shape).astype("float32") for v in variables]
        optimizer.apply([ops.convert_to_tensor(g) for g in gradients], variables)
        gradient = gradients[1].astype("float64")
        new = [0.9 * moments[0] + 0.1 * gradient, 0.99 * moments[1] + 0.01 * gradient**2]
        weight = weight - 0.01 * new[0] / (np.sqrt(new[1]) + 1e-6)
        new = [moment.astype("float32") for moment in new]
        if kept == "bfloat16":
            moments = [rounded(m, key(step - 1, 1, slot)) for slot, m in enumerate(new)]
        else:
            moments = [
                unblockwise(*blockwise(m, slot == 0), slot == 0) for slot, m in enumerate(new)
            ]
        # Where float32 and float64 fall on two sides, one entry in thousands, they part a little.
        off = np.abs(variables[1].numpy() - weight)
        assert np.median(off) < 1e-6 and off.max() < 1e-3 and (off > 1e-5).mean() < 0.01, step


def test_memory():
    """Weights of two axes keep a half or a quarter of the bytes, vectors keep all."""
    weights = [keras.Variable(np.ones(s, "float32")) for s in ((64, 64), (64,))]
    sizes = {}
    for kept in (None, "bfloat16", "int8"):
        optimizer = optimizers.RAdam(state_dtype=kept)
        optimizer.build(weights)
        slots = [v for slots in optimizer._slots for slot in slots for v in slot]
        item = {"float32": 4, "bfloat16": 2, "uint8": 1}
        sizes[kept] = [
            np.prod(v.shape) * item[keras.backend.standardize_dtype(v.dtype)] for v in slots
        ]
    assert sizes[None] == [16384] * 2 + [256] * 2
    assert sizes["bfloat16"] == [8192] * 2 + [256] * 2
    assert sizes["int8"] == [4096, 64] * 2 + [256] * 2


def test_a_weight_that_rests_keeps_its_state():
    for kept in ("bfloat16", "int8"):
        model = fit(network(), optimizers.RAdam(0.01, state_dtype=kept))
        optimizer = model.optimizer
        with pytest.raises(ValueError, match="`paces` must hold a factor for each weight"):
            optimizer.set_paces([1.0])
        with pytest.raises(ValueError, match=r"`paces\[1\]` must be at least 0"):
            optimizer.set_paces([0.0, -1.0, 1.0, 1.0])
        optimizer.set_paces([0.0, 1.0, 1.0, 1.0])
        before = [as_numpy(ops.cast(v, "float32")) for slot in optimizer._slots[0] for v in slot]
        x, y = data()
        with_paces = keras.Sequential(model.layers)
        with_paces.compile(optimizer, "mse", jit_compile=False)
        fit(with_paces, data=(x, y))
        after = [as_numpy(ops.cast(v, "float32")) for slot in optimizer._slots[0] for v in slot]
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(new, old, err_msg=kept)


def test_what_does_not_work_is_said():
    with pytest.raises(ValueError, match="`state_dtype` must be one of"):
        optimizers.RAdam(state_dtype="float16")
    optimizer = optimizers.ScheduleFreeSGD(0.1, state_dtype="bfloat16")
    with pytest.raises(ValueError, match="`state_dtype` must be None for ScheduleFreeSGD"):
        optimizer.build([keras.Variable(np.ones((2, 2), "float32"))])
    with pytest.raises(ValueError, match="`inner_momentum` must be"):
        inner = optimizers.RAdam(state_dtype="int8")
        wrapper = optimizers.Lookahead(inner, inner_momentum="pullback")
        wrapper.build([keras.Variable(np.ones((2, 2), "float32"))])
