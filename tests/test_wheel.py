"""What is uploaded: built, looked into, and installed where there is nothing else."""

import os
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path

import keras
import pytest

import keras_optkit

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[1]
BACKEND = keras.backend.backend()
FRAMEWORK = {"tensorflow": "tensorflow-cpu>=2.21", "jax": "jax", "torch": "torch==2.13.0"}[BACKEND]
TRAINS = """
import sys
import keras, keras_optkit as ko
import numpy as np
others = {"tensorflow", "jax", "torch"} - {keras.backend.backend()}
assert not others & sys.modules.keys(), sys.modules.keys() & others
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile(ko.optimizers.Lookahead(ko.optimizers.RAdam()), "mse")
x, y = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")
model.fit(x, y, callbacks=[ko.callbacks.GradientMonitor()], verbose=0)
model.save("model.keras")
keras.saving.load_model("model.keras").fit(x, y, verbose=0)
print(ko.__file__)
"""


def run(*command, cwd=ROOT):
    done = subprocess.run(
        list(map(str, command)),
        env={name: v for name, v in os.environ.items() if name != "PYTHONPATH"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fresh(directory, *packages):
    """Returns the Python of a new environment that holds `packages`."""
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", *packages)
    return python


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("built")
    python = fresh(directory / "venv", "build")
    run(python, "-m", "build", "--outdir", directory / "dist")
    (wheel,) = (directory / "dist").glob("*.whl")
    (source,) = (directory / "dist").glob("*.tar.gz")
    return wheel, source


def test_the_wheel_holds_the_package_and_its_licence(built):
    name = f"keras_optkit-{keras_optkit.__version__}"
    assert built[0].name == f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(built[0]) as file:
        names = set(file.namelist())
        metadata = file.read(f"{name}.dist-info/METADATA").decode()
    package = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("keras_optkit/**/*.py")}
    assert {n for n in names if ".dist-info/" not in n} == package | {"keras_optkit/py.typed"}
    assert f"{name}.dist-info/licenses/LICENSE" in names
    assert "License-Expression: Apache-2.0" in metadata and "# keras_optkit" in metadata
    runtime = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert sum("extra ==" not in line for line in runtime) == 2  # keras and numpy


def test_the_source_holds_the_tests_too(built):
    with tarfile.open(built[1]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    kept = {"LICENSE", "README.md", "CHANGELOG.md", "Makefile", "tests/test_wheel.py"}
    assert kept | {"keras_optkit/py.typed", "examples/quickstart.py"} <= names
    assert not any(name.startswith((".venv", "runs", "build")) for name in names)


def test_it_trains_where_there_is_no_other_framework(built, tmp_path):
    python = fresh(tmp_path / "venv", built[0], FRAMEWORK)
    said = run(python, "-c", TRAINS, cwd=tmp_path)
    assert str(tmp_path / "venv") in said
    info = run(python, "-m", "keras_optkit", "info", cwd=tmp_path)
    assert f"backend           {BACKEND}" in info
