"""Where to go next: L-BFGS, conjugate gradients, steepest descent; on the device."""

from keras import ops

from keras_optkit import _backend


class Steepest:
    """`p = -g`."""

    c_2 = 0.4

    def start(self, gradient):
        """Returns the direction of the first step."""
        return -gradient

    def next(self, point, before, direction):
        """Returns the next direction, from two points and the direction between them."""
        return -point.gradient


class ConjugateGradients(Steepest):
    """Polak and Ribière's, which falls back to the steepest way as `beta` becomes 0."""

    def __init__(self):
        self._compute = _backend.compiled(_conjugate)

    def next(self, point, before, direction):
        return self._compute(point.gradient, before.gradient, direction)


class LBFGS(Steepest):
    """Limited-memory BFGS, with one program for any number of pairs: those to come are zeros."""

    c_2 = 0.9

    def __init__(self, history: int):
        self._history = history
        self._compute = _backend.compiled(_two_loops)

    def start(self, gradient):
        zero = ops.zeros_like(gradient)
        self._steps = self._changes = (zero,) * self._history
        self._rhos = (ops.sum(zero),) * self._history
        self._scale = ops.sum(zero) + 1
        return -gradient

    def next(self, point, before, direction):
        old = self._steps[1:], self._changes[1:], self._rhos[1:], self._scale
        direction, step, change, rho, self._scale = self._compute(
            point.x, point.gradient, before.x, before.gradient, *old
        )
        self._steps, self._changes = (*old[0], step), (*old[1], change)
        self._rhos = (*old[2], rho)
        return direction


def _conjugate(gradient, before, direction):
    beta = ops.sum(gradient * (gradient - before)) / ops.sum(before * before)
    following = -gradient + ops.maximum(beta, 0) * direction
    falls = ops.sum(following * gradient) <= -0.01 * ops.sum(gradient * gradient)
    return ops.where(falls, following, -gradient)


def _two_loops(x, gradient, x_before, gradient_before, steps, changes, rhos, scale):
    """Nocedal & Wright (2006), algorithm 7.4, with the scale of equation 7.20."""
    s, y = x - x_before, gradient - gradient_before
    sy, yy = ops.sum(s * y), ops.sum(y * y)
    # A pair without curvature counts as none.
    kept = sy > 1e-10 * yy
    rho = ops.where(kept, 1 / ops.where(kept, sy, ops.ones_like(sy)), ops.zeros_like(sy))
    scale = ops.where(kept, sy / ops.where(kept, yy, ops.ones_like(yy)), scale)
    steps, changes, rhos = (*steps, s), (*changes, y), (*rhos, rho)
    q, alphas = gradient, []
    for s_i, y_i, rho_i in zip(steps[::-1], changes[::-1], rhos[::-1], strict=True):
        alphas.append(rho_i * ops.sum(s_i * q))
        q = q - alphas[-1] * y_i
    r = scale * q
    for s_i, y_i, rho_i, alpha in zip(steps, changes, rhos, alphas[::-1], strict=True):
        r = r + s_i * (alpha - rho_i * ops.sum(y_i * r))
    return -r, s, y, rho, scale
