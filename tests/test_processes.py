"""Two processes that train one model do what one does, and survive the loss of one."""

import csv
import json
import os
import signal

import keras
import numpy as np
import pytest

from tests import processes
from tests.processes import ROOT, example

BACKEND = keras.backend.backend()
TOLERANCE = 1e-5  # sums over a batch are added up in another order, in float32


@pytest.mark.skipif(BACKEND == "torch", reason="Keras' `fit` on torch is of one process")
@pytest.mark.parametrize(
    "killed", [False, pytest.param(True, marks=pytest.mark.heavy)], ids=["whole", "killed"]
)
def test_two_processes_equal_one_even_when_one_is_killed_on_the_way(killed, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # one device
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    one.mkdir()

    def launched(dies_after):
        start = [ROOT / "tests" / "processes.py", two, json.dumps(example.free_ports(2))]
        return example.launch([[*start, i, dies_after * i] for i in range(2)])

    if killed:
        assert launched(dies_after=3)[1] == -signal.SIGKILL
        assert len(list((two / "state").glob("checkpoint-*"))) == 2
    assert launched(dies_after=0) == [0, 0]
    runs = [dict(np.load(two / f"found-{i}.npz")) for i in range(2)]

    # Each file was written by one of them, and is whole.
    names = sorted(os.listdir(two))
    assert names == ["best-2.weights.h5", "found-0.npz", "found-1.npz", "gradients.csv", "state"]
    assert all(n.startswith(("checkpoint-", "finished-")) for n in os.listdir(two / "state"))
    with (two / "gradients.csv").open() as file:
        steps = [line["step"] for line in csv.DictReader(file) if line["layer"] == "body"]
    buffers = [(run.pop("buffer"), run.pop("sample")) for run in runs]
    assert not {*buffers[0][0]} & {*buffers[1][0]}  # each has kept some of its share
    assert not {*(buffers[0][0] // 2)} >= {*(buffers[1][0] // 2)}  # and not by the same draws
    assert len(buffers[0][1]) == 5

    model, expected, _ = processes.everything(0, 1, one)
    model.load_weights(two / "best-2.weights.h5")
    for i, weight in enumerate(model.get_weights()):
        np.testing.assert_array_equal(weight, runs[0][f"weight {i}"], err_msg=f"saved weight {i}")
    again = ["8", "9"] if killed else []  # since the last checkpoint, before the kill
    assert steps == [*map(str, range(10)), *again, "10", "11"]
    for place, run in enumerate(runs):
        assert run.keys() == expected.keys()
        for name, value in expected.items():
            message = f"{name} in process {place}"
            np.testing.assert_allclose(
                run[name], value, rtol=TOLERANCE, atol=TOLERANCE, err_msg=message
            )
            np.testing.assert_array_equal(run[name], runs[0][name], err_msg=message)
