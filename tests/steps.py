"""The training steps that the classes of this package take part in, as compilers see them.

`STEPS` has a maker for each registered class that puts something into the step, `BETWEEN` the
classes that act on the host between steps, or are no part of training.
"""

import contextlib
import functools
import re
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from keras_optkit import callbacks, compression, continual, optimizers
from keras_optkit._registry import REGISTRY
from keras_optkit.callbacks._instrument import Instrument
from keras_optkit.compression.pruning._method import Method
from keras_optkit.compression.pruning._schedule import SparsitySchedule
from keras_optkit.testing._models import BATCH, data, network
from tests.test_contract import INSTANCES, MAKERS, within

SGD = keras.optimizers.SGD

BETWEEN = {
    "ActivationMonitor": "a compiled step of its own, on a probe batch",
    "EarlyStopping": "reads what `fit` logs",
    "LearningRateLogger": "asks the schedules on the host",
    "ModelCheckpoint": "saves",
    "Plateau": "sets the variable of the learning rate",
    "ReplayBuffer": "NumPy, before the batch goes to the device",
    "SharpnessMonitor": "a compiled step of its own, on a probe batch",
    "SnapshotEnsemble": "copies weights",
    "SparsityLogger": "counts at the end of epochs",
    "SwapAveragedWeights": "exchanges variables at the end of epochs",
    "ThroughputMonitor": "looks at the clock",
    "TrainingState": "saves",
    "UpdatePruningStep": "nothing; for code written for TF-MOT",
}


class Step(NamedTuple):
    """A compiled model, a batch, and the callback that adds to the step if there is one."""

    model: keras.Model
    batch: tuple
    callback: keras.callbacks.Callback | None = None


def plain(make, callback=None):
    """Returns a step of the usual network."""
    model = network()
    model.compile(make(), "mse")
    return Step(model, data(BATCH), callback and callback())


def images():
    """Returns a batch of images and labels."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 6, 6, 2)).astype("float32"), rng.integers(0, 3, 8).astype("int32")


def pictures(width):
    """Returns a network that has a layer of each kind that is rounded or taught from."""
    ones = {"kernel_initializer": "ones"}  # JAX compiles random numbers anew for each shape
    separable = {"depthwise_initializer": "ones", "pointwise_initializer": "ones"}
    stack = [
        keras.Input((6, 6, 2)),
        layers.Rescaling(0.5),
        layers.Conv2D(width, 3, use_bias=False, name="a", **ones),
        layers.BatchNormalization(),
        layers.ReLU(name="b"),
        layers.BatchNormalization(name="alone"),
        layers.SeparableConv2D(3, 2, **separable),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3, name="head", **ones),
    ]
    return keras.Sequential(stack)


def classifying(model, callback=None):
    """Returns a step of a model that classifies images."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(SGD(0.01), loss)
    return Step(model, images(), callback and callback())


def distilled(*losses):
    """Returns a step of a student."""
    return classifying(compression.Distiller(pictures(4), pictures(2), list(losses)))


def pruned(method=None, sparsity=None):
    """Returns a step with masks."""
    sparsity = sparsity or compression.ConstantSparsity(0.5, 1, frequency=2)
    inner = SGD(0.1, momentum=0.9)
    return plain(
        lambda: compression.Pruned(inner, sparsity, method or "magnitude", include="body/kernel")
    )


def continued(*penalties):
    """Returns a step of a model with penalties."""
    model = continual.ContinualModel(network(), list(penalties))
    model.compile(optimizers.RAdam(0.01), "mse")
    return Step(model, data(BATCH))


class Seen(Exception):
    """Ends a `fit` of which no more is wanted."""


def as_fed(make, x, y):
    """Returns a step with the batch that `fit` itself makes of the data."""
    batches = []

    def record(*arguments):
        batches.append(keras.tree.map_structure(np.asarray, next(arguments[-1])))
        raise Seen

    model = make()
    model.make_train_function()
    model.train_function = record
    with contextlib.suppress(Exception):  # on JAX the model has no values left to go on with
        model.fit(x, y, batch_size=BATCH, verbose=0)
    (batch,) = batches
    return Step(make(), batch)


def replayed(penalty):
    """Returns a step that distils from logits, those in the buffer or of a teacher."""

    def make():
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_initializer="ones")])
        buffer = continual.ReplayBuffer(5) if isinstance(penalty, continual.DER) else None
        model = continual.ContinualModel(model, penalty, buffer)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizers.RAdam(0.01), loss)
        return model

    return as_fed(make, data(BATCH)[0], np.arange(BATCH) % 3)


def projected():
    """Returns a step with a second gradient, of samples from a buffer."""

    def make():
        model = continual.AGEM(network(), continual.ReplayBuffer(5), BATCH)
        model.compile(optimizers.RAdam(0.01), "mse")
        return model

    return as_fed(make, *data(BATCH))


def lateral():
    """Returns a step of a network with a learned factor."""
    stack = [keras.Input((4,)), continual.LateralScale(0.2), layers.Dense(1)]
    model = keras.Sequential(stack)
    model.compile(optimizers.RAdam(0.01), "mse")
    return Step(model, data(BATCH))


def sharp():
    """Returns a step of a model that takes two gradients."""
    model = INSTANCES["SAM"]()
    model.compile(optimizers.RAdam(0.01), "mse")
    return Step(model, data(BATCH))


def masked():
    """Returns a step with a loss over groups of classes."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_initializer="ones")])
    model.compile(optimizers.RAdam(0.01), INSTANCES["MaskedCrossentropy"]())
    return Step(model, (data(BATCH)[0], np.arange(BATCH) % 3))


def quantized(callback=None):
    """Returns a step in which kernels and activations are rounded."""
    return classifying(compression.quantize_model(pictures(2)), callback)


def monitored():
    """Returns a step that measures all that a monitor can."""
    measure = ["cosine", "zeros", "histogram"]
    return plain(MAKERS["Lookahead"], lambda: callbacks.GradientMonitor(2, measure=measure))


def scaled(make):
    """Returns a maker of an optimizer for mixed precision."""
    return lambda: keras.optimizers.LossScaleOptimizer(make())


def _steps():
    steps = {name: functools.partial(plain, make) for name, make in MAKERS.items()}
    for name in INSTANCES.keys() - MAKERS.keys():
        cls = REGISTRY[name]
        if name not in BETWEEN and within(name):
            steps[name] = functools.partial(plain, within(name))
        elif issubclass(cls, Method):
            steps[name] = functools.partial(pruned, INSTANCES[name]())
        elif issubclass(cls, SparsitySchedule):
            steps[name] = functools.partial(pruned, None, INSTANCES[name]())
    both = (continual.EWC(2.0), continual.SI(0.5, update="proximal"))
    taught = functools.partial(compression.FeatureKD, [("a", "b")])
    freezing = functools.partial(compression.FreezeQuantization, 2, 3)
    guarded = functools.partial(callbacks.NaNGuard, "skip")
    unfreezing = functools.partial(callbacks.Unfreeze, {0: "head", 2: "body"})
    return steps | {
        "AGEM": projected,
        "AttentionTransfer": lambda: distilled(compression.AttentionTransfer([("a", "a")])),
        "ContinualModel": lambda: continued(*both),
        "DER": lambda: replayed(continual.DER(0.5, 3)),
        "DERpp": lambda: replayed(continual.DERpp(0.5, 0.25, 3)),
        "DecoupledKD": lambda: distilled(compression.DecoupledKD()),
        "Distiller": lambda: distilled(compression.LogitsKD(2.0), taught()),
        "EWC": lambda: continued(continual.EWC(2.0)),
        "FeatureKD": lambda: distilled(taught()),
        "FreezeQuantization": lambda: quantized(freezing),
        "GradientMonitor": monitored,
        "L2Anchor": lambda: continued(continual.L2Anchor(2.0, "proximal")),
        "LateralScale": lateral,
        "LwF": lambda: replayed(continual.LwF(1.0)),
        "LogitsKD": lambda: distilled(compression.LogitsKD(2.0)),
        "MAS": lambda: continued(continual.MAS(2.0)),
        "MaskedCrossentropy": masked,
        "NaNGuard": lambda: plain(MAKERS["SkipNonFinite"], guarded),
        "QuantizeActivation": quantized,
        "QuantizedBatchNorm": quantized,
        "QuantizedLayer": quantized,
        "QuantizedRescaling": quantized,
        "RelationalKD": lambda: distilled(compression.RelationalKD()),
        "SAM": sharp,
        "SI": lambda: continued(continual.SI(2.0)),
        "Unfreeze": lambda: plain(MAKERS["RAdam"], unfreezing),
        "accumulation and averages": lambda: plain(
            lambda: optimizers.RAdam(
                0.01, gradient_accumulation_steps=2, use_ema=True, ema_overwrite_frequency=2
            )
        ),
        "cautious": lambda: plain(lambda: optimizers.RAdam(0.01, cautious=True)),
        "mixed precision": lambda: plain(scaled(MAKERS["Lookahead"])),
    }


STEPS = dict(sorted(_steps().items(), key=lambda pair: pair[0].lower()))


@contextlib.contextmanager
def stepping(step):
    """Lets the callback of a step put into the model what it does for `fit`."""
    model, callback = step.model, step.callback
    model.optimizer.build(model.trainable_variables)
    if callback is None:
        yield
        return
    callback.set_params({"epochs": 1, "steps": 1, "verbose": 0})
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    instrument = model.train_function
    if not isinstance(instrument, Instrument):
        yield
        return
    with instrument._place.holding(instrument._outermost):
        yield


def stablehlo(name, platforms=("tpu", "cuda", "cpu")):
    """Returns the whole training step of JAX, exported for each of `platforms`, as text."""
    import jax

    step = STEPS[name]()
    model = step.model
    with stepping(step):
        model._symbolic_build(data_batch=step.batch)
        kinds = ("trainable_variables", "non_trainable_variables", "metrics_variables")
        trainable, rest, metrics = ([v.value for v in getattr(model, kind)] for kind in kinds)
        state = trainable, rest, [v.value for v in model.optimizer.variables], metrics
        compiled = jax.jit(model.train_step, donate_argnums=0)
        return str(
            jax.export.export(compiled, platforms=platforms)(state, step.batch).mlir_module()
        )


def hlo(name, compiles=False):
    """Returns the whole training step of TensorFlow, as XLA takes it, as text.

    If `compiles`, XLA has to compile it too, for this machine.
    """
    import tensorflow as tf

    step = STEPS[name]()
    with stepping(step):
        step.model._symbolic_build(data_batch=step.batch)
        compiled = tf.function(step.model.train_step, jit_compile=True, autograph=False)
        batch = keras.tree.map_structure(tf.constant, step.batch)
        make = compiled.experimental_get_compiler_ir(batch)
        if compiles:
            make(stage="optimized_hlo")
        return make(stage="hlo")


# What a step must not hold to run on a TPU as a whole.
CALLBACK = r"[^\s\"]*(?:callback|Host)"
FAULTS = {
    "stablehlo": {
        "calls the host": rf"custom_call @{CALLBACK}|stablehlo\.(?:send|recv|infeed|outfeed)\b",
        "float64": r"tensor<(?:[\dx?]*x)?(?:f64|complex<f64>)>",
        "a dynamic shape": r"tensor<[\dx]*\?",
    },
    "hlo": {
        "calls the host": rf'custom_call_target="{CALLBACK}|(?<= )(?:send|recv|infeed|outfeed)\(',
        "float64": r"\b(?:f64|c128)\[",
        "a dynamic shape": r"\b(?:pred|[suf]\d+|bf16)\[[\d,]*(?:<=|\?)",
    },
}


def faults(text, language):
    """Returns what keeps a step from running on a TPU as a whole."""
    found = {what: re.search(pattern, text) for what, pattern in FAULTS[language].items()}
    return [f"{what}: {match[0]}" for what, match in found.items() if match]


def custom_calls(text, language):
    """Returns names of what compilers have for an operation of its own, such as LAPACK's."""
    pattern = {"stablehlo": r"custom_call @([\w.]+)", "hlo": r'custom_call_target="([^"]+)"'}
    return sorted(set(re.findall(pattern[language], text)))
