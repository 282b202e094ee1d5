"""More papers in float64 NumPy, as in `oracles`: `step` returns the new weight."""

import numpy as np


class Adaptive:
    """What Adam and its kin share: betas, epsilon, decoupled decay and the count of steps."""

    def __init__(self, beta_1=0.9, beta_2=0.999, epsilon=1e-8, weight_decay=0.0):
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.weight_decay = weight_decay
        self.t, self.m, self.v = 0, 0.0, 0.0

    def step(self, w, g, learning_rate):
        self.t += 1
        return w - learning_rate * (self.direction(g) + self.weight_decay * w)

    def hat(self, moment, beta):
        return moment / (1 - beta**self.t)


class Adam(Adaptive):
    """Kingma and Ba, 2015, algorithm 1."""

    def direction(self, g):
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * g
        self.v = self.beta_2 * self.v + (1 - self.beta_2) * g**2
        m_hat, v_hat = self.hat(self.m, self.beta_1), self.hat(self.v, self.beta_2)
        return m_hat / (np.sqrt(v_hat) + self.epsilon)


class Cautious(Adam):
    """Liang et al., 2024, algorithm 1, on Adam."""

    def direction(self, g):
        u = super().direction(g)
        agree = (u * g > 0).astype(float)
        return u * agree * (u.size / (agree.sum() + 1))


class AdaBelief(Adaptive):
    """Zhuang et al., 2020, algorithm 2."""

    def __init__(self, epsilon=1e-16, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)

    def direction(self, g):
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * g
        self.v = self.beta_2 * self.v + (1 - self.beta_2) * (g - self.m) ** 2 + self.epsilon
        m_hat, s_hat = self.hat(self.m, self.beta_1), self.hat(self.v, self.beta_2)
        return m_hat / (np.sqrt(s_hat) + self.epsilon)


class Yogi(Adaptive):
    """Zaheer et al., 2018, algorithm 2, with Adam's bias correction."""

    def __init__(self, epsilon=1e-3, initial_accumulator=1e-6, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)
        self.v = initial_accumulator

    def direction(self, g):
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * g
        self.v = self.v - (1 - self.beta_2) * np.sign(self.v - g**2) * g**2
        m_hat, v_hat = self.hat(self.m, self.beta_1), self.hat(self.v, self.beta_2)
        return m_hat / (np.sqrt(v_hat) + self.epsilon)


class Adan:
    """Xie et al., 2022, algorithm 1, its betas as one minus ours, with bias correction."""

    def __init__(self, beta_1=0.98, beta_2=0.92, beta_3=0.99, epsilon=1e-8, weight_decay=0.0):
        self.share = 1 - beta_1, 1 - beta_2, 1 - beta_3
        self.epsilon, self.weight_decay = epsilon, weight_decay
        self.t, self.m, self.v, self.n, self.before = 0, 0.0, 0.0, 0.0, None

    def step(self, w, g, learning_rate):
        self.t += 1
        a, b, c = self.share
        change = 0 * g if self.before is None else g - self.before
        self.before = g
        self.m = (1 - a) * self.m + a * g
        self.v = (1 - b) * self.v + b * change
        self.n = (1 - c) * self.n + c * (g + (1 - b) * change) ** 2
        shares = (self.m, a), (self.v, b), (self.n, c)
        m, v, n = (x / (1 - (1 - share) ** self.t) for x, share in shares)
        rate = learning_rate / (np.sqrt(n) + self.epsilon)
        return (w - rate * (m + (1 - b) * v)) / (1 + learning_rate * self.weight_decay)


class ADOPT(Adaptive):
    """Taniguchi et al., 2024, algorithm 2, clipped."""

    def __init__(self, beta_2=0.9999, epsilon=1e-6, clip_power=0.25, **kwargs):
        super().__init__(beta_2=beta_2, epsilon=epsilon, **kwargs)
        self.clip_power = clip_power

    def direction(self, g):
        if self.t == 1:
            self.v = g**2
            return 0 * g
        c = g / np.maximum(np.sqrt(self.v), self.epsilon)
        if self.clip_power is not None:
            limit = (self.t - 1) ** self.clip_power
            c = np.clip(c, -limit, limit)
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * c
        self.v = self.beta_2 * self.v + (1 - self.beta_2) * g**2
        return self.m


class AdEMAMix(Adaptive):
    """Pagliardini et al., 2024, algorithm 1, with the schedulers of its section 3."""

    def __init__(self, beta_3=0.9999, alpha=5.0, alpha_warmup=None, beta_3_warmup=None, **kwargs):
        super().__init__(**kwargs)
        self.beta_3, self.alpha = beta_3, alpha
        self.alpha_warmup, self.beta_3_warmup = alpha_warmup, beta_3_warmup
        self.slow = 0.0

    def direction(self, g):
        alpha, beta_3 = self.alpha, self.beta_3
        if self.alpha_warmup:
            alpha = min(self.t * alpha / self.alpha_warmup, alpha)
        if self.beta_3_warmup and self.t < self.beta_3_warmup:
            x, low, high = self.t / self.beta_3_warmup, np.log(self.beta_1), np.log(beta_3)
            beta_3 = min(np.exp(low * high / ((1 - x) * high + x * low)), beta_3)
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * g
        self.slow = beta_3 * self.slow + (1 - beta_3) * g
        self.v = self.beta_2 * self.v + (1 - self.beta_2) * g**2
        m_hat, v_hat = self.hat(self.m, self.beta_1), self.hat(self.v, self.beta_2)
        return (m_hat + alpha * self.slow) / (np.sqrt(v_hat) + self.epsilon)


class NovoGrad:
    """Ginsburg et al., 2019, algorithm 1."""

    def __init__(self, beta_1=0.95, beta_2=0.98, epsilon=1e-8, weight_decay=0.0):
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.weight_decay = weight_decay
        self.m, self.v = 0.0, None

    def step(self, w, g, learning_rate):
        square = np.sum(g**2)
        first = self.v is None
        self.v = square if first else self.beta_2 * self.v + (1 - self.beta_2) * square
        self.m = self.beta_1 * self.m + (
            g / (np.sqrt(self.v) + self.epsilon) + self.weight_decay * w
        )
        return w - learning_rate * self.m


class LAMB(Adam):
    """You et al., 2020, algorithm 2; `excluded` from the trust ratio."""

    def __init__(self, epsilon=1e-6, min_norm=0.0, max_norm=np.inf, excluded=False, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)
        self.limits, self.excluded = (min_norm, max_norm), excluded

    def step(self, w, g, learning_rate):
        self.t += 1
        u = self.direction(g) + self.weight_decay * w
        size, length = np.linalg.norm(w), np.linalg.norm(u)
        trust = 1.0 if size == 0 or length == 0 else np.clip(size, *self.limits) / length
        return w - learning_rate * (1.0 if self.excluded else trust) * u


class ScheduleFree:
    """Defazio et al., 2024, algorithm 1, kept as x, y and z; `beta_2=None` is SGD."""

    def __init__(self, beta_1=0.9, beta_2=None, epsilon=1e-8, weight_decay=0.0, weight_power=0.0):
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.weight_decay, self.weight_power = weight_decay, weight_power
        self.t, self.v, self.largest, self.total = 0, 0.0, 0.0, 0.0
        self.x = self.z = None

    def step(self, w, g, learning_rate):
        if self.t == 0:
            self.x = self.z = w
        self.t += 1
        d = g
        if self.beta_2 is not None:
            self.v = self.beta_2 * self.v + (1 - self.beta_2) * g**2
            d = g / (np.sqrt(self.v / (1 - self.beta_2**self.t)) + self.epsilon)
        self.z = self.z - learning_rate * (d + self.weight_decay * w)
        self.largest = max(self.largest, learning_rate)
        weight = self.t**self.weight_power * self.largest**2
        self.total += weight
        c = weight / self.total if self.total else 0.0
        self.x = (1 - c) * self.x + c * self.z
        return (1 - self.beta_1) * self.z + self.beta_1 * self.x


class Muon:
    """Jordan et al., 2024, in float64; `axes` of a kernel are its rows, 0 means AdamW."""

    COEFFICIENTS = 3.4445, -4.7750, 2.0315

    def __init__(self, axes, momentum=0.95, nesterov=True, scale="match_rms_adamw", **adamw):
        self.axes, self.momentum, self.nesterov, self.scale = axes, momentum, nesterov, scale
        self.weight_decay = adamw.get("weight_decay", 0.0)
        self.adam = Adam(**({"beta_2": 0.95, "epsilon": 1e-7} | adamw))
        self.m = 0.0

    def step(self, w, g, learning_rate):
        if not self.axes:
            return self.adam.step(w, g, learning_rate)
        self.m = self.momentum * self.m + (1 - self.momentum) * g
        ahead = self.momentum * self.m + (1 - self.momentum) * g if self.nesterov else self.m
        matrix = ahead.reshape(np.prod(w.shape[: self.axes]), -1)
        rows, columns = matrix.shape
        if self.scale == "original":
            scale = max(1, columns / rows) ** 0.5
        else:
            scale = 0.2 * max(rows, columns) ** 0.5
        direction = scale * self.newton_schulz(matrix).reshape(w.shape)
        return w - learning_rate * (direction + self.weight_decay * w)

    def newton_schulz(self, x):
        a, b, c = self.COEFFICIENTS
        x = x / (np.linalg.norm(x) + 1e-7)
        for _ in range(5):
            s = x @ x.T
            x = a * x + b * s @ x + c * s @ s @ x
        return x


class SOAP:
    """Vyas et al., 2024, algorithms 3 and 4; `axes` of a kernel are its rows, 0 means Adam."""

    def __init__(
        self,
        axes,
        beta_1=0.95,
        beta_2=0.95,
        epsilon=1e-8,
        weight_decay=0.0,
        every=10,
        max_dimension=10_000,
    ):
        self.axes, self.every, self.max_dimension = axes, every, max_dimension
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.weight_decay = weight_decay
        self.t, self.m, self.v, self.sides = 0, 0.0, 0.0, None

    def step(self, w, g, learning_rate):
        self.t += 1
        if not self.axes:
            return w - learning_rate * (self.adam(g, g, lambda x: x, self.t) + self.decayed(w))
        matrix = g.reshape(np.prod(w.shape[: self.axes]), -1)
        grams = [matrix @ matrix.T, matrix.T @ matrix]
        if self.sides is None:
            self.sides = [(1 - self.beta_2) * gram for gram in grams]
            self.bases = [
                np.linalg.eigh(s)[1] if len(s) <= self.max_dimension else np.eye(len(s))
                for s in self.sides
            ]
            return w - learning_rate * self.decayed(w)
        p, q = self.bases
        direction = p @ self.adam(matrix, p.T @ matrix @ q, lambda m: p.T @ m @ q, self.t - 1) @ q.T
        self.sides = [
            self.beta_2 * s + (1 - self.beta_2) * gram
            for s, gram in zip(self.sides, grams, strict=True)
        ]
        if self.t % self.every == 0:
            self.bases = [
                np.linalg.qr(s @ basis)[0] if len(s) <= self.max_dimension else basis
                for s, basis in zip(self.sides, self.bases, strict=True)
            ]
        return w - learning_rate * (direction.reshape(w.shape) + self.decayed(w))

    def decayed(self, w):
        return self.weight_decay * w

    def adam(self, g, turned, turn, t):
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * g
        self.v = self.beta_2 * self.v + (1 - self.beta_2) * turned**2
        m_hat, v_hat = turn(self.m) / (1 - self.beta_1**t), self.v / (1 - self.beta_2**t)
        return m_hat / (np.sqrt(v_hat) + self.epsilon)


def prodigy(start, gradients, rates, decays, *, d_0=1e-6, betas=(0.9, 0.999), epsilon=1e-8):
    """Yields the weights of each step: Mishchenko and Defazio, 2023, algorithm 4, with decay."""
    weights, beta_3, d, r = [np.float64(w) for w in start], betas[1] ** 0.5, d_0, 0.0
    first = weights
    m, v, s = ([0.0 * w for w in weights] for _ in range(3))
    for step, rate in zip(gradients, rates, strict=False):
        g = [np.float64(x) for x in step]
        r = beta_3 * r + (1 - beta_3) * rate * d**2 * sum(
            np.sum(x * (a - w)) for x, a, w in zip(g, first, weights, strict=True)
        )
        s = [beta_3 * x + (1 - beta_3) * rate * d**2 * y for x, y in zip(s, g, strict=True)]
        m = [betas[0] * x + (1 - betas[0]) * d * y for x, y in zip(m, g, strict=True)]
        v = [betas[1] * x + (1 - betas[1]) * d**2 * y**2 for x, y in zip(v, g, strict=True)]
        weights = [
            w - rate * d * (a / (np.sqrt(b) + d * epsilon) + decay * w)
            for w, a, b, decay in zip(weights, m, v, decays, strict=True)
        ]
        d = max(d, r / sum(np.abs(x).sum() for x in s))
        yield weights
