"""Make it small for a phone: fewer channels, then integers, and what each step costs."""

import sys
from pathlib import Path

import keras
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_optkit as ko

out = Path("runs/small_for_a_phone")
out.mkdir(parents=True, exist_ok=True)
EPOCHS, TUNE = (4, 1) if "--quick" in sys.argv else (15, 5)

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32").reshape(-1, 8, 8, 1)
x, x_test, y, y_test = train_test_split(x, y, train_size=1200, random_state=0)


def train(model, rate, epochs):
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(x, y, epochs=epochs, verbose=0)
    return model


keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
train(model, 3e-3, EPOCHS)
narrow = train(ko.compression.prune_channels(model, ratio=0.75), 1e-3, TUNE)
int8 = train(ko.compression.quantize_model(narrow), 1e-4, TUNE)
versions = {"as trained": model, "a quarter of the channels": narrow, "and int8": int8}

report = ko.compression.compression_report(versions, data=(x_test, y_test), repeats=50)
print(report)
int8.save(out / "int8.keras")
if keras.backend.backend() == "tensorflow":  # from JAX or torch: load the file there
    print(f"\nLiteRT  {ko.compression.export_litert(int8, out / 'model.tflite').path}")

figure = Figure(figsize=(6.4, 3.2), layout="constrained")
axes = figure.subplots()
colors = ["#D55E00", "#0072B2", "#009E73"]
for place, (row, color) in enumerate(zip(report.rows, colors, strict=True)):
    size = row.litert_bytes or row.gzip_bytes
    axes.barh(row.name, size / 1000, color=color)
    axes.text(size / 1000, place, f"  {row.score:.1%} correct", va="center")
axes.set(xlabel="kB to download", title="The same digits, ever smaller")
axes.margins(x=0.35)
axes.invert_yaxis()
figure.savefig(out / "sizes.png", dpi=150)
print(f"\nplot    {out / 'sizes.png'}")
