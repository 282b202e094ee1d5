"""What the layers around a layer have in common."""

from typing import Any

import keras

from keras_optkit import _check


class Wrapped(keras.layers.Layer):
    """A layer that runs another one in a quantized form; the weights stay those of `layer`."""

    def __init__(self, layer: keras.layers.Layer, name=None, trainable=True, dtype=None):
        layer = _check.instance("layer", layer, keras.layers.Layer, "a Keras layer")
        super().__init__(
            name=name or layer.name, trainable=trainable, dtype=dtype or layer.dtype_policy
        )
        self.layer: Any = layer
        self.activity_regularizer = layer.activity_regularizer
        self.supports_masking = layer.supports_masking

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build(input_shape)
            self.layer.built = True

    def compute_output_shape(self, input_shape, **kwargs):
        return self.layer.compute_output_shape(input_shape)

    def get_config(self):
        return super().get_config() | {
            "layer": keras.saving.serialize_keras_object(self.layer),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["layer"] = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**config)
