"""Over the tasks of a study, and over new tasks.

Two questions are kept apart. Of these tasks: is the mean over them of the paired difference (the paper's Score) other
than 0? Seeds within tasks answer it. Of tasks like these: a block is then a task, its value a mean over seeds, since
the seeds of one task share the task's own effect. Left out on purpose: post hoc tests on mean ranks, because they
depend on the other methods (Benavoli, Corani and Mangili 2016).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.hypothesis import DECIMALS, compare, decimals, floor, holm, min_p_value, number, rounded, signed_rank
from analysis.judge import Rule, by_who, p_of
from analysis.margins import fractions
from analysis.pairing import Comparison, Paired

MEANS = ["model", "init", "metric", "task", "method", "n", "mean"]
FRIEDMAN = ["model", "init", "metric", "n_tasks", "n_methods", "chi2", "p_value", "draws", "note"]
TEST = ["estimate", "low", "high", "level", "p_value", "p_holm", "min_p_value"]
HEAD = ["model", "init", "metric", "method", "reference", "n_tasks", "tasks"]
AGAINST = [*HEAD, "mean_difference", *TEST, "min_p_holm"]
THESE = [
    *(*HEAD, "n", "n_most", "mean_difference", "low", "high", "p_value", "p_holm", "p_equivalence"),
    *("p_equivalence_holm", "margin", "p_verdict", "verdict", "reason"),
]
DRAWS = 30_000  # the standard error of p = 0.05 is then 0.0013
Group = tuple[str, str, str]  # model, init, metric


def _groups(paired: Paired, units: bool = True) -> dict[Group, dict[str, dict[str, Comparison]]]:
    """(model, init, metric) -> method -> task -> comparison, of methods with two tasks or more.

    Scores of different splits (test here, the rest of the training set there) are all scores. `units`: without tasks
    whose scores are in several of them.
    """
    cells: defaultdict[Group, defaultdict[str, defaultdict[str, list[Comparison]]]]
    cells = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    names: defaultdict[tuple, set[str]] = defaultdict(set)
    for c in paired.comparisons:
        names[c.model, c.init, c.metric.rpartition("/")[2]].add(c.metric)
    for c in paired.comparisons:
        last = c.metric.rpartition("/")[2]
        metric = c.metric if len(names[c.model, c.init, last]) == 1 else last
        cells[c.model, c.init, metric][c.method][c.task].append(c)
    groups = {}
    for key, cell in cells.items():
        methods: dict[str, dict[str, Comparison]] = {}
        for method, by_task in cell.items():
            methods |= _by_setting(method, by_task)
        found = [c for by_task in methods.values() for c in by_task.values()]
        if methods and not (units and units_differ(key[-1], found)):
            groups[key] = methods
    return groups


def units_differ(metric: str, comparisons: Iterable[Comparison]) -> list[str]:
    """The tasks whose scores look like fractions of 1, where those of others do not: of both there is no mean."""
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for c in comparisons:
        scores[c.task] += [*c.scores, *c.reference_scores]
    found = [task for task, values in scores.items() if values and fractions(metric, values)]
    return found if len(found) < len(scores) else []


def _by_setting(method: str, by_task: Mapping[str, Sequence[Comparison]]) -> dict[str, dict[str, Comparison]]:
    """The comparisons of a method over tasks, by its name.

    One comparison in each task is one method, whatever its settings. Where a task has several, each setting is a method
    of its own, with the other tasks' comparisons that have the values which vary there. What is left on one task alone
    has its verdict there.
    """
    varying = {
        i
        for found in by_task.values()
        for i, values in enumerate(zip(*(_values(c) for c in found), strict=True))
        if len(set(values)) > 1
    }
    settings: defaultdict[tuple, dict[str, list[Comparison]]] = defaultdict(dict)
    for task, found in by_task.items():
        for c in found:
            settings[tuple(value for i, value in enumerate(_values(c)) if i in varying)].setdefault(task, []).append(c)
    methods: dict[str, dict[str, Comparison]] = {}
    for same in settings.values():
        one = {task: found[0] for task, found in same.items() if len(found) == 1}  # several: on other examples
        told = "; ".join(dict.fromkeys(c.setting for c in one.values() if c.setting)) if varying else ""
        name = f"{method} [{told}]" if told else method
        if len(one) > 1:
            methods[f"{name} ({', '.join(one)})" if name in methods else name] = one
    return methods


def _values(c: Comparison) -> tuple:
    """The settings of both sides, which a comparison made by hand may lack."""
    return tuple(value for side in c.settings for value in side)


# Friedman and ranks


def task_means(paired: Paired) -> pd.DataFrame:
    """Mean score over the seeds that all methods of a task share (columns MEANS), one row per task and method, the
    reference included. A task without such seeds, or with several settings of the reference, has no rows."""
    rows = []
    for (model, init, metric), methods in _groups(paired).items():
        for task in sorted({task for found in methods.values() for task in found}):
            here = {label: found[task] for label, found in methods.items() if task in found}
            shared = set.intersection(*(set(c.seeds) for c in here.values()))
            of_reference = {(c.seeds[i], run) for c in here.values() for i, run in enumerate(c.reference_run_ids)}
            if not shared or len({seed for seed, _ in of_reference}) < len(of_reference):
                continue
            first = next(iter(here.values()))
            scores = {paired.reference: dict(zip(first.seeds, first.reference_scores, strict=True))}
            scores |= {label: dict(zip(c.seeds, c.scores, strict=True)) for label, c in here.items()}
            for label, found in scores.items():
                mean = float(np.mean([found[seed] for seed in sorted(shared, key=str)]))
                rows.append((model, init, metric, task, label, len(shared), mean))
    return pd.DataFrame(rows, columns=MEANS)


def friedman(paired: Paired) -> pd.DataFrame:
    """Friedman's test over task means (columns FRIEDMAN), one row per model, init and metric with several tasks.

    p_value is the permutation test's: exact, or of so many random permutations (draws; 0 where it is exact).
    note: the tasks left out because a method is missing; where fewer than two tasks or three methods remain there is
    no test, and note says so.
    """
    means, rows = task_means(paired), []
    for key, methods in _groups(paired).items():
        here = means[(means[["model", "init", "metric"]] == list(key)).all(axis=1)]
        table = here.pivot(index="task", columns="method", values="mean").round(DECIMALS)
        complete = table.reindex(columns=[paired.reference, *methods]).dropna()
        turned = any(c.negated for found in methods.values() for c in found.values())
        tasks = {task for found in methods.values() for task in found}
        rows.append((*key, *_friedman(-complete if turned else complete, sorted(tasks - set(complete.index)))))
    return pd.DataFrame(rows, columns=FRIEDMAN)


def _friedman(table: pd.DataFrame, other: list[str]) -> tuple:
    """Of scores `[tasks, methods]`, higher is better; `other`: tasks without all of them."""
    n, k = table.shape
    note = f"incomplete, left out: {', '.join(other)}" if other else ""
    if n < 2 or k < 3:
        why = "two tasks with all methods" if n < 2 else "two methods beside the reference"
        return n, k, math.nan, math.nan, 0, "; ".join(filter(None, [f"no test: it takes {why}", note]))
    from scipy.stats import friedmanchisquare

    tied = (table.nunique(axis=1) == 1).all()
    chi2 = 0.0 if tied else float(friedmanchisquare(*table.to_numpy().T).statistic)
    return n, k, chi2, *friedman_p(table.rank(axis=1).to_numpy()), note


def friedman_p(ranks: np.ndarray) -> tuple[float, int]:
    """P(as large a spread of rank sums, or a larger one) when each task's ranks `[tasks, methods]` are in random order.

    Exact where there are up to DRAWS orders, else of so many random ones, whose number is the second value (0: exact).
    The usual approximations are for many tasks: at three tasks and three methods Iman and Davenport's F calls 19% of
    true nulls at 0.05, and ties make it worse.
    """
    from scipy.stats import permutation_test

    def spread(*columns: np.ndarray, axis: int) -> np.ndarray:
        return sum(column.sum(axis=axis) ** 2 for column in columns)  # chi-squared rises with it

    doubled = np.rint(2 * ranks).astype(np.int64)  # mid-ranks are halves: integers compare exactly
    found = permutation_test(
        tuple(doubled.T), spread, permutation_type="samples", n_resamples=DRAWS, alternative="greater", rng=0
    )
    drawn = math.factorial(ranks.shape[1]) ** ranks.shape[0] > DRAWS
    return float(found.pvalue), DRAWS if drawn else 0


# These tasks


def these_tasks(paired: Paired, judged: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """The verdict on each method over the tasks of a study (columns THESE), where there are several.

    mean_difference: over tasks of the mean over seeds, the paper's Score column; low, high, p_value: Student's t with
    Satterthwaite's degrees of freedom, tasks being strata; Holm over the methods of a model and init. p_equivalence:
    that the mean is within the tasks' mean margin (two one-sided tests); better and worse are negligible with it. A
    stratified signed-rank test has more power where tasks have unequal spreads, but speaks of another thing where
    tasks differ: it leaves a mean of -15 undecided that one task of three makes. Planned looks: one verdict, at the
    last look (`judged`: of `judge`), none where a task stopped before. It speaks of these tasks; of others,
    `against_reference`.
    """
    rows = []
    known, there = by_who(judged), Counter(c.where for c in paired.comparisons)
    for key, methods in _groups(paired).items():
        margins, tests = {}, {}
        for method, by_task in methods.items():
            margins[method] = float(np.mean([known[c.who].margin for c in by_task.values()]))
            strata = [rounded(known[c.who].differences) for c in by_task.values()]
            tests[method] = _mean_over(strata, margins[method], rule.level)
        # planned and not there: they count here as they do in a task
        absent = max(
            max(known[c.who].family_size - there[c.where], 0) for by_task in methods.values() for c in by_task.values()
        )
        corrected = holm((p for *_, p, _ in tests.values()), absent)
        equal = holm((q for *_, q in tests.values()), absent)
        for (method, by_task), p, q in zip(methods.items(), corrected, equal, strict=True):
            mean, low, high, p_value, p_equal = tests[method]
            word = "equivalent" if q <= rule.level else "undecided"
            word = word if p > rule.level else "better" if mean > 0 else "worse"
            means = {task: float(known[c.who].mean_difference) for task, c in sorted(by_task.items())}
            far, digits = {t: d for t, d in means.items() if abs(d) > margins[method]}, decimals(margins[method])
            apart = [f"{task} {number(value, digits, sign=True)}" for task, value in far.items()]
            why = f"tasks differ: {', '.join(apart)}" if word == "equivalent" and apart else ""
            why = "negligible: within the margin" if word in ("better", "worse") and q <= rule.level else why
            if math.isinf(low):
                alone = ", ".join(task for task, c in sorted(by_task.items()) if known[c.who].n < 2)
                why = f"no test: fewer than two seeds in {alone}" if alone else "no test: no task's seeds differ"
            looks: list[Any] = [known[c.who].look for c in by_task.values()] if rule.looks else []
            if any(pd.isna(look) or look < rule.looks[-1] for look in looks):
                word, why = "undecided", "it falls at the last planned look, with all seeds of all tasks"
            n = [known[c.who].n for c in by_task.values()]
            who = (*key, method, paired.reference, len(by_task), tuple(means), min(n), max(n))
            told = (mean, low, high, p_value, p, p_equal, q, margins[method], p_of(word, p, q), word, why)
            rows.append((*who, *told))
    return pd.DataFrame(rows, columns=THESE)


def _mean_over(strata: Sequence[np.ndarray], margin: float, level: float) -> tuple[float, float, float, float, float]:
    """Mean over strata of their means, its interval, p of no difference and p of equivalence.

    Unbounded and 1 where a stratum has one seed, or where nothing varies at all.
    """
    from scipy.stats import t as student

    mean = round(float(np.mean([d.mean() if len(d) else math.nan for d in strata])), DECIMALS) + 0.0
    if any(len(d) < 2 for d in strata) or not any(np.ptp(d) for d in strata):
        return mean, -math.inf, math.inf, 1.0, 1.0
    parts = np.array([d.var(ddof=1) / len(d) for d in strata])
    df = float(parts.sum() ** 2 / (parts**2 / np.array([len(d) - 1 for d in strata])).sum())
    se = math.sqrt(parts.sum()) / len(strata)
    half = float(student.isf(level / 2, df)) * se
    p_value = 2 * float(student.sf(abs(mean) / se, df))
    return mean, mean - half, mean + half, p_value, float(student.sf((margin - abs(mean)) / se, df))


# Each method against the reference, over tasks like these


def against_reference(paired: Paired, units: bool = True) -> pd.DataFrame:
    """Each method against the reference over tasks (columns AGAINST), where there are several.

    Exact Wilcoxon over the tasks' mean differences, Holm over the methods of a model, init and metric; min_p_holm is
    the smallest that so many tasks and methods can give. `units`: whether scores say the unit of their task.
    """
    rows = []
    for key, methods in _groups(paired, units).items():
        means = {
            label: {task: np.mean(rounded(c.differences)) for task, c in sorted(found.items())}
            for label, found in methods.items()
        }
        tests = tested({m: list(found.values()) for m, found in means.items()}, signed_rank, min_p_value)
        for method, found in methods.items():
            values = list(means[method].values())
            mean = float(np.round(np.mean(values), DECIMALS)) + 0.0
            head = (*key, method, paired.reference, len(found), tuple(means[method]), mean)
            rows.append((*head, *tests[method]))
    return pd.DataFrame(rows, columns=AGAINST)


def tested(
    families: Mapping[Any, Any], test: Callable[[Any], Any] = compare, least: Callable[[int], float] = floor
) -> dict[Any, tuple]:
    """The values of TEST and min_p_holm for each name, of its pairs (`compare`) or of what `test` takes; Holm over all
    of them. `least`: the smallest p that n can give."""
    tests = {name: test(sample) for name, sample in families.items()}
    corrected = holm(test.p_value for test in tests.values())
    floors = holm(least(test.n) for test in tests.values())
    return {
        name: (t.estimate, t.low, t.high, t.level, t.p_value, p, t.min_p_value, lowest)
        for (name, t), p, lowest in zip(tests.items(), corrected, floors, strict=True)
    }


def said(test: tuple, level: float) -> str:
    """Whether a difference is "larger" or "smaller" by what `tested` gave, at this level, else why neither is said."""
    estimate, p_holm, lowest = test[0], test[TEST.index("p_holm")], test[-1]
    if p_holm <= level and estimate != 0:
        return "larger" if estimate > 0 else "smaller"
    return "too few seeds" if lowest > level else "not shown to differ"
