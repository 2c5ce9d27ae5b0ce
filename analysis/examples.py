"""Two sources of chance, seeds and test examples: an interval for new seeds and new examples.

The seeds' test (hypothesis.py) speaks of new seeds on these test examples. Here both are drawn: a bootstrap resamples
seeds and examples (Owen 2007), the same ones for a method and its reference. Its percentiles are stretched about
the difference, because plain ones are wrong twice: few seeds make them too narrow, and the interaction of seeds and
examples is counted three times. Variance and degrees of freedom are those of the analysis of variance of
jackknife pseudo-values (Dorfman, Berbaum and Metz 1992; Hillis 2007: readers there are seeds here).
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.pairing import Comparison, Paired
from analysis.predictions import (
    LEFT_OUT,
    SCORES,
    Missing,
    Predictions,
    indicators,
    is_score,
    left_out,
    matching,
    one_class,
    read,
    score,
    scores,
    split_of,
)
from analysis.present.tables import p_text

COLUMNS = [
    *("task", "model", "init", "family", "method", "setting", "reference", "metric"),
    *("score", "split", "design", "n_seeds", "n_examples", "difference", "low", "high", "level", "se"),
    *("share_seeds", "share_examples", "share_both", "dominates"),
    *("only_method", "only_reference", "p_mcnemar", "one_class"),
]
RESAMPLES = 2000
BLOCK = 2**18  # resampled examples held at once, 2 MB: in the cache, four times as fast as 2^22


@dataclass(frozen=True, eq=False)
class _Run:
    """A run's labels and predicted classes `[examples]`, and its score of each kind."""

    examples: str
    labels: np.ndarray
    predicted: np.ndarray
    n_classes: int
    scores: dict[str, float]


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


def bootstrap(
    paired: Paired, predictions: Predictions, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per comparison (COLUMNS) whose runs have predictions, and the runs left out (predictions.LEFT_OUT).

    score: accuracy, f1 or matthews, whichever gives the logged values, recomputed in every resample; a run whose
    logged score does not follow from its predictions is left out. design: "crossed" (seeds x examples), "nested"
    (examples within seed, where they differ between seeds) or "one seed" (examples alone, with McNemar's exact test of
    the right and wrong answers in p_mcnemar, missing otherwise). difference: mean over seeds in points, higher is
    better; low, high and se: for new seeds and new examples. share_seeds, share_examples, share_both: parts of that
    variance, both being their interaction (0 when nested); dominates: the largest of them, "" where nothing varies.
    only_method, only_reference: answers, over examples and seeds, that one of the two alone got right. one_class: how
    many of the 2 n_seeds runs give every example the same class: their equality says nothing of a method.
    """
    left: list[tuple] = []
    rows = []
    families = defaultdict(list)
    for c in paired.comparisons:
        families[c.task, c.model, c.init, c.metric, c.family].append(c)
    for members in families.values():
        kind, runs = _runs(members, predictions, left)
        draws = _resampled(runs, kind, resamples, seed)
        for c in members:
            kept = _kept(c, runs, left)
            if kept:
                rows.append(_row(c, kept, kind, runs, draws, level, seed))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame, pd.DataFrame(list(dict.fromkeys(left)), columns=LEFT_OUT)


def _runs(members: list[Comparison], predictions: Predictions, left: list) -> tuple[str, dict[str, _Run]]:
    """The kind of score of a family, and the runs whose predictions give the logged score."""
    split = split_of(members[0].metric)
    logged: dict[str, float] = {}
    reasons: dict[str, str] = {}
    found: dict[str, _Run] = {}
    fits: dict[str, set[str]] = {}
    for c in members:
        logged |= dict(zip(c.run_ids, c.scores, strict=True))
        logged |= dict(zip(c.reference_run_ids, c.reference_scores, strict=True))
    for run_id, value in logged.items():
        if split is None or not is_score(members[0].metric):
            reasons[run_id] = f"{members[0].metric} is no score that predictions give"
            continue
        try:
            run = _run(predictions, run_id, split)
        except Missing as missing:
            reasons[run_id] = str(missing)
            continue
        found[run_id], fits[run_id] = run, matching(run.scores, value)
    votes = Counter(kind for fitting in fits.values() for kind in fitting)
    kind = max(SCORES, key=lambda name: votes[name])  # the first on ties: all of them give these values
    for run_id in [name for name in found if kind not in fits[name]]:
        told = ", ".join(f"{name} {value:.2f}" for name, value in found.pop(run_id).scores.items())
        reasons[run_id] = f"its predictions give {told}; logged is {logged[run_id]:.2f}"
    for c in members:
        for of_reference, ids in enumerate((c.run_ids, c.reference_run_ids)):
            left += [left_out(c, i, bool(of_reference), reasons[r]) for i, r in enumerate(ids) if r in reasons]
    return kind, found


def _run(predictions: Predictions, run_id: str, split: str) -> _Run:
    table = read(predictions, run_id, split)
    n_classes, predicted = table.probabilities.shape[1], table.classes
    return _Run(table.examples, table.labels, predicted, n_classes, scores(table.labels, predicted, n_classes))


def _kept(c: Comparison, runs: dict[str, _Run], left: list) -> list[int]:
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


# Resampling


def _resampled(runs: dict[str, _Run], kind: str, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Each run's score `[resamples]` on resampled examples; runs with the same examples meet the same resamples."""
    groups = defaultdict(list)
    for run_id, run in runs.items():
        groups[run.examples].append(run_id)
    draws: dict[str, np.ndarray] = {}
    for number, run_ids in enumerate(groups.values()):
        sums = np.stack([_indicators(runs[run_id], kind) for run_id in run_ids])  # [runs, sums, examples]
        found = resampled_scores(sums, kind, resamples, np.random.default_rng([seed, number]))
        draws |= dict(zip(run_ids, found, strict=True))
    return draws


def resampled_scores(values: np.ndarray, kind: str, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Scores `[runs, resamples]` of indicators `[runs, sums, examples]`, examples drawn with replacement."""
    n = values.shape[-1]
    flat = values.reshape(-1, n)
    found = np.empty((len(values), resamples))
    block = max(1, BLOCK // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float32)
        sums = (flat @ times.T).reshape(*values.shape[:2], size)
        found[:, start : start + size] = score(np.moveaxis(sums, 1, -1), n, kind)
    return found


def resampled_means(differences: np.ndarray, nested: bool, rng: np.random.Generator) -> np.ndarray:
    """Means `[resamples]` over drawn seeds of `differences` `[seeds, resamples]`, whose second axis are resamples of
    the examples: one for all drawn seeds, or (nested) each drawn seed has its own."""
    seeds, resamples = differences.shape
    drawn = rng.integers(0, seeds, (resamples, seeds))
    which = np.arange(resamples)[:, None]
    if nested:
        which = np.stack([rng.permutation(resamples) for _ in range(seeds)], axis=1)
    return differences[drawn, which].mean(axis=1)


# Variance


def pseudo_values(values: np.ndarray, kind: str) -> np.ndarray:
    """Jackknife pseudo-values `[examples]` of a score, from indicators `[sums, examples]`; their mean estimates it."""
    n = values.shape[-1]
    sums = values.sum(axis=1, dtype=float)
    if n == 1:
        return np.atleast_1d(score(sums, n, kind))
    without = score((sums[:, None] - values).T, n - 1, kind)
    return n * score(sums, n, kind) - (n - 1) * without


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
    parts = np.array([max(of_seeds - of_both, 0), max(of_examples - of_both, 0), min(of_seeds, of_both)])
    total = of_seeds + parts[1]
    df = (total / of_seeds) ** 2 * (seeds - 1) if of_seeds > 0 else math.inf
    by_seeds, by_examples, by_both = (parts / (seeds * n)).tolist()
    return Variance(by_seeds, by_examples, by_both, df=float(df))


def nested_variance(values: list[np.ndarray]) -> Variance:
    """Of the mean over seeds of pseudo-differences `[examples]`, each seed having its own examples."""
    seeds = len(values)
    total = np.var([v.mean() for v in values], ddof=1) / seeds
    within = np.mean([v.var(ddof=1) / len(v) if len(v) > 1 else 0.0 for v in values]) / seeds
    examples = float(min(within, total))
    return Variance(float(total) - examples, examples, 0.0, df=seeds - 1)


def mcnemar(only_method: int, only_reference: int) -> float:
    """McNemar's exact two-sided p: of the answers that only one got right, is one half the method's? (1947)"""
    from scipy.special import bdtr

    n = only_method + only_reference
    return min(1.0, 2 * float(bdtr(min(only_method, only_reference), n, 0.5))) if n else 1.0


def _interval(difference: float, means: np.ndarray, variance: Variance, level: float) -> tuple[float, float, float]:
    """low, high and standard error: the bootstrap's percentiles, stretched to the variance and Student's t."""
    from scipy.special import ndtri, stdtrit

    se, spread, tail = math.sqrt(variance.total), float(means.std()), (1 - level) / 2
    if se == 0 or spread == 0:
        return difference, difference, se
    t = ndtri(1 - tail) if math.isinf(variance.df) else stdtrit(variance.df, 1 - tail)
    stretch = t / ndtri(1 - tail) * se / spread
    low, high = difference + stretch * (np.quantile(means, [tail, 1 - tail]) - difference)
    return float(low), float(high), se


# Rows and sentences


def _indicators(run: _Run, kind: str) -> np.ndarray:
    return indicators(run.labels, run.predicted, kind, run.n_classes)


def _row(c: Comparison, kept: list[int], kind: str, runs: dict, draws: dict, level: float, seed: int) -> tuple:
    ids = [(c.run_ids[i], c.reference_run_ids[i]) for i in kept]
    pairs = [(runs[a], runs[b]) for a, b in ids]
    pseudo = [pseudo_values(_indicators(a, kind), kind) - pseudo_values(_indicators(b, kind), kind) for a, b in pairs]
    nested = len({run.examples for run, _ in pairs}) > 1
    if len(kept) == 1:
        n = len(pseudo[0])
        variance = Variance(0.0, float(pseudo[0].var(ddof=1)) / n if n > 1 else 0.0, 0.0, df=n - 1)
    else:
        variance = nested_variance(pseudo) if nested else crossed_variance(np.stack(pseudo))
    replicates = np.stack([draws[a] - draws[b] for a, b in ids])
    means = resampled_means(replicates, nested, np.random.default_rng([seed, 0, len(kept)]))
    difference = float(np.mean([a.scores[kind] - b.scores[kind] for a, b in pairs]))
    low, high, se = _interval(difference, means, variance, level)
    only = [_alone(a, b) for a, b in pairs], [_alone(b, a) for a, b in pairs]
    parts = dict(zip(("seeds", "examples", "both"), (variance.seeds, variance.examples, variance.both), strict=True))
    values = {
        **{name: getattr(c, name) for name in COLUMNS[:8]},
        "score": kind,
        "split": split_of(c.metric),
        "design": "one seed" if len(kept) == 1 else "nested" if nested else "crossed",
        "n_seeds": len(kept),
        "n_examples": round(float(np.mean([len(run.labels) for run, _ in pairs]))),
        **{"difference": difference, "low": low, "high": high, "level": level, "se": se},
        **{f"share_{name}": part / variance.total if se else math.nan for name, part in parts.items()},
        "dominates": max(parts, key=lambda name: parts[name]) if se else "",
        "only_method": sum(only[0]),
        "only_reference": sum(only[1]),
        "p_mcnemar": mcnemar(only[0][0], only[1][0]) if len(kept) == 1 else math.nan,
        "one_class": sum(one_class(run.labels, run.predicted) for pair in pairs for run in pair),
    }
    return tuple(values[name] for name in COLUMNS)


def _alone(a: _Run, b: _Run) -> int:
    """How many examples `a` got right and `b` wrong."""
    return int(((a.predicted == a.labels) & (b.predicted != b.labels)).sum())


ADVICE = {
    "seeds": "more seeds narrow it most",
    "examples": "more seeds would hardly narrow it, more test examples would",
    "both": "more seeds or more examples narrow it alike",
    "": "nothing varies",
}


def lines(table: pd.DataFrame) -> list[str]:
    """One sentence per row of `bootstrap`: the interval, what it speaks of, and which source of chance dominates."""
    return [_line(row) + _one_class(row) for row in table.to_dict("records")]


def _one_class(row: dict) -> str:
    if not row["one_class"]:
        return ""
    return f"; {row['one_class']} of {2 * row['n_seeds']} runs give every example the same class"


def _line(row: dict) -> str:
    where = ", ".join(filter(None, [row["task"], row["model"], row["init"], row["metric"]]))
    name = f"{row['method']} [{row['setting']}]" if row["setting"] else row["method"]
    interval = f"{row['level']:.0%} interval [{row['low']:+.2f}, {row['high']:+.2f}]"
    head = f"{name} vs {row['reference']} ({where}): {row['score']} {row['difference']:+.2f}"
    if row["design"] == "one seed":
        return (
            f"{head}, one seed: McNemar's exact test p = {p_text(row['p_mcnemar'])} ({row['only_method']} of "
            f"{row['n_examples']:,} examples right for {row['method']} alone, {row['only_reference']} for "
            f"{row['reference']} alone); {interval} for new examples, not for new seeds"
        )
    sizes = f"{row['n_seeds']} seeds, {row['n_examples']:,} examples"
    drawn = "drawn within each seed, whose examples differ" if row["design"] == "nested" else "crossed"
    if not row["dominates"]:
        return f"{head}, {interval} for new seeds and new examples ({sizes}): no answer differs"
    shares = f"{row['share_seeds']:.0%} of its variance is of the seeds, {row['share_examples']:.0%} of the examples"
    if row["design"] == "crossed":
        shares += f", {row['share_both']:.0%} of both together"
    return f"{head}, {interval} for new seeds and new examples ({sizes}, {drawn}); {shares}: {ADVICE[row['dominates']]}"
