"""Pruning beside TF-MOT's own: masks of single tensors, and a whole run weight for weight."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from keras_optkit import compression
from keras_optkit.compression import NofM, PolynomialSparsity, Pruned
from keras_optkit.compression.pruning._method import Candidates
from tests import tfmot_pruning as tfmot

pytestmark = pytest.mark.skipif(not tfmot.installed(), reason="TF-MOT is not installed")
BACKEND = keras.backend.backend()


@pytest.fixture(scope="module")
def judge():
    return tfmot.results(Path(__file__).parents[1] / ".pytest_cache" / "tfmot")


def our_mask(method, weight, sparsity=0.5):
    tensor = ops.convert_to_tensor(weight)
    share, none = ops.full((), sparsity, "float32"), ops.zeros(())
    (mask,) = method.select(Candidates([tensor], [], [], [], share, none, none))
    return np.array(ops.convert_to_numpy(mask))


@pytest.mark.parametrize("sparsity", tfmot.SPARSITIES)
@pytest.mark.parametrize("shape", tfmot.SHAPES, ids=str)
def test_masks_of_magnitude_are_equal(judge, shape, sparsity):
    name = f"magnitude {shape} {sparsity}"
    mask = our_mask(compression.Magnitude(), judge[f"weight {name}"], sparsity)
    np.testing.assert_array_equal(mask, judge[f"mask {name}"])


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize(("shape", "block"), tfmot.BLOCKS, ids=str)
def test_masks_of_blocks_are_equal(judge, shape, block, pooling):
    name = f"block {shape} {block} {pooling}"
    method = compression.Block(block, {"AVG": "mean", "MAX": "max"}[pooling])
    np.testing.assert_array_equal(our_mask(method, judge[f"weight {name}"]), judge[f"mask {name}"])


@pytest.mark.parametrize(("shape", "group"), tfmot.GROUPS, ids=str)
def test_masks_of_m_by_n_are_equal(judge, shape, group):
    name = f"group {shape} {group}"
    zeros, size = group
    mask = our_mask(NofM(size - zeros, size), judge[f"weight {name}"])
    np.testing.assert_array_equal(mask, judge[f"mask {name}"])


@pytest.mark.parametrize("shape", tfmot.SHAPES, ids=str)
def test_of_equal_weights_tfmot_keeps_all_and_we_the_first(judge, shape):
    weight, theirs = judge[f"weight ties {shape}"], judge[f"mask ties {shape}"]
    ours = our_mask(compression.Magnitude(), weight)
    assert not (ours & ~theirs).any()
    assert ours.sum() == max(round(weight.size / 2), 1) <= theirs.sum()
    (left,) = {*np.abs(weight[theirs & ~ours]).tolist()} or {0.0}
    assert left == np.abs(weight[ours]).min() or (theirs == ours).all()


def test_tfmot_compares_other_blocks_where_a_matrix_cuts_off_two_rows(judge):
    name = "centred (14, 14) (4, 4)"
    weight = judge[f"weight {name}"]
    assert (our_mask(compression.Block((4, 4)), weight) != judge[f"mask {name}"]).any()


def test_a_whole_run_is_equal_weight_for_weight(judge):
    keras.utils.set_random_seed(0)
    model = tfmot.network(keras.layers, keras.models, keras.Input)
    count = len(model.weights)
    model.set_weights([judge[f"first {i}"] for i in range(count)])
    optimizer = Pruned(
        keras.optimizers.SGD(0.05, momentum=0.9), PolynomialSparsity(**tfmot.SCHEDULE)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=BACKEND == "jax")
    x, y = tfmot.images()
    seen, atol = [], 1e-6 if BACKEND == "tensorflow" else 1e-4

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.get_weights())

    model.fit(x, y, batch_size=tfmot.BATCH, shuffle=False, verbose=0, callbacks=[Look()])
    for s, weights in enumerate(seen):
        when = "last" if s == tfmot.STEPS - 1 else f"step {s}"
        for i, ours in enumerate(weights):
            theirs = judge[f"{when} {i}"]
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=when)
            np.testing.assert_array_equal(ours == 0, theirs == 0, err_msg=f"{when}, zeros")
    kernels = seen[-1][::2]
    assert [int((w == 0).sum()) for w in kernels] == [round(0.8 * w.size) for w in kernels]
