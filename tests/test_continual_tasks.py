"""Tasks, heads, the accuracy matrix and what it says, each judged by a plain loop."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy import ndimage, special

from keras_optkit import continual
from keras_optkit.continual import (
    MaskedCrossentropy,
    ReplayBuffer,
    Task,
    evaluate_tasks,
    gdumb,
    masked_logits,
    permuted_tasks,
    rotated_tasks,
    split_tasks,
)

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 6, 60)
X = np.stack([np.arange(60), Y], axis=1).astype("float32")


@pytest.mark.parametrize("setting", ["task", "domain", "class"])
def test_split_tasks(setting):
    tasks = split_tasks(X, Y, 3, setting, test=(X[:20], Y[:20]), classes=[4, 0, 2, 1, 5, 3])
    assert [task.name for task in tasks] == ["classes 4, 0, 2", "classes 1, 5, 3"]
    for task, group in zip(tasks, ([4, 0, 2], [1, 5, 3]), strict=True):
        assert task.setting == setting
        assert task.classes == ((0, 1, 2) if setting == "domain" else tuple(group))
        for (x, y), count in ((task, 60), (task.test, 20)):
            rows = [i for i in range(count) if Y[i] in group]
            np.testing.assert_array_equal(x, X[rows])
            expected = [group.index(Y[i]) if setting == "domain" else Y[i] for i in rows]
            np.testing.assert_array_equal(y, expected)
            assert y.dtype == Y.dtype


def test_split_tasks_of_other_forms():
    one_hot, column = np.eye(6, dtype="float32")[Y], Y[:, None].astype("uint8")
    for task, hot, tall, nested in zip(
        split_tasks(X, Y, 2, "domain"),
        split_tasks(X, one_hot, 2, "domain"),
        split_tasks(X, column, 2, "domain"),
        split_tasks({"a": X, "b": (X, Y)}, Y, 2, "domain"),
        strict=True,
    ):
        x, y = task
        np.testing.assert_array_equal(hot.train[1], np.eye(2)[y])
        np.testing.assert_array_equal(tall.train[1], y[:, None])
        assert (hot.train[1].dtype, tall.train[1].dtype) == ("float32", "uint8")
        np.testing.assert_array_equal(nested.train[0]["a"], x)
        np.testing.assert_array_equal(nested.train[0]["b"][1], x[:, 1])
    assert [task.name for task in split_tasks(X, Y, 1, classes=[3, 1])] == ["class 3", "class 1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"classes_per_task": 4}, "must divide the number of classes, 6"),
        ({"classes_per_task": 0}, "`classes_per_task`"),
        ({"setting": "classes"}, "'task', 'domain', 'class'"),
        ({"classes": [0, 7]}, r"must be different ones of \[0, 1, 2, 3, 4, 5\]"),
        ({"classes": [0, 0]}, "must be different"),
        ({"y": np.zeros((60, 2, 2))}, "one label for each sample"),
        ({"y": Y[:50]}, "{'x': 60, 'y': 50}"),
    ],
)
def test_split_tasks_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        split_tasks(**({"x": X, "y": Y} | arguments))


def test_permuted_tasks():
    x = RNG.integers(0, 255, (7, 3, 4, 2)).astype("uint8")
    tasks = permuted_tasks({"a": x, "b": X[:7]}, Y[:7], 3, seed=1, test=({"a": x, "b": X[:7]}, Y))
    again = permuted_tasks({"a": x, "b": X[:7]}, Y[:7], 3, seed=1)
    np.testing.assert_array_equal(tasks[0].train[0]["a"], x)
    orders = []
    for task, twin in zip(tasks, again, strict=True):
        a = task.train[0]["a"]
        assert a.dtype == x.dtype
        np.testing.assert_array_equal(a, twin.train[0]["a"])
        np.testing.assert_array_equal(a, task.test[0]["a"])
        # The samples that are given tell the order: row i of the identity has 1 in place i.
        orders.append(
            [np.argmax((a.reshape(7, -1) == v[:, None]).all(0)) for v in x.reshape(7, -1).T]
        )
        assert (task.setting, task.classes) == ("domain", tuple(np.unique(Y[:7])))
    for order in orders:
        assert sorted(set(order)) == list(range(24))
    assert len({tuple(order) for order in orders}) == 3
    with pytest.raises(ValueError, match="`n`"):
        permuted_tasks(X, Y, 0)


@pytest.mark.parametrize("shape", [(3, 8, 8, 1), (2, 7, 9), (2, 5, 4, 3)])
def test_rotated_tasks(shape):
    x = RNG.random(shape)
    angles = [0, 90, -30, 12.5, 200]
    if shape[1] != shape[2]:
        angles.remove(90)  # where pixels lie between, and are not the corners of a quarter turn
    tasks = rotated_tasks(x, Y[: len(x)], angles, test=(x, Y[: len(x)]))
    for task, angle in zip(tasks, angles, strict=True):
        expected = ndimage.rotate(x, angle, (2, 1), False, order=1, mode="grid-constant")
        np.testing.assert_allclose(task.train[0], expected, atol=1e-9)
        np.testing.assert_array_equal(task.test[0], task.train[0])
        assert task.name == f"{angle:g} degrees"
        if angle == 90:
            np.testing.assert_array_equal(task.train[0], np.rot90(x, 1, (1, 2)))
    images = (255 * x).astype("uint8")
    turned = rotated_tasks(images, Y, [12.5])[0].train[0]
    assert turned.dtype == "uint8"
    expected = ndimage.rotate(images * 1.0, 12.5, (2, 1), False, order=1, mode="grid-constant")
    assert np.abs(turned - expected).max() < 0.501
    with pytest.raises(ValueError, match=r"images.*\(60, 2\)"):
        rotated_tasks(X, Y, [1])


def crossentropy(logits, labels, groups):
    return [
        special.logsumexp([row[c] for c in next(g for g in groups if label in g)]) - row[label]
        for row, label in zip(logits.astype("float64"), labels, strict=True)
    ]


def test_masked_crossentropy_is_a_head_for_each_task():
    groups = [(4, 0), (1, 2, 3)]
    logits = RNG.normal(0, 5, (12, 5)).astype("float32")
    labels = RNG.integers(0, 5, 12)
    loss = MaskedCrossentropy(groups, reduction=None)
    for y in (labels, labels[:, None].astype("float32")):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(loss(y, logits)),
            crossentropy(logits, labels, groups),
            rtol=1e-5,
            atol=1e-6,
        )
    alone = MaskedCrossentropy([(0, 1)], reduction=None)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(alone(labels, logits)),
        crossentropy(logits, labels, [(0, 1), range(5)]),
        rtol=1e-5,
        atol=1e-6,
    )
    half = loss(labels, keras.ops.cast(logits, "float16"))
    assert np.isfinite(keras.ops.convert_to_numpy(half)).all()


def test_masked_crossentropy_moves_the_heads_of_the_batch_only():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(6)])
    model.compile("sgd", MaskedCrossentropy([(0, 1), (2, 3), (4, 5)]))
    before = model.get_weights()
    which = np.flatnonzero(Y < 2)
    model.fit(X[which] / 60, Y[which], epochs=1, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new[..., 2:], old[..., 2:])
        assert np.abs(new[..., :2] - old[..., :2]).min() > 0


def test_masked_crossentropy_refuses():
    with pytest.raises(ValueError, match="twice"):
        MaskedCrossentropy([(0, 1), (1, 2)])
    with pytest.raises(ValueError, match="the model has 2"):
        MaskedCrossentropy([(0, 1), (2, 3)])(np.array([0]), np.zeros((1, 2), "float32"))
    with pytest.raises(TypeError, match="integer"):
        MaskedCrossentropy([(0.5, 1)])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_masked_logits(dtype):
    logits = keras.ops.cast(RNG.normal(size=(4, 5)).astype("float32"), dtype)
    masked = masked_logits(logits, [3, 1])
    assert keras.backend.standardize_dtype(masked.dtype) == dtype
    share = keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.softmax(masked), "float32"))
    assert (share[:, [0, 2, 4]] == 0).all()
    assert (share[:, [1, 3]] > 0).all()
    for classes in ([], [5], [-1]):
        with pytest.raises(ValueError, match="of which there are 5"):
            masked_logits(logits, classes)


class Outputs:
    """A model that has its outputs as inputs."""

    def predict(self, x, batch_size, verbose):
        assert isinstance(x, tuple) or len(x) % batch_size == 0
        return x


def test_evaluate_tasks():
    outputs, labels = RNG.normal(size=(60, 6)), Y.copy()
    outputs[7] = np.nan
    tasks = [
        Task("all", (X, Y), (outputs, labels), (0, 1, 2, 3, 4, 5), "class"),
        Task("known", (X, Y), (outputs, np.eye(6)[labels]), (0, 2, 4), "task"),
        Task("some", (X, Y), (outputs[:13], labels[:13, None]), (0, 1), "domain"),
    ]
    expected = []
    for task in tasks:
        right = 0
        for row, label in zip(task.test[0], labels, strict=False):
            places = task.classes if task.setting == "task" else range(6)
            best = max(places, key=lambda c, row=row: row[c])
            right += best == label and not np.isnan(row).any()
        expected.append(right / len(task.test[0]))
    R = evaluate_tasks(Outputs(), tasks, batch_size=16)
    np.testing.assert_allclose(R, [expected])
    np.testing.assert_allclose(evaluate_tasks(Outputs(), tasks, R), [expected, expected])
    np.testing.assert_allclose(evaluate_tasks(Outputs(), tasks, R[0]), [expected, expected])
    by_score = evaluate_tasks(Outputs(), tasks, score=lambda y, outputs: len(y) + len(outputs))
    np.testing.assert_array_equal(by_score, [[120, 120, 26]])


def test_evaluate_tasks_refuses():
    def evaluate(x=X, y=Y, rows=None, test=True):
        return evaluate_tasks(Outputs(), [Task("a", (x, y), (x, y) if test else None)], rows)

    with pytest.raises(TypeError, match=r"`tasks` must be a list of Task\(name, \(x, y\), test="):
        evaluate_tasks(Outputs(), [(X, Y)])
    with pytest.raises(ValueError, match=r"'a' has no test data.*test=\(x_test, y_test\)"):
        evaluate(test=False)
    with pytest.raises(ValueError, match=r"one output for each class.*\(60, 1\)"):
        evaluate(x=X[:, :1])
    with pytest.raises(ValueError, match=r"one output for each class.*tuple"):
        evaluate(x=(X, X))
    with pytest.raises(ValueError, match=r"one column for each of the 1 tasks.*\(1, 2\)"):
        evaluate(rows=[0.1, 0.2])
    with pytest.raises(ValueError, match="no sample"):
        evaluate(x=X[:0], y=Y[:0])
    with pytest.raises(ValueError, match=r"{'x': 60, 'y': 3}"):
        evaluate(y=Y[:3])


def mean(values):
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.parametrize("T", [2, 3, 7])
def test_metrics(T):
    R, baseline = RNG.random((T, T)), RNG.random(T)
    last = T - 1
    expected = {
        "accuracy": mean(R[last][j] for j in range(T)),
        "learning_accuracy": mean(R[i][i] for i in range(T)),
        "incremental_accuracy": mean(mean(R[i][j] for j in range(i + 1)) for i in range(T)),
        "forgetting": mean(max(R[i][j] for i in range(last)) - R[last][j] for j in range(last)),
        "backward_transfer": mean(R[last][i] - R[i][i] for i in range(last)),
    }
    for name, value in expected.items():
        assert getattr(continual, name)(R) == pytest.approx(value, abs=1e-12), name
        assert getattr(continual, name)(R.tolist()) == pytest.approx(value, abs=1e-12), name
    forward = mean(R[i - 1][i] - baseline[i] for i in range(1, T))
    for start in (baseline, baseline[None].tolist()):
        assert continual.forward_transfer(R, start) == pytest.approx(forward, abs=1e-12)
    assert continual.accuracy(R[-1]) == continual.accuracy(R)


def test_metrics_refuse():
    row = [[0.1, 0.2, 0.3]]
    for metric in (
        continual.learning_accuracy,
        continual.incremental_accuracy,
        continual.forgetting,
        continual.backward_transfer,
        lambda R: continual.forward_transfer(R, row),
    ):
        with pytest.raises(ValueError, match=r"R = evaluate_tasks\(model, tasks, R\).*\(1, 3\)"):
            metric(row)
    with pytest.raises(ValueError, match="at least 2 tasks"):
        continual.forgetting([[0.5]])
    with pytest.raises(ValueError, match=r"one accuracy for each of the 2 tasks. Received: 3"):
        continual.forward_transfer(np.eye(2), row)
    with pytest.raises(ValueError, match="must be a matrix"):
        continual.accuracy([])


def test_plots():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    R = RNG.random((3, 3))
    tasks = [Task(name, (X, Y)) for name in "abc"]
    axes = continual.plot_matrix(R, tasks, figure.add_subplot())
    assert [text.get_text() for text in axes.texts] == [f"{100 * r:.0f}" for r in R.ravel()]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]
    axes = continual.plot_matrix(R[:2], None, figure.add_subplot())
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1", "2"]
    axes = continual.plot_task_curves(R, list("abc"), figure.add_subplot())
    for j in range(3):
        np.testing.assert_allclose(axes.lines[j].get_ydata(), R[j:, j])
    np.testing.assert_allclose(axes.lines[3].get_ydata(), [mean(R[i, : i + 1]) for i in range(3)])
    results = {100: [R, R / 2], 0: R, 10: np.stack([R, R])}
    axes = continual.plot_strength_sweep(results, figure.add_subplot())
    assert axes.lines[0].get_xdata().tolist() == [0, 10, 100]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), R[2, 2] * np.array([1, 1, 0.75]))
    figure.canvas.draw()
    with pytest.raises(ValueError, match="each of the 3 columns"):
        continual.plot_matrix(R, ["a"], axes)
    with pytest.raises(ValueError, match="at least one strength"):
        continual.plot_strength_sweep({}, axes)
    with pytest.raises(ValueError, match="two tasks"):
        continual.plot_strength_sweep({1: [[0.5]]}, axes)


def test_gdumb_trains_a_new_model_on_the_buffer_alone():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(5.0), loss, metrics=["accuracy"])
    model.fit(np.eye(6)[Y], (Y + 1) % 6, batch_size=60, epochs=5, verbose=0)
    before = model.get_weights()
    buffer = ReplayBuffer(18, "class_balanced")
    for x, y in split_tasks(np.eye(6, dtype="float32")[Y], Y):
        buffer.add(x, y)
    new = gdumb(model, buffer, epochs=12, batch_size=18, verbose=0)
    assert new.evaluate(np.eye(6)[Y], Y, verbose=0)[1] == 1.0
    assert type(new.optimizer) is type(model.optimizer)
    for ours, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, old)
    with pytest.raises(ValueError, match="compiled"):
        gdumb(keras.Sequential([keras.Input((6,)), keras.layers.Dense(6)]), buffer)
    with pytest.raises(ValueError, match="empty"):
        gdumb(model, ReplayBuffer(3))


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="one backend, the quickest")
def test_the_example(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    script = Path(__file__).parent.parent / "examples" / "continual_digits.py"
    run = subprocess.run(
        [sys.executable, script], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    naive, replay, baseline = (
        float(re.search(rf"^{name} +(\d+\.\d)%", run.stdout, re.MULTILINE)[1])
        for name in ("naive", "replay", "GDumb")
    )
    assert naive < 40 < 70 < min(replay, baseline), run.stdout
    picture = tmp_path / "runs/continual_digits/accuracy.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
