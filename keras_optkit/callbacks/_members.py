"""Members of an ensemble, on disk and in one model."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_optkit import _check


def write(directory: str, epoch: int, member: Sequence[np.ndarray]) -> None:
    """Writes a member so that its file is whole or not there."""
    os.makedirs(directory, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".tmp", dir=directory)
    try:
        with os.fdopen(handle, "wb") as file:
            # NumPy has no bfloat16, and would write such an array as bytes without a type.
            plain = [w if w.dtype.kind in "fiub" else w.astype("float32") for w in member]
            arrays: dict[str, Any] = {f"{i:05d}": w for i, w in enumerate(plain)}
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, _path(directory, epoch))
    except BaseException:
        os.unlink(temporary)
        raise


def read(directory: str, epoch: int) -> list[np.ndarray]:
    """Returns the member that was written after `epoch` epochs."""
    with np.load(_path(directory, epoch)) as file:
        return [file[name] for name in sorted(file)]


@contextlib.contextmanager
def restored(model: keras.Model) -> Iterator[None]:
    """Puts the weights of `model` back in any event."""
    own = [np.array(weight) for weight in model.get_weights()]  # copies: JAX donates
    try:
        yield
    finally:
        model.set_weights(own)


def ensemble(
    model: keras.Model, members: Sequence[Sequence[np.ndarray]], activation: Any
) -> keras.Model:
    """Returns a model whose outputs are the means of those with the weights of `members`."""
    sequential = isinstance(model, keras.Sequential)
    if not model.built or not (sequential or hasattr(model, "output_names")):
        raise ValueError(
            "`ensemble` makes copies of a functional or sequential model; `predict` works for all. "
            f"{_check.received('model', model)}"
        )
    inputs = keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name),
        model.inputs[0] if sequential else model.input,
    )
    outputs = []
    for number, weights in enumerate(members, 1):
        clone: Any = keras.models.clone_model(model)
        clone.name = f"member_{number}"
        clone.set_weights(weights)
        outputs.append(clone(inputs))
    names = iter([model.layers[-1].name] if sequential else getattr(model, "output_names", ()))

    def mean(*tensors):
        # In float32, since half precision would round away what is averaged.
        active = [layers.Activation(activation, dtype="float32")(t) for t in tensors]
        return layers.Average(dtype="float32", name=next(names))(active)

    return keras.Model(inputs, keras.tree.map_structure(mean, *outputs), name="ensemble")


def _path(directory: str, epoch: int) -> str:
    return os.path.join(directory, f"member-{epoch}.npz")
