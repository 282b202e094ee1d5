"""The processes that train one model together, each on its share of every batch.

All of them must call these functions in the same order, from the thread that trains. Where there
is one process only, nothing is sent.
"""

import keras
import numpy as np

from keras_optkit import _backend


def place(model: keras.Model) -> tuple[int, int]:
    """Returns the number of this process, from 0, and how many there are."""
    return _backend.processes(model) if isinstance(model, keras.Model) else (0, 1)


def leads(model: keras.Model) -> bool:
    """Whether this is the process that writes files and prints."""
    return place(model)[0] == 0


def all_of(model: keras.Model, ok: bool) -> bool:
    """Whether all processes say so; none goes on before all are here."""
    return all(gathered(model, b"1" if ok else b""))


def of_the_first(model: keras.Model, value: float) -> float:
    """Returns what the first process has given, such as the time on its clock."""
    (first,) = np.frombuffer(gathered(model, np.float64(value).tobytes())[0], "float64")
    return float(first)


def total(model: keras.Model, array: np.ndarray) -> np.ndarray:
    """Returns the sum over processes of a float64 array, added up in the same order in each."""
    parts = gathered(model, np.asarray(array, "float64").tobytes())
    return np.sum([np.frombuffer(p, "float64").reshape(array.shape) for p in parts], axis=0)


def gathered(model: keras.Model, data: bytes) -> list[bytes]:
    """Returns the data of each process, in their order."""
    if place(model)[1] == 1:
        return [data]
    lengths = _backend.gather(np.array([len(data)], "int32"), model)[:, 0]
    # As integers of 32 bits, which all that sends can send, and JAX does not round.
    words = np.frombuffer(data.ljust(-(-max(lengths) // 4) * 4, b"\0"), "int32")
    if not len(words):
        return [b""] * len(lengths)
    rows = _backend.gather(words, model)
    return [row.tobytes()[:n] for row, n in zip(rows, lengths.tolist(), strict=True)]
