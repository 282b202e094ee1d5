"""Callbacks that watch training and report; they leave the model as they found it."""

from keras_optkit.callbacks._base import Callback as Callback
from keras_optkit.callbacks._flags import Flag as Flag
from keras_optkit.callbacks.gradient_monitor import GradientMonitor as GradientMonitor
from keras_optkit.callbacks.plateau import Plateau as Plateau
from keras_optkit.callbacks.swap_averaged_weights import (
    SwapAveragedWeights as SwapAveragedWeights,
)
