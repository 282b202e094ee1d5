"""Training from nothing on what a buffer holds."""

from typing import Any

import keras

from keras_optkit.continual._twin import twin
from keras_optkit.continual.replay_buffer import ReplayBuffer


def gdumb(model: keras.Model, buffer: ReplayBuffer, **fit: Any) -> keras.Model:
    """Trains a new model of the same architecture on the samples in a buffer, and nothing else.

    The recipe that any method of continual learning has to beat: while the tasks pass, only fill
    a class-balanced buffer; when a model is wanted, train one on it.

    ```python
    buffer = ReplayBuffer(500, policy="class_balanced")
    for x, y in tasks:
        buffer.add(x, y)
    model = gdumb(model, buffer, epochs=30)
    ```

    Args:
        model: A compiled model; it stays as it is.
        buffer: The samples. A `sample_weight` that it holds is used.
        **fit: Arguments of `fit`, such as `epochs` and `batch_size`.

    Returns:
        A new model with new weights, compiled like `model` and trained.

    Raises:
        ValueError: If the model is not compiled, or the buffer is empty.

    Example:
        >>> buffer = keras_optkit.continual.ReplayBuffer(5)
        >>> buffer.add(x, y)
        >>> trained = keras_optkit.continual.gdumb(model, buffer, epochs=3, verbose=0)

    Reference:
        [Prabhu et al., 2020](https://doi.org/10.1007/978-3-030-58536-5_31), "GDumb". Their
        buffer keeps the first samples of each class, this one random ones; they train with
        CutMix and restarts of the learning rate, this with what the model is compiled with.
    """
    x, y, *extras = buffer.data()
    fresh = twin(model)
    weight = extras[0].get("sample_weight") if extras else None
    fresh.fit(x, y, sample_weight=weight, **fit)
    return fresh
