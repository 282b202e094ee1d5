"""Which training steps run on a TPU as a whole, as far as compilers tell; writes TPU.md.

    python benchmarks/tpu_table.py

Lowers the whole training step of each registered class: on JAX for TPU, CUDA and CPU at once, on
TensorFlow for XLA, which compiles it too. It needs no TPU and takes some minutes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
PAGE = HERE / "TPU.md"
LANGUAGES = {"jax": "stablehlo", "tensorflow": "hlo"}
HEAD = """\
# What runs on a TPU

`python benchmarks/tpu_table.py` writes this page. It lowers the whole training step (forward,
backward, update, metrics) of a small model with each registered class: on JAX, exported for
`platforms=["tpu", "cuda", "cpu"]` at once; on TensorFlow, as HLO for XLA, which compiles it for
this machine. *yes* means that the step lowers as a whole, and that no callback to the host, no
float64 and no dynamic shape is in it. No TPU took part: how fast it runs there, this does not
tell. `tests/test_tpu.py` keeps it true.

JAX {jax}, TensorFlow {tensorflow}, Keras {keras}.

{passed} of {steps} steps pass on both.

| step | part of | JAX: TPU, CUDA, CPU | TensorFlow: XLA | operations with code of their own |
|---|---|---|---|---|
"""
TAIL = """
## Between steps

These put nothing into the step; what they do, they do on the host, or in a program of their own.

| | |
|---|---|
"""


def examine(backend):
    """Prints, as JSON, what is wrong with each step on the backend that runs."""
    import keras

    from keras_optkit._registry import REGISTRY
    from tests import steps

    language, results, texts = LANGUAGES[backend], {}, {}
    for name, make in steps.STEPS.items():
        print(name, file=sys.stderr, flush=True)
        try:
            if make not in texts:
                jax = backend == "jax"
                texts[make] = steps.stablehlo(name) if jax else steps.hlo(name, compiles=True)
            faults = steps.faults(texts[make], language)
            calls = steps.custom_calls(texts[make], language)
        except Exception as error:
            faults, calls = [f"{type(error).__name__}: {error}".splitlines()[0]], []
        results[name] = {"faults": faults, "calls": calls}
    places = {name: cls.__module__.split(".")[1] for name, cls in REGISTRY.items()}
    versions = {backend: __import__(backend).__version__, "keras": keras.__version__}
    found = {"steps": results, "between": steps.BETWEEN, "places": places, "versions": versions}
    print(json.dumps(found))


def run(backend):
    """Examines a backend in a process of its own."""
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, backend]
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def page(found):
    """Returns the page as text."""
    jax, tensorflow = found["jax"], found["tensorflow"]
    lines, passed = [], 0
    for name, step in jax["steps"].items():
        both = step, tensorflow["steps"][name]
        passed += not any(part["faults"] for part in both)
        says = ["no: " + "; ".join(part["faults"]) if part["faults"] else "yes" for part in both]
        calls = ", ".join(sorted({call for part in both for call in part["calls"]}))
        shown = f"`{name}`" if name in jax["places"] else name
        place = f"`{jax['places'][name]}`" if name in jax["places"] else ""
        lines.append(f"| {shown} | {place} | {says[0]} | {says[1]} | {calls} |")
    versions = jax["versions"] | tensorflow["versions"]
    head = HEAD.format(passed=passed, steps=len(lines), **versions)
    between = [f"| `{name}` | {why} |" for name, why in sorted(jax["between"].items())]
    return head + "\n".join(lines) + "\n" + TAIL + "\n".join(between) + "\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        examine(sys.argv[1])
    else:
        PAGE.write_text(page({backend: run(backend) for backend in LANGUAGES}))
        print(f"wrote {PAGE}")
