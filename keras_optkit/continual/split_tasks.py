"""Tasks of a few classes each."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_optkit import _check
from keras_optkit.continual import _nested
from keras_optkit.continual._labels import labels_of
from keras_optkit.continual.task import SETTINGS, Setting, Task


def split_tasks(
    x: Any,
    y: Any,
    classes_per_task: int = 2,
    setting: Setting = "class",
    *,
    test: tuple[Any, Any] | None = None,
    classes: Iterable[int] | None = None,
) -> list[Task]:
    """Divides classified data into tasks of a few classes each, as in split MNIST.

    With `"domain"`, labels become positions within the task: the first class of every task is 0,
    the second 1. With `"task"` and `"class"` they stay as they are, and the model has one output
    for every class of all tasks. Data are copied, and keep their order.

    Args:
        x: Inputs: an array with one row for each sample, or a dict, tuple or list of arrays.
        y: One label for each sample, from 0 on, or one-hot rows.
        classes_per_task: Classes in a task, at least 1; must divide the number of classes.
        setting: `"task"`, `"domain"` or `"class"`, see `Task`.
        test: `(x, y)` to divide in the same way for testing.
        classes: The classes in the order in which they are to be learned; by default all in `y`,
            ascending. Samples of others are left out.

    Raises:
        ValueError: If the classes cannot be divided, or one has no samples.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(8) % 4
        >>> tasks = keras_optkit.continual.split_tasks(x, labels, 2, test=(x, labels))
        >>> [task.name for task in tasks]
        ['classes 0, 1', 'classes 2, 3']

    Reference:
        [van de Ven & Tolias, 2019](https://arxiv.org/abs/1904.07734), section 4.
    """
    size = _check.integer("classes_per_task", classes_per_task, low=1)
    _check.one_of("setting", setting, SETTINGS)
    present = np.unique(labels_of(y, "split_tasks"))
    order = present.tolist() if classes is None else [int(label) for label in classes]
    if not set(order) <= set(present.tolist()) or len(set(order)) < len(order):
        raise ValueError(
            f"`classes` must be different ones of {present.tolist()}, which `y` holds. "
            f"{_check.received('classes', order)}"
        )
    if len(order) % size or not order:
        raise ValueError(
            f"`classes_per_task` must divide the number of classes, {len(order)}; `classes` can "
            f"leave some out. {_check.received('classes_per_task', classes_per_task)}"
        )
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    return [
        Task(
            f"classes {', '.join(map(str, group))}" if size > 1 else f"class {group[0]}",
            _part(x, y, group, setting),
            None if test is None else _part(*test, group, setting),
            tuple(range(size)) if setting == "domain" else tuple(group),
            setting,
        )
        for group in groups
    ]


def _part(x: Any, y: Any, group: list[int], setting: Setting) -> tuple[Any, Any]:
    labels = labels_of(y, "split_tasks")
    _, arrays, names = _nested.flatten({"x": x, "y": y})
    _nested.rows(arrays, names)
    which = np.flatnonzero(np.isin(labels, group))
    targets = arrays[-1][which]
    if setting == "domain" and targets.ndim == 2 and targets.shape[1] > 1:
        targets = targets[:, group]
    elif setting == "domain":
        places = np.argmax(labels[which][:, None] == np.array(group), axis=1)
        targets = places.astype(targets.dtype).reshape(targets.shape)
    return _nested.take(x, which), targets
