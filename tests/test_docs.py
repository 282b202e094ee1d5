"""Every example in a docstring and every Python block of the README runs."""

import doctest
import functools
import importlib
import inspect
import pkgutil
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_optkit

ROOT = Path(__file__).parent.parent


def documented():
    """Returns every public class and function that has an example, by name."""
    found = {}
    for info in pkgutil.walk_packages(keras_optkit.__path__, "keras_optkit."):
        if info.name.split(".")[1].startswith("_") or info.name.endswith(("torch", "jax")):
            continue
        module = importlib.import_module(info.name)
        for name, thing in vars(module).items():
            mine = getattr(thing, "__module__", None) == info.name and not name.startswith("_")
            if mine and callable(thing) and ">>>" in (inspect.getdoc(thing) or ""):
                found[f"{info.name}.{name}"] = thing
    return found


EXAMPLES = documented()
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_example(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.Model, "fit", functools.partialmethod(keras.Model.fit, verbose=0))
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1, name="head")])
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    names = {
        "keras": keras,
        "keras_optkit": keras_optkit,
        "ko": keras_optkit,
        "model": model,
        "x": rng.normal(size=(8, 4)).astype("float32"),
        "y": rng.normal(size=(8, 1)).astype("float32"),
    }
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(EXAMPLES[name]), names, name, None, 0)
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a pattern that matches nothing in this model
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_block(number, tmp_path):
    block = BLOCKS[number].replace("/tmp/", f"{tmp_path}/")
    exec(compile(block, "README.md", "exec"), {})


def test_readme_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)#?([^)]*)\)", (ROOT / "README.md").read_text())
    assert len(links) > 40
    for path, anchor in links:
        assert (ROOT / path).exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.M)
            assert anchor in [h.lower().replace(" ", "-") for h in headings], (path, anchor)


def test_every_public_name_has_an_example():
    public = {
        name
        for part in (keras_optkit.optimizers, keras_optkit.transforms, keras_optkit.schedules)
        for name, thing in vars(part).items()
        if not name.startswith("_") and callable(thing)
    }
    bases = {"Optimizer", "Wrapper", "Schedule", "OptimizeResult"}
    assert public - bases <= {name.split(".")[-1] for name in EXAMPLES}
