"""The main job: this package at work on real data, with numbers to show for it.

A stage is a function from the `Context` to an `Outcome`, its part of the closing table. To show
another capability, write a stage in a module of its own and add it to `STAGES`; a stage may use
what the earlier ones left in the context.
"""

import importlib.util
import time
from pathlib import Path

from keras_optkit._demo import compression, diagnosis, export, forgetting, report, resume, training
from keras_optkit._demo.data import digits
from keras_optkit._demo.plan import QUICK, Context, Plan

STAGES = {
    "Two optimizers under the same budget": training.compare,
    "Save, resume in a fresh process": resume.resume,
    "Export": export.export,
    "Diagnosis": diagnosis.diagnose,
    "Compression": compression.compress,
    "Continual learning": forgetting.learn,
}


def run(out: Path, quick: bool = False) -> None:
    """Runs all stages, prints the table, and leaves plots and numbers in `out`."""
    require("sklearn", "matplotlib")
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    context = Context(out, QUICK if quick else Plan(), digits())
    report.announce(context)
    for number, (name, stage) in enumerate(STAGES.items(), 1):
        print(f"\n[{number}/{len(STAGES)}] {name}", flush=True)
        context.outcomes[name] = stage(context)
    report.conclude(context, time.perf_counter() - start)


def require(*modules: str) -> None:
    """Ends the program with advice if one of `modules` is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"The demo needs {' and '.join(missing)}, which is not installed. Run: "
            'pip install "keras_optkit[demo]"'
        )
