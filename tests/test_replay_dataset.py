"""Batches with replayed samples, as `fit` sees them."""

import contextlib
import threading
import warnings

import keras
import numpy as np
import pytest
from keras.src.trainers.data_adapters.py_dataset_adapter import OrderedEnqueuer

from keras_optkit.continual import ReplayBuffer, ReplayDataset
from tests.conftest import two_replicas


def samples(n, start=0):
    """Returns samples that say which they are; targets are twice as much."""
    x = np.arange(start, start + n, dtype="float32")[:, None]
    return x, 2 * x


def filled(capacity=8, n=20, **extras):
    buffer = ReplayBuffer(capacity)
    buffer.add(*samples(n, 100), **extras)
    return buffer


def in_fit(dataset, epochs=1, shuffle=False, model=None):
    """Returns the inputs of each step of `fit`."""
    model = model or keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-5), "mse", run_eagerly=True)
    seen, step = [], model.train_step

    def train_step(*args):
        inputs, targets = args[-1][:2]
        inputs, targets = map(keras.ops.convert_to_numpy, (inputs, targets))
        np.testing.assert_array_equal(targets, 2 * inputs)
        seen.append(inputs[:, 0].astype(int).tolist())
        return step(*args)

    model.train_step = train_step
    model.fit(dataset, epochs=epochs, shuffle=shuffle, verbose=0)
    return seen


def by_hand(dataset, epochs):
    """Returns the inputs of each batch, asked for one after another."""
    seen = []
    for epoch in range(epochs):
        dataset.load_state({"epoch": epoch})
        seen += [batch[0][:, 0].astype(int).tolist() for batch in dataset]
    return seen


@pytest.mark.parametrize("n", [20, 12, 5])  # of 6: a last batch of 2, of 6, and the only one
def test_new_samples_once_an_epoch_and_old_ones_from_the_buffer(n):
    buffer = filled()
    batches = by_hand(ReplayDataset(*samples(n), buffer, 6, 4), 2)
    epochs = np.split(np.array(batches), 2)
    for epoch in epochs:
        new = epoch[:, :6].ravel()
        assert sorted(new[:n]) == list(range(n))
        np.testing.assert_array_equal(new[n:], np.resize(new[:n], len(new))[n:])
        for old in epoch[:, 6:]:
            assert len(set(old)) == 4
            assert set(old) <= set(buffer.data()[0][:, 0])
    assert not np.array_equal(*epochs)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_fit_sees_the_same_batches_whatever_the_workers(workers):
    buffer = filled()
    expected = by_hand(ReplayDataset(*samples(80), buffer, 6, 4, seed=3), 3)
    dataset = ReplayDataset(*samples(80), buffer, 6, 4, seed=3, workers=workers)
    np.random.seed(workers)
    keras.utils.set_random_seed(workers)
    assert in_fit(dataset, epochs=2) + in_fit(dataset) == expected
    assert dataset.state() == {"epoch": 3}


@pytest.mark.parametrize("n", [5, 20])  # one batch, and more
def test_what_fit_looks_at_is_no_epoch(n):
    expected = by_hand(ReplayDataset(*samples(n), filled(), 6, 4), 3)
    dataset = ReplayDataset(*samples(n), filled(), 6, 4)
    assert in_fit(dataset, epochs=2) + in_fit(dataset) == expected
    assert dataset.state() == {"epoch": 3}


if keras.backend.backend() == "tensorflow":

    @pytest.mark.parametrize("n", [6, 80])
    def test_replicas_get_the_same_batches(n):
        ends = []
        for scope in (contextlib.nullcontext(), two_replicas().scope()):
            with scope:
                keras.utils.set_random_seed(0)
                model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
                model.compile(keras.optimizers.SGD(1e-5), "mse", jit_compile=False)
            dataset = ReplayDataset(*samples(n), filled(), 6, 4)
            model.fit(dataset, epochs=3, shuffle=False, verbose=0)
            model.fit(dataset, epochs=2, shuffle=False, verbose=0)
            assert dataset.state() == {"epoch": 5}
            ends.append(model.get_weights())
        for one, two in zip(*ends, strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-5)


def test_threads_of_keras_get_the_same_batches():
    dataset = ReplayDataset(*samples(80), filled(), 6, 4)
    enqueuer = OrderedEnqueuer(dataset, workers=4)
    enqueuer.start()
    batches = [next(stream) for stream in [enqueuer.get()] for _ in range(len(dataset))]
    enqueuer.stop()
    assert [x[:, 0].astype(int).tolist() for x, _ in batches] == by_hand(dataset, 1)


def test_workers_end_with_the_epoch():
    before = threading.active_count()
    dataset = ReplayDataset(*samples(80), filled(), 6, workers=4)
    dataset[0]
    assert threading.active_count() > before
    dataset.on_epoch_end()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(5)
    assert threading.active_count() <= before


def test_epochs_of_some_steps_go_on_where_the_last_has_ended():
    dataset = ReplayDataset(*samples(24), filled(), 6, 4)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(dataset, steps_per_epoch=2, epochs=2, shuffle=False, verbose=0)
    assert dataset.state() == {"epoch": 1}


def test_the_shuffle_of_fit_is_warned_of():
    dataset = ReplayDataset(*samples(60), filled(), 6, 4)
    expected = by_hand(dataset, 1)
    dataset.load_state({"epoch": 0})
    with pytest.warns(UserWarning, match=r"shuffle=False"):
        seen = in_fit(dataset, shuffle=True)
    assert sorted(seen) == sorted(expected)
    assert dataset.state() == {"epoch": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        in_fit(ReplayDataset(*samples(60), filled(), 6, 4), epochs=2)


def test_seed_and_shuffle():
    def batches(**arguments):
        return by_hand(ReplayDataset(*samples(20), filled(), 6, 4, **arguments), 1)

    assert batches(seed=1) == batches(seed=1) != batches(seed=2)
    in_order = np.array(batches(shuffle=False))[:, :6].ravel()
    np.testing.assert_array_equal(in_order, np.resize(np.arange(20), 24))


def test_an_empty_buffer_leaves_the_loss_as_it_is():
    dataset = ReplayDataset(*samples(6), ReplayBuffer(5), 3, replay_ratio=2)
    for x, _ in dataset:
        np.testing.assert_array_equal(x, np.resize(x[:3], (9, 1)))
    weight = np.arange(6, dtype="float32")
    for x, _, weights in ReplayDataset(
        *samples(6), ReplayBuffer(5), 3, sample_weight=weight, replay_weight=7
    ):
        np.testing.assert_array_equal(weights, x[:, 0])


def test_sizes_of_the_replayed_part():
    def width(**arguments):
        return len(ReplayDataset(*samples(9), filled(), 8, **arguments)[0][0]) - 8

    assert width() == 8
    assert width(replay_batch_size=3) == 3
    assert width(replay_ratio=0.5) == 4
    assert width(replay_ratio=0.01) == 1
    assert width(replay_batch_size=30) == 30  # more than the buffer holds


def test_weights():
    def weights(buffer=None, **arguments):
        return ReplayDataset(*samples(6), buffer or filled(), 3, 2, shuffle=False, **arguments)[1][
            2
        ]

    given = np.arange(6, dtype="float32")
    np.testing.assert_array_equal(weights(sample_weight=given), [3, 4, 5, 1, 1])
    np.testing.assert_array_equal(weights(replay_weight=0.5), [1, 1, 1, 0.5, 0.5])
    whole = np.arange(6)
    np.testing.assert_array_equal(
        weights(sample_weight=whole, replay_weight=0.5), [3, 4, 5, 0.5, 0.5]
    )
    kept = filled(sample_weight=np.full(20, 3.0))
    np.testing.assert_array_equal(weights(kept), [1, 1, 1, 3, 3])
    np.testing.assert_array_equal(
        weights(kept, sample_weight=given, replay_weight=2), [3, 4, 5, 6, 6]
    )
    assert len(ReplayDataset(*samples(6), filled(), 3, 2)[0]) == 2


def test_weights_are_those_of_the_loss():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x, y = samples(4)
    dataset = ReplayDataset(x, y, filled(), 4, 2, shuffle=False, replay_weight=0.25)
    old = dataset[0][0][4:]
    loss = model.fit(dataset, shuffle=False, verbose=0).history["loss"][0]
    new_error, old_error = (
        np.square(2 * part - model.predict(part, verbose=0)) for part in (x, old)
    )
    expected = (new_error.sum() + 0.25 * old_error.sum()) / 6
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_several_inputs():
    x, y = samples(10)
    inputs = {"a": keras.Input((1,), name="a"), "b": keras.Input((2,), name="b")}
    joined = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, keras.layers.Dense(1)(joined))
    model.compile("sgd", "mse")
    buffer = ReplayBuffer(5)
    data = {"a": x, "b": np.hstack([x, x])}
    for _ in range(2):
        dataset = ReplayDataset(data, y, buffer, 4)
        batch, targets = dataset[2]
        np.testing.assert_array_equal(batch["b"], np.hstack([batch["a"], batch["a"]]))
        np.testing.assert_array_equal(targets, 2 * batch["a"])
        model.fit(dataset, shuffle=False, verbose=0)
        buffer.add(data, y)
    batch, _ = ReplayDataset([x, x], y, ReplayBuffer(5), 4)[0]
    assert isinstance(batch, tuple)


def streamed(n, batch_size, replayed, epochs=1):
    """A stream as the docstring has it: draw, train, add."""
    buffer, dataset = ReplayBuffer(5), ReplayDataset(*samples(n), ReplayBuffer(5), batch_size, 1)
    seen = []
    for epoch in range(epochs):
        dataset.load_state({"epoch": epoch})
        for index in range(len(dataset)):
            new = dataset[index][0][:batch_size]
            rng = np.random.Generator(
                np.random.PCG64(np.random.SeedSequence(0, spawn_key=(epoch, 1 + index)))
            )
            old = buffer.sample(replayed, rng)[0] if len(buffer) else np.resize(new, (replayed, 1))
            seen.append(np.concatenate([new, old])[:, 0].astype(int).tolist())
            if epoch == 0:
                new = new[: n - index * batch_size]
                buffer.add(new, 2 * new)
    return seen, buffer


@pytest.mark.parametrize("n", [20, 3])
def test_a_stream_replays_what_came_before(n):
    buffer = ReplayBuffer(5)
    dataset = ReplayDataset(*samples(n), buffer, 3, 4, add_while_training=True)
    expected, expected_buffer = streamed(n, 3, 4, epochs=2 if n > 3 else 1)
    if n > 3:
        assert in_fit(dataset, epochs=2) == expected
    else:
        assert [batch[0][:, 0].astype(int).tolist() for batch in dataset] == expected
    assert buffer.seen == n
    assert str(buffer.state()) == str(expected_buffer.state())


def test_a_stream_keeps_weights():
    buffer = ReplayBuffer(5)
    dataset = ReplayDataset(
        *samples(6), buffer, 3, add_while_training=True, sample_weight=np.arange(6.0)
    )
    list(dataset)
    x, _, extras = buffer.data()
    np.testing.assert_array_equal(extras["sample_weight"], x[:, 0])


def test_a_stream_refuses_another_order():
    dataset = ReplayDataset(*samples(90), ReplayBuffer(5), 3, add_while_training=True)
    with pytest.raises(Exception, match=r"in order.*shuffle=False"):
        in_fit(dataset, shuffle=True)
    with pytest.raises(ValueError, match="workers=1"):
        ReplayDataset(*samples(9), ReplayBuffer(5), 3, add_while_training=True, workers=4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"replay_batch_size": 2, "replay_ratio": 1}, "not both"),
        ({"replay_batch_size": 0}, "`replay_batch_size`"),
        ({"replay_ratio": 0}, "`replay_ratio`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"replay_weight": -1}, "`replay_weight`"),
        ({"sample_weight": np.ones(4)}, "{'x': 9, 'y': 9, 'sample_weight': 4}"),
        ({"x": np.zeros((9, 2), "float32")}, r"`x` must be like what the buffer holds"),
        ({"y": np.zeros((9, 1), "int32")}, r"`y` .* int32"),
        ({"y": np.zeros((8, 1), "float32")}, "{'x': 9, 'y': 8}"),
        ({"x": np.zeros((0, 1), "float32"), "y": np.zeros((0, 1), "float32")}, "at least one"),
    ],
)
def test_wrong_arguments(arguments, words):
    x, y = samples(9)
    with pytest.raises(ValueError, match=words):
        ReplayDataset(**({"x": x, "y": y, "buffer": filled()} | arguments))


def test_wrong_arguments_of_other_kinds():
    with pytest.raises(TypeError, match="a ReplayBuffer"):
        ReplayDataset(*samples(9), [])
    with pytest.raises(IndexError, match="There are 3 batches"):
        ReplayDataset(*samples(9), filled(), 3)[3]
    with pytest.raises(ValueError, match="holds x, y, logits"):
        buffer = filled(logits=np.ones((20, 2)))
        ReplayDataset(*samples(9), buffer, 3, add_while_training=True)
    ReplayDataset(*samples(9), buffer, 3)
