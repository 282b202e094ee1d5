"""What TF-MOT prunes: run as a script, since importing TF-MOT changes `tf.keras` for a process.

    python tests/tfmot_pruning.py OUT.npz

Writes masks of single tensors, and a training run of a tf_keras model, step by step.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

STEPS, BATCH = 40, 16
SCHEDULE = {
    "initial_sparsity": 0.2,
    "final_sparsity": 0.8,
    "begin_step": 3,
    "end_step": 33,
    "power": 3,
    "frequency": 5,
}
SHAPES = [
    *((1,), (7,), (1000,), (5, 4), (64, 10), (3, 5, 8), (5, 3, 7), (3, 3, 4, 8), (1, 1, 16, 2)),
    (3, 3, 5, 5),
]
SPARSITIES = [0.0, 0.3, 0.5, 0.75, 0.987]
# Blocks that divide the matrix, or that stick out by a row or column.
BLOCKS = [
    *(((8, 6), (4, 2)), ((8, 6), (2, 3)), ((12, 8), (4, 4)), ((7, 5), (4, 2)), ((16, 9), (1, 5))),
    ((6, 6), (3, 1)),
]
GROUPS = [
    ((8, 3), (2, 4)),
    *(((7, 3), (2, 4)), ((9, 4), (1, 3)), ((3, 3, 8, 2), (2, 4)), ((2, 2, 6, 5), (1, 4))),
]


def installed() -> bool:
    return all(map(importlib.util.find_spec, ("tensorflow_model_optimization", "tf_keras")))


@functools.cache
def results(directory: Path) -> dict[str, np.ndarray]:
    """Returns what the script writes; once for this version of TF-MOT and of the script."""
    version = importlib.metadata.version("tensorflow-model-optimization")
    key = hashlib.sha256(Path(__file__).read_bytes() + version.encode()).hexdigest()[:16]
    path = directory / f"pruning-{key}.npz"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        aside = directory / f"{os.getpid()}.npz"
        environment = os.environ | {"TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": "tensorflow"}
        environment["CUDA_VISIBLE_DEVICES"] = ""
        subprocess.run([sys.executable, __file__, str(aside)], check=True, env=environment)
        aside.replace(path)  # another backend's tests may be doing the same
    with np.load(path) as stored:
        return dict(stored)


def images():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(STEPS * BATCH, 6, 6, 2)).astype("float32")
    return x, rng.integers(0, 5, len(x)).astype("int32")


def network(layers, models, inputs):
    """Returns the model of the run, made by tf_keras or by Keras 3."""
    return models.Sequential(
        [
            inputs((6, 6, 2)),
            layers.Conv2D(8, 3, activation="relu", name="conv_1"),
            layers.Conv2D(12, 3, activation="relu", name="conv_2"),
            layers.Flatten(),
            layers.Dense(16, activation="relu", name="dense"),
            layers.Dense(5, name="head"),
        ]
    )


def single_masks(tfmot, tf) -> dict[str, np.ndarray]:
    """Returns weights and masks by the kind of pruning, sparsity and number."""
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    rng = np.random.default_rng(0)
    found = {}

    def mask(name, weight, sparsity, block=(1, 1), pooling="AVG", group=None):
        variable = tf.Variable(weight)
        pruning = pruning_impl.Pruning(
            training_step_fn=lambda: tf.constant(1, tf.int64),
            pruning_vars=[(variable, variable, variable)],
            pruning_schedule=tfmot.sparsity.keras.ConstantSparsity(sparsity, 0),
            block_size=block,
            block_pooling_type=pooling,
            sparsity_m_by_n=group,
        )
        found[f"weight {name}"] = weight
        found[f"mask {name}"] = pruning._maybe_update_block_mask(variable)[1].numpy() == 1

    for shape in SHAPES:
        weight = rng.normal(size=shape).astype("float32")
        for sparsity in SPARSITIES:
            mask(f"magnitude {shape} {sparsity}", weight, sparsity)
        mask(f"ties {shape}", np.round(weight), 0.5)
    for shape, block in BLOCKS:
        weight = rng.normal(size=shape).astype("float32")
        for pooling in ("AVG", "MAX"):
            mask(f"block {shape} {block} {pooling}", weight, 0.5, block, pooling)
    mask("centred (14, 14) (4, 4)", rng.normal(size=(14, 14)).astype("float32"), 0.5, (4, 4))
    for shape, group in GROUPS:
        weight = rng.normal(size=shape).astype("float32")
        mask(f"group {shape} {group}", weight, 0.0, group=group)
    return found


def run(tfmot, tf_keras) -> dict[str, np.ndarray]:
    """Returns the weights of a run: first, masked after each update, and last of all."""
    tf_keras.utils.set_random_seed(0)
    model = network(tf_keras.layers, tf_keras.models, tf_keras.layers.InputLayer)
    found = {f"first {i}": w for i, w in enumerate(model.get_weights())}
    schedule = tfmot.sparsity.keras.PolynomialDecay(**SCHEDULE)
    pruned = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    raw, masks = [], []

    class Look(tf_keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            layers = [layer for layer in pruned.layers if layer.trainable_weights]
            raw.append([w.numpy() for layer in layers for w in layer.trainable_weights])
            masks.append([m.numpy() for layer in layers for _, m, _ in layer.pruning_vars])

    pruned.compile(
        tf_keras.optimizers.SGD(0.05, momentum=0.9),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    step = tfmot.sparsity.keras.UpdatePruningStep()
    x, y = images()
    pruned.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[step, Look()])
    # Step s masks before gradient s, so what update s made is masked by the mask of step s + 1.
    for s in range(STEPS - 1):
        for i, (weight, mask) in enumerate(zip(raw[s][::2], masks[s + 1], strict=True)):
            found[f"step {s} {2 * i}"] = weight * mask
            found[f"step {s} {2 * i + 1}"] = raw[s][2 * i + 1]
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    return found | {f"last {i}": w for i, w in enumerate(stripped.get_weights())}


def main() -> None:
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

    np.savez(sys.argv[1], **single_masks(tfmot, tf), **run(tfmot, tf_keras))


if __name__ == "__main__":
    main()
