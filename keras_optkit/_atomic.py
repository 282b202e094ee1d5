"""Files that are there whole, or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, suffix: str) -> Iterator[Path]:
    """Gives a path to write to, and puts what is written there in the place of `path`.

    If writing fails, `path` is as before. The new file reaches the disk before it gets its name,
    so that after a power cut the name means the old file or the new one.

    Args:
        path: The file to replace, or to make, with its directory.
        suffix: What the name of the other file must end with.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part{suffix}")
    try:
        yield aside
        _sync(aside, os.O_RDWR)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere a directory cannot be opened
        _sync(path.parent, os.O_RDONLY)


@contextlib.contextmanager
def nowhere(path: Path, suffix: str) -> Iterator[Path]:
    """Gives a path to write to, as `replacing` does, and forgets what is written there."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / f"{path.name}{suffix}"


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
