"""Large batches: what becomes of SGD at the same number of epochs, and what LAMB does."""

import sys
from pathlib import Path

import keras
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_optkit as ko

out = Path("runs/large_batch")
out.mkdir(parents=True, exist_ok=True)
EPOCHS, SIZES = (4, (30, 600)) if "--quick" in sys.argv else (10, (30, 120, 300, 600))

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(
    (x / 16).astype("float32"), y, train_size=1200, random_state=0
)


def schedule(peak, times):
    """A tenth of the steps to warm up, the rest to come down."""
    steps = EPOCHS * 1200 // (30 * times)
    warmup = max(1, steps // 10)
    return ko.schedules.Warmup(ko.schedules.LinearDecay(peak, steps - warmup), warmup)


# Larger batches bear larger rates: in proportion for SGD, as is usual, or with the root.
optimizers = {
    "SGD, rate x batch": lambda k: keras.optimizers.SGD(schedule(0.05 * k, k), momentum=0.9),
    "SGD, rate x root": lambda k: keras.optimizers.SGD(schedule(0.05 * k**0.5, k), momentum=0.9),
    "LAMB, rate x root": lambda k: ko.optimizers.LAMB(schedule(0.01 * k**0.5, k)),
}

results = {name: [] for name in optimizers}
for name, make in optimizers.items():
    for batch in SIZES:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(64, activation="relu") for _ in range(3)]
        model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10, "softmax")])
        model.compile(make(batch // 30), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x, y, batch, EPOCHS, verbose=0)
        results[name].append(model.evaluate(x_test, y_test, verbose=0)[1])

print(
    f"test accuracy after {EPOCHS} epochs\nbatch            "
    + "".join(f"{size:8}" for size in SIZES)
)
for name, accuracies in results.items():
    print(f"{name:17}" + "".join(f"{accuracy:8.1%}" for accuracy in accuracies))

figure = Figure(figsize=(6.4, 4), layout="constrained")
axes = figure.subplots()
axes.set_prop_cycle(color=["#D55E00", "#0072B2", "#009E73"], marker=["x", "o", "s"])
for name, accuracies in results.items():
    axes.plot(SIZES, accuracies, label=name)
axes.set(xlabel="batch size", ylabel="test accuracy", title=f"{EPOCHS} epochs each", xticks=SIZES)
axes.legend()
figure.savefig(out / "accuracy.png", dpi=150)
print(f"\nplot    {out / 'accuracy.png'}")
