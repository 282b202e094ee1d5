"""Labels are noisy: what averaging the weights and looking for flat minima do about it."""

import sys
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_optkit as ko

out = Path("runs/flat_minima")
out.mkdir(parents=True, exist_ok=True)
EPOCHS = 5 if "--quick" in sys.argv else 30

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(
    (x / 16).astype("float32"), y, train_size=1200, random_state=0
)
wrong = np.random.default_rng(0).random(len(y)) < 0.3
noisy = np.where(wrong, np.random.default_rng(1).integers(0, 10, len(y)), y)  # 3 in 10 at random


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def train(model, optimizer, callbacks=()):
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        x, noisy, 30, EPOCHS, verbose=0, callbacks=[*callbacks], validation_data=(x_test, y_test)
    )
    return history.history["val_accuracy"]


adam = keras.optimizers.Adam
mean = ko.optimizers.Averaged(adam(3e-3), kind="swa", start=EPOCHS * 10)  # of the last 3/4
results = {
    "Adam": train(network(), adam(3e-3)),
    "Averaged(Adam)": train(network(), mean, [ko.callbacks.SwapAveragedWeights()]),
    "SAM with Adam": train(ko.optimizers.SAM(network(), rho=0.3), adam(3e-3)),
}

figure = Figure(figsize=(6.4, 4), layout="constrained")
axes = figure.subplots()
axes.set_prop_cycle(color=["#D55E00", "#0072B2", "#009E73"])
for name, accuracy in results.items():
    axes.plot(range(1, EPOCHS + 1), accuracy, label=name)
axes.set(xlabel="epoch", ylabel="test accuracy", title="Trained on labels of which 27 % are wrong")
axes.locator_params("x", integer=True)
axes.legend()
figure.savefig(out / "accuracy.png", dpi=150)

for name, accuracy in results.items():
    print(f"{name:16} {accuracy[-1]:.1%} in the end, {max(accuracy):.1%} at best")
print(f"\nplot    {out / 'accuracy.png'}")
