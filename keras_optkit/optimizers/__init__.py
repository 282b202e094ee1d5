"""Optimizers that Keras lacks, and wrappers for those it has."""

from keras_optkit.optimizers._base import Optimizer as Optimizer
from keras_optkit.optimizers._wrapper import Wrapper as Wrapper
from keras_optkit.optimizers.group import Group as Group
from keras_optkit.optimizers.group import layer_decay as layer_decay
from keras_optkit.optimizers.group import no_decay_groups as no_decay_groups
from keras_optkit.optimizers.lars import LARS as LARS
from keras_optkit.optimizers.lookahead import Lookahead as Lookahead
from keras_optkit.optimizers.radam import RAdam as RAdam
from keras_optkit.optimizers.transformed import Transformed as Transformed
