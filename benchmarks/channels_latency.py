"""What zeros save and what fewer channels save: bytes, and time in LiteRT on one thread.

    KERAS_BACKEND=tensorflow python benchmarks/channels_latency.py

Each network as it is, with 80 % of its weights zero (`prune_once`), and with half of its channels
gone (`prune_channels`). The files are timed in turns, 50 calls each time; shown is the median over
the rounds of the median of the calls. Weights are random: time does not depend on them.
"""

import argparse
import gzip
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from keras import layers

from keras_optkit import compression


def cnn():
    blocks = []
    for filters in (32, 64, 128):
        blocks += [layers.Conv2D(filters, 3, padding="same", use_bias=False)]
        blocks += [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]
    ends = layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10)
    return keras.Sequential([keras.Input((64, 64, 3)), *blocks, *ends])


def application(name, size):
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )


NETS = {
    "conv net, 64 x 64": cnn,
    "MobileNetV2, 96 x 96": lambda: application("MobileNetV2", 96),
    "EfficientNetB0, 96 x 96": lambda: application("EfficientNetB0", 96),
    "ResNet50, 96 x 96": lambda: application("ResNet50", 96),
}


def versions(net):
    yield "as it is", net
    sparse = keras.models.clone_model(net)
    sparse.set_weights(net.get_weights())
    compression.prune_once(sparse, 0.8)
    yield "80 % zeros", sparse
    yield "half the channels", compression.prune_channels(net, 0.5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print("| network | version | weights | file, MB | gzip, MB | ms | speed |")
    print("|---|---|---|---|---|---|---|")
    for title, make in NETS.items():
        with tempfile.TemporaryDirectory() as folder:
            files, times = {}, {}
            for name, model in versions(make()):
                path = Path(folder) / f"{len(files)}.tflite"
                model.export(path, format="litert", verbose=False)
                files[name] = path, model.count_params()
            for _ in range(rounds):
                for name, (path, _) in files.items():
                    found = compression.litert_latency(path, threads=1, repeats=50)
                    times.setdefault(name, []).append(found.p50)
            before = statistics.median(times["as it is"])
            for name, (path, weights) in files.items():
                data, time = path.read_bytes(), statistics.median(times[name])
                sizes = f"{len(data) / 1e6:.2f} | {len(gzip.compress(data)) / 1e6:.2f}"
                speed = f"{time:.2f} | {before / time:.2f}x"
                print(f"| {title} | {name} | {weights:,} | {sizes} | {speed} |", flush=True)


if __name__ == "__main__":
    main()
