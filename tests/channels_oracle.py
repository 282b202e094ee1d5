"""What a model gives when removed channels are zero wherever a kernel reads them.

It knows nothing of how channels are found or removed. All entries of a kernel are distinct, so a
smaller kernel tells itself which filters and rows of the old one it is made of; the rows that are
gone are set to zero in the old model. If the two models then agree, rows and filters that were
removed belong to the same channels, throughout the graph.
"""

import keras
import numpy as np
from keras import layers, ops

ROWS = {
    layers.Dense: ("kernel", 0),
    layers.Conv1D: ("kernel", -2),
    layers.Conv2D: ("kernel", -2),
    layers.Conv3D: ("kernel", -2),
    layers.Conv1DTranspose: ("kernel", -1),
    layers.Conv2DTranspose: ("kernel", -1),
    layers.SeparableConv1D: ("pointwise_kernel", -2),
    layers.SeparableConv2D: ("pointwise_kernel", -2),
}


def flat(model):
    """Returns all layers by their place, those of nested models too."""
    return [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]


def randomize(model, seed=0):
    """Gives a model weights that leave no channel dead, and distinct entries to each kernel."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.name
        if name in ("moving_variance", "gamma"):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) < 2 or name == "alpha":
            value = rng.normal(0, 0.2, shape)
        else:
            size = int(np.prod(shape))
            fan = shape[-1] if "embedding" in name else size / max(shape[-2:])
            step = 2.0 ** np.round(np.log2(2 * np.sqrt(6 / fan) / size))
            value = (rng.permutation(size).reshape(shape) - size // 2) * step
        variable.assign(value.astype("float32"))
    return model


def calibrate(model, x):
    """Gives the BatchNormalizations of a model the statistics of `x`, so that no signal fades."""
    norms = [layer for layer in flat(model) if isinstance(layer, layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(x, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def part(small, large):
    """Returns for each axis which entries of `large` make up `small`."""
    if small.shape == large.shape:
        assert (small == large).all()
        return [np.arange(d) for d in large.shape]
    order = np.argsort(large, axis=None)
    ordered = large.ravel()[order]
    assert (np.diff(ordered) > 0).all(), "the oracle needs distinct entries"
    found = []
    for axis in range(large.ndim):
        line = np.moveaxis(small, axis, 0).reshape(small.shape[axis], -1)[:, 0]
        places = np.unravel_index(order[np.searchsorted(ordered, line)], large.shape)
        found.append(places[axis])
    assert (large[np.ix_(*found)] == small).all(), "the weights are no slice of the old ones"
    return found


def zero_removed(model, small):
    """Sets the rows that `small` lacks to zero in the kernels of `model`; returns how many."""
    count = 0
    for old, new in zip(flat(model), flat(small), strict=True):
        assert type(old) is type(new)
        name, axis = ROWS.get(type(old), (None, 0))
        if name is None or getattr(old, "groups", 1) > 1:
            continue
        assert old.name == new.name
        kernel = getattr(old, name)
        large = ops.convert_to_numpy(kernel)
        rows = part(ops.convert_to_numpy(getattr(new, name)), large)[axis]
        gone = np.ones(large.shape[axis], bool)
        gone[rows] = False
        count += int(gone.sum())
        value = np.moveaxis(large.copy(), axis, 0)
        value[gone] = 0
        kernel.assign(np.moveaxis(value, 0, axis))
    return count


def outputs(model, x):
    found = model.predict_on_batch(x)
    return [np.asarray(y) for y in keras.tree.flatten(found)]


def error(model, small, x, least=1e-2):
    """Returns how far `small` is from `model` without the removed rows, by the output's size.

    To make a difference of at least `least`, in parts of that size, the rows must have mattered.
    """
    before = outputs(model, x)
    assert zero_removed(model, small)
    expected = outputs(model, x)
    actual = outputs(small, x)
    changed = max(largest_difference(a, b) for a, b in zip(before, expected, strict=True))
    assert changed > least, "what was removed made no difference"
    assert all(np.ptp(a, axis=0).max() > 1e-2 * np.abs(a).max() for a in expected)
    assert [a.shape for a in actual] == [a.shape for a in expected]
    return max(largest_difference(a, b) for a, b in zip(actual, expected, strict=True))


def largest_difference(actual, expected):
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
