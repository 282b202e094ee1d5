"""The names under which classes are saved."""

from typing import TypeVar

import keras

PACKAGE = "keras_optkit"
REGISTRY: dict[str, type] = {}

Class = TypeVar("Class", bound=type)


def register(cls: Class) -> Class:
    """Class decorator: makes `cls` loadable as `keras_optkit>ClassName`.

    The name is written into users' files, so it is never renamed and never used twice.

    Raises:
        ValueError: If another class holds the name already.
    """
    name = cls.__name__
    if name in REGISTRY:
        raise ValueError(
            f'"{PACKAGE}>{name}" is already the saved name of {REGISTRY[name]}, and files that '
            f"hold it must load as one class. Give {cls} another name."
        )
    REGISTRY[name] = cls
    return keras.saving.register_keras_serializable(PACKAGE, name)(cls)
