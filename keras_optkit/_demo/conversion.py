"""The process that makes LiteRT files: `python -m keras_optkit._demo.conversion FOLDER`."""

import dataclasses
import json
import sys
from pathlib import Path

import keras
import numpy as np

from keras_optkit import compression


def main(folder: Path) -> None:
    """Makes files of the models that the other process has saved, runs them, saves the numbers."""
    task = json.loads((folder / "task.json").read_text())
    with np.load(folder / "test.npz") as test:
        images, labels = test["images"], test["labels"]
    files, agreement = {}, []
    for number, (name, int8) in enumerate(zip(task["names"], task["int8"], strict=True)):
        model = keras.saving.load_model(folder / f"{number}.keras", compile=False)
        path = folder / f"{number}.tflite"
        files[name] = compression.export_litert(model, path, require_int8=int8)
        ours = compression.run_litert(files[name], images).argmax(axis=1)
        theirs = model.predict(images, len(images), verbose=0).argmax(axis=1)
        agreement.append(float(np.mean(ours == theirs)))
    report = compression.compression_report(files, (images, labels))
    found = {"rows": [dataclasses.asdict(row) for row in report.rows], "agreement": agreement}
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
