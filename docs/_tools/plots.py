"""Plots of what was measured, drawn when the site is built."""

import io

import matplotlib
import tables
from matplotlib.figure import Figure

matplotlib.rcParams |= {"svg.hashsalt": "keras_optkit", "svg.fonttype": "none", "font.size": 9}
COLORS = ["#4477dd", "#e07b39", "#2e9e6b", "#b05bb5"]
GRAY = "#808080"  # on white and on black


def update_cost() -> str:
    """Returns the costs of an update by optimizer, a color for each mode, as an SVG."""
    costs = {n: r for n, r in tables.costs().items() if len(r) == len(tables.MODES)}
    order = sorted(costs, key=lambda name: -costs[name]["JAX"])
    figure = Figure(figsize=(7, 0.22 * len(order) + 1), layout="constrained")
    axes = figure.subplots()
    for color, mode in zip(COLORS, tables.MODES, strict=True):
        axes.plot(
            [costs[n][mode] for n in order], range(len(order)), "o", ms=5, color=color, label=mode
        )
    axes.set_yticks(range(len(order)), order)
    axes.set_xscale("log")
    ticks = (0.25, 0.5, 1, 2, 4, 8)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color=GRAY, lw=1)
    axes.grid(axis="y", alpha=0.3, color=GRAY)
    axes.set_xlabel("time of an update of 10 million weights, as a ratio to Keras' AdamW")
    axes.xaxis.label.set_color(GRAY)
    axes.tick_params(colors=GRAY, labelsize=8)
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, labelcolor=GRAY, framealpha=0, fontsize=8)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
