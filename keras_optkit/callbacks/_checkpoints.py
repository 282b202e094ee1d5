"""Directories that are there whole or not at all."""

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

MANIFEST = "manifest.json"
DONE, FINISHED = "checkpoint-", "finished-"  # the second of a run that is over
WRITING, REMOVING, CORRUPT = "writing-", "removing-", "corrupt-"


class Checkpoints:
    """The numbered checkpoints of one directory.

    A checkpoint is written under another name, its files and then a manifest of their sizes and
    SHA-256 brought to the disk, and renamed: whatever happens before leaves the older ones alone.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    def open(self) -> None:
        """Makes the directory, and clears it of what a crash has left behind."""
        self.directory.mkdir(parents=True, exist_ok=True)
        probe = self.directory / f"{WRITING}probe"
        probe.mkdir(exist_ok=True)
        for path in self.directory.iterdir():
            if path.name.startswith((WRITING, REMOVING)):
                shutil.rmtree(path)

    def write(self, fill: Callable[[Path], None], finished: bool = False) -> Path:
        """Returns a new checkpoint with the files that `fill` writes into a directory."""
        number = 1 + max((number for number, _ in self._found(DONE, FINISHED, CORRUPT)), default=0)
        aside = self.directory / f"{WRITING}{number:06d}"
        path = self.directory / f"{FINISHED if finished else DONE}{number:06d}"
        try:
            aside.mkdir()
            fill(aside)
            files = {file.name: _described(file) for file in sorted(aside.iterdir())}
            (aside / MANIFEST).write_text(json.dumps({"files": files}, indent=1))
            for file in aside.iterdir():
                _to_disk(file)
            _to_disk(aside)
            os.replace(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _to_disk(self.directory)
        return path

    def intact(self) -> Iterator[Path]:
        """Yields the checkpoints that are whole, the newest first; warns of others."""
        for number, path in sorted(self._found(DONE, FINISHED), reverse=True):
            fault = _fault(path)
            if fault is None:
                yield path
                continue
            warnings.warn(
                f"The checkpoint {path} is damaged: {fault}. It is set aside, and the one before "
                "it is used.",
                stacklevel=2,
            )
            with contextlib.suppress(OSError):
                os.replace(path, self.directory / f"{CORRUPT}{number:06d}")

    def prune(self, keep: int) -> None:
        """Removes all but the last `keep` and, if it is the newest of all, that of the end."""
        done = sorted(self._found(DONE))
        ends = sorted(self._found(FINISHED))
        old_ends = ends[:-1] if ends and ends[-1] > max(done, default=ends[0]) else ends
        for _, path in [*done[:-keep], *old_ends, *self._found(CORRUPT)]:
            leaving = self.directory / f"{REMOVING}{path.name}"
            with contextlib.suppress(OSError):  # another day
                os.replace(path, leaving)  # or a crash would leave half a checkpoint
                shutil.rmtree(leaving)

    def _found(self, *prefixes: str) -> list[tuple[int, Path]]:
        found = []
        for path in self.directory.iterdir() if self.directory.is_dir() else ():
            for prefix in prefixes:
                number = path.name.removeprefix(prefix)
                if number != path.name and number.isdecimal():
                    found.append((int(number), path))
        return found


def _fault(path: Path) -> str | None:
    """Returns what is wrong with a checkpoint, or None."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        for name, description in files.items():
            if _described(path / name) != description:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None if files else "it is empty"


def _described(file: Path) -> dict[str, int | str]:
    with file.open("rb") as opened:
        return {
            "size": file.stat().st_size,
            "sha256": hashlib.file_digest(opened, "sha256").hexdigest(),
        }


def _to_disk(path: Path) -> None:
    if path.is_dir() and os.name != "posix":  # a directory cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
