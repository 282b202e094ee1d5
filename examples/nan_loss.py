"""My loss turns NaN: what now? Skip the batch that does it, or go back and train on."""

import sys
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_optkit as ko

out = Path("runs/nan_loss")
out.mkdir(parents=True, exist_ok=True)
EPOCHS = 3 if "--quick" in sys.argv else 12

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(
    (x / 16).astype("float32"), y, train_size=1200, random_state=0
)
x[700, 20] = np.nan  # one pixel of one image, as a faulty sensor would leave it


def train(optimizer, callbacks=()):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        x, y, 30, EPOCHS, verbose=0, callbacks=[*callbacks], validation_data=(x_test, y_test)
    )
    return history.history["val_accuracy"]


guard = ko.callbacks.NaNGuard("rollback", every=10, lr_factor=1.0, verbose=0)
skip = ko.optimizers.SkipNonFinite(keras.optimizers.Adam(3e-3))
results = {
    "nothing done about it": train(keras.optimizers.Adam(3e-3)),
    "NaNGuard goes back": train(keras.optimizers.Adam(3e-3), [guard]),
    "SkipNonFinite leaves the batch out": train(skip),
}

figure = Figure(figsize=(6.4, 4), layout="constrained")
axes = figure.subplots()
axes.set_prop_cycle(color=["#D55E00", "#0072B2", "#009E73"], marker=["x", "o", "s"])
for name, accuracy in results.items():
    axes.plot(range(1, EPOCHS + 1), accuracy, label=name)
axes.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1.02), title="One NaN in the data")
axes.locator_params("x", integer=True)
axes.legend()
figure.savefig(out / "accuracy.png", dpi=150)

for name, accuracy in results.items():
    print(f"{name:36} {accuracy[-1]:.1%}")
print(f"\nfirst of {len(guard.incidents)} incidents: {guard.incidents[0]}")
print(f"plot    {out / 'accuracy.png'}")
