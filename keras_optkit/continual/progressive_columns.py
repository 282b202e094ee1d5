"""Progressive networks."""

import os
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_optkit import _check
from keras_optkit.continual._column import WEIGHTED, Column, chain_of, columns_of, new_column


class ProgressiveColumns:
    """A network that grows by a column for each task, and forgets nothing.

    The columns of earlier tasks are frozen, so their outputs stay as they are to the last bit; the
    new one takes up their hidden features through adapters, where they help. It must be known
    which task a sample belongs to. With `h_i^k` the output of layer `i` in column `k`, `W` its
    weights, and `s` the nonlinearities,

    ```text
    h_i^k = s(W_i h_{i-1}^k + U_i s(V_i [a_1 h_{i-1}^1, ..., a_{k-1} h_{i-1}^{k-1}]))
    ```

    where the brackets join the features of all earlier columns, the numbers `a` are learned, and
    `V` makes as many features of them as enter layer `i`: a matrix, or a convolution of size 1.
    `U` is of the form of `W`. The first layer of each column sees the inputs alone.

    For each task, `for_task` gives a Functional model as any other: compile and fit the newest,
    save and export each. What is saved loads where this package is imported.

    Args:
        model: The first column: a Sequential or Functional model that is a chain of Dense and Conv
            layers with activations, pooling, normalization and dropout between. It is copied,
            weights included, and stays as it is.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not such a chain, or has no hidden layer with weights.

    Example:
        >>> model = keras.Sequential(
        ...     [
        ...         keras.layers.Input((4,)),
        ...         keras.layers.Dense(8, "relu"),
        ...         keras.layers.Dense(1),
        ...     ]
        ... )
        >>> columns = keras_optkit.continual.ProgressiveColumns(model)
        >>> first = columns.for_task(0)
        >>> first.compile("sgd", "mse")
        >>> history = first.fit(x, y)
        >>> second = columns.add_column()
        >>> second.compile("sgd", "mse")
        >>> history = second.fit(x, -y)
        >>> columns.for_task(0).predict(x, verbose=0).shape
        (8, 1)

    Reference:
        [Rusu et al., 2016](https://arxiv.org/abs/1606.04671), equation 2, with a scalar for each
        earlier column and no biases in the adapters.
    """

    def __init__(self, model: keras.Model):
        self._columns: list[Column] = []
        self._models: list[keras.Model] = []
        _check.instance("model", model, keras.Model, "a keras.Model")
        chain = chain_of(model)
        self._inputs = layers.Input(
            batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype, name="inputs"
        )
        self._append(new_column(0, chain, None), chain)

    def __len__(self) -> int:
        """How many columns there are."""
        return len(self._columns)

    def add_column(self, model: keras.Model | None = None, activation: Any = "relu") -> keras.Model:
        """Adds a column for a new task, freezes those before, and returns its model.

        Args:
            model: What the column is like: a chain with as many Dense and Conv layers as the first
                column, of any width; it is copied, weights included. None for layers like those of
                the first column, with new weights.
            activation: The nonlinearity in the adapters.

        Raises:
            TypeError: If `model` is not a Keras model.
            ValueError: If the columns do not fit. Nothing has changed then.
        """
        given = None
        if model is not None:
            given = chain_of(_check.instance("model", model, keras.Model, "a keras.Model"))
            if tuple(model.inputs[0].shape[1:]) != tuple(self._inputs.shape[1:]):
                raise ValueError(
                    f"All columns see the same inputs, of shape {tuple(self._inputs.shape[1:])}. "
                    f"Received: a model for inputs of shape {tuple(model.inputs[0].shape[1:])}"
                )
            first, new = (_kinds(chain) for chain in (self._columns[0].chain, given))
            if first != new:
                raise ValueError(
                    "A column must have Dense and Conv layers in the same order as the first, "
                    f"{first}. Received: {new}"
                )
        column = new_column(len(self), given or self._columns[0].chain, activation)
        self._append(column, given)
        for earlier in self._columns[:-1]:
            for layer in earlier.layers():
                layer.trainable = False
        return self._models[-1]

    def for_task(self, task: int) -> keras.Model:
        """Returns the model of a task, numbered from 0; the same one every time."""
        if not 0 <= _check.integer("task", task) < len(self):
            raise ValueError(
                f"`task` must be one of 0 to {len(self) - 1}, since there are {len(self)} columns. "
                f"{_check.received('task', task)}"
            )
        return self._models[task]

    def joint(self) -> keras.Model:
        """Returns a model with an output for each task, sharing all weights."""
        outputs = [self._output(column) for column in self._columns]
        return keras.Model(self._inputs, outputs, name="columns")

    def save(self, path: str | os.PathLike) -> None:
        """Writes all columns to a `.keras` file, that of `joint()`."""
        self.joint().save(path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ProgressiveColumns":
        """Returns the columns that `save` wrote; more can be added.

        Raises:
            ValueError: If the file holds another model.
        """
        joint: Any = keras.saving.load_model(path)
        found = columns_of(joint.layers)
        if not found:
            raise ValueError(f"{path} is not a file that ProgressiveColumns.save wrote.")
        columns = cls.__new__(cls)
        columns._columns, columns._models = [], []
        columns._inputs = joint.inputs[0]
        for column in found:
            columns._append(column)
        return columns

    def _append(self, column: Column, chain: list | None = None) -> None:
        """Adds a column, with the weights of `chain`, once it is known to fit."""
        output = self._output(column)
        model = keras.Model(self._inputs, output, name=f"task_{column.number}")
        if chain is not None:
            weights = [w for layer in chain for w in layer.get_weights()]
            for layer in column.chain:
                count = len(layer.weights)
                layer.set_weights([np.array(w) for w in weights[:count]])
                weights = weights[count:]
        self._columns.append(column)
        self._models.append(model)

    def _output(self, column: Column):
        """Returns the output of a column, with features of those before it."""
        earlier: list[list] = []
        for other in self._columns[: column.number]:
            earlier.append(other(self._inputs, earlier, noise=False)[1])
        return column(self._inputs, earlier, noise=True)[0]


def _kinds(chain: list) -> list[str]:
    return [type(layer).__name__ for layer in chain if isinstance(layer, WEIGHTED)]
