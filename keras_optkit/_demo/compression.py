"""Stage 5: smaller versions of the trained network, run as a device would run them."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_optkit import compression
from keras_optkit._demo.data import Shuffled
from keras_optkit._demo.model import OURS
from keras_optkit._demo.plan import Context, Outcome
from keras_optkit._demo.process import in_fresh_process
from keras_optkit._demo.progress import Progress
from keras_optkit.compression import CompressionReport, CompressionRow

FLOAT, PRUNED, CHANNELS, INT8, BOTH = VERSIONS = (
    "float",
    "pruned, 75 % zeros",
    "half the channels",
    "int8",
    "pruned and int8",
)


def compress(context: Context) -> Outcome:
    """Makes four smaller versions of the first model, each trained for some epochs more."""
    versions = make(context)
    reason = why_not()
    agreement: list[float] = []
    if reason:
        report = compression.compression_report(versions, context.digits.test)
        conclusion = f"No LiteRT files, so no sizes and times of them: {reason}."
    else:
        report, agreement = on_the_device(context, versions)
        conclusion = concluded(report, min(agreement))
    _draw(context, report)
    columns, *rows = report.cells()
    numbers: dict[str, Any] = {
        "versions": [dataclasses.asdict(row) for row in report.rows],
        "agreement_with_keras": agreement,
    }
    if reason:
        numbers["skipped"] = reason
    return Outcome(("compression", *columns[1:]), rows, numbers, conclusion)


def make(context: Context) -> dict[str, keras.Model]:
    """Returns the trained model and its smaller versions, by name."""
    model = context.runs[OURS][0].model
    epochs = context.plan.epochs // 2
    steps = epochs * (len(context.digits.train[0]) // context.plan.batch_size)

    def trained(name: str, version: keras.Model, wrap: Callable[[Any], Any] = lambda o: o):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        decay = keras.optimizers.schedules.CosineDecay(2e-3, steps)
        version.compile(wrap(keras.optimizers.Adam(decay)), loss, metrics=["accuracy"])
        batches = Shuffled(context.digits.train, context.plan.batch_size, 0)
        version.fit(
            batches,
            epochs=epochs,
            validation_data=context.digits.validation,
            validation_batch_size=len(context.digits.validation[0]),
            shuffle=False,
            verbose=0,
            callbacks=[batches.follow(), Progress(name)],
        )
        return version

    def pruning(optimizer):
        sparsity = compression.PolynomialSparsity(0.3, 0.75, 0, steps // 2, frequency=4)
        return compression.Pruned(optimizer, sparsity)

    pruned = trained(PRUNED, copied(model), pruning)
    return {
        FLOAT: model,
        PRUNED: pruned,
        CHANNELS: trained(CHANNELS, compression.prune_channels(model, ratio=0.5)),
        INT8: trained(INT8, compression.quantize_model(model)),
        BOTH: trained(BOTH, compression.quantize_model(pruned, preserve="zeros")),
    }


def copied(model: keras.Model) -> keras.Model:
    """Returns a model of the same weights."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def on_the_device(
    context: Context, versions: dict[str, keras.Model]
) -> tuple[CompressionReport, list[float]]:
    """Lets a fresh process on TensorFlow make files of the models and run them."""
    folder = context.out / "compression"
    folder.mkdir(parents=True, exist_ok=True)
    for number, model in enumerate(versions.values()):
        model.save(folder / f"{number}.keras")
    images, labels = context.digits.test
    np.savez(folder / "test.npz", images=images, labels=labels)
    task = {"names": list(versions), "int8": [name in (INT8, BOTH) for name in versions]}
    (folder / "task.json").write_text(json.dumps(task))
    module = "keras_optkit._demo.conversion"
    in_fresh_process("-m", module, str(folder), backend="tensorflow")
    found = json.loads((folder / "found.json").read_text())
    rows = tuple(CompressionRow(**row) for row in found["rows"])
    return CompressionReport(rows, "accuracy", ()), found["agreement"]


def why_not() -> str | None:
    """Returns what keeps LiteRT files from being made and run here, or None."""
    needed = {"tensorflow": "tensorflow", "ai_edge_litert": "ai-edge-litert"}
    missing = [package for name, package in needed.items() if not importlib.util.find_spec(name)]
    if not missing:
        return None
    return f"that takes {' and '.join(missing)}: pip install {' '.join(missing)}"


def concluded(report: CompressionReport, agreement: float) -> str:
    """Returns a sentence that is true of the numbers."""
    first, last = (dataclasses.asdict(row) for row in (report.rows[0], report.rows[-1]))
    size, time = (last[key] / first[key] for key in ("gzip_bytes", "latency"))
    points = 100 * (last["score"] - first["score"])
    return (
        f"{BOTH.capitalize()}, the network takes {size:.0%} of the bytes and {time:.0%} of the "
        f"time, at {points:+.1f} points of accuracy; LiteRT and Keras agree on {agreement:.1%} of "
        "the digits or more."
    )


def _draw(context: Context, report: CompressionReport) -> None:
    # Not pyplot, which keeps state and may ask for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = report.plot(figure.add_subplot())
    axes.set_title("Smaller versions of one network")
    figure.savefig(context.out / "compression.png", dpi=150)
