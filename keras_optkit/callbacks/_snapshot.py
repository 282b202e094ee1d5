"""Weights, and the state of an optimizer, as they once were."""

from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_optkit import _backend
from keras_optkit.optimizers._evaluated import Evaluated
from keras_optkit.optimizers._inside import chain
from keras_optkit.optimizers._slots import read


class Snapshot:
    """A copy, on the device, of all weights of a model, and with `"all"` of its optimizer.

    Args:
        kind: What is copied.
        values: The arrays.
        evaluating: Of each averaging optimizer, whether the model held the average.
    """

    def __init__(self, kind: Literal["weights", "all"], values: list, evaluating: list[bool]):
        self.kind: Literal["weights", "all"] = kind
        self.values = values
        self.evaluating = evaluating

    @classmethod
    def of(cls, model: keras.Model, kind: Literal["weights", "all"]) -> "Snapshot":
        """Copies what `model` holds now."""
        with _backend.no_gradient():
            # Copies: JAX donates the buffers of all of these to the next step.
            values = [ops.copy(read(v)) for v in _variables(model, kind)]
        return cls(kind, values, [o._holds_evaluation_weights() for o in _averaging(model)])

    def restore(self, model: keras.Model) -> None:
        """Puts the copies back, and stays what it is.

        With the weights alone, an averaging optimizer is told which of its two sets of weights
        these are, so that nothing swaps the other one in on the way to `evaluate` or `save`.
        """
        variables = _variables(model, self.kind)
        shapes = [tuple(value.shape) for value in self.values]
        if shapes != [tuple(v.shape) for v in variables]:
            raise ValueError(
                "The best weights are of another model, or of another optimizer, than the one "
                f"that is trained: it has {len(variables)} variables, they are {len(shapes)}, or "
                "of other shapes. Load a state only into a callback of an equal model."
            )
        if self.kind == "weights":
            for optimizer, evaluating in zip(_averaging(model), self.evaluating, strict=True):
                if evaluating:
                    optimizer.use_evaluation_weights()
                else:
                    optimizer.use_training_weights()
        with _backend.no_gradient():
            _backend.assign(variables, [ops.copy(ops.convert_to_tensor(x)) for x in self.values])

    def state(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with NumPy arrays."""
        values = [_plain(ops.convert_to_numpy(value)) for value in self.values]
        return {"kind": self.kind, "values": values, "evaluating": list(self.evaluating)}


def _variables(model: keras.Model, kind: str) -> list:
    return [*model.weights, *(model.optimizer.variables if kind == "all" else ())]


def _averaging(model: keras.Model) -> list[Evaluated]:
    return [o for o in chain(getattr(model, "optimizer", None)) if isinstance(o, Evaluated)]


def _plain(array: np.ndarray) -> np.ndarray:
    """Returns `array` in memory of its own, in a dtype that NumPy's files know."""
    return np.array(array, "float32" if array.dtype.name.startswith("bfloat16") else None)
