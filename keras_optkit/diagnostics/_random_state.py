"""The random numbers of the whole process, set back after something may have drawn some."""

import contextlib
import random
import sys
from collections.abc import Iterator

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

from keras_optkit import _backend


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Sets Python's, NumPy's, Keras', torch's and the backend's generators back in the end."""
    torch = sys.modules.get("torch")  # its data loaders shuffle on all backends
    python, numpy, backend = random.getstate(), np.random.get_state(), _backend.random_state()
    # Not `global_seed_generator()`, which would make one and draw a seed for it.
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    seed = None if generator is None else np.array(keras.ops.convert_to_numpy(generator.state))
    devices = torch is not None and torch.cuda.is_available()
    host = None if torch is None else torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch is not None and devices else None
    try:
        yield
    finally:
        if generator is not None:
            generator.state.assign(seed)
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)
        if torch is not None:
            torch.set_rng_state(host)
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)
        _backend.set_random_state(backend)
        np.random.set_state(numpy)
        random.setstate(python)
