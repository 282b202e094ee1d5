"""Train one model in two processes, lose one of them, go on, and get what one process gets.

    KERAS_BACKEND=jax python examples/two_processes.py           # or tensorflow

Here both run on this machine. On several machines start `worker` on each, with their addresses in
place of 127.0.0.1, and a directory that all of them see.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

BATCH, EPOCHS, BATCHES = 32, 6, 20  # of all processes together
out = Path("runs/two_processes")


def connect(place, ports):
    """Joins the other processes, before anything is computed; returns where to make the model."""
    if os.environ.get("KERAS_BACKEND") == "jax":
        import jax
        import keras

        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.utils.set_random_seed(0)
        keras.distribution.initialize(f"127.0.0.1:{ports[0]}", len(ports), place)
        # The data are divided below: Keras divides `tf.data` pipelines only.
        return keras.distribution.DataParallel(auto_shard_dataset=False).scope()
    workers = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": place}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    import tensorflow as tf

    return tf.distribute.MultiWorkerMirroredStrategy().scope()


def share(array, place, count):
    """Returns what a process passes to `fit`, and in batches of which size."""
    if os.environ.get("KERAS_BACKEND") != "jax":
        return array, BATCH  # TensorFlow gives each worker its part of each batch
    parts = array.reshape(-1, count, BATCH // count, *array.shape[1:])
    return parts[:, place].reshape(-1, *array.shape[1:]), BATCH // count


def for_workers(model):
    """Lets `fit` run under MultiWorkerMirroredStrategy, where that of Keras 3.15 fails."""
    import keras
    import tensorflow as tf

    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return model

    def build(iterator=None, data_batch=None):
        if iterator is not None:  # from the shapes, since what is drawn is gone
            specs = iterator._distributed_dataset.element_spec
            data_batch = keras.tree.map_structure(lambda s: s._value_specs[0], specs)
        with strategy.scope():
            model._symbolic_build(data_batch=data_batch)

    def as_vectors(step):  # Keras takes the mean over an axis that numbers do not have
        return lambda data: keras.tree.map_structure(lambda x: x[None], step(data))

    model._maybe_symbolic_build = build  # which passes a tuple where one tensor is asked for
    model.train_step, model.test_step = as_vectors(model.train_step), as_vectors(model.test_step)
    return model


def worker(place, ports, directory, dies_after):
    """What each process runs; `place` 0 writes the files."""
    scope = connect(place, ports)
    import keras

    with scope:
        train(place, len(ports), directory, dies_after)
    if keras.backend.backend() == "jax":
        import jax

        jax.distributed.shutdown()


def train(place, count, directory, dies_after=0):
    import keras
    import numpy as np

    import keras_optkit as ko

    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * BATCHES, 16)).astype("float32")
    y = np.argmax(x @ rng.normal(size=(16, 4)), axis=1)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(32, activation="relu", name="hidden"),
            keras.layers.Dense(4, activation="softmax", name="head"),
        ]
    )
    schedule = ko.schedules.Warmup(keras.optimizers.schedules.CosineDecay(0.03, 120), steps=10)
    loss = "sparse_categorical_crossentropy"
    model.compile(ko.optimizers.Lookahead(ko.optimizers.LAMB(schedule)), loss, jit_compile="auto")
    if count > 1 and keras.backend.backend() == "tensorflow":
        model.jit_compile = False  # XLA and collectives do not go together on CPUs
        for_workers(model)

    class Dies(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if model.history.epoch and batch == dies_after:
                os.kill(os.getpid(), signal.SIGKILL)

    callbacks = [
        ko.callbacks.GradientMonitor(every=10, csv=directory / "gradients.csv"),
        ko.callbacks.TrainingState(directory / "state", every=7),
        *([Dies()] if dies_after else []),
    ]
    (own_x, size), (own_y, _) = share(x, place, count), share(y, place, count)
    history = model.fit(
        own_x,
        own_y,
        batch_size=size,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    np.savez(directory / f"weights-{place}.npz", *model.get_weights())
    print(f"process {place} of {count}: loss {history.history['loss'][-1]:.4f}", flush=True)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def launch(commands, seconds=900):
    """Runs them side by side; when one fails, ends the others. Returns their exit statuses."""
    deadline = time.monotonic() + seconds
    running = [subprocess.Popen([sys.executable, *map(str, command)]) for command in commands]
    try:
        while any(process.poll() is None for process in running):
            if any(process.poll() for process in running) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
    return [process.wait() for process in running]


def main():
    import shutil

    import numpy as np

    print("one process")
    ends = []
    for name in ("one", "two"):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
    assert launch([[__file__, "one", out / "one"]]) == [0]
    for dies_after in (9, 0):
        print("two processes" if dies_after else "both again, from the last checkpoint")
        ports = free_ports(2)
        command = [__file__, "worker", out / "two", json.dumps(ports)]
        ends = launch([[*command, place, dies_after * place] for place in range(2)])
        if dies_after:
            print(f"process 1 was killed in epoch 2; exit statuses {ends}")
    assert ends == [0, 0], ends
    weights = [
        np.load(out / name)
        for name in ("one/weights-0.npz", "two/weights-0.npz", "two/weights-1.npz")
    ]
    one, two, other = ([file[key] for key in file.files] for file in weights)
    print(f"largest weight                         {max(np.abs(w).max() for w in one):.6f}")
    far = max(np.abs(a - b).max() for a, b in zip(one, two, strict=True))
    print(f"largest difference to one process      {far:.1e}")
    far = max(np.abs(a - b).max() for a, b in zip(two, other, strict=True))
    print(f"largest difference of the two          {far:.1e}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["one", directory]:
            train(0, 1, Path(directory))
        case ["worker", directory, ports, place, dies_after]:
            worker(int(place), json.loads(ports), Path(directory), int(dies_after))
        case _:
            main()
