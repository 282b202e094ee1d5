"""Sparsity in the History, and the warning that `fit` is too short for a schedule."""

import warnings

import keras
import numpy as np
import pytest

from keras_optkit import compression, optimizers
from keras_optkit.compression import ConstantSparsity, PolynomialSparsity, Pruned, SparsityLogger
from keras_optkit.testing._models import data, fit, network

X, Y = data()  # 32 rows, which make four batches


def shares(model):
    return {v.path: float(np.mean(keras.ops.convert_to_numpy(v) == 0)) for v in model.weights}


@pytest.mark.parametrize("loss_scale", [False, True])
def test_history_has_the_zeros_of_each_layer(loss_scale):
    expected = []

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            expected.append(shares(self.model))

    model = network()
    optimizer = Pruned("sgd", PolynomialSparsity(0.0, 0.75, 2, 10, frequency=4))
    if loss_scale:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=4.0)
    fit(model, optimizer, epochs=3, callbacks=[Count(), SparsityLogger()])
    history = model.history.history
    names = {"sparsity", "sparsity/body", "sparsity/head"}
    assert {name for name in history if name.startswith("sparsity")} == names
    for epoch, found in enumerate(expected):
        body, head = (
            next(s for path, s in found.items() if path.endswith(f"{layer}/kernel"))
            for layer in ("body", "head")
        )
        assert history["sparsity/body"][epoch] == body
        assert history["sparsity/head"][epoch] == pytest.approx(head)
        assert history["sparsity"][epoch] == pytest.approx((12 * body + 3 * head) / 15)
    assert history["sparsity/body"][-1] == 0.75 > history["sparsity/body"][0]


def test_by_weight_by_model_and_without_pruning():
    model = keras.Sequential(
        [keras.Input((3, 2)), keras.layers.SimpleRNN(4, name="rnn"), keras.layers.Dense(1)],
        name="outer",
    )
    logger = SparsityLogger(per="weight")
    fit(model, Pruned("sgd", 0.5), callbacks=[logger], data=(np.ones((8, 3, 2)), np.ones((8, 1))))
    assert model.history.history["sparsity/rnn/simple_rnn_cell/recurrent_kernel"] == [0.5]
    fit(network(), "sgd", callbacks=[SparsityLogger(per="model")])
    model = network()
    model.layers[0].kernel.assign(np.eye(4, 3))
    fit(model, keras.optimizers.SGD(0.0), callbacks=[SparsityLogger()])
    assert model.history.history["sparsity/body"] == [0.75]  # though nothing prunes
    only_bias = keras.Sequential([keras.Input((4,)), keras.layers.LayerNormalization()])
    only_bias.compile("sgd", "mse")
    with pytest.raises(ValueError, match="finds no weight to prune"):
        only_bias.fit(X, X, verbose=0, callbacks=[SparsityLogger()])


def warned(optimizer, callback, epochs=2, **options):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(network(), optimizer, epochs=epochs, callbacks=[callback], **options)
    return [str(w.message) for w in found if "This fit ends" in str(w.message)]


@pytest.mark.parametrize("callback", [SparsityLogger, compression.UpdatePruningStep])
def test_an_end_beyond_fit_is_warned_of_with_the_figures(callback):
    late = PolynomialSparsity(0.0, 0.8, 1, 21, power=1, frequency=4)
    (message,) = warned(Pruned("sgd", late), callback())
    # Eight updates; the turn at step 9 acts after the eighth, at 8 / 20 of 0.8.
    assert "after 8 updates (2 epochs of 4 batches), at a sparsity of 0.32" in message
    assert "reaches 0.8 at step 21. Train 3 epochs more" in message and "end_step=21" in message
    if callback is SparsityLogger:
        assert not warned(Pruned("sgd", late), callback(), epochs=5)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda: Pruned("sgd", ConstantSparsity(0.5, 0)), "before anything is pruned: .*step 100"),
        (lambda: Pruned("sgd", ConstantSparsity(0.5, 10)), "Train 1 epochs more"),
        (lambda: Pruned("sgd", ConstantSparsity(0.5, 9)), None),
        (lambda: Pruned("sgd", ConstantSparsity(0.5, 9, 10_000)), None),  # there, all the same
        (lambda: Pruned("sgd", ConstantSparsity(0.5, 10), "rigl"), None),  # sparse from the start
        (lambda: Pruned("sgd", 0.0, "frozen"), None),
        (lambda: optimizers.SkipNonFinite(Pruned("sgd", ConstantSparsity(0.5, 10))), "before any"),
        (
            lambda: Pruned("sgd", ConstantSparsity(0.5, 6), gradient_accumulation_steps=2),
            r"after 4 updates \(2 epochs of 4 batches, 2 batches an update\).*Train 1 epochs",
        ),
    ],
)
def test_when_there_is_a_warning(optimizer, message):
    found = warned(optimizer(), SparsityLogger("model"))
    assert len(found) == (message is not None), found
    if message is not None:
        with pytest.warns(UserWarning, match=message):
            warnings.warn(found[0], stacklevel=1)


def test_steps_before_and_a_later_first_epoch_count():
    model = fit(network(), Pruned("sgd", ConstantSparsity(0.5, 12)), epochs=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "This fit ends")
        fit(model, epochs=1, callbacks=[SparsityLogger()])  # 12 updates in all, the turn at 12
    with pytest.warns(UserWarning, match="ends after 8 updates .2 epochs of 4"):
        options = {"initial_epoch": 3, "callbacks": [SparsityLogger()]}
        fit(network(), Pruned("sgd", ConstantSparsity(0.5, 12)), epochs=5, **options)


def test_data_of_unknown_length_bring_no_warning():
    def batches():
        for i in range(4):
            yield X[8 * i : 8 * i + 8], Y[8 * i : 8 * i + 8]

    model = network()
    model.compile(Pruned("sgd", ConstantSparsity(0.5, 100)), "mse")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "This fit ends")
        model.fit(batches(), verbose=0, callbacks=[SparsityLogger("model")])


def test_bad_argument():
    with pytest.raises(ValueError, match="`per` must be one of"):
        SparsityLogger(per="kernel")
