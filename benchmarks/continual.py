"""How well tasks are kept, and how fast: this package beside Avalanche.

    python benchmarks/continual.py            # tunes, measures, and writes the tables
    python benchmarks/continual.py --more     # EWC on domain-incremental tasks, on further seeds
    python benchmarks/continual.py --times    # takes the time each task takes, on a quiet machine
    python benchmarks/continual.py --report   # measures nothing, writes the tables

Both sides read the same files of tasks and initial weights, train the same networks by Adam with
batches of the same size, as many epochs and the same buffers, and choose the strength of each
method from the same grid on five seeds; twenty others are then trained with it, each of them twenty
times with replay, ten times with EWC. `CONTINUAL.md` says how to read the results, which are
written after each pair of setting and method; what was interrupted goes on where it was. Avalanche
gets a virtual environment of its own, made on first use. Needs JAX, scikit-learn and
`pip install --no-deps mnist1d`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from forgetting import report
from forgetting.environment import python_of
from forgetting.report import SIDES
from forgetting.study import (
    EWC_FORMS,
    HELD_OUT,
    LARGE,
    METHODS,
    MORE,
    SAME_THERE,
    SETTINGS,
    TIMED,
    TUNING,
)

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "continual.json", HERE / "CONTINUAL.md"
FOLDER = Path(tempfile.gettempdir()) / "keras_optkit_continual"
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
MOST = 3  # further runs on torch, and of the large tasks
ON_TORCH = ("split digits, class", "permuted digits")  # where its time is taken, too


class Side:
    """A process that trains one side."""

    def __init__(self, side: str, folder: Path):
        python = python_of(folder / "avalanche") if side == "theirs" else sys.executable
        backend = "torch" if side == "ours on torch" else "jax"
        paths = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path[1:]])
        environment = os.environ | ONE_THREAD | {"KERAS_BACKEND": backend}
        environment["PYTHONPATH"] = str(HERE) if side == "theirs" else paths
        name = "theirs" if side == "theirs" else "ours"
        self._log = folder / f"{name}.log"  # Avalanche warns a lot
        self._process = subprocess.Popen(
            [python, "-W", "ignore", "-m", "forgetting.side", name, str(folder / "tasks")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("a"),
            text=True,
        )
        self.about = self._answer()

    def do(self, **job) -> dict:
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict:
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"the process ended with {self._process.wait()}; see {self._log}")


def load() -> dict:
    if RESULTS.exists():
        return json.loads(RESULTS.read_text())
    return {"about": {}, "results": [], "more": [], "times": [], "conversions": []}


def save(found: dict) -> None:
    """Writes results, one a line."""
    parts = [f'"about": {json.dumps(found["about"])}']
    for name in ("results", "more", "times", "conversions"):
        lines = ",\n".join(json.dumps(row) for row in found[name])
        parts.append(f'"{name}": [\n{lines}\n]')
    partial = RESULTS.with_suffix(".partial")
    partial.write_text("{" + ",\n".join(parts) + "}\n")
    partial.replace(RESULTS)


def write_tasks(settings: list[str], seeds: list[int], folder: Path) -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    from forgetting.tasks import write

    folder.mkdir(parents=True, exist_ok=True)
    for setting in settings:
        for seed in range(1 + MOST) if setting == LARGE.name else seeds:
            write(folder, TIMED[setting], seed)


def measure(found: dict, side: str, jobs: list[tuple[str, str]], folder: Path, name: str) -> None:
    """Adds what is not known yet to the results of that name."""
    known = {(r["side"], r["setting"], r["method"]) for r in found[name]}
    jobs = [job for job in jobs if (side, *job) not in known]
    jobs = [job for job in jobs if side == "ours" or job[1] not in SAME_THERE]
    if not jobs:
        return
    process = Side(side, folder)
    found["about"][side] = process.about["versions"]
    for setting, method in jobs:
        began = time.perf_counter()
        result = process.do(do="study", setting=setting, method=method, more=name == "more")
        # Another process may have written since.
        found.update(load(), about=load()["about"] | found["about"])
        found[name].append({"side": side} | result)
        save(found)
        print(f"{side}, {setting}, {method}: {time.perf_counter() - began:.0f} s", flush=True)
    process.close()


def take_times(found: dict, jobs: list[tuple[str, str]], folder: Path, repeats: int) -> None:
    """Takes times anew; the sides take turns, so that other work on the machine meets each."""
    found["times"] = [t for t in found["times"] if (t["setting"], t["method"]) not in jobs]
    chosen = {(r["side"], r["setting"], r["method"]): r["strength"] for r in found["results"]}
    processes = {side: Side(side, folder) for side in SIDES}
    for setting, method in jobs:
        if method in SAME_THERE:
            continue
        for side, process in processes.items():
            if side == "ours on torch" and setting not in ON_TORCH:
                continue
            slow = setting == LARGE.name or side == "ours on torch"
            usual = (METHODS[method] or [None])[0]
            strength = chosen.get((side.split()[0], setting, method), usual)
            again = min(repeats, MOST) if slow else repeats
            job = {"do": "clock", "setting": setting, "method": method, "repeats": again}
            taken = process.do(**job, strength=strength)
            found["times"].append({"side": side, "setting": setting, "method": method} | taken)
        print(f"{setting}, {method}", flush=True)
    for side, process in processes.items():
        found["about"][side] = process.about["versions"]
        process.close()
    save(found)


def convert(found: dict, folder: Path) -> None:
    """Checks conversions of strengths, and what Avalanche's SI finds on a CPU."""
    theirs = Side("theirs", folder)
    importance = theirs.do(do="convert")["si"]
    theirs.close()
    ours = Side("ours", folder)
    found["conversions"] = [*ours.do(do="convert")["rows"], {"importance": importance}]
    ours.close()
    save(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--settings", nargs="*", choices=TIMED)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--sides", nargs="*", default=list(SIDES[:2]), choices=SIDES[:2])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for tasks and Avalanche")
    parser.add_argument("--repeats", type=int, default=9, help="further runs to time")
    parser.add_argument("--more", action="store_true", help="further seeds only")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--conversions", action="store_true", help="check them only")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    found, folder = load(), arguments.folder
    settings = arguments.settings or list(TIMED if arguments.times else SETTINGS)
    jobs = [(s, m) for s in settings for m in arguments.methods]
    if arguments.more:
        domain = [s for s in settings if TIMED[s].kind == "domain"]
        jobs = [(s, m) for s in domain for m in arguments.methods if m in EWC_FORMS]
    if not arguments.report:
        seeds = [*TUNING, *HELD_OUT, *(MORE if arguments.more else ())]
        write_tasks(settings, seeds, folder / "tasks")
    if arguments.conversions:
        convert(found, folder)
    elif arguments.times:
        take_times(found, jobs, folder, arguments.repeats)
    elif not arguments.report:
        name = "more" if arguments.more else "results"
        for side in arguments.sides:
            measure(found, side, [job for job in jobs if job[0] in SETTINGS], folder, name)
    report.write(load(), PAGE)


if __name__ == "__main__":
    main()
