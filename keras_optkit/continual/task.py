"""One task of a sequence."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

Setting = Literal["task", "domain", "class"]
SETTINGS = ("task", "domain", "class")


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Data of one task, and what is known of it when it is tested.

    It unpacks into its training data: `for x, y in tasks: model.fit(x, y)`. The settings are
    those of van de Ven and Tolias:

    ```text
    "task"     which task a sample is of is known: only its classes compete (a head for each task)
    "domain"   the task is not known, and need not be: all tasks have the same classes
    "class"    the task is not known, and is to be found too: all classes of all tasks compete
    ```

    Args:
        name: For tables and plots.
        train: `(x, y)` to train on.
        test: `(x, y)` to test on, or None.
        classes: Labels of the task, which are numbers of model outputs.
        setting: `"task"`, `"domain"` or `"class"`.

    Example:
        >>> task = keras_optkit.continual.Task("first", (x, y), classes=(0, 1))
        >>> inputs, targets = task

    Reference:
        [van de Ven & Tolias, 2019](https://arxiv.org/abs/1904.07734), table 1.
    """

    name: str
    train: tuple[Any, Any]
    test: tuple[Any, Any] | None = None
    classes: tuple[int, ...] = ()
    setting: Setting = "class"

    def __iter__(self) -> Iterator[Any]:
        return iter(self.train)
