"""Importing the package asks for keras, numpy and the backend, and for nothing else."""

import subprocess
import sys

EXTRAS = (
    "matplotlib",
    "sklearn",
    "tensorboard",
    "optax",
    "tf_keras",
    "tensorflow_model_optimization",
)


def test_import_needs_no_extra():
    blocked = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS}))"  # None makes import fail
    subprocess.run([sys.executable, "-c", f"{blocked}; import keras_optkit"], check=True)


def test_an_unknown_backend_is_named():
    script = (
        "import keras; keras.backend.backend = lambda: 'openvino'\n"
        "try:\n    import keras_optkit\nexcept ImportError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "not on 'openvino'" in run.stdout
    assert "KERAS_BACKEND" in run.stdout
