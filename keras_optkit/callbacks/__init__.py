"""Callbacks that watch training, stop it in time, and bring it back after a crash."""

from keras_optkit.callbacks._activation_flags import ActivationFlag as ActivationFlag
from keras_optkit.callbacks._base import Callback as Callback
from keras_optkit.callbacks._flags import Flag as Flag
from keras_optkit.callbacks._incidents import Incident as Incident
from keras_optkit.callbacks.activation_monitor import ActivationMonitor as ActivationMonitor
from keras_optkit.callbacks.early_stopping import EarlyStopping as EarlyStopping
from keras_optkit.callbacks.gradient_monitor import GradientMonitor as GradientMonitor
from keras_optkit.callbacks.learning_rate_logger import (
    LearningRateLogger as LearningRateLogger,
)
from keras_optkit.callbacks.model_checkpoint import ModelCheckpoint as ModelCheckpoint
from keras_optkit.callbacks.nan_guard import NaNGuard as NaNGuard
from keras_optkit.callbacks.plateau import Plateau as Plateau
from keras_optkit.callbacks.sharpness_monitor import SharpnessMonitor as SharpnessMonitor
from keras_optkit.callbacks.snapshot_ensemble import SnapshotEnsemble as SnapshotEnsemble
from keras_optkit.callbacks.swap_averaged_weights import (
    SwapAveragedWeights as SwapAveragedWeights,
)
from keras_optkit.callbacks.throughput_monitor import ThroughputMonitor as ThroughputMonitor
from keras_optkit.callbacks.training_state import TrainingState as TrainingState
from keras_optkit.callbacks.unfreeze import Unfreeze as Unfreeze

ReduceLROnPlateau = Plateau  # the name that Keras' users look for
