"""TF-MOT's weight clustering of a Keras 3 model."""

from typing import Any

import keras

from keras_optkit import _check
from keras_optkit.compression.tfmot._imports import tfmot
from keras_optkit.compression.tfmot._training import (
    Fit,
    check_call,
    nothing_to_do,
    train,
    wrap,
    wrapped_layers,
)
from keras_optkit.compression.tfmot.from_tf_keras import from_tf_keras
from keras_optkit.compression.tfmot.to_tf_keras import to_tf_keras


def cluster(
    model: keras.Model,
    fit: Fit,
    number_of_clusters: int,
    cluster_centroids_init: str = "kmeans++",
    preserve_sparsity: bool = False,
    cluster_per_channel: bool = False,
) -> keras.Model:
    """Clusters the weights of a Keras 3 model with TF-MOT's `cluster_weights`.

    Each kernel is left with a few distinct values, so the file compresses well; speed stays the
    same. Makes a tf_keras model of the same weights, has TF-MOT wrap the layers that it can
    cluster, calls `fit` on that, takes the wrappers off and returns a plain Keras 3 model.

    Args:
        model: A built, trained Functional or Sequential model. It stays as it is.
        fit: A function of the wrapped tf_keras model that compiles and trains it for a few
            epochs at a low learning rate, with losses and optimizers of tf_keras.
        number_of_clusters: Distinct values for each kernel; 2 or more.
        cluster_centroids_init: Where the values begin: "kmeans++", "density", "linear" or
            "random"; or a `CentroidInitialization` of TF-MOT.
        preserve_sparsity: Whether zeros, of an earlier pruning, remain zeros. Their zero is one
            of the values.
        cluster_per_channel: Whether each channel of a `Conv2D` has values of its own.

    Returns:
        A copy of `model`, not compiled, with the clustered weights.

    Raises:
        ValueError: If the model cannot be translated, or holds nothing that TF-MOT can cluster.
        ImportError: If TF-MOT is missing.

    Example:
        ```python
        def fit(m):
            m.compile(tf_keras.optimizers.Adam(1e-4), "mse")
            m.fit(x, y)

        clustered = keras_optkit.compression.tfmot.cluster(model, fit, number_of_clusters=16)
        ```

    Reference:
        [Han et al., 2016](https://arxiv.org/abs/1510.00149), section 3.
    """
    check_call(model, fit, "tfmot.cluster")
    _check.integer("number_of_clusters", number_of_clusters, low=2)
    _check.flag("preserve_sparsity", preserve_sparsity)
    _check.flag("cluster_per_channel", cluster_per_channel)
    library = tfmot().clustering.keras
    from tensorflow_model_optimization.python.core.clustering.keras import (
        cluster as implementation,
    )
    from tensorflow_model_optimization.python.core.clustering.keras import (
        cluster_wrapper,
        clustering_registry,
    )

    options = {
        "number_of_clusters": number_of_clusters,
        "cluster_centroids_init": _centroids(library, cluster_centroids_init),
        "preserve_sparsity": preserve_sparsity,
        "cluster_per_channel": cluster_per_channel,
    }

    def wrapper(layer):
        registry = clustering_registry.ClusteringRegistry
        # An empty list stands for a layer that is known and has nothing to cluster.
        nothing = not layer.trainable_weights or registry._LAYERS_WEIGHTS_MAP.get(type(layer)) == []
        if nothing or not registry.supports(layer):
            return layer
        # The public `cluster_weights` has no argument for two of the options.
        return implementation._cluster_weights(layer, **options)

    wrapped = wrap(to_tf_keras(model), wrapper)
    if not wrapped_layers(wrapped, cluster_wrapper.ClusterWeights):
        raise nothing_to_do("tfmot.cluster", model)
    train(fit, wrapped, "tfmot.cluster")
    return from_tf_keras(library.strip_clustering(wrapped), like=model)


def _centroids(library: Any, name: Any) -> Any:
    kinds = library.CentroidInitialization
    if isinstance(name, kinds):
        return name
    known = {
        "kmeans++": kinds.KMEANS_PLUS_PLUS,
        "density": kinds.DENSITY_BASED,
        "linear": kinds.LINEAR,
        "random": kinds.RANDOM,
    }
    return known[_check.one_of("cluster_centroids_init", name, known)]
