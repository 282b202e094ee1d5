"""Learning rates as functions of the step, and ways to build them from one another."""

from keras_optkit.schedules._base import Schedule as Schedule
from keras_optkit.schedules.sequence import Sequence as Sequence
from keras_optkit.schedules.warmup import Warmup as Warmup
