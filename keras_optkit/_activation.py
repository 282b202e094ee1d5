"""What a model does to its logits in the end."""

from typing import Any

import keras

KINDS = ("softmax", "sigmoid", "linear")


def final_activation(model: keras.Model) -> str | None:
    """Returns the activation of a model's last layer: one of `KINDS`, or None if not known."""
    inside = getattr(model, "_functional", model)  # of a Sequential
    outputs = getattr(inside, "outputs", None)
    if not outputs or len(outputs) > 1:
        return None
    history: Any = getattr(outputs[0], "_keras_history", None)
    last: Any = getattr(history, "operation", None)
    while isinstance(last, keras.layers.Activation) and last.activation is keras.activations.linear:
        # As at the end of a model in mixed precision, to cast: what counts comes before.
        history = last._inbound_nodes[history.node_index].input_tensors[0]._keras_history
        last = history.operation
    if isinstance(last, keras.Model):
        return final_activation(last)
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    for kind in KINDS:
        if getattr(last, "activation", None) is getattr(keras.activations, kind):
            return kind
    name = type(last).__name__.lower()  # of what `keras.ops.softmax` has put in
    return name if name in KINDS else None
