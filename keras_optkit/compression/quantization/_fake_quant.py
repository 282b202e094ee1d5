"""Fake quantization: floats rounded to what an integer can hold.

With a range `[a, b]` that holds 0 and integers from `low` to `high`:

```text
scale = (b - a) / (high - low)        zero = round(low - a / scale)
q(x) = scale (clip(round(x / scale) + zero, low, high) - zero)
```

The gradient of `q` is 1 in the range and 0 outside (straight through).
[Jacob et al., 2018](https://arxiv.org/abs/1712.05877), equations 1 and 12, section 3.1.
"""

import keras
from keras import ops

# Rounding of the scale must not leave the largest weight outside, where its gradient is 0.
_SLACK = 1 + 1e-6


def fake_quant_activation(x, minimum, maximum, bits: int):
    """Returns `x` rounded to `2^bits` values from `minimum` to `maximum`, moved so 0 is one."""
    fake_quant = keras.quantizers.fake_quant_with_min_max_vars
    return ops.cast(fake_quant(ops.cast(x, "float32"), minimum, maximum, num_bits=bits), x.dtype)


def fake_quant_weight(
    kernel, bits: int, per_channel: bool = True, depthwise: bool = False, whole: bool = False
):
    """Returns a kernel rounded to `2^bits - 1` values around 0, in float32.

    Args:
        kernel: A tensor whose last axis is that of output channels.
        bits: Bits of a weight.
        per_channel: Whether each channel has a range of its own; else all have the widest one.
        depthwise: Whether the last two axes together are that of output channels.
        whole: Whether to have one range, and not one, perhaps the same, for each channel. This
            is for kernels with their channels elsewhere, of which LiteRT takes one range only.
    """
    fake_quant = keras.quantizers.fake_quant_with_min_max_vars
    kernel = ops.cast(kernel, "float32")
    if whole:
        limit = _limit(ops.max(ops.abs(kernel)))
        return fake_quant(kernel, -limit, limit, num_bits=bits, narrow_range=True)
    shape = tuple(kernel.shape)
    if depthwise:  # Depthwise kernels of LiteRT have one axis for both.
        kernel = ops.reshape(kernel, (*shape[:-2], shape[-2] * shape[-1]))
    axes = tuple(range(len(kernel.shape) - 1))
    limit = ops.max(ops.abs(kernel), axis=axes)
    if not per_channel:
        limit = ops.broadcast_to(ops.max(limit), limit.shape)
    limit = _limit(limit)
    rounded = fake_quant(kernel, -limit, limit, num_bits=bits, narrow_range=True, axis=-1)
    return ops.reshape(rounded, shape)


def _limit(largest):
    """Returns the end of a range; a channel of zeros gets [-1, 1], in which they stay zeros."""
    largest = ops.stop_gradient(largest) * _SLACK
    return ops.where(largest > 0, largest, ops.ones_like(largest))
