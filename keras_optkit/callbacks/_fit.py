"""What `fit` keeps to itself, found in its frame."""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

import keras


class Fit(NamedTuple):
    """The data of a running `fit`, and all its callbacks."""

    epoch_iterator: Any
    callbacks: keras.callbacks.CallbackList


def find(model: keras.Model) -> Fit | None:
    """Returns the `fit` of `model` whose callbacks are being called, or None outside of one.

    No public way leads from a callback to the other callbacks and to the data.
    """
    callbacks = None
    for frame in _frames():
        owner, name = frame.f_locals.get("self"), frame.f_code.co_name
        if callbacks is None and isinstance(owner, keras.callbacks.CallbackList):
            callbacks = owner
        if owner is model and name in ("evaluate", "predict"):
            return None
        if owner is model and name == "fit" and "epoch_iterator" in frame.f_locals:
            return Fit(frame.f_locals["epoch_iterator"], callbacks) if callbacks else None
    return None


def put_last(callback: keras.callbacks.Callback) -> None:
    """Lets `callback`, which is being told of its list, be called after all others in it."""
    for frame in _frames():
        owner: Any = frame.f_locals.get("self")
        if type(owner) is keras.callbacks.CallbackList:
            # A new list: the old one is being gone through.
            others = [other for other in owner.callbacks if other is not callback]
            owner.callbacks = [*others, callback]
            return


def _frames() -> Iterator[FrameType]:
    frame = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
