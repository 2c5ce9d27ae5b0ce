"""Does what a method adds rise or fall with the size of the training set? A slope a seed, in points a doubling.

A size is what was asked for, a max_train_examples above 0; two that gave one training set are found by its digest.
"""

from collections import defaultdict

import numpy as np
import pandas as pd

from analysis.hypothesis import DECIMALS, pairs
from analysis.judge import by_who
from analysis.over_tasks import TEST, said, tested
from analysis.pairing import Comparison, Paired
from analysis.students import OWN_TEACHER, PROTOCOL, setting_names

TREND = [
    *("task", "model", "init", "method", "reference", "metric", "sizes", "n", "slope_method", "slope_reference"),
    *("mean_trend", "std_trend", *TEST, "min_p_holm", "with_more"),
]
LEAST = 3  # sizes: of two the comparisons themselves tell
SIZE = PROTOCOL.index("max_train_examples")


def trend(paired: Paired, level: float = 0.05) -> pd.DataFrame:
    """The least-squares slope of method - reference over log2(max_train_examples), one a seed (columns TREND).

    Of methods that are compared at LEAST sizes or more, once at each, with the seeds that all sizes have; what else
    the sizes differ in, such as epochs, is part of the question (`lines` names both). The slope of a difference is the
    difference of the slopes, so that the test is that of paired scores (hypothesis.compare), Holm over the methods of a
    task, model, init and metric. with_more: whether what the method adds is "larger" or "smaller" with more data, at
    this level, else why nothing is said.
    """
    rows = []
    for place, methods in _sizes(paired).items():
        slopes = {method: _slopes(found) for method, found in methods.items() if not _why_none(found)}
        tests = tested({method: pairs(*both) for method, both in slopes.items()})
        for method, (mine, theirs) in slopes.items():
            *where, metric = place
            d = np.round(mine - theirs, DECIMALS)
            spread = float(d.std(ddof=1)) if len(d) > 1 else float("nan")
            sizes = ", ".join(str(_size(c)) for c in methods[method])
            values = len(d), float(mine.mean()), float(theirs.mean()), float(d.mean()) + 0.0, spread
            head = (*where, method, paired.reference, metric, sizes)
            rows.append((*head, *values, *tests[method], said(tests[method], level)))
    return pd.DataFrame(rows, columns=TREND)


def by_size(paired: Paired, judged: pd.DataFrame) -> pd.DataFrame:
    """What each method of `trend` adds at each size, for a picture: x (examples), and of `judge` the estimate y
    with its interval (missing where it is unbounded)."""
    known = by_who(judged)
    rows = [
        (*place, method, "", _size(c), known[c.who].estimate, known[c.who].low, known[c.who].high)
        for place, methods in _sizes(paired).items()
        for method, found in methods.items()
        if not _why_none(found)
        for c in found
    ]
    table = pd.DataFrame(
        rows, columns=["task", "model", "init", "metric", "method", "setting", "x", "y", "low", "high"]
    )
    return table.replace([np.inf, -np.inf], np.nan)


def lines(paired: Paired) -> list[str]:
    """A sentence for what has enough sizes and no trend, and for what else its sizes differ in."""
    told: defaultdict[tuple, list[str]] = defaultdict(list)
    for (*where, _), methods in _sizes(paired).items():
        for method, found in methods.items():
            other = [name for i, name in enumerate(setting_names()) if i != SIZE and name != OWN_TEACHER
                     and len({tuple(values[i] for values in c.settings) for c in found}) > 1]  # fmt: skip
            apart = f"the sizes differ in {', '.join(other)} too, which is part of the trend" if other else ""
            if why := _why_none(found) or apart:
                told[", ".join(filter(None, where)), why].append(method)
    return [f"{where}, {', '.join(methods)}: {why}" for (where, why), methods in told.items()]


def _sizes(paired: Paired) -> dict[tuple, dict[str, list[Comparison]]]:
    """By (task, model, init, metric) and method, the comparisons of methods with LEAST sizes or more, by size."""
    found: defaultdict[tuple, defaultdict[str, list[Comparison]]] = defaultdict(lambda: defaultdict(list))
    for c in sorted((c for c in paired.comparisons if _size(c)), key=_size):
        found[c.task, c.model, c.init, c.metric][c.method].append(c)
    enough = {
        place: {m: some for m, some in all_.items() if len({*map(_size, some)}) >= LEAST}
        for place, all_ in found.items()
    }
    return {place: methods for place, methods in enough.items() if methods}


def _size(c: Comparison) -> int:
    """The examples that were asked for; 0 where no number above 0 says so, as of the whole set."""
    size = c.settings[0][SIZE]
    return max(size, 0) if isinstance(size, int) else 0


def _why_none(by_size: list[Comparison]) -> str:
    """Why these comparisons have no trend, or nothing."""
    sizes: defaultdict[tuple, set] = defaultdict(set)
    for c in by_size:
        for seed, data in zip(c.seeds, c.data, strict=True):
            sizes[seed, data].add(_size(c))
    same = next((sorted(some) for (_, data), some in sizes.items() if data and len(some) > 1), None)
    if len({*map(_size, by_size)}) < len(by_size):
        return "several settings of one size, so no trend"
    if same:
        return f"{' and '.join(map(str, same))} examples are one training set, which has no more, so no trend"
    return "" if _seeds(by_size) else "no seed is at all of its sizes, so no trend"


def _seeds(by_size: list[Comparison]) -> list:
    return [seed for seed in by_size[0].seeds if all(seed in c.seeds for c in by_size)]


def _slopes(by_size: list[Comparison]) -> tuple[np.ndarray, np.ndarray]:
    """Points a doubling of the method's scores and of the reference's `[seeds]`, over the seeds of all sizes."""
    x = np.log2([_size(c) for c in by_size])
    x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    seeds, signs = _seeds(by_size), [-1 if c.negated else 1 for c in by_size]
    mine = [sign * pd.Series(c.scores, c.seeds)[seeds] for sign, c in zip(signs, by_size, strict=True)]
    theirs = [sign * pd.Series(c.reference_scores, c.seeds)[seeds] for sign, c in zip(signs, by_size, strict=True)]
    return x @ np.array(mine), x @ np.array(theirs)
