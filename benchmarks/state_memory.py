"""What the state of optimizers takes, and what keeping it in fewer bits does; writes MEMORY.md.

    KERAS_BACKEND=jax python benchmarks/state_memory.py

Bytes are those of the variables of optimizers that have made a step. Quality is measured on two of
the workloads of QUALITY.md, with one learning rate for all and seeds that give each the same
weights and batches.
"""

import argparse
import json
import math
import os
import statistics
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras

from keras_optkit import optimizers

HERE = Path(__file__).parent
PAGE, RESULTS = HERE / "MEMORY.md", HERE / "results" / "state_memory.json"
KINDS = (None, "bfloat16", "int8")
SIDE = 1000  # of the matrices of which the memory of an update is taken
RULES = {
    "Adan": optimizers.Adan,
    "ADOPT": optimizers.ADOPT,
    "AdaBelief": optimizers.AdaBelief,
    "AdEMAMix": optimizers.AdEMAMix,
    "LAMB": optimizers.LAMB,
    "LARS": optimizers.LARS,
    "Muon": optimizers.Muon,
    "NovoGrad": optimizers.NovoGrad,
    "Prodigy": optimizers.Prodigy,
    "RAdam": optimizers.RAdam,
    "ScheduleFreeAdamW": optimizers.ScheduleFreeAdamW,
    "ScheduleFreeSGD": optimizers.ScheduleFreeSGD,
    "SOAP": optimizers.SOAP,
    "Yogi": optimizers.Yogi,
}
AROUND = {
    "Averaged(RAdam)": lambda **kwargs: optimizers.Averaged(optimizers.RAdam(**kwargs)),
    "Lookahead(RAdam)": lambda **kwargs: optimizers.Lookahead(optimizers.RAdam(**kwargs)),
    "RAdam, accumulating": lambda **kwargs: optimizers.RAdam(
        gradient_accumulation_steps=2, **kwargs
    ),
    "RAdam, use_ema": lambda **kwargs: optimizers.RAdam(use_ema=True, **kwargs),
    "SkipNonFinite(RAdam)": lambda **kwargs: optimizers.SkipNonFinite(optimizers.RAdam(**kwargs)),
}
JOBS = {"digits CNN": (3e-3, 1e-2), "character transformer": (3e-3, 1e-2)}  # rate and decay
HEAD = """\
# What state takes

`KERAS_BACKEND=jax python benchmarks/state_memory.py` writes this page: bytes of an optimizer's
variables for each weight of the character transformer of [QUALITY.md](QUALITY.md), counted after a
step. It has {count:,} weights, {vectors:.1%} of them in vectors, whose state stays in float32.
`state_dtype` is an argument of every rule. A dash: the rule keeps no mean of a weight's shape.

| | float32 | bfloat16 | int8 |
|---|---|---|---|
"""
PEAK = """
## What an update takes besides

Bytes for each weight of ten matrices of {side} x {side}, with state in float32: the state, and what
XLA sets aside on a CPU during the update of a compiled step, whose state and weights are donated. A
step that accumulates gradients needs no second copy of them: the sum is updated in place, and the
update reads it. The gradients come on top. What only a rare step takes counts, too: the exchange of
weights and averages, the synchronization of `Lookahead`.

| | state | during the update |
|---|---|---|
"""
QUALITY = """
## What fewer bits do to training

RAdam at a learning rate of 0.003 with warmup and cosine, {seeds} seeds, each with the same initial
weights and batches for all three; the lowest held-out metric on the way, and at the end, with the
standard deviation between seeds. *To float32* is the mean difference, seed by seed, at the end, and
its standard error. *Step* is the time of a whole training step on a CPU, other work beside it.

| | state | lowest | at the end | to float32 | step |
|---|---|---|---|---|---|
"""


def size(variables):
    """Returns the bytes of variables."""
    item = {"float32": 4, "bfloat16": 2, "uint8": 1, "int32": 4, "bool": 1}
    return sum(
        math.prod(v.shape) * item[keras.backend.standardize_dtype(v.dtype)] for v in variables
    )


def bytes_a_weight(make, model, **kwargs):
    """Returns what the state takes, or None if there is no such state."""
    optimizer = make(**kwargs)
    weights = model.trainable_variables
    try:
        optimizer.build(weights)
    except ValueError:
        return None
    optimizer.apply([keras.ops.ones(v.shape) for v in weights], weights)
    return size(optimizer.variables) / sum(math.prod(v.shape) for v in weights)


def table():
    """Returns the table of bytes as text."""
    from quality.workloads import transformer

    model = transformer()
    counts = [math.prod(v.shape) for v in model.trainable_variables]
    vectors = sum(math.prod(v.shape) for v in model.trainable_variables if len(v.shape) < 2)
    lines = []
    for name, make in (RULES | AROUND).items():
        found = [bytes_a_weight(make, model, state_dtype=kind) for kind in KINDS]
        shown = ["-" if b is None else f"{b:.2f}" for b in found]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    lines.append(f"| AdamW (Keras) | {bytes_a_weight(keras.optimizers.AdamW, model):.2f} | | |")
    head = HEAD.format(count=sum(counts), vectors=vectors / sum(counts))
    return head + "\n".join(lines) + "\n"


def while_updating(make):
    """Returns the bytes of the state, and those set aside in an update, for each weight."""
    optimizer, weights = make(), [keras.Variable(keras.ops.ones((SIDE, SIDE))) for _ in range(10)]
    optimizer.build(weights)
    values = [v.value for v in weights], [v.value for v in optimizer.variables]
    gradients = [v + 1 for v in values[0]]

    def update(weights, state, gradients):
        return optimizer.stateless_apply(state, gradients, weights)

    step = jax.jit(update, donate_argnums=(0, 1)).lower(*values, gradients).compile()
    count = sum(math.prod(v.shape) for v in weights)
    return size(optimizer.variables) / count, step.memory_analysis().temp_size_in_bytes / count


def peak():
    """Returns the table of what an update takes as text."""
    theirs = {
        "AdamW (Keras)": keras.optimizers.AdamW,
        "AdamW (Keras), accumulating": lambda: keras.optimizers.AdamW(
            gradient_accumulation_steps=2
        ),
    }
    lines = []
    for name, make in (RULES | AROUND | theirs).items():
        state, more = while_updating(make)
        lines.append(f"| {name} | {state:.2f} | {more:.2f} |")
    return PEAK.format(side=SIDE) + "\n".join(lines) + "\n"


def measure(seeds):
    """Returns curves and times of RAdam for each workload and each kind of state."""
    from quality.contestants import Contestant
    from quality.study import Trainer
    from quality.workloads import WORKLOADS

    results = []
    for workload, (rate, decay) in JOBS.items():
        for kind in KINDS:

            def make(rate, decay, steps, kind=kind):
                return optimizers.RAdam(rate, weight_decay=decay, state_dtype=kind)

            trainer = Trainer(WORKLOADS[workload], Contestant(str(kind), make))
            curves = []
            for seed in range(seeds):
                curves.append(trainer.train(seed, rate, decay))
                print(workload, kind, seed, curves[-1][-1], flush=True)
            step = min(trainer.seconds)
            results.append({"workload": workload, "state": kind, "curves": curves, "step": step})
    return results


def quality(results):
    """Returns the table of quality as text."""
    seeds = len(results[0]["curves"])
    lines = []
    for result in results:
        plain = next(
            r for r in results if r["workload"] == result["workload"] and r["state"] is None
        )
        ends, others = ([c[-1] for c in r["curves"]] for r in (result, plain))
        lows = [min(c) for c in result["curves"]]
        off = [a - b for a, b in zip(ends, others, strict=True)]
        error = statistics.stdev(off) / math.sqrt(seeds)
        means = [f"{statistics.mean(v):.3f} ± {statistics.stdev(v):.3f}" for v in (lows, ends)]
        change = "" if result is plain else f"{statistics.mean(off):+.3f} ± {error:.3f}"
        step = f"{result['step'] / plain['step']:.2f}"
        lines.append(
            f"| {result['workload']} | {result['state'] or 'float32'} | {means[0]} | {means[1]} "
            f"| {change} | {step} |"
        )
    return QUALITY.format(seeds=seeds) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--report", action="store_true", help="measure bytes only")
    arguments = parser.parse_args()
    if not arguments.report:
        RESULTS.write_text(json.dumps(measure(arguments.seeds)))
    PAGE.write_text(table() + peak() + quality(json.loads(RESULTS.read_text())))
    print(f"wrote {PAGE}")
