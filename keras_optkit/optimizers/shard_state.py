"""State of an optimizer in parts, one on each device that trains on a part of the batch."""

from typing import Any

import keras

from keras_optkit import _check
from keras_optkit.optimizers._slots import lay_out


def shard_state(model: keras.Model) -> None:
    """Spreads the optimizer's state over the devices that share a batch: ZeRO's first stage.

    Under `keras.distribution.DataParallel` each device holds all weights, and all state of the
    optimizer, which for Adam is twice as much. After this call each of `n` devices holds one
    `n`-th of the state, and moves that part of the weights, which are then gathered: the same
    numbers, up to rounding. Slots, masks, averages, sums of accumulation: all that has an axis
    which `n` divides, of any optimizer of Keras or of this package and of its wrappers. Under
    `keras.distribution.ModelParallel` state is split once more, by the devices of a batch.

    How gradients and weights travel is XLA's choice. On eight CPU devices (JAX 0.10) its program
    has one all-reduce of whole gradients, of which each device keeps its part, and one all-gather
    for each weight: half as many bytes again as without. A reduce-scatter in place of the
    all-reduce, which would make it as many, was not seen; other devices were not looked at.

    Call it in the scope of the distribution, after `compile`, and again after loading a model: a
    file holds whole arrays and no layout, so training may go on with any number of devices.

    Args:
        model: A built and compiled model.

    Raises:
        RuntimeError: If there is no `keras.distribution`, which is JAX's.
        ValueError: If the model is not built or not compiled.

    Example:
        >>> if keras.backend.backend() == "jax":
        ...     with keras.distribution.DataParallel().scope():
        ...         network = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(8)])
        ...         network.compile(keras_optkit.optimizers.RAdam(), "mse")
        ...         keras_optkit.optimizers.shard_state(network)

    Reference:
        [Rajbhandari et al., 2020](https://arxiv.org/abs/1910.02054), section 5.1; by sharding
        annotations, as in [Xu et al., 2020](https://arxiv.org/abs/2004.13336).
    """
    _check.instance("model", model, keras.Model, "a keras.Model")
    distribution: Any = keras.distribution.distribution()
    if distribution is None:
        raise RuntimeError(
            "shard_state spreads state over the devices of a keras.distribution, and there is "
            "none. On the JAX backend, call it, and make the model, inside of "
            "`with keras.distribution.DataParallel().scope():`; other backends have no such thing."
        )
    if not model.built or model.optimizer is None:
        raise ValueError(
            "shard_state needs weights and an optimizer: build the model, by a keras.Input or a "
            f"call on a batch, and compile it. {_check.received('model', model)}"
        )
    optimizer: Any = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    for variable in optimizer.variables:
        lay_out(variable, _split(variable, distribution))
    if model.train_function is not None:
        model.make_train_function(force=True)  # the old one would put state where it was


def _split(variable, distribution):
    """Returns the layout of `variable`, with its longest axis that can be split so, if any."""
    mesh, name = distribution.device_mesh, distribution.batch_dim_name
    parts = mesh.shape[mesh.axis_names.index(name)]
    layout = distribution.get_variable_layout(variable)
    axes, shape = list(layout.axes), tuple(variable.shape)
    free = [i for i, axis in enumerate(axes) if axis is None and shape[i] % parts == 0]
    if free and name not in axes:
        axes[max(free, key=shape.__getitem__)] = name
    return keras.distribution.TensorLayout(axes, mesh)
