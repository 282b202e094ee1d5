"""Tables of what `continual.py` has measured."""

import statistics
from pathlib import Path

import numpy as np

from forgetting.study import EWC_FORMS, HELD_OUT, METHODS, MORE, SAME_THERE, SETTINGS, TIMED

MARK = "<!-- Written by `continual.py --report`, from here to the end. -->"
MARGIN = 1.0  # points by which we may be behind
FASTER = 0.7  # of Avalanche's time
DRAWS = 10_000
BEST = "EWC, the best of its forms"  # on the seeds for tuning
SIDES = ("ours", "theirs", "ours on torch")


def difference(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Returns the mean difference of paired numbers, and its 95 % interval by bootstrap."""
    pairs = np.asarray(ours) - np.asarray(theirs)
    which = np.random.default_rng(0).integers(len(pairs), size=(DRAWS, len(pairs)))
    low, high = np.percentile(pairs[which].mean(axis=1), [2.5, 97.5])
    return float(pairs.mean()), float(low), float(high)


def finals(result: dict) -> list[float]:
    """Returns the accuracy after the last task, in percent, the mean over tasks, for each seed."""
    return [100 * statistics.fmean(matrix[-1]) for matrix in result["matrices"]]


def forgotten(result: dict) -> float | None:
    """Returns how much less is known at the end than when it was learned, in points."""
    matrices = [np.array(matrix) for matrix in result["matrices"]]
    if len(matrices[0]) == 1:
        return None
    return 100 * float(np.mean([np.diagonal(m)[:-1] - m[-1, :-1] for m in matrices]))


def per_task(times: dict, clock: int = 0) -> tuple[float, float]:
    """Returns milliseconds a task, once compiled (the median run) and of the first run.

    `clock` is 0 for that on the wall, 1 for the processor's.
    """
    again = statistics.median(run[clock] for run in times["again"])
    return 1e3 * again, 1e3 * times["first"][clock]


class Found:
    """Results and times by side, setting and method."""

    def __init__(self, found: dict):
        self.results, self.more, self.times = (
            {(r["side"], r["setting"], r["method"]): r for r in found.get(name, ())}
            for name in ("results", "more", "times")
        )

    def pairs(self, name: str = "results"):
        """Yields the setting, the method and the results of ours and theirs, where both are."""
        results = getattr(self, name)
        for setting in SETTINGS:
            for method in METHODS:
                ours = results.get(("ours", setting, method))
                theirs = results.get(("theirs", setting, SAME_THERE.get(method, method)))
                if ours and theirs:
                    yield setting, method, ours, theirs
            best = [_best(results, side, setting) for side in SIDES[:2]]
            if all(best):
                yield setting, BEST, *best


def _best(results: dict, side: str, setting: str) -> dict | None:
    """Returns the form of EWC that did best on the seeds for tuning, of all forms."""
    names = [name for name in EWC_FORMS if side == "ours" or name not in SAME_THERE]
    forms = [results.get((side, setting, name)) for name in names]
    if None in forms:
        return None
    return max(forms, key=lambda r: max(statistics.fmean(tried) for _, tried in r["tuning"]))


def strength(result: dict, method: str) -> str:
    """Returns the chosen strength, marked if it is the least or the greatest that was tried."""
    tried = [value for value, _ in result["tuning"]]
    if not tried:
        return ""
    chosen = result["strength"]
    edge = " (least)" if chosen == min(tried) else " (most)" if chosen == max(tried) else ""
    form = f"{result['method']}, " if method == BEST else ""
    return f"{form}{chosen:g}{edge}"


def accuracy_table(found: Found, name: str = "results") -> list[str]:
    lines, last = [], None
    for setting, method, ours, theirs in found.pairs(name):
        if setting != last:
            lines += [
                f"\n### {setting}\n",
                "| method | here | Avalanche | difference, 95 % interval | | forgotten here "
                "| forgotten there | strength here | strength there |",
                "|---|---|---|---|---|---|---|---|---|",
            ]
            last = setting
        a, b = finals(ours), finals(theirs)
        mean, low, high = difference(a, b)
        verdict = "better" if low > 0 else "worse" if high < 0 else "even"
        if low < -MARGIN:
            verdict += f", may be {-low:.1f} behind"
        gone = [forgotten(result) for result in (ours, theirs)]
        lost = " | ".join("" if g is None else f"{g:.1f}" for g in gone)
        lines.append(
            f"| {method} | {statistics.fmean(a):.1f} ± {statistics.stdev(a):.1f} "
            f"| {statistics.fmean(b):.1f} ± {statistics.stdev(b):.1f} "
            f"| {mean:+.2f} ({low:+.2f} to {high:+.2f}) | {verdict} | {lost} "
            f"| {strength(ours, method)} | {strength(theirs, method)} |"
        )
    return lines


def time_table(found: Found) -> list[str]:
    lines = [
        "| setting | method | here, ms a task | there | ratio | of processor time "
        "| first run here | there | ratio | here on torch | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for setting in TIMED:
        for method in METHODS:
            ours, theirs, on_torch = (found.times.get((s, setting, method)) for s in SIDES)
            if not ours or not theirs:
                continue
            (warm, first), (warm_there, first_there) = per_task(ours), per_task(theirs)
            processor = per_task(ours, 1)[0] / per_task(theirs, 1)[0]
            torch = " | "
            if on_torch:
                milliseconds = per_task(on_torch)[0]
                torch = f"{milliseconds:.0f} | {milliseconds / warm_there:.2f}"
            lines.append(
                f"| {setting} | {method} | {warm:.0f} | {warm_there:.0f} "
                f"| {warm / warm_there:.2f} | {processor:.2f} | {first:.0f} "
                f"| {first_there:.0f} | {first / first_there:.2f} | {torch} |"
            )
    return lines


def conversion_table(rows: list[dict]) -> list[str]:
    lines = [
        "| converted | largest difference | ratio of lengths | cosine |",
        "|---|---|---|---|",
    ]
    for r in rows:
        if "importance" not in r:
            cells = f"{r['off']:.1g} | {r['ratio']:.3f} | {r['cosine']:.4f}"
            lines.append(f"| {r['name']} | {cells} |")
    found = [r["importance"] for r in rows if "importance" in r]
    return [
        *lines,
        *(f"\nAvalanche's own SI: its largest importance after a task is {i:g}." for i in found),
    ]


def summary(found: Found) -> list[str]:
    """Returns how often what was to be reached was."""
    pairs = [(s, m, *difference(finals(a), finals(b))) for s, m, a, b in found.pairs()]
    behind = [f"{m} on {s} ({low:+.2f})" for s, m, _, low, _ in pairs if low < -MARGIN]
    lines = [
        f"Of {len(pairs)} pairs, the interval of the difference lies above {-MARGIN:g} points in "
        f"{len(pairs) - len(behind)}; not in: {'; '.join(behind) or 'none'}.",
    ]
    better = [f"{m} on {s}" for s, m, _, low, _ in pairs if low > 0]
    worse = [f"{m} on {s}" for s, m, _, _, high in pairs if high < 0]
    lines.append(f"Better here: {'; '.join(better) or 'none'}.")
    lines.append(f"Better there: {'; '.join(worse) or 'none'}.")
    ratios = {
        (s, m): per_task(t)[0] / per_task(found.times["theirs", s, m])[0]
        for (side, s, m), t in found.times.items()
        if side == "ours" and ("theirs", s, m) in found.times
    }
    if ratios:
        slow = [f"{m} on {s} ({r:.2f})" for (s, m), r in ratios.items() if r > FASTER]
        lines.append(
            f"Time a task, once compiled, is {min(ratios.values()):.2f} to "
            f"{max(ratios.values()):.2f} times Avalanche's; above {FASTER:g}: "
            f"{'; '.join(slow) or 'none'}."
        )
    return lines


def tables(raw: dict) -> str:
    found = Found(raw)
    lines = []
    if any(found.pairs()):
        lines += ["\n\n".join(summary(found)), f"\n## Accuracy, {len(HELD_OUT)} seeds"]
        lines += accuracy_table(found)
    if any(found.pairs("more")):
        lines += [f"\n## EWC on domain-incremental tasks, {len(MORE)} other seeds, a run of each"]
        lines += accuracy_table(found, "more")
    if found.times:
        lines += ["\n## Time\n", *time_table(found)]
    lines += ["\n## Conversions, checked\n", *conversion_table(raw["conversions"])]
    about = "; ".join(
        f"{side}: {', '.join(f'{k} {v}' for k, v in versions.items())}"
        for side, versions in raw["about"].items()
    )
    return "\n".join([*lines, f"\n{about}."])


def write(raw: dict, path: Path) -> None:
    """Puts the tables into the page, in place of those from `MARK` to its end."""
    page = path.read_text() if path.exists() else ""
    path.write_text(f"{page.partition(MARK)[0]}{MARK}\n\n{tables(raw)}\n")
