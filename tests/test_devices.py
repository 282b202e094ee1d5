"""Two devices give what one gives, and the step compiles for TPUs."""

import re

import keras
import pytest

from keras_optkit import optimizers, transforms
from keras_optkit.testing._models import assert_same, fit, network
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

if keras.backend.backend() == "tensorflow":

    @pytest.mark.parametrize("name", MAKERS)
    def test_mirrored_strategy_equals_one_device(name):
        one = fit(network(), MAKERS[name](), epochs=2)
        with two_replicas().scope():
            model = network()
            model.compile(MAKERS[name](), "mse", jit_compile=False)
        fit(model, epochs=2)
        assert_same(model.get_weights(), one.get_weights(), name, atol=1e-5)


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

        from keras_optkit.testing._models import data

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
