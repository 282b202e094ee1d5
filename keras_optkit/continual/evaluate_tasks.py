"""Accuracy on every task."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_optkit import _check
from keras_optkit.continual import _nested
from keras_optkit.continual._labels import labels_of
from keras_optkit.continual.masked_logits import masked_logits
from keras_optkit.continual.task import Task


def evaluate_tasks(
    model: keras.Model,
    tasks: Sequence[Task],
    rows: Any = None,
    *,
    score: Callable[[Any, Any], float] | None = None,
    batch_size: int = 256,
) -> np.ndarray:
    """Tests a model on every task, and adds a row to the accuracy matrix.

    Called after each task, it makes the matrix `R` of Lopez-Paz and Ranzato, where `R[i, j]` is
    the accuracy on task `j` after learning task `i`, both from 0 on:

    ```python
    R = None
    for x, y in tasks:
        learner.fit(x, y)
        learner.consolidate(x, y)
        R = evaluate_tasks(learner, tasks, R)
    print(accuracy(R), forgetting(R))
    ```

    Called once, after the last task, it returns one row, which is enough for `accuracy(R)`.
    A sample is classified by the largest output: of the task's own `classes` if its setting is
    `"task"`, otherwise of all. Outputs that are NaN count as wrong.

    Args:
        model: A model with one output for each class.
        tasks: A list of `Task`s with test data.
        rows: The matrix so far, or None.
        score: Takes targets and outputs of a task, and returns a number to have in place of the
            accuracy; for models whose output is something else.
        batch_size: Samples in a batch. The last one is filled up, so that nothing is compiled for
            it alone.

    Returns:
        `rows` with a row more, of shape `(rows, tasks)`.

    Raises:
        TypeError: If a task is no `Task`.
        ValueError: If a task has no test data, `rows` is of other tasks, or outputs are not one
            for each class.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(8) % 2
        >>> tasks = keras_optkit.continual.permuted_tasks(x, labels, 3, test=(x, labels))
        >>> classifier = keras.Sequential([keras.layers.Dense(2)])
        >>> R = keras_optkit.continual.evaluate_tasks(classifier, tasks)
        >>> R = keras_optkit.continual.evaluate_tasks(classifier, tasks, R)
        >>> R.shape
        (2, 3)

    Reference:
        [Lopez-Paz & Ranzato, 2017](https://arxiv.org/abs/1706.08840), section 2.
    """
    size = _check.integer("batch_size", batch_size, low=1)
    before = np.empty((0, len(tasks))) if rows is None else np.atleast_2d(np.asarray(rows, float))
    if before.ndim != 2 or before.shape[1] != len(tasks):
        raise ValueError(
            f"`rows` must have one column for each of the {len(tasks)} tasks. "
            f"Received: rows.shape={before.shape}"
        )
    for task in tasks:
        _check.instance("tasks", task, Task, "a list of Task(name, (x, y), test=(x_test, y_test))")
    row = [_score(model, task, score, size) for task in tasks]
    return np.vstack([before, row])


def _score(model: Any, task: Task, score: Callable | None, batch_size: int) -> float:
    if task.test is None:
        raise ValueError(
            f"Task {task.name!r} has no test data. Give some to the function that makes the "
            "tasks, such as split_tasks(x, y, test=(x_test, y_test))."
        )
    x, y = task.test
    _, arrays, names = _nested.flatten({"x": x, "y": y})
    count = _nested.rows(arrays, names)
    if not count:
        raise ValueError(f"The test data of task {task.name!r} hold no sample.")
    whole = np.arange(-(-count // batch_size) * batch_size) % count
    outputs = model.predict(_nested.take(x, whole), batch_size=batch_size, verbose=0)
    outputs = keras.tree.map_structure(lambda part: np.asarray(part)[:count], outputs)
    return float(score(y, outputs) if score else _accuracy(y, outputs, task))


def _accuracy(y: Any, outputs: Any, task: Task) -> float:
    labels = labels_of(y, "evaluate_tasks without `score`")
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] < 2:
        raise ValueError(
            "The model must have one output for each class. For others, pass `score`, such as "
            "lambda y, outputs: np.mean((outputs[:, 0] > 0) == y). Received: outputs of "
            f"{'shape ' + str(shape) if shape else type(outputs)}"
        )
    if task.setting == "task":
        outputs = keras.ops.convert_to_numpy(masked_logits(outputs, task.classes))
    right = (outputs.argmax(axis=1) == labels) & ~np.isnan(outputs).any(axis=1)
    return np.mean(right)
