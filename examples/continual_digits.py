"""Learn digits two at a time: forgetting, and what replaying 200 old images does against it."""

from pathlib import Path

import keras
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_optkit import continual

out = Path("runs/continual_digits")
out.mkdir(parents=True, exist_ok=True)

# 1797 handwritten digits of 8 x 8 pixels: first 0 and 1, then 2 and 3, ... and never back
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
x, x_test, y, y_test = train_test_split(x, y, train_size=1200, random_state=0)
tasks = continual.split_tasks(x, y, 2, setting="class", test=(x_test, y_test))
EPOCHS, BATCH, MEMORY = 5, 32, 200


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(4e-3), "sparse_categorical_crossentropy")
    return model


def learn(name, buffer=None):
    model, R = network(), None
    for task in tasks:
        task_x, task_y = task
        if buffer is None:
            model.fit(task_x, task_y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
        else:  # as many old images as new ones in each batch
            data = continual.ReplayDataset(task_x, task_y, buffer, batch_size=BATCH)
            model.fit(data, epochs=EPOCHS, shuffle=False, verbose=0)
            buffer.add(task_x, task_y)
        R = continual.evaluate_tasks(model, tasks, R)
        print(f"{name:7} after {task.name}: accuracy " + " ".join(f"{a:5.1%}" for a in R[-1]))
    return R


buffer = continual.ReplayBuffer(MEMORY, policy="class_balanced")
results = {"naive": learn("naive"), "replay": learn("replay", buffer)}
buffer.save(out / "buffer.npz")  # to go on tomorrow

# The baseline to beat: train on the buffer alone, once all tasks are over.
alone = continual.gdumb(network(), buffer, batch_size=BATCH, epochs=20, verbose=0)
gdumb = continual.evaluate_tasks(alone, tasks)

figure = Figure(figsize=(9, 4), layout="constrained")
for axes, (name, R) in zip(figure.subplots(1, 2), results.items(), strict=True):
    continual.plot_matrix(R, tasks, axes).set_title(f"{name}: accuracy in %")
figure.savefig(out / "accuracy.png", dpi=150)

print(f"\n{'':7} accuracy  forgetting  learning accuracy")
for name, R in results.items():
    numbers = (continual.accuracy(R), continual.forgetting(R), continual.learning_accuracy(R))
    print(f"{name:7} {numbers[0]:8.1%} {numbers[1]:11.1%} {numbers[2]:18.1%}")
print(f"{'GDumb':7} {continual.accuracy(gdumb):8.1%}")
print(f"\nplot    {out / 'accuracy.png'}")
