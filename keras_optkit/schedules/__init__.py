"""Learning rates as functions of the step, and ways to build them from one another."""

from keras_optkit.schedules._base import Schedule as Schedule
from keras_optkit.schedules.cosine_restarts import CosineRestarts as CosineRestarts
from keras_optkit.schedules.cyclic import Cyclic as Cyclic
from keras_optkit.schedules.inverse_square_root import InverseSquareRoot as InverseSquareRoot
from keras_optkit.schedules.linear_decay import LinearDecay as LinearDecay
from keras_optkit.schedules.multi_step import MultiStep as MultiStep
from keras_optkit.schedules.one_cycle import OneCycle as OneCycle
from keras_optkit.schedules.one_cycle_momentum import OneCycleMomentum as OneCycleMomentum
from keras_optkit.schedules.per_epoch import PerEpoch as PerEpoch
from keras_optkit.schedules.product import Product as Product
from keras_optkit.schedules.rex import REX as REX
from keras_optkit.schedules.scale import Scale as Scale
from keras_optkit.schedules.sequence import Sequence as Sequence
from keras_optkit.schedules.step_decay import StepDecay as StepDecay
from keras_optkit.schedules.warmup import Warmup as Warmup
from keras_optkit.schedules.warmup_stable_decay import WarmupStableDecay as WarmupStableDecay
