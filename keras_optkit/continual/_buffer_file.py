"""Buffers as `.npz` files: arrays, and JSON for the rest."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_optkit._atomic import replacing

KIND = "keras_optkit.ReplayBuffer"
VERSION = 1


def write(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Writes what `ReplayBuffer.state` returned."""
    arrays = {f"samples_{i}": array for i, array in enumerate(state["arrays"])}
    for name, value in state["policy"].items():
        arrays[f"policy_{name}"] = np.asarray(value)
    plain = {key: state[key] for key in ("config", "structure", "names", "random")}
    dtypes = {name: array.dtype.name for name, array in arrays.items() if array.dtype.kind != "U"}
    text = json.dumps({"kind": KIND, "version": VERSION, **plain, "dtypes": dtypes})
    with replacing(Path(path), ".npz") as aside, aside.open("wb") as file:
        np.savez(file, json=np.frombuffer(text.encode(), "uint8"), **arrays)


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Returns what `write` has written."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not a file that ReplayBuffer.save wrote: {error}") from error
    try:
        found = json.loads(bytes(arrays.pop("json")))
        if found["kind"] != KIND or found["version"] > VERSION:
            raise ValueError(f"it is {found['kind']}, version {found['version']}")
        # NumPy's format does not know bfloat16, and gives back its bytes.
        for name, dtype in found["dtypes"].items():
            arrays[name] = arrays[name].view(np.dtype(dtype))
        samples = [arrays[f"samples_{i}"] for i in range(len(found["names"]))]
        policy = {
            name.removeprefix("policy_"): array
            for name, array in arrays.items()
            if name.startswith("policy_")
        }
        held = min(int(policy["seen"]), found["config"]["capacity"]) if samples else 0
        if any(len(array) != held for array in samples):
            raise ValueError(f"not all arrays have {held} rows")
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} does not hold a whole ReplayBuffer that this version can read: {error!r}"
        ) from error
    return {**found, "arrays": samples, "policy": policy}
