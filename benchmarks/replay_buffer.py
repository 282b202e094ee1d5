"""What it costs to keep 5,000 of 60,000 images of 784 numbers.

    python benchmarks/replay_buffer.py

For each policy: the time to show a buffer all images at once and in batches of 32, to draw a batch
of 32, to save and to load; the bytes that the samples take, which are what the buffer promises;
and the most bytes that NumPy had allocated while adding, which is the buffer and the copies on the
way. Images come class by class, as in class-incremental learning.
"""

import os
import tempfile
import time
import tracemalloc
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np

from keras_optkit.continual import ReplayBuffer
from keras_optkit.continual._policies import POLICIES

IMAGES, NUMBERS, CAPACITY, BATCH = 60_000, 784, 5_000, 32
BYTES = CAPACITY * (NUMBERS * 4 + 8)


def seconds(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def add_batches(buffer, x, y):
    for start in range(0, len(x), BATCH):
        buffer.add(x[start : start + BATCH], y[start : start + BATCH])


def main():
    rng = np.random.default_rng(0)
    x = rng.random((IMAGES, NUMBERS), dtype="float32")
    y = np.sort(rng.integers(0, 10, IMAGES))
    print("policy         add all  in batches  sample   save   load     samples  most while adding")
    for policy in POLICIES:
        at_once = ReplayBuffer(CAPACITY, policy, max_bytes=BYTES)
        tracemalloc.start()
        at_once.add(x, y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        add = min(seconds(ReplayBuffer(CAPACITY, policy).add, x, y) for _ in range(3))
        batches = seconds(add_batches, ReplayBuffer(CAPACITY, policy), x, y)
        sample = min(seconds(at_once.sample, BATCH) for _ in range(100))
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "buffer.npz"
            save = seconds(at_once.save, path)
            load = seconds(ReplayBuffer.load, path)
        assert at_once.nbytes == BYTES
        print(
            f"{policy:14} {add:6.3f}s {batches:10.3f}s {1e6 * sample:5.0f}us {save:5.3f}s "
            f"{load:5.3f}s {at_once.nbytes / 1e6:8.2f} MB {peak / 1e6:15.2f} MB"
        )


if __name__ == "__main__":
    main()
