"""Stage 2: stop half way, go on in another process, and arrive at the same bits."""

import dataclasses
import json

import numpy as np

from keras_optkit._demo.model import OURS
from keras_optkit._demo.plan import Context, Outcome
from keras_optkit._demo.process import in_fresh_process
from keras_optkit._demo.training import arrays, compiled, fit
from keras_optkit.callbacks import GradientMonitor


def resume(context: Context) -> Outcome:
    """Compares an interrupted run with the one that the first stage did in one go."""
    plan, half = context.plan, context.plan.epochs // 2
    folder = context.out / "resume"
    folder.mkdir(parents=True, exist_ok=True)
    model, monitor = compiled(OURS, plan, 0, context.digits), GradientMonitor(every=plan.every)
    fit(model, plan, 0, context.digits, monitor, f"{OURS}, first half", (0, half))
    model.save(folder / "interrupted.keras")
    rest = {"plan": dataclasses.asdict(plan), "epoch": half, "monitor": monitor.state()}
    (folder / "rest.json").write_text(json.dumps(rest))

    in_fresh_process("-m", "keras_optkit._demo.continuation", str(folder))

    run = context.runs[OURS][0]
    with np.load(folder / "resumed.npz") as saved:
        resumed = [saved[name] for name in saved.files]
    expected = [*arrays(run.model), run.monitor.gradient_norms]
    difference = max_difference(resumed, expected)
    count = sum(array.size for array in expected)
    row = (
        f"resumed at epoch {half} of {plan.epochs}, in a fresh process",
        f"{len(expected)} arrays, {count:,} numbers",
        f"{difference}",
    )
    numbers = {"arrays": len(expected), "numbers": count, "max_difference": difference}
    verdict = "equals, bit for bit," if difference == 0 else "DIFFERS from"
    return Outcome(
        ("exactness", "compared", "max difference"),
        [row],
        numbers,
        f"The resumed run {verdict} the uninterrupted one: weights, optimizer state, monitor.",
    )


def max_difference(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """Returns the largest absolute difference; infinite if number, shape or dtype differ."""
    if [(a.shape, a.dtype) for a in first] != [(a.shape, a.dtype) for a in second]:
        return float("inf")
    pairs = zip(first, second, strict=True)
    return max(float(np.max(np.abs(a - b), initial=0)) for a, b in pairs)
