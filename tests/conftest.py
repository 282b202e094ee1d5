"""Devices for every backend that has several on a CPU, set before the backend starts."""

import functools
import gc
import os
from pathlib import Path

# Graphs are many small objects that live long: looking through them all takes a tenth of the time.
gc.set_threshold(50_000, 20, 50)

BACKEND = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")
if BACKEND == "jax":
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{given} --xla_force_host_platform_device_count=8"
    # Most of the time goes into compiling the same small steps again.
    cache = Path(__file__).parents[1] / ".pytest_cache" / "xla"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
if BACKEND == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)


@functools.cache
def two_replicas():
    """Returns the one strategy of the process.

    TensorFlow numbers the sums of each from the same number on, and refuses one whose shape was
    another in another strategy.
    """
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
