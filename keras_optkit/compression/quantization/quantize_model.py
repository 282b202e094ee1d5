"""Quantization-aware training of a model."""

from collections.abc import Sequence
from typing import Literal

import keras

from keras_optkit import _check
from keras_optkit.compression._models import keras_model, warn_of_steps
from keras_optkit.compression.quantization._choice import choose
from keras_optkit.compression.quantization._rebuild import Settings, rebuild


def quantize_model(
    model: keras.Model,
    scheme: str = "int8",
    weight_bits: int = 8,
    activation_bits: int = 8,
    per_channel: bool | Literal["auto"] = "auto",
    exclude: str | Sequence[str] | None = None,
    preserve: str | None = None,
    on_unsupported: str = "error",
) -> keras.Model:
    """Makes a model that trains as it will run in integers: quantization-aware training.

    The new model has the same graph and weights, with its kernels rounded as they are used and
    its activations rounded after each input and each operation that LiteRT runs as one:
    convolution, depthwise convolution or Dense with BatchNormalization and ReLU, addition with
    ReLU. Compile it, train it for a few epochs at a small learning rate, on any backend, and it
    learns to bear the rounding. It saves and loads like any model. `calibrate` measures ranges
    without training, `quantization_report` tells what is rounded, `strip_quantization` gives
    back a plain model. Its float part runs in the dtype policy of each layer.

    Fewer than 8 bits are simulated. A LiteRT file stores weights of 2 to 4 bits in 4, those of 3 a
    little moved, and others in 8; it rounds activations to 8 bits over the ranges found here.

    Args:
        model: A built Functional or Sequential model of Keras 3. It is not changed.
        scheme: `"int8"`: symmetric weights, asymmetric activations, as LiteRT has them.
        weight_bits: Bits of a weight, 2 to 8.
        activation_bits: Bits of an activation, 2 to 8.
        per_channel: Whether each output channel of a kernel has a scale of its own, which takes up
            to 24 bytes of a file. `"auto"` has it so, but for Dense layers of 8-bit weights, which
            lose nothing by a single scale. Before a BatchNormalization Dense has many anyway.
        exclude: Patterns for names of layers to keep float, such as `"head"` or `"block_1_.*"`;
            for a layer in a nested model, `"backbone/conv"`.
        preserve: `"zeros"` to keep zeros of pruned kernels at 0 while training; None to let them
            move. Rounding itself leaves a 0 at 0.
        on_unsupported: `"error"` to refuse layers that have no int8 form, all named at once;
            `"skip"` to keep them float.

    Returns:
        A Functional model, not compiled.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If it is not built, has no graph, is quantized already, has LoRA weights, has
            layers that are not supported, or `exclude` matches none of its layers.

    Example:
        >>> quantized = keras_optkit.compression.quantize_model(model)
        >>> quantized.compile("sgd", "mse")
        >>> history = quantized.fit(x, y)

    Reference:
        [Jacob et al., 2018](https://arxiv.org/abs/1712.05877), section 3. Differences to TF-MOT's
        `quantize_model`: Dense layers may have a scale for each channel too, and ranges begin
        with the first batch.
    """
    keras_model(model, "quantize_model")
    _check.one_of("scheme", scheme, ("int8",))
    _check.one_of("on_unsupported", on_unsupported, ("error", "skip"))
    settings = Settings(
        weight_bits=_check.one_of("weight_bits", weight_bits, range(2, 9)),
        activation_bits=_check.one_of("activation_bits", activation_bits, range(2, 9)),
        per_channel=_check.one_of("per_channel", per_channel, ("auto", True, False)),
        preserve=_check.one_of("preserve", preserve, (None, "zeros")),
    )
    patterns = _check.patterns("exclude", exclude)
    policies = choose(model, patterns, on_unsupported)
    warn_of_steps(model, "quantize_model")
    return rebuild(model, policies, settings)
