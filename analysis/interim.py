"""Planned looks at the data: several tests of growing samples that together hold the level.

A p-value p of one look is counted as J(p), the chance that any of the planned looks gives one as small where there is
no effect. Looks at 10, 14 and 20 seeds share most of their pairs, so J(0.0245) = 0.05 where Bonferroni allows each
0.0167. Holm corrects J(p) over the planned family: who was decided at an earlier look stays in it with the pairs of
that look, and keeps the verdict. (Of t true nulls one is called only if its J(p) is at most level / t, which has that
chance for each.) Left out on purpose: boundaries that spend less at first (O'Brien and Fleming), which few seeds cannot
reach.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from analysis import AnalysisError
from analysis.hypothesis import FEW, MOST_PAIRS, Pairs, Verdict, attained, floor, n_seeds, pairs, tie_free, verdicts

NOT_LEARNT = "not learnt"
OPEN = ("undecided", NOT_LEARNT)  # words that decide nothing
DRAWS = 200_000  # of the joint null: the standard error of J = 0.05 is 0.0005
BLOCK = 20_000


@dataclass(frozen=True)
class Joint:
    """The least p-value over looks without an effect: of the difference (two-sided) and of equivalence, sorted."""

    looks: tuple[int, ...]
    difference: np.ndarray
    equivalence: np.ndarray

    def two_sided(self, p: float) -> float:
        return self._chance(self.difference, p, 2)

    def one_sided(self, p: float) -> float:
        return self._chance(self.equivalence, p, 1)

    def _chance(self, least: np.ndarray, p: float, sides: int) -> float:
        """J(p); never below what a single look has, never above the sum over looks (both exact)."""
        sizes = [attained(n, p, sides) for n in self.looks]
        drawn = float(np.searchsorted(least, p * (1 + 1e-9), side="right") + 1) / (len(least) + 1)
        return min(1.0, max(p, *sizes, min(drawn, sum(sizes))))

    def level(self, level: float) -> float:
        """The p of one look that counts as `level`: what its interval is about."""
        candidates = self.difference[: 1 + int(level * len(self.difference))]
        held = [p for p in np.unique(candidates) if self.two_sided(float(p)) <= level]
        return float(held[-1]) if held else level / len(self.looks)


@lru_cache(maxsize=8)
def joint(looks: tuple[int, ...]) -> Joint:
    """The joint null of looks at so many seeds, drawn from a fixed seed: scores of two sides, independent and normal.

    Of signed ranks any symmetric distribution has the same null; rank sums (looks at few seeds) of independent sides
    too, and sides that rise and fall together make them milder.
    """
    rng, two, one = np.random.default_rng(0), [], []
    for _ in range(DRAWS // BLOCK):
        x, y = rng.standard_normal((2, BLOCK, max(looks)))
        tails = [_rank_sum_p(x[:, :n], y[:, :n]) if n <= FEW else _signed_rank_p(x[:, :n] - y[:, :n]) for n in looks]
        one.append(np.min([below for below, _ in tails], axis=0))
        two.append(np.min([np.minimum(1, 2 * np.minimum(*both)) for both in tails], axis=0))
    return Joint(looks, np.sort(np.concatenate(two)), np.sort(np.concatenate(one)))


def _signed_rank_p(d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both one-sided p of untied differences `[draws, seeds]`."""
    ranks = np.abs(d).argsort(axis=1).argsort(axis=1) + 1
    return _both(tie_free(d.shape[1]), (ranks * (d > 0)).sum(axis=1))


def _rank_sum_p(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ranks = np.hstack([x, y]).argsort(axis=1).argsort(axis=1) + 1
    return _both(tie_free(x.shape[1]), ranks[:, : x.shape[1]].sum(axis=1))


def _both(chances: np.ndarray, statistic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    below = np.cumsum(chances)
    return below[statistic], 1 - below[statistic] + chances[statistic]


def check_looks(looks: Sequence[int], methods: int, level: float) -> None:
    """Refuse looks that do not rise, more seeds than a test takes, and a first look that could decide nothing in a
    family of `methods`.

    Raises AnalysisError: with the least first look at which equivalence could be called.
    """
    given = ",".join(map(str, looks))
    if any(n < 1 for n in looks) or list(looks) != sorted(set(looks)):
        raise AnalysisError(f"looks={given}: numbers of seeds that rise, such as 10,14,20")
    if looks and looks[-1] > MOST_PAIRS:
        raise AnalysisError(f"looks={given}: the exact test takes up to {MOST_PAIRS:,} seeds")
    k = max(methods, 1)
    if looks and not _can_equal(looks, k, level):
        least = next(n for n in range(looks[0] + 1, 10**3) if _can_equal((n, *(m for m in looks if m > n)), k, level))
        family = "one method" if k == 1 else f"{k} methods"
        raise AnalysisError(
            f"looks={given}: a look at {n_seeds(looks[0])} could decide nothing, whatever the data: {family} at "
            f"{level:g} over {len(looks)} looks need {least} at the first"
        )


def _can_equal(looks: Sequence[int], k: int, level: float) -> bool:
    """Whether the first look can call equivalence in a family of k; by the sum over looks, which errs on no side but
    the safe one."""
    p = floor(looks[0]) / 2
    return k * sum(attained(n, p, sides=1) for n in looks) <= level


def at_looks(
    families: Mapping[Any, Sequence[tuple[float, float] | None]],
    margin: float,
    level: float,
    looks: Sequence[int],
    planned: int = 0,
    not_learnt: Mapping | None = None,
) -> dict[Any, Verdict]:
    """The verdict on each method of one family, tested at planned looks; a verdict once reached stays.

    `families`: method to its (score, reference's score) in the order of the planned seeds, None for a seed that was run
    without giving a pair; a method that was decided and no longer run is simply shorter. A look is taken once an
    undecided method has as many. What lies beyond the last look that was taken is not used. `not_learnt`: by method,
    the places of the seeds at which neither side learnt; a method without any other is as open as an undecided one.
    Raises AnalysisError as `verdicts` does. Whether the first look can decide anything, `check_looks` says: a family
    that has grown since leaves it undecided.
    """
    counted = joint(tuple(looks))
    corrections: tuple[Callable[[float], float], Callable[[float], float]] = counted.two_sided, counted.one_sided
    confidence = 1 - counted.level(level)

    def tell(used: Mapping[Any, Sequence], look: int) -> dict[Any, Verdict]:
        both = {method: _pairs(some) for method, some in used.items()}
        return verdicts(both, margin, level, planned, corrections, confidence, few=look <= FEW)

    samples = {method: list(some) for method, some in families.items()}
    found: dict[Any, Verdict] = {}
    used: dict[Any, list] = {method: [] for method in samples}
    open_ = list(samples)
    for look in looks:
        if not any(len(samples[method]) >= look for method in open_):
            break
        used |= {method: samples[method][:look] for method in open_}
        told = where_learnt(tell(used, look), _none_learnt(samples, not_learnt or {}, look))
        found |= {method: _dated(told[method], look, looks, samples[method]) for method in open_}
        open_ = [method for method in open_ if told[method].word in OPEN]
    if not found and samples:
        return {method: _waiting(verdict, looks[0]) for method, verdict in tell(samples, looks[0]).items()}
    return found


def _pairs(sample: Sequence[tuple[float, float] | None]) -> Pairs:
    given = np.array([both for both in sample if both is not None], dtype=float).reshape(-1, 2)
    return pairs(*given.T)


def where_learnt(told: Mapping[Any, Verdict], none_learnt: Collection) -> dict[Any, Verdict]:
    """Verdicts by method, "not learnt" for those of which neither a run nor its reference's learnt, whatever they give.

    Such a method keeps its place in the family and its p.
    """
    reason = "every run of both sides gives all examples one class, so there is nothing to compare"
    lost: dict[str, Any] = {"word": NOT_LEARNT, "negligible": False, "reason": reason}
    return {method: replace(verdict, **lost) if method in none_learnt else verdict for method, verdict in told.items()}


def _none_learnt(samples: Mapping, not_learnt: Mapping, look: int) -> set:
    """The methods of whose pairs up to this look not one has a run that learnt."""
    given = {m: {i for i, both in enumerate(some[:look]) if both is not None} for m, some in samples.items()}
    return {method for method, places in given.items() if places and places <= set(not_learnt.get(method, ()))}


def _dated(verdict: Verdict, look: int, looks: Sequence[int], sample: Sequence) -> Verdict:
    """The verdict with the look at which it fell, in its reason too."""
    said = f"look at {n_seeds(look)}"
    if verdict.word in OPEN:
        later = [n for n in looks if n > look]
        said += f", the next is at {later[0]}" if later else ", the last that was planned"
    if len(sample) > look:
        said += f"; {n_seeds(len(sample) - look)} beyond it are not used"
    return replace(verdict, reason=f"{verdict.reason}; {said}", look=look)


def _waiting(verdict: Verdict, first: int) -> Verdict:
    reason = f"{n_seeds(verdict.test.n)}, the first planned look is at {first}: nothing is decided before"
    return replace(verdict, word="undecided", negligible=False, reason=reason)


def without_stopping(
    differences: Sequence[float] | np.ndarray, look: int, looks: Sequence[int], level: float
) -> float | None:
    """The mean difference less what stopping at a look adds to it on average (Whitehead 1986); None at the last look.

    Who stops once a difference shows, stops on high ground. The bias of a mean of this size and spread is simulated
    with the rule that stopped (a t-test at the level of a look), from a fixed seed.
    """
    d = np.asarray(differences, dtype=float)
    if look == max(looks) or len(d) < 3 or np.ptp(d) == 0:
        return None
    from scipy.stats import t as student

    mean, sd = float(d.mean()), float(d.std(ddof=1))
    drawn = np.random.default_rng(0).normal(mean, sd, (4000, max(looks)))
    share, stopped = joint(tuple(looks)).level(level), np.full(4000, np.nan)
    for n in looks:
        part = drawn[:, :n]
        shown = np.abs(part.mean(axis=1)) / part.std(axis=1, ddof=1) * n**0.5 >= student.isf(share / 2, n - 1)
        now = np.isnan(stopped) & (shown | (n == max(looks)))
        stopped[now] = part.mean(axis=1)[now]
    return mean - (float(stopped.mean()) - mean)
