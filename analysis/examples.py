"""Two sources of chance, seeds and test examples: an interval for new seeds and new examples.

The seeds' test (hypothesis.py) speaks of new seeds on these test examples. Here both are drawn: the variance of the
mean difference and its degrees of freedom are those of the analysis of variance of jackknife pseudo-values (Dorfman,
Berbaum and Metz 1992; Hillis 2007: readers there are seeds here), the interval is Student's. Examples that belong
together (a column `group` of the predictions) are left out together.
"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.pairing import Comparison, Paired
from analysis.predictions import (
    LEFT_OUT,
    SAME,
    SCORES,
    Missing,
    Predicted,
    Predictions,
    indicators,
    is_score,
    left_out,
    read,
    score,
    split_of,
)

COLUMNS = [
    *("task", "model", "init", "family", "method", "setting", "reference", "metric"),
    *("score", "split", "design", "n_seeds", "n_examples", "n_units", "difference", "low", "high", "level", "se"),
    *("share_seeds", "share_examples", "share_both", "dominates"),
]


@dataclass(frozen=True)
class Variance:
    """Of a mean over seeds and examples, in squared points: its parts, and the degrees of freedom of their sum."""

    seeds: float
    examples: float
    both: float
    df: float

    @property
    def total(self) -> float:
        return self.seeds + self.examples + self.both


def intervals(paired: Paired, predictions: Predictions, level: float = 0.95) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per comparison (COLUMNS) whose runs have predictions, and the runs left out (predictions.LEFT_OUT).

    score: accuracy, f1 or matthews, whichever gives the logged values; a run whose logged score does not follow from
    its predictions is left out. design: "crossed" (seeds x examples), "nested" (examples within seed, where they differ
    between seeds) or "one seed" (examples alone). n_units: what is drawn, examples or their groups. difference: mean
    over seeds in points, higher is better; low, high and se: for new seeds and new examples. share_seeds,
    share_examples, share_both: parts of that variance, both being their interaction (0 when nested); dominates: the
    largest of them, "" where nothing varies.
    """
    left: list[tuple] = []
    rows = []
    for members in paired.families:
        kind, runs = _runs(members, predictions, left)
        for c in members:
            kept = _kept(c, runs, left)
            if kept:
                rows.append(_row(c, kept, kind, runs, level))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame, pd.DataFrame(list(dict.fromkeys(left)), columns=LEFT_OUT)


def _runs(members: list[Comparison], predictions: Predictions, left: list) -> tuple[str, dict[str, Predicted]]:
    """The kind of score of a family, and the runs whose predictions give the logged score."""
    metric, split = members[0].metric, split_of(members[0].metric)
    logged: dict[str, float] = {}
    reasons: dict[str, str] = {}
    found: dict[str, Predicted] = {}
    for c in members:
        logged |= dict(zip(c.run_ids, c.scores, strict=True))
        logged |= dict(zip(c.reference_run_ids, c.reference_scores, strict=True))
    for run_id in logged:
        try:
            if split is None or not is_score(metric):
                raise Missing(f"{metric} is no score that predictions give")
            found[run_id] = read(predictions, run_id, split)
        except Missing as missing:
            reasons[run_id] = str(missing)
    fits = {
        run_id: {kind for kind, value in run.scores.items() if abs(value - logged[run_id]) <= SAME}
        for run_id, run in found.items()
    }
    votes = Counter(kind for fitting in fits.values() for kind in fitting)
    kind = max(SCORES, key=lambda name: votes[name])  # the first on ties: all of them give these values
    for run_id in [name for name in found if kind not in fits[name]]:
        told = ", ".join(f"{name} {value:.2f}" for name, value in found.pop(run_id).scores.items())
        reasons[run_id] = f"its predictions give {told}; logged is {logged[run_id]:.2f}"
    for c in members:
        for of_reference, ids in enumerate((c.run_ids, c.reference_run_ids)):
            left += [left_out(c, i, bool(of_reference), reasons[r]) for i, r in enumerate(ids) if r in reasons]
    return kind, found


def _kept(c: Comparison, runs: dict[str, Predicted], left: list) -> list[int]:
    """The pairs of a comparison that have predictions of the same examples on both sides."""
    kept = []
    for i, (run_id, reference_id) in enumerate(zip(c.run_ids, c.reference_run_ids, strict=True)):
        if run_id in runs and reference_id not in runs:
            left.append(left_out(c, i, False, f"its partner {reference_id} is left out"))
        elif run_id in runs and runs[run_id].examples != runs[reference_id].examples:
            left.append(left_out(c, i, False, f"other examples than its partner {reference_id}"))
        elif run_id in runs:
            kept.append(i)
    return kept


# Variance


def pseudo_values(values: np.ndarray, kind: str, groups: np.ndarray | None = None) -> np.ndarray:
    """Jackknife pseudo-values of a score, from indicators `[sums, examples]`; their mean estimates it.

    One for each example, or for each group `[groups]` where examples of a group `[examples]` are left out together.
    """
    if groups is not None:
        sizes = np.bincount(groups).astype(float)
        values = np.stack([np.bincount(groups, row) for row in values])
    else:
        sizes = np.ones(values.shape[-1])
    units, n, sums = values.shape[-1], int(sizes.sum()), values.sum(axis=1, dtype=float)
    if units == 1:
        return np.atleast_1d(score(sums, n, kind))
    without = score((sums[:, None] - values).T, n - sizes, kind)
    return units * score(sums, n, kind) - (units - 1) * without


def crossed_variance(values: np.ndarray) -> Variance:
    """Of the mean of pseudo-differences `[seeds, examples]`, seeds and examples both being random.

    Mean squares of the two-way analysis of variance; seeds keep all their mean square, the examples' part is cut at
    0, and the degrees of freedom are Hillis's (2007).
    """
    seeds, n = values.shape
    by_seed, by_example, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    rest = values - by_seed[:, None] - by_example + mean
    of_seeds = n * ((by_seed - mean) ** 2).sum() / (seeds - 1)
    of_examples = seeds * ((by_example - mean) ** 2).sum() / max(n - 1, 1)
    of_both = (rest**2).sum() / max((seeds - 1) * (n - 1), 1)
    if np.ptp(by_seed) < SAME:  # a coincidence of small test sets; what is expected of it is no less than of_both
        of_seeds = of_both
    parts = np.array([max(of_seeds - of_both, 0), max(of_examples - of_both, 0), min(of_seeds, of_both)])
    total = of_seeds + parts[1]
    df = (total / of_seeds) ** 2 * (seeds - 1) if of_seeds > 0 else math.inf
    by_seeds, by_examples, by_both = (parts / (seeds * n)).tolist()
    return Variance(by_seeds, by_examples, by_both, df=float(df))


def nested_variance(values: list[np.ndarray]) -> Variance:
    """Of the mean over seeds of pseudo-differences `[examples]`, each seed having its own examples."""
    seeds = len(values)
    means = [v.mean() for v in values]
    within = np.mean([v.var(ddof=1) / len(v) if len(v) > 1 else 0.0 for v in values]) / seeds
    # as above: that all seeds differ by as much is a coincidence
    total = within if np.ptp(means) < SAME else np.var(means, ddof=1) / seeds
    examples = float(min(within, total))
    return Variance(float(total) - examples, examples, 0.0, df=seeds - 1)


def _interval(difference: float, variance: Variance, level: float) -> tuple[float, float, float]:
    """low, high and standard error."""
    from scipy.special import ndtri, stdtrit

    se, tail = math.sqrt(variance.total), (1 - level) / 2
    half = se * float(ndtri(1 - tail) if math.isinf(variance.df) else stdtrit(variance.df, 1 - tail)) if se else 0.0
    return difference - half, difference + half, se


# Rows


def _pseudo(run: Predicted, kind: str, groups: np.ndarray | None) -> np.ndarray:
    return pseudo_values(indicators(run.labels, run.classes, kind, run.n_classes), kind, groups)


def _row(c: Comparison, kept: list[int], kind: str, runs: dict[str, Predicted], level: float) -> tuple:
    ids = [(c.run_ids[i], c.reference_run_ids[i]) for i in kept]
    pairs = [(runs[a], runs[b]) for a, b in ids]
    groups = [a.groups if b.groups is not None else None for a, b in pairs]  # as long as both sides know them
    pseudo = [_pseudo(a, kind, g) - _pseudo(b, kind, g) for (a, b), g in zip(pairs, groups, strict=True)]
    nested = len({run.examples for run, _ in pairs}) > 1
    if len(kept) == 1:
        n = len(pseudo[0])
        variance = Variance(0.0, float(pseudo[0].var(ddof=1)) / n if n > 1 else 0.0, 0.0, df=n - 1)
    else:
        variance = nested_variance(pseudo) if nested else crossed_variance(np.stack(pseudo))
    difference = float(np.mean([a.scores[kind] - b.scores[kind] for a, b in pairs]))
    low, high, se = _interval(difference, variance, level)
    if all(abs(each).max() < SAME for each in pseudo):  # no example tells the sides apart: the rule of three
        half = 100 * (1 - (1 - level) ** (1 / min(map(len, pseudo)))) if kind == "accuracy" else math.nan
        low, high = -half, half
    elif min(map(len, pseudo)) < 2 or se == 0:  # of one document, or of examples that all say the same
        low = high = math.nan
    parts = dict(zip(("seeds", "examples", "both"), (variance.seeds, variance.examples, variance.both), strict=True))
    values = {
        **{name: getattr(c, name) for name in COLUMNS[:8]},
        "score": kind,
        "split": split_of(c.metric),
        "design": "one seed" if len(kept) == 1 else "nested" if nested else "crossed",
        "n_seeds": len(kept),
        "n_examples": round(float(np.mean([len(run.labels) for run, _ in pairs]))),
        "n_units": round(float(np.mean([len(each) for each in pseudo]))),
        **{"difference": difference, "low": low, "high": high, "level": level, "se": se},
        **{f"share_{name}": part / variance.total if se else math.nan for name, part in parts.items()},
        "dominates": max(parts, key=lambda name: parts[name]) if se else "",
    }
    return tuple(values[name] for name in COLUMNS)
