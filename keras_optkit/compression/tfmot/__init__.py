"""TF-MOT for models of Keras 3, through a bridge to tf_keras."""

from keras_optkit.compression.tfmot.cluster import cluster as cluster
from keras_optkit.compression.tfmot.copy_weights import copy_weights as copy_weights
from keras_optkit.compression.tfmot.from_tf_keras import from_tf_keras as from_tf_keras
from keras_optkit.compression.tfmot.prune import prune as prune
from keras_optkit.compression.tfmot.quantize import Quantized as Quantized
from keras_optkit.compression.tfmot.quantize import quantize as quantize
from keras_optkit.compression.tfmot.to_tf_keras import to_tf_keras as to_tf_keras
