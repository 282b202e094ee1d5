"""What happens to gradients between the backward pass and the update rule."""

from keras_optkit.transforms._base import Transform as Transform
from keras_optkit.transforms.adaptive_clip import AdaptiveClip as AdaptiveClip
from keras_optkit.transforms.centralize import Centralize as Centralize
from keras_optkit.transforms.global_norm_clip import GlobalNormClip as GlobalNormClip
from keras_optkit.transforms.gradient_noise import GradientNoise as GradientNoise
from keras_optkit.transforms.norm_clip import NormClip as NormClip
from keras_optkit.transforms.value_clip import ValueClip as ValueClip
from keras_optkit.transforms.zero_non_finite import ZeroNonFinite as ZeroNonFinite
