"""A model like another one, as new."""

import keras


def twin(model: keras.Model) -> keras.Model:
    """Returns a model of the same architecture with new weights, compiled likewise."""
    compiled = model.get_compile_config() if model.compiled else None
    if not compiled:
        raise ValueError("`model` must be compiled, so that it is known how to train the new one.")
    fresh = keras.models.clone_model(model)
    fresh.compile_from_config(compiled)
    return fresh
