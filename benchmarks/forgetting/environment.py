"""A virtual environment for Avalanche, and what its import needs there."""

import subprocess
import sys
from pathlib import Path

# Pinned where another version of torch would come with it.
PACKAGES = [
    *("torch==2.13.0", "numpy", "torchmetrics", "psutil", "gputil", "scikit-learn", "matplotlib"),
    *("tqdm", "dill", "gdown", "pillow", "packaging", "typing-extensions"),
]
ALONE = ["avalanche-lib==0.6.0", "torchvision", "pytorchcv", "qpsolvers"]


def python_of(folder: Path) -> Path:
    """Returns the environment's Python; makes the environment if it is not there.

    torch comes from where pip is told to look, such as PIP_FIND_LINKS.
    """
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.exists():
        print(f"installing Avalanche into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*pip, *PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", *ALONE], check=True)
        done.touch()
    return python
