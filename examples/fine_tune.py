"""Fine-tune a trained network layer by layer, on few samples of a new task."""

import sys
from pathlib import Path

import keras
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_optkit as ko

out = Path("runs/fine_tune")
out.mkdir(parents=True, exist_ok=True)
BEFORE, EPOCHS = (4, 12) if "--quick" in sys.argv else (15, 30)

# Trained on the digits 0 to 4; the new task is to tell 5 to 9 apart, from 20 images.
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32").reshape(-1, 8, 8, 1)
old, new = y < 5, y >= 5
x_new, x_test, y_new, y_test = train_test_split(
    x[new], y[new] - 5, train_size=20, random_state=0, stratify=y[new]
)


def network(optimizer, trained=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv_1"),
            keras.layers.Conv2D(32, 3, activation="relu", name="conv_2"),
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="softmax", name="head"),
        ]
    )
    if trained:
        for name in ("conv_1", "conv_2"):
            model.get_layer(name).set_weights(trained.get_layer(name).get_weights())
    groups = ko.optimizers.layer_decay(model, 0.5)  # the earlier a layer, the less it moves
    model.compile(optimizer(groups), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def learn(model, callbacks=()):
    fit = model.fit(*(x_new, y_new, 10, EPOCHS, 0), [*callbacks], validation_data=(x_test, y_test))
    return fit.history["val_accuracy"]


trained = network(lambda groups: keras.optimizers.Adam(3e-3))
trained.fit(x[old], y[old], epochs=BEFORE, verbose=0)

by_layer = ko.callbacks.Unfreeze({0: "head", EPOCHS // 6: "conv_2", EPOCHS // 3: ".*"})
results = {
    "from nothing": learn(network(lambda groups: keras.optimizers.Adam(1e-3))),
    "all layers at once": learn(network(lambda groups: keras.optimizers.Adam(1e-3), trained)),
    "layer by layer": learn(
        network(lambda groups: ko.optimizers.AdaBelief(3e-3, groups=groups), trained), [by_layer]
    ),
}

figure = Figure(figsize=(6.4, 4), layout="constrained")
axes = figure.subplots()
axes.set_prop_cycle(color=["#D55E00", "#0072B2", "#009E73"])
for name, accuracy in results.items():
    axes.plot(range(1, EPOCHS + 1), accuracy, label=name)
axes.set(xlabel="epoch", ylabel="test accuracy", title="Five new digits from four images of each")
axes.locator_params("x", integer=True)
axes.legend()
figure.savefig(out / "accuracy.png", dpi=150)

for name, accuracy in results.items():
    print(f"{name:20} {accuracy[-1]:.1%}")
print(f"\nplot    {out / 'accuracy.png'}")
