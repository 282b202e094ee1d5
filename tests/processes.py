"""What `test_processes.py` runs in each of two processes, and in one alone to compare.

python tests/processes.py <directory> <ports as JSON> <place> <batches until it dies, or 0>
"""

import json
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import two_processes as example  # noqa: E402  # before Keras: it is to be told first

BATCH, BATCHES, EPOCHS = example.BATCH, 6, 2


def everything(place, count, directory, dies_after=0):
    """Trains, saves and measures.

    Returns the model, arrays that do not depend on `count`, and arrays of this process alone.
    """
    import keras
    import numpy as np

    import keras_optkit as ko

    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * BATCHES, 4)).astype("float32")
    y = np.tanh(x @ rng.normal(size=(4, 2))).astype("float32")
    (own_x, size), (own_y, _) = (example.share(a, place, count) for a in (x, y))

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return BATCHES

        def __getitem__(self, index):
            rows = slice(index * size, (index + 1) * size)
            return own_x[rows], own_y[rows]

    class Dies(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.history.epoch and batch == dies_after:
                os.kill(os.getpid(), signal.SIGKILL)

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "tanh", name="body"), keras.layers.Dense(2)]
    )
    # Not the same on each share: the norm is that of the whole gradient or another one.
    optimizer = ko.optimizers.LAMB(0.02, gradient_transforms=[ko.transforms.GlobalNormClip(0.5)])
    model.compile(ko.optimizers.Lookahead(optimizer, sync_period=4), "mse", jit_compile=False)
    if count > 1 and keras.backend.backend() == "tensorflow":
        example.for_workers(model)
    monitor = ko.callbacks.GradientMonitor(every=1, csv=directory / "gradients.csv")
    state = ko.callbacks.TrainingState(directory / "state", every=4)
    checkpoint = ko.callbacks.ModelCheckpoint(
        directory / "best-{epoch}.weights.h5", "loss", save="weights"
    )
    stop = ko.callbacks.EarlyStopping("loss", max_seconds=1e6, restore="all", verbose=1)
    callbacks = [monitor, state, checkpoint, stop, ko.callbacks.NaNGuard()]
    options = {"batch_size": size, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
    model.fit(own_x, own_y, callbacks=[*callbacks, Dies()][: 6 if dies_after else 5], **options)

    kept = [np.array(w) for w in model.get_weights()]
    found = {f"weight {i}": w for i, w in enumerate(kept)}
    found |= {"losses": model.history.history["loss"], "norms": monitor.gradient_norms}
    found["batches left of it"] = EPOCHS * BATCHES - len(monitor.steps)
    fisher = ko.continual.fisher_diagonal(model, own_x, verbose=0)
    found |= {f"fisher {i}": f for i, f in enumerate(fisher)}
    if keras.backend.backend() == "tensorflow":
        if count > 1:
            try:
                ko.diagnostics.find_learning_rate(model, Batches(), verbose=0)
            except ValueError as error:
                assert "which 2 processes train" in str(error), error
            else:
                raise AssertionError("batches got lost in silence")
        return model, found, own_samples(place, count)
    rates = ko.diagnostics.find_learning_rate(model, Batches(), steps=12, seeds=(0,), verbose=0)
    found["losses by rate"] = rates.losses
    for i, (w, after) in enumerate(zip(kept, model.get_weights(), strict=True)):
        np.testing.assert_array_equal(after, w, err_msg=f"weight {i} after the sweep")

    return model, found, own_samples(place, count)


def own_samples(place, count):
    """Returns what the buffer of this process keeps of its share, and some of that."""
    import numpy as np

    import keras_optkit as ko

    share = np.arange(place, 600, count)
    buffer = ko.continual.ReplayBuffer(60 // count, seed=place)
    buffer.add(share)
    return {"buffer": buffer.sample(60 // count)[0], "sample": buffer.sample(5)[0]}


def main():
    directory, ports, place, dies_after = sys.argv[1:]
    place, ports = int(place), json.loads(ports)
    with example.connect(place, ports):
        _, found, own = everything(place, len(ports), Path(directory), int(dies_after))
        import numpy as np

        np.savez(Path(directory) / f"found-{place}.npz", **found, **own)
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        jax.distributed.shutdown()


if __name__ == "__main__":
    main()
