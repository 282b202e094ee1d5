"""Which layers of a model are quantized, and what stands against it."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_optkit import _check, _match
from keras_optkit.compression._graph import calls, functional
from keras_optkit.compression.quantization._policy import Policy, policy
from keras_optkit.compression.quantization._wrapped import Wrapped
from keras_optkit.compression.quantization.quantize_activation import QuantizeActivation

WHAT = "quantize_model"


def operations(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Any, Policy]]:
    """Yields each operation of a graph once, with its path and policy, nested models gone into."""
    seen = set()
    for call in calls(model, WHAT):
        operation = call.operation
        if id(operation) in seen:
            continue
        seen.add(id(operation))
        found = policy(operation)
        yield f"{prefix}{operation.name}", operation, found
        if found.kind == "model":
            yield from operations(operation, f"{prefix}{operation.name}/")


def choose(model: keras.Model, exclude: Sequence[str], on_unsupported: str) -> dict[int, Policy]:
    """Returns the policy of each operation, by its `id`, after `exclude`.

    Raises:
        ValueError: For whatever cannot be quantized.
    """
    functional(model, WHAT)
    found = list(operations(model))
    _refuse_quantized(found)
    paths = [path for path, _, _ in found]
    for pattern in exclude:
        if not any(_match.matches([pattern], path) for path in paths):
            raise ValueError(
                f"The pattern {pattern!r} matches no layer. A pattern is a regular expression for "
                'a whole name: "conv" does not match "conv_1", "conv.*" does. The layers are: '
                f"{', '.join(paths)}. {_check.received('exclude', tuple(exclude))}"
            )
    excluded = Policy("refused", "excluded")
    policies = {
        id(operation): excluded if _match.matches(exclude, path) else found_policy
        for path, operation, found_policy in found
    }
    unsupported = [
        f"{path} ({type(operation).__name__}: {p.reason})"
        for path, operation, p in found
        if policies[id(operation)].kind == "refused" and policies[id(operation)] is not excluded
    ]
    if unsupported and on_unsupported == "error":
        names = [path.split(" ")[0] for path in unsupported]
        raise ValueError(
            f"These layers cannot be quantized: {'; '.join(unsupported)}. Keep them float with "
            f"exclude={names} or on_unsupported='skip'. {_check.received('model', model.name)}"
        )
    if not any(p.kind == "weights" for p in policies.values()):
        raise ValueError(
            "There is no layer with weights to quantize: such are Dense and convolutional layers. "
            f"The layers are: {', '.join(paths)}. {_check.received('exclude', tuple(exclude))}"
        )
    return policies


def _refuse_quantized(found) -> None:
    for path, operation, _ in found:
        if isinstance(operation, (Wrapped, QuantizeActivation)):
            raise ValueError(
                f"The model is quantized already, as its layer {path!r} shows. Train it, or take "
                f"strip_quantization(model) first. {_check.received('layer', operation)}"
            )
        if getattr(operation, "quantization_mode", None):
            raise ValueError(
                f"Layer {path!r} holds integers already, by Keras' own `quantize`, and those "
                "cannot be trained. Start from the float model. "
                f"{_check.received('quantization_mode', operation.quantization_mode)}"
            )
        if getattr(operation, "lora_enabled", False):
            raise ValueError(
                f"Layer {path!r} has LoRA weights beside its kernel, which are not rounded with "
                "it. Save the model, which merges them, and load the file, or build the model "
                f"anew. {_check.received('lora_enabled', True)}"
            )
