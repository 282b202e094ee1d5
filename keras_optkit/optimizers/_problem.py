"""Whether a model and data make a problem that a line search can solve."""

import math

import keras
from keras import tree

from keras_optkit import _check
from keras_optkit.optimizers._precision import HALF, half_layers


def check_model(model, loss) -> None:
    """Refuses a model that has nothing to minimize, or that the methods cannot."""
    check_loss(model, loss)
    low = [v.path for v in model.trainable_variables if v.dtype in HALF]
    low += [layer.name for layer in half_layers(model)]
    if low:
        raise ValueError(
            "A line search needs the digits of float32; half precision has three. Make the model "
            'under `keras.config.set_dtype_policy("float32")` and copy its weights. Received: '
            f"half precision in {', '.join(low[:8])}"
        )
    bound = [v.path for v in model.trainable_variables if v.constraint is not None]
    if bound:
        raise ValueError(
            "The methods of `minimize` know no constraints; remove them, or train with `fit`. "
            f"Received: constraints on {', '.join(bound[:8])}"
        )


def check_loss(model, loss, purpose: str = "to minimize") -> None:
    """Refuses a model without weights to train, or without a loss."""
    _check.instance("model", model, keras.Model, "a keras.Model")
    if not model.built:
        raise ValueError(
            "`model` must be built; call it once, as in `model(x[:1])`, or give it an Input. "
            f"Received: model={model.name!r}, which has no weights yet"
        )
    if not model.trainable_variables:
        raise ValueError(
            "`model` must have trainable weights; set `trainable = True` on a layer. "
            f"Received: model={model.name!r}, with none"
        )
    own = type(model).compute_loss is not keras.Model.compute_loss
    if loss is None and not own and getattr(model, "loss", None) is None:
        raise ValueError(
            f"There is no loss {purpose}: call `model.compile(loss=...)` or give `loss`. "
            f"Received: loss=None, and model={model.name!r} without a compiled loss"
        )
    if isinstance(loss, (list, tuple, dict)):
        raise TypeError(
            "`loss` must be one loss; for several outputs use `model.compile(loss=[...])`. "
            f"{_check.received('loss', loss)}"
        )


def check_data(x, y, sample_weight) -> None:
    """Refuses what is not arrays of one number of samples."""
    lengths = {}
    for name, value in {"x": x, "y": y, "sample_weight": sample_weight}.items():
        for path, leaf in tree.flatten_with_path(value):
            shape = getattr(leaf, "shape", None)
            label = "/".join(map(str, (name, *path)))
            if leaf is None and name != "x":
                continue
            if shape is None or len(shape) == 0:
                raise TypeError(
                    f"`{name}` must be an array, or a list or dict of arrays, whose first axis "
                    "counts samples; turn a dataset or a generator into arrays first. "
                    f"Received: {label} of type {type(leaf).__name__}"
                )
            lengths[label] = int(shape[0])
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(
            "`x`, `y` and `sample_weight` must have the same number of samples, at least 1. "
            f"Received: {', '.join(f'{n} for {label}' for label, n in lengths.items())}"
        )


def check_start(objective, loss: float, sums: float, again: float) -> None:
    """Refuses a start that is not finite, or where the loss is another each time."""
    if not math.isfinite(loss + sums):
        raise ValueError(
            "The loss and its gradient must be finite at the start; look at the data and the "
            "initial weights, which are as before. Received: a loss of "
            + (
                f"{loss}"
                if not math.isfinite(loss)
                else f"{loss}, and a gradient that is not finite"
            )
        )
    if objective.random or abs(loss - again) > 1e3 * objective.epsilon * abs(loss):
        # In training, torch's own dropout leaves no trace in a seed.
        names = seeded_layers(objective.model) if objective.training else objective.random
        raise ValueError(
            "The loss must be the same each time, but "
            f"{', '.join(names) or 'something in the model or its loss'} draws random numbers. "
            "Use `training=False`, or take the randomness out. Received: "
            f"training={objective.training}, and losses {loss} and {again} at the same weights"
        )


def seeded_layers(model, seeds=None) -> list[str]:
    """Returns the names of the layers with seed generators, or with those of given states."""
    found = []
    for layer in model._flatten_layers():
        states = [
            generator.state
            for value in vars(layer).values()
            for generator in (value if isinstance(value, (list, tuple)) else [value])
            if isinstance(generator, keras.random.SeedGenerator)
        ]
        if seeds is not None:
            states = [s for s in states if any(s is v for v in seeds)]
        if states and layer.name not in found:
            found.append(layer.name)
    return found
