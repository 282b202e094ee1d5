"""Resume after a crash: run the same script again, and it goes on where it was, bit for bit."""

import shutil
import sys
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import keras_optkit as ko

out = Path("runs/crash")
shutil.rmtree(out, ignore_errors=True)
out.mkdir(parents=True)
EPOCHS = 2 if "--quick" in sys.argv else 10

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")


class PowerCut(keras.callbacks.Callback):
    """Stands in for whatever ends a process in the middle of an epoch."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def script(directory, callbacks=()):
    """What you would run, and run again: nothing in it knows of an earlier run."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.3),  # whose random numbers a .keras file does not hold
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    state = ko.callbacks.TrainingState(directory, every=10, unit="batch")
    history = model.fit(x, y, 60, EPOCHS, verbose=0, callbacks=[state, *callbacks])
    return model, history.history["loss"]


smooth, expected = script(out / "smooth")
crashes = 0
while True:
    try:
        resumed, losses = script(out / "crashing", [PowerCut(after=37)])
        break
    except KeyboardInterrupt:
        crashes += 1
pairs = zip(smooth.get_weights(), resumed.get_weights(), strict=True)
difference = max(np.abs(a - b).max() for a, b in pairs)

print(f"crashes on the way through {EPOCHS} epochs of 30 batches: {crashes}")
print(f"largest difference of a weight to the run without any: {difference}")
print(f"losses by epoch equal: {losses == expected}")

figure = Figure(figsize=(6.4, 4), layout="constrained")
axes = figure.subplots()
axes.plot(range(1, EPOCHS + 1), expected, "o-", color="#0072B2", label="in one go")
axes.plot(range(1, EPOCHS + 1), losses, "x", color="#D55E00", label=f"with crashes: {crashes}")
axes.set(xlabel="epoch", ylabel="loss", title="Training with Dropout, interrupted and not")
axes.locator_params("x", integer=True)
axes.legend()
figure.savefig(out / "loss.png", dpi=150)
print(f"\nplot    {out / 'loss.png'}")
