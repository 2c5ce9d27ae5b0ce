"""Before the runs: what a design can decide, planned looks at the data, and whether a plan was followed.

Looking twice is paid for by Bonferroni: L planned looks test at level / L each, so that a family holds its
level over all looks. At each look Holm's family is the planned one: who was decided at an earlier look stays in
it with the differences of that look, and keeps the verdict. (The first false rejection has p <= level / (L t), t
the number of true nulls, at one of L looks: at most `level` in all.) Left out on purpose: boundaries that spend
less at first (O'Brien and Fleming), which few seeds cannot reach, and power from an observed effect.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from analysis import AnalysisError
from analysis.hypothesis import Verdict, detectable_effect, least_seeds, seeds_needed, verdicts

if TYPE_CHECKING:
    import pandas as pd

    from analysis.pairing import Paired

DIFFERENT, EQUIVALENT = "better or worse", "equivalent"
NOT_LEARNT = "not learnt"
OPEN = ("undecided", NOT_LEARNT)  # words that decide nothing


@dataclass(frozen=True)
class Gate:
    """What `seeds` can decide in a family of `methods` compared with one reference.

    can_differ, can_equal: whether better or worse, and equivalent, can be reached at all after Holm; least_differ,
    least_equal: the fewest seeds for each. detectable: the effect, in sd of the paired differences, found with
    power 0.8 (None below least_differ). seeds_for_margin: seeds that find an effect of the margin with that power
    (None without a spread). level: of each look.
    """

    seeds: int
    methods: int
    margin: float
    level: float
    looks: tuple[int, ...]
    spread: float | None
    can_differ: bool
    can_equal: bool
    least_differ: int
    least_equal: int
    detectable: float | None
    seeds_for_margin: int | None

    def lines(self) -> list[str]:
        """Plain sentences for people, one fact each."""
        if not self.methods:
            return ["one method only: there is nothing to compare it with"]
        family = "one method" if self.methods == 1 else f"a family of {self.methods} methods (Holm)"
        said = [f"{_seeds(self.seeds)}, {family}, margin {self.margin:g}, level {self.level:.4g}{self._at_looks()}"]
        said.append(_reach(DIFFERENT, self.can_differ, self.least_differ))
        said.append(_reach(EQUIVALENT, self.can_equal, self.least_equal))
        if self.detectable is not None:
            points = "" if self.spread is None else f", {self.detectable * self.spread:.2f} points at that spread"
            said.append(f"shown with power 0.8: an effect of {self.detectable:.2f} sd of the differences{points}")
        if self.seeds_for_margin is None:
            said.append(f"seeds for an effect of {self.margin:g} points: unknown until a spread is known")
        else:
            spread = f"with differences of sd {self.spread:.2f}"
            said.append(f"seeds for an effect of {self.margin:g} points, {spread}: {self.seeds_for_margin:,}")
        return said

    def _at_looks(self) -> str:
        if not self.looks:
            return ""
        looks = "1 look" if len(self.looks) == 1 else f"each of {len(self.looks)} looks"
        return f" at {looks} ({', '.join(map(str, self.looks))} seeds)"


def gate(
    seeds: int, methods: int, margin: float, level: float, looks: Sequence[int] = (), spread: float | None = None
) -> Gate:
    """What a plan can decide, before anything is spent.

    `seeds`: planned in all; `methods`: compared with the reference in one family, without it (settings count);
    `margin` and `spread` (sd of the paired differences, from earlier runs) in points; `level` of the whole
    study, of which each of the `looks` gets its share. Raises AnalysisError for a margin that is not above 0.
    """
    share = level_of_a_look(level, looks)
    verdicts({}, margin, share)  # a mistake is one before the runs too
    k = max(methods, 1)
    least = least_seeds(k, share)
    return Gate(
        seeds=seeds,
        methods=methods,
        margin=margin,
        level=share,
        looks=tuple(looks),
        spread=spread,
        can_differ=methods > 0 and seeds >= least,
        can_equal=methods > 0 and seeds >= least - 1,
        least_differ=least,
        least_equal=least - 1,
        detectable=detectable_effect(seeds, k, share) if methods else None,
        seeds_for_margin=None if spread is None or not methods else seeds_needed(spread, margin, k, share),
    )


def level_of_a_look(level: float, looks: Sequence[int] = ()) -> float:
    """The level at which each of the planned looks tests: level / L."""
    return level / max(len(looks), 1)


def check_looks(looks: Sequence[int], methods: int, level: float) -> None:
    """Refuse looks that do not rise, and a look at which a family of `methods` could decide nothing.

    Raises AnalysisError: with the least n at which equivalence, and a difference, could be called.
    """
    given = ",".join(map(str, looks))
    if any(n < 1 for n in looks) or list(looks) != sorted(set(looks)):
        raise AnalysisError(f"looks={given}: numbers of seeds that rise, such as 10,14,20")
    share = level_of_a_look(level, looks)
    least = least_seeds(max(methods, 1), share)
    if looks and looks[0] < least - 1:
        family = "one method" if methods <= 1 else f"{methods} methods"
        raise AnalysisError(
            f"looks={given}: a look at {_seeds(looks[0])} could decide nothing, whatever the data: {family} at "
            f"{level:g}/{len(looks)} need {least - 1} seeds for equivalent, {least} for better or worse"
        )


@dataclass(frozen=True)
class Decision:
    """A verdict and the look (number of seeds) at which it fell; for the undecided the last look that was taken.

    look is None, and the word undecided, where not even the first look has been reached.
    """

    verdict: Verdict
    look: int | None


def at_looks(
    families: Mapping,
    margin: float,
    level: float,
    looks: Sequence[int],
    zeros: str = "wilcox",
    not_learnt: Mapping | None = None,
) -> dict[Any, Decision]:
    """The verdict on each method of one family, tested at planned looks; a verdict once reached stays.

    `families`: method to its differences in the order of the planned seeds, None (or NaN) for a seed that was run
    without giving a pair; a method that was decided and no longer run is simply shorter. A look is taken once an
    undecided method has as many. What lies beyond the last look that was taken is not used. `not_learnt`: by method,
    the places of the seeds at which neither side learnt; a method without any other is as open as an undecided one.
    Raises AnalysisError as `verdicts` and `check_looks` do.
    """
    check_looks(looks, len(families), level)
    share = level_of_a_look(level, looks)
    samples = {method: list(d) for method, d in families.items()}
    found: dict[object, Decision] = {}
    used: dict[object, list] = {method: [] for method in samples}
    open_ = list(samples)
    for look in looks:
        if not any(len(samples[method]) >= look for method in open_):
            break
        used |= {method: _given(samples[method][:look]) for method in open_}
        told = where_learnt(verdicts(used, margin, share, zeros), _none_learnt(samples, not_learnt or {}, look))
        found |= {method: Decision(_dated(told[method], look, looks, samples[method]), look) for method in open_}
        open_ = [method for method in open_ if told[method].word in OPEN]
    if not found and samples:
        told = verdicts({method: _given(d) for method, d in samples.items()}, margin, share, zeros)
        found = {method: Decision(_waiting(told[method], looks[0]), None) for method in samples}
    return found


def where_learnt(told: Mapping, none_learnt: Collection) -> dict:
    """Verdicts by method, "not learnt" for those of which neither a run nor its reference's learnt, whatever they give.

    Such a method keeps its place in the family and its p.
    """
    reason = "every run of both sides gives all examples one class, so there is nothing to compare"
    lost = {"word": NOT_LEARNT, "negligible": False, "reason": reason, "seeds_needed": None}
    return {method: replace(verdict, **lost) if method in none_learnt else verdict for method, verdict in told.items()}


def _none_learnt(samples: Mapping, not_learnt: Mapping, look: int) -> set:
    """The methods of whose pairs up to this look not one has a run that learnt."""
    pairs = {m: {i for i, x in enumerate(d[:look]) if _given([x])} for m, d in samples.items()}
    return {method for method, places in pairs.items() if places and places <= set(not_learnt.get(method, ()))}


def _given(differences: Sequence) -> list[float]:
    return [x for x in differences if x is not None and not math.isnan(x)]


def _dated(verdict: Verdict, look: int, looks: Sequence[int], sample: Sequence) -> Verdict:
    """The verdict with the look at which it fell in its reason."""
    said = f"look at {_seeds(look)}"
    if verdict.word in OPEN:
        later = [n for n in looks if n > look]
        said += f", the next is at {later[0]}" if later else ", the last that was planned"
    if len(sample) > look:
        said += f"; {_seeds(len(sample) - look)} beyond it are not used"
    return replace(verdict, reason=f"{verdict.reason}; {said}")


def _waiting(verdict: Verdict, first: int) -> Verdict:
    reason = f"{_seeds(verdict.test.n)}, the first planned look is at {first}: nothing is decided before"
    needed = max(verdict.seeds_needed or first, first)
    return replace(verdict, word="undecided", negligible=False, reason=reason, seeds_needed=needed)


def make_plan(
    cells: Iterable[Sequence[str]],
    seeds: Sequence[int],
    metric: str | None,
    margin: float,
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
        "margin": margin,
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
    margin: float,
    level: float,
    looks: Sequence[int],
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
            said += _follows(logged, cells, runs, rows, paired.reference, (metric, margin, level, looks))
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
    rule: tuple[str | None, float, float, Sequence[int]],
) -> list[str]:
    """What is said of one plan, about those of its cells that no newer plan holds."""
    run_id, digest, plan = (logged[name] for name in ("run_id", "digest", "plan"))
    if plan_digest(plan) != digest:
        return [f"plan.json of run {run_id} is not the plan that was logged: its digest is not {digest}"]
    departs = compare_plan({**plan, "cells": [cell for cell in cells if cell[3] != reference]}, judged, *rule)
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


def mark_tuned(judged: pd.DataFrame, plans: Sequence[Mapping]) -> pd.DataFrame:
    """The frame of `tables.judge`, with the mark of allow_tuned_seeds on the verdicts that it concerns.

    `plans` as for `follows`; each has tuned, the seeds that its study's settings were tuned on: a mark for its cells,
    and for those of no plan where its own cells are lost.
    """
    tuned: dict[tuple, set] = {}
    unknown = {seed for logged in plans if logged.get("lost") for seed in logged["tuned"]}
    for logged in plans:
        for cell in map(tuple, logged["plan"]["cells"]):
            tuned.setdefault(cell, set()).update(logged["tuned"])
    reasons = []
    for row in judged.itertuples():
        seeds = sorted(tuned.get((row.task, row.model, row.init, row.method), unknown) & set(row.seeds))
        mark = f"; tuned on seeds of this comparison ({', '.join(map(str, seeds))})" if seeds else ""
        reasons.append(f"{row.reason}{mark}")
    judged["reason"] = reasons
    return judged


def compare_plan(
    plan: dict, judged: pd.DataFrame, metric: str | None, margin: float, level: float, looks: Sequence[int]
) -> list[str]:
    """Where what is reported departs from the logged plan, a sentence each; empty where it follows it.

    `judged`: the frame of `tables.judge`; the others as they were used for it. With planned looks a method may end
    with the seeds of the look that decided it.
    """
    used = make_plan([], [], metric, margin, level, looks)
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
        said.append(f"planned, but not compared (Holm's family is smaller than planned): {_cells(absent)}")
    if added := [cell for cell in found if cell not in planned]:
        said.append(f"compared, but not planned: {_cells(added)}")
    if several := [cell for cell, rows in found.items() if len(rows) > 1]:
        said.append(f"several settings, where the plan has one: {_cells(several)}")
    return said + _seeds_of_plan(plan["seeds"], {cell: found[cell] for cell in planned if cell in found}, looks)


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


def _reach(word: str, can: bool, least: int) -> str:
    return f"{word}: {'can be reached' if can else 'cannot be reached, whatever the data'} (needs {_seeds(least)})"


def _seeds(n: int) -> str:
    return f"{n} seed" if n == 1 else f"{n} seeds"
