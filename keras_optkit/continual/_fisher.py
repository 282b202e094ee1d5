"""The Fisher information of a model, compiled once for all tasks."""

from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_optkit import _processes
from keras_optkit.continual._likelihoods import likelihood
from keras_optkit.continual._per_sample import PerSample
from keras_optkit.optimizers._objective import _as_loss

LABELS = ("exact", "sampled", "empirical")


class Fisher:
    """The diagonal of the Fisher information, for one model, loss and kind of labels.

    Args:
        model: The model to differentiate.
        labels: One of `LABELS`.
        compiled: The model that was compiled with the loss, or the loss itself.
    """

    def __init__(self, model: keras.Model, labels: str, compiled: Any):
        self.model, self.labels = model, labels
        self._known: Any = None
        of_model = isinstance(compiled, keras.Model)
        self._loss: Any = _twin(compiled) if of_model else _as_loss(compiled)
        if labels != "empirical":
            self._known = likelihood(compiled.loss if of_model else compiled)
        self._gradients: PerSample | None = None

    def __call__(
        self, x: Any, y: Any, n_samples: int | None, batch_size: int, seed: int, verbose: int
    ) -> list[np.ndarray]:
        """Returns one float64 array for each trainable variable."""
        place, processes = _processes.place(self.model)
        seeds = [seed, place] if place else [seed]  # of each process other random numbers
        x, y = chosen(as_arrays(x), as_arrays(y), n_samples, seeds, processes)
        count, rng = len(tree.flatten(x)[0]), np.random.default_rng([seed, 1, *seeds[1:]])
        if self._gradients is None:
            # The first time it makes outputs only, to count their entries and build the loss.
            self._gradients = PerSample(self.model, self._scalar, ops.square)
        gradients = self._gradients
        outputs = gradients.outputs(x)
        needs_labels = self._known is None or self._known.head is not None
        if needs_labels and y is None:
            raise ValueError(
                "`y` must be given for MaskedCrossentropy: labels tell which classes compete. "
                "Received: y=None"
            )
        arrays = {"y": y} if needs_labels else {}
        if self._known is None:
            _check_one_number(self._loss(_first(y), outputs))
        else:
            if len(tree.flatten(outputs)) > 1:
                raise ValueError(
                    "Exact and sampled labels are for models with one output; for others use "
                    f'labels="empirical". Received: labels={self.labels!r}, and a model with '
                    f"{len(tree.flatten(outputs))} outputs"
                )
            first = {name: _first(array) for name, array in arrays.items()}
            shape = tuple(self._seen(outputs, first).shape[1:])
            if self.labels == "exact":
                gradients.repeats = self._known.terms(shape)
            else:
                arrays["noise"] = self._known.noise(shape, count, rng)
        bar = keras.utils.Progbar(count, unit_name="sample")
        told = bar.update if verbose and not place else lambda done: None
        result = gradients.mean(x, arrays, batch_size, told)
        if not all(np.isfinite(array).all() for array in result):
            raise ValueError(
                "The gradients of every sample must be finite; look at the data, and for `sqrt`, "
                "`norm` or `log` of what can be 0. Received: squared gradients that are not finite"
            )
        return result

    def _scalar(self, outputs, arrays, r):
        if self._known is None:
            return self._loss(arrays["y"], outputs)
        outputs = self._seen(outputs, arrays)
        if self.labels == "exact":
            return self._known.term(outputs, r)
        return self._known.drawn(outputs, arrays["noise"])

    def _seen(self, outputs, arrays):
        """Returns the outputs that the likelihood is of."""
        outputs, head = tree.flatten(outputs)[0], self._known.head
        return outputs if head is None else head(arrays["y"], outputs)


def _twin(model: keras.Model):
    """Returns the compiled loss anew, so that the one of the model is not built here."""
    loss = model._compile_loss
    return type(loss)(loss._user_loss, loss._user_loss_weights, output_names=loss.output_names)


def _check_one_number(loss) -> None:
    if tuple(ops.shape(loss)) != ():
        raise ValueError(
            "The loss must be one number for one sample; use another `reduction`. Received: a "
            f"loss of shape {tuple(ops.shape(loss))}"
        )


def _first(arrays):
    return tree.map_structure(lambda array: ops.convert_to_tensor(array[:1]), arrays)


def as_arrays(data: Any) -> Any:
    """Returns NumPy arrays, those of numbers in Keras' precision."""
    return None if data is None else tree.map_structure(_array, data)


def chosen(
    x: Any, y: Any, n_samples: int | None, seeds: list[int], processes: int
) -> tuple[Any, Any]:
    """Returns rows, in their order: `n_samples` from all processes, or all if there are no more."""
    count = len(tree.flatten(x)[0])
    n_samples = count if n_samples is None else max(1, n_samples // processes)
    if n_samples >= count:
        return x, y
    rows = np.sort(np.random.default_rng(seeds).choice(count, n_samples, replace=False))
    x = tree.map_structure(lambda leaf: leaf[rows], x)
    return x, None if y is None else tree.map_structure(lambda leaf: leaf[rows], y)


def _array(leaf):
    array = np.asarray(ops.convert_to_numpy(leaf))
    return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array
