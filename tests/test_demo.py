"""The demo and the examples run as a user runs them, and end in numbers worth reading."""

import csv
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_optkit import _demo
from keras_optkit._demo import compression, export, forgetting, statistics
from keras_optkit._demo.data import Shuffled
from keras_optkit._demo.info import EXTRAS

ROOT = Path(__file__).parents[1]
BACKEND = keras.backend.backend()


def python(*arguments, cwd=ROOT):
    environment = os.environ | {
        "KERAS_BACKEND": BACKEND,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "",  # one device
    }
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_demo(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    out = tmp_path / "demo"
    printed = python("-m", "keras_optkit", "--quick", "--out", out)
    assert re.search(r"^Lookahead\(RAdam\) +\d\d\.\d\d %", printed, re.MULTILINE), printed
    assert re.search(r"^AdamW +\d\d\.\d\d %", printed, re.MULTILINE), printed
    assert "One seed does not tell" in printed
    assert "equals, bit for bit, the uninterrupted one" in printed

    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    compared, resumed, exported, diagnosis, compressed, learned = results["stages"].values()
    assert min(compared["AdamW"]["test_accuracy"]) > 0.5
    assert min(compared["Lookahead(RAdam)"]["test_accuracy"]) > 0.5
    assert resumed["max_difference"] == 0.0
    assert resumed["arrays"] == 35  # 8 weights, 26 of the optimizers, the monitor's table
    if export.why_not(BACKEND):
        assert exported["skipped"] in printed
    else:
        assert exported["max_difference"] < 1e-4
        accuracy = compared["Lookahead(RAdam)"]["test_accuracy"][0]
        assert exported["test_accuracy"] == pytest.approx(accuracy, abs=1 / 799)

    assert 1e-5 < diagnosis["suggested_learning_rate"] < 1
    assert diagnosis["largest_eigenvalue"] > abs(diagnosis["smallest_eigenvalue"])
    check_compression(compressed, printed)
    check_forgetting(learned, printed)
    pictures = ("loss", "learning_rate", "gradient_norms", "diagnosis", "compression", "forgetting")
    for name in pictures:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with (out / "history.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 2 * 4
    assert (out / "gradients_adamw_seed0.csv").exists()


def check_compression(found, printed):
    rows = {row["name"]: row for row in found["versions"]}
    assert list(rows) == list(compression.VERSIONS)
    first, pruned, fewer, int8, both = rows.values()
    assert min(row["score"] for row in rows.values()) > first["score"] - 0.2
    assert pruned["nonzeros"] < 0.26 * pruned["parameters"]
    assert fewer["parameters"] < 0.4 * first["parameters"]
    if compression.why_not():
        assert found["skipped"] in printed
    else:
        assert min(found["agreement_with_keras"]) >= 0.99
        assert int8["litert_bytes"] < 0.35 * first["litert_bytes"]
        assert both["gzip_bytes"] < 0.7 * int8["gzip_bytes"]
        assert both["nonzeros"] < 0.3 * both["parameters"]


def check_forgetting(found, printed):
    assert list(found) == list(forgetting.LEARNERS)
    naive, ewc, replay, both = (np.array(row["accuracies"]) for row in found.values())
    np.testing.assert_array_equal(naive[0], ewc[0])
    np.testing.assert_array_equal(replay[0], both[0])
    assert naive[0, 0] > 0.5 and naive[0, 1] < 0.5
    assert both[1, 0] > naive[1, 0] and not np.array_equal(both[1], replay[1])
    assert f"the network knows {naive[1, 0]:.0%} of the digits 0 to 4" in printed


@pytest.mark.slow
def test_the_quickstart(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    printed = python(ROOT / "examples" / "quickstart.py", cwd=tmp_path)
    saved, resumed = map(float, re.findall(r"(\d+\.\d)%", printed)[-2:])
    assert 50 < saved < 100, printed
    assert 90 < resumed <= 100, printed
    assert "0 layers in trouble" in printed
    assert (tmp_path / "runs/quickstart/gradient_norms.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "runs/quickstart/saved_model").exists() or "skipped" in printed


def test_info():
    printed = python("-m", "keras_optkit", "info")
    assert re.search(rf"^backend +{BACKEND} \d", printed, re.MULTILINE)
    assert re.search(r"^devices +\S*cpu", printed, re.MULTILINE | re.IGNORECASE) or "gpu" in printed
    assert f"keras             {keras.__version__}" in printed


def test_info_knows_the_extras():
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert EXTRAS.keys() == extras.keys() - {"test", "dev", "docs"}
    assert {name: len(EXTRAS[name]) for name in EXTRAS} == {n: len(extras[n]) for n in EXTRAS}


def test_what_is_missing_is_named():
    with pytest.raises(SystemExit, match=r'no_such_module.*pip install "keras_optkit\[demo\]"'):
        _demo.require("numpy", "no_such_module")


def test_order_of_batches_depends_on_seed_and_epoch_alone():
    seen = []

    class Recorded(Shuffled):
        def __getitem__(self, index):
            batch = super().__getitem__(index)
            seen.append((index, batch[1].tolist()))
            return batch

    def orders(first, last, seed=0):
        batches = Recorded((np.zeros((12, 1)), np.arange(12)), 4, seed)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        epochs = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: seen.clear())
        taken = []
        done = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, _: taken.append(list(seen))
        )
        model.fit(
            batches,
            initial_epoch=first,
            epochs=last,
            shuffle=False,
            verbose=0,
            callbacks=[batches.follow(), epochs, done],
        )
        return taken

    whole = orders(0, 3)
    assert [index for index, _ in whole[1]] == [0, 1, 2]
    assert sorted(label for _, labels in whole[1] for label in labels) == list(range(12))
    assert whole[1] != whole[2]
    assert orders(1, 3) == whole[1:]
    assert orders(1, 3, seed=1) != whole[1:]


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([0.98, 0.98, 0.98], [0.97, 0.98, 0.97], "3 seeds do not tell A and B apart: +0.67 points"),
        ([0.99, 0.98, 0.99], [0.80, 0.81, 0.79], "A is more accurate here"),
        ([0.80, 0.81, 0.79], [0.99, 0.98, 0.99], "B is more accurate here"),
        ([0.80, 0.99, 0.60], [0.70, 0.60, 0.75], "do not tell A and B apart"),
        ([0.99], [0.5], "One seed does not tell which of A and B is better."),
    ],
)
def test_the_verdict_claims_no_more_than_the_spread_supports(ours, theirs, said):
    epochs = [3.0, 4.0, 3.0][: len(ours)]
    numbers = {
        "A": {"test_accuracy": ours, "epochs_to_target": epochs},
        "B": {"test_accuracy": theirs, "epochs_to_target": epochs},
    }
    assert said in statistics.compared(numbers, target=0.95, tested=800)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([3.0, 3.0, 4.0], [3.0, 4.0, 4.0], "differ by -0.3 ± 1.4, which may be chance."),
        ([4.0, 4.0, 4.0], [3.0, 3.0, 3.0], "differ by +1.0 ± 1.0, which may be chance."),
        ([3.0, 3.0, 4.0], [8.0, 9.0, 9.0], "A reaches 95 % in validation 5.3 epochs sooner."),
        ([3.0, float("nan"), 4.0], [8.0, 9.0, 9.0], "not every run reached 95 % in validation."),
    ],
)
def test_the_verdict_on_speed(ours, theirs, said):
    accuracy = [0.97, 0.98, 0.97]
    numbers = {
        "A": {"test_accuracy": accuracy, "epochs_to_target": ours},
        "B": {"test_accuracy": accuracy, "epochs_to_target": theirs},
    }
    assert statistics.compared(numbers, target=0.95, tested=800).endswith(said)


def test_interval_is_that_of_the_paired_t_test():
    scipy = pytest.importorskip("scipy.stats")
    first, second = np.random.default_rng(0).normal(size=(2, 5))
    expected = scipy.ttest_rel(first, second).confidence_interval(0.95)
    mean, half = statistics.interval(first, second)
    np.testing.assert_allclose([mean - half, mean + half], expected, rtol=1e-3)


def test_export_says_why_not(monkeypatch):
    assert "a .keras file loads on TensorFlow" in export.why_not("torch")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert "pip install tensorflow" in export.why_not("jax")


def test_compression_says_why_not(monkeypatch):
    monkeypatch.setattr(compression.importlib.util, "find_spec", lambda name: None)
    assert compression.why_not().endswith("pip install tensorflow ai-edge-litert")
