"""Is my network dying? Look before training, and while it trains."""

import sys
from pathlib import Path

import keras
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_optkit as ko

out = Path("runs/dying_units")
out.mkdir(parents=True, exist_ok=True)
EPOCHS = 3 if "--quick" in sys.argv else 8

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(
    (x / 16).astype("float32"), y, train_size=1200, random_state=0
)


def train(rate, initializer):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(64, "relu", kernel_initializer=initializer, name=f"hidden_{i}")
        for i in range(1, 6)
    ]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10, "softmax")])
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    report = ko.diagnostics.check_initialization(model, (x[:200], y[:200]))
    monitor = ko.callbacks.ActivationMonitor(x[:300], dead=0.3)
    model.fit(x, y, epochs=EPOCHS, callbacks=[monitor], verbose=0)
    return report, monitor, model.evaluate(x_test, y_test, verbose=0)[1]


runs = {
    "weights too small": train(0.02, keras.initializers.RandomNormal(stddev=0.01)),
    "learning rate too large": train(0.5, "he_normal"),
    "as it should be": train(0.02, "he_normal"),
}

figure = Figure(figsize=(9.6, 3.6), layout="constrained")
panels = figure.subplots(1, 3, sharey=True)
for axes, (name, (report, monitor, accuracy)) in zip(panels, runs.items(), strict=True):
    print(f"\n{name}: test accuracy {accuracy:.1%}")
    for said in (*report.verdict, *(flag.message for flag in monitor.flags[:2])):
        print(f"  {said}")
    if not report.verdict and not monitor.flags:
        print("  nothing to complain about")
    silent = monitor.column("silent")
    axes.imshow(silent.T, aspect="auto", vmin=0, vmax=1, cmap="magma")
    axes.set(title=f"{name}: {accuracy:.0%}", xlabel="epoch", xticks=range(len(silent)))
    axes.set_yticks(range(len(monitor.layers)), monitor.layers)
figure.colorbar(panels[0].images[0], ax=panels, label="share of silent units")
figure.savefig(out / "silent.png", dpi=150)
print(f"\nplot    {out / 'silent.png'}")
