"""Teach a small net: it learns more from what a large one thinks than from labels alone."""

import sys
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_optkit as ko

out = Path("runs/teach_a_small_net")
out.mkdir(parents=True, exist_ok=True)
EPOCHS, SEEDS = (4, 1) if "--quick" in sys.argv else (20, 3)

# The teacher has seen all 1200 images; the student gets 100 of them with labels.
x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(
    (x / 16).astype("float32"), y, train_size=1200, random_state=0
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(units, seed=0):
    keras.utils.set_random_seed(seed)
    hidden = keras.layers.Dense(units, activation="relu")
    return keras.Sequential([keras.Input((64,)), hidden, keras.layers.Dense(10)])


def train(model, x, y, batch, epochs=EPOCHS):
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    model.fit(x, y, batch, epochs, verbose=0)
    return model


def accuracy(model):
    return np.mean(model.predict(x_test, verbose=0).argmax(1) == y_test)


teacher = train(network(256), x, y, 30)
scores = {"labels of 100 images": [], "teacher, on 100 images": [], "teacher, on 1200 images": []}
labels, taught, all_taught = scores.values()
for seed in range(SEEDS):
    labels.append(accuracy(train(network(16, seed), x[:100], y[:100], 20, 4 * EPOCHS)))
    student = ko.compression.Distiller(
        teacher, network(16, seed), ko.compression.LogitsKD(3.0), student_loss_weight=0.1
    )
    taught.append(accuracy(train(student, x[:100], y[:100], 20, 4 * EPOCHS)))
    student = ko.compression.Distiller(  # without a single label
        teacher, network(16, seed), ko.compression.LogitsKD(3.0), student_loss_weight=0.0
    )
    all_taught.append(accuracy(train(student, x, y, 30)))

top = accuracy(teacher)
print(f"teacher, {teacher.count_params()} weights     {top:.1%}")
print(f"student, {network(16).count_params()} weights, taught by")
for name, found in scores.items():
    print(f"  {name:24} {np.mean(found):.1%}")

figure = Figure(figsize=(6.4, 3.2), layout="constrained")
axes = figure.subplots()
axes.barh([*scores], [np.mean(found) for found in scores.values()], color="#0072B2")
axes.axvline(top, color="#D55E00")
axes.set(
    xlim=(0, 1),
    xlabel="test accuracy (the line: the teacher itself)",
    title="A student of 16 units, taught by",
)
axes.invert_yaxis()
figure.savefig(out / "accuracy.png", dpi=150)
print(f"\nplot    {out / 'accuracy.png'}")
