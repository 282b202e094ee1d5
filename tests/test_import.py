"""Importing the package asks for keras, numpy and the backend, and for nothing else."""

import subprocess
import sys

import keras

BACKEND = keras.backend.backend()
NOT_NEEDED = {"tensorflow", "jax", "torch", "ai_edge_litert"} - {BACKEND} | {
    "matplotlib",
    "sklearn",
    "tensorboard",
    "optax",
    "tf_keras",
    "tensorflow_model_optimization",
}


def test_import_is_quick_and_needs_nothing_else():
    script = f"""
import gc, sys, time
sys.modules.update(dict.fromkeys({NOT_NEEDED}))  # None makes import fail
import keras
before = set(sys.modules)
gc.disable()  # or the garbage of keras would count, whenever it happens to be collected
start = time.process_time()
import keras_optkit
print(time.process_time() - start, {{name.split(".")[0] for name in {{*sys.modules}} - before}})
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, modules = run.stdout.split(maxsplit=1)
    assert float(seconds) < 0.3
    assert eval(modules) - sys.stdlib_module_names == {"keras_optkit"}


def test_an_unknown_backend_is_named():
    script = (
        "import keras; keras.backend.backend = lambda: 'openvino'\n"
        "try:\n    import keras_optkit\nexcept ImportError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "not on 'openvino'" in run.stdout
    assert "KERAS_BACKEND" in run.stdout
