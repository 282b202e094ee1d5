"""The training step of every class runs on a TPU as a whole, as far as compilers tell."""

import functools

import keras
import pytest

from keras_optkit._registry import REGISTRY
from tests import steps
from tests.conftest import BACKEND
from tests.steps import BETWEEN, STEPS, faults

# Several classes of a quantized model share a step.
NAMES = list({make: name for name, make in STEPS.items()}.values())
# Of each kind one; the others are `heavy`.
CHOSEN = {"ContinualModel", "GradientMonitor", "Pruned", "SAM", "SOAP", "every part"}
CHOSEN |= {"accumulation and averages"}


def test_every_class_has_a_step_or_acts_between():
    assert not STEPS.keys() & BETWEEN.keys()
    assert sorted(REGISTRY.keys() - STEPS.keys()) == sorted(BETWEEN)
    assert set(NAMES) >= CHOSEN


if BACKEND == "jax":

    @pytest.mark.parametrize("name", NAMES)
    def test_step_is_exported_for_tpu_cuda_and_cpu(name):
        assert not faults(steps.stablehlo(name), "stablehlo")

    def test_what_a_tpu_cannot_do_is_found(monkeypatch):
        import jax

        def calling(step):
            jax.debug.callback(lambda x: None, step)
            return step

        monkeypatch.setitem(STEPS, "faulty", functools.partial(_faulty, calling))
        with pytest.raises(NotImplementedError, match="callback"):
            steps.stablehlo("faulty", ["cpu"])
        double = functools.partial(keras.ops.cast, dtype="float64")
        monkeypatch.setitem(STEPS, "faulty", functools.partial(_faulty, double))
        with jax.enable_x64(True):
            (found,) = faults(steps.stablehlo("faulty"), "stablehlo")
        assert found.startswith("float64")


if BACKEND == "tensorflow":

    @pytest.mark.parametrize("name", [n for n in NAMES if n in CHOSEN])
    def test_step_is_taken_by_xla(name):
        assert not faults(steps.hlo(name), "hlo")

    @pytest.mark.heavy
    @pytest.mark.parametrize("name", [n for n in NAMES if n not in CHOSEN])
    def test_every_step_is_compiled_by_xla(name):
        assert not faults(steps.hlo(name, compiles=True), "hlo")

    def test_what_a_tpu_cannot_do_is_found(monkeypatch):
        import tensorflow as tf

        def double(step):
            return tf.cast(step, "float64")

        def dynamic(step):
            return tf.cast(tf.size(tf.where(tf.fill([3], step) > 0)), "float32")

        for fault, what in ((double, "float64"), (dynamic, "a dynamic shape")):
            monkeypatch.setitem(STEPS, "faulty", functools.partial(_faulty, fault))
            found = faults(steps.hlo("faulty"), "hlo")
            assert [f.split(":")[0] for f in found] == [what]
        calling = functools.partial(tf.numpy_function, lambda x: x, Tout="float32")
        monkeypatch.setitem(STEPS, "faulty", lambda: _faulty(lambda step: calling([step])))
        with pytest.raises(ValueError, match="PyFunc"):
            steps.hlo("faulty")


def _faulty(fault):
    """Returns a step that does something a TPU cannot do."""

    class Faulty(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            rate = fault(keras.ops.convert_to_tensor(learning_rate))
            super().update_step(gradient, variable, keras.ops.cast(rate, "float32"))

    return steps.plain(Faulty)
