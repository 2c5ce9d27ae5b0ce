"""Do printed tables agree with themselves? Means, deviations, p-values, and what mean and sd leave open.

Takes any table that `analysis.paper.read` reads. Recognised by name: a Score column (SCORE), the reference
row (REFERENCES), a teacher's row (no method, not compared), p-values (rows such as "Base vs KD").
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from analysis.hypothesis import holm, min_p_value
from analysis.paper import decimals, possible
from analysis.power import detectable_effect

SCORE = ("score", "average", "avg", "avg.", "mean")
REFERENCES = ("finetune", "fine-tune", "fine-tuning", "base", "baseline")
TEACHER = "teacher"
VERSUS = re.compile(r"\bvs\b", re.I)
NO_SCORES = re.compile(r"#.*|param(eter)?s?|size|layers?|flops|speed-?up|latency|time|memory|epochs?|n|seeds?")
OTHER_TEST = re.compile(r"\bt[- ]?tests?\b|\(t\)|\bwelch\b|\bstudent\b", re.I)  # no signed-rank p
LEVEL = 0.05
FINDINGS = ["check", "table", "split", "row", "column", "printed", "found", "note"]
RANGES = [
    *("table", "split", "column", "row", "reference", "n", "difference"),
    *("p_low", "p_high", "p_t_low", "p_t_high", "p_welch", "p_welch_holm", "says"),
]
P_VALUES = ["table", "split", "row", "column", "printed", "n", "W", "p_exact", "power_80"]
ALWAYS, PERHAPS, NEVER = "significant whatever the pairing", "depends on the pairing", "cannot be significant"


def scores_alone(printed: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Without the columns that are no scores, such as Params, by their exact names; and these columns' names."""
    other = printed["column"].str.strip().str.lower().map(lambda name: bool(NO_SCORES.fullmatch(name)))
    return printed[~other], sorted(set(printed.loc[other, "column"]))


def findings(printed: pd.DataFrame, runs: Mapping[str, int]) -> pd.DataFrame:
    """What does not agree, one row each with both values (FINDINGS): scores, their deviations, p-values.

    `runs` is the number of runs per cell by table. `found` is what the other numbers give. A check ends in
    "(unlikely)" where the printed value is possible, but not credible.
    """
    rows = score_means(printed) + score_deviations(printed, runs) + p_values(printed, runs)
    return pd.DataFrame(rows, columns=FINDINGS)


def score_means(printed: pd.DataFrame) -> list[tuple]:
    """Score cells that are not the mean of their row's tasks, whatever was rounded away."""
    rows = []
    for cell, score, tasks in score_cells(printed):
        mean, off = tasks["mean"].mean(), tasks["mean_half"].mean() + score["mean_half"]
        if abs(mean - score["mean"]) > off + possible.NOISE:
            d = told_with([score["mean_half"], *tasks["mean_half"]])
            note = f"{score['mean'] - mean:+.{d}f} from the mean of {len(tasks)} tasks, rounding explains {off:.{d}f}"
            rows.append(("score", *cell, score["column"], _shown(score), f"{mean:.{d}f}", note))
    return rows


def score_deviations(printed: pd.DataFrame, runs: Mapping[str, int]) -> list[tuple]:
    """Score deviations outside what the tasks' deviations allow; and those that only a rare accident gives.

    Rare: Holm's p over all Score deviations is at most LEVEL if a seed means nothing across tasks.
    """
    rows, chances = [], []

    def add(kind: str, cell: tuple, score: pd.Series, found: str, note: str) -> None:
        rows.append((f"deviation{kind}", *cell, score["column"], _shown(score, "std"), found, note))

    known = [item for item in score_cells(printed) if not (math.isnan(item[1]["std"]) or item[2]["std"].isna().any())]
    means = _means_of_deviations(known)
    for cell, score in means.items():
        add(" (a mean)", cell, score, "", "the mean of the tasks' deviations, not the deviation of a score")
    for cell, score, tasks in known:
        if cell in means:
            continue
        n, half, d = runs[cell[0]], score["std_half"], told_with([score["std_half"], *tasks["std_half"]])
        low, high = possible.deviation_of_mean(tasks["std"], tasks["std_half"])
        if not low - half - possible.NOISE <= score["std"] <= high + half + possible.NOISE:
            add("", cell, score, f"{low:.{d}f} to {high:.{d}f}", "what the tasks' deviations allow")
        elif n > 1:
            shrunk = np.maximum(0, tasks["std"] - tasks["std_half"])
            small, _ = possible.chance_of_deviation(score["std"] + half, shrunk, n)
            _, large = possible.chance_of_deviation(score["std"] - half, tasks["std"] + tasks["std_half"], n)
            chances.append((min(1, 2 * min(small, large)), cell, score, tasks, high))
    for p, (_, cell, score, tasks, high) in zip(holm(chance[0] for chance in chances), chances, strict=True):
        if p <= LEVEL:
            usual = math.sqrt((tasks["std"] ** 2).sum()) / len(tasks)
            d = told_with([score["std_half"], *tasks["std_half"]])
            note = f"at most {high:.{d}f}; Holm p = {p:.2g} if a seed's luck is not shared by the tasks"
            add(" (unlikely)", cell, score, f"about {usual:.{d}f}", note)
    return rows


def _means_of_deviations(found: list[tuple]) -> dict[tuple, pd.Series]:
    """Cells and scores of the tables' halves in which every Score deviation is the mean of its tasks' deviations: three
    rows or more, as one may be so by accident."""
    halves: defaultdict[tuple, list] = defaultdict(list)
    for cell, score, tasks in found:
        off = score["std_half"] + tasks["std_half"].mean() + possible.NOISE
        same = len(tasks) > 2 and abs(score["std"] - tasks["std"].mean()) <= off
        halves[cell[:2]].append((cell, score, same))
    whole = [rows for rows in halves.values() if len(rows) > 2 and all(same for *_, same in rows)]
    return {cell: score for rows in whole for cell, score, _ in rows}


def p_values(printed: pd.DataFrame, runs: Mapping[str, int]) -> list[tuple]:
    """p-values that no exact signed-rank test of n differences gives when it is rounded as printed."""
    rows = []
    for cell in printed[_is_p(printed, any_test=False)].to_dict("records"):
        n = runs[cell["table"]]
        place, shown = [cell[name] for name in ("table", "split", "row", "column")], _shown(cell)
        low, high = cell["mean"] - cell["mean_half"], cell["mean"] + cell["mean_half"]
        if not 0 <= cell["mean"] <= 1:
            rows.append(("p-value", *place, shown, "0 to 1", "no probability"))
        elif high < min_p_value(n):
            rows.append(("p-value", *place, shown, f"{min_p_value(n):.4f}", f"the smallest that {n} pairs can give"))
        elif n <= possible.LARGEST_UNTIED and not _between(possible.p_values(n), low, high).size:
            every = possible.p_values(n)
            nearest = every[np.argmin(np.abs(every - cell["mean"]))]
            told = f"the nearest of {n} untied pairs; {_otherwise(cell, n, nearest, low, high)}"
            rows.append(("p-value", *place, shown, f"{nearest:.4f}", told))
    return rows


def exact_p_values(printed: pd.DataFrame, runs: Mapping[str, int]) -> pd.DataFrame:
    """For every printed p the W and the exact p of untied pairs that it can be (P_VALUES), "none" where none is; both
    are empty above possible.LARGEST_UNTIED, where they are not looked for.

    power_80: the effect, in sd of the differences, that so many pairs find with a power of 0.8.
    """
    rows = []
    for cell in printed[_is_p(printed, any_test=False)].to_dict("records"):
        n = runs[cell["table"]]
        known = n <= possible.LARGEST_UNTIED
        every = possible.p_values(n) if known else np.empty(0)
        fits = np.flatnonzero(np.abs(every - cell["mean"]) <= cell["mean_half"] + possible.NOISE)
        w = ", ".join(map(str, fits)) or ("none" if known else "")
        exact = every[fits[0]] if len(fits) else math.nan
        place = [cell[name] for name in ("table", "split", "row", "column")]
        rows.append((*place, _shown(cell), n, w, exact, detectable_effect(n)))
    return pd.DataFrame(rows, columns=P_VALUES).astype({"p_exact": float, "power_80": float})


def _otherwise(cell: dict, n: int, nearest: float, low: float, high: float) -> str:
    """What else could have been printed as this p."""
    if n > possible.LARGEST:
        told = "zeros or ties may give it"
    else:
        tied = _between(possible.p_values_with_ties(n), low, high)
        values = ", ".join(f"{value:.4f}" for value in tied)
        told = f"only zeros or ties give it ({values})" if tied.size else "zeros and ties do not give it either"
    scale = 10 ** decimals(cell["mean_half"])
    cut = math.floor(nearest * scale) == round(cell["mean"] * scale)
    return f"{told}, or {nearest:.4f} was cut off, not rounded" if cut else told


def ranges(printed: pd.DataFrame, runs: Mapping[str, int]) -> pd.DataFrame:
    """Per cell and method: the paired p-values that mean and sd leave open, and Welch's (RANGES).

    p_low, p_high: exact signed-rank test (n up to possible.LARGEST, no ties); p_t_low, p_t_high: paired t-test;
    p_welch: unpaired, p_welch_holm: Holm over the methods of a column. says: whether the signed-rank p (above
    that n, the t-test's) is at most LEVEL. Rows with a deviation are compared with their table's reference.
    """
    rows = []
    for (table, split, column), cells in _measured(printed).groupby(["table", "split", "column"], sort=False):
        names = cells["row"].str.lower()
        reference = cells[names.isin(REFERENCES)].to_dict("records")
        others = cells[~names.isin((*REFERENCES, TEACHER)) & cells["std"].notna()].to_dict("records")
        if len(reference) != 1 or not others:
            continue
        tests = [_compared(cell, reference[0], runs[table]) for cell in others]
        corrected = iter(holm(test[5] for test in tests if not math.isnan(test[5])))
        for cell, test in zip(others, tests, strict=True):
            p_holm = math.nan if math.isnan(test[5]) else next(corrected)
            place = (table, split, column, cell["row"], reference[0]["row"], runs[table])
            rows.append((*place, *test[:6], p_holm, test[6]))
    return pd.DataFrame(rows, columns=RANGES)


def _measured(printed: pd.DataFrame) -> pd.DataFrame:
    """Cells with a deviation, and references without one: a number that others are compared with."""
    is_reference = printed["row"].str.lower().isin(REFERENCES)
    return printed[(printed["std"].notna() | is_reference) & ~_is_p(printed)]


def _compared(cell: dict, reference: dict, n: int) -> tuple:
    difference = cell["mean"] - reference["mean"]
    half = cell["mean_half"] + reference["mean_half"]
    known = not math.isnan(reference["std"])  # else it is one number, without a spread of its own
    other, other_half = (reference["std"], reference["std_half"]) if known else (0.0, 0.0)
    off = cell["std_half"] + other_half
    sd = max(0.0, abs(cell["std"] - other) - off), cell["std"] + other + off  # of the paired differences
    low, high = possible.signed_rank_range(difference, sd, n, half)
    t_low, t_high = possible.paired_t_range(difference, sd, n, half)
    least, most = (t_low, t_high) if math.isnan(low) else (low, high)
    says = ALWAYS if most <= LEVEL else PERHAPS if least <= LEVEL else NEVER
    welch = possible.welch(difference, cell["std"], other, n)
    return round(difference, 9), low, high, t_low, t_high, welch, says


def without_reference(printed: pd.DataFrame) -> list[str]:
    """Tables whose methods were not compared, or their columns in which they were not: there none of the rows is named
    as a reference is, or several are."""
    found: defaultdict[str, dict[str, bool]] = defaultdict(dict)
    for (table, split, column), cells in _measured(printed).groupby(["table", "split", "column"], sort=False):
        names = cells["row"].str.lower()
        if (names.ne(TEACHER) & cells["std"].notna()).any():
            found[table][" ".join(filter(None, [split, column]))] = names.isin(REFERENCES).sum() == 1
    lacking = {table: [name for name, one in columns.items() if not one] for table, columns in found.items()}
    return [
        table if len(names) == len(found[table]) else f"{table} ({', '.join(names)})"
        for table, names in lacking.items()
        if names
    ]


def score_cells(printed: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.Series, pd.DataFrame]]:
    """(table, split, row), the Score cell and the cells of its tasks, for every row of scores that has them."""
    for cell, row in printed[~_is_p(printed)].groupby(["table", "split", "row"], sort=False):
        is_score = row["column"].str.lower().isin(SCORE)
        if is_score.sum() == 1 and len(row) > 2:
            yield cell, row[is_score].iloc[0], row[~is_score]


def told_with(halves: Iterable[float]) -> int:
    """Decimals that what follows from numbers printed to within `halves` is told with: fractions of 1 need more."""
    return max([2, *map(decimals, halves)])


def _is_p(printed: pd.DataFrame, any_test: bool = True) -> pd.Series:
    """Rows of p-values; those of the signed-rank test where not `any_test`."""
    found = printed["row"].str.contains(VERSUS) & printed["std"].isna()
    if any_test:
        return found
    named = printed[["table", "row", "column"]].agg(" ".join, axis=1)
    return found & ~named.str.contains(OTHER_TEST)


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return values[(values >= low - possible.NOISE) & (values <= high + possible.NOISE)]


def _shown(cell: Mapping, name: str = "mean") -> str:
    return f"{cell[name]:.{decimals(cell[f'{name}_half'])}f}"
