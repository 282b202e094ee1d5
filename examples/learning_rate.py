"""Which learning rate? Look for it in a few hundred steps, then see whether that was right."""

import sys
from pathlib import Path

import keras
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_optkit as ko

out = Path("runs/learning_rate")
out.mkdir(parents=True, exist_ok=True)
quick = "--quick" in sys.argv
EPOCHS, SEEDS = (2, (0,)) if quick else (8, (0, 1, 2))

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(
    (x / 16).astype("float32"), y, train_size=1200, random_state=0
)


def network(rate):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


found = ko.diagnostics.find_learning_rate(
    network(0.01), (x, y), low=1e-4, high=10.0, steps=60, seeds=SEEDS, verbose=0
)
print(found)

rates = {
    "half way down": found.valley,
    "a tenth of the rate of the lowest loss": found.minimum,
    "where it falls fastest": found.steepest,
    "much lower": 0.002,
}
print(f"\nlearning rate   test accuracy after {EPOCHS} epochs")
for name, rate in rates.items():
    if rate is None:  # the loss never fell
        continue
    model = network(rate)
    model.fit(x, y, epochs=EPOCHS, verbose=0)
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    print(f"{rate:13.2g}   {accuracy:.1%}   {name}")

figure = Figure(figsize=(6.4, 4), layout="constrained")
found.plot(figure.subplots())
figure.savefig(out / "range.png", dpi=150)
print(f"\nplot    {out / 'range.png'}")
