"""Models with our optimizers compiled in leave Keras as SavedModels."""

import keras
import numpy as np
import pytest

from keras_optkit.testing._models import data, fit, network
from tests.test_contract import ALIKE, INSTANCES, OPTIMIZERS

tf = pytest.importorskip("tensorflow")

KINDS = [name for name in OPTIMIZERS if name not in ALIKE]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras cannot: torch to SavedModel")
@pytest.mark.parametrize("name", KINDS)
def test_export_gives_a_saved_model_that_plain_tensorflow_serves(name, tmp_path):
    model = fit(network(), INSTANCES[name]())
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    served = loaded.serve(data()[0])
    np.testing.assert_allclose(served, model.predict(data()[0], verbose=0), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.saved_model needs TF's own")
@pytest.mark.parametrize("name", KINDS)
def test_tf_saved_model_and_checkpoint(name, tmp_path):
    model = fit(network(), INSTANCES[name]())
    tf.saved_model.save(model, str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    (served,) = loaded.signatures["serving_default"](tf.constant(data()[0])).values()
    np.testing.assert_allclose(served, model.predict(data()[0], verbose=0), rtol=1e-6, atol=1e-6)
    tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
