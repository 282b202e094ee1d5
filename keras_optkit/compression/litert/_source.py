"""Where LiteRT files come from and go to."""

from pathlib import Path

import keras

from keras_optkit import _check

SUFFIX = ".tflite"


def read(source) -> tuple[Path | None, bytes]:
    """Returns the path, if there is one, and the bytes of a LiteRT file.

    Raises:
        TypeError: If `source` is neither a path, nor bytes, nor a report that knows its path.
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a LiteRT file.
    """
    if isinstance(source, keras.Model):  # which has a path too, of another kind
        raise TypeError(
            "Expected a LiteRT file, not a model. Write one with export_litert(model, path), or "
            f"run the model itself. {_check.received('source', source)}"
        )
    path = getattr(source, "path", source)
    if isinstance(path, bytes):
        path, content = None, path
    elif isinstance(path, (str, Path)):
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no such file. {_check.received('path', str(path))}")
        content = path.read_bytes()
    else:
        raise TypeError(
            "Expected a LiteRT file: its path, its bytes, or the report of its export. "
            f"{_check.received('source', source)}"
        )
    if content[4:8] != b"TFL3":
        what = f"{path}, which begins" if path else "bytes that begin"
        raise ValueError(f"This is not a LiteRT file. Received: {what} with {content[:8]!r}")
    return path, content


def writable(path) -> Path:
    """Returns `path` if a LiteRT file can be written there.

    Raises:
        TypeError: If it is not a path.
        ValueError: If it does not end in .tflite, or is a folder.
        FileNotFoundError: If its folder does not exist.
    """
    path = Path(_check.instance("path", path, (str, Path), "a path"))
    if path.suffix != SUFFIX:
        raise ValueError(f"`path` must end in {SUFFIX}. {_check.received('path', str(path))}")
    if path.is_dir():
        raise ValueError(
            f"`path` must be that of a file, not of a folder. {_check.received('path', str(path))}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"The folder of `path` does not exist. Make it first: mkdir -p {path.parent}. "
            f"{_check.received('path', str(path))}"
        )
    return path
