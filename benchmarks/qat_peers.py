"""Quantization-aware training, ours and TF-MOT's: accuracy in LiteRT, bytes, agreement.

    KERAS_BACKEND=tensorflow python benchmarks/qat_peers.py

Each seed trains three small networks on scikit-learn's digits. From the same weights both go on for
as many epochs with Adam at the same rate, TF-MOT through `compression.tfmot.quantize`. What counts
is the LiteRT file: its accuracy on 600 digits, its bytes, and how often it answers as the model
with fake quantization does. `--report` prints the table of all results, with 95 % intervals of the
paired differences over the seeds; `--bytes` says what the bytes of one network's files are.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_optkit.compression import export_litert, quantize_model, run_litert, tfmot

sys.path.append(str(Path(__file__).parents[1]))

from tests import nets

RESULTS = Path(__file__).parent / "results" / "qat_peers.json"
EPOCHS, BATCH, RATE = 4, 32, 1e-4
VERSIONS = {"ours": {}, "ours, per_channel=True": {"per_channel": True}}
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262}  # Student's t, by degrees of freedom


def float_model(name: str, seed: int) -> keras.Model:
    """Returns a trained network."""
    return nets.train(nets.NETS[name](seed), seed=seed)


def fit(model, library) -> None:
    """Trains a model of Keras or of tf_keras."""
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(library.optimizers.Adam(RATE), loss)
    model.fit(*nets.digits()[0], batch_size=BATCH, epochs=EPOCHS, verbose=0)


def files(model: keras.Model, seed: int) -> dict[str, tuple[bytes, np.ndarray]]:
    """Returns for each version its LiteRT file and what it answers before the conversion."""
    images, found = nets.digits()[1][0], {}
    for version, options in VERSIONS.items():
        keras.utils.set_random_seed(seed)
        aware = quantize_model(model, **options)
        fit(aware, keras)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.tflite"
            export_litert(aware, path)
            found[version] = path.read_bytes(), aware.predict(images, verbose=0).argmax(1)
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    content, trained = tfmot.quantize(model, lambda m: fit(m, tf_keras))
    found["TF-MOT"] = content, trained.predict(images, verbose=0).argmax(1)
    return found


def measure(name: str, seed: int) -> list[dict]:
    """Returns a row for the float network and one for each version."""
    model, (images, labels) = float_model(name, seed), nets.digits()[1]
    rows = [{"version": "float", "accuracy": nets.accuracy(model)}]
    for version, (content, before) in files(model, seed).items():
        answers = run_litert(content, images).argmax(axis=1)
        row = {"version": version, "accuracy": float(np.mean(answers == labels))}
        row |= {"bytes": len(content), "agreement": float(np.mean(answers == before))}
        rows.append(row)
    return [{"network": name, "seed": seed} | row for row in rows]


def interval(values: list[float]) -> tuple[float, float]:
    """Returns the mean and half of its 95 % interval."""
    if len(values) < 2:
        return values[0], math.inf
    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), T_95[len(values) - 1] * error


def report(found: list[dict]) -> None:
    """Prints the table."""
    print(
        "| network | version | accuracy, % | less float, points | less TF-MOT | agreement | bytes |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["network"] for row in found):
        rows = [row for row in found if row["network"] == name]
        series = {
            version: [r for r in rows if r["version"] == version]
            for version in dict.fromkeys(r["version"] for r in rows)
        }
        for version, own in series.items():
            cells = [f"{100 * statistics.mean(r['accuracy'] for r in own):.2f}"]
            for other in ("float", "TF-MOT"):
                pairs = zip(own, series[other], strict=True)
                middle, half = interval([100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs])
                same = other == version or version == "float"
                cells.append("" if same else f"{middle:+.2f} ± {half:.2f}")
            if version != "float":
                least = min(r["agreement"] for r in own)
                cells.append("all" if least == 1 else f"{least:.2%} or more")
                share = own[0]["bytes"] / series["TF-MOT"][0]["bytes"]
                cells.append(f"{own[0]['bytes']:,} ({share:.3f}x)")
            print(f"| {name} | {version} | {' | '.join(cells)} |{' | |' * (version == 'float')}")


def itemise(name: str) -> None:
    """Prints what the bytes of the files of one network are."""
    from keras_optkit._backend import litert

    schema = litert.schema()
    for version, (content, _) in files(float_model(name, 0), 0).items():
        file = schema.ModelT.InitFromPackedBuf(content, 0)
        (graph,), count = file.subgraphs, Counter()
        count["constants"] = sum(len(b.data) for b in file.buffers if b.data is not None)
        for tensor in graph.tensors:
            found = tensor.quantization
            for part, size in (("scale", 4), ("zeroPoint", 8), ("min", 4), ("max", 4)):
                values = getattr(found, part, None)
                count["scales and zero points"] += 0 if values is None else size * len(values)
            count["names"] += len(tensor.name)
        count["metadata"] = sum(len(m.name) for m in file.metadata or ())
        count["other"] = len(content) - sum(count.values())
        parts = ", ".join(f"{part} {size:,}" for part, size in count.items())
        shape = f"{len(graph.tensors)} tensors, {len(graph.operators)} operations"
        print(f"{name}, {version}: {len(content):,} bytes: {parts}; {shape}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of the name of a network")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--bytes", default="", help="name of a network")
    arguments = parser.parse_args()
    if arguments.bytes:
        itemise(arguments.bytes)
        return
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if not arguments.report:
        for name in nets.NETS:
            for seed in range(arguments.seeds):
                if arguments.only in name:
                    new = measure(name, seed)
                    found = [r for r in found if (r["network"], r["seed"]) != (name, seed)] + new
                    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
                    print(new, flush=True)
    report(found)


if __name__ == "__main__":
    main()
