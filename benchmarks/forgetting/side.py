"""One side, in a process of its own: takes jobs as lines of JSON, and answers each with one."""

import json
import sys
import time
from pathlib import Path

from forgetting.study import HELD_OUT, MORE, TIMED, Runs, clock, study


def main(side: str, folder: str) -> None:
    began = time.perf_counter()
    if side == "theirs":
        from forgetting.theirs import VERSIONS, Trainer
    else:
        from forgetting.ours import VERSIONS, Trainer
    _say({"versions": VERSIONS, "import": round(time.perf_counter() - began, 1)})
    runs = Runs(Path(folder) / f"runs-{side}.jsonl")
    for line in sys.stdin:
        job = json.loads(line)
        if job["do"] == "convert":
            _say(_convert(side, Path(folder)))
            continue
        setting, method = TIMED[job["setting"]], job["method"]
        trainer = Trainer(setting, method)
        if job["do"] == "clock":
            _say(clock(trainer, setting, job["strength"], Path(folder), job["repeats"]))
        else:
            held_out = MORE if job["more"] else HELD_OUT
            _say(study(trainer, setting, method, Path(folder), runs, held_out=held_out))


def _convert(side: str, folder: Path) -> dict:
    if side == "theirs":
        from forgetting.conversions_torch import write

        return write(folder)
    from forgetting.conversions import rows

    return {"rows": rows(folder)}


def _say(answer: dict) -> None:
    print("answer " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
