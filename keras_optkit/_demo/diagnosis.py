"""Stage 4: a look inside the network, before training and after."""

from typing import Any

import keras

from keras_optkit import diagnostics
from keras_optkit._demo.model import OURS, network
from keras_optkit._demo.plan import Context, Outcome


def diagnose(context: Context) -> Outcome:
    """Asks for a learning rate at the start, and for the curvature at the end."""
    x, y = context.digits.train
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    fresh = network(0)
    fresh.compile(keras.optimizers.Adam(), loss)
    start = diagnostics.check_initialization(fresh, (x[:256], y[:256]))
    found = diagnostics.find_learning_rate(
        fresh, (x, y), low=1e-5, batch_size=context.plan.batch_size, seeds=(0,), verbose=0
    )
    run = context.runs[OURS][0]
    sample = x[:128], y[:128]
    spectrum = diagnostics.hessian_spectrum(
        run.model, sample, k=1, max_iterations=20, probes=2, verbose=0
    )
    surface = diagnostics.loss_landscape(run.model, sample, points=11, verbose=0)
    _draw(context, run, found, spectrum, surface)
    largest, smallest = float(spectrum.largest[0]), float(spectrum.smallest[0])
    verdict = "; ".join(start.verdict) or "nothing to object to"
    numbers: dict[str, Any] = {
        "initialization": verdict,
        "suggested_learning_rate": found.suggestion,
        "largest_eigenvalue": largest,
        "smallest_eigenvalue": smallest,
    }
    rows = [
        ("initialization", verdict),
        ("learning rate for Adam, by a range test", f"{found.suggestion:.1e}"),
        ("largest and smallest curvature after training", f"{largest:.3g} and {smallest:.2g}"),
    ]
    return Outcome(
        ("diagnosis", "found"),
        rows,
        numbers,
        f"Adam would do well around {found.suggestion:.1e}; the range test left no trace.",
    )


def _draw(context: Context, run, found, spectrum, surface) -> None:
    # Not pyplot, which keeps state and may ask for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    found.plot(axes[0, 0])
    run.monitor.plot(axes=axes[0, 1])
    spectrum.plot(axes[1, 0])
    surface.plot(axes[1, 1])
    titles = ("Learning rates", "Gradient norms in training", "Curvature", "Loss landscape")
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set_title(title)
    figure.savefig(context.out / "diagnosis.png", dpi=150)
