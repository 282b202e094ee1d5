"""TF-MOT's pruning of a Keras 3 model."""

import math
import warnings
from typing import Any

import keras
import numpy as np

from keras_optkit import _check
from keras_optkit.compression.pruning.block import rows_and_columns
from keras_optkit.compression.pruning.prune_low_magnitude import zeros_of_group
from keras_optkit.compression.tfmot._imports import tfmot
from keras_optkit.compression.tfmot._training import (
    Fit,
    check_call,
    nothing_to_do,
    train,
    wrap,
    wrapped_layers,
)
from keras_optkit.compression.tfmot.from_tf_keras import from_tf_keras
from keras_optkit.compression.tfmot.to_tf_keras import to_tf_keras

OPTIONS = (
    *("pruning_schedule", "block_size", "block_pooling_type", "pruning_policy"),
    "sparsity_m_by_n",
)


def prune(model: keras.Model, fit: Fit, **tfmot_kwargs: Any) -> keras.Model:
    """Prunes a Keras 3 model with TF-MOT's `prune_low_magnitude`.

    Makes a tf_keras model of the same weights, has TF-MOT wrap the layers that it can prune,
    calls `fit` on that, takes the wrappers off and returns a plain Keras 3 model with the zeros.
    `keras_optkit.compression.Pruned` does the same without tf_keras and on every layer; this is
    for recipes that must be TF-MOT's own.

    Args:
        model: A built Functional or Sequential model. It stays as it is.
        fit: A function of the wrapped tf_keras model that compiles and trains it, with losses and
            optimizers of tf_keras. TF-MOT's callback `UpdatePruningStep` is added for you.
        **tfmot_kwargs: Arguments of `tfmot.sparsity.keras.prune_low_magnitude`, such as
            `pruning_schedule`, `block_size` or `sparsity_m_by_n`. The schedule may be a
            `PolynomialSparsity` or `ConstantSparsity` of keras_optkit too; without one, half
            of the weights go at step 100, TF-MOT's default.

    Returns:
        A copy of `model`, not compiled, with the pruned weights.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the model cannot be translated, or holds nothing that TF-MOT can prune, or
            kernels that are no matrices with a `block_size`.
        ImportError: If TF-MOT is missing.

    Example:
        ```python
        def fit(m):
            m.compile("adam", "mse")
            m.fit(x, y, epochs=5)

        schedule = keras_optkit.compression.PolynomialSparsity(0.0, 0.8, 0, 1000)
        pruned = keras_optkit.compression.tfmot.prune(model, fit, pruning_schedule=schedule)
        ```

    Reference:
        [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878).
    """
    check_call(model, fit, "tfmot.prune")
    for name in tfmot_kwargs:
        _check.one_of("argument of tfmot.prune", name, OPTIONS)
    library = tfmot().sparsity.keras
    options = _checked(tfmot_kwargs)
    policy = options.pop("pruning_policy", None)  # which TF-MOT heeds for whole models only
    from tensorflow_model_optimization.python.core.sparsity.keras import (
        prune_registry,
        pruning_wrapper,
    )

    in_blocks = math.prod(options.get("block_size", ())) != 1
    refused: list[str] = []

    def wrapper(layer):
        registry = prune_registry.PruneRegistry
        # An empty list stands for a layer that is known and has nothing to prune.
        prunable = registry.supports(layer) and registry._LAYERS_WEIGHTS_MAP.get(type(layer)) != []
        if not prunable or (policy and not policy.allow_pruning(layer)):
            return layer
        if in_blocks and any(len(w.shape) > 2 for w in layer.trainable_weights):
            refused.append(f"{type(layer).__name__} {layer.name!r}")
            return layer
        return library.prune_low_magnitude(layer, **options)

    translated = to_tf_keras(model)
    if policy:
        policy.ensure_model_supports_pruning(translated)
    wrapped = wrap(translated, wrapper)
    if refused:
        raise ValueError(
            f"`block_size` is for matrices, and these layers have other kernels: "
            f"{', '.join(refused)}. Leave them out by a `pruning_policy`, or use "
            "keras_optkit.compression.Pruned with method=Block(...) and `exclude`. "
            f"{_check.received('block_size', options['block_size'])}"
        )
    layers = wrapped_layers(wrapped, pruning_wrapper.PruneLowMagnitude)
    if not layers:
        raise nothing_to_do("tfmot.prune", model)
    train(fit, wrapped, "tfmot.prune", (library.UpdatePruningStep(),))
    for layer in layers:  # TF-MOT does so at the ends of epochs, and `fit` may stop before one
        layer.pruning_obj.weight_mask_op()
    if all(np.all(mask.numpy() == 1) for layer in layers for _, mask, _ in layer.pruning_vars):
        warnings.warn(
            "tfmot.prune has pruned nothing: no step at which the schedule chooses weights came, "
            f"or its sparsity was 0 there. Steps taken: {layers[0].pruning_step.numpy()}. TF-MOT "
            "counts them from 1 and chooses where (step - begin_step) % frequency is 0, by "
            "default at step 100 for the first time. Train longer, or pass a `pruning_schedule`.",
            stacklevel=2,
        )
    return from_tf_keras(library.strip_pruning(wrapped), like=model)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of TF-MOT without those that are None, its own default."""
    options = {name: value for name, value in options.items() if value is not None}
    if "pruning_schedule" in options:
        options["pruning_schedule"] = _tfmot_schedule(options["pruning_schedule"])
    if "block_size" in options:
        options["block_size"] = rows_and_columns("block_size", options["block_size"])
    if "block_pooling_type" in options:
        _check.one_of("block_pooling_type", options["block_pooling_type"], ("AVG", "MAX"))
    if "sparsity_m_by_n" in options:
        zeros_of_group(options["sparsity_m_by_n"])
    return options


def _tfmot_schedule(schedule: Any) -> Any:
    """Returns TF-MOT's schedule for one of ours, which have its names of arguments."""
    ours = {"ConstantSparsity": "ConstantSparsity", "PolynomialSparsity": "PolynomialDecay"}
    if isinstance(schedule, tfmot().sparsity.keras.PruningSchedule):
        return schedule
    if type(schedule).__name__ not in ours or isinstance(schedule, type):
        raise TypeError(
            "`pruning_schedule` must be a sparsity schedule of TF-MOT or of keras_optkit, such as "
            f"ConstantSparsity(0.5, 0). {_check.received('pruning_schedule', schedule)}"
        )
    kind = getattr(tfmot().sparsity.keras, ours[type(schedule).__name__])
    return kind(**schedule.get_config())
