"""What every registered class must do. A class without a line in `INSTANCES` fails the suite."""

import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_optkit as ko
from keras_optkit import callbacks, compression, continual, optimizers, schedules, transforms
from keras_optkit._registry import PACKAGE, REGISTRY
from keras_optkit.testing import CHECKS, check_optimizer
from keras_optkit.testing._models import assert_same, fit, network, state

SGD = keras.optimizers.SGD

# An optimizer's line takes keyword arguments; its steps are large enough to move bfloat16.
INSTANCES = {
    "ADOPT": lambda **kwargs: optimizers.ADOPT(0.02, **kwargs),
    "ActivationMonitor": lambda: callbacks.ActivationMonitor([[0.5, 1.0]], 2, patience=1),
    "AdEMAMix": lambda **kwargs: optimizers.AdEMAMix(
        0.02, alpha_warmup=8, beta_3_warmup=8, **kwargs
    ),
    "AGEM": lambda: continual.AGEM(
        network(), continual.ReplayBuffer(5), 3, [continual.L2Anchor(0.5)], "learner"
    ),
    "AdaBelief": lambda **kwargs: optimizers.AdaBelief(0.02, **kwargs),
    "Adan": lambda **kwargs: optimizers.Adan(0.02, **kwargs),
    "AdaptiveClip": lambda: transforms.AdaptiveClip(0.01, exclude="head"),
    "AttentionTransfer": lambda: compression.AttentionTransfer([("a", "b")], 4.0, "channels_last"),
    "Averaged": lambda **kwargs: optimizers.Averaged(
        SGD(0.1, momentum=0.9), start=1, every=2, **kwargs
    ),
    "Block": lambda: compression.Block((2, 1), "max"),
    "Centralize": lambda: transforms.Centralize(),
    "ConstantSparsity": lambda: compression.ConstantSparsity(0.5, 1, 9, frequency=2),
    "ContinualModel": lambda: continual.ContinualModel(
        network(), [continual.EWC(2.0)], continual.ReplayBuffer(5), "learner"
    ),
    "CosineRestarts": lambda: schedules.CosineRestarts(0.01, 2, 2, 0.5, 1, 0.001),
    "Cyclic": lambda: schedules.Cyclic(0.001, 0.01, 2, "exp_range", 0.9),
    "EWCOptimizer": lambda **kwargs: continual.EWCOptimizer(
        SGD(0.1, momentum=0.9), 2.0, "proximal", **kwargs
    ),
    "DER": lambda: continual.DER(0.5, 3),
    "DERpp": lambda: continual.DERpp(0.5, 0.25, 3),
    "DecoupledKD": lambda: compression.DecoupledKD(0.5, 2.0, 3.0),
    "Distiller": lambda: compression.Distiller(
        keras.models.clone_model(network()), network(), compression.LogitsKD(), 2.0, 0.2, True
    ),
    "EWC": lambda: continual.EWC(2.0, "online", 0.5, "sampled", 9, "proximal", 4, 1),
    "EarlyStopping": lambda: callbacks.EarlyStopping("loss", patience=3, restore="all"),
    "FeatureKD": lambda: compression.FeatureKD([("a", "b")], None, "channels_first"),
    "Frozen": lambda: compression.Frozen(),
    "FreezeQuantization": lambda: compression.FreezeQuantization(2, 3),
    "GlobalNormClip": lambda: transforms.GlobalNormClip(0.5),
    "Gradient": lambda: compression.Gradient(0.5, "global"),
    "GradientMonitor": lambda: callbacks.GradientMonitor(every=2),
    "GradientNoise": lambda: transforms.GradientNoise(0.1, seed=3),
    "Group": lambda: optimizers.Group(["bias", "head"], lr_multiplier=0.5, weight_decay=0.1),
    "InverseSquareRoot": lambda: schedules.InverseSquareRoot(0.01, warmup_steps=3),
    "L2Anchor": lambda: continual.L2Anchor(0.5, "proximal"),
    "LAMB": lambda **kwargs: optimizers.LAMB(0.02, **kwargs),
    "LARS": lambda **kwargs: optimizers.LARS(0.1, trust_coefficient=0.1, **kwargs),
    "LearningRateLogger": lambda: callbacks.LearningRateLogger(every=5),
    "LateralScale": lambda: continual.LateralScale(0.2, name="scale", dtype="float32"),
    "LinearDecay": lambda: schedules.LinearDecay(0.01, steps=6, final=0.001),
    "LwF": lambda: continual.LwF(0.5, 3.0, [[0, 1], [2]], "all", False),
    "LogitsKD": lambda: compression.LogitsKD(2.0, False, True),
    "Lookahead": lambda **kwargs: optimizers.Lookahead(
        optimizers.RAdam(0.01), sync_period=2, **kwargs
    ),
    "MAS": lambda: continual.MAS(0.5, 9, "proximal", 4, 1),
    "Magnitude": lambda: compression.Magnitude("global"),
    "MaskedCrossentropy": lambda: continual.MaskedCrossentropy([[0, 2], [1]], "sum", "masked"),
    "ModelCheckpoint": lambda: callbacks.ModelCheckpoint("{epoch}.keras", keep=2),
    "Movement": lambda: compression.Movement("global"),
    "MultiStep": lambda: schedules.MultiStep(0.01, [2, 4], factor=0.5),
    "Muon": lambda **kwargs: optimizers.Muon(0.02, exclude="head", **kwargs),
    "NofM": lambda: compression.NofM(1, 3),
    "NaNGuard": lambda: callbacks.NaNGuard("stop", 10, 0.1, 2, 0),
    "NormClip": lambda: transforms.NormClip(0.5),
    "NovoGrad": lambda **kwargs: optimizers.NovoGrad(0.02, **kwargs),
    "OneCycle": lambda: schedules.OneCycle(0.01, steps=8, three_phase=True),
    "OneCycleMomentum": lambda: schedules.OneCycleMomentum(steps=8, low=0.005, high=0.01),
    "PerEpoch": lambda: schedules.PerEpoch(schedules.LinearDecay(0.01, 4), steps_per_epoch=2),
    "Plateau": lambda: callbacks.Plateau("loss", 0.2, 3, 0.01, False, "min", 2, 1e-6, 1),
    "PolynomialSparsity": lambda: compression.PolynomialSparsity(0.1, 0.5, 1, 9, 2, 4),
    "Prodigy": lambda **kwargs: optimizers.Prodigy(initial_estimate=0.01, **kwargs),
    "Product": lambda: schedules.Product([schedules.Cyclic(0.5, 1.0, 2), 0.01]),
    "Pruned": lambda **kwargs: compression.Pruned(
        SGD(0.1, momentum=0.9),
        compression.ConstantSparsity(0.5, 4, frequency=3),
        include=".*",
        **kwargs,
    ),
    "QuantizeActivation": lambda: compression.QuantizeActivation(4, 0.9, (-1, 2), "rounds"),
    "QuantizedBatchNorm": lambda: compression.QuantizedBatchNorm(
        keras.layers.BatchNormalization(name="norm"), False
    ),
    "QuantizedLayer": lambda: compression.QuantizedLayer(
        keras.layers.SeparableConv2D(3, 2, activation="tanh"), 4, 5, False, "zeros"
    ),
    "QuantizedRescaling": lambda: compression.QuantizedRescaling(keras.layers.Rescaling(0.5)),
    "RAdam": lambda **kwargs: optimizers.RAdam(0.01, **kwargs),
    "REX": lambda: schedules.REX(0.01, steps=6, final=0.001),
    "ReplayBuffer": lambda: continual.ReplayBuffer(5, "class_balanced", 2, 999),
    "RelationalKD": lambda: compression.RelationalKD(1.0, 2.0, [("a", "b")]),
    "RigL": lambda: compression.RigL(0.5, seed=2),
    "Random": lambda: compression.Random(seed=2),
    "SAM": lambda: optimizers.SAM(network(), rho=0.3),
    "SET": lambda: compression.SET(0.5, seed=2),
    "SI": lambda: continual.SI(0.5, 0.2, "proximal"),
    "SOAP": lambda **kwargs: optimizers.SOAP(0.02, precondition_every=2, exclude="head", **kwargs),
    "Scale": lambda: schedules.Scale(schedules.LinearDecay(0.1, 6), factor=0.1),
    "ScheduleFreeAdamW": lambda **kwargs: optimizers.ScheduleFreeAdamW(0.02, **kwargs),
    "ScheduleFreeSGD": lambda **kwargs: optimizers.ScheduleFreeSGD(0.1, **kwargs),
    "Scheduled": lambda **kwargs: optimizers.Scheduled(
        SGD(0.1, momentum=0.9), {"momentum": schedules.Warmup(0.9, 5)}, **kwargs
    ),
    "Sequence": lambda: schedules.Sequence([0.01, schedules.Warmup(0.02, 2)], [3]),
    "SharpnessMonitor": lambda: callbacks.SharpnessMonitor(
        (np.zeros((2, 4)), np.ones((2, 1))), 3, "batch", "mse", 1, True, 9, 0.1, 4, 1
    ),
    "SkipNonFinite": lambda **kwargs: optimizers.SkipNonFinite(SGD(0.1, momentum=0.9), **kwargs),
    "SnapshotEnsemble": lambda: callbacks.SnapshotEnsemble(2, 3, "softmax", "members"),
    "SparsityLogger": lambda: compression.SparsityLogger(per="weight"),
    "StepDecay": lambda: schedules.StepDecay(0.01, 2, 0.5, 0.001),
    "SwapAveragedWeights": lambda: callbacks.SwapAveragedWeights(),
    "ThroughputMonitor": lambda: callbacks.ThroughputMonitor(batch_size=32),
    "TrainingState": lambda: callbacks.TrainingState("run", 60, "second", 3),
    "Transformed": lambda **kwargs: optimizers.Transformed(
        SGD(0.1, momentum=0.9), [transforms.GlobalNormClip(0.1)], **kwargs
    ),
    "UpdatePruningStep": lambda: compression.UpdatePruningStep(),
    "Unfreeze": lambda: callbacks.Unfreeze(
        {0: "head", 2: optimizers.Group("body", lr_multiplier=0.1)}, verbose=1
    ),
    "ValueClip": lambda: transforms.ValueClip(0.1),
    "Warmup": lambda: schedules.Warmup(keras.optimizers.schedules.CosineDecay(0.01, 10), steps=3),
    "WarmupStableDecay": lambda: schedules.WarmupStableDecay(0.01, 2, 2, 4, 0.001, "sqrt"),
    "Yogi": lambda **kwargs: optimizers.Yogi(0.02, **kwargs),
    "ZeroNonFinite": lambda: transforms.ZeroNonFinite(),
}
OPTIMIZERS = [
    name for name in INSTANCES if issubclass(REGISTRY.get(name, object), keras.optimizers.Optimizer)
]
PARTS = [name for name in INSTANCES if name not in OPTIMIZERS]

# What differs between rules that are pure functions of a weight and its slots. All else is the
# base's doing, which RAdam goes through in full, as do rules with other state and wrappers.
ALIKE = (
    *("ADOPT", "AdEMAMix", "AdaBelief", "Adan", "LAMB", "NovoGrad", "SOAP"),
    *("ScheduleFreeSGD", "Yogi"),
)
OF_A_RULE = (
    "round_trips",
    "holds_every_argument",
    "resumes_from_file",
    "compiles",
    "moves_half_precision",
    "takes_any_shape",
    "bears_missing_gradients",
    "accumulates",
)
OF_KEPT_STATE = (
    *("round_trips", "resumes_from_file", "resumes_from_weights", "copies_deeply"),
    *("does_not_mind_when_it_is_built", "compiles", "moves_half_precision", "takes_any_shape"),
)
CHECKED = [
    (name, check)
    for name in OPTIMIZERS
    for check in CHECKS
    if name not in ALIKE or check.__name__ in OF_A_RULE
    # In float32 its eigenvectors turn with rounding; tests/test_rules.py allows for that.
    if (name, check.__name__) != ("SOAP", "accumulates")
]


def within(name):
    """Returns a maker of an optimizer that the part called `name` takes part in."""
    part = INSTANCES[name]()
    if isinstance(part, transforms.Transform):
        return lambda: optimizers.RAdam(0.01, gradient_transforms=[INSTANCES[name]()])
    if isinstance(part, schedules.Schedule):
        return lambda: optimizers.RAdam(INSTANCES[name](), weight_decay=INSTANCES[name]())
    if isinstance(part, optimizers.Group):
        return lambda: optimizers.RAdam(0.01, weight_decay=0.1, groups=[INSTANCES[name]()])
    return None


OF_SCHEDULES = ("Sequence", "Warmup")  # these hold others; tests/test_schedules.py has them all
TRAINING_PARTS = [
    name
    for name in PARTS
    if within(name) and (name in OF_SCHEDULES or not issubclass(REGISTRY[name], schedules.Schedule))
]


def all_parts():
    """Returns an optimizer in which every transform, schedule and group takes part."""
    parts = [INSTANCES[name]() for name in TRAINING_PARTS]
    decay, rate = (part for part in parts if isinstance(part, schedules.Schedule))
    return optimizers.RAdam(
        rate,
        weight_decay=decay,
        gradient_transforms=[part for part in parts if isinstance(part, transforms.Transform)],
        groups=[part for part in parts if isinstance(part, optimizers.Group)],
    )


# Of one class too, but each with state of another kind.
KEPT = {
    "bfloat16 state": lambda **kwargs: optimizers.RAdam(0.02, state_dtype="bfloat16", **kwargs),
    "int8 state": lambda **kwargs: optimizers.Adan(0.02, state_dtype="int8", **kwargs),
}
MAKERS = {name: INSTANCES[name] for name in OPTIMIZERS} | {"every part": all_parts} | KEPT


def test_every_registered_class_has_a_line():
    assert sorted(REGISTRY) == sorted(INSTANCES)


@pytest.mark.parametrize(
    ("name", "check"), CHECKED, ids=lambda part: getattr(part, "__name__", part)
)
def test_optimizer(name, check):
    check(INSTANCES[name])


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("check", [c for c in CHECKS if c.__name__ in OF_KEPT_STATE])
def test_kept_state(name, check):
    check(KEPT[name])


@pytest.mark.parametrize("name", PARTS)
def test_part_is_saved_by_name_and_comes_back(name):
    part = INSTANCES[name]()
    saved = keras.saving.serialize_keras_object(part)
    assert saved["registered_name"] == f"{PACKAGE}>{name}"
    twin = keras.saving.deserialize_keras_object(saved)
    assert type(twin) is type(part)
    assert twin.get_config() == part.get_config()
    for argument in part.get_config():
        assert f"{argument}:" in type(part).__doc__, f"the docstring does not explain {argument}"


@pytest.mark.skipif(
    keras.backend.backend() != "torch" or not shutil.which("g++"),
    reason="the other backends compile in every test; torch.compile needs a C++ compiler",
)
def test_torch_compile_does_what_it_does_eagerly():
    def make():
        inner = optimizers.RAdam(0.01, gradient_accumulation_steps=2)
        return optimizers.Lookahead(inner, sync_period=2)

    compiled = fit(network(), make(), jit_compile=True, epochs=2)
    plain = fit(network(), make(), epochs=2)
    assert_same(compiled.get_weights(), plain.get_weights(), "jit_compile", atol=1e-5)


if keras.backend.backend() != "torch":  # which Keras runs eagerly

    @pytest.mark.parametrize("name", TRAINING_PARTS)
    def test_part_trains_the_same_compiled(name):
        make = within(name)
        compiled = fit(network(), make(), jit_compile=True)
        plain = fit(network(), make(), jit_compile=False)
        assert_same(compiled.get_weights(), plain.get_weights(), "jit_compile", atol=1e-5)


def test_a_new_process_goes_on_bit_for_bit_without_custom_objects(tmp_path):
    expected = {}
    for name, make in MAKERS.items():
        model = fit(network(built=False), make())
        model.save(tmp_path / f"{name}.keras")
        expected[name] = state(fit(model))
    script = f"""
import numpy, sys
from pathlib import Path
import keras, keras_optkit
from keras_optkit.testing._models import fit, state
for name in {list(MAKERS)}:
    model = keras.saving.load_model(Path(sys.argv[1]) / f"{{name}}.keras")
    numpy.savez(Path(sys.argv[1]) / f"{{name}}.npz", *state(fit(model)))
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    for name in MAKERS:
        with np.load(tmp_path / f"{name}.npz") as resumed:
            assert_same([resumed[key] for key in resumed], expected[name], name)


def test_ema_weights_swap_through_wrappers():
    def make():
        clip = transforms.GlobalNormClip(1.0)
        return optimizers.Lookahead(optimizers.Transformed(SGD(0.1, use_ema=True), [clip]))

    swap = keras.callbacks.SwapEMAWeights()
    model = fit(network(), make(), callbacks=[swap])
    averages = [v.numpy() for v in model.optimizer._model_variables_moving_average]
    assert_same(model.get_weights(), averages, "after fit the weights are the averages")
    fit(model, callbacks=[swap])  # a second fit, where Keras' own average crashes JAX


def test_check_optimizer_finds_what_is_wrong():
    class Forgetful(ko.optimizers.Optimizer):
        """Keeps its momentum where nothing saves it.

        Args:
            momentum: Share of the last step.
        """

        def __init__(self, momentum=0.9, **kwargs):
            super().__init__(0.1, **kwargs)
            self.momentum = momentum

        def direction(self, gradient, weight, step, slots):
            return gradient * step, slots  # fine; what is wrong is below

        def get_config(self):
            return {"name": self.name}

    with pytest.raises(AssertionError, match=r"holds_every_argument.*\n.*momentum"):
        check_optimizer(Forgetful)
