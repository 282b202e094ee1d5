"""A layer that tells how often a backend traces the model around it."""

from keras import layers


class Counting(layers.Layer):
    """Counts how often it is traced."""

    traced = 0

    def call(self, inputs):
        name = type(inputs).__name__
        self.traced += "Tracer" in name or "Symbolic" in name
        return inputs
