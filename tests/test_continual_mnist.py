"""The pieces of `examples/continual_mnist.py`, on images of nothing."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).parent.parent / "examples" / "continual_mnist.py"
    spec = importlib.util.spec_from_file_location("continual_mnist", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def data():
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (40, 28, 28), "uint8"), np.arange(40, dtype="uint8") % 10)
        for _ in range(2)
    ]


def test_it_runs_from_file_to_table(example, tmp_path, monkeypatch, capsys):
    (x, y), (x_test, y_test) = data()
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    small = dataclasses.replace(example.PROTOCOLS["split"], tasks=2, units=4, batch_size=4)
    monkeypatch.setitem(example.PROTOCOLS, "split", small)
    arguments = [str(tmp_path / "mnist.npz"), "--steps", "2", "--settings", "class"]
    example.main([*arguments, "--methods", "EWC", "SI", "A-GEM"])
    out = capsys.readouterr().out
    lines = {line[:12].strip(): line[12:].split() for line in out.splitlines()[2:]}
    assert lines["none"] == ["-", "85.15", "-", "57.33", "-", "19.90"]
    assert lines["iCaRL 2019"][-1] == "94.57"
    assert 0 <= float(lines["EWC"][4]) <= 100
    assert lines["EWC"][5] == "19.90"
    assert 0 <= float(lines["A-GEM"][4]) <= 100
    example.main([*arguments[:3], "--settings", "task", "--methods", "EWC"])
    assert "EWC" in capsys.readouterr().out


def test_tasks_of_both_protocols(example):
    train, test = ((x.astype("float32") / 255, y.astype("int32")) for x, y in data())
    for setting, classes in (("task", 6), ("domain", 2), ("class", 6)):
        tasks = example.make_tasks("split", setting, train, test, 3)
        assert len(tasks) == 3
        assert 1 + max(max(task.classes) for task in tasks) == classes
        assert tasks[0].train[0].shape[1:] == (784,)
    for setting, classes in (("task", 30), ("domain", 10), ("class", 30)):
        tasks = example.make_tasks("permuted", setting, train, test, 3)
        model = example.network(example.PROTOCOLS["permuted"], tasks, 0)
        assert model.output_shape == (None, classes)
        assert [w.shape[-1] for w in model.weights[::2]] == [1000, 1000, classes]
        assert tasks[2].train[0].shape[1:] == (1024,)
        assert tasks[2].train[1].max() == classes - 1
        np.testing.assert_allclose(tasks[1].train[0].sum(1), train[0].sum((1, 2)), rtol=1e-4)


def test_what_is_missing_is_said(example, tmp_path):
    with pytest.raises(SystemExit, match=r"is not there. It should be Keras' mnist.npz"):
        example.load(str(tmp_path / "mnist.npz"))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(SystemExit, match=r"it lacks .*'x_test'"):
        example.load(str(tmp_path / "other.npz"))
