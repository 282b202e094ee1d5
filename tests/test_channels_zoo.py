"""Channels removed from networks that people use; takes minutes, so only with `-m heavy`.

On JAX some of XLA's kernels for CPUs are coarser than float32: with them EfficientNetB0 answers a
batch of four and its samples one by one differently by 1e-3. So leave them out there, by
`XLA_FLAGS="--xla_cpu_use_onednn=false --xla_cpu_experimental_ynn_fusion_type="`.
"""

import gc

import keras
import numpy as np
import pytest
from keras import applications

from keras_optkit import compression
from tests import channels_oracle as oracle

# The smallest image that each takes.
ZOO = {
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "ResNet50": 32,
    "DenseNet121": 32,
    "VGG16": 32,
    "InceptionV3": 75,
    "EfficientNetB0": 32,
    "Xception": 71,
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", ZOO)
def test_half_the_channels_of(name):
    size = ZOO[name]
    model = getattr(applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    x = np.random.default_rng(1).uniform(0, 255, (4, size, size, 3)).astype("float32")
    oracle.calibrate(oracle.randomize(model), x)
    small, plan = compression.prune_channels(model, 0.5, return_plan=True)
    error = oracle.error(model, small, x)
    frozen = [group for group in plan.groups if group.frozen_reason]
    before, after = plan.parameters
    print(
        f"\n{name}: error {error:.1e}, parameters {before:,} -> {after:,} ({after / before:.0%}),"
        f" FLOPs {plan.flops[1] / plan.flops[0]:.0%}, {len(frozen)} of {len(plan.groups)} groups"
        f" frozen: {[str(group) for group in frozen]}"
    )
    assert error < 1e-5
    assert plan.parameters == (model.count_params(), small.count_params())
    assert len(frozen) == 1
    keras.utils.clear_session(free_memory=True)
    gc.collect()
