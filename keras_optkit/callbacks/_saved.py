"""What a checkpoint says, in its two files beside the weights."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from keras_optkit.callbacks._plain import pack, unpack

FORMAT = 1
STATE, ARRAYS = "state.json", "arrays.npz"


def write(directory: Path, state: dict[str, Any]) -> None:
    """Writes `state`, plain data with NumPy arrays in it."""
    arrays: dict[str, np.ndarray] = {}
    plain = {key: pack(value, arrays, key) for key, value in state.items()}
    (directory / STATE).write_text(json.dumps({"format": FORMAT} | plain))
    with (directory / ARRAYS).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def to_bytes(value: Any) -> bytes:
    """Returns `value`, plain data with NumPy arrays in it, as bytes."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(pack(value, arrays, "position"))
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, json=np.frombuffer(text.encode(), "uint8"), **arrays)
    return file.getvalue()


def from_bytes(data: bytes) -> Any:
    """The reverse of `to_bytes`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return unpack(json.loads(arrays.pop("json").tobytes()), arrays)


def read(directory: Path) -> dict[str, Any]:
    """Returns what `write` has written."""
    plain = json.loads((directory / STATE).read_text())
    if plain["format"] != FORMAT:
        raise ValueError(
            f"The checkpoint {directory} has format {plain['format']}, and this version of "
            f"keras_optkit reads format {FORMAT}. Use the version that wrote it."
        )
    with np.load(directory / ARRAYS, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return unpack(plain, arrays)
