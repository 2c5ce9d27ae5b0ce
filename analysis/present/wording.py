"""Sentences of the page: the verdict of a family, the methods section of a paper."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import pandas as pd

from analysis.design import NOT_LEARNT, level_of_a_look
from analysis.hypothesis import least_seeds
from analysis.pairing import Paired
from analysis.present.tables import IN_POINTS, not_learnt_line, p_text

WORDS = ("better", "worse", "equivalent", "undecided", NOT_LEARNT)
GLYPHS = {"better": "▲", "worse": "▼", "equivalent": "=", "undecided": "?", NOT_LEARNT: "∅"}
LIBRARIES = ("numpy", "scipy", "pandas", "matplotlib")
STEPS_OF_THE_VERDICT = (
    "A method is called better or worse where the Holm-corrected p of the difference is at most the level, by the "
    "sign of the estimate (negligible where equivalence is shown too); else equivalent where the Holm-corrected p "
    "of equivalence is at most the level; else undecided."
)


@dataclass(frozen=True)
class Design:
    """How the runs were compared, and where they came from; `given` are the parameters of the command."""

    source: str
    margin: float = 0.5
    level: float = 0.05
    zeros: str = "wilcox"
    looks: tuple[int, ...] = ()
    given: tuple[tuple[str, str], ...] = ()


def family_name(row: dict) -> str:
    """Task, model, start and what else sets its family apart, of a row of `judge`, as a heading."""
    return " · ".join(filter(None, [row["task"], row["model"], row["init"], row["protocol"]]))


def label(row: dict) -> str:
    """A method with its setting where it has one."""
    return f"{row['method']} [{row['setting']}]" if row["setting"] else row["method"]


def unit(metric: str) -> str:
    """What a difference of this metric is counted in."""
    name = metric.rpartition("/")[2]
    return "points" if name in IN_POINTS else name


def sentence(members: Sequence[dict]) -> str:
    """The verdict on one family, rows of `judge`, in one sentence."""
    first = members[0]
    of = unit(first["metric"])
    margin = f"±{first['margin']:g} {of}"
    by_word = defaultdict(list)
    for row in members:
        told = f"{row['mean_difference']:+.2f}" if row["n"] else "no pair"
        by_word[row["verdict"], row["negligible"]].append(f"{label(row)} ({told})")
    said = []
    for word, negligible in [(w, n) for w in WORDS for n in (False, True) if (w, n) in by_word]:
        names = by_word[word, negligible]
        verb = "is" if len(names) == 1 else "are"
        if word == "undecided":
            said.append(f"{_join(names)} {verb} undecided")
        elif word == NOT_LEARNT:
            said.append(f"no run of {_join(names)} or of {first['reference']} has learnt")
        elif word == "equivalent":
            said.append(f"{_join(names)} {verb} equivalent to {first['reference']} within {margin}")
        else:
            by = f", by less than the margin of {margin}" if negligible else ""
            said.append(f"{_join(names)} {verb} {word} than {first['reference']}{by}")
    lost = [not_learnt_line(row) for row in members if row["verdict"] != NOT_LEARNT]
    said += dict.fromkeys(filter(None, lost))
    turned = ", sign turned because lower is better" if first["negated"] else ""
    seeds = _range([row["n"] for row in members], "seed")
    return f"{'; '.join(said)} (mean differences in {of} over {seeds}{turned})."


def headlines(judged: pd.DataFrame) -> list[str]:
    """How often each verdict fell, for each start of the models."""
    lines = []
    for init, part in judged.groupby("init", sort=False):
        counts = part["verdict"].value_counts()
        told = ", ".join(f"{counts[word]} {word}" for word in WORDS if word in counts)
        families = part.groupby(["task", "model", "metric", "protocol"], sort=False).ngroups
        where = f"{init}: " if init else ""
        comparisons = _count(len(part), "comparison")
        lines.append(f"{where}{comparisons} in {_count(families, 'family', 'families')}: {told}.")
    return lines


def interaction_headline(table: pd.DataFrame, level: float) -> list[str]:
    """The paper's question in one sentence, from across.interaction; none where it cannot be asked."""
    if table.empty:
        return []
    decided = table["p_holm"] <= level
    larger, smaller = (decided & (table["estimate"] > 0)).sum(), (decided & (table["estimate"] < 0)).sum()
    return [
        f"random against pretrained: the effect is larger from scratch in {larger} of "
        f"{_count(len(table), 'comparison')}, smaller in {smaller}, "
        f"not shown to differ in {len(table) - larger - smaller}."
    ]


def left_out_lines(left: pd.DataFrame) -> tuple[str, ...]:
    """How many runs are left out and why, of frames with a column `reason`; reasons that differ in numbers are one."""
    kinds = left["reason"].str.replace(r"\b[0-9a-f]{32}\b|\d[\d.,]*", "#", regex=True)
    lines = []
    for _, found in left.groupby(kinds, sort=False):
        first = found["reason"].iloc[0]
        told = first if found["reason"].nunique() == 1 else f"{first} (the first of them)"
        verb = "is" if len(found) == 1 else "are"
        lines.append(f"{_count(len(found), 'run')} {verb} left out here: {told}.")
    return tuple(lines)


def methods_section(paired: Paired, judged: pd.DataFrame, runs: pd.DataFrame, design: Design) -> list[str]:
    """Paragraphs for the methods section of a paper: what was compared, tested, corrected, with what."""
    rows = judged.to_dict("records")
    names = _join(sorted({row["method"] for row in rows}, key=[row["method"] for row in rows].index))
    cells = list(dict.fromkeys(family_name(row) for row in rows))
    metrics = _join(sorted({row["metric"] for row in rows}))
    lower = sorted({row["metric"] for row in rows if row["negated"]})
    turned = _join(lower) if lower else ""
    seeds = {seed for row in rows for seed in row["seeds"]}
    share = level_of_a_look(design.level, design.looks)
    sizes = sorted({len(row["family"]) for row in rows})
    mine = used(paired, runs)
    compared = (
        f"We compared {names} with {paired.reference} in {_count(len(cells), 'cell')} of task, model and "
        f"initialisation: {_join(cells)}. Runs were paired by seed: both runs of a "
        "pair share the seed (initialisation of the head, order of examples, dropout), the split, the number of "
        f"epochs and the data. Each comparison has {_range([row['n'] for row in rows], 'pair')} "
        f"(seeds {', '.join(map(str, in_order(list(seeds))))}). The metric is {metrics}"
        + (" in percent" if all(unit(row["metric"]) == "points" for row in rows) else "")
        + (f"; of {turned} lower is better, so that the sign of its differences was turned." if turned else ".")
    )
    tested = (
        "Paired differences were tested with the exact two-sided Wilcoxon signed-rank test, whose null distribution "
        f"was enumerated with ties; zero differences were {_ZEROS[design.zeros]}. p-values were corrected by Holm's "
        "method within each family (all methods and settings compared with the reference in one cell; "
        f"{_range(sizes, 'method')} per family), at level {design.level:g}. The estimate is Hodges and Lehmann's, with "
        f"its exact confidence interval. Equivalence within ±{design.margin:g} was tested by two one-sided exact "
        f"signed-rank tests, corrected likewise. {STEPS_OF_THE_VERDICT} With the largest family better or worse takes "
        f"at least {least_seeds(max(sizes), share)} seeds; the smallest p that the pairs at hand can give is "
        f"{_p_range([row['min_p_value'] for row in rows])}. Inference is over seeds, for one test set and one setting."
    )
    if design.looks:
        tested += (
            f" The data were looked at after {_join(list(map(str, design.looks)))} seeds as planned, each time at "
            f"level {design.level:g}/{len(design.looks)}."
        )
    if any(row["verdict"] == NOT_LEARNT for row in rows):
        tested += (
            " Where every run of both sides gives all examples one class, nothing was learnt and there is no verdict."
        )
    left = "No run was left out."
    if len(paired.left_out):
        reasons = paired.left_out["reason"].str.partition(":")[0].value_counts()
        told = ", ".join(f"{reason} ({number})" for reason, number in reasons.items())
        left = f"{_count(len(paired.left_out), 'run')} had no part in any comparison: {told}."
    return [compared, tested, left, *_software(mine)]


_ZEROS = {"wilcox": "dropped before ranking", "pratt": "ranked and then dropped (Pratt)"}


def _software(mine: pd.DataFrame) -> list[str]:
    """Versions that trained and that compared; the digests of the data."""
    trained = []
    for column in sorted(name for name in mine.columns if name.startswith("tags.labelreg.version.")):
        found = distinct(mine, column)
        if found:
            trained.append(f"{column.rpartition('.')[2]} {' and '.join(found)}")
    python = distinct(mine, "tags.labelreg.python")
    trained = ([f"Python {' and '.join(python)}"] if python else []) + trained
    lines = [
        (f"Runs were trained with {', '.join(trained)}. " if trained else "")
        + f"The statistics were computed with {', '.join(f'{name} {_version(name)}' for name in LIBRARIES)}."
    ]
    if "tags.labelreg.data" in mine and "params.task" in mine:
        digests = mine.dropna(subset=["tags.labelreg.data"]).groupby("params.task", sort=True)["tags.labelreg.data"]
        told = [f"{task} {_some(list(dict.fromkeys(found)))}" for task, found in digests]
        if told:
            lines.append(
                f"Data (first 32 hex digits of the sha256 over all examples of all splits): {'; '.join(told)}."
            )
    return lines


def used(paired: Paired, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of `runs` that are in a comparison."""
    ids = {run_id for c in paired.comparisons for run_id in (*c.run_ids, *c.reference_run_ids)}
    return runs[runs["run_id"].isin(ids)] if "run_id" in runs else runs.iloc[:0]


def distinct(frame: pd.DataFrame, column: str) -> list:
    """The values of a column, in the order in which they come; none where there is no such column."""
    return list(dict.fromkeys(frame[column].dropna())) if column in frame else []


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def in_order(values: list) -> list:
    """Each value once; numbers by size."""
    try:
        return sorted({int(value) for value in values})
    except (ValueError, TypeError):
        return sorted(set(map(str, values)))


def _some(values: list, most: int = 3) -> str:
    more = f" and {len(values) - most} more (one per seed or setting)" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more


def _p_range(values: list[float]) -> str:
    low, high = p_text(min(values)), p_text(max(values))
    return low if low == high else f"{low} to {high}"


def _range(values: list[int], noun: str) -> str:
    low, high = min(values), max(values)
    return _count(low, noun) if low == high else f"{low} to {high} {noun}s"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
