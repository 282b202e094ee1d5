"""What the callbacks of a `fit` know, ours, Keras' and foreign ones."""

import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import keras

from keras_optkit.callbacks._plain import pack, unpack

# Keras' own have no way to ask them; where one is derived from another, both lines hold.
ATTRIBUTES: dict[type, tuple[str, ...]] = {
    keras.callbacks.History: ("history", "epoch"),
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("cooldown_counter", "wait", "best"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
        "_current_epoch",
    ),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}
METHODS = (("state", "load_state"), ("get_state", "set_state"))

Callbacks = Iterable[keras.callbacks.Callback]


def read(callbacks: Callbacks) -> dict[str, Any]:
    """Returns the states of those that have one, by class and number."""
    states = {}
    for key, callback in _keyed(callbacks):
        methods = _methods(callback)
        if methods is not None:
            states[key] = getattr(callback, methods[0])()
        elif attributes := _attributes(callback):
            states[key] = {n: getattr(callback, n) for n in attributes if hasattr(callback, n)}
    return states


def write(callbacks: Callbacks, states: dict[str, Any], early: bool = False) -> None:
    """Sets what `read` has returned.

    Early, before training begins, only of those that have a method for it; again when all hooks
    that may undo it have run, of all whose state is another by then.
    """
    keyed = dict(_keyed(callbacks))
    for key, state in states.items():
        callback = keyed.get(key)
        methods = None if callback is None else _methods(callback)
        if methods is not None:
            if early or not _same(getattr(callback, methods[0])(), state):
                getattr(callback, methods[1])(state)
        elif callback is not None and not early:
            for name, value in state.items():
                setattr(callback, name, value)
    missing = [key for key in states if key not in keyed]
    if missing and early:
        warnings.warn(
            f"The checkpoint has the state of callbacks that are not part of this `fit`: "
            f"{', '.join(missing)}. Training goes on without them.",
            stacklevel=2,
        )


def _keyed(callbacks: Callbacks):
    seen: Counter[str] = Counter()
    for callback in callbacks:
        name = type(callback).__name__
        yield f"{name}:{seen[name]}", callback
        seen[name] += 1


def _methods(callback) -> tuple[str, str] | None:
    return next(
        (pair for pair in METHODS if all(callable(getattr(callback, n, None)) for n in pair)), None
    )


def _attributes(callback) -> list[str]:
    return [n for cls, names in ATTRIBUTES.items() if isinstance(callback, cls) for n in names]


def _same(one: Any, other: Any) -> bool:
    arrays: dict = {}  # in which equal arrays get equal names
    one, other = (repr(pack(unpack(x, {}), arrays, "a state")) for x in (one, other))
    return one == other
