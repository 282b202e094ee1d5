"""Answers to questions about a model and its loss; they leave the model as they found it."""

from keras_optkit.diagnostics._gradient_flow import GradientFlow as GradientFlow
from keras_optkit.diagnostics._initialization import Initialization as Initialization
from keras_optkit.diagnostics._landscape import LossLandscape as LossLandscape
from keras_optkit.diagnostics._learning_rate_range import LearningRateRange as LearningRateRange
from keras_optkit.diagnostics._spectrum import HessianSpectrum as HessianSpectrum
from keras_optkit.diagnostics.check_initialization import (
    check_initialization as check_initialization,
)
from keras_optkit.diagnostics.find_learning_rate import find_learning_rate as find_learning_rate
from keras_optkit.diagnostics.gradient_flow_report import (
    gradient_flow_report as gradient_flow_report,
)
from keras_optkit.diagnostics.hessian_spectrum import hessian_spectrum as hessian_spectrum
from keras_optkit.diagnostics.loss_landscape import loss_landscape as loss_landscape
