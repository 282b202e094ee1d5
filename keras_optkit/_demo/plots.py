"""The pictures: losses, learning rates and gradient norms."""

from pathlib import Path

import numpy as np

from keras_optkit._demo.model import OPTIMIZERS
from keras_optkit._demo.plan import Context

# Okabe and Ito's colors, which color-blind readers can tell apart; line styles repeat the message.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")


def draw(context: Context) -> list[Path]:
    """Draws all pictures and returns where they are."""
    return [
        _save(figure(context), context.out / f"{name}.png")
        for name, figure in (
            ("loss", losses),
            ("learning_rate", learning_rates),
            ("gradient_norms", gradient_norms),
        )
    ]


def losses(context: Context):
    """Returns training and validation loss: mean over seeds, and a band from lowest to highest."""
    figure, axes = _axes(2, (9.6, 4))
    epochs = np.arange(1, context.plan.epochs + 1)
    for ax, key, title in zip(axes, ("loss", "val_loss"), ("Training", "Validation"), strict=True):
        for i, (name, runs) in enumerate(context.runs.items()):
            values = np.array([run.history[key] for run in runs])
            ax.plot(epochs, values.mean(axis=0), STYLES[i], color=COLORS[i], label=name)
            band = values.min(axis=0), values.max(axis=0)
            ax.fill_between(epochs, *band, color=COLORS[i], alpha=0.2, linewidth=0)
        ax.set(title=title, xlabel="epoch", yscale="log")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("cross-entropy")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    seeds = context.plan.seeds
    shown = f"mean of {seeds} seeds, band from lowest to highest" if seeds > 1 else "one seed"
    figure.suptitle(f"Loss ({shown})")
    return figure


def learning_rates(context: Context):
    """Returns the schedules of the learning rates."""
    from keras import ops

    figure, (ax,) = _axes(1, (6.4, 4))
    steps = len(context.digits.train[0]) // context.plan.batch_size * context.plan.epochs
    for i, (name, recipe) in enumerate(OPTIMIZERS.items()):
        schedule = recipe.schedule(steps)
        values = [float(ops.convert_to_numpy(schedule(step))) for step in range(steps)]
        ax.plot(values, STYLES[i], color=COLORS[i], label=name)
    ax.set(title="Learning rate: warmup, then cosine decay", xlabel="step", ylabel="learning rate")
    ax.set_ylim(bottom=0)
    ax.legend()
    return figure


def gradient_norms(context: Context):
    """Returns the norm of each layer's gradient, for the first seed of each optimizer."""
    figure, axes = _axes(len(context.runs), (9.6, 4))
    for ax, (name, runs) in zip(axes, context.runs.items(), strict=True):
        monitor = runs[0].monitor
        for i, layer in enumerate(monitor.layers):
            style = STYLES[i % len(STYLES)]
            values = monitor.gradient_norms[:, i]
            ax.plot(monitor.steps, values, style, color=COLORS[i % len(COLORS)], label=layer)
        ax.set(title=name, xlabel="step", yscale="log")
    axes[0].set_ylabel("gradient norm")
    figure.suptitle("Gradient norm of each layer, before clipping (seed 0)")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=min(len(handles[0]), 6))
    return figure


def _axes(columns: int, size: tuple[float, float]):
    # Not pyplot, which keeps state and may ask for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=150)
    return path
