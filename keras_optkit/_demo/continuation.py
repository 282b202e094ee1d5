"""The process that goes on: `python -m keras_optkit._demo.continuation FOLDER`."""

import json
import sys
from pathlib import Path

import keras
import numpy as np

from keras_optkit._demo.data import digits
from keras_optkit._demo.model import OURS
from keras_optkit._demo.plan import Plan
from keras_optkit._demo.training import arrays, fit
from keras_optkit.callbacks import GradientMonitor


def main(folder: Path) -> None:
    """Loads what the other process has saved, trains to the end, and saves the state."""
    rest = json.loads((folder / "rest.json").read_text())
    plan = Plan(**rest["plan"])
    model = keras.saving.load_model(folder / "interrupted.keras")
    monitor = GradientMonitor(every=plan.every)
    monitor.load_state(rest["monitor"])
    fit(model, plan, 0, digits(), monitor, f"{OURS}, resumed", (rest["epoch"], plan.epochs))
    np.savez(folder / "resumed.npz", *arrays(model), monitor.gradient_norms)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
