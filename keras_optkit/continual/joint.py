"""Training from nothing on all tasks at once."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_optkit import _check
from keras_optkit.continual import _nested
from keras_optkit.continual._twin import twin
from keras_optkit.continual.task import Task


def joint(
    model: keras.Model, tasks: Sequence[Task] | Sequence[tuple[Any, Any]], **fit: Any
) -> keras.Model:
    """Trains a new model of the same architecture on the data of all tasks together.

    What a method of continual learning is measured against from above, as nothing can be
    forgotten: multi-task learning. For the model that knows the tasks so far, give those only.

    ```python
    best = joint(model, tasks, epochs=5)
    print(accuracy(evaluate_tasks(best, tasks)))
    ```

    Args:
        model: A compiled model; it stays as it is.
        tasks: The tasks, or pairs `(x, y)` of arrays.
        **fit: Arguments of `fit`, such as `epochs` and `batch_size`.

    Returns:
        A new model with new weights, compiled like `model` and trained.

    Raises:
        ValueError: If the model is not compiled, there is no task, or the data of the tasks are
            not alike.

    Example:
        >>> trained = keras_optkit.continual.joint(model, [(x, y), (x, -y)], epochs=2, verbose=0)

    Reference:
        [Caruana, 1997](https://doi.org/10.1023/A:1007379606734); "joint" or "offline" training in
        [van de Ven & Tolias, 2019](https://arxiv.org/abs/1904.07734).
    """
    if not tasks:
        raise ValueError(
            f"`tasks` must hold one task at least. {_check.received('tasks', list(tasks))}"
        )
    structure, columns = None, []
    for i, (x, y) in enumerate(tasks):
        found, arrays, names = _nested.flatten({"x": x, "y": y})
        _nested.rows(arrays, names)
        shapes = [(array.shape[1:], array.dtype) for array in arrays]
        if i and (_nested.key(found) != _nested.key(structure) or shapes != columns[0][1]):
            shown = ", ".join(
                f"{name} of rows {shape} {dtype}"
                for name, (shape, dtype) in zip(names, shapes, strict=True)
            )
            raise ValueError(
                "All `tasks` must have data of the same structure, shapes and dtypes. Received: "
                f"task {i} with {shown}"
            )
        structure = found
        columns.append((arrays, shapes))
    parts = zip(*(arrays for arrays, _ in columns), strict=True)
    whole = [np.concatenate(part) for part in parts]
    data = _nested.rebuild(structure, whole)
    fresh = twin(model)
    fresh.fit(data["x"], data["y"], **fit)
    return fresh
