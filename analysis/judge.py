"""The verdict on every comparison, one row each: what people, programs and the MLflow UI are told is read from it."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.hypothesis import DECIMALS, FEW, Pairs, Test, Verdict, compare, holm, pairs, verdicts
from analysis.interim import OPEN, at_looks, check_looks, joint, where_learnt, without_stopping
from analysis.margins import Margins, margins
from analysis.pairing import WHO, Comparison, Paired
from analysis.power import more_seeds, robust_sd, seeds_needed
from labelreg.methods import METHODS, parted

COLUMNS = [
    *(*WHO, "reference", "metric", "negated", "n", "test"),
    *("mean_method", "std_method", "mean_reference", "mean_difference", "std_difference"),
    *("estimate", "low", "high", "level", "p_value", "p_holm", "min_p_value"),
    *("p_equivalence", "p_equivalence_holm", "margin", "verdict", "negligible", "decidable"),
    *("family_size", "more_seeds", "seeds_for_margin", "p_holm_study", "look", "mean_corrected"),
    *("not_learnt", "not_learnt_reference", "failed", "failed_reference", "p_failures", "examples", "teachers"),
]
EXTRA = [
    *("n_nonzero", "protocol", "reason", "margin_why", "p_verdict", "estimate_failures"),
    *("seeds", "scores", "differences"),
]
NUMBERS = ("mean_method", "std_method", "mean_reference", "mean_difference", "std_difference", "mean_corrected")
LEVEL = 0.05
COUNTS = ("more_seeds", "seeds_for_margin", "look", "examples")


@dataclass(frozen=True)
class Rule:
    """What decides: the margins, the level of a family, the planned looks."""

    margins: Margins = margins(None)
    level: float = LEVEL
    looks: tuple[int, ...] = ()

    @property
    def level_of_a_look(self) -> float:
        """The p at which one look decides."""
        return joint(self.looks).level(self.level) if self.looks else self.level


@dataclass(frozen=True, eq=False)
class Planned:
    """What a plan (as it was logged) is about, of the comparisons that there are; plan_check.held finds it.

    families: Comparison.where, with the methods that it compares there; comparisons: Comparison.who of those that it
    planned; own: whether runs of its study say so, and not the names of its cells alone.
    """

    logged: Mapping
    families: Mapping[tuple, Sequence[str]]
    comparisons: Collection[tuple]
    own: bool

    @property
    def start(self) -> float:
        """When its study began, in seconds."""
        return float(self.logged.get("start", 0))


def judge(
    paired: Paired, rule: Rule | None = None, order: Sequence = (), planned: Sequence[Planned] = ()
) -> pd.DataFrame:
    """One row per comparison: COLUMNS, and EXTRA with the reason.

    Differences, estimate, interval and margin are in units of the metric (points); negated: lower is better, and the
    sign of the former three is turned. test: rank-sum up to hypothesis.FEW
    seeds, signed-rank above. family_size: the methods that Holm corrects for. more_seeds: of the undecided, the seeds
    beside these with which a verdict falls nine times in ten (missing: more than power.MOST); seeds_for_margin: seeds
    in all for an effect of the margin (both missing where looks are planned: none beyond them). not_learnt,
    not_learnt_reference: runs of each side known to give every example one class; where all do, the verdict is "not
    learnt". failed, failed_reference: seeds that ended in an error; p_failures, estimate_failures: of the same test
    with these as losses. With planned looks each row is about the seeds of its `look`, and mean_corrected is the mean
    without what stopping adds to it. p_holm_study is Holm over all rows and what their families count beside them.

    Args:
        order: of all seeds, where no plan has one; default: rising.
        planned: the first of these that planned a comparison has its family and its order of seeds. What none planned
            is an addition: it is corrected for all methods there are, and changes no planned verdict.

    Raises:
        AnalysisError: a margin, level or looks that are not allowed.
    """
    rule = rule or Rule()
    check_looks(rule.looks, 1, rule.level)
    rows, absent = [], 0
    for members in paired.families:
        first = members[0]
        about = [plan.logged["plan"].get("looks") for plan in planned if first.where in plan.families]
        if list(rule.looks) not in about:  # looks that were planned are what they are, whatever was added since
            check_looks(rule.looks, len(members), rule.level)
        examples = paired.tested(members)
        rule.margins.fits(first.task, first.metric, [score for c in members for score in c.scores + c.reference_scores])
        margin = rule.margins.of(first.task, first.metric, examples)
        told: dict[tuple, tuple[Comparison, Collection | None, Verdict, int]] = {}
        for family, size, seeds in _parts(members, order, planned):
            if told.keys() >= {c.who for c in family}:
                continue
            cut, used, found = _decide(paired, family, margin, rule, size, seeds)
            for i, c in enumerate(family):
                told.setdefault(c.who, (cut[i], used[i], found[i], size))
        rows += [_row(paired, *told[c.who], margin, rule, examples) for c in members]
        absent += max(0, max(size for *_, size in told.values()) - len(members))
    if not rows:
        verdicts({}, 1.0, rule.level)  # a mistake is one, with nothing to compare too
    frame = pd.DataFrame(rows, columns=COLUMNS + EXTRA)
    p_of_looks = joint(rule.looks).two_sided if rule.looks else float
    frame["p_holm_study"] = holm(map(p_of_looks, frame["p_value"]), absent)
    kinds = dict.fromkeys((*NUMBERS, "p_failures", "estimate_failures"), float) | dict.fromkeys(COUNTS, "Int64")
    return frame.astype(kinds)


def by_who(judged: pd.DataFrame) -> dict[tuple, Any]:
    """The rows of `judge` by the names of their comparisons (Comparison.who)."""
    return {(row.task, row.model, row.init, row.method, row.setting): row for row in judged.itertuples()}


def _parts(
    members: list[Comparison], order: Sequence, planned: Sequence[Planned]
) -> Iterator[tuple[list[Comparison], int, Sequence]]:
    """What each plan holds of a family, how many comparisons Holm counts for it, and the order of its seeds; last the
    whole family, in which what was added is told of.

    A plan counts what plans before it compared with the same runs of the reference, too: five studies of a method (or
    of a setting) each are a family of five by the last, else the best of them would be found without a correction.
    """
    where = members[0].where
    here = [plan for plan in planned if where in plan.families]
    for plan in here:
        mine = [c for c in members if c.who in plan.comparisons]
        before = [each for each in here if each.own and each.start < plan.start]
        counted = [*mine, *beside(members, plan, before)]
        yield mine, _counted(counted, plan.families[where]), plan.logged["plan"]["seeds"]
    everyone = [method for plan in here for method in plan.families[where]]
    yield members, _counted(members, everyone), here[0].logged["plan"]["seeds"] if here else order


def beside(comparisons: Iterable[Comparison], plan: Planned, others: Sequence[Planned]) -> list[Comparison]:
    """What other plans, and not this one, compare with runs of the reference that this one compares with."""
    comparisons = list(comparisons)
    shared = {run_id for c in comparisons if c.who in plan.comparisons for run_id in c.reference_run_ids}
    return [
        c
        for c in comparisons
        if c.who not in plan.comparisons
        and any(c.who in other.comparisons for other in others)
        and not shared.isdisjoint(c.reference_run_ids)
    ]


def _counted(family: Sequence[Comparison], methods: Iterable[str]) -> int:
    """The size of a family: its comparisons, and the methods that were planned and are not there."""
    return len(family) + len(set(methods) - {c.method for c in family})


def _decide(
    paired: Paired, members: list[Comparison], margin: float, rule: Rule, planned: int, order: Sequence
) -> tuple[list[Comparison], Sequence[Collection | None], dict[int, Verdict]]:
    """The members of a family, cut to the seeds of their look where looks are planned; these seeds, with those that
    gave no pair (None: there is no look); and their verdicts."""
    if rule.looks:
        return _at_looks(paired, members, margin, rule, planned, order)
    none = {i for i, c in enumerate(members) if c.seeds and len(neither(paired, c)) == len(c.seeds)}
    told = verdicts({i: _pairs(c) for i, c in enumerate(members)}, margin, rule.level, planned)
    return members, [None] * len(members), where_learnt(told, none)


def _pairs(c: Comparison) -> Pairs:
    sign = -1 if c.negated else 1
    return pairs(sign * np.array(c.scores), sign * np.array(c.reference_scores))


def _at_looks(
    paired: Paired, members: list[Comparison], margin: float, rule: Rule, planned: int, order: Sequence
) -> tuple[list[Comparison], Sequence[Collection | None], dict[int, Verdict]]:
    """A look waits for the runs of its seeds that are not through, whichever member's they are, and never takes later
    seeds in their place."""
    paired_seeds = set().union(*(c.seeds for c in members))  # of these the reference is through
    pending = set().union(*(_left(paired, c, "running", of_reference=True) for c in members)) - paired_seeds
    pending = pending.union(*(_left(paired, c, "running") - set(c.seeds) for c in members))
    own = [{*c.seeds, *_left(paired, c)} for c in members]  # with the seeds that were run without giving a pair
    tried = pending.union(*own)
    seeds = [seed for seed in order if seed in tried]
    seeds += sorted(tried - set(seeds), key=lambda seed: (isinstance(seed, str), seed))
    waits = [seed for seed in seeds if seed in pending]
    end = seeds.index(waits[0]) if waits else len(seeds)

    def sample(c: Comparison, mine: set) -> list:
        both = _pairs(c)
        given = dict(zip(c.seeds, zip(both.mine, both.theirs, strict=True), strict=True))
        last = max(i for i, seed in enumerate(seeds) if seed in mine)
        return [given.get(seed) for seed in seeds[: min(last + 1, end)]]

    samples = {i: sample(c, mine) for i, (c, mine) in enumerate(zip(members, own, strict=True))}
    none = {i: {seeds.index(seed) for seed in neither(paired, c)} for i, c in enumerate(members)}
    found = at_looks(samples, margin, rule.level, rule.looks, planned, not_learnt=none)
    used = [seeds[: found[i].look or len(samples[i])] for i in range(len(members))]
    cut = [of_seeds(c, mine) for c, mine in zip(members, used, strict=True)]
    return cut, used, {i: _waiting(d, waits, members[i]) for i, d in found.items()}


def _left(paired: Paired, c: Comparison, reason: str = "", of_reference: bool = False) -> set:
    """The seeds of which a run of this comparison is left out for this reason; for any but running without one.

    What a run has not logged, or as auto, fits every setting.
    """
    theirs = c.settings[of_reference] if c.settings else ()
    name = c.task, c.model, c.init, c.reference if of_reference else c.method, c.family
    return {
        seed
        for seed, why, mine in paired.left_of.get(name, ())
        if (why == reason if reason else why != "running")
        and all(a in (b, None, "auto") for a, b in zip(mine, theirs, strict=False))
    }


def _waiting(verdict: Verdict, pending: list, c: Comparison) -> Verdict:
    """The verdict on `c`, with the seed that the next look waits for in its reason."""
    if not pending or verdict.word not in OPEN:
        return verdict
    behind = len(c.seeds) - verdict.test.n
    reason = f"{verdict.reason}; seed {pending[0]} still runs{f', pairs behind it: {behind}' if behind else ''}"
    return replace(verdict, reason=reason)


def neither(paired: Paired, c: Comparison) -> list:
    """The seeds of a comparison with which neither side learnt."""
    ids = zip(c.seeds, c.run_ids, c.reference_run_ids, strict=True)
    return [seed for seed, *both in ids if paired.not_learnt.issuperset(both)]


def of_seeds(c: Comparison, seeds: Sequence) -> Comparison:
    kept = [i for i, seed in enumerate(c.seeds) if seed in seeds]
    names = ("seeds", "scores", "reference_scores", "differences", "run_ids", "reference_run_ids", "teachers", "data")
    cut: dict[str, Any] = {name: tuple(getattr(c, name)[i] for i in kept) for name in names}
    return replace(c, **cut)


def _row(
    paired: Paired,
    c: Comparison,
    used: Collection | None,
    verdict: Verdict,
    size: int,
    margin: float,
    rule: Rule,
    examples: int | None,
) -> tuple:
    d, test = np.array(c.differences), verdict.test
    failed, failed_reference = (_failed(paired, c, side, used) for side in (False, True))
    as_losses = _with_failures(c, len(failed - failed_reference), len(failed_reference - failed))
    open_ = verdict.word == "undecided" and not rule.looks  # planned looks decide alone
    early = verdict.look is not None and verdict.word in ("better", "worse")
    mine, theirs, differences = (pd.Series(values, dtype=float) for values in (c.scores, c.reference_scores, d))
    of_all = vars(c) | vars(test) | vars(verdict)
    values = of_all | {
        "mean_method": mine.mean(),
        "std_method": mine.std(),
        "mean_reference": theirs.mean(),
        "mean_difference": round(differences.mean(), DECIMALS) + 0.0,
        "std_difference": round(differences.std(), DECIMALS),
        "test": test.name,
        "margin": margin,
        "margin_why": rule.margins.why(c.task, c.metric, examples),
        "verdict": verdict.word,
        "family_size": size,
        "protocol": c.family,
        "p_holm_study": None,
        "p_verdict": p_of(verdict.word, verdict.p_holm, verdict.p_equivalence_holm),
        "more_seeds": more_seeds(d, margin, size, rule.level) if open_ else None,
        "seeds_for_margin": seeds_needed(robust_sd(d), margin, size, rule.level) if open_ and len(d) > 1 else None,
        "mean_corrected": without_stopping(d, verdict.look or 0, rule.looks, rule.level) if early else None,
        "not_learnt": sum(run_id in paired.not_learnt for run_id in c.run_ids),
        "not_learnt_reference": sum(run_id in paired.not_learnt for run_id in c.reference_run_ids),
        "failed": len(failed),
        "failed_reference": len(failed_reference),
        "p_failures": as_losses.p_value if as_losses else None,
        "estimate_failures": as_losses.estimate if as_losses else None,
        "examples": examples,
        "teachers": ", ".join(sorted({teacher for teacher in c.teachers if teacher})) if taught(c.method) else "",
    }
    return tuple(values[name] for name in COLUMNS + EXTRA)


def p_of(word: str, p_holm: float, p_equivalence_holm: float) -> float:
    """Holm's p of what a verdict says: of equivalence where it is that, else of the difference."""
    return p_equivalence_holm if word == "equivalent" else p_holm


def taught(method: str) -> bool:
    """Whether a method has a teacher that may be one for all seeds; self-KD's is its own seed's finetune run."""
    method = parted(method)[0]
    return method not in METHODS or METHODS[method].needs == "teacher"


def _failed(paired: Paired, c: Comparison, of_reference: bool, used: Collection | None) -> set:
    """Seeds of one side that ended in an error and were not run again; of a look, not those beyond it."""
    lost = _left(paired, c, "failed", of_reference) - set(c.seeds)
    return lost if used is None else lost.intersection(used)


def _with_failures(c: Comparison, failed: int, failed_reference: int) -> Test | None:
    """The same test where a seed that failed lost, by more than any other; None where none failed on one side alone."""
    if not failed + failed_reference or not c.seeds:
        return None
    both = _pairs(c)
    usual, every = float(np.median(both.theirs)), [*both.mine, *both.theirs]
    lost = min(every) - (max(every) - min(every)) - 1
    mine = [*both.mine, *[lost] * failed, *[usual] * failed_reference]
    theirs = [*both.theirs, *[usual] * failed, *[lost] * failed_reference]
    return compare(pairs(mine, theirs), few=len(c.seeds) <= FEW)
