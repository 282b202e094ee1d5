"""How good the optimizers are: small real workloads, equal tuning, seeds held out.

    KERAS_BACKEND=jax python benchmarks/optimizer_quality.py

For each optimizer on each workload, the same number of trials choose a learning rate and a weight
decay; five other seeds are then trained with them. Results are written after each pair, and a
run that was interrupted goes on where it was. `QUALITY.md` says how to read them. `--quick` is a
trial of the program itself: AdamW twice on one workload, nothing written. `--report` measures
nothing, and writes tables and picture of what there is. Needs scikit-learn, matplotlib and
`pip install --no-deps mnist1d`.
"""

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# A core for each process: times then do not depend on how many there are.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("NPROC", "1")
# For LAPACK, which SOAP calls: with threads that wait by spinning it took 16 times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

RESULTS = Path(__file__).parent / "results" / "optimizer_quality.json"
PAGE = Path(__file__).parent / "QUALITY.md"


def study(job: tuple[str, str], trials: int, seeds: int) -> dict:
    from quality.study import study

    return study(*job, trials, seeds)


def load(trials: int, seeds: int) -> list[dict]:
    """Returns the results of earlier runs with as many trials and seeds."""
    found = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else []
    return [r for r in found if (len(r["trials"]), len(r["curves"])) == (trials, seeds)]


def save(results: list[dict], arguments) -> None:
    import jax
    import keras

    about = {"keras": keras.__version__, "jax": jax.__version__, "threads": 1}
    about |= {"trials": arguments.trials, "seeds": arguments.seeds}
    lines = ",\n".join(json.dumps(result) for result in results)
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(f'{{"about": {json.dumps(about)},\n"results": [\n{lines}\n]}}\n')
    partial.replace(RESULTS)


def run(jobs: list[tuple[str, str]], results: list[dict], arguments) -> list[dict]:
    """Returns all results, written after each job unless it is a quick run."""
    began = time.time()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, context) as pool:
        futures = {pool.submit(study, job, arguments.trials, arguments.seeds): job for job in jobs}
        for done, future in enumerate(as_completed(futures), 1):
            if error := future.exception():
                print(f"failed: {futures[future]}: {error!r}", flush=True)
                continue
            result = future.result()
            results.append(result)
            if not arguments.quick:
                save(results, arguments)
            finals = sorted(min(v for v in c if v is not None) for c in result["curves"])
            print(
                f"{time.time() - began:6.0f} s  {done}/{len(jobs)}  {result['workload']}, "
                f"{result['optimizer']}: {finals[len(finals) // 2]:g}, {result['took']} s",
                flush=True,
            )
    return results


def main():
    from quality.contestants import CONTESTANTS
    from quality.workloads import WORKLOADS

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--optimizers", nargs="*", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes, each of one thread")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.workloads = arguments.workloads[:1]
        arguments.optimizers = arguments.optimizers[:2]
        arguments.trials, arguments.seeds = 2, 2
    fresh = arguments.fresh or arguments.quick
    results = [] if fresh else load(arguments.trials, arguments.seeds)
    known = {(r["workload"], r["optimizer"]) for r in results}
    jobs = [(w, o) for w in arguments.workloads for o in arguments.optimizers]
    jobs = [job for job in jobs if job not in known]
    if jobs and not arguments.report:
        results = run(jobs, results, arguments)
    from quality.report import picture, table, write

    if arguments.quick:
        print(table(results))
    else:
        write(results, PAGE)
        picture(results, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
