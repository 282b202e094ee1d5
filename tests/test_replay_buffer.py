"""The replay buffer against plain loops, and its inclusion probabilities."""

import collections
import json
import tracemalloc
import zipfile

import keras
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from keras_optkit.continual import ReplayBuffer, _buffer_file

POLICIES = ("reservoir", "class_balanced", "ring")

once = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="all NumPy: one backend is enough, and time"
)


def numbers(n):
    """Returns samples that say which they are."""
    return np.arange(n, dtype="int64")


def kept(buffer):
    return buffer.data()[0].tolist()


def keeping_stream(seed):
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed).spawn(2)[0]))


def algorithm_r(labels, capacity, seed):
    """Vitter's algorithm R, one sample after another."""
    rng, memory = keeping_stream(seed), []
    for t in range(len(labels)):
        u = rng.random()
        if t < capacity:
            memory.append(t)
        elif int(u * (t + 1)) < capacity:
            memory[int(u * (t + 1))] = t
    return memory


def cbrs(labels, capacity, seed):
    """Algorithm 1 of Chrysakis and Moens, with the memory as a list of sample numbers."""
    rng, memory, full, met = keeping_stream(seed), [], set(), collections.Counter()
    order = {}  # the places of each class, oldest first, to pick the same ones

    def note_full():
        most = max(len(places) for places in order.values())
        full.update(label for label, places in order.items() if len(places) == most)

    for i, label in enumerate(labels):
        u, v = rng.random(2)
        met[label] += 1
        places = order.setdefault(label, [])
        if len(memory) < capacity:
            memory.append(i)
            places.append(len(memory) - 1)
            if len(memory) == capacity:
                note_full()
        elif label not in full:
            most = max(len(places) for places in order.values())
            largest = [p for places in order.values() if len(places) == most for p in places]
            place = largest[int(v * len(largest))]
            for others in order.values():
                if place in others:
                    others.remove(place)
            places.append(place)
            memory[place] = i
            note_full()
        elif u * met[label] < len(places):
            memory[places[int(v * len(places))]] = i
    return memory


@once
@pytest.mark.parametrize(("policy", "loop"), [("reservoir", algorithm_r), ("class_balanced", cbrs)])
@settings(deadline=None, max_examples=40)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    capacity=st.integers(1, 20),
    seed=st.integers(0, 2**40),
)
def test_keeps_what_the_loop_of_the_paper_keeps(policy, loop, labels, capacity, seed):
    buffer = ReplayBuffer(capacity, policy, seed)
    buffer.add(numbers(len(labels)), np.array(labels))
    assert kept(buffer) == loop(labels, capacity, seed)


@once
@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    capacity=st.integers(1, 20),
    ends=st.lists(st.integers(0, 60)),
    policy=st.sampled_from(POLICIES),
)
def test_calls_of_add_may_be_divided_in_any_way(labels, capacity, ends, policy):
    x, y = numbers(len(labels)), np.array(labels)
    at_once, divided = ReplayBuffer(capacity, policy), ReplayBuffer(capacity, policy)
    at_once.add(x, y)
    for part in np.split(numbers(len(labels)), sorted(ends)):
        divided.add(x[part], y[part])
        len(divided) and divided.sample(2)
    assert kept(divided) == kept(at_once)
    assert len(divided) == min(capacity, len(labels))
    assert divided.seen == len(labels)


@once
@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    capacity=st.integers(1, 20),
    policy=st.sampled_from(["class_balanced", "ring"]),
)
def test_policies_by_class_balance(labels, capacity, policy):
    buffer = ReplayBuffer(capacity, policy)
    buffer.add(numbers(len(labels)), np.array(labels))
    x, y = buffer.data()
    assert np.array_equal(y, np.array(labels)[x])
    assert len(set(x.tolist())) == len(x)
    met, held = collections.Counter(labels), collections.Counter(y.tolist())
    if policy == "ring":
        for label in met:
            newest = [i for i, other in enumerate(labels) if other == label]
            assert sorted(x[y == label].tolist()) == newest[len(newest) - held[label] :]
    for label in met:  # a class has less than others only if there were no more
        assert held[label] >= min(met[label], max(held.values()) - 1)


def chi_square(counts, expected, classes=1):
    """Returns the p-value of how often each of some samples was kept, `expected` times on average.

    In one run the number that is kept of each class is fixed, so the counts hang together: with
    `n` samples the statistic is that of `n - 1` degrees of freedom if scaled by `(n - 1) / n`.
    """
    n = counts.size // classes
    spread = expected * (1 - expected / RUNS)
    statistic = np.sum((counts - expected) ** 2) / spread * (n - 1) / n
    return stats.chi2.sf(statistic, counts.size - classes)


RUNS = 1500


@once
def test_reservoir_keeps_every_sample_with_the_same_probability():
    counts = np.zeros(40)
    for seed in range(RUNS):
        buffer = ReplayBuffer(10, seed=seed)
        buffer.add(numbers(40))
        counts[kept(buffer)] += 1
    assert counts.sum() == 10 * RUNS
    assert 1e-3 < chi_square(counts, RUNS * 10 / 40) < 1 - 1e-3


@once
def test_class_balanced_keeps_every_sample_of_a_class_with_the_same_probability():
    labels = np.array([0] * 20 + [1] * 20 + [0, 1] * 5 + [2] * 30)  # 25, 25 and 30, in blocks
    counts = np.zeros(80)
    for seed in range(RUNS):
        buffer = ReplayBuffer(12, "class_balanced", seed=seed)
        buffer.add(numbers(80), labels)
        held = kept(buffer)
        assert np.bincount(labels[held]).tolist() == [4, 4, 4]
        counts[held] += 1
    for label in range(3):
        of_class = counts[labels == label]
        assert 1e-3 < chi_square(of_class, RUNS * 4 / of_class.size) < 1 - 1e-3, label


@once
def test_sample_draws_every_sample_equally_often_and_none_twice():
    buffer = ReplayBuffer(20)
    buffer.add(numbers(20))
    counts = np.zeros(20)
    for _ in range(RUNS):
        drawn = buffer.sample(5)[0]
        assert len(set(drawn.tolist())) == 5
        counts[drawn] += 1
    assert 1e-3 < chi_square(counts, RUNS * 5 / 20) < 1 - 1e-3


def test_sample_from_a_smaller_buffer_repeats():
    buffer = ReplayBuffer(20)
    buffer.add(numbers(3))
    assert buffer.sample(9)[0].shape == (9,)


def test_sample_with_a_generator_of_ones_own():
    buffer, twin = ReplayBuffer(20), ReplayBuffer(20)
    buffer.add(numbers(20))
    twin.add(numbers(20))
    first = buffer.sample(5, np.random.default_rng(3))[0]
    np.testing.assert_array_equal(buffer.sample(5, 3)[0], first)
    np.testing.assert_array_equal(buffer.sample(5)[0], twin.sample(5)[0])


def test_nothing_aliases():
    buffer = ReplayBuffer(4)
    x = numbers(4)
    buffer.add(x)
    x[:] = -1
    buffer.data()[0][:] = -2
    buffer.sample(4)[0][:] = -3
    assert kept(buffer) == [0, 1, 2, 3]


def nested(n, start=0):
    x = numbers(n) + start
    images = np.broadcast_to(x[:, None, None], (n, 2, 3)).astype("uint8")
    return {
        "x": {"image": images, "tokens": (x.astype("float32"), [x, x[:, None] * 2])},
        "y": x % 3,
        "logits": np.stack([x, x], axis=1).astype(ml_dtypes.bfloat16),
        "names": x.astype("U8"),
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_a_saved_buffer_goes_on_exactly(policy, tmp_path):
    buffer = ReplayBuffer(7, policy, seed=5, max_bytes=10_000)
    buffer.add(**nested(30))
    buffer.sample(3)
    buffer.save(tmp_path / "made" / "buffer.npz")
    loaded = ReplayBuffer.load(tmp_path / "made" / "buffer.npz")
    assert loaded.get_config() == buffer.get_config()
    assert (loaded.seen, loaded.nbytes) == (buffer.seen, buffer.nbytes)
    for _ in range(2):
        for ours, theirs in ((loaded.data(), buffer.data()), (loaded.sample(4), buffer.sample(4))):
            assert_same(ours, theirs)
        loaded.add(**nested(11, 100))
        buffer.add(**nested(11, 100))


def assert_same(ours, theirs):
    assert str(ours) == str(theirs)  # the structure, too
    for one, other in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_sample_comes_in_the_form_that_was_added():
    buffer = ReplayBuffer(7)
    buffer.add(**nested(5))
    x, y, extras = buffer.sample(7)
    image, (number, (same, double)) = x["image"], x["tokens"]
    assert sorted(extras) == ["logits", "names"]
    assert image.shape == (7, 2, 3)
    np.testing.assert_array_equal(image[:, 1, 2], same)
    np.testing.assert_array_equal(number, same)
    np.testing.assert_array_equal(double[:, 0], 2 * same)
    np.testing.assert_array_equal(y, same % 3)
    np.testing.assert_array_equal(extras["names"].astype(int), same)


def test_the_order_of_names_means_nothing():
    x = numbers(3)
    buffer = ReplayBuffer(7)
    buffer.add({"a": x, "b": x + 10}, p=x + 20, q=x + 30)
    buffer.add({"b": x + 10, "a": x}, q=x + 30, p=x + 20)
    inputs, _, extras = buffer.data()
    for value, start in ((inputs["a"], 0), (inputs["b"], 10), (extras["p"], 20), (extras["q"], 30)):
        np.testing.assert_array_equal(value, np.tile(x + start, 2))


def test_an_empty_buffer_can_be_saved_and_filled_later(tmp_path):
    ReplayBuffer(7).save(tmp_path / "b.npz")
    loaded, buffer = ReplayBuffer.load(tmp_path / "b.npz"), ReplayBuffer(7)
    for each in (loaded, buffer):
        each.add(numbers(50))
    assert kept(loaded) == kept(buffer)


def test_clear_makes_it_as_new():
    buffer, new = ReplayBuffer(7, "class_balanced"), ReplayBuffer(7, "class_balanced")
    buffer.add(np.zeros((9, 3)), np.zeros(9))
    buffer.clear()
    assert len(buffer) == buffer.seen == buffer.nbytes == 0
    for each in (buffer, new):
        each.add(numbers(50), numbers(50) % 4)
    assert kept(buffer) == kept(new)


def test_a_save_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    buffer = ReplayBuffer(7)
    buffer.add(numbers(7))
    buffer.save(tmp_path / "b.npz")
    buffer.add(numbers(90))

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(_buffer_file.np, "savez", full)
    with pytest.raises(OSError, match="disk full"):
        buffer.save(tmp_path / "b.npz")
    assert kept(ReplayBuffer.load(tmp_path / "b.npz")) == list(range(7))
    assert [path.name for path in tmp_path.iterdir()] == ["b.npz"]


def test_memory_stays_bounded():
    x = np.ones((6000, 784), "float32")
    buffer = ReplayBuffer(1000, max_bytes=1000 * 785 * 4)
    tracemalloc.start()
    buffer.add(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert buffer.nbytes == 1000 * 784 * 4
    assert peak < 2.2 * buffer.nbytes
    ReplayBuffer.from_config(buffer.get_config()).add(x)


def test_labels_may_be_one_hot_or_a_column():
    y = np.random.default_rng(0).integers(0, 3, 50)
    expected = ReplayBuffer(7, "class_balanced")
    expected.add(numbers(50), y)
    for form in (y[:, None], np.eye(3)[y], y.astype("float32"), keras.ops.convert_to_tensor(y)):
        buffer = ReplayBuffer(7, "class_balanced")
        buffer.add(numbers(50), form)
        assert kept(buffer) == kept(expected)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"capacity": 0}, ValueError, "`capacity` must be an integer of at least 1"),
        ({"capacity": 2.5}, TypeError, "`capacity` must be an integer"),
        ({"capacity": 1, "policy": "fifo"}, ValueError, "'reservoir', 'class_balanced', 'ring'"),
        ({"capacity": 1, "seed": -1}, ValueError, "`seed`"),
        ({"capacity": 1, "max_bytes": 0}, ValueError, "`max_bytes`"),
    ],
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        ReplayBuffer(**arguments)


@pytest.mark.parametrize(
    ("sample", "error", "words"),
    [
        (([[1, 2]], [1]), ValueError, r"`x`.*shape \(2, 3\) and dtype float32"),
        ((np.zeros((1, 2, 3)), [1]), ValueError, "dtype float32. Received: .* float64"),
        ((np.zeros((1, 2, 3), "float32"), [1.0]), ValueError, "`y` .* dtype int64"),
        ((np.zeros((1, 2, 3), "float32"), None), ValueError, "holds x, y, .* Received: x"),
        (({"a": np.zeros((1, 2, 3))}, [1]), ValueError, r"holds x, y, .* Received: x\['a'\], y"),
        ((np.zeros((2, 2, 3), "float32"), [1]), ValueError, "{'x': 2, 'y': 1}"),
        ((np.array([None]), [1]), TypeError, "`x` must be an array of numbers"),
        (([[1], [1, 2]], [1]), ValueError, "`x` must be an array"),
        ((np.float32(1), [1]), ValueError, "one row for each sample"),
        ((None, None), ValueError, "at least one array"),
        ((np.zeros((1, 2, 3), "float32"), np.zeros((1, 2, 2))), ValueError, "`y`"),
        (({1: np.zeros(1)}, [1]), TypeError, "names as keys"),
    ],
)
def test_wrong_samples_change_nothing(sample, error, words):
    buffer = ReplayBuffer(5, "class_balanced")
    buffer.add(np.ones((9, 2, 3), "float32"), numbers(9))
    before = buffer.state()
    with pytest.raises(error, match=words):
        buffer.add(*sample)
    assert str(buffer.state()) == str(before)


def test_samples_that_do_not_fit():
    buffer = ReplayBuffer(100, max_bytes=1000)
    with pytest.raises(ValueError, match=r"100 samples of 40 bytes take 4000.*at most 25"):
        buffer.add(np.zeros((3, 5)))
    assert buffer.seen == 0
    with pytest.raises(ValueError, match="needs `y` to be one array of labels"):
        ReplayBuffer(5, "ring").add(numbers(3))
    with pytest.raises(ValueError, match=r"\(n,\), \(n, 1\) or \(n, classes\)"):
        ReplayBuffer(5, "ring").add(numbers(3), np.zeros((3, 2, 2)))


def test_an_empty_buffer_has_nothing_to_sample():
    with pytest.raises(ValueError, match="empty"):
        ReplayBuffer(5).sample(1)
    with pytest.raises(ValueError, match="empty"):
        ReplayBuffer(5).data()


def test_a_state_of_another_buffer():
    with pytest.raises(ValueError, match=r"'capacity': 6.*same arguments"):
        ReplayBuffer(5).load_state(ReplayBuffer(6).state())


def test_files_that_hold_something_else(tmp_path):
    path = tmp_path / "b.npz"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="not a file that"):
        ReplayBuffer.load(path)
    np.savez(path, a=1)
    with pytest.raises(ValueError, match="whole ReplayBuffer"):
        ReplayBuffer.load(path)
    np.savez(path, json=np.frombuffer(json.dumps({"kind": "x", "version": 1}).encode(), "uint8"))
    with pytest.raises(ValueError, match="it is x"):
        ReplayBuffer.load(path)
    np.savez(path, a=np.array([{}]))
    with pytest.raises(ValueError, match="pickle"):
        ReplayBuffer.load(path)
    buffer = ReplayBuffer(5)
    buffer.add(numbers(9))
    buffer.save(path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "part.npz", "w") as part:
        for name in whole.namelist():
            if not name.startswith("samples"):
                part.writestr(name, whole.read(name))
    with pytest.raises(ValueError, match="samples_0"):
        ReplayBuffer.load(tmp_path / "part.npz")
    with pytest.raises(FileNotFoundError):
        ReplayBuffer.load(tmp_path / "none.npz")
