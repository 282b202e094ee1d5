"""Fresh processes, to show what does not depend on this one."""

import os
import subprocess
import sys

import keras


def in_fresh_process(*arguments: str, backend: str | None = None) -> None:
    """Runs Python with `arguments`, on this backend or another; it prints to this terminal.

    Raises:
        RuntimeError: If it fails; with its errors, which are else kept back, as is what the
            frameworks log.
    """
    sys.stdout.flush()
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"KERAS_BACKEND": backend or keras.backend.backend()},
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"The fresh process failed ({done.returncode}):\n{done.stderr}")
