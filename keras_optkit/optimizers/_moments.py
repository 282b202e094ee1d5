"""Running means of gradients, for numbers and for tensors as decay."""

import math

from keras import ops


def mean(old, new, beta):
    """Returns `beta old + (1 - beta) new`."""
    return beta * old + (1 - beta) * new


def bias(beta, step):
    """Returns `1 - beta^step`, the share of gradients in a running mean that starts at 0.

    By `expm1`, as float32 rounds `1 - beta^step` badly. `beta` may be a tensor, under a schedule.
    """
    if isinstance(beta, (int, float)):
        return -ops.expm1(step * math.log(beta)) if beta else ops.ones_like(step)
    beta = ops.maximum(ops.cast(beta, step.dtype), 1e-30)
    return -ops.expm1(step * ops.log(beta))


def norm(tensor):
    """Returns the L2 norm of all entries."""
    return ops.sqrt(ops.sum(ops.square(tensor)))


def adam(gradient, slots, step, beta_1, beta_2, epsilon):
    """Returns the direction of Adam, and its two means of `slots` with the gradient taken in."""
    momentum, velocity = slots
    momentum = mean(momentum, gradient, beta_1)
    velocity = mean(velocity, ops.square(gradient), beta_2)
    m_hat, v_hat = momentum / bias(beta_1, step), velocity / bias(beta_2, step)
    return m_hat / (ops.sqrt(v_hat) + epsilon), (momentum, velocity)
