"""Stage 3: leave Keras, as a SavedModel that plain TensorFlow serves."""

import importlib.util
import shutil

import keras
import numpy as np

from keras_optkit._demo.model import OURS
from keras_optkit._demo.plan import Context, Outcome
from keras_optkit._demo.process import in_fresh_process

COLUMNS = ("export", "compared", "max difference")

SERVE = """
import sys
sys.modules["keras"] = sys.modules["keras_optkit"] = None  # nobody can import them
import numpy as np
import tensorflow as tf

folder = sys.argv[1]
model = tf.saved_model.load(f"{folder}/saved_model")
np.save(f"{folder}/served.npy", model.serve(np.load(f"{folder}/images.npy")))
"""


def export(context: Context) -> Outcome:
    """Exports the first model and compares its outputs with those of a process without Keras."""
    reason = why_not(keras.backend.backend())
    if reason:
        row = ("SavedModel", "skipped, see below", "")
        return Outcome(COLUMNS, [row], {"skipped": reason}, f"No SavedModel: {reason}.")
    folder, model = context.out / "export", context.runs[OURS][0].model
    shutil.rmtree(folder / "saved_model", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = context.digits.test
    model.export(folder / "saved_model", verbose=False)
    np.save(folder / "images.npy", images)
    in_fresh_process("-c", SERVE, str(folder))
    served = np.load(folder / "served.npy")
    difference = float(np.max(np.abs(served - model.predict(images, verbose=0))))
    accuracy = float(np.mean(served.argmax(axis=1) == labels))
    row = (
        "SavedModel, served by TensorFlow without Keras",
        f"{served.shape[0]} x {served.shape[1]} logits, up to {np.abs(served).max():.0f}",
        f"{difference:.1e}",
    )
    numbers = {"max_difference": difference, "test_accuracy": accuracy, "outputs": served.size}
    conclusion = f"Plain TensorFlow serves the exported model at {100 * accuracy:.2f} % accuracy."
    return Outcome(COLUMNS, [row], numbers, conclusion)


def why_not(backend: str) -> str | None:
    """Returns what keeps Keras from exporting a SavedModel here, or None."""
    if backend == "torch":
        return "Keras cannot from torch, but a .keras file loads on TensorFlow, which can"
    if importlib.util.find_spec("tensorflow") is None:
        return "it needs TensorFlow, which is not installed: pip install tensorflow"
    return None
