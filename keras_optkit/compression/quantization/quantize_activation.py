"""A place where activations are rounded."""

import warnings
from collections.abc import Sequence

import keras
from keras import ops
from keras.src.backend.common import symbolic_scope

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.compression.quantization._fake_quant import fake_quant_activation
from keras_optkit.compression.quantization._observing import calibrating, exporting


@register
class QuantizeActivation(keras.layers.Layer):
    """Rounds what passes to the values of a small integer, over a range learned from the data.

    `quantize_model` puts these layers between the others. While the model trains, the range
    `[a, b]` follows the smallest and largest value of each batch, stretched to hold 0; it is
    state of the layer, so it is saved with the model:

    ```text
    a = min(batch, 0),  b = max(batch, 0)                          in the first batch
    a = momentum a + (1 - momentum) min(batch, 0),  b likewise     after that
    output = scale (clip(round(x / scale) + zero, 0, 2^bits - 1) - zero)
    scale = (b - a) / (2^bits - 1),  zero = round(-a / scale)
    ```

    Gradients pass where `x` is in the range. A batch with values that are not finite does not
    move it. With several replicas, the batch is what all of them get together. `calibrate` finds
    a range without training.

    Args:
        bits: Bits of an activation, 2 to 8.
        momentum: Decay per batch of the moving range, in [0, 1).
        fixed_range: Pair of numbers, a range with 0 in it that nothing moves; None to learn one.
        name: Name of the layer.
        trainable: As for any layer; there is nothing to train.
        dtype: Dtype or policy of what passes; ranges are float32.

    Example:
        >>> layer = keras_optkit.compression.QuantizeActivation(fixed_range=(0.0, 1.0), bits=2)
        >>> values = layer(keras.ops.convert_to_tensor([0.2, 0.5, 3.0]))  # 1/3, 2/3, 1

    Reference:
        [Jacob et al., 2018](https://arxiv.org/abs/1712.05877), section 3.1. Theirs is a moving
        average too; that it begins with the first batch, not with [-6, 6], is of this package.
    """

    def __init__(
        self,
        bits: int = 8,
        momentum: float = 0.99,
        fixed_range: Sequence[float] | None = None,
        name: str | None = None,
        trainable: bool = True,
        dtype=None,
    ):
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        self.bits = _check.one_of("bits", bits, range(2, 9))
        self.momentum = _check.in_range("momentum", momentum, 0, 1, closed="left")
        self.fixed_range = None if fixed_range is None else _range(fixed_range)
        self.supports_masking = True
        self._ever = False

    def build(self, input_shape):
        if self.fixed_range is not None:
            return
        state = {"shape": (), "trainable": False, "autocast": False, "dtype": "float32"}
        self.minimum = self.add_weight(name="minimum", initializer="zeros", **state)
        self.maximum = self.add_weight(name="maximum", initializer="ones", **state)
        flag = state | {"dtype": "bool"}
        self.calibrated = self.add_weight(name="calibrated", initializer="zeros", **flag)
        self.observing = self.add_weight(name="observing", initializer="ones", **flag)

    def call(self, inputs, training=False, observe=True):
        if self.fixed_range is not None:
            ends = [ops.convert_to_tensor(end, "float32") for end in self.fixed_range]
        elif observe and (training or calibrating()):
            ends = self._observe(inputs)
        else:
            if not training:
                self._require_range()
            ends = [ops.convert_to_tensor(v) for v in (self.minimum, self.maximum)]
        bits = 8 if exporting() else self.bits  # LiteRT computes with no fewer
        return fake_quant_activation(inputs, *ends, bits=bits)

    def _observe(self, inputs):
        """Moves the range, and returns it."""
        values = ops.stop_gradient(ops.cast(inputs, "float32"))
        ends = ops.stack([ops.minimum(ops.min(values), 0.0), -ops.maximum(ops.max(values), 0.0)])
        ends = _backend.least_of_replicas(ends)
        low, high = ends[0], -ends[1]
        seen = ops.logical_and(ops.isfinite(low), ops.isfinite(high))
        high = ops.where(high > low, high, low + 1.0)  # All were 0.
        state = (self.minimum, self.maximum, self.calibrated)
        old_low, old_high, before = (ops.copy(ops.convert_to_tensor(v)) for v in state)
        if calibrating():
            next_low, next_high = ops.minimum(low, old_low), ops.maximum(high, old_high)
        else:
            seen = ops.logical_and(seen, ops.convert_to_tensor(self.observing))
            next_low = self.momentum * old_low + (1 - self.momentum) * low
            next_high = self.momentum * old_high + (1 - self.momentum) * high
        low = ops.where(seen, ops.where(before, next_low, low), old_low)
        high = ops.where(seen, ops.where(before, next_high, high), old_high)
        self.minimum.assign(low)
        self.maximum.assign(high)
        self.calibrated.assign(ops.logical_or(before, seen))
        if not _symbolic():
            self._ever = True
        return low, high

    def _require_range(self):
        """Refuses to round by a range that nobody has measured."""
        if self._ever or _symbolic():
            return
        calibrated = _backend.known(self.calibrated)
        if calibrated:
            self._ever = True
            return
        message = (
            f"The range of {self.name!r} has never been measured, so its output would mean "
            "nothing. Call keras_optkit.compression.calibrate(model, data), or train the model "
            f"first. {_check.received('calibrated', False)}"
        )
        if calibrated is not None:
            raise ValueError(message)
        warnings.warn(f"Perhaps: {message}", stacklevel=2)  # JAX hides it in a compiled step.

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self._ever = self.fixed_range is None and bool(_backend.known(self.calibrated))

    def compute_output_shape(self, input_shape, **kwargs):
        return input_shape

    def get_config(self):
        own = ("bits", "momentum", "fixed_range")
        return super().get_config() | {name: getattr(self, name) for name in own}


def _symbolic() -> bool:
    """Tells whether Keras runs the layer only for the shapes."""
    return symbolic_scope.in_symbolic_scope()


def _range(value) -> list[float]:
    """Returns a range as a list, the form it comes back in from a file."""
    low, high = (float(end) for end in value)
    if not low <= 0 <= high or low == high:
        raise ValueError(
            "`fixed_range` must be a pair (low, high) with low <= 0 <= high and low < high. "
            f"{_check.received('fixed_range', value)}"
        )
    return [low, high]
