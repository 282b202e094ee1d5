"""torch: everything runs at once, in Python's order."""

import torch
from keras.src.backend.torch.core import get_device


def dense(gradient):
    return gradient.to_dense() if gradient.is_sparse else gradient


def read(variable):
    return variable.value


def sum_over_replicas(gradients):
    return gradients


def replica_count():
    return 1


def assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def cond(predicate, effect, variables):
    if predicate:
        effect()


def update_each(jobs):
    return [function(*arguments) for function, arguments in jobs]


def seeded_normal(shape, seed, index, step):
    device = get_device()
    generator = torch.Generator(device)
    generator.manual_seed(
        (seed * 1_000_003 + index) * 2_147_483_629 + int(step) & 0x7FFFFFFFFFFFFFFF
    )
    return torch.randn(shape, generator=generator, device=device)


def no_gradient():
    return torch.no_grad()
