"""The notebooks are sound files, and their cells run from first to last, in a small setting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]
BACKEND = keras.backend.backend()
NOTEBOOKS = ("colab_tpu", "colab_quickstart")

RUN = """
import json, sys
names = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
"""


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_a_sound_file_without_outputs(name):
    notebook = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            keys |= {"outputs", "execution_count"}
        assert cell.keys() == keys


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="the backend of the notebooks")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(name, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    settings = {"KERAS_OPTKIT_SMALL": "1", "KERAS_BACKEND": BACKEND, "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(ROOT / "examples" / f"{name}.ipynb")],
        cwd=tmp_path,
        env=os.environ | settings | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        capture_output=True,
        check=False,
        encoding="utf-8",
        errors="replace",
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if name == "colab_tpu":
        assert "largest difference after reloading 0.0e+00" in done.stdout, done.stdout
        assert (tmp_path / "vit").is_dir() or "needs TensorFlow" in done.stdout
    else:
        assert "half the channels" in done.stdout, done.stdout
        assert (tmp_path / "digits.keras").exists()
