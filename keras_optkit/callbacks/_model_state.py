"""The state of a model and its optimizer, saved by Keras as far as Keras saves it."""

import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.saving import saving_lib

from keras_optkit import _check

WEIGHTS = "model.weights.h5"


def describe(model: keras.Model) -> dict[str, Any]:
    """Returns what another model must share to take the state: names, shapes and dtypes."""
    optimizer = getattr(model, "optimizer", None)
    return {
        "backend": keras.backend.backend(),
        "optimizer": type(optimizer).__name__,
        "weights": _listed(model.weights),
        "optimizer variables": _listed(optimizer.variables if optimizer is not None else []),
        "seeds": _listed(_seeds(model)),
        "metrics": _listed(_metrics(model)),
    }


def check(model: keras.Model, saved: dict[str, Any], path: Path, metrics: bool) -> None:
    """Raises an error that lists the differences, if the state in `path` is of another model.

    Args:
        model: The model to set.
        saved: What `describe` has returned for the other.
        path: Where that is.
        metrics: Whether metrics matter; where an epoch begins they do not.
    """
    now, found = describe(model), []
    for key in ("backend", "optimizer"):
        if saved[key] != now[key]:
            found.append(f"{key}: {saved[key]} in the checkpoint, {now[key]} now")
    kinds = ("weights", "optimizer variables", "seeds", *(["metrics"] if metrics else []))
    for kind in kinds:
        before, after = saved[kind], now[kind]
        for one, other in zip(before, after, strict=False):
            if one[1:] != other[1:]:  # names may count the models of a process
                found.append(f"{kind}: {_shown(one)} in the checkpoint, {_shown(other)} now")
        found += [f"{kind}: {_shown(x)} only in the checkpoint" for x in before[len(after) :]]
        found += [f"{kind}: {_shown(x)} only now" for x in after[len(before) :]]
    if found:
        shown = [*found[:10], f"and {len(found) - 10} more"] if len(found) > 10 else found
        raise ValueError(
            f"The checkpoint {path} is not of this model:\n- "
            + "\n- ".join(shown)
            + "\nMake the model as it was, or let TrainingState write to another `directory`. "
            + _check.received("directory", str(path.parent))
        )


def written(model: keras.Model) -> tuple[memoryview, dict[str, list[np.ndarray]]]:
    """Returns the file of weights, and what Keras leaves out: metrics and states of Dropout."""
    # What `model.save_weights` does, but in memory: HDF5 crashes the process on a full disk.
    file = io.BytesIO()
    store = saving_lib.H5IOStore(file, mode="w")
    saving_lib._save_state(model, store, None, inner_path="", visited_saveables=set())
    store.close()
    others = {"seeds": _values(_seeds(model)), "metrics": _values(_metrics(model))}
    return file.getbuffer(), others


def read(model: keras.Model, directory: Path, others: dict[str, list[np.ndarray]]) -> None:
    """Sets what `written` has given, the file being in `directory`."""
    model.load_weights(directory / WEIGHTS)
    for variables, values in ((_seeds(model), "seeds"), (_metrics(model), "metrics")):
        for variable, value in zip(variables, others[values], strict=False):
            variable.assign(value)


def build(model: keras.Model, batch: Any) -> None:
    """Makes all variables; `batch` has the shapes of a batch, or is None if there is none."""
    if batch is not None:
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=batch)
    elif getattr(model, "optimizer", None) is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def _seeds(model: keras.Model) -> list[Any]:
    others = {id(v) for v in [*model.weights, *_metrics(model)]}
    return [v for v in model.variables if id(v) not in others]


def _metrics(model: keras.Model) -> list[Any]:
    return list(getattr(model, "metrics_variables", ()))


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def _listed(variables) -> list[list[Any]]:
    return [[v.path, list(v.shape), keras.backend.standardize_dtype(v.dtype)] for v in variables]


def _shown(one: list[Any]) -> str:
    path, shape, dtype = one
    return f"{path} {tuple(shape)} {dtype}"
