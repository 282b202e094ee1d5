"""Importing TF-MOT through the package leaves `tf.keras` and the environment as they were."""

import importlib.util
import itertools
import subprocess
import sys

import keras
import pytest

from keras_optkit.compression import tfmot
from keras_optkit.compression.tfmot import _imports

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


@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_imports(order):
    lines = ["import os", *(IMPORTS[name] for name in order)]
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.parametrize("call", [tfmot.to_tf_keras, lambda model: tfmot.prune(model, print)])
def test_a_missing_extra_is_named(monkeypatch, call):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    found = _imports.tf_keras, _imports.tfmot
    for name in ("tensorflow_model_optimization", "tf_keras"):
        monkeypatch.setitem(sys.modules, name, None)
    for function in found:
        function.cache_clear()
    try:
        with pytest.raises(ImportError, match=r'pip install "keras_optkit\[tfmot\]"'):
            call(model)
    finally:
        monkeypatch.undo()
        for function in found:
            function.cache_clear()
