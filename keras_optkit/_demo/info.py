"""What is installed here."""

import importlib.util
import platform
from importlib import metadata

import keras

from keras_optkit import __version__

# The modules that make up each extra: packages may go by several names, as TensorFlow's does.
EXTRAS = {
    "tensorflow": ("tensorflow",),
    "jax": ("jax",),
    "torch": ("torch",),
    "tfmot": ("tensorflow_model_optimization", "tf_keras", "tensorflow"),
    "litert": ("ai_edge_litert", "tensorflow"),
    "plots": ("matplotlib", "tensorboard"),
    "demo": ("matplotlib", "sklearn", "ai_edge_litert"),
}


def info() -> str:
    """Returns versions, backend, devices and extras, a line for each."""
    backend = keras.backend.backend()
    lines = {
        "keras_optkit": __version__,
        "keras": keras.__version__,
        "backend": f"{backend} {version(backend)}",
        "devices": ", ".join(devices()),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy": version("numpy"),
    }
    lines |= {f"extra {name}": _installed(modules) for name, modules in EXTRAS.items()}
    return "\n".join(f"{name:<17} {value}" for name, value in lines.items())


def version(module: str) -> str:
    """Returns the version of the package that holds `module`."""
    packages = metadata.packages_distributions().get(module)
    return metadata.version(packages[0]) if packages else "of unknown version"


def devices() -> list[str]:
    """Returns the devices that the backend may use, or the one it does use."""
    try:
        return keras.distribution.list_devices()
    except (AttributeError, NotImplementedError):  # torch
        return [str(keras.ops.zeros(()).device)]


def _installed(modules: tuple[str, ...]) -> str:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        return f"not installed, lacks {', '.join(missing)}"
    return ", ".join(f"{name} {version(name)}" for name in modules)
