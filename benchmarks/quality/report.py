"""Tables and picture of what `study` has measured."""

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from quality.contestants import CONTESTANTS, YARDSTICK
from quality.workloads import WORKLOADS

RELAXED = 0.02  # of the way from the start to AdamW's best that the target leaves out
LARGE = "digits CNN, batch 1024"
MARK = "<!-- Written by `optimizer_quality.py --report`, from here to the end. -->"


@dataclass
class Row:
    """What one optimizer reached on one workload, on each seed."""

    result: dict
    target: float

    def __post_init__(self):
        self.every = WORKLOADS[self.result["workload"]].every
        self.curves = [[math.inf if v is None else v for v in c] for c in self.result["curves"]]
        self.bests = [min(curve[1:]) for curve in self.curves]
        self.best = statistics.median(self.bests)
        self.ms = 1000 * self.result["seconds_per_step"]
        reached = [
            next((i * self.every for i, v in enumerate(c) if v <= self.target), math.inf)
            for c in self.curves
        ]
        self.steps = statistics.median(reached)
        self.reached = sum(map(math.isfinite, reached))

    def verdict(self, other: "Row") -> str:
        """Returns "better" or "worse" if all seeds are on one side of all of `other`'s."""
        if max(self.bests) < min(other.bests):
            return "better"
        return "worse" if min(self.bests) > max(other.bests) else "even"

    def edge(self) -> str:
        """Returns a mark if the chosen rate is the lowest or the highest that was tried."""
        rates = [trial["rate"] for trial in self.result["trials"]]
        rate = rates[self.result["chosen"]]
        return " (highest)" if rate == max(rates) else " (lowest)" if rate == min(rates) else ""


def target(adamw: dict) -> float:
    """Returns AdamW's median best metric, relaxed by a share of the way there."""
    curves = [[v for v in curve if v is not None] for curve in adamw["curves"]]
    best = statistics.median(min(curve[1:]) for curve in curves)
    return best + RELAXED * (statistics.median(curve[0] for curve in curves) - best)


def rows(results: list[dict]) -> dict[str, dict[str, Row]]:
    """Returns the rows by workload and optimizer, of the workloads that AdamW was measured on."""
    found: dict[str, dict[str, Row]] = {}
    for workload in WORKLOADS:
        here = {r["optimizer"]: r for r in results if r["workload"] == workload}
        if YARDSTICK in here:
            goal = target(here[YARDSTICK])
            found[workload] = {o: Row(here[o], goal) for o in CONTESTANTS if o in here}
    return found


def table(results: list[dict]) -> str:
    """Returns the summary, and a table for each workload, in Markdown."""
    measured = rows(results)
    lines = summary(measured)
    for workload, here in measured.items():
        spec, adamw = WORKLOADS[workload], here[YARDSTICK]
        lines += [
            f"\n### {workload}\n",
            f"{spec.metric}, batch {spec.batch}, {spec.steps} steps, {adamw.ms:.2g} ms a step with "
            f"AdamW. Target {adamw.target:.3g}.\n",
            "| optimizer | best, mean ± deviation | than AdamW | steps to target | reached "
            "| ms to target | time a step | rate | decay |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, row in sorted(here.items(), key=lambda item: item[1].best):
            mean, deviation = statistics.fmean(row.bests), statistics.stdev(row.bests)
            chosen = row.result["trials"][row.result["chosen"]]
            there = math.isfinite(row.steps)
            lines.append(
                f"| {name} | {mean:.3g} ± {deviation:.1g} | "
                f"{'' if name == YARDSTICK else row.verdict(adamw)} | "
                f"{f'{row.steps:.0f}' if there else '-'} | {row.reached}/{len(row.bests)} | "
                f"{f'{row.steps * row.ms:.3g}' if there else '-'} | {row.ms / adamw.ms:.2f} | "
                f"{chosen['rate']:.2g}{row.edge()} | {chosen['decay']:.1g} |"
            )
    return "\n".join(lines)


def write(results: list[dict], path: Path) -> None:
    """Puts the tables into the page, in place of those from `MARK` to its end."""
    page = path.read_text() if path.exists() else ""
    path.write_text(f"{page.partition(MARK)[0]}{MARK}\n\n{table(results)}\n")


def ranks(measured: dict[str, dict[str, Row]]) -> dict[str, float]:
    """Returns each optimizer's mean rank by its median best, equal ones sharing theirs."""
    total: dict[str, list[float]] = {}
    for here in measured.values():
        bests = {name: row.best for name, row in here.items()}
        for name, best in bests.items():
            lower = sum(other < best for other in bests.values())
            equal = sum(other == best for other in bests.values())
            total.setdefault(name, []).append(lower + (equal + 1) / 2)
    return dict(sorted(((n, statistics.fmean(r)) for n, r in total.items()), key=lambda x: x[1]))


def speed(measured: dict[str, dict[str, Row]], name: str, seconds: bool) -> tuple[float, str]:
    """Returns the mean speed-up over AdamW on the way to the target.

    It is an upper bound, with "< ", where the target was not reached: that counts as a whole run.
    """
    ratios, bound = [], ""
    for workload, here in measured.items():
        if name not in here:
            continue
        row, adamw = here[name], here[YARDSTICK]
        steps = row.steps
        if not math.isfinite(steps):
            steps, bound = WORKLOADS[workload].steps, "< "
        ratios.append(adamw.steps / steps * (adamw.ms / row.ms if seconds else 1))
    return statistics.geometric_mean(ratios), bound


def summary(measured: dict[str, dict[str, Row]]) -> list[str]:
    """Returns the table over all workloads but the large batch, which has a column."""
    main = {w: here for w, here in measured.items() if w != LARGE}
    lines = [
        "| optimizer | mean rank | better / even / worse | target reached | speed-up, steps "
        "| speed-up, time | time a step | batch 1024 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rank in ranks(main).items():
        counts = [h[name].verdict(h[YARDSTICK]) for h in main.values() if name in h]
        verdicts = " / ".join(str(counts.count(v)) for v in ("better", "even", "worse"))
        reached = sum(math.isfinite(h[name].steps) for h in main.values() if name in h)
        faster = [f"{b}{v:.2f}" for v, b in (speed(main, name, s) for s in (False, True))]
        cost = [h[name].ms / h[YARDSTICK].ms for h in main.values() if name in h]
        large = measured.get(LARGE, {}).get(name)
        lines.append(
            f"| {name} | {rank:.1f} | {'' if name == YARDSTICK else verdicts} | "
            f"{reached}/{len(counts)} | {' | '.join(faster)} | "
            f"{min(cost):.2f} to {max(cost):.2f} | "
            f"{f'{statistics.fmean(large.bests):.3g}' if large else ''} |"
        )
    return lines


def picture(results: list[dict], path: Path) -> None:
    """Draws the best metric of every seed, a panel for each workload, and the speed-ups."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    measured = rows(results)
    main = {w: h for w, h in measured.items() if w != LARGE}
    order = list(ranks(main))[::-1]
    columns = 4
    height = math.ceil((len(measured) + 1) / columns)
    size = (4 * columns, 0.5 + 0.28 * len(order) * height + height)
    figure, axes = pyplot.subplots(
        height, columns, figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    *panels, last = list(axes.flat)[: len(measured) + 1]
    for axis in list(axes.flat)[len(measured) + 1 :]:
        axis.set_visible(False)
    for axis, (workload, here) in zip(panels, measured.items(), strict=True):
        _draw(axis, here, order)
        axis.set_title(workload, fontsize=11)
        axis.set_xlabel(f"{WORKLOADS[workload].metric}, lower is better")
    for place, name in enumerate(order):
        for seconds, color in ((False, "black"), (True, "#2563eb")):
            value, bound = speed(main, name, seconds)
            last.plot(value, place, "<" if bound else "o", ms=5, color=color)
    last.axvline(1, color="#888888", lw=1)
    last.set_title("speed-up to the target, small batches", fontsize=11)
    last.set_xlabel("in steps (black), in time (blue); triangle: or less")
    for axis in (*panels, last):
        axis.set_xscale("log")
        wide = math.log10(axis.get_xlim()[1] / axis.get_xlim()[0])
        subs = (1.0,) if wide > 3 else (1.0, 3.0) if wide > 1.5 else (1.0, 2.0, 3.0, 5.0, 7.0)
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=20))
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.set_yticks(range(len(order)), order)
        axis.grid(axis="y", alpha=0.2)
    figure.suptitle(
        "Best metric of each seed, and their median (bar). Shaded: the range of tuned AdamW; "
        "dotted: the target.\nGreen and orange: all seeds better or worse than all of AdamW's. "
        "Optimizers by mean rank over the small batches, best on top.",
        fontsize=11,
    )
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _draw(axis, here: dict[str, Row], order: list[str]) -> None:
    colors = {"better": "#0a7d4b", "even": "#555555", "worse": "#c2410c"}
    adamw = here[YARDSTICK]
    axis.axvspan(min(adamw.bests), max(adamw.bests), color="#2563eb", alpha=0.15, lw=0)
    axis.axvline(adamw.target, color="#2563eb", ls=":", lw=1)
    for place, name in enumerate(order):
        if name in here:
            row = here[name]
            color = "#2563eb" if name == YARDSTICK else colors[row.verdict(adamw)]
            axis.plot(row.bests, [place] * len(row.bests), "o", ms=4, color=color)
            axis.plot(row.best, place, "|", ms=12, color=color)
