"""Does what a method adds rise or fall with the size of the training set? A slope a seed, in points a doubling."""

from collections import defaultdict

import numpy as np
import pandas as pd

from analysis.hypothesis import DECIMALS, pairs
from analysis.over_tasks import TEST, said, tested
from analysis.pairing import Comparison, Paired

TREND = [
    *("task", "model", "init", "method", "reference", "metric", "sizes", "n", "slope_method", "slope_reference"),
    *("mean_trend", "std_trend", *TEST, "min_p_holm", "with_more"),
]
LEAST = 3  # sizes: of two the comparisons themselves tell


def trend(paired: Paired, level: float = 0.05) -> pd.DataFrame:
    """The least-squares slope of method - reference over log2(max_train_examples), one a seed (columns TREND).

    Of methods that are compared at LEAST sizes or more, once at each (`twice` names the others), with the seeds that
    all sizes have; what else the sizes differ in, such as epochs, is part of the question. The slope of a difference is
    the difference of the slopes, so that the test is that of paired scores (hypothesis.compare), Holm over the methods
    of a task, model, init and metric. with_more: whether what the method adds is "larger" or "smaller" with more
    data, at this level, else why nothing is said.
    """
    rows = []
    for place, methods in _sizes(paired).items():
        once = {method: sorted(found, key=_size) for method, found in methods.items() if _once(found)}
        slopes = {method: both for method, found in once.items() if len((both := _slopes(found))[0])}
        tests = tested({method: pairs(*both) for method, both in slopes.items()})
        for method, (mine, theirs) in slopes.items():
            *where, metric = place
            d = np.round(mine - theirs, DECIMALS)
            spread = float(d.std(ddof=1)) if len(d) > 1 else float("nan")
            sizes = ", ".join(str(c.size) for c in once[method])
            values = len(d), float(mine.mean()), float(theirs.mean()), float(d.mean()) + 0.0, spread
            head = (*where, method, paired.reference, metric, sizes)
            rows.append((*head, *values, *tests[method], said(tests[method], level)))
    return pd.DataFrame(rows, columns=TREND)


def twice(paired: Paired) -> list[str]:
    """A sentence for what has enough sizes, and no trend: several settings at one of them."""
    lines = []
    for (*where, _), methods in _sizes(paired).items():
        if names := [method for method, found in methods.items() if not _once(found)]:
            lines.append(f"{', '.join([*filter(None, where), *names])}: several settings of one size, so no trend")
    return lines


def _sizes(paired: Paired) -> dict[tuple, dict[str, list[Comparison]]]:
    """By (task, model, init, metric) and method, the comparisons of methods with LEAST sizes or more."""
    found: defaultdict[tuple, defaultdict[str, list[Comparison]]] = defaultdict(lambda: defaultdict(list))
    for c in paired.comparisons:
        if c.size:
            found[c.task, c.model, c.init, c.metric][c.method].append(c)
    enough = {
        place: {m: some for m, some in all_.items() if len({*map(_size, some)}) >= LEAST}
        for place, all_ in found.items()
    }
    return {place: methods for place, methods in enough.items() if methods}


def _size(c: Comparison) -> int:
    return c.size or 0


def _once(found: list[Comparison]) -> bool:
    return len({*map(_size, found)}) == len(found)


def _slopes(by_size: list[Comparison]) -> tuple[np.ndarray, np.ndarray]:
    """Points a doubling of the method's scores and of the reference's `[seeds]`, over the seeds of all sizes."""
    x = np.log2([_size(c) for c in by_size])
    x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    seeds = [seed for seed in by_size[0].seeds if all(seed in c.seeds for c in by_size)]
    signs = [-1 if c.negated else 1 for c in by_size]

    def slope(scores: list[tuple[float, ...]]) -> np.ndarray:
        held = [dict(zip(c.seeds, some, strict=True)) for c, some in zip(by_size, scores, strict=True)]
        table = [[sign * at[seed] for seed in seeds] for sign, at in zip(signs, held, strict=True)]
        return x @ np.array(table).reshape(len(by_size), len(seeds))

    return slope([c.scores for c in by_size]), slope([c.reference_scores for c in by_size])
