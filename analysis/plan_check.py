"""Before the runs: what a plan can decide. After them: whether it was followed."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.hypothesis import FEW, check_margin, floor, n_seeds
from analysis.interim import OPEN, joint
from analysis.margins import Margins
from analysis.power import detectable_effect, least_seeds, reachable, seeds_needed
from analysis.present.render import filled

if TYPE_CHECKING:
    from analysis.judge import Rule
    from analysis.pairing import Paired


@dataclass(frozen=True)
class Gate:
    """What `seeds` can decide in a family of `methods` compared with one reference.

    can_differ, can_equal: whether better or worse, and equivalent, can be reached at all after Holm. detectable: the
    effect, in sd of the paired differences, found with power 0.8 (None where no difference can be called).
    seeds_for_margin: seeds that find an effect of the margin with that power (None: without a spread, or more than
    power.MOST). level: of one look. spread: of the differences, from earlier runs, in points.
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

    def lines(self) -> list[str]:
        """Plain sentences for people, one fact each."""
        to_differ, to_equal = self._takes(2), self._takes(1)
        text = filled("gate.txt.j2", gate=self, to_differ=to_differ, to_equal=to_equal, n_seeds=n_seeds)
        return text.splitlines()

    def _takes(self, sides: int) -> str:
        """The numbers of seeds that reach a verdict, in words."""
        nearest = {*range(2, FEW + 1), least_seeds(self.methods, self.level, sides, FEW + 1)}
        counts = sorted(n for n in nearest if reachable(n, self.methods, self.level, sides))
        return f"{counts[0]} to {FEW} seeds, or {counts[-1]} and more" if counts[0] <= FEW else f"{counts[-1]} seeds"


def gate(
    seeds: int, methods: int, margin: float, level: float, looks: Sequence[int] = (), spread: float | None = None
) -> Gate:
    """What a plan can decide, before anything is spent.

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
    `metric` None is the default (test where every run of a task has it, else dev).
    """
    return {
        "cells": [list(map(str, cell)) for cell in cells],
        "seeds": list(seeds),
        "metric": metric,
        "margin": margins.plain(),
        "level": level,
        "looks": list(looks),
    }


def plan_digest(plan: dict) -> str:
    """32 hex digits of the sha256 of a plan, the same whatever the order of its keys or the type of a number."""
    text = json.dumps(_plain(plan), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def follows(
    plans: Sequence[Mapping],
    paired: Paired,
    judged: pd.DataFrame,
    metric: str | None,
    rule: Rule,
) -> list[str]:
    """Sentences on whether what is reported follows `plans`: each cell the newest plan that holds it.

    Each plan has run_id, start (seconds, when its study began), digest (as it was logged) and plan; newest first.
    A cell that no plan holds is an addition to the newest plan of its task, model and init, else to the newest. Of a
    plan that is `lost` (why, in words) only that is said.
    """
    said = [_lost(logged) for logged in plans if logged.get("lost")]
    plans = [logged for logged in plans if not logged.get("lost")]
    if not plans:
        return said or [
            "no plan was logged before these runs: margin, level and seeds could have been chosen afterwards"
        ]
    holders: dict[tuple, int] = {}
    for at, logged in enumerate(plans):
        for cell in map(tuple, logged["plan"]["cells"]):
            holders.setdefault(cell, at)
            holders.setdefault(cell[:3], at)

    def held(frame: pd.DataFrame, at: int) -> pd.DataFrame:
        cells = frame[["task", "model", "init", "method"]].itertuples(index=False, name=None)
        return frame.loc[[holders.get(cell, holders.get(cell[:3], 0)) == at for cell in cells]]

    for at, logged in enumerate(plans):
        cells = [cell for cell, holder in holders.items() if holder == at and len(cell) == 4]
        runs, rows = held(paired.runs, at), held(judged, at)
        if len(runs) or len(rows):
            said += _follows(logged, cells, runs, rows, paired.reference, metric, rule)
            said += _planned_before(logged, plans[at + 1 :], cells)
    return said


def _lost(logged: Mapping) -> str:
    tuned = f"; its settings were tuned on seeds {', '.join(map(str, logged['tuned']))}" if logged["tuned"] else ""
    what = f"plan {logged['digest']} of run {logged['run_id']} cannot be read ({logged['lost']})"
    return f"{what}: whether it was followed is not known, and the seeds' order is that of the runs{tuned}"


def _follows(
    logged: Mapping,
    cells: list[tuple],
    runs: pd.DataFrame,
    judged: pd.DataFrame,
    reference: str,
    metric: str | None,
    rule: Rule,
) -> list[str]:
    """What is said of one plan, about those of its cells that no newer plan holds."""
    run_id, digest, plan = (logged[name] for name in ("run_id", "digest", "plan"))
    if plan_digest(plan) != digest:
        return [f"plan.json of run {run_id} is not the plan that was logged: its digest is not {digest}"]
    departs = compare_plan({**plan, "cells": [cell for cell in cells if cell[3] != reference]}, judged, metric, rule)
    before = int((runs["start"] < logged["start"]).sum())
    if before:
        departs.append(f"{before} of {len(runs)} runs are older than the plan: their scores could be known to it")
    return [f"plan {digest} of run {run_id}: {'not followed' if departs else 'followed'}", *departs]


def _planned_before(logged: Mapping, older: Sequence[Mapping], cells: list[tuple]) -> list[str]:
    said, plan = [], logged["plan"]
    for old in older:
        if old["digest"] != logged["digest"] and not set(cells).isdisjoint(map(tuple, old["plan"]["cells"])):
            changed = ", ".join(key for key in plan if _plain(plan[key]) != _plain(old["plan"].get(key)))
            said.append(f"run {old['run_id']} had planned some of these cells before, with other {changed}")
    return said


def seed_orders(plans: Sequence[Mapping], default: Sequence) -> Mapping[tuple, Sequence]:
    """The order of the seeds of each (task, model, init): of the newest of `plans` that holds it, else `default`."""
    found: defaultdict[tuple, Sequence] = defaultdict(lambda: default)
    for logged in reversed(plans):
        found |= {tuple(cell[:3]): logged["plan"]["seeds"] for cell in logged["plan"]["cells"]}
    return found


def planned_methods(plans: Sequence[Mapping], reference: str) -> Mapping[tuple, tuple[str, ...]]:
    """The methods that the newest plan of a (task, model, init) compares: the family of Holm's correction."""
    found: dict[tuple, tuple[str, ...]] = {}
    for logged in reversed(plans):
        mine: defaultdict[tuple, list[str]] = defaultdict(list)
        for *place, method in logged["plan"]["cells"]:
            if method != reference:
                mine[tuple(place)].append(method)
        found |= {place: tuple(dict.fromkeys(methods)) for place, methods in mine.items()}
    return found


def mark_tuned(judged: pd.DataFrame, plans: Sequence[Mapping]) -> pd.DataFrame:
    """The frame of `judge` with a column `tuned`: the mark of allow_tuned_seeds on the verdicts that it concerns.

    `plans` as for `follows`; each has tuned, the seeds that its study's settings were tuned on: a mark for its cells,
    and for those of no plan where its own cells are lost.
    """
    tuned: dict[tuple, set] = {}
    unknown = {seed for logged in plans if logged.get("lost") for seed in logged["tuned"]}
    for logged in plans:
        for cell in map(tuple, logged["plan"]["cells"]):
            tuned.setdefault(cell, set()).update(logged["tuned"])
    marks = []
    for row in judged.itertuples():
        seeds = sorted(tuned.get((row.task, row.model, row.init, row.method), unknown) & set(row.seeds))
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
    said = [f"planned seeds without a pair: {_some(which)} in {_cells(cells)}" for which, cells in missing.items()]
    return said + [f"seeds that were not planned: {_some(which)} in {_cells(cells)}" for which, cells in extra.items()]


def _some(values: Sequence) -> str:
    shown = ", ".join(map(str, values[:10]))
    return shown if len(values) <= 10 else f"{shown} and {len(values) - 10} more"


def _cells(cells: Sequence[tuple]) -> str:
    return _some([f"{method} ({task}, {model}, {init})" for task, model, init, method in cells])


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
