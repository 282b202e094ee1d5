"""Each example runs, in its quick form, ends in numbers worth reading, and saves a picture."""

import re
import runpy
import sys
from pathlib import Path

import keras
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() == "torch", reason="runs eagerly, and takes minutes for the same"
    ),
]

# TensorFlow takes as long again: in each run of the suite there are those that differ there.
once = pytest.mark.heavy if keras.backend.backend() == "tensorflow" else lambda test: test


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")

    def run(name):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, "--quick"])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        (picture,) = (tmp_path / "runs" / name).glob("*.png")
        assert picture.read_bytes().startswith(b"\x89PNG")
        return capsys.readouterr().out

    return run


def shares(printed):
    return [float(number) / 100 for number in re.findall(r"(\d+\.\d+)%", printed)]


def test_nan_loss(run):
    printed = run("nan_loss")
    nothing, guarded, skipped = shares(printed)
    assert nothing < 0.2 < 0.7 < min(guarded, skipped), printed


@once
def test_learning_rate(run):
    *good, fastest, low = shares(run("learning_rate"))
    assert max(good) > max(fastest, low) and max(good) > 0.8


@once
def test_fine_tune(run):
    assert min(shares(run("fine_tune"))) > 0.6


@once
def test_large_batch(run):
    linear, root, lamb = zip(*[iter(shares(run("large_batch")))] * 2, strict=True)
    assert min(linear[0], root[0], lamb[0]) > 0.9 and lamb[1] > max(linear[1], root[1])


@once
@pytest.mark.filterwarnings("ignore:layer 'hidden")
def test_dying_units(run):
    printed = run("dying_units")
    small, large, right = printed.split("\n\n")[-4:-1]
    assert "Vanishing" in small and "dead" in large and "nothing to complain" in right
    assert shares(right)[0] > max(*shares(small)[:1], *shares(large)[:1])


@once
def test_flat_minima(run):
    adam, _, averaged, *_ = shares(run("flat_minima"))
    assert averaged > adam - 0.02 and adam > 0.7


@once
def test_teach_a_small_net(run):
    teacher, labels, _, taught = shares(run("teach_a_small_net"))
    assert teacher > 0.9 and taught > labels


def test_small_for_a_phone(run):
    first, narrow, int8 = shares(run("small_for_a_phone"))
    assert first > 0.9 and min(narrow, int8) > first - 0.1


def test_crash(run):
    printed = run("crash")
    assert (
        "30 batches: 1\n" in printed and "without any: 0.0" in printed and "equal: True" in printed
    )


@once
def test_pinn(run):
    adam, lbfgs = map(float, re.findall(r"loss (\S+),", run("pinn")))
    assert lbfgs < adam / 5
