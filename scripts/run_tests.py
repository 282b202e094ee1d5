"""Runs pytest on several Keras backends side by side and adds up the results.

    python scripts/run_tests.py tensorflow jax -- -k radam

Keras settles on one backend per process. The test files of each are dealt out to several
processes, which take turns at the cores, so that none stands idle at the end. What follows `--`
goes to pytest; if it names files, there is one process for each backend. The last line reads
`N passed, N failed`, and `, N skipped` if any were.
"""

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path

# From here on the output is kept back, so that two backends' reports do not mix.
REPORT = re.compile(r"=+ (ERRORS|FAILURES|warnings summary|short test summary info) =+")
CLOSING = re.compile(r"=* ?((?:no tests ran|\d+ [a-z ]+(?:, \d+ [a-z ]+)*) in \d.*?)(?: =+)?")
NONE_CHOSEN = 5  # pytest's exit status where `-k` leaves nothing of a part
PARTS = 3  # of the test files, for each backend
COUNTED_AS = {
    "passed": "passed",
    "failed": "failed",
    "error": "failed",
    "errors": "failed",
    "skipped": "skipped",
    "xfailed": "skipped",
    "xpassed": "passed",
}


def environment(backend, threads):
    """Returns the environment of one backend's tests; what the caller has set comes first."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "NPROC")
    ours = dict.fromkeys(names, str(threads)) | {"TF_CPP_MIN_LOG_LEVEL": "2", "MPLBACKEND": "agg"}
    return ours | os.environ | {"KERAS_BACKEND": backend, "PYTHONUNBUFFERED": "1"}


def dealt(arguments):
    """Returns the test files in parts, for each of which there will be a process."""
    if any(Path(argument.split("::")[0]).exists() for argument in arguments):
        return [("", [])]
    files = sorted(Path("tests").glob("test_*.py"), key=lambda file: -file.stat().st_size)
    parts = [[str(file) for file in files[i::PARTS]] for i in range(PARTS)]
    return [(f".{i}", part) for i, part in enumerate(parts, 1)]


async def run(backend, part, arguments, threads, turns):
    """Runs pytest on `backend`, showing its progress, and returns its counts and closing line."""
    async with turns:
        return await run_now(backend, part, arguments, threads)


async def run_now(backend, part, arguments, threads):
    """Does so at once."""
    name = f"{backend}{part}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "--color=no"),
        *("-o", f"cache_dir=.pytest_cache/{name}", *arguments),
        env=environment(backend, threads),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**26,  # bytes in a line
        start_new_session=True,  # so that what the tests start ends with them
    )
    report, closing = [], None
    try:
        async for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            if match := CLOSING.fullmatch(line):
                closing = match[1]
            if report or REPORT.fullmatch(line):
                report.append(line)
            else:
                print(f"[{name}] {line}", flush=True)
        await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    for line in report:
        print(f"[{name}] {line}", flush=True)
    return count(closing, process.returncode)


def count(closing, returncode):
    """Returns the counts in pytest's closing line, with a failure if the run ended badly."""
    counts = Counter()
    for number, what in re.findall(r"(\d+) ([a-z]+)", closing or ""):
        counts[COUNTED_AS.get(what)] += int(number)
    if not counts["failed"] and (returncode not in (0, NONE_CHOSEN) or not closing):
        counts["failed"] = 1
        closing = f"{closing or 'ended early'} (exit status {returncode})"
    return counts, closing


async def main(backends, arguments):
    """Runs all backends at once and returns the exit status."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    cores = os.cpu_count() or 1
    jobs = [(backend, *part) for part in dealt(arguments) for backend in backends]
    at_once = min(cores, len(jobs))
    turns, threads = asyncio.Semaphore(at_once), max(1, cores // at_once)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(run(backend, part, [*files, *arguments], threads, turns))
            for backend, part, files in jobs
        ]
    print()
    total = Counter()
    for (backend, part, _), task in zip(jobs, tasks, strict=True):
        counts, closing = task.result()
        total += counts
        print(f"[{backend}{part}] {closing}")
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    print(f"{total['passed']} passed, {total['failed']} failed{skipped}")
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    backends, arguments = sys.argv[1:split], sys.argv[split + 1 :]
    if not backends:
        sys.exit(__doc__)
    try:
        sys.exit(asyncio.run(main(backends, arguments)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
