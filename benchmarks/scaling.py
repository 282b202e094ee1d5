"""How the cost of an update grows: with variables, with weights, with devices. On JAX.

    KERAS_BACKEND=jax python benchmarks/scaling.py variables     # or parameters, or devices

Seconds are those of CPU time, which other work on the machine disturbs less: to trace the update,
to compile it, and for one update, the median of several. An exponent is the slope of a straight
line through the logarithms of the upper half of the sizes, where what is constant no longer
matters: 1 is in proportion. `--report` prints the tables of all results.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
if "--devices" in sys.argv:  # before JAX is imported
    count = sys.argv[sys.argv.index("--devices") + 1]
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"

import jax
import keras
import numpy as np

from keras_optkit import optimizers

RESULTS = Path(__file__).parent / "results" / "scaling_jax.json"
VARIABLES = (10, 30, 100, 300, 1000, 3000)  # of 64 entries
PARAMETERS = (1e5, 1e6, 1e7, 1e8, 3e8)  # in 10 variables
DEVICES = (1, 2, 4, 8)
WHAT = ("trace", "compile", "update")

CONTESTANTS = {
    "keras AdamW": lambda: keras.optimizers.AdamW(1e-4),
    "RAdam": lambda: optimizers.RAdam(1e-4),
    "LAMB": lambda: optimizers.LAMB(1e-4),
    "Lookahead(RAdam)": lambda: optimizers.Lookahead(optimizers.RAdam(1e-4)),
}


def cost(make, shapes: list[tuple[int, ...]], repeats: int) -> dict[str, float]:
    """Returns seconds of CPU time to trace and to compile an update, and to do one."""
    optimizer = make()
    variables = [
        keras.Variable(np.full(s, 0.5, "float32"), name=f"w{i}") for i, s in enumerate(shapes)
    ]
    optimizer.build(variables)
    gradients = [jax.numpy.full(s, 1e-3, "float32") for s in shapes]
    weights = [v.value for v in variables]
    state = [v.value for v in optimizer.variables]
    for v in (*variables, *optimizer.variables):
        v._value = None  # else there are two of each

    def update(state, weights, gradients):
        return optimizer.stateless_apply(state, gradients, weights)[::-1]

    step = jax.jit(update, donate_argnums=(0, 1))
    start = time.process_time()
    lowered = step.lower(state, weights, gradients)
    traced = time.process_time()
    run = lowered.compile()
    compiled = time.process_time()
    seconds = []
    for _ in range(repeats + 2):
        begin = time.process_time()
        state, weights = jax.block_until_ready(run(state, weights, gradients))
        seconds.append(time.process_time() - begin)
    return {
        "trace": traced - start,
        "compile": compiled - traced,
        "update": statistics.median(seconds[2:]),
    }


def by_variables() -> dict:
    return {
        name: {n: cost(make, [(8, 8)] * n, 15) for n in VARIABLES}
        for name, make in CONTESTANTS.items()
    }


def by_parameters() -> dict:
    return {
        name: {int(n): cost(make, [(int(n) // 10,)] * 10, 15 if n < 1e8 else 3) for n in PARAMETERS}
        for name, make in CONTESTANTS.items()
    }


def by_devices() -> dict:
    """Each count in a process of its own: the devices are made when JAX starts."""
    found: dict = {}
    for count in DEVICES:
        command = [sys.executable, __file__, "fit", "--devices", str(count)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for name, seconds in json.loads(printed.splitlines()[-1]).items():
            found.setdefault(name, {})[count] = seconds
    return found


def fit_cost() -> dict:
    """Returns the cost of a whole training step, its batch divided among all devices."""
    found = {}
    with keras.distribution.DataParallel().scope():
        for name, make in CONTESTANTS.items():
            model = keras.Sequential(
                [keras.Input((64,)), *(keras.layers.Dense(64, "relu") for _ in range(10))]
            )
            model.compile(make(), "mse")
            x = np.ones((256, 64), "float32")
            model._symbolic_build(data_batch=(x, x))
            state = model._get_jax_state(True, True, True, True)
            layout = keras.distribution.distribution().get_data_layout(x.shape).backend_layout
            batch = jax.device_put((x, x), layout)
            step = jax.jit(model.train_step, donate_argnums=0)
            start = time.process_time()
            lowered = step.lower(state, batch)
            traced = time.process_time()
            run = lowered.compile()
            compiled = time.process_time()
            seconds = []
            for _ in range(30):
                begin = time.process_time()
                _, state = jax.block_until_ready(run(state, batch))
                seconds.append(time.process_time() - begin)
            found[name] = {
                "trace": traced - start,
                "compile": compiled - traced,
                "update": statistics.median(seconds[5:]),
            }
    return found


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """Returns the slope of the logarithms, over the upper half of the sizes."""
    half = len(sizes) // 2
    x, y = np.log(sizes[half - 1 :]), np.log(seconds[half - 1 :])
    return float(np.polyfit(x, y, 1)[0])


def report() -> str:
    lines = []
    for part, found in json.loads(RESULTS.read_text())["seconds"].items():
        sizes = list(next(iter(found.values())))
        shown = [f"{int(s):,}" for s in sizes]
        lines += [f"| by {part} | of | {' | '.join(shown)} | exponent |"]
        lines += ["|" + "---|" * (len(sizes) + 3)]
        for name, costs in found.items():
            for what in WHAT:
                seconds = [costs[s][what] for s in sizes]
                cells = " | ".join(f"{1e3 * s:.3g}" for s in seconds)
                slope = exponent([float(s) for s in sizes], seconds)
                lines.append(f"| {name} | {what} | {cells} | {slope:.2f} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("variables", "parameters", "devices", "fit"))
    parser.add_argument("--devices", type=int, help="how many virtual devices; of `fit`")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if arguments.part == "fit":
        print(json.dumps(fit_cost()))
        return
    if arguments.part:
        run = {"variables": by_variables, "parameters": by_parameters, "devices": by_devices}
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"seconds": {}}
        results["seconds"][arguments.part] = run[arguments.part]()
        results |= {"keras": keras.__version__, "jax": jax.__version__, "cpus": os.cpu_count()}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(report())


if __name__ == "__main__":
    main()
