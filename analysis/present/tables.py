"""Tables and sentences for people: scores, comparisons with their verdicts, as text and Markdown."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis import direction
from analysis.design import NOT_LEARNT, OPEN, Decision, at_looks, check_looks, where_learnt
from analysis.hypothesis import holm, sign_flip, t_test, verdicts
from analysis.pairing import Comparison, Paired, method_rank

COLUMNS = [
    *("task", "model", "init", "method", "setting", "reference", "metric", "n"),
    *("mean_method", "mean_reference", "mean_difference", "std_difference"),
    *("estimate", "low", "high", "level", "p_value", "p_holm", "min_p_value", "rank_biserial"),
    *("p_equivalence", "p_equivalence_holm", "margin", "verdict", "negligible", "decidable", "seeds_needed"),
]
BESIDE = ["p_holm_study", "p_sign_flip", "p_t", "look"]  # in significance.csv after COLUMNS
BESIDE += ["not_learnt", "not_learnt_reference"]
EXTRA = ["negated", "n_nonzero", "family", "protocol", "reason", "seeds", "scores", "differences"]
IN_POINTS = ("score", "accuracy", "f1", "matthews")
LARGE_MARGIN = 0.05  # of the scores
TESTED = (
    "Tested is the symmetry of the paired differences about 0, over seeds, for one test set and one setting "
    "(exact Wilcoxon signed-rank test, Holm within the family)."
)


def compare(paired: Paired, margin: float = 0.5, level: float = 0.05, zeros: str = "wilcox") -> pd.DataFrame:
    """One row per comparison with the columns of significance.csv (COLUMNS); see `judge`."""
    return judge(paired, margin, level, zeros)[COLUMNS]


def judge(
    paired: Paired,
    margin: float = 0.5,
    level: float = 0.05,
    zeros: str = "wilcox",
    looks: Sequence[int] = (),
    order: Sequence | Mapping = (),
) -> pd.DataFrame:
    """One row per comparison: COLUMNS, BESIDE, and EXTRA with the family of Holm's correction (its methods, and
    the protocol that sets it apart) and the reason.

    Differences, estimate, interval and margin are in units of the metric (points); `level` is the interval's.
    std_difference of one seed is missing; seeds_needed is the total for the undecided, else missing;
    min_p_value is that of the non-zero differences. p_holm_study is Holm over all rows; p_t is missing where it
    is not defined. not_learnt, not_learnt_reference: how many of the n runs of each side are known to give every
    example one class; where all do, the verdict is "not learnt". With planned `looks` each row is about the seeds of
    its `look`, taken in `order` (of all seeds, or a mapping from (task, model, init) to it; default: rising).
    Raises AnalysisError for a margin, level, zeros or looks that are not allowed.
    """
    families = defaultdict(list)
    for c in paired.comparisons:
        families[c.task, c.model, c.init, c.metric, c.family].append(c)
    rows = []
    for key, members in families.items():
        if looks:
            seeds = order[key[:3]] if isinstance(order, Mapping) else order
            members, found = _judge_at_looks(paired, members, (margin, level, looks, zeros), seeds)
        else:
            none = {i for i, c in enumerate(members) if c.seeds and len(neither(paired, c)) == len(c.seeds)}
            told = verdicts({i: c.differences for i, c in enumerate(members)}, margin, level, zeros)
            told = where_learnt(told, none)
            found = {i: Decision(verdict, None) for i, verdict in told.items()}
        family = tuple(_label(c) for c in members)
        rows += [_row(c, found[i], margin, family, paired.not_learnt) for i, c in enumerate(members)]
    if not rows:
        verdicts({}, margin, level, zeros)  # a mistake is one, with nothing to compare too
        check_looks(looks, 1, level)
    frame = pd.DataFrame(rows, columns=COLUMNS + BESIDE + EXTRA)
    frame["p_holm_study"] = holm(frame["p_value"])
    numbers = ("mean_method", "mean_reference", "mean_difference", "std_difference", "p_t")  # None: no pair, no spread
    return frame.astype(dict.fromkeys(numbers, float) | {"seeds_needed": "Int64", "look": "Int64"})


def _judge_at_looks(
    paired: Paired, members: list[Comparison], rule: tuple[float, float, Sequence[int], str], order: Sequence
) -> tuple[list[Comparison], dict[int, Decision]]:
    """The members of a family cut to the seeds of their look, and their decisions.

    A look waits for the runs of its seeds that are not through, whichever member's they are, and never takes later
    seeds in their place.
    """
    place = (members[0].task, members[0].model, members[0].init, members[0].family)
    lost: defaultdict[str, set] = defaultdict(set)  # by method, seeds that were run without giving a pair
    running: defaultdict[str, set] = defaultdict(set)
    for run in paired.left_out.itertuples():
        if (run.task, run.model, run.init, run.family) == place and not pd.isna(run.seed):
            (running if run.reason == "running" else lost)[run.method].add(run.seed)
    paired_seeds = set().union(*(c.seeds for c in members))  # of these the reference is through
    pending = (running[members[0].reference] - paired_seeds).union(*(running[c.method] - set(c.seeds) for c in members))
    own = [{*c.seeds, *lost[c.method]} for c in members]
    tried = pending.union(*own)
    seeds = [seed for seed in order if seed in tried]
    seeds += sorted(tried - set(seeds), key=lambda seed: (isinstance(seed, str), seed))
    waits = [seed for seed in seeds if seed in pending]
    end = seeds.index(waits[0]) if waits else len(seeds)

    def sample(c: Comparison, mine: set) -> list:
        given = dict(zip(c.seeds, c.differences, strict=True))
        last = max(i for i, seed in enumerate(seeds) if seed in mine)
        return [given.get(seed) for seed in seeds[: min(last + 1, end)]]

    samples = {i: sample(c, mine) for i, (c, mine) in enumerate(zip(members, own, strict=True))}
    none = {i: {seeds.index(seed) for seed in neither(paired, c)} for i, c in enumerate(members)}
    found = at_looks(samples, *rule, not_learnt=none)
    cut = [_first(c, seeds[: found[i].look or len(samples[i])]) for i, c in enumerate(members)]
    return cut, {i: _waiting(d, waits, members[i]) for i, d in found.items()}


def _waiting(decision: Decision, pending: list, c: Comparison) -> Decision:
    """The decision on `c`, with the seed that the next look waits for in its reason."""
    verdict = decision.verdict
    if not pending or verdict.word not in OPEN:
        return decision
    behind = len(c.seeds) - verdict.test.n
    reason = f"{verdict.reason}; seed {pending[0]} still runs{f', pairs behind it: {behind}' if behind else ''}"
    return replace(decision, verdict=replace(verdict, reason=reason))


def neither(paired: Paired, c: Comparison) -> list:
    """The seeds of a comparison with which neither side learnt."""
    pairs = zip(c.seeds, c.run_ids, c.reference_run_ids, strict=True)
    return [seed for seed, *ids in pairs if paired.not_learnt.issuperset(ids)]


def _first(c: Comparison, seeds: list) -> Comparison:
    """The comparison over these seeds alone."""
    kept = [i for i, seed in enumerate(c.seeds) if seed in seeds]
    names = ("seeds", "scores", "reference_scores", "differences", "run_ids", "reference_run_ids")
    cut: dict[str, Any] = {name: tuple(getattr(c, name)[i] for i in kept) for name in names}
    return replace(c, **cut)


def _label(c: Comparison) -> str:
    setting = c.setting.removeprefix(c.family).removeprefix("; ")  # all members share the family's name
    return f"{c.method} [{setting}]" if setting else c.method


def _row(
    c: Comparison, decision: Decision, margin: float, family: tuple[str, ...], not_learnt: frozenset[str]
) -> tuple:
    d, verdict = np.array(c.differences), decision.verdict
    test = verdict.test
    values = {
        **{name: getattr(c, name) for name in (*COLUMNS[:7], "negated")},
        "mean_method": float(np.mean(c.scores)) if len(d) else None,
        "mean_reference": float(np.mean(c.reference_scores)) if len(d) else None,
        "mean_difference": float(np.round(d.mean(), 9)) + 0.0 if len(d) else None,
        "std_difference": float(np.round(d.std(ddof=1), 9)) if len(d) > 1 else None,
        **{name: getattr(test, name) for name in ("n", "n_nonzero", "estimate", "low", "high", "level")},
        **{name: getattr(test, name) for name in ("p_value", "min_p_value", "rank_biserial")},
        **{name: getattr(verdict, name) for name in ("p_holm", "p_equivalence", "p_equivalence_holm")},
        **{name: getattr(verdict, name) for name in ("negligible", "decidable", "seeds_needed", "reason")},
        "margin": margin,
        "verdict": verdict.word,
        "family": family,
        "protocol": c.family,
        "p_holm_study": None,
        "p_sign_flip": sign_flip(d),
        "p_t": t_test(d),
        "look": decision.look,
        "seeds": c.seeds,
        "scores": c.scores,
        "differences": c.differences,
        "not_learnt": sum(run_id in not_learnt for run_id in c.run_ids),
        "not_learnt_reference": sum(run_id in not_learnt for run_id in c.reference_run_ids),
    }
    lost = "" if verdict.word == NOT_LEARNT else not_learnt_line(values)
    values["reason"] = "; ".join(filter(None, [verdict.reason, lost]))
    return tuple(values[name] for name in COLUMNS + BESIDE + EXTRA)


def not_learnt_line(row: Mapping) -> str:
    """As in "1 of 7 seeds of finetune not learnt", of a row of `judge`; empty where no run is known to have failed."""
    sides = ((row["method"], row["not_learnt"]), (row["reference"], row["not_learnt_reference"]))
    told = [f"{count} of {row['n']} seeds of {name}" for name, count in sides if count]
    return f"{' and '.join(told)} not learnt (every example gets one class)" if told else ""


def not_learnt_cells(paired: Paired) -> list[str]:
    """A sentence that names the comparisons in which no run has learnt, for what is computed over them all the same."""
    found = defaultdict(list)
    for c in paired.comparisons:
        if c.seeds and len(neither(paired, c)) == len(c.seeds):
            found[c.task, c.model, c.init].append(_label(c))
    told = [f"{', '.join(names)} ({', '.join(filter(None, place))})" for place, names in found.items()]
    return [f"no run has learnt in these comparisons, which count here all the same: {'; '.join(told)}"] if told else []


def scores(paired: Paired) -> pd.DataFrame:
    """Mean, standard deviation (ddof 1; missing for one run) and number of usable runs, paired or not; how many of them
    are known to give every example one class (not_learnt).

    One row per task, model, init and method (finetune, ls, tfreg, selfkd, kd, akd, then others), and per
    `setting` where a method has several.
    """
    keys = ["task", "model", "init", "method", "setting", "metric"]
    if paired.runs.empty:
        return pd.DataFrame(columns=[*keys, "mean", "std", "n", "not_learnt"])
    runs = paired.runs.assign(one_class=paired.runs["run_id"].isin(paired.not_learnt))
    grouped = runs.groupby(keys, sort=False)
    table = grouped["score"].agg(mean="mean", std="std", n="count")
    table = table.assign(not_learnt=grouped["one_class"].sum()).reset_index()
    table["rank"] = [method_rank(method)[0] for method in table["method"]]
    order = ["task", "model", "init", "rank", "method", "setting"]
    return table.sort_values(order, kind="stable").drop(columns="rank").reset_index(drop=True)


def remarks(judged: pd.DataFrame) -> list[str]:
    """What to know of the metrics: which way they count, where it is not the usual one, and their unit."""
    return direction.lines(zip(judged["metric"], judged["negated"], strict=True)) + unit_lines(judged)


def unit_lines(judged: pd.DataFrame) -> list[str]:
    """A warning for each metric whose scores are small beside a margin that is meant for points of 100."""
    found: dict[tuple, dict[str, list]] = {}
    for (metric, margin, negated, task), rows in judged.groupby(["metric", "margin", "negated", "task"], sort=False):
        where, _, name = metric.rpartition("/")
        values = [value for value in [*rows["scores"].explode(), *rows["mean_reference"]] if not pd.isna(value)]
        in_percent = where and name in IN_POINTS  # logged by this project
        if not in_percent and values and margin >= LARGE_MARGIN * max(map(abs, values)) > 0:
            found.setdefault((metric, margin, negated), {})[task] = values
    lines = []
    for (metric, margin, negated), tasks in found.items():
        values = [value for some in tasks.values() for value in some]
        shares = not negated and min(values) >= 0 and max(values) <= 1
        said = "look like fractions of 1" if shares else f"are between {min(values):g} and {max(values):g}"
        lines.append(
            f"scores {said} ({', '.join(filter(None, [*tasks, metric]))}): margin={margin:g} is in the "
            f"metric's own unit" + (f"; give margin={margin / 100:g} where {margin:g} points of 100 are meant" * shares)
        )
    return lines


def verdict_lines(judged: pd.DataFrame) -> list[str]:
    """One plain sentence per comparison of `judge`: the verdict, its figures, its reason."""
    return [_line(row) for row in judged.to_dict("records")]


def _line(row: dict) -> str:
    where = ", ".join(filter(None, [row["task"], row["model"], row["init"], row["metric"]]))
    name = f"{row['method']} [{row['setting']}]" if row["setting"] else row["method"]
    word = f"{row['verdict']} (negligible)" if row["negligible"] else row["verdict"]
    if not row["n"]:
        return f"{name} vs {row['reference']} ({where}): {word}; {row['reason']}"
    n, spread = row["n"], row["std_difference"]
    seeds = "1 seed" if n == 1 else f"{n} seeds"
    sd = "" if spread is None or math.isnan(spread) else f" (sd {spread:.2f})"
    turned = ", lower is better and the sign is turned," if row["negated"] else ""
    zeros = n - row["n_nonzero"]
    given = f"{seeds} with {zeros} zero difference{'s' if zeros > 1 else ''}" if zeros else seeds
    if row["p_value"] == row["min_p_value"]:
        floor = f" (the smallest that {given} can give)"
    else:
        floor = f" (smallest that {given} can give: {p_text(row['min_p_value'])})"
    holm = f"over {', '.join(row['family'])}" if len(row["family"]) > 1 else "(alone in its family)"
    mean, p, p_holm = row["mean_difference"], p_text(row["p_value"]), p_text(row["p_holm"])
    return (
        f"{name} vs {row['reference']} ({where}): {word}; mean difference {mean:+.2f}{sd}{turned} "
        f"over n = {seeds}, p = {p}{floor}, Holm p = {p_holm} {holm}; {row['reason']}"
    )


def p_text(p: float) -> str:
    """A p-value for people: 0.31, 0.0078, 1.9e-06."""
    return f"{p:.2f}" if p >= 0.1 else f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"


def to_text(frame: pd.DataFrame) -> str:
    """The frame as aligned plain text: words to the left, numbers to the right, a missing value as "-"."""
    header, rows, numeric = cells(frame)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        columns = zip(cells, widths, numeric, strict=True)
        return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in columns).rstrip()

    return "\n".join(line(cells) for cells in [header, ["-" * w for w in widths], *rows])


def to_markdown(frame: pd.DataFrame) -> str:
    """The frame as a Markdown table, cells as in `to_text`."""
    header, rows, numeric = cells(frame)
    rule = ["---:" if right else "---" for right in numeric]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, rule, *rows]]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def cells(frame: pd.DataFrame) -> tuple[list[str], list[list[str]], list[bool]]:
    """Header, rows as text, and which columns are numbers."""
    numeric = [pd.api.types.is_numeric_dtype(t) and not pd.api.types.is_bool_dtype(t) for t in frame.dtypes]
    columns = [[_cell(str(name), value) for value in frame[name]] for name in frame.columns]
    return [str(name) for name in frame.columns], [list(row) for row in zip(*columns, strict=True)], numeric


def _cell(name: str, value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    if pd.isna(value):
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        if name.startswith(("p_", "min_p_")):
            return p_text(value)
        if name.split("_")[0] in ("nll", "ece", "brier"):
            return f"{value:.4f}"
        return f"{value:.3f}" if name == "level" else f"{value:.2f}"
    return str(value)


# CSV files


FORMULA = re.compile(r"'*[=+\-@\t\r]")  # what a spreadsheet takes for the beginning of one
PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|-?inf")


def to_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV. A name that a spreadsheet would compute has an apostrophe before it (`plain_text` reads it)."""
    words = frame.select_dtypes(exclude=["number", "bool"])
    return frame.assign(**{name: words[name].map(_no_formula) for name in words}).to_csv(index=False)


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) and not PLAIN.fullmatch(value) else value


def plain_text(cell: str) -> str:
    """A cell without the apostrophe of `to_csv`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
