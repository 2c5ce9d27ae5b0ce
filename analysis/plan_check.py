"""Before the runs: what a plan can decide. After them: whether it was followed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.hypothesis import FEW, check_margin, floor, n_seeds
from analysis.interim import OPEN, joint
from analysis.judge import LEVEL, Planned, Rule, beside
from analysis.margins import USUAL, Margins
from analysis.pairing import WHO, Paired
from analysis.power import detectable_effect, least_seeds, reachable, seeds_needed
from analysis.present.render import filled

LACKS = "planned seeds without a pair"
PARENT = "tags.mlflow.parentRunId"


@dataclass(frozen=True)
class Gate:
    """What `seeds` can decide in a family of `methods` compared with one reference, before anything is spent.

    can_differ, can_equal: whether better or worse, and equivalent, can be reached at all after Holm. detectable: the
    effect, in sd of the paired differences, found with power 0.8 (None where no difference can be called).
    seeds_for_margin: seeds that find an effect of the margin with that power (None: without a spread, or more than
    power.MOST). level: of one look. spread: of the differences, from earlier runs, in points. why: where the margin is
    not a number of the user's or the usual one, in words.
    """

    seeds: int
    methods: int
    margin: float
    level: float
    looks: tuple[int, ...]
    spread: float | None
    can_differ: bool
    can_equal: bool
    detectable: float | None
    seeds_for_margin: int | None
    why: str = ""

    def lines(self) -> list[str]:
        to_differ, to_equal = self._takes(2), self._takes(1)
        text = filled("gate.txt.j2", gate=self, to_differ=to_differ, to_equal=to_equal, n_seeds=n_seeds)
        return text.splitlines()

    def _takes(self, sides: int) -> str:
        """The numbers of seeds that reach a verdict, in words."""
        nearest = {*range(2, FEW + 1), least_seeds(self.methods, self.level, sides, FEW + 1)}
        counts = sorted(n for n in nearest if reachable(n, self.methods, self.level, sides))
        if counts[0] > FEW or counts[-1] == FEW + 1:
            return f"{counts[0]} seeds or more"
        few = f"{FEW}" if counts[0] == FEW else f"{counts[0]} to {FEW}"
        return f"{few} seeds, or {counts[-1]} and more"


def gate(
    seeds: int,
    methods: int,
    margin: float,
    level: float,
    looks: Sequence[int] = (),
    spread: float | None = None,
    why: str = "",
) -> Gate:
    """What a plan can decide.

    `seeds`: planned in all; `methods`: compared with the reference in one family, without it (settings count);
    `margin` and `spread` (robust sd of the paired differences of earlier runs) in points; `level` of the whole
    study, of which each of the `looks` gets its share. Raises AnalysisError for a margin that is not above 0.
    """
    check_margin(margin)
    looked = joint(tuple(looks)) if looks else None
    share = looked.level(level) if looked else level
    counted = (looked.two_sided, looked.one_sided) if looked else (float, float)
    k = max(methods, 1)
    return Gate(
        seeds, methods, margin, share, tuple(looks), spread,
        can_differ=methods > 0 and k * counted[0](floor(seeds)) <= level,
        can_equal=methods > 0 and k * counted[1](floor(seeds) / 2) <= level,
        detectable=detectable_effect(seeds, k, share) if methods else None,
        seeds_for_margin=None if spread is None or not methods else seeds_needed(spread, margin, k, share),
        why=why,
    )  # fmt: skip


def make_plan(
    cells: Iterable[Sequence[str]],
    seeds: Sequence[int],
    metric: str | None,
    margins: Margins,
    level: float,
    looks: Sequence[int] = (),
) -> dict:
    """A study's plan as it is logged (plan.json) before its first run.

    `cells`: (task, model, init, method), the reference's too; `seeds` in the order in which they are run;
    `metric` None is the default (rest, test or dev, the first that every run of a task has).
    """
    return {
        "cells": [list(map(str, cell)) for cell in cells],
        "seeds": list(seeds),
        "metric": metric,
        "margin": margins.plain(),
        "level": level,
        "looks": list(looks),
    }


def agreed(planned: Sequence[Planned], paired: Paired) -> dict[str, Any]:
    """The margin, level and looks that the plans of all these comparisons have, where they have the same ones; without
    what is usual anyway. `planned`: of `held`."""
    plans = [p for p in planned if p.own and plan_digest(p.logged["plan"]) == p.logged["digest"]]
    about = {where for plan in plans for where in plan.families}
    if not plans or not about.issuperset(c.where for c in paired.comparisons):
        return {}
    first, *others = (plan.logged["plan"] for plan in plans)
    usual = {"margin": USUAL, "level": LEVEL, "looks": []}
    return {
        name: first[name]
        for name, value in usual.items()
        if first[name] != value and all(_plain(other[name]) == _plain(first[name]) for other in others)
    }


def plan_digest(plan: dict) -> str:
    """32 hex digits of the sha256 of a plan, the same whatever the order of its keys or the type of a number."""
    text = json.dumps(_plain(plan), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def held(plans: Sequence[Mapping], paired: Paired, runs: pd.DataFrame) -> list[Planned]:
    """What each of `plans` is about, the newest first; those that no run of theirs speaks for come last.

    Plans name no settings: the runs that a study made (it is their parent) or reused have them. What has such a run on
    the method's side is what it planned.
    """
    above = dict(zip(runs["run_id"], runs[PARENT], strict=True)) if PARENT in runs else {}
    found = _continued([_held(logged, paired, above) for logged in plans if not logged.get("lost")])
    return sorted(filter(lambda plan: plan.families, found), key=lambda plan: (not plan.own, -plan.start))


def _continued(found: Sequence[Planned]) -> list[Planned]:
    """A study that went on under another run, in another store or after its end, has one plan: the first one."""
    kept: list[Planned] = []
    for plan in sorted(found, key=lambda plan: plan.start):
        alike = (i for i, each in enumerate(kept) if _plain(each.logged["plan"]) == _plain(plan.logged["plan"]))
        same = next((i for i in alike if not set(kept[i].comparisons).isdisjoint(plan.comparisons)), None)
        if same is None:
            kept.append(plan)
        else:
            first = kept[same]
            kept[same] = replace(
                first,
                families={**first.families, **plan.families},
                comparisons={*first.comparisons, *plan.comparisons},
                own=first.own or plan.own,
            )
    return kept


def _held(logged: Mapping, paired: Paired, above: Mapping[str, str]) -> Planned:
    reused = logged.get("reused")
    ids = {run_id for run_id in paired.compared if above.get(run_id) == logged["run_id"]}.union(reused or ())
    mine = [c for c in paired.comparisons if not ids.isdisjoint(c.run_ids)]
    families = {c.where for c in paired.comparisons if not ids.isdisjoint((*c.run_ids, *c.reference_run_ids))}
    own = bool(families)
    if reused is None:  # logged before plans named what they reuse: the rest of their families may be theirs, too
        families = families or {c.where for c in paired.comparisons}
        known = {(c.where, c.method) for c in mine}
        mine += [c for c in paired.comparisons if c.where in families and (c.where, c.method) not in known]
    cells = dict.fromkeys(map(tuple, logged["plan"]["cells"]))
    methods: dict[tuple, list[str]] = {cell[:3]: [] for cell in cells}
    for *place, method in cells:
        methods[tuple(place)] += [method] if method != paired.reference else []
    compared = {where: methods[where[:3]] for where in families if where[:3] in methods}
    return Planned(logged, compared, {c.who for c in mine if c.who[:4] in cells}, own)


def follows(
    plans: Sequence[Mapping],
    planned: Sequence[Planned],
    paired: Paired,
    judged: pd.DataFrame,
    metric: str | None,
    rule: Rule,
) -> list[str]:
    """Sentences on whether what is reported follows `plans`: each comparison the plan that it was judged by.

    Each plan has run_id, start (seconds, when its study began), digest (as it was logged) and plan; `planned`: of
    `held`. What none planned is an addition to the first plan that is about its family. Of a plan that is `lost` (why,
    in words) only that is said.
    """
    said = [_lost(logged) for logged in plans if logged.get("lost")]
    who = list(judged[WHO].itertuples(index=False, name=None))
    by = [_judge_of(name, family, planned) for name, family in zip(who, judged["protocol"], strict=True)]
    for plan in planned:
        rows = judged.loc[[each is plan for each in by]]
        if len(rows):
            mine = {name for name, each in zip(who, by, strict=True) if each is plan}
            elsewhere = {name[:4] for name, each in zip(who, by, strict=True) if each not in (plan, None)}
            said += _follows(plan, mine, elsewhere, paired, rows, metric, rule)
            said += [_other(plan, other) for other in planned if not mine.isdisjoint(other.comparisons)
                     and other.logged["digest"] != plan.logged["digest"]]  # fmt: skip
            said += _later(plan, planned, paired)
    if not planned and not said:
        return ["no plan was logged before these runs: margin, level and seeds could have been chosen afterwards"]
    alone = [name for name, each in zip(who, by, strict=True) if planned and not each]
    return said + ([f"no plan was logged before these runs: {_cells(alone)}"] if alone else [])


def _judge_of(who: tuple, family: str, planned: Sequence[Planned]) -> Planned | None:
    """The plan that a comparison is judged by, or is an addition to."""
    about = [plan for plan in planned if (*who[:3], family) in plan.families]
    return next((plan for plan in about if who in plan.comparisons), about[0] if about else None)


def _lost(logged: Mapping) -> str:
    tuned = f"; its settings were tuned on seeds {', '.join(map(str, logged['tuned']))}" if logged["tuned"] else ""
    what = f"plan {logged['digest']} of run {logged['run_id']} cannot be read ({logged['lost']})"
    return f"{what}: whether it was followed is not known, and the seeds' order is that of the runs{tuned}"


def _follows(
    planned: Planned,
    mine: Collection[tuple],
    elsewhere: Collection[tuple],
    paired: Paired,
    judged: pd.DataFrame,
    metric: str | None,
    rule: Rule,
) -> list[str]:
    """What is said of one plan, about the comparisons that are judged by it (`mine`; `judged`: their rows).

    `elsewhere`: cells whose comparisons another plan judges: they are compared, though not by this one.
    """
    run_id, digest, plan = (planned.logged[name] for name in ("run_id", "digest", "plan"))
    if plan_digest(plan) != digest:
        return [f"plan.json of run {run_id} is not the plan that was logged: its digest is not {digest}"]
    others = {who[:4] for who in planned.comparisons if who not in mine}.union(elsewhere) - {who[:4] for who in mine}
    cells = [cell for cell in map(tuple, plan["cells"]) if cell not in others]
    departs = compare_plan({**plan, "cells": cells}, judged, metric, rule)
    ids = {run for c in paired.comparisons if c.who in mine for run in (*c.run_ids, *c.reference_run_ids)}
    runs = paired.runs[paired.runs["run_id"].isin(ids)]
    before = int((runs["start"] < planned.logged["start"]).sum())
    if before:
        departs.append(f"{before} of {len(runs)} runs are older than the plan: their scores could be known to it")
    return [f"plan {digest} of run {run_id}: {'not followed' if departs else 'followed'}", *departs]


def _other(plan: Planned, other: Planned) -> str:
    """That another plan holds what this one does."""
    mine, theirs = plan.logged, other.logged
    changed = ", ".join(key for key in mine["plan"] if _plain(mine["plan"][key]) != _plain(theirs["plan"].get(key)))
    when = "had planned some of these cells before" if theirs["start"] <= mine["start"] else "planned them later"
    unsure = "" if other.own else " (perhaps for other settings: none of its runs is among these)"
    return f"run {theirs['run_id']} {when}, with other {changed}{unsure}"


def _later(plan: Planned, planned: Sequence[Planned], paired: Paired) -> list[str]:
    """That plans after it compared more with its runs of the reference than it counts."""
    later = [other for other in planned if other.own and other.start > plan.start]
    new = beside(paired.comparisons, plan, later)
    return [f"plans after it, which it does not count, compare {_cells([c.who for c in new])}"] if new else []


def mark_tuned(judged: pd.DataFrame, plans: Sequence[Mapping], planned: Sequence[Planned]) -> pd.DataFrame:
    """The frame of `judge` with a column `tuned`: the mark of allow_tuned_seeds on the verdicts that it concerns.

    `plans` as for `follows`; each has tuned, the seeds that its study's settings were tuned on: a mark for what it
    planned, and for what no plan holds where its own cells are lost.
    """
    unknown = {seed for logged in plans if logged.get("lost") for seed in logged["tuned"]}
    marks = []
    for who, used in zip(judged[WHO].itertuples(index=False, name=None), judged["seeds"], strict=True):
        tuned = [set(plan.logged["tuned"]) for plan in planned if who in plan.comparisons] or [unknown]
        seeds = sorted(set.union(*tuned) & set(used))
        marks.append(f"tuned on seeds of this comparison ({', '.join(map(str, seeds))})" if seeds else "")
    return judged.assign(tuned=pd.Series(marks, judged.index, dtype=object))


def compare_plan(plan: dict, judged: pd.DataFrame, metric: str | None, rule: Rule) -> list[str]:
    """Where what is reported departs from the logged plan, a sentence each; empty where it follows it.

    `judged`: the frame of `judge`; the others as they were used for it. With planned looks a method may end
    with the seeds of the look that decided it.
    """
    used = make_plan([], [], metric, rule.margins, rule.level, rule.looks)
    said = [
        f"{name}: {_words(used[name])}, the plan says {_words(plan[name])}"
        for name in ("metric", "margin", "level", "looks")
        if _plain(used[name]) != _plain(plan[name])
    ]
    rows = judged.to_dict("records")
    references = {row["reference"] for row in rows}
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault((row["task"], row["model"], row["init"], row["method"]), []).append(row)
    planned = [tuple(cell) for cell in plan["cells"] if cell[3] not in references]
    absent = [cell for cell in planned if cell not in found]
    if absent:
        said.append(f"planned, but not compared (they count in Holm's family all the same): {_cells(absent)}")
    if added := [cell for cell in found if cell not in planned]:
        said.append(f"compared, but not planned (they change no planned verdict): {_cells(added)}")
    if several := [cell for cell, rows in found.items() if len(rows) > 1]:
        said.append(f"several settings, where the plan has one: {_cells(several)}")
    return said + _seeds_of_plan(plan["seeds"], {cell: found[cell] for cell in planned if cell in found}, rule.looks)


def _seeds_of_plan(seeds: Sequence, found: Mapping[tuple, list[dict]], looks: Sequence[int]) -> list[str]:
    """Planned seeds that are missing, and seeds that were not planned; cells that lack the same share a line."""
    missing: dict[tuple, list] = {}
    extra: dict[tuple, list] = {}
    for cell, rows in found.items():
        used = {seed for row in rows for seed in row["seeds"]}
        row = rows[0]
        ended = row["look"] if looks and row["verdict"] not in OPEN else None
        due = seeds[:ended] if ended else seeds
        for lacking, which in (
            (missing, [s for s in due if s not in used]),
            (extra, sorted(used - set(seeds), key=str)),
        ):
            if which:
                lacking.setdefault(tuple(which), []).append(cell)
    said = [f"{LACKS}: {_some(which)} in {_cells(cells)}" for which, cells in missing.items()]
    return said + [f"seeds that were not planned: {_some(which)} in {_cells(cells)}" for which, cells in extra.items()]


def _some(values: Sequence) -> str:
    shown = ", ".join(map(str, values[:10]))
    return shown if len(values) <= 10 else f"{shown} and {len(values) - 10} more"


def _cells(cells: Sequence[tuple]) -> str:
    """Of cells, or of comparisons with their settings."""
    return _some([f"{cell[3]} ({', '.join(filter(None, [*cell[:3], *cell[4:]]))})" for cell in cells])


def _words(value: object) -> str:
    return (
        ",".join(map(str, value)) or "none" if isinstance(value, list) else "default" if value is None else str(value)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
