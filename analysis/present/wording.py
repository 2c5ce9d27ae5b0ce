"""Sentences: the verdict of a family, why a verdict fell, what would decide, the methods section of a paper."""

import math
import textwrap
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import chain

import numpy as np
import pandas as pd

from analysis.calibration import TESTED
from analysis.hypothesis import FEW, RANK_SUM, decimals, interval, n_seeds
from analysis.interim import NOT_LEARNT
from analysis.judge import Rule, neither
from analysis.margins import IN_POINTS, fractions, too_large
from analysis.over_tasks import units_differ
from analysis.pairing import DEV, WHO, Paired, method_rank
from analysis.power import MOST, SURE
from analysis.present.render import filled, join, number, p_text, signed
from analysis.students import seed_name

GLYPHS = {"better": "▲", "worse": "▼", "equivalent": "=", "undecided": "?", NOT_LEARNT: "∅"}
LIBRARIES = ("numpy", "scipy", "pandas", "statsmodels", "matplotlib")
NEVER = 3  # classes that a line names
WIDER = 3  # times: of five seeds each, the sd of one side is as much above the other's by chance in one of twenty
TWICE = (  # measured: 9 to 11% at 0.05, of who adds once as many seeds as the lines below say
    "more seeds are judged alone, or at planned looks (looks=10,14,20): who adds them to these and tests again finds a "
    "difference that is none twice as often as the level says"
)


def family_name(row: Mapping) -> str:
    """Task, model, start and what else sets its family apart, of a row of `judge`, as a heading."""
    return " · ".join(filter(None, [row["task"], row["model"], row["init"], row["protocol"]]))


def families(judged: pd.DataFrame) -> list[list[dict]]:
    """The rows of `judge` that are tested together."""
    found = defaultdict(list)
    for row in judged.to_dict("records"):
        found[row["task"], row["model"], row["init"], row["metric"], row["protocol"]].append(row)
    return list(found.values())


def label(row: Mapping) -> str:
    return f"{row['method']} [{row['setting']}]" if row["setting"] else row["method"]


def own_label(row: Mapping) -> str:
    """The label under its family's heading, which has what the family shares."""
    return label({**row, "setting": row["setting"].removeprefix(row["protocol"]).removeprefix("; ")})


def verdict(row: Mapping) -> str:
    return f"{row['verdict']} (negligible)" if row["negligible"] else row["verdict"]


def unit(metric: str, rows: Iterable[Mapping] = ()) -> str:
    """What a difference of this metric is counted in; `rows` of `judge` tell fractions of 1 from points of 100."""
    name = metric.rpartition("/")[2]
    scores = [score for row in rows for score in row["scores"]]
    return "points" if name in IN_POINTS and not (scores and fractions(metric, scores)) else name


def said_difference(row: Mapping) -> str:
    """The mean difference; where a seed of either side has not learnt, or the mean contradicts the verdict, the median,
    which few such seeds hardly move."""
    if not row["n"]:
        return "no pair"
    lost = row["not_learnt"] or row["not_learnt_reference"] or _contradicts(row)
    value = float(np.median(row["differences"])) if lost else row["mean_difference"]
    return f"{'median ' if lost else ''}{signed(value, row['margin'])}"


def _contradicts(row: Mapping) -> bool:
    """Whether the mean says another thing than the verdict, which is of ranks: a few seeds far off do that."""
    mean, small = row["mean_difference"], row["verdict"] == "equivalent" or row["negligible"]
    return small and abs(mean) > row["margin"] or row["verdict"] in ("better", "worse") and mean * row["estimate"] < 0


def _spreads(row: Mapping) -> str:
    """That a difference called by ranks of few scores may be one of spread alone (docs/statistics.md has how often)."""
    if row["verdict"] not in ("better", "worse") or row["test"] != RANK_SUM:
        return ""
    mine, sign = np.array(row["scores"]), -1 if row["negated"] else 1
    spreads = mine.std(ddof=1), (mine - sign * np.array(row["differences"])).std(ddof=1)
    if max(spreads) <= WIDER * min(spreads):
        return ""
    told = join([number(each, decimals(row["margin"])) for each in spreads])
    return f"the spreads differ (sd {told}), which ranks of {row['n']} scores may call a difference too"


def sentence(members: Sequence[Mapping]) -> str:
    """The verdict on one family, rows of `judge`, in one sentence."""
    first = members[0]
    of = unit(first["metric"], members)
    margin = f"±{first['margin']:g} {of}"
    by_word = defaultdict(list)
    for row in members:
        by_word[row["verdict"], row["negligible"]].append(f"{own_label(row)} ({said_difference(row)})")
    said = []
    for word, negligible in [(w, n) for w in GLYPHS for n in (False, True) if (w, n) in by_word]:
        names = by_word[word, negligible]
        verb = "is" if len(names) == 1 else "are"
        if word == "undecided":
            said.append(f"{join(names)} {verb} undecided")
        elif word == NOT_LEARNT:
            said.append(f"no run of {join(names)} or of {first['reference']} has learnt: no verdict")
        elif word == "equivalent":
            said.append(f"{join(names)} {verb} equivalent to {first['reference']} within {margin}")
        else:
            by = f", by less than the margin of {margin}" if negligible else ""
            said.append(f"{join(names)} {verb} {word} than {first['reference']}{by}")
    said += filter(None, [lost_line([row for row in members if row["verdict"] != NOT_LEARNT])])
    turned = ", sign turned because lower is better" if first["negated"] else ""
    means = "means" if any(margin in each for each in said) else f"means in {of}"
    return f"{'; '.join(said)} ({means} over {_range([row['n'] for row in members], 'seed')}{turned})."


def lost_line(members: Sequence[Mapping]) -> str:
    """Seeds that ended in an error, with the test that counts them as losses, and seeds that have not learnt: of rows
    of one family, its reference once and last."""
    parts = []
    if told := _seeds(members, "failed"):
        alone = len(members) == 1
        as_losses = [
            f"{'' if alone else own_label(row) + ' '}{_side(row['estimate_failures'])}p = {p_text(row['p_failures'])}"
            for row in members
            if not pd.isna(row["p_failures"])
        ]
        parts.append(f"{told} failed" + (f" (as losses, uncorrected: {', '.join(as_losses)})" if as_losses else ""))
    if told := _seeds(members, "not_learnt"):
        parts.append(f"{told} not learnt (every example gets one class)")
    return "; ".join(parts)


def _side(estimate: float) -> str:
    return "higher, " if estimate > 0 else "lower, " if estimate < 0 else ""


def _seeds(members: Sequence[Mapping], lost: str) -> str:
    """How many seeds of whom are `lost`, the column of a method's; "" if none. Those that failed are none of `n`."""

    def of(row: Mapping, side: str, name: str) -> tuple[int, int, str]:
        count = row[f"{lost}{side}"]
        return count, row["n"] + count * (lost == "failed"), name

    methods = [of(row, "", own_label(row)) for row in members]
    reference = max((of(row, "_reference", row["reference"]) for row in members), default=(0, 0, ""))
    told = [f"{count} of {seeds} seeds of {name}" for count, seeds, name in (*methods, reference) if count]
    return join(told) if told else ""


def clauses(row: Mapping) -> list[str]:
    """What a reader of the verdict must know of it, beside the numbers: of whom it speaks, and what limits it."""
    found = [row.get("tuned") or ""] + ([lost_line([row])] if row["verdict"] != NOT_LEARNT else [])
    if _contradicts(row):
        mean, middle = (signed(row[name], row["margin"]) for name in ("mean_difference", "estimate"))
        found.append(f"the mean {mean} contradicts the verdict, Hodges-Lehmann is {middle}: collapsed seeds?")
    found.append(_spreads(row))
    if row["margin_why"]:
        found.append(f"margin {row['margin']:g} is {row['margin_why']}")
    if row["metric"] == DEV:
        last = row.get("verdict_last")
        beside = f"; last epoch: {last} ({signed(row['mean_last'], row['margin'])})" if isinstance(last, str) else ""
        found.append(f"the maximum over epochs on the dev examples that chose the epoch{beside}")
    if not pd.isna(row.get("new_low", math.nan)):
        new = interval(row["new_low"], row["new_high"], row["margin"])
        found.append(f"tested on {row['examples']:,}; for new examples {new} {_for_new(row)}")
    if row["teachers"]:
        ids = row["teachers"].split(", ")
        named = [each if " " in each else each[:8] for each in ids[0].split(",")]  # one of the user's own, or a run
        these = "this one teacher" if len(named) == 1 else f"these {len(named)} teachers together"
        found.append(f"for {these} ({', '.join(named)})" if len(ids) == 1 else f"{len(ids)} teachers")
        found.append(_weak_teacher(row))
    if not pd.isna(row["mean_corrected"]):
        corrected = signed(row["mean_corrected"], row["margin"])
        found.append(f"stopped at a look: without what stopping adds, {corrected}")
    return [clause for clause in found if clause]


def _for_new(row: Mapping) -> str:
    """What the interval for new examples says of the verdict: whether it would hold there, too."""
    low, high, margin = row["new_low"], row["new_high"], row["margin"]
    if row["verdict"] == "equivalent":
        return f"{'' if -margin <= low and high <= margin else 'not '}within ±{margin:g}"
    return "includes 0" if low <= 0 <= high else "excludes 0"


def _weak_teacher(row: Mapping) -> str:
    """That a teacher is worse than the reference, of a row with its score; else ""."""
    theirs, mine = row.get("teacher_score", math.nan), row.get("teacher_reference", math.nan)
    turned = row["negated"] and row["teacher_metric"] == row["metric"]
    if not (theirs > mine if turned else theirs < mine):
        return ""
    told, own = (number(score, decimals(row["margin"])) for score in (theirs, mine))
    scores = f"{told}, {row['reference']}'s {own} ({row['teacher_metric']})"
    return f"the teacher's own score is {scores}: it has little to teach"


def clause_lines(judged: pd.DataFrame) -> list[str]:
    """Each comparison's clauses in a line; comparisons that share them, or all of them, are named together."""
    apart, by_text, everyone = _varying(judged), defaultdict(list), defaultdict(list)
    for row in judged.to_dict("records"):
        place = _place(row, apart)
        everyone[place].append(label(row))
        for clause in clauses(row):
            by_text[clause].append((place, label(row)))
    by_name = defaultdict(list)
    for clause, named in by_text.items():
        by_name[tuple(named)].append(clause)
    return [
        f"{'all' if len(named) == len(judged) > 1 else _named(named, everyone)}: {'; '.join(c)}"
        for named, c in by_name.items()
    ]


def _named(named: Sequence[tuple[str, str]], everyone: Mapping[str, list[str]]) -> str:
    """Comparisons (place, label) in words, those of the same labels together: "ls, kd (pretrained; random)"."""
    by_place, by_labels = defaultdict(list), defaultdict(list)
    for place, name in named:
        by_place[place].append(name)
    for place, names in by_place.items():
        by_labels["all" if names == everyone[place] and len(names) > 1 else ", ".join(names)].append(place)
    return ", ".join(f"{names} ({'; '.join(places)})" if places[0] else names for names, places in by_labels.items())


def deciding(row: Mapping, looks: Sequence[int] = ()) -> str:
    """What would decide an undecided comparison: foretold from the pairs in hand, and for an effect of the margin; of
    planned looks they alone, as seeds beyond the last are not used."""
    if looks:
        return f"{label(row)}: the planned looks alone ({', '.join(map(str, looks))} seeds), none beyond them"
    if row["n"] < 2:
        return f"{label(row)}: more seeds, as one says nothing of their spread"
    more = row["more_seeds"]
    first = (
        f"more than {MOST} more seeds like these"
        if pd.isna(more)
        else f"{more} more seed{'s' * (more > 1)} like these would (probability {SURE})"
    )
    needed = row["seeds_for_margin"]
    told = f"more than {MOST}" if pd.isna(needed) else f"{needed} in all"
    return f"{label(row)}: {first}; an effect of the margin takes {told}"


def deciding_lines(judged: pd.DataFrame, looks: Sequence[int] = ()) -> list[str]:
    """One line for each undecided comparison; its family is named where there are several."""
    apart, undecided = _varying(judged), judged[judged["verdict"] == "undecided"].to_dict("records")
    return [", ".join([*(str(row[name]) for name in apart), deciding(row, looks)]) for row in undecided]


def _place(row: Mapping, apart: Sequence[str]) -> str:
    return ", ".join(str(row[name]) for name in apart)


def _varying(judged: pd.DataFrame) -> list[str]:
    """What tells these families apart, beside what their labels say."""
    return [name for name in ("task", "model", "init") if judged[name].nunique() > 1]


def verdict_lines(judged: pd.DataFrame) -> list[str]:
    """One plain sentence per comparison of `judge`: the verdict, its figures, its reason, its clauses."""
    return [_line(row) for row in judged.to_dict("records")]


def _line(row: dict) -> str:
    where = ", ".join(filter(None, [row["task"], row["model"], row["init"], row["metric"]]))
    rest = "; ".join([row["reason"], *clauses(row)])
    head = f"{label(row)} vs {row['reference']} ({where}): {verdict(row)}"
    if not row["n"]:
        return f"{head}; {rest}"
    spread = row["std_difference"]
    sd = "" if spread is None or math.isnan(spread) else f" (sd {number(spread, decimals(row['margin']))})"
    turned = ", lower is better and the sign is turned," if row["negated"] else ""
    size = row["family_size"]
    holm = f"Holm p = {p_text(row['p_holm'])} in a family of {size}" if size > 1 else "alone in its family"
    mean = signed(row["mean_difference"], row["margin"])
    return (
        f"{head}; mean difference {mean}{sd}{turned} over n = {n_seeds(row['n'])}, "
        f"{row['test']} p = {p_text(row['p_value'])} (smallest possible: {p_text(row['min_p_value'])}), {holm}; {rest}"
    )


def p_lines(judged: pd.DataFrame, column: str) -> list[str]:
    """What p stands beside a verdict, where one is equivalent."""
    if not (judged["verdict"] == "equivalent").any():
        return []
    return [f"{column} is Holm's: where equivalent, of that; elsewhere of a difference"]


def mean_lines(scores: pd.DataFrame, judged: pd.DataFrame) -> list[str]:
    """That a difference is not that of the means beside it, where the reference has seeds that the method lacks."""
    cell = WHO[:3]
    means = scores[scores["method"].isin(judged["reference"])].groupby(cell)["mean"].agg(list)
    rows = judged[judged["n"] > 0][[*cell, "mean_reference", "reference"]].itertuples(index=False, name=None)
    apart = [reference for *place, mean, reference in rows if not np.isclose(means[tuple(place)], mean).any()]
    told = "the mean of {} is of all of its seeds, a difference of the n that both sides have"
    return [told.format(apart[0])] if apart else []


def headlines(judged: pd.DataFrame) -> list[str]:
    """How often each verdict fell, for each start of the models."""
    lines = []
    for init, part in judged.groupby("init", sort=False):
        counts = part["verdict"].value_counts()
        told = ", ".join(f"{counts[word]} {word}" for word in GLYPHS if word in counts)
        families = part.groupby(["task", "model", "metric", "protocol"], sort=False).ngroups
        where = f"{init}: " if init else ""
        comparisons = count(len(part), "comparison")
        lines.append(f"{where}{comparisons} in {count(families, 'family', 'families')}: {told}.")
    return lines


def interaction_headline(table: pd.DataFrame) -> list[str]:
    """The paper's question in one sentence, from interaction.interaction; none where it cannot be asked."""
    if table.empty:
        return []
    larger, smaller = ((table["from_scratch"] == word).sum() for word in ("larger", "smaller"))
    return [
        f"random against pretrained: the effect is larger from scratch in {larger} of "
        f"{count(len(table), 'comparison')}, smaller in {smaller}, "
        f"not shown to differ in {len(table) - larger - smaller}."
    ]


def trend_lines(table: pd.DataFrame, margin: float = 0.0) -> list[str]:
    """What more training examples change, in a sentence for each task, model and init, from trend.trend; with the
    decimals that the `margin` asks for."""
    lines = []
    for (*where, reference), rows in table.groupby(["task", "model", "init", "reference"], sort=False):
        each = [f"{r.method} {signed(r.mean_trend, margin)} ({r.with_more}, n={r.n})" for r in rows.itertuples()]
        place = ", ".join(filter(None, where))
        lines.append(f"{place}: with each doubling of the training set, method - {reference}: {', '.join(each)}")
    return lines


def calibration_lines(table: pd.DataFrame, level: float = 0.05) -> list[str]:
    """Of calibration.differences, who is better calibrated, and still so when the reference is scaled too; who shares
    an answer shares a sentence."""
    said: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    everyone: defaultdict[str, list[str]] = defaultdict(list)
    apart = _varying(table)
    for row in table[WHO].drop_duplicates().to_dict("records"):
        everyone[_place(row, apart)].append(label(row))
    of_one = ["measure", "reference", *WHO]
    for (measure, reference, *_), found in table.groupby(of_one, sort=False):
        rows = {row["scaled"]: row for row in found.to_dict("records")}
        shown = "ece above its floor" if measure == "ece" else measure
        sentence = f"{shown}: {_said_of_both(rows['none'], rows['both'], reference, level)}"
        said[sentence].append((_place(rows["none"], apart), label(rows["none"])))
    order = sorted(said, key=lambda sentence: TESTED.index(sentence.partition(":")[0].partition(" ")[0]))
    return [f"{sentence}: {_named(said[sentence], everyone)}" for sentence in order]


def _said_of_both(before: dict, after: dict, reference: str, level: float) -> str:
    """What a measure says as it is, and with a temperature on both sides."""

    def side(row: dict) -> int:
        return int(np.sign(row["estimate"])) if row["p_holm"] <= level else 0

    if before["min_p_holm"] > level:
        return f"too few seeds to tell (Holm p cannot be below {p_text(before['min_p_holm'])})"
    words = {-1: "lower", 0: "not shown to differ", 1: "higher"}
    if side(before) == -1:
        left = {-1: "still lower", 0: "no gain is shown", 1: "higher"}[side(after)]
        return f"lower, and {left} when {reference} is scaled as well"
    if side(before) == side(after):
        return f"{words[side(before)]}, before and after scaling"
    return f"{words[side(before)]} before, {words[side(after)]} after scaling"


def unit_lines(judged: pd.DataFrame) -> list[str]:
    """A warning for each metric whose scores are small beside a margin that is meant for points of 100."""
    found: dict[tuple, dict[str, list]] = {}
    for (metric, margin, negated, task), rows in judged.groupby(["metric", "margin", "negated", "task"], sort=False):
        values = [value for value in [*rows["scores"].explode(), *rows["mean_reference"]] if not pd.isna(value)]
        if too_large(margin, metric, values):
            found.setdefault((metric, margin, negated), {})[task] = values
    lines = []
    for (metric, margin, negated), tasks in found.items():
        values = [value for some in tasks.values() for value in some]
        shares = not negated and min(values) >= -1 and 0 < max(values) <= 1
        said = "look like fractions of 1" if shares else f"are between {min(values):g} and {max(values):g}"
        lines.append(
            f"scores {said} ({', '.join(filter(None, [*tasks, metric]))}): margin={margin:g} is in the "
            f"metric's own unit" + (f"; give margin={margin / 100:g} where {margin:g} points of 100 are meant" * shares)
        )
    return lines


def apart_lines(paired: Paired) -> list[str]:
    """A line for each metric, model and init that is in fractions of 1 in some tasks alone."""
    groups, lines = defaultdict(list), []
    for c in paired.comparisons:
        groups[c.metric, c.model, c.init].append(c)
    for (metric, *place), members in groups.items():
        if found := units_differ(metric, members):
            told = f"{metric} looks like a fraction of 1 in {join(found)} and not in the other tasks"
            told += f" of {', '.join(filter(None, place))}" if len(groups) > 1 else ""
            lines.append(f"{told}: there is no mean over tasks; give all in one unit")
    return lines


def not_learnt_cells(paired: Paired) -> list[str]:
    """A sentence that names the comparisons in which no run has learnt, for what is computed over them all the same."""
    found = defaultdict(list)
    for c in paired.comparisons:
        if c.seeds and len(neither(paired, c)) == len(c.seeds):
            found[c.task, c.model, c.init].append(c.label)
    told = [f"{', '.join(names)} ({', '.join(filter(None, place))})" for place, names in found.items()]
    return [f"no run has learnt in these comparisons, which count here all the same: {'; '.join(told)}"] if told else []


def never_lines(paired: Paired) -> list[str]:
    """Classes that compared runs give no example, in a line for each task, model and init."""
    lines, runs = [], paired.runs[paired.runs["run_id"].isin(paired.compared)]
    for place, rows in runs.groupby(["task", "model", "init"], sort=False):
        by_class = defaultdict(list)
        for method, found in sorted(rows.groupby("method"), key=lambda item: method_rank(item[0])):
            for name, given in Counter(chain.from_iterable(found["never"])).items():
                by_class[name].append(f"{given} of {len(found)} runs of {method}")
        told = [f"{name} by {', '.join(each)}" for name, each in by_class.items()]
        more = [count(len(told) - NEVER, "other class", "other classes")] if len(told) > NEVER else []
        where = ", ".join(filter(None, place))
        lines += [f"predicted for no example ({where}): {join([*told[:NEVER], *more])}"] if told else []
    return lines


def not_compared_lines(paired: Paired, judged: pd.DataFrame, planned: Collection[tuple]) -> list[str]:
    """The methods of a task, model and init of which no run is compared: what is judged looks whole without them.
    Those of `planned` (task, model, init, method) count in their families all the same."""
    known, left = set(judged[WHO[:4]].itertuples(index=False, name=None)), paired.left_out
    places = left[WHO[:4]].itertuples(index=False, name=None)
    alone = [who[3] != paired.reference and who not in known for who in places]
    left = left[pd.Series(alone, left.index, dtype=bool)]
    lines = []
    counted = [who in planned for who in left[WHO[:4]].itertuples(index=False, name=None)]
    for (*place, held), found in left.assign(counted=counted).groupby([*WHO[:3], "counted"], sort=False):
        methods = list(dict.fromkeys(found["method"]))
        verb = "is" if len(methods) == 1 else "are"
        told = f"{', '.join(methods)} ({', '.join(filter(None, place))}) {verb} not compared"
        told += "" if held else ", nor counted by Holm"
        lines.append(f"{told}: {' '.join(left_out_lines(found))}")
    return lines


def left_out_lines(left: pd.DataFrame) -> tuple[str, ...]:
    """How many runs are left out and why, of frames with a column `reason`; reasons that differ in numbers are one."""
    kinds = left["reason"].str.replace(r"\b[0-9a-f]{32}\b|\d[\d.,]*", "#", regex=True)
    lines = []
    for _, found in left.groupby(kinds, sort=False):
        first = found["reason"].iloc[0]
        told = first if found["reason"].nunique() == 1 else f"{first} (the first of them)"
        verb = "is" if len(found) == 1 else "are"
        lines.append(f"{count(len(found), 'run')} {verb} left out here: {told}.")
    return tuple(lines)


def methods_section(paired: Paired, judged: pd.DataFrame, runs: pd.DataFrame, rule: Rule) -> str:
    """The methods section of a paper: what was compared, tested, corrected, with what (templates/methods.txt.j2)."""
    mine, metrics = used(paired, runs), sorted(set(judged["metric"]))
    names = [name for name in mine if name.startswith("tags.labelreg.version.")]
    trained = {"Python": "tags.labelreg.python"} | {name.rpartition(".")[2]: name for name in sorted(names)}
    data = {}
    if "tags.labelreg.data" in mine and "params.task" in mine:
        data = {task: distinct(rows, "tags.labelreg.data") for task, rows in mine.groupby("params.task")}
    return filled(
        "methods.txt.j2",
        methods=distinct(judged, "method"),
        reference=paired.reference,
        cells=list(dict.fromkeys(family_name(row) for row in judged.to_dict("records"))),
        pairs=_range(judged["n"].tolist(), "pair"),
        seeds=in_order(list(set().union(*judged["seeds"]))),
        metrics=metrics,
        in_percent=all(unit(rows[0]["metric"], rows) == "points" for rows in families(judged)),
        lower=sorted(set(judged.loc[judged["negated"], "metric"])),
        few=FEW if (judged["test"] == RANK_SUM).any() else 0,
        sizes=_range(judged["family_size"].tolist(), "method"),
        margins=[f"{margin:g}" for margin in sorted(set(judged["margin"]))],
        rule=rule,
        p_range=" to ".join(dict.fromkeys(map(p_text, (judged["min_p_value"].min(), judged["min_p_value"].max())))),
        not_learnt=(judged["verdict"] == NOT_LEARNT).any(),
        left_out=dict(Counter(reason.partition(":")[0] for reason in paired.left_out["reason"])),
        trained={name: found for name, column in trained.items() if (found := distinct(mine, column))},
        libraries={name: version(name) for name in LIBRARIES},
        data={task: digests for task, digests in data.items() if digests},
        count=count,
    )


def used(paired: Paired, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of `runs` that are in a comparison."""
    return runs[runs["run_id"].isin(paired.compared)] if "run_id" in runs else runs.iloc[:0]


def distinct(frame: pd.DataFrame, column: str) -> list:
    """The values of a column, in the order in which they come; none where there is no such column."""
    return list(dict.fromkeys(frame[column].dropna())) if column in frame else []


def in_order(seeds: list) -> list:
    """Each seed once; numbers by size, then other names: 1_1 is not 11."""
    return sorted({seed_name(str(seed)) for seed in seeds}, key=lambda seed: (isinstance(seed, str), seed))


def wrapped(lines: Sequence[str], width: int) -> list[str]:
    """Lines for a terminal, none wider than `width`; what goes on is indented."""
    return [
        part
        for line in lines
        for part in textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False) or [""]
    ]


def _range(values: list[int], noun: str) -> str:
    low, high = min(values), max(values)
    return count(low, noun) if low == high else f"{low} to {high} {noun}s"


def count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
