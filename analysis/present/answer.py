"""The one answer on a frame of runs: sections, from which text, Markdown, JSON, the page and summary runs are made."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis import calibration, direction, examples, exported, interaction, over_tasks, pairing, trend
from analysis.hypothesis import FEW, interval
from analysis.judge import COLUMNS, Planned, Rule, by_who, judge, of_seeds
from analysis.pairing import DEV, LAST_DEV, TEST, WHO, Comparison, Paired, in_order, method_rank
from analysis.plan_check import follows, held, mark_tuned
from analysis.predictions import Predictions, marked
from analysis.present import render, wording
from analysis.present.render import Section, declared

NO_SCORES = "no scores.csv: not every run has the fingerprint by which labelreg knows its own tables"
UNEXPECTED = ("conflict", "refused", "no score")  # why runs are left out that one would think are counted
MOST_RUNS = 1000  # whose predictions are read unasked: 3 s for test sets of a thousand examples


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an answer is made of. `runs` as given to `pair`; `predictions` None: not read; `plans` None: a table that
    labelreg did not write; `remarks`: what is said of where the runs came from; `teachers`: the runs that those of
    `runs` learnt from."""

    runs: pd.DataFrame
    plans: Sequence[dict] | None = None
    predictions: Predictions | None = None
    remarks: tuple[str, ...] = ()
    teachers: pd.DataFrame | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What is said of a frame of runs; `scores`: what gives it again (exported.table), or None."""

    runs: pd.DataFrame
    paired: Paired
    judged: pd.DataFrame
    rule: Rule
    sections: list[Section]
    scores: pd.DataFrame | None
    measured: calibration.Calibration | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    def frame(self, name: str) -> pd.DataFrame:
        """The frame of a section; empty where it has none."""
        found = [section.frame for section in self.sections if section.name == name and section.frame is not None]
        return found[0] if found else pd.DataFrame()

    def told(self, name: str) -> tuple[str, ...]:
        return next((section.text for section in self.sections if section.name == name), ())


def answer(
    evidence: Evidence,
    paired: Paired,
    rule: Rule | None = None,
    metric: str | None = None,
    lower: Collection[str] = (),
) -> Answer:
    """The answer on `paired`, as `pair` gave it for this metric."""
    rule, plans = rule or Rule(), list(evidence.plans or [])
    if evidence.predictions is not None:
        paired = marked(paired, evidence.predictions)
    order, planned = pairing.seed_order(evidence.runs), held(plans, paired, evidence.runs)
    judged = mark_tuned(judge(paired, rule, order, planned), plans, planned)
    judged = _last_epoch(evidence, paired, judged, rule, order, lower)
    whole, paired = paired, _as_judged(paired, judged)
    if evidence.teachers is not None:
        judged = _beside_teachers(evidence, paired, judged)
    table, left, measured = pd.DataFrame(), pd.DataFrame(), None
    if evidence.predictions is not None and len(judged):
        table, left = examples.intervals(paired, evidence.predictions, 1 - rule.level)
        measured = exported.completed(calibration.calibrate(whole, evidence.predictions), whole, evidence.runs)
        if rule.looks:  # the picture is of the seeds of the verdicts, as all but scores and costs
            measured = replace(measured, reliability=calibration.calibrate(paired, evidence.predictions).reliability)
        judged = _new_examples(judged, table)
    elif len(judged):
        measured = exported.calibration(whole, evidence.runs)
    told = [] if evidence.plans is None or judged.empty else follows(plans, planned, paired, judged, metric, rule)
    taught = evidence.runs.iloc[:0] if evidence.teachers is None else evidence.teachers
    scores = exported.table(whole, evidence.runs, taught, plans, measured)
    ours = exported.marked(scores)
    lacks = [NO_SCORES] if len(scores) and not ours and evidence.plans is not None else []
    sections = [section("read", [*evidence.remarks, *lacks]), *_verdicts(paired, judged, rule, planned)]
    if len(judged):
        sections += [*_over_tasks(paired, judged, rule), *_interaction(paired, rule.level)]
        sections += _trend(paired, judged, rule.level)
        sections += [*_examples(table, left, evidence), *_calibration(paired, measured, rule.level)]
        costs = calibration.costs(whole, evidence.runs)
        sections += [section("cost", frame=costs, reference=paired.reference)] if len(costs) else []
    if told:  # a terminal hears of it where there is more to say than that it was followed
        apart = any(not line.endswith(": followed") for line in told)
        sections.append(replace(section("plan", told), brief=apart))
    if len(paired.left_out):
        runs = wording.count(len(paired.left_out), "run")
        sections.append(section("left_out", frame=paired.left_out, runs=runs))
    parameters: dict[str, Any] = {"metric": metric, "lower_is_better": list(lower), "reference": paired.reference}
    parameters |= {"margin": rule.margins.plain(), "level": rule.level, "looks": list(rule.looks)}
    if len(judged):
        sections = [replace(each, digits=render.decimals(judged["margin"].min())) for each in sections]
    return Answer(evidence.runs, paired, judged, rule, sections, scores if ours else None, measured, parameters)


def _as_judged(paired: Paired, judged: pd.DataFrame) -> Paired:
    """With the seeds that the verdicts are of: those beyond the look at which one fell are not used."""
    rows = by_who(judged)
    cut = (of_seeds(c, rows[c.who].seeds) for c in paired.comparisons if rows[c.who].n)
    return replace(paired, comparisons=tuple(cut))


def _last_epoch(
    evidence: Evidence, paired: Paired, judged: pd.DataFrame, rule: Rule, order: Sequence, lower: Collection[str]
) -> pd.DataFrame:
    """With the verdict on the last epoch beside one on the best dev epoch, whose score is a maximum."""
    runs, chosen = evidence.runs, judged["metric"] == DEV
    if not chosen.any() or f"metrics.{LAST_DEV}" not in runs:
        return judged.assign(verdict_last=None, mean_last=math.nan)
    again = pairing.pair(runs, paired.reference, LAST_DEV, lower)
    again = replace(again, not_learnt=paired.not_learnt, examples=paired.examples)
    last = judge(again, rule, order, held(evidence.plans or [], again, runs))
    names = {"verdict": "verdict_last", "mean_difference": "mean_last"}
    last = last.loc[last["n"] > 0, [*WHO, *names]].rename(columns=names)
    last = judged[WHO].merge(last, how="left", on=WHO).set_index(judged.index)
    return judged.assign(**{name: last[name].where(chosen) for name in names.values()})


def _beside_teachers(evidence: Evidence, paired: Paired, judged: pd.DataFrame) -> pd.DataFrame:
    """With the mean scores of the teachers and of the reference, and where they are from; a teacher that was trained
    again, of the same fingerprint, is one."""
    names = ["teacher_metric", "teacher_score", "teacher_reference"]
    runs = pd.concat([evidence.runs, evidence.teachers]).drop_duplicates("run_id").set_index("run_id")
    known = runs.sort_values("start_time", kind="stable") if "start_time" in runs else runs
    prints = known.get(exported.FINGERPRINT, pd.Series(dtype=object)).dropna()
    first = prints.map({same: run_id for run_id, same in reversed(list(prints.items()))}).to_dict()
    judged = judged.assign(teachers=judged["teachers"].map(partial(_once, first)))
    scored, none = {c.who: _teacher_scores(c, runs) for c in paired.comparisons}, ("", math.nan, math.nan)
    told = [
        scored.get(who, none) if taught else none
        for who, taught in zip(judged[WHO].itertuples(index=False, name=None), judged["teachers"], strict=True)
    ]
    return judged.join(pd.DataFrame(told, judged.index, names))


def _once(first: Mapping[str, str], teachers: str) -> str:
    """Teachers as judged names them, each run by the `first` of its fingerprint."""
    named = (",".join(first.get(run_id, run_id) for run_id in each.split(",")) for each in teachers.split(", "))
    return ", ".join(dict.fromkeys(named))


def _teacher_scores(c: Comparison, runs: pd.DataFrame) -> tuple[str, float, float]:
    """On what the comparison is of, else on the first split on which its teachers were tested as well."""
    for metric in dict.fromkeys((c.metric, TEST, DEV)):
        scores = runs.get(f"metrics.{metric}", pd.Series(dtype=float))
        taught_by = [run_id for each in c.teachers for run_id in each.split(",")]
        theirs, mine = (scores.reindex(list(ids)).mean(skipna=False) for ids in (taught_by, c.reference_run_ids))
        if math.isfinite(theirs) and math.isfinite(mine):
            return metric, theirs, mine
    return "", math.nan, math.nan


def _new_examples(judged: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """With the interval for new examples beside each verdict all of whose pairs have predictions: one of fewer seeds
    would speak of others."""
    keys = [*WHO, "metric"]
    known = table.rename(columns={"low": "new_low", "high": "new_high", "n_seeds": "n"})[
        [*keys, "n", "new_low", "new_high"]
    ]
    return judged.merge(known, how="left", on=[*keys, "n"]) if len(table) else judged


# Sections


def section(name: str, text: Sequence[str] = (), frame: pd.DataFrame | None = None, **words: Any) -> Section:
    """A section as templates/sections.yaml has it, with these sentences after its own, and a frame."""
    told = dict(declared("sections.yaml")[name])
    said = [line.format(**words) for line in told.pop("text", ())]
    title, columns = told.pop("title", "").format(**words), told.pop("columns", "").split()
    return Section(name, title, (*said, *text), frame, tuple(columns), **told)


def scores(paired: Paired) -> pd.DataFrame:
    """Mean, standard deviation (ddof 1; missing for one run) and number of usable runs, paired or not; how many of them
    are known to give every example one class (not_learnt). One row per task, model, init, method and setting."""
    keys = [*WHO, "metric"]
    if paired.runs.empty:
        return pd.DataFrame(columns=[*keys, "mean", "std", "n", "not_learnt"])
    runs = paired.runs.assign(one_class=paired.runs["run_id"].isin(paired.not_learnt))
    grouped = runs.groupby(keys, sort=False)
    table = grouped["score"].agg(mean="mean", std="std", n="count")
    table = table.assign(not_learnt=grouped["one_class"].sum()).reset_index()
    return in_order(table)


def _verdicts(paired: Paired, judged: pd.DataFrame, rule: Rule, planned: Sequence[Planned]) -> list[Section]:
    table = scores(paired)
    shown = tuple(name for name in table if name != "not_learnt" or table[name].any())
    means = replace(section("scores", frame=table), columns=shown)
    if judged.empty:
        return [means, section("comparisons", frame=judged, reference=paired.reference)]
    sentences = [f"{wording.family_name(rows[0])}: {wording.sentence(rows)}" for rows in wording.families(judged)]
    left = paired.left_out[paired.left_out["reason"].str.startswith(UNEXPECTED)]
    counted = {(*where[:3], name) for plan in planned for where, methods in plan.families.items() for name in methods}
    notes = [  # in short, the first are shown
        *wording.unit_lines(judged),
        *wording.apart_lines(paired),
        *wording.not_compared_lines(paired, judged, counted),
        *wording.left_out_lines(left),
        *wording.never_lines(paired),
        *wording.clause_lines(judged),
        *direction.lines(zip(judged["metric"], judged["negated"], strict=True)),
    ]
    decide = wording.deciding_lines(judged, rule.looks)
    again = [wording.TWICE] if decide and not rule.looks else []
    details = section("details", few=FEW)
    return [
        section("verdicts", sentences),
        section(
            "brief",
            [*wording.p_lines(judged, "p"), *wording.mean_lines(table, judged)],
            _brief(paired, table, judged),
        ),
        section("notes", notes),
        section("deciding", [*again, *(f"to decide {line}" for line in decide)]),
        means,
        section(
            "comparisons",
            [*wording.p_lines(judged, "p of the verdict"), *wording.verdict_lines(judged)],
            judged,
            reference=paired.reference,
        ),
        replace(details, frame=judged[list(details.columns)]),
    ]


def _brief(paired: Paired, table: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """The table of the terminal: what all rows share is left to the sentences above it."""
    reference = table[table["method"] == paired.reference].rename(columns={"mean": "mean_method", "std": "std_method"})
    both = pd.concat([reference, judged], ignore_index=True)
    both["rank"] = [(m != paired.reference, *method_rank(m)) for m in both["method"]]
    both = both.sort_values(["task", "model", "init", "rank"], kind="stable", ignore_index=True)
    rows = both.to_dict("records")
    both["method"] = [wording.label(row) for row in rows]
    ends = both[["low", "high", "margin"]].to_numpy(dtype=float)
    both["interval"] = [interval(*row) if np.isfinite(row[0]) else "" for row in ends]
    shown = {"mean_method": "mean", "std_method": "sd", "n": "n", "mean_difference": "difference"}
    shown |= {"interval": "interval", "p_verdict": "p", "verdict": "verdict"}
    apart = [name for name in ("task", "model", "init") if both[name].nunique() > 1]
    both = both[[*apart, "method", *shown]].rename(columns=shown)
    return both.fillna({"verdict": ""}).astype({"n": int})


def _over_tasks(paired: Paired, judged: pd.DataFrame, rule: Rule) -> list[Section]:
    these, new = over_tasks.these_tasks(paired, judged, rule), over_tasks.against_reference(paired)
    if these.empty:
        return []
    lost, lowest = wording.not_learnt_cells(paired), new["min_p_holm"].min()
    far = f"so few tasks cannot give less than Holm p = {render.p_text(lowest)}: {rule.level:g} is out of reach"
    return [
        section("these_tasks", [*_directions(paired), *lost], these, confidence=100 * (1 - rule.level)),
        section("across", [*([far] if lowest > rule.level else []), *lost], new),
        section("friedman", lost, over_tasks.friedman(paired)),
    ]


def _directions(paired: Paired) -> list[str]:
    return direction.lines((c.metric, c.negated) for c in paired.comparisons)


def _interaction(paired: Paired, level: float) -> list[Section]:
    table, alone = interaction.interaction(paired, level), interaction.unmatched_lines(paired)
    if table.empty and not alone:
        return []
    tasks = interaction.interaction_across(paired)
    told = (*_directions(paired), *alone, *wording.not_learnt_cells(paired))
    return [
        section("question", wording.interaction_headline(table)),
        section("interaction", told, table),
        *([section("interaction_across", frame=tasks)] if len(tasks) else []),
    ]


def _trend(paired: Paired, judged: pd.DataFrame, level: float) -> list[Section]:
    table, beside = trend.trend(paired, level), trend.lines(paired)
    if table.empty and not beside:
        return []
    trends = wording.trend_lines(table, judged["margin"].min())
    told = [*trends, *_directions(paired), *beside, *wording.not_learnt_cells(paired)]
    units = dict.fromkeys(wording.unit(rows[0]["metric"], rows) for rows in wording.families(judged))
    return [section("trend", told, table, reference=paired.reference, unit=" or ".join(units))]


def _examples(table: pd.DataFrame, left: pd.DataFrame, evidence: Evidence) -> list[Section]:
    if evidence.predictions is None:
        if evidence.plans is None or "metric" in evidence.runs:  # rows of a table
            return []
        text = (
            f"predictions of more than {MOST_RUNS:,} runs are not read unasked: examples=true reads them, for "
            "intervals over seeds and examples and for calibration"
        )
        return [Section("examples", "New seeds and new examples", (text,))]
    return [section("examples", wording.left_out_lines(left), table), *_left_out("examples", left)]


def _calibration(paired: Paired, measured: calibration.Calibration | None, level: float) -> list[Section]:
    if measured is None:
        return []
    if measured.runs.empty:
        return _left_out("calibration", measured.left_out)
    measured = replace(measured, runs=measured.runs[measured.runs["run_id"].isin(paired.compared)])
    table = calibration.differences(paired, measured)
    return [
        section("calibration", wording.calibration_lines(table, level), calibration.methods(measured)),
        section("calibration_differences", frame=table),
        *_left_out("calibration", measured.left_out),
    ]


def _left_out(part: str, left: pd.DataFrame) -> list[Section]:
    """One row per reason, with the runs; for programs, as people are told how many there are."""
    if left.empty:
        return []
    rows = [(reason, tuple(found["run_id"].unique())) for reason, found in left.groupby("reason", sort=False)]
    frame = pd.DataFrame(rows, columns=["reason", "run_ids"])
    return [section(f"{part}_left_out", frame=frame)]


# What is logged beside the sections


def files(found: Answer) -> dict[str, str]:
    given_again = {} if found.scores is None else {"scores.csv": render.to_csv(found.scores)}
    return given_again | {
        "significance.csv": render.to_csv(found.judged[COLUMNS]),
        "left_out.csv": render.to_csv(found.paired.left_out),
        "significance.json": render.as_json(found.sections, found.parameters),
        "significance.md": render.as_markdown(found.sections, "Does label regularisation help here?"),
    }


def summaries(paired: Paired, judged: pd.DataFrame) -> list[dict]:
    """What one summary run per method and setting holds: `params`, `metrics`, `verdict`, `line`, `run_ids`.

    A method without any comparison has one too. Metrics: mean and std of the score over n seeds; beside a reference
    the mean difference, the interval of the difference [low, high] (unbounded ends are infinite), p_value, p_holm,
    p_verdict.
    """
    ids = paired.runs.groupby(WHO[:4])["run_id"].agg(list).to_dict()
    pairs = set(judged[WHO[:4]].itertuples(index=False, name=None))
    found = []
    for row in scores(paired).to_dict("records"):
        if tuple(row[name] for name in WHO[:4]) not in pairs:
            lost = f", {row['not_learnt']} of them not learnt" if row["not_learnt"] else ""
            line = f"{row['method']}: mean {render.number(row['mean'])} over {wording.count(row['n'], 'seed')}{lost}"
            alone = f"; no pair with {paired.reference}" if row["method"] != paired.reference else ""
            found.append((row, {name: row[name] for name in ("mean", "std", "n")}, "", line + alone))
    names = {"mean_method": "mean", "std_method": "std", "n": "n", "mean_difference": "difference"}
    names |= {name: name for name in ("low", "high", "p_value", "p_holm", "p_verdict")}
    for row, line in zip(judged.to_dict("records"), wording.verdict_lines(judged), strict=True):
        found.append((row, {names[name]: row[name] for name in names}, wording.verdict(row), line))
    return [
        {
            "params": {name: row[name] for name in (*WHO, "metric") if row[name]} | {"reference": paired.reference},
            "metrics": {name: value for name, value in metrics.items() if not pd.isna(value)},
            "verdict": word,
            "line": line,
            "run_ids": ids[tuple(row[name] for name in WHO[:4])],
        }
        for row, metrics, word, line in found
    ]
