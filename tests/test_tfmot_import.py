"""Importing TF-MOT through the package leaves `tf.keras` and the environment as they were."""

import importlib.util
import itertools
import subprocess
import sys

import keras
import pytest

if importlib.util.find_spec("tensorflow_model_optimization") is None:
    # Not importorskip: that import is the one which changes the process.
    pytest.skip("TF-MOT is not installed", allow_module_level=True)

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="each test takes a process of its own"
)
IMPORTS = {
    "keras": "import keras",
    "tensorflow": "import tensorflow",  # without a look at tf.keras, which settles it
    "ours": """
before = os.environ.get("TF_USE_LEGACY_KERAS")
import numpy as np
from keras_optkit.compression.tfmot import _imports, to_tf_keras
_imports.tfmot()
assert os.environ.get("TF_USE_LEGACY_KERAS") == before
import keras
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
x = np.ones((1, 3), "float32")
twin = to_tf_keras(model)
assert type(twin).__module__.startswith("tf_keras")
assert np.allclose(twin(x), keras.ops.convert_to_numpy(model(x)))
import tensorflow as tf
if before is None:
    assert tf.keras.__version__.startswith("3.")
""",
    "tfmot": "import tensorflow_model_optimization",
}
QUICK = [("keras", "tensorflow", "ours", "tfmot")]
ORDERS = [
    pytest.param(order, marks=[] if order in QUICK else pytest.mark.heavy, id="-".join(order))
    for order in itertools.permutations(IMPORTS)
]


def new_process(script):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_imports(order):
    lines = ["import os", *(IMPORTS[name] for name in order)]
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_a_missing_extra_is_named():
    script = """
import sys
sys.modules["tensorflow_model_optimization"] = sys.modules["tf_keras"] = None
import keras
from keras_optkit.compression import tfmot
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
for call in (lambda: tfmot.to_tf_keras(model), lambda: tfmot.prune(model, print)):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count('pip install "keras_optkit[tfmot]"') == 2
