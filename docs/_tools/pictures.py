"""Draws `docs/assets/pictures`: a path for each optimizer, a curve for each schedule.

    KERAS_BACKEND=jax python docs/_tools/pictures.py [NAME ...]

They are committed, so that the site builds without a framework; draw them anew when an optimizer
or a schedule is added. Each optimizer takes 150 steps on two functions of two weights, a matrix of
1 x 2, at the rate of `RATES` at which it ends lowest. Two weights show how a rule moves, not how
well it trains a network: for that see `benchmarks/QUALITY.md`.
"""

import functools
import inspect
import io
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import matplotlib
import numpy as np
from keras import ops
from matplotlib.figure import Figure

import keras_optkit as ko

matplotlib.rcParams |= {"svg.hashsalt": "keras_optkit", "svg.fonttype": "none", "font.size": 9}
OUT = Path(__file__).parents[1] / "assets/pictures"
STEPS = 150
RATES = [1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
BLUE, ORANGE, GRAY = "#4477dd", "#e07b39", "#808080"  # on white and on black


def rosenbrock(w):
    """A bent valley: easy to enter, slow to follow to its minimum at (1, 1)."""
    x, y = w[..., 0], w[..., 1]
    return (1 - x) ** 2 + 20 * (y - x**2) ** 2


def saddle(w):
    """A saddle at (0, 0), 40 times as steep along y, with minima at (1, 0) and (-1, 0)."""
    x, y = w[..., 0], w[..., 1]
    return (x**2 - 1) ** 2 / 4 + 10 * y**2


# Each with where to start, the minimum, and what to show.
FUNCTIONS = {
    "Rosenbrock's valley": (rosenbrock, (-1.2, 1.0), (1.0, 1.0), (-1.8, 1.6), (-0.6, 1.7)),
    "steep valley with a saddle": (saddle, (-0.02, 0.8), (-1.0, 0.0), (-1.5, 0.4), (-0.9, 0.9)),
}


class Landscape(keras.layers.Layer):
    """A layer whose output is a function of its two weights."""

    def __init__(self, function, start):
        super().__init__()
        self.function = function
        self.kernel = self.add_weight(shape=(1, 2), name="kernel")
        self.kernel.assign([start])

    def call(self, x):
        return self.function(self.kernel) + 0 * x


def model_of(function, start):
    """Returns a model whose loss is `function`, and a sample to train it on."""
    model = keras.Sequential([keras.Input((1,)), Landscape(function, start)])
    return model, np.zeros((1, 1), "float32")


def momentum():
    return keras.optimizers.SGD(0.1, momentum=0.9)


ONE_CYCLE = ko.schedules.OneCycleMomentum(STEPS, low=0.5)
WRAPPED = {
    "Averaged": lambda: ko.optimizers.Averaged(momentum(), "polyak"),
    "Lookahead": lambda: ko.optimizers.Lookahead(momentum()),
    "Scheduled": lambda: ko.optimizers.Scheduled(momentum(), {"momentum": ONE_CYCLE}),
    "SkipNonFinite": lambda: ko.optimizers.SkipNonFinite(momentum()),
    "Transformed": lambda: ko.optimizers.Transformed(momentum(), [ko.transforms.NormClip(1.0)]),
}
NOTES = {
    "Averaged": "SGD with momentum, and its mean",
    "Lookahead": "around SGD with momentum",
    "Scheduled": "momentum from 0.95 to 0.5 and back",
    "SkipNonFinite": "around SGD with momentum, every fifth gradient a NaN",
    "Transformed": "SGD with momentum, gradients clipped to a norm of 1",
    "SAM": "around SGD with momentum, rho = 0.1",
    "minimize": "by L-BFGS, each point the end of a line search",
}


@functools.cache
def walk(make, function, start, spoil=0):
    """Returns the rate that ends lowest, the path at it, and that of the weights to evaluate."""
    weight = keras.Variable([list(start)], name="kernel")
    optimizer = make()
    optimizer.build([weight])
    inside = optimizer
    while hasattr(inside, "inner_optimizer"):
        inside = inside.inner_optimizer
    rate = inside._learning_rate
    first = [v.value for v in optimizer.variables]
    gradient_of = jax.grad(lambda w: ops.sum(function(w)))

    def step(state, number):
        w, kept = state
        gradient = gradient_of(w)
        if spoil:
            gradient = ops.where(number % spoil == spoil - 1, np.nan, gradient)
        [w], kept = optimizer.stateless_apply(kept, [gradient], [w])
        return (w, kept), (w, kept)

    @jax.jit
    def run(value):
        kept = [value if v is rate else f for v, f in zip(optimizer.variables, first, strict=True)]
        return jax.lax.scan(step, (weight.value, kept), np.arange(STEPS))[1]

    best = (np.inf,)
    for value in RATES:
        walked, kept = run(jax.numpy.float32(value))
        path = np.concatenate([[start], np.asarray(walked)[:, 0]])
        end = np.mean(np.asarray(function(path))[-10:])
        if np.isfinite(path).all() and np.abs(path).max() < 3 and end < best[0]:
            best = (end, value, path, kept)
    _, value, path, kept = best
    return value, path, evaluated(optimizer, weight, path, kept)


def evaluated(optimizer, weight, path, kept):
    """Returns the path of the weights that `fit` would end with, if they are others."""
    if not hasattr(optimizer, "use_evaluation_weights"):
        return None
    other = [path[0]]
    for i in range(STEPS):
        weight.assign(path[None, i + 1])
        for variable, values in zip(optimizer.variables, kept, strict=True):
            variable.assign(values[i])
        optimizer.use_evaluation_weights()
        other.append(np.asarray(weight.value)[0])
    return np.stack(other)


def walk_sam(function, start):
    """Returns the same for SAM, which is a model around the model."""
    best = (np.inf,)
    for value in RATES[:6]:
        model, x = model_of(function, start)
        sam = ko.optimizers.SAM(model, rho=0.1)
        sam.compile(keras.optimizers.SGD(value, momentum=0.9), lambda y, output: output)
        path = [np.array(start)]
        for _ in range(STEPS):
            sam.train_on_batch(x, x)
            path.append(np.asarray(sam.trainable_variables[0])[0])
        end = np.mean(np.asarray(function(np.stack(path)))[-10:])
        if np.isfinite(end) and end < best[0]:
            best = (end, value, np.stack(path))
    return *best[1:], None


def walk_minimize(function, start):
    """Returns the same for `minimize`, which has no rate."""
    model, x = model_of(function, start)
    path = [np.array(start)]

    def look(result):
        path.append(np.asarray(model.trainable_variables[0])[0])

    ko.optimizers.minimize(model, x, x, loss=lambda y, out: out, callback=look, verbose=0)
    return None, np.stack(path), None


def draw_optimizer(name):
    """Draws the paths of one optimizer, beside those of SGD with momentum, in gray."""
    figure = Figure(figsize=(6.4, 2.7), layout="constrained")
    thing = getattr(ko.optimizers, name)
    for axes, (title, place) in zip(figure.subplots(1, 2), FUNCTIONS.items(), strict=True):
        function, start, minimum, across, up = place
        x, y = np.meshgrid(np.linspace(*across, 32), np.linspace(*up, 32))
        heights = np.asarray(function(np.stack([x, y], -1)))
        axes.contour(x, y, heights, np.geomspace(0.03, 30, 6), colors=GRAY, linewidths=0.4)
        if name == "minimize":
            rate, path, other = walk_minimize(function, start)
        elif name == "SAM":
            rate, path, other = walk_sam(function, start)
        else:
            spoil = 5 if name == "SkipNonFinite" else 0
            rate, path, other = walk(WRAPPED.get(name, thing), function, start, spoil)
        plain = walk(momentum, function, start)[1]
        axes.plot(*plain.T, color=GRAY, lw=1, alpha=0.7)
        axes.plot(*path.T, ".-", color=BLUE, lw=1, ms=4, markevery=10)
        if other is not None:
            axes.plot(*other.T, color=ORANGE, lw=1.6)
        axes.plot(*minimum, "*", color=ORANGE, ms=9)
        axes.set(xlim=across, ylim=up)
        steps = f"{len(path) - 1} steps" + (f" at {rate:g}" if rate else "")
        axes.set_title(f"{title}\n{steps}", fontsize=8, color=GRAY)
    figure.suptitle(f"{name} {NOTES.get(name, '')}".strip(), fontsize=9, color=GRAY)
    save(figure, "optimizers", name)


N = 200
SCHEDULES = {
    "CosineRestarts": "CosineRestarts(1.0, 50, period_factor=2, peak_factor=0.7, warmup_steps=5)",
    "Cyclic": "Cyclic(0.1, 1.0, half_cycle_steps=25, mode='triangular2')",
    "InverseSquareRoot": "InverseSquareRoot(1.0, warmup_steps=30)",
    "LinearDecay": "LinearDecay(1.0, 180)",
    "MultiStep": "MultiStep(1.0, [80, 140], factor=0.3)",
    "OneCycle": "OneCycle(1.0, 200)",
    "OneCycleMomentum": "OneCycleMomentum(200)",
    "PerEpoch": "PerEpoch(LinearDecay(1.0, 10), steps_per_epoch=20)",
    "Product": "Product([Cyclic(0.3, 1.0, 15), LinearDecay(1.0, 200)])",
    "REX": "REX(1.0, 180)",
    "Scale": "Scale(LinearDecay(1.0, 180), 0.5)",
    "Sequence": "Sequence([1.0, LinearDecay(1.0, 100)], boundaries=[80])",
    "StepDecay": "StepDecay(1.0, every=50, factor=0.5)",
    "Warmup": "Warmup(CosineDecay(1.0, 160), steps=30)",
    "WarmupStableDecay": "WarmupStableDecay(1.0, 20, 120, 50)",
}


def draw_schedule(name):
    """Draws one schedule by its `plot`."""
    figure = Figure(figsize=(4.2, 2.1), layout="constrained")
    axes = figure.subplots()
    names = vars(ko.schedules) | vars(keras.optimizers.schedules)
    eval(SCHEDULES[name], dict(names)).plot(N, axes)
    axes.lines[0].set(color=BLUE, lw=1.6)
    axes.set_ylim(0)
    axes.set_title(SCHEDULES[name], fontsize=7, color=GRAY)
    axes.set(xlabel="step", ylabel="momentum" if "Momentum" in name else "learning rate")
    save(figure, "schedules", name)


def save(figure, package, name):
    """Writes a figure as a small SVG that can be read on white and on black."""
    for axes in figure.axes:
        axes.patch.set_visible(False)
        axes.tick_params(colors=GRAY, labelsize=7)
        axes.xaxis.label.set_color(GRAY)
        axes.yaxis.label.set_color(GRAY)
        for spine in axes.spines.values():
            spine.set(color=GRAY, linewidth=0.5)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    path = OUT / package / f"{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(smaller(buffer.getvalue()))
    print(path)


def smaller(svg):
    """Returns an SVG of matplotlib's in half the space."""
    svg = re.sub(r"<\?xml.*?(?=<svg )|<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"font-family: [^;]*;", "font-family: sans-serif;", svg)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\d\.\d)\d+", r"\1", path[0]), svg)
    svg = re.sub(r'"(\d+\.\d)\d+"', r'"\1"', svg)
    svg = re.sub(r'(<path id=[^>]*?style=")(stroke: (#\w+))', r"\1fill: \3; \2", svg)
    svg = re.sub(r'(<use [^>]*?) style="[^"]*"', r"\1", svg)  # which its path has as well
    lines = [" ".join(line.split()) for line in svg.splitlines()]
    svg = "\n".join(line for line in lines if line)
    return re.sub(r"\n(?=[MLCQz\"])", " ", svg) + "\n"


def optimizer_names():
    """Returns the rules, wrappers and drivers that move weights."""
    base = (ko.optimizers.Optimizer, ko.optimizers.Wrapper)
    classes = [n for n, c in vars(ko.optimizers).items() if inspect.isclass(c)]
    rules = [n for n in classes if issubclass(getattr(ko.optimizers, n), base)]
    return [n for n in rules if n not in ("Optimizer", "Wrapper")] + ["SAM", "minimize"]


if __name__ == "__main__":
    chosen = sys.argv[1:]
    for name in optimizer_names():
        if not chosen or name in chosen:
            draw_optimizer(name)
    for name in SCHEDULES:
        if not chosen or name in chosen:
            draw_schedule(name)
