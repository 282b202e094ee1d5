"""Writes the files that both sides read: the tasks, and the weights to begin with."""

import functools
from pathlib import Path

import numpy as np

from forgetting.study import BATCH, HIDDEN, Setting, path_of
from keras_optkit.continual import permuted_tasks, rotated_tasks, split_tasks

ANGLES = (0, 30, 60, 90, 120)


@functools.cache
def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images of shape `(n, height, width)`, and labels."""
    if name != "mnist1d":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images, labels = (digits.images / 16).astype("float32"), digits.target.astype("int32")
        if name == "digits":
            return images, labels
        # As many, as large, and different from each other.
        rng = np.random.default_rng(0)
        which = np.concatenate([rng.choice(np.flatnonzero(labels == c), 6400) for c in range(10)])
        large = np.pad(np.kron(images[which], np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
        return (large + 0.1 * rng.standard_normal(large.shape)).astype("float32"), labels[which]
    from mnist1d.data import get_dataset_args, make_dataset

    made = make_dataset(get_dataset_args())
    x = np.concatenate([made["x"], made["x_test"]]).astype("float32")
    return x[:, None], np.concatenate([made["y"], made["y_test"]]).astype("int32")


def write(folder: Path, setting: Setting, seed: int) -> Path:
    """Writes one file, unless it is there: for each seed another division, order and start."""
    path = path_of(folder, setting.name, seed)
    if path.exists():
        return path
    name = next((n for n in ("mnist1d", "28 x 28") if n in setting.name), "digits")
    rng = np.random.default_rng([7, seed])
    tasks = _tasks(setting, *_divided(name, setting.per_class, rng), rng)
    arrays: dict[str, np.ndarray] = {"classes": np.array([task.classes for task in tasks])}
    for i, task in enumerate(tasks):
        for part, (x, y) in (("train", task.train), ("test", task.test)):
            arrays[f"{part}_x{i}"] = np.asarray(x, "float32").reshape(len(x), -1)
            arrays[f"{part}_y{i}"] = np.asarray(y, "int32")
        assert len(arrays[f"train_x{i}"]) % BATCH == 0
    inputs = arrays["train_x0"].shape[1]
    for i, shape in enumerate([(inputs, HIDDEN), (HIDDEN, setting.outputs)]):
        limit = np.sqrt(6 / sum(shape))  # Glorot's
        arrays[f"weight{2 * i}"] = rng.uniform(-limit, limit, shape).astype("float32")
        arrays[f"weight{2 * i + 1}"] = np.zeros(shape[1], "float32")
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(path)
    return path


def _divided(name: str, per_class: int, rng) -> tuple:
    x, y = data(name)
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    train = np.zeros(len(x), bool)
    for label in range(10):
        train[np.flatnonzero(y == label)[:per_class]] = True
    return x[train], y[train], (x[~train], y[~train])


def _tasks(setting: Setting, x, y, test, rng) -> list:
    if setting.name.startswith("permuted"):
        return permuted_tasks(x, y, 5, seed=int(rng.integers(2**31)), test=test)
    if setting.name.startswith("rotated"):
        return rotated_tasks(x, y, ANGLES, test=test)
    names = rng.permutation(10).astype("int32")  # so that other classes come first
    return split_tasks(x, names[y], 2, setting.kind, test=(test[0], names[test[1]]))
