"""Fit a physics-informed network: a differential equation in, its solution out, by L-BFGS."""

import sys
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops
from matplotlib.figure import Figure

import keras_optkit as ko

out = Path("runs/pinn")
out.mkdir(parents=True, exist_ok=True)
STEPS = 150 if "--quick" in sys.argv else 1500

# u'' + u' + 4 u = 0 with u(0) = 1, u'(0) = 0: a damped swing
t = np.linspace(0, 4, 101, dtype="float32")[:, None]
omega = np.sqrt(4 - 0.25)
exact = np.exp(-t / 2) * (np.cos(omega * t) + np.sin(omega * t) / (2 * omega))
H = 0.1  # for differences: of fourth order, so wide ones, which float32 likes


def start(t):
    """0 at t = 0, and so is its slope: u begins as it must, whatever the network says."""
    return t * t / (1 + t * t)


def network():
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(24, activation="tanh") for _ in range(2)]
    scale = keras.layers.Rescaling(0.5, offset=-1.0)
    return keras.Sequential([keras.Input((1,)), scale, *hidden, keras.layers.Dense(1)])


class Physics(keras.layers.Layer):
    """Puts out what the equation is off by, for u = 1 + start(t) net(t)."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def call(self, t):
        a, b, u, c, d = (
            1 + start(s) * self.net(s) for s in (t - 2 * H, t - H, t, t + H, t + 2 * H)
        )
        second = (16 * (b + c) - a - d - 30 * u) / (12 * H**2)
        return second + (8 * (c - b) + a - d) / (12 * H) + 4 * u


def solved(train):
    net = network()
    model = keras.Sequential([keras.Input((1,)), Physics(net)])
    model.compile("adam", "mse")
    began = time.perf_counter()
    train(model)
    seconds = time.perf_counter() - began
    return 1 + start(t) * ops.convert_to_numpy(net(t)), model.evaluate(t, 0 * t, 101, 0), seconds


def adam(model):
    model.compile(keras.optimizers.Adam(ko.schedules.LinearDecay(1e-2, STEPS, 1e-4)), "mse")
    model.fit(t, 0 * t, 101, STEPS, verbose=0)


def lbfgs(model):
    ko.optimizers.minimize(model, t, 0 * t, max_iterations=STEPS, verbose=0)


results = {f"Adam, {STEPS} steps": solved(adam), f"L-BFGS, {STEPS} steps": solved(lbfgs)}

figure = Figure(figsize=(6.4, 4), layout="constrained")
axes = figure.subplots()
axes.plot(t, exact, color="black", linewidth=4, alpha=0.3, label="exact")
for (name, (u, loss, seconds)), color in zip(results.items(), ("#D55E00", "#0072B2"), strict=True):
    axes.plot(t, u, "--", color=color, label=name)
    error = np.abs(u - exact).max()
    print(f"{name:20} loss {loss:.1e}, largest error of u {error:.1e}, {seconds:.1f} s")
axes.set(xlabel="t", ylabel="u", title="u'' + u' + 4 u = 0")
axes.legend()
figure.savefig(out / "solution.png", dpi=150)
print(f"\nplot    {out / 'solution.png'}")
