"""What a model does to its logits in the end."""

import keras

KINDS = ("softmax", "sigmoid", "linear")


def final_activation(model: keras.Model) -> str | None:
    """Returns the activation of a model's last layer: one of `KINDS`, or None if not known."""
    inside = getattr(model, "_functional", model)  # of a Sequential
    outputs = getattr(inside, "outputs", None)
    if not outputs or len(outputs) > 1:
        return None
    last = getattr(getattr(outputs[0], "_keras_history", None), "operation", None)
    if isinstance(last, keras.Model):
        return final_activation(last)
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    for kind in KINDS:
        if getattr(last, "activation", None) is getattr(keras.activations, kind):
            return kind
    name = type(last).__name__.lower()  # of what `keras.ops.softmax` has put in
    return name if name in KINDS else None
