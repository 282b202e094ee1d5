"""Two devices give what one gives, and the step compiles for TPUs."""

import contextlib
import re

import keras
import numpy as np
import pytest

from keras_optkit import optimizers, transforms
from keras_optkit.callbacks import SwapAveragedWeights
from keras_optkit.testing._models import assert_same, data, fit, network
from tests.conftest import two_replicas
from tests.test_contract import MAKERS, TRAINING_PARTS, within

MAKERS = MAKERS | {
    "accumulating": lambda: optimizers.RAdam(
        0.01, gradient_accumulation_steps=2, use_ema=True, ema_overwrite_frequency=2
    ),
    "accumulating for Keras' optimizer": lambda: optimizers.Lookahead(
        keras.optimizers.AdamW(0.01, gradient_accumulation_steps=2), sync_period=2
    ),
    "clipping tightly": lambda: optimizers.Transformed(
        keras.optimizers.SGD(0.1), [transforms.GlobalNormClip(0.01)]
    ),
}

# Those that the model is evaluated with at other weights than it trains at.
SWAPPING = ("Averaged", "ScheduleFreeAdamW", "ScheduleFreeSGD")

if keras.backend.backend() == "tensorflow":

    def train(name, replicas, **kwargs):
        """Returns a trained model; on one device eagerly, since that needs no compiling."""
        with two_replicas().scope() if replicas else contextlib.nullcontext():
            model = network()
            model.compile(MAKERS[name](), "mse", jit_compile=False, run_eagerly=not replicas)
        return fit(model, epochs=2, **kwargs)

    @pytest.mark.parametrize("name", MAKERS)
    def test_mirrored_strategy_equals_one_device(name):
        one, two = train(name, replicas=False), train(name, replicas=True)
        assert_same(two.get_weights(), one.get_weights(), name, atol=1e-5)

    @pytest.mark.parametrize("name", SWAPPING)
    def test_evaluation_weights_under_a_strategy(name):
        seen = []
        for replicas in (False, True):
            swap = SwapAveragedWeights()
            model = train(name, replicas, callbacks=[swap], validation_data=data(8))
            seen.append([model.get_weights()])  # `fit` ends at the evaluation weights
            inside = two_replicas().scope if replicas else contextlib.nullcontext
            for scope in (inside, contextlib.nullcontext):
                for swap in ("use_training_weights", "use_evaluation_weights"):
                    with scope():
                        getattr(model.optimizer, swap)()
                    seen[-1].append(model.get_weights())
        for number, (one, two) in enumerate(zip(*seen, strict=True)):
            assert_same(two, one, f"{name}, look {number}", atol=1e-5)
            assert_same(two, seen[1][number % 2], f"{name}: there and back", atol=1e-6)
        assert np.abs(seen[1][0][0] - seen[1][1][0]).max() > 1e-4


if keras.backend.backend() == "jax":

    @pytest.mark.parametrize("name", MAKERS)
    def test_data_parallel_equals_one_device(name):
        one = fit(network(), MAKERS[name](), epochs=2).get_weights()
        distribution = keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"])
        with distribution.scope():
            two = fit(network(), MAKERS[name](), epochs=2).get_weights()
        assert_same(two, one, name, atol=1e-5)

    @pytest.mark.parametrize("name", [*MAKERS, *TRAINING_PARTS])
    def test_step_lowers_for_tpu_without_host_callbacks(name):
        import jax

        model = network()
        model.compile((MAKERS.get(name) or within(name))(), "mse")
        model._symbolic_build(data_batch=data())
        state = [
            [v.value for v in variables]
            for variables in (
                model.trainable_variables,
                model.non_trainable_variables,
                model.optimizer.variables,
                model.metrics_variables,
            )
        ]
        step = jax.jit(model.train_step, donate_argnums=0)
        module = jax.export.export(step, platforms=["tpu"])(tuple(state), data()).mlir_module()
        assert not re.search(r"custom_call @\w*callback", module)
        assert not re.search(r"tensor<[\dx]*f64>", module)
