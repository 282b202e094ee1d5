"""Optimizers that Keras lacks, and wrappers for those it has."""

from keras_optkit.optimizers._base import Optimizer as Optimizer
from keras_optkit.optimizers._wrapper import Wrapper as Wrapper
from keras_optkit.optimizers.adabelief import AdaBelief as AdaBelief
from keras_optkit.optimizers.adan import Adan as Adan
from keras_optkit.optimizers.ademamix import AdEMAMix as AdEMAMix
from keras_optkit.optimizers.adopt import ADOPT as ADOPT
from keras_optkit.optimizers.averaged import Averaged as Averaged
from keras_optkit.optimizers.group import Group as Group
from keras_optkit.optimizers.group import layer_decay as layer_decay
from keras_optkit.optimizers.group import no_decay_groups as no_decay_groups
from keras_optkit.optimizers.lamb import LAMB as LAMB
from keras_optkit.optimizers.lars import LARS as LARS
from keras_optkit.optimizers.lookahead import Lookahead as Lookahead
from keras_optkit.optimizers.muon import Muon as Muon
from keras_optkit.optimizers.novograd import NovoGrad as NovoGrad
from keras_optkit.optimizers.prodigy import Prodigy as Prodigy
from keras_optkit.optimizers.radam import RAdam as RAdam
from keras_optkit.optimizers.recalibrate import recalibrate_batchnorm as recalibrate_batchnorm
from keras_optkit.optimizers.schedule_free_adamw import ScheduleFreeAdamW as ScheduleFreeAdamW
from keras_optkit.optimizers.schedule_free_sgd import ScheduleFreeSGD as ScheduleFreeSGD
from keras_optkit.optimizers.scheduled import Scheduled as Scheduled
from keras_optkit.optimizers.skip_non_finite import SkipNonFinite as SkipNonFinite
from keras_optkit.optimizers.soap import SOAP as SOAP
from keras_optkit.optimizers.transformed import Transformed as Transformed
from keras_optkit.optimizers.yogi import Yogi as Yogi
