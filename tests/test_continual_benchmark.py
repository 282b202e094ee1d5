"""The pieces of `benchmarks/continual.py`: files, our side, intervals, the page."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="the benchmark runs on JAX")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    yield
    for name in [n for n in sys.modules if n.split(".")[0] == "forgetting"]:
        monkeypatch.delitem(sys.modules, name)


def test_our_side_begins_anew_for_each_seed(tmp_path):
    from forgetting.ours import Trainer
    from forgetting.study import SETTINGS, Runs, Tasks, path_of, study
    from forgetting.tasks import write

    small = dataclasses.replace(SETTINGS["split digits, domain"], epochs=1, per_class=16)
    for seed in (0, 1, 100):
        write(tmp_path, small, seed)
    files = [Tasks.load(path_of(tmp_path, small.name, seed)) for seed in (0, 1)]
    for tasks in files:
        assert [len(x) for x, _ in tasks.train] == [32] * 5
        assert sum(len(x) for part in (tasks.train, tasks.test) for x, _ in part) == 1797
        assert all(set(y) == {0, 1} for _, y in tasks.train + tasks.test)
    assert not np.array_equal(files[0].weights[0], files[1].weights[0])

    trainer = Trainer(small, "EWC")
    runs = [trainer.train(files[seed], strength, 0, given=True)[0] for seed, strength in
            ((0, 10.0), (1, 10.0), (0, 1e4), (0, 10.0))]  # fmt: skip
    for i, (first, again) in enumerate(zip(runs[0][-1], runs[3][-1], strict=True)):
        np.testing.assert_allclose(first, again, atol=1e-5, err_msg=f"weight {i}")
    assert np.max(np.abs(runs[0][-1][0] - runs[2][-1][0])) > 1e-3

    runs = Runs(tmp_path / "runs.jsonl")
    result = study(trainer, small, "EWC", tmp_path, runs, (100,), (0, 1), grid=[10.0, 1e4])
    runs = Runs(tmp_path / "runs.jsonl")  # knows them all, and needs no trainer
    assert study(None, small, "EWC", tmp_path, runs, (100,), (0, 1), grid=[10.0, 1e4]) == result
    scores = {strength: np.mean(found) for strength, found in result["tuning"]}
    assert result["strength"] == max(scores, key=scores.__getitem__)
    assert np.shape(result["matrices"]) == (2, 5, 5)
    assert np.mean([m[i][i] for m in result["matrices"] for i in range(5)]) > 0.6


def test_what_is_left_to_chance_is_repeated(tmp_path, monkeypatch):
    from forgetting import study as module
    from forgetting.ours import Trainer
    from forgetting.tasks import write

    monkeypatch.setattr(module, "REPEATS", {"replay": 2})
    small = dataclasses.replace(module.SETTINGS["split digits, domain"], epochs=1, per_class=16)
    write(tmp_path, small, 0)
    trainer, runs = Trainer(small, "replay"), module.Runs(tmp_path / "runs.jsonl")
    result = module.study(trainer, small, "replay", tmp_path, runs, (), (0,))
    (repeats,) = result["repeats"]
    assert len(repeats) == 2 and repeats[0] != repeats[1]
    np.testing.assert_allclose(np.mean(result["matrices"][0][-1]), np.mean(repeats), atol=1e-4)


def test_accuracies_know_the_heads():
    from forgetting.study import Tasks, accuracies

    x, y = np.eye(2), np.array([0, 1])
    # The first layer hands its inputs on, the second prefers class 2 to both.
    weights = [np.eye(2), np.zeros(2), np.array([[1.0, 0, 2], [0, 1, 2]]), np.zeros(3)]
    tasks = Tasks([], [(x, y), (x, np.array([2, 1]))], [(0, 1), (1, 2)], [])
    assert accuracies(weights, tasks, "task") == [1.0, 0.5]
    assert accuracies(weights, tasks, "class") == [0.0, 0.5]


def test_interval_is_that_of_the_mean():
    from forgetting.report import difference

    rng = np.random.default_rng(0)
    theirs = rng.normal(50, 20, 400)
    pairs = rng.normal(1, 2, 400)  # their spread is that of the pairs, not of either side
    mean, low, high = difference(theirs + pairs, theirs)
    half = 1.96 * pairs.std() / 20
    np.testing.assert_allclose([mean, low, high], pairs.mean() + np.array([0, -half, half]),
                               atol=0.02)  # fmt: skip


def test_page_keeps_what_stands_before_the_tables(tmp_path):
    from forgetting.report import write

    def result(side, accuracy):
        matrices = [[[accuracy + 0.1, 0], [accuracy, accuracy + 0.01 * seed]] for seed in range(3)]
        place = {"side": side, "setting": "permuted digits", "method": "EWC"}
        tuning = [[s, [0.5]] for s in (1.0, 10.0, 100.0)]
        return place | {"strength": 10.0 if side == "ours" else 100.0, "tuning": tuning,
                        "matrices": matrices}  # fmt: skip

    def time(side, seconds):
        place = {"side": side, "setting": "permuted digits", "method": "EWC"}
        return place | {"first": [1.0 + seconds, 1.0], "again": [[seconds, 0.2]]}

    raw = {
        "about": {"ours": {"keras": "3"}},
        "results": [result("ours", 0.8), result("theirs", 0.5)],
        "times": [time("ours", 0.1), time("theirs", 0.4)],
        "conversions": [{"name": "EWC", "off": 1e-6, "ratio": 1.0, "cosine": 1.0}],
    }
    page = tmp_path / "page.md"
    page.write_text("Prose.\n")
    write(raw, page)
    once = page.read_text()
    write(raw, page)
    assert page.read_text() == once
    assert once.startswith("Prose.\n")
    assert "| +30.00 (+30.00 to +30.00) | better | 10.0 | 10.0 | 10 | 100 (most) |" in once
    assert "| permuted digits | EWC | 100 | 400 | 0.25 | 1.00 | 1100 | 1400 | 0.79 |" in once
