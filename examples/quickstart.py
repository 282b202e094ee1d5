"""Train, watch, save, resume and export a small network."""

from pathlib import Path

import keras
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_optkit as ko

out = Path("runs/quickstart")
out.mkdir(parents=True, exist_ok=True)

# 1797 handwritten digits of 8 x 8 pixels
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32").reshape(-1, 8, 8, 1)
x, x_test, y, y_test = train_test_split(x, y, train_size=1200, random_state=0)

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, activation="relu", name="conv_1"),
        keras.layers.Conv2D(32, 3, activation="relu", name="conv_2"),
        keras.layers.Flatten(),
        keras.layers.Dense(10, activation="softmax", name="head"),
    ]
)
cosine = keras.optimizers.schedules.CosineDecay(0.03, decay_steps=216)
optimizer = ko.optimizers.RAdam(
    ko.schedules.Warmup(cosine, steps=24),
    weight_decay=0.05,
    gradient_transforms=[ko.transforms.AdaptiveClip(0.1, exclude="head")],
    groups=ko.optimizers.no_decay_groups(model),
)
model.compile(
    ko.optimizers.Lookahead(optimizer), "sparse_categorical_crossentropy", metrics=["accuracy"]
)

monitor = ko.callbacks.GradientMonitor(every=6)
model.fit(x, y, batch_size=60, epochs=6, callbacks=[monitor], verbose=2)
half_way = model.evaluate(x_test, y_test, verbose=0)[1]
model.save(out / "model.keras")  # weights, optimizer and schedule, all in one file

model = keras.saving.load_model(out / "model.keras")  # as you would tomorrow
model.fit(x, y, batch_size=60, initial_epoch=6, epochs=12, callbacks=[monitor], verbose=2)
resumed = model.evaluate(x_test, y_test, verbose=0)[1]
if keras.backend.backend() == "torch":
    exported = "skipped: Keras cannot from torch, but model.keras loads on TensorFlow, which can"
else:  # for TensorFlow Serving, without Keras; on JAX this needs TensorFlow installed
    model.export(out / "saved_model", verbose=False)
    exported = str(out / "saved_model")

figure = Figure(figsize=(6.4, 4), layout="constrained")
axes = figure.subplots()
axes.set_prop_cycle(color=["#0072B2", "#D55E00", "#009E73"])  # for color-blind eyes, too
axes.plot(monitor.steps, monitor.gradient_norms, label=monitor.layers)
axes.axvline(6 * 20, color="gray", linewidth=1)
axes.text(6 * 20 + 2, axes.get_ylim()[1], "saved, loaded, resumed", va="top", color="gray")
axes.set(xlabel="step", ylabel="gradient norm", yscale="log", title="Gradient norm of each layer")
axes.legend()
figure.savefig(out / "gradient_norms.png", dpi=150)

print(f"\ntest accuracy  {half_way:.1%} when saved, {resumed:.1%} after resuming")
print(f"gradients      measured {len(monitor.steps)} times, {len(monitor.flags)} layers in trouble")
print(f"export         {exported}\nplot           {out / 'gradient_norms.png'}")
