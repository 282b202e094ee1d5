"""The model, and the two optimizers that train it."""

from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import layers

from keras_optkit import schedules, transforms
from keras_optkit.optimizers import Lookahead, RAdam, no_decay_groups

OURS, BASELINE = "Lookahead(RAdam)", "AdamW"
WEIGHT_DECAY = 0.05
CosineDecay = keras.optimizers.schedules.CosineDecay


def network(seed: int) -> keras.Model:
    """Returns a small convolutional network, whose initial weights depend on the seed alone.

    It has no Dropout: Keras does not save the state of random generators, so a model with
    Dropout does not resume bit for bit.
    """
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_2"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="conv_3"),
            layers.Flatten(name="flatten"),
            layers.Dense(10, name="head"),
        ],
        name="digits",
    )


# Each learning rate is the best of four on validation data, 0.003 to 0.02 for AdamW and 0.02 to 0.1
# for Lookahead, which takes half of each stretch back; three runs each, of other seeds.


def lookahead_radam(model: keras.Model, steps: int) -> keras.optimizers.Optimizer:
    """Returns Lookahead around RAdam, with warmup, adaptive clipping, and decay of kernels."""
    return Lookahead(
        RAdam(
            schedule_with_warmup(steps),
            weight_decay=WEIGHT_DECAY,
            gradient_transforms=[transforms.AdaptiveClip(0.1, exclude="head")],
            groups=no_decay_groups(model),
        )
    )


def schedule_with_warmup(steps: int):
    """Returns a cosine decay that our warmup leads to."""
    warmup = steps // 10
    return schedules.Warmup(CosineDecay(0.06, steps - warmup), steps=warmup)


def adamw(model: keras.Model, steps: int) -> keras.optimizers.Optimizer:
    """Returns Keras' AdamW, with Keras' warmup, and the same decay of the same weights."""
    optimizer = keras.optimizers.AdamW(cosine_with_warmup(steps), weight_decay=WEIGHT_DECAY)
    flat = [v for v in model.trainable_variables if len(v.shape) < 2]
    optimizer.exclude_from_weight_decay(var_list=flat)
    return optimizer


def cosine_with_warmup(steps: int):
    """Returns a cosine decay with the warmup that Keras has built in."""
    warmup = steps // 10
    first = 0.012 / warmup  # Keras' own warmup would otherwise begin with a step of 0
    return CosineDecay(first, steps - warmup, warmup_target=0.012, warmup_steps=warmup)


class Recipe(NamedTuple):
    """How to make an optimizer for a run of so many steps, and its learning rate by itself."""

    slug: str
    make: Callable[[keras.Model, int], keras.optimizers.Optimizer]
    schedule: Callable[[int], keras.optimizers.schedules.LearningRateSchedule]


OPTIMIZERS = {
    OURS: Recipe("lookahead_radam", lookahead_radam, schedule_with_warmup),
    BASELINE: Recipe("adamw", adamw, cosine_with_warmup),
}
