"""Cross-entropy among the classes of a task."""

from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from keras_optkit import _check
from keras_optkit._config import Configurable
from keras_optkit._registry import register
from keras_optkit.continual.masked_logits import lowest


@register
class MaskedCrossentropy(keras.losses.Loss):
    """Trains a head for each task: only classes of the sample's own task compete.

    For task-incremental learning. Which task a sample is of follows from its label, so batches
    may mix tasks, as replay does, and the model needs no input that tells the task:

    ```text
    loss = -logits[y] + log(sum over classes c in the group of y of exp(logits[c]))
    ```

    To predict, use `masked_logits`, as `evaluate_tasks` does for tasks of that setting. `EWC` and
    `fisher_diagonal` need labels with it, which tell them the classes that a sample may be of.

    Args:
        groups: The classes of each task, such as `[task.classes for task in tasks]`. A class in
            no group competes with all.
        reduction: As of `keras.losses.Loss`.
        name: Of the loss.

    Raises:
        ValueError: If a class is in two groups, or the model has no such output.

    Example:
        >>> import numpy as np
        >>> loss = keras_optkit.continual.MaskedCrossentropy([(0, 1), (2, 3)])
        >>> head = keras.Sequential([keras.layers.Dense(4)])
        >>> head.compile("sgd", loss)
        >>> history = head.fit(x, np.arange(8) % 4)

    Reference:
        [van de Ven & Tolias, 2019](https://arxiv.org/abs/1904.07734), task-incremental learning
        with a multi-headed output layer.
    """

    def __init__(
        self,
        groups: Iterable[Iterable[int]],
        reduction: str = "sum_over_batch_size",
        name: str = "masked_crossentropy",
    ):
        super().__init__(name=name, reduction=reduction)
        self.groups = [
            [_check.integer("groups", label, low=0) for label in group] for group in groups
        ]
        labels = [label for group in self.groups for label in group]
        if len(set(labels)) < len(labels):
            raise ValueError(
                "`groups` must not have a class twice: its label would not tell the task. "
                f"{_check.received('groups', self.groups)}"
            )

    def call(self, y_true, y_pred):
        logits = ops.cast(y_pred, "float32") if _is_half(y_pred) else y_pred
        labels = ops.cast(ops.reshape(y_true, ops.shape(logits)[:-1]), "int32")
        competing = ops.take(ops.convert_to_tensor(self._rivals(logits.shape[-1])), labels, axis=0)
        logits = ops.where(competing, logits, ops.cast(lowest(logits), logits.dtype))
        return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)

    def head(self, y_true, y_pred):
        """Returns the logits that compete with these labels, in a column for each.

        There are as many columns as in the largest head, and very low logits in what is left.
        """
        rivals = self._rivals(y_pred.shape[-1])
        width = int(rivals.sum(axis=1).max())
        order = np.argsort(~rivals, axis=1, kind="stable")[:, :width].astype("int32")
        competing = np.take_along_axis(rivals, order, axis=1)
        labels = ops.cast(ops.reshape(y_true, ops.shape(y_pred)[:-1]), "int32")
        order, competing = (
            ops.take(ops.convert_to_tensor(table), labels, axis=0) for table in (order, competing)
        )
        logits = ops.take_along_axis(y_pred, order, axis=-1)
        return ops.where(competing, logits, ops.cast(lowest(logits), logits.dtype))

    def _rivals(self, outputs: int) -> np.ndarray:
        """Returns a matrix of which classes (columns) compete with which labels (rows)."""
        rivals = np.ones((outputs, outputs), bool)
        for group in self.groups:
            if max(group, default=0) >= outputs:
                raise ValueError(
                    f"`groups` must hold numbers of outputs, of which the model has {outputs}. "
                    f"{_check.received('groups', self.groups)}"
                )
            rivals[group] = np.isin(np.arange(outputs), group)
        return rivals

    __repr__ = Configurable.__repr__

    def get_config(self):
        return {"groups": self.groups, "reduction": self.reduction, "name": self.name}


def _is_half(tensor) -> bool:
    return keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16")
