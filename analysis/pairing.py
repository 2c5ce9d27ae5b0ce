"""Runs -> paired samples: each method's runs beside the reference's runs of the same seed.

Nothing is left out silently: every student run is in a comparison or in `left_out` with its reason. Runs of other
kinds (teacher, trial, launch, ...) are not looked at.
"""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from analysis import direction, unknown
from analysis.hypothesis import LARGEST, rounded
from analysis.students import PROTOCOL, SHARED, Run, logged, methods_own, read, setting_names
from labelreg.methods import METHODS as KNOWN
from labelreg.methods import parted

REST, TEST, DEV = "best/rest/score", "best/test/score", "best/dev/score"  # the first that all of a task's runs have
LAST_REST, LAST_TEST, LAST_DEV = "last/rest/score", "last/test/score", "last/dev/score"
BY_SELECTION = {"best": (REST, TEST, DEV), "last": (LAST_REST, LAST_TEST, LAST_DEV)}
METHODS = tuple(KNOWN)  # order of rows; others follow by name
WHO = ["task", "model", "init", "method", "setting"]  # Comparison.who
LEFT_OUT = ["run_id", *WHO[:4], "seed", "family", "reason"]


@dataclass(frozen=True)
class Comparison:
    """One method and setting against the reference; the tuples have one entry per pair, in order of seed.

    differences: method - reference, with the sign turned where lower is better (`negated`), so that higher is
    always better. family: what is tested together, "" or e.g. "epochs=5" where one (task, model, init) holds
    several.
    """

    task: str
    model: str
    init: str
    family: str
    method: str
    setting: str
    reference: str
    metric: str
    negated: bool
    seeds: tuple
    scores: tuple[float, ...]
    reference_scores: tuple[float, ...]
    differences: tuple[float, ...]
    run_ids: tuple[str, ...]
    reference_run_ids: tuple[str, ...]
    teachers: tuple[str, ...] = ()  # the runs that the method's runs learnt from, "" for none
    data: tuple = field(default=(), compare=False)  # digests of what they learnt from, None where not known
    settings: tuple[tuple, ...] = ()  # of students.setting_names: the method's values, the reference's

    @property
    def who(self) -> tuple[str, ...]:
        """Its name: no other comparison of the same metric has it."""
        return self.task, self.model, self.init, self.method, self.setting

    @property
    def label(self) -> str:
        return f"{self.method} [{self.setting}]" if self.setting else self.method

    @property
    def where(self) -> tuple[str, ...]:
        """The name of its family, whichever the metric."""
        return self.task, self.model, self.init, self.family


@dataclass(frozen=True, eq=False)
class Paired:
    """What `pair` found: comparisons, the unused runs with their reasons, the usable runs with scores.

    `start` of a run is in seconds, -inf where it is not known. `not_learnt`: ids of runs that are known to give every
    example one class (their tag; predictions.marked adds those of runs that were logged before there was the tag).
    `examples`: by run id, how many its score is from, where that is known (predictions.marked). `left_of`: seed,
    reason and settings (students.setting_names) of what is left out, by (task, model, init, method, family).
    """

    reference: str
    comparisons: tuple[Comparison, ...]
    left_out: pd.DataFrame
    runs: pd.DataFrame
    not_learnt: frozenset[str] = frozenset()
    examples: Mapping[str, int] = field(default_factory=dict)
    left_of: Mapping[tuple, list[tuple]] = field(default_factory=dict)

    @property
    def families(self) -> list[list[Comparison]]:
        """The comparisons that are tested together."""
        found = defaultdict(list)
        for c in self.comparisons:
            found[c.task, c.model, c.init, c.metric, c.family].append(c)
        return list(found.values())

    def tested(self, family: Iterable[Comparison]) -> int | None:
        """How many examples the scores of a family are from, where that is known; the least, of several sets."""
        known = (self.examples.get(run_id) for c in family for run_id in (*c.run_ids, *c.reference_run_ids))
        return min(filter(None, known), default=None)

    @property
    def compared(self) -> list[str]:
        """The ids of all runs that are in a comparison."""
        return list(dict.fromkeys(run for c in self.comparisons for run in (*c.reference_run_ids, *c.run_ids)))


def pair(
    runs: pd.DataFrame, reference: str = "finetune", metric: str | None = None, lower: Collection[str] = ()
) -> Paired:
    """Pair the finished students of `runs` (as `mlflow.search_runs` returns them) with the reference's.

    A pair has equal task, model, init, seed, data digest and PROTOCOL, compared by value; what neither side
    has is equal. A method is compared with the reference runs of its own SHARED setting where there are such,
    else with the only setting that there is. Of runs that agree in all of this and in their own setting the
    newest is taken where their fingerprints agree, else none. `metric` defaults, per task, to the score on the rest of
    the training set where every usable run has it, else on test, else on dev: of the weights that the runs have kept,
    the best epoch's or the last's. `lower`: metrics of which lower is better, beside those that are known to be
    so. A missing `status` means finished; without `tags.labelreg.kind` no run is a student. Raises AnalysisError for a
    metric that no student logged, and for a reference without runs unless it is finetune. Source: docs/statistics.md.
    """
    left: list[tuple[Run, str]] = []
    students = read(runs)
    methods = sorted({run.method for run in students})
    known = {*methods, "finetune"} if students else METHODS
    if reference not in known:
        raise unknown("reference", reference, sorted(known))
    metrics = logged(runs, students)
    if students and metric is not None and metric not in metrics:
        raise unknown("metric", metric, sorted(metrics))
    if students:
        direction.check(lower, metrics)
    usable = _scored(_finished(students, left), metrics, metric, left)
    usable = _newest(usable, left)
    pairs = _matched(usable, reference, left)
    split = _several_sets(run for run, _ in pairs)
    comparisons = _compare(pairs, reference, split, lower)
    by_id = {run.run_id: run for run, _ in pairs}
    compared: defaultdict[tuple, dict[tuple, str]] = defaultdict(dict)
    for c in comparisons:
        run = by_id[c.run_ids[0]]
        data = run.data if (run.task, run.protocol) in split else None
        compared[run.cell].setdefault((*run.protocol, data), c.family)
    left.sort(key=lambda item: item[0].row)
    rows, left_of = [], defaultdict(list)
    for run, why in left:
        family = _family(run, compared[run.cell])
        rows.append((run.run_id, *run.cell, run.method, run.seed, family, why))
        if run.seed is not None:
            left_of[*run.cell, run.method, family].append((run.seed, why, run.settings))
    not_learnt = frozenset(run.run_id for run in usable if run.one_class)
    left_out = pd.DataFrame(rows, columns=LEFT_OUT)
    examples = runs.set_index("run_id")["examples"].dropna().astype(int).to_dict() if "examples" in runs else {}
    return Paired(reference, comparisons, left_out, _table(usable, split), not_learnt, examples, left_of)


def seed_order(runs: pd.DataFrame) -> tuple:
    """Seeds of the students in the order in which they were first run; without start times, of the rows."""
    first: dict = {}
    for run in read(runs):
        if run.seed is not None:
            first[run.seed] = min(first.get(run.seed, math.inf), run.start)
    return tuple(sorted(first, key=lambda seed: first[seed]))


# Which runs count


def _finished(students: list[Run], left: list) -> list[Run]:
    usable = []
    for run in students:
        missing = [name for name in ("task", "method", "seed") if getattr(run, name) in ("", None)]
        if run.status not in ("", "FINISHED"):
            left.append((run, run.status.lower()))
        elif missing:
            left.append((run, f"no parameter {', '.join(missing)}"))
        else:
            usable.append(run)
    return usable


def _scored(usable: list[Run], metrics: dict, metric: str | None, left: list) -> list[Run]:
    def score(run: Run, name: str) -> float:
        return metrics[name][run.row] if name in metrics else math.nan

    def has(run: Run, name: str) -> bool:
        return math.isfinite(score(run, name))

    same: defaultdict[tuple, list[Run]] = defaultdict(list)  # runs that are one run, done again
    for run in usable:
        same[_identity(run)].append(run)

    def chosen(task: str, kept: str) -> str:
        """The first that every run has; one that was done again with a further test set has it for all of its kind."""
        groups = [group for group in same.values() if (group[0].task, group[0].kept) == (task, kept)]
        rest, test, dev = BY_SELECTION[kept]
        groups = [group for group in groups if any(has(run, name) for run in group for name in (rest, test, dev))]
        whole = (name for name in (rest, test) if groups and all(any(has(r, name) for r in g) for g in groups))
        return next(whole, dev)

    names = {(task, kept): metric or chosen(task, kept) for task, kept in {(run.task, run.kept) for run in usable}}
    kept = []
    for run in usable:
        name = names[run.task, run.kept]
        others = [other.run_id for other in same[_identity(run)] if run.fingerprint and has(other, name)]
        if abs(score(run, name)) <= LARGEST / 2:
            kept.append(replace(run, metric=name, score=score(run, name)))
        elif has(run, name):
            left.append((run, f"no score: {name} is {score(run, name):g}"))
        elif others:
            left.append((run, f"duplicate: {others[0]} has the same fingerprint, and {name}"))
        else:
            left.append((run, f"no such metric: {name} is missing or no finite number"))
    return kept


def _identity(run: Run) -> tuple:
    known = run.fingerprint or run.run_id
    return run.cell, run.method, run.seed, run.protocol, run.setting, run.data, known


def _newest(usable: list[Run], left: list) -> list[Run]:
    same = defaultdict(list)
    for run in usable:
        same[run.cell, run.method, run.seed, run.protocol, run.setting, run.data].append(run)
    kept = []
    for group in same.values():
        group.sort(key=lambda run: -run.start)
        prints = {run.fingerprint for run in group}
        if len(group) == 1 or (len(prints) == 1 and None not in prints):
            kept.append(group[0])
            reason = f"duplicate: {group[0].run_id} has the same fingerprint and is newer"
            left.extend((run, reason) for run in group[1:])
        else:
            ids = ", ".join(run.run_id for run in group)
            reason = f"conflict: {ids} agree in setting and seed" + ", not in fingerprint" * (prints != {None})
            left.extend((run, reason) for run in group)
    return sorted(kept, key=lambda run: run.row)


def _matched(usable: list[Run], reference: str, left: list) -> list[tuple[Run, Run]]:
    """Pairs (run, reference run)."""
    references = [run for run in usable if run.method == reference]
    partners: defaultdict[tuple, defaultdict[tuple, dict[tuple, Run]]]
    partners = defaultdict(lambda: defaultdict(dict))
    for run in references:
        partners[run.cell, run.protocol][run.setting][run.seed, run.data] = run
    pairs = []
    for run in usable:
        if run.method == reference:
            continue
        settings: dict[tuple, dict[tuple, Run]] = dict(partners.get((run.cell, run.protocol), {}))
        settings = {s: found for s, found in settings.items() if s[0] == run.shared} or settings
        partner = next(iter(settings.values())).get((run.seed, run.data)) if len(settings) == 1 else None
        if partner:
            pairs.append((run, partner))
        elif len(settings) > 1:
            left.append((run, _refusal(list(settings), reference)))
        else:
            left.append((run, _why_alone(run, references, reference)))
    used = {partner.row for _, partner in pairs}
    alone = "no partner: no run of another method pairs with it"
    left.extend((run, alone) for run in references if run.row not in used)
    return pairs


def _refusal(settings: list[tuple], reference: str) -> str:
    flat = [shared + mine for shared, mine in settings]
    shown = " | ".join(_describe(SHARED + methods_own(), values, flat) for values in flat)
    return f"refused: {reference} has several settings ({shown}), none is this run's own: narrow with where"


def _why_alone(run: Run, references: list[Run], reference: str) -> str:
    near = [other for other in references if other.cell == run.cell]
    if not near:
        return f"no partner: no usable {reference} run of this task, model and init"
    near = [other for other in near if other.seed == run.seed]
    if not near:
        return f"no partner: no usable {reference} run with seed {run.seed}"

    def differences(names: Iterable[str], mine: Iterable[object], theirs: Iterable[object]) -> list[str]:
        values = zip(names, mine, theirs, strict=True)
        return [f"{name} {_show(a)}, {reference} {_show(b)}" for name, a, b in values if a != b]

    def protocol(other: Run) -> list[str]:
        return differences((*PROTOCOL, "data digest"), (*run.protocol, run.data), (*other.protocol, other.data))

    closest = min(near, key=lambda other: len(protocol(other)))
    if protocol(closest):
        return f"no partner: other {'; '.join(protocol(closest))}"
    setting = "; ".join(differences(SHARED, run.shared, closest.shared))
    return f"no partner: with seed {run.seed} {reference} has only another setting ({setting})"


# Comparisons and their names


def _compare(
    pairs: list[tuple[Run, Run]], reference: str, split: set[tuple], lower: Collection[str]
) -> tuple[Comparison, ...]:
    groups = defaultdict(list)
    for run, partner in pairs:
        data = run.data if (run.task, run.protocol) in split else None
        groups[run.cell, (*run.protocol, data), run.method, run.setting].append((run, partner))

    protocols, settings = defaultdict(list), defaultdict(list)
    for cell, protocol, method, setting in groups:
        protocols[cell].append(protocol)
        settings[cell, protocol, method].append(setting)

    def rank(key: tuple[Any, Any, Any, Any]) -> tuple:
        cell, protocol, method, (shared, own) = key
        return cell, _order(protocol), method_rank(method), _order(shared + own)

    comparisons = []
    for key in sorted(groups, key=rank):
        cell, protocol, method, setting = key
        found = sorted(groups[key], key=lambda pair: _order([pair[0].seed]))
        family = _describe((*PROTOCOL, "data"), protocol, protocols[cell])
        told = _setting(setting, found[0][1].shared, settings[cell, protocol, method], reference)
        named = "; ".join(filter(None, [family, told]))
        negated = direction.lower_is_better(found[0][0].metric, lower)
        comparisons.append(_comparison(found, family, named, reference, negated))
    return tuple(comparisons)


def _several_sets(runs: Iterable[Run]) -> set[tuple]:
    """The (task, protocol) whose runs are of several data sets, each a family of its own.

    fewrel's examples are drawn anew for each seed: there only two digests of one seed are two data sets, or one of two
    seeds beside another (a file of one's own may be called so, too).
    """
    digests, seeds = defaultdict(set), defaultdict(list)
    for run in runs:
        if run.task.startswith("fewrel"):
            seeds[run.cell, run.protocol, run.method, run.setting].append((run.seed, run.data))
        elif run.data:
            digests[run.task, run.protocol].add(run.data)
    known = {key: {(seed, data) for seed, data in found if data} for key, found in seeds.items()}
    twice = {key for key, found in seeds.items() if len({seed for seed, _ in found}) < len(found)}
    fewer = twice | {key for key, found in known.items() if 1 < len({data for _, data in found}) < len(found)}
    return {(cell[0], protocol) for cell, protocol, *_ in fewer} | {key for key, d in digests.items() if len(d) > 1}


def _family(run: Run, compared: dict[tuple, str]) -> str:
    """The family that a run without a pair would have been of; `compared`: those of its cell, by protocol and data.

    What a run that did not end has not logged yet (a value, or what `auto` came to) fits every protocol.
    """
    for (*protocol, data), family in compared.items():
        here = None in (data, run.data) or data == run.data
        if here and all(mine in (theirs, None, "auto") for mine, theirs in zip(run.protocol, protocol, strict=True)):
            return family
    return _describe(PROTOCOL, run.protocol, [*compared, run.protocol])


def _comparison(found: list[tuple[Run, Run]], family: str, setting: str, reference: str, negated: bool) -> Comparison:
    runs, partners = zip(*found, strict=True)
    differences = rounded([run.score - partner.score for run, partner in found])
    return Comparison(
        *found[0][0].cell,
        family=family,
        method=runs[0].method,
        setting=setting,
        reference=reference,
        metric=runs[0].metric,
        negated=negated,
        seeds=tuple(run.seed for run in runs),
        scores=tuple(run.score for run in runs),
        reference_scores=tuple(run.score for run in partners),
        differences=tuple((-differences + 0.0 if negated else differences).tolist()),
        run_ids=tuple(run.run_id for run in runs),
        reference_run_ids=tuple(run.run_id for run in partners),
        teachers=tuple(run.teacher for run in runs),
        data=tuple(run.data for run in runs),
        settings=(runs[0].settings, partners[0].settings),
    )


def _setting(setting: tuple, reference_shared: tuple, siblings: list[tuple], reference: str) -> str:
    """As in "batch_size 8, finetune 32"; where the method has a second setting, what tells them apart too."""
    shared, mine = setting
    parts = []
    for i, name in enumerate(SHARED):
        if shared[i] != reference_shared[i]:
            parts.append(f"{name} {_show(shared[i])}, {reference} {_show(reference_shared[i])}")
        elif any(other[0][i] != shared[i] for other in siblings):
            parts.append(f"{name} {_show(shared[i])}")
    if len(siblings) > 1:
        parts += [
            f"{name} {_show(value)}" for name, value in zip(methods_own(), mine, strict=True) if value is not None
        ]
    return "; ".join(parts)


def _table(usable: list[Run], split: set[tuple]) -> pd.DataFrame:
    """Usable runs with scores; `setting` names what differs among the runs of one method in one cell."""
    held: defaultdict[tuple, dict[tuple, bool]] = defaultdict(dict)  # each setting once: of 2,000 seeds there are few
    seen, twice = set(), set()
    for run in usable:
        key, once = (run.cell, run.method), (run.cell, run.method, run.seed, run.protocol, run.setting)
        held[key][run.settings] = True
        twice |= {key} if once in seen else set()
        seen.add(once)
    rows = []
    for run in usable:
        key = (run.cell, run.method)
        told = _describe(setting_names(), run.settings, list(held[key]))
        if run.data and (key in twice or (run.task, run.protocol) in split):
            told = ", ".join(filter(None, [told, f"data={_show(run.data)}"]))
        rows.append((run.run_id, *run.cell, run.method, told, run.seed, run.metric, run.score, run.start, run.never))
    return pd.DataFrame(rows, columns=["run_id", *WHO, "seed", "metric", "score", "start", "never"])


def _describe(names: Iterable[str], values: tuple, among: list[tuple]) -> str:
    """The values that are not the same in all of `among`, by name; data wherever it has a value."""
    told = [
        f"{name}{'=' if name in (*PROTOCOL, 'data') else ' '}{_show(value)}"
        for i, (name, value) in enumerate(zip(names, values, strict=False))
        if (value is not None if name == "data" else len({other[i] for other in among}) > 1)
    ]
    return ", ".join(told)


def _show(value: object) -> str:
    text = "none" if value is None else str(value)
    return text[:8] if re.fullmatch("[0-9a-f]{32}", text) else text


def _order(values: Iterable[Any]) -> list:
    return [(value is None, isinstance(value, str), 0 if value is None else value) for value in values]


def method_rank(method: str) -> tuple[int, str]:
    """Sorts methods: in the order of METHODS, each before itself with averaged weights, then others by name."""
    base = parted(method)[0]
    return METHODS.index(base) if base in METHODS else len(METHODS), method


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The rows by task, model, init and method (`method_rank`), then by setting, the numbers in it by size."""

    def rank(row: Any) -> tuple:
        setting = re.sub(r"\d+", lambda number: number[0].zfill(12), row.setting)
        return row.task, row.model, row.init, method_rank(row.method), setting

    ranks = [rank(row) for row in table.itertuples()]
    return table.iloc[sorted(range(len(ranks)), key=ranks.__getitem__)].reset_index(drop=True)
