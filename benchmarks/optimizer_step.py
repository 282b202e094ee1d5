"""What one update costs: ours, Keras' and optax's or torch's, interleaved in one run.

    KERAS_BACKEND=jax python benchmarks/optimizer_step.py

Each contestant moves the same variables by the same gradients, nothing else. The repeats of all
of them take turns, so that what else the machine does hits all alike; the table gives medians as
ratios to Keras' AdamW of the same mode and shape set, and the seconds of the first call, which
traces and compiles. A repeat is twelve updates, so that what happens every fourth or sixth one is
averaged.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_optkit import optimizers, transforms

BACKEND = keras.backend.backend()
RESULTS = Path(__file__).parent / "results"


def mlp_shapes() -> list[tuple[int, ...]]:
    """Returns the shapes of an MLP of 10 million weights."""
    widths = [1024, 2048, 2048, 1536, 512]
    return [s for i, o in itertools.pairwise(widths) for s in ((i, o), (o,))]


def transformer_shapes(layers: int = 12, width: int = 128) -> list[tuple[int, ...]]:
    """Returns 150 shapes of a small transformer: many variables, 3 million weights."""
    square, wide = (width, width), (width, 4 * width)
    layer = [square, square, square, square, wide, wide[::-1]]
    layer += [(width,), (width,), (width,), (width,), (4 * width,), (width,)]
    ends = [(512, width), (width,), (width,), (width, 512), (512,), (64, width)]
    return layers * layer + ends


SHAPES = {"10M MLP": mlp_shapes, "150-variable transformer": transformer_shapes}


def contestants() -> dict[str, tuple[Callable[[], keras.optimizers.Optimizer], float]]:
    """Returns makers of optimizers, ours and Keras', each with the words a weight must move.

    That is reading the gradient, and reading and writing the weight and each slot; what is done
    every few updates counts by its share, and 0 where no such number says much.
    """
    adamw, clip = keras.optimizers.AdamW, transforms.AdaptiveClip

    def rule(name: str, **settings):
        return lambda: getattr(optimizers, name)(1e-4, weight_decay=4e-3, **settings)

    return {
        "keras AdamW": (lambda: adamw(1e-4), 7),
        "keras AdamW again": (lambda: adamw(1e-4), 7),  # how far equals differ
        "keras AdamW, accumulating 4": (
            lambda: adamw(1e-4, gradient_accumulation_steps=4),
            3 + 6 / 4,
        ),
        "keras AdamW, global_clipnorm": (lambda: adamw(1e-4, global_clipnorm=1.0), 8),
        "RAdam": (rule("RAdam"), 7),
        "RAdam, accumulating 4": (rule("RAdam", gradient_accumulation_steps=4), 3 + 6 / 4),
        "RAdam, global_clipnorm": (rule("RAdam", global_clipnorm=1.0), 8),
        "RAdam, AdaptiveClip": (rule("RAdam", gradient_transforms=[clip()]), 9),
        "RAdam, cautious": (rule("RAdam", cautious=True), 7),
        "AdaBelief": (rule("AdaBelief"), 7),
        "Adan": (rule("Adan"), 11),
        "ADOPT": (rule("ADOPT"), 7),
        "AdEMAMix": (rule("AdEMAMix"), 9),
        "LAMB": (rule("LAMB"), 10),
        "LARS": (lambda: optimizers.LARS(0.1, weight_decay=4e-3), 7),
        "NovoGrad": (rule("NovoGrad"), 6),
        "Prodigy": (lambda: optimizers.Prodigy(weight_decay=4e-3), 14),
        "ScheduleFreeAdamW": (rule("ScheduleFreeAdamW"), 7),
        "ScheduleFreeSGD": (rule("ScheduleFreeSGD"), 5),
        "Yogi": (rule("Yogi"), 7),
        "Lookahead(RAdam)": (lambda: optimizers.Lookahead(rule("RAdam")()), 8),
        "Lookahead(keras AdamW)": (lambda: optimizers.Lookahead(adamw(1e-4)), 8),
        "Averaged(keras AdamW)": (lambda: optimizers.Averaged(adamw(1e-4)), 10),
        "Averaged(RAdam)": (lambda: optimizers.Averaged(rule("RAdam")()), 10),
        "SkipNonFinite(keras AdamW)": (lambda: optimizers.SkipNonFinite(adamw(1e-4)), 8),
        "Transformed(keras AdamW, AdaptiveClip)": (
            lambda: optimizers.Transformed(adamw(1e-4), [clip()]),
            9,
        ),
    }


def first_calls() -> dict[str, Callable[[], keras.optimizers.Optimizer]]:
    """Returns the few whose first call on very many variables is timed."""
    return {
        name: make
        for name, (make, _) in contestants().items()
        if name in ("keras AdamW", "RAdam", "AdaBelief")
    }


def bandwidth() -> float:
    """Returns how many bytes a second this machine moves, by a copy of 400 MB in NumPy."""
    source, target = np.ones(50_000_000), np.zeros(50_000_000)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(seconds)


def arrays(shapes) -> tuple[list, list]:
    """Returns start values and gradients."""
    rng = np.random.default_rng(0)
    draw = lambda: [0.1 * rng.normal(size=s).astype("float32") for s in shapes]  # noqa: E731
    return draw(), draw()


def keras_step(make, values, gradients, mode: str) -> Callable[[], None]:
    """Returns a function that does one update and waits for it."""
    variables = [keras.Variable(v, name=f"w{i}") for i, v in enumerate(values)]
    optimizer = make()
    optimizer.build(variables)
    if BACKEND == "jax":
        import jax

        # State goes in and out in one order, as in Keras' own step: JAX pairs donated arrays with
        # results by order, and copies where a weight is paired with a slot.
        def move(state, gradients):
            return optimizer.stateless_apply(state[1], gradients, state[0])

        move = jax.jit(move, donate_argnums=0)
        state = [v.value for v in variables], [v.value for v in optimizer.variables]
        gradients = [jax.numpy.asarray(g) for g in gradients]

        def step():
            nonlocal state
            state = jax.block_until_ready(move(state, gradients))

    elif BACKEND == "tensorflow":
        import tensorflow as tf

        apply = tf.function(
            lambda *g: optimizer.apply(list(g), variables), jit_compile=mode == "xla"
        )
        gradients = [tf.constant(g) for g in gradients]

        def step():
            apply(*gradients)
            variables[-1].numpy()

    else:
        import torch

        gradients = [torch.from_numpy(g) for g in gradients]

        def step():
            with torch.no_grad():
                optimizer.apply(gradients, variables)

    return step


def optax_step(make, values, gradients, lookahead: bool) -> Callable[[], None]:
    """Returns the same for an optax optimizer."""
    import jax
    import optax

    optimizer = make(optax)
    gradients = [jax.numpy.asarray(g) for g in gradients]
    weights = [jax.numpy.array(v) for v in values]
    if lookahead:
        weights = optax.LookaheadParams(weights, [jax.numpy.array(v) for v in values])
    state = optimizer.init(weights)

    def move(weights, state, gradients):
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state

    move = jax.jit(move, donate_argnums=(0, 1))

    def step():
        nonlocal weights, state
        weights, state = jax.block_until_ready(move(weights, state, gradients))

    return step


def torch_step(make, values, gradients) -> Callable[[], None]:
    """Returns the same for a torch optimizer."""
    import torch

    weights = [torch.nn.Parameter(torch.from_numpy(v.copy())) for v in values]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = torch.from_numpy(gradient)
    return make(torch.optim, weights).step


def others() -> dict[str, Callable]:
    """Returns makers of steps by the frameworks' own libraries."""
    if BACKEND == "jax":
        library = {
            "optax adamw": lambda o: o.adamw(1e-4, weight_decay=4e-3),
            "optax radam": lambda o: o.radam(1e-4),
            "optax lars": lambda o: o.lars(0.1, weight_decay=4e-3),
            "optax lookahead(adamw)": lambda o: o.lookahead(o.adamw(1e-4), 6, 0.5),
        }
        return {
            n: lambda v, g, n=n, m=m: optax_step(m, v, g, "lookahead" in n)
            for n, m in library.items()
        }
    if BACKEND == "torch":
        library = {
            "torch AdamW foreach": lambda o, w: o.AdamW(w, 1e-4, foreach=True),
            "torch RAdam foreach": lambda o, w: o.RAdam(w, 1e-4, foreach=True),
        }
        return {n: lambda v, g, m=m: torch_step(m, v, g) for n, m in library.items()}
    return {}


def measure(shapes, mode: str, repeats: int) -> list[dict]:
    """Returns a row for each contestant."""
    values, gradients = arrays(shapes)
    words = {name: count for name, (_, count) in contestants().items()}
    makers = {n: lambda v, g, m=m: keras_step(m, v, g, mode) for n, (m, _) in contestants().items()}
    steps, first, times = {}, {}, {}
    for name, make in (makers | others()).items():
        start = time.perf_counter()
        steps[name] = make(values, gradients)
        steps[name]()
        first[name] = time.perf_counter() - start
        for _ in range(7):  # a whole accumulation and Lookahead's whole cycle
            steps[name]()
        print(f"  {name}: first call {first[name]:.1f} s", flush=True)
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(12):  # whole cycles, so that work done now and then is averaged
                step()
            times.setdefault(name, []).append((time.perf_counter() - start) / 12)
    base = statistics.median(times["keras AdamW"])
    least = 4 * sum(v.size for v in values) / bandwidth()
    return [
        {
            "optimizer": name,
            "ratio": statistics.median(series) / base,
            "milliseconds": 1e3 * statistics.median(series),
            "fastest": 1e3 * min(series),
            "first call": first[name],
            "to bandwidth": statistics.median(series) / (least * words[name])
            if words.get(name)
            else None,
        }
        for name, series in times.items()
    ]


def measure_first_calls(mode: str) -> list[dict]:
    """Returns how long tracing and compiling an update of 1,500 variables takes."""
    values, gradients = arrays(transformer_shapes(layers=124, width=32))
    rows = []
    for name, make in first_calls().items():
        step = keras_step(make, values, gradients, mode)
        start, cpu = time.perf_counter(), time.process_time()
        step()
        row = {"optimizer": name, "first call": time.perf_counter() - start}
        rows.append(row | {"cpu": time.process_time() - cpu})
        print(f"  {name}: first call {row['first call']:.1f} s", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", default="", help="part of the name of a shape set")
    parser.add_argument("--first-calls", action="store_true", help="time 1,500 variables instead")
    parser.add_argument("--report", action="store_true", help="print the last run's table")
    arguments = parser.parse_args()
    if arguments.report:
        print(table(json.loads((RESULTS / f"optimizer_step_{BACKEND}.json").read_text())))
        return
    modes = {"tensorflow": ["graph", "xla"], "jax": ["jit"], "torch": ["eager"]}[BACKEND]
    results = []
    if arguments.first_calls:
        for mode in modes:
            results += [{"mode": mode} | row for row in measure_first_calls(mode)]
        (RESULTS / f"first_call_{BACKEND}.json").write_text(json.dumps(results, indent=1))
        return
    for title, shapes in SHAPES.items():
        for mode in modes if arguments.only in title else []:
            print(f"{BACKEND} {mode}, {title}", flush=True)
            for row in measure(shapes(), mode, arguments.repeats):
                results.append({"shapes": title, "mode": mode} | row)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"optimizer_step_{BACKEND}.json").write_text(json.dumps(results, indent=1))
    print(table(results))


def table(results: list[dict]) -> str:
    """Returns the rows of `results` in Markdown, a table for each mode."""
    titles = list(dict.fromkeys(r["shapes"] for r in results))
    lines = []
    for mode in dict.fromkeys(r["mode"] for r in results):
        columns = " | ".join(f"{title}: ratio | to bandwidth | ms" for title in titles)
        lines += [f"\n| {mode} | {columns} |", "|---" * (1 + 3 * len(titles)) + "|"]
        rows = [r for r in results if r["mode"] == mode]
        for name in dict.fromkeys(r["optimizer"] for r in rows):
            cells = [name]
            for r in (r for r in rows if r["optimizer"] == name):
                bound = f"{r['to bandwidth']:.1f}" if r["to bandwidth"] else ""
                cells += [f"{r['ratio']:.2f}", bound, f"{r['milliseconds']:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
