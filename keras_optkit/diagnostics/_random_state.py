"""The random numbers of the whole process: read without a change, and set back."""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.random import seed_generator

from keras_optkit import _backend

GLOBAL_SEED_GENERATOR = "global_seed_generator"  # a constant of Keras from 3.13 on


def read() -> dict[str, Any]:
    """Returns the states of Python's, NumPy's, Keras' and torch's global generators."""
    version, words, gauss = random.getstate()
    name, key, *rest = np.random.get_state()
    state = {
        "python": [version, np.array(words, "uint32"), gauss],
        "numpy": [name, np.array(key), *rest],
        "backend": _backend.random_state(),
    }
    # Not `global_seed_generator()`, which would make one and draw a seed for it.
    keras_generator = seed_generator.global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    if keras_generator is not None:
        state["keras"] = np.array(keras.ops.convert_to_numpy(keras_generator.state))
    torch = sys.modules.get("torch")  # its data loaders shuffle on all backends
    if torch is not None:
        state["torch"] = torch.get_rng_state().numpy().copy()
        if torch.cuda.is_available():
            state["cuda"] = [one.numpy().copy() for one in torch.cuda.get_rng_state_all()]
    return state


def write(state: dict[str, Any]) -> None:
    """Sets what `read` has returned."""
    if "keras" in state:
        seed_generator.global_seed_generator().state.assign(state["keras"])
    else:  # the first to need one makes it, with a seed of Python's random numbers
        seed_generator.global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)
    _backend.set_random_state(state["backend"])
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in state:
        torch.set_rng_state(torch.from_numpy(state["torch"].copy()))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([torch.from_numpy(s.copy()) for s in state["cuda"]])
    np.random.set_state(tuple(state["numpy"]))
    version, words, gauss = state["python"]  # last: making a seed generator draws from it
    random.setstate((version, tuple(words.tolist()), gauss))


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Sets all back in the end to what it was."""
    state = read()
    try:
        yield
    finally:
        write(state)
