"""Exact tests of a method against a reference over seeds, and the one rule that turns them into a verdict.

Scores are in points, higher is better. Up to FEW seeds the test is the rank-sum test, which compares all of the
method's scores with all of the reference's; above, the signed-rank test of the paired differences. Signs of five pairs
can give no p below 0.0625, ranks of five and five scores 0.0079; which of the two is used is fixed by the number of
seeds alone, and pairs that rise and fall together only make the rank-sum test milder. Left out on purpose: normal
approximations (all null distributions here are enumerated) and a second test beside the one that decides.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from itertools import combinations, compress
from typing import Any

import numpy as np

from analysis import AnalysisError

DECIMALS = 9  # float noise breaks ties: seven +0.1 and one -0.1 have p 0.0703, on raw floats 0.0234
CONFIDENCE = 0.95
FEW = 6  # seeds up to which ranks of scores are compared, not signs of pairs
LARGEST = 1e15  # of a difference: beyond it a float has no decimals
MOST_PAIRS = 1000  # of one test: its null distribution takes n^3 steps, 5 s here
RANK_SUM, SIGNED_RANK = "rank-sum", "signed-rank"
CORRECTED_BY_NOTHING: Callable[[float], float] = float

Numbers = Sequence[float] | np.ndarray  # such as differences `[seeds]`


@dataclass(frozen=True)
class Test:
    """An exact two-sided test with the estimates that belong to it; fields as in `signed_rank` and `rank_sum`."""

    __test__ = False  # not pytest's

    name: str
    n: int
    n_nonzero: int
    p_value: float
    min_p_value: float
    estimate: float
    low: float
    high: float
    level: float


@dataclass(frozen=True, eq=False)
class Pairs:
    """Scores of a method and of the reference with the same seeds, `[seeds]` each, higher is better."""

    mine: np.ndarray
    theirs: np.ndarray

    @property
    def differences(self) -> np.ndarray:
        """Method - reference `[seeds]`, rounded so that equal ones are tied."""
        return rounded(self.mine - self.theirs)


@dataclass(frozen=True)
class Verdict:
    """What is said of one method; `reason` is a sentence.

    look: the number of seeds of the planned look at which it fell; for the undecided of the last look that was taken.
    None where no looks are planned, and where not even the first has been reached.
    """

    word: str
    negligible: bool
    decidable: bool
    reason: str
    test: Test
    p_holm: float
    p_equivalence: float
    p_equivalence_holm: float
    look: int | None = None


def pairs(mine: Numbers, theirs: Numbers) -> Pairs:
    """Raises AnalysisError where a score is NaN or too large to have decimals."""
    return Pairs(rounded(mine), rounded(theirs))


def rounded(differences: Numbers) -> np.ndarray:
    """Differences as floats `[seeds]`, rounded to 9 decimals so that equal ones are tied.

    Raises AnalysisError where one is NaN, infinite or beyond LARGEST.
    """
    values = np.asarray(differences, dtype=float).ravel()
    usable = np.abs(values) <= LARGEST
    if not usable.all():
        bad = np.flatnonzero(~usable)
        at = f"difference {bad[0] + 1} of {len(values)} is {values[bad[0]]}"
        raise AnalysisError(f"{at}, a finite number is needed: leave that seed out")
    return np.round(values, DECIMALS) + 0.0  # -0.0 becomes 0.0


def min_p_value(n: int) -> float:
    """Smallest two-sided signed-rank p that n non-zero differences can give: 2^(1-n), at most 1."""
    return min(1.0, 2.0 ** (1 - n))


def floor(n: int, few: bool | None = None) -> float:
    """Smallest two-sided p that n seeds can give, by the test that n seeds have (`few`: as in `compare`)."""
    return min(1.0, 2 / math.comb(2 * n, n)) if _few(n, few) else min_p_value(n)


def _few(n: int, few: bool | None) -> bool:
    return n <= FEW if few is None else few and n <= FEW


def tie_free(n: int) -> np.ndarray:
    """P(statistic = 0, 1, ...) of the test that n seeds have, without ties."""
    return rank_sums(tuple(range(1, 2 * n + 1))) if n <= FEW else null(tuple(range(1, n + 1)))


@lru_cache(maxsize=4096)
def attained(n: int, p: float, sides: int = 2) -> float:
    """The largest size at most p (but for rounding) that the tie-free test of n seeds has; 0 where it has none."""
    sizes = np.minimum(1, sides * np.cumsum(tie_free(n)))
    sizes = sizes[sizes > 0]
    at = int(np.searchsorted(sizes, p * (1 + 1e-9), side="right")) - 1
    return float(sizes[at]) if at >= 0 else 0.0


def compare(both: Pairs, confidence: float = CONFIDENCE, few: bool | None = None) -> Test:
    """The test that so many seeds have: `rank_sum` up to FEW, `signed_rank` above.

    `few` fixes it beforehand: at a look of eight seeds six pairs are tested as eight would be.
    """
    if _few(len(both.mine), few):
        return rank_sum(both.mine, both.theirs, confidence)
    return signed_rank(both.differences, confidence)


def equivalence(both: Pairs, margin: float, few: bool | None = None) -> float:
    """p of "the effect is within +-margin", from two exact one-sided tests of the kind of `compare`.

    The larger of the p of d > -margin and of d < +margin. `margin` is in points; one that is not above 0
    raises AnalysisError. Source: Schuirmann 1987.
    """
    check_margin(margin)
    if _few(len(both.mine), few):
        _, above = _rank_sum_tails(rounded(both.mine + margin), both.theirs)
        below, _ = _rank_sum_tails(rounded(both.mine - margin), both.theirs)
    else:
        _, above = tails(*signed_ranks(rounded(both.differences + margin)))
        below, _ = tails(*signed_ranks(rounded(both.differences - margin)))
    return max(above, below)


def signed_rank(differences: Numbers, confidence: float = CONFIDENCE) -> Test:
    """Exact two-sided signed-rank test of `differences` `[seeds]`, ties and zeros included.

    p_value: min(1, 2 min(P(W <= w), P(W >= w))) over all signs of the n_nonzero mid-ranks; zeros are dropped before
    ranking. min_p_value: 2^(1 - n_nonzero). estimate: Hodges-Lehmann, the median of all Walsh averages. low, high:
    exact interval of that level, at least `confidence`; unbounded (level 1) where n is too small. With ties the
    interval may touch 0 although p is small. n = 0 gives p 1, estimate 0 and an unbounded interval. Raises
    AnalysisError for NaN and for more than MOST_PAIRS differences. Source: Wilcoxon 1945, Hodges and
    Lehmann 1963.
    """
    d = rounded(differences)
    if len(d) > MOST_PAIRS:
        raise AnalysisError(f"{len(d):,} pairs (seeds) of one method: the exact test takes up to {MOST_PAIRS:,}")
    ranks, positive = signed_ranks(d)
    below, above = tails(ranks, positive)
    averages = _walsh(d)
    sizes = 2 * np.cumsum(null(tuple(range(1, len(d) + 1))))
    return Test(
        SIGNED_RANK, len(d), len(ranks), min(1.0, 2 * min(below, above)), min_p_value(len(ranks)),
        _middle(averages) if len(d) else 0.0, *_interval(averages, sizes, confidence),
    )  # fmt: skip


def rank_sum(mine: Numbers, theirs: Numbers, confidence: float = CONFIDENCE) -> Test:
    """Exact two-sided rank-sum test of n scores and n of the reference, ties included; n at most FEW.

    p_value: as in `signed_rank`, over all ways to call n of the 2n mid-ranks the method's. min_p_value: 2 / C(2n, n).
    estimate: Hodges-Lehmann, the median of all n^2 differences; low, high: its exact interval. Source: Wilcoxon 1945,
    Mann and Whitney 1947.
    """
    x, y = rounded(mine), rounded(theirs)
    n = len(x)
    below, above = _rank_sum_tails(x, y)
    differences = np.sort(rounded(x[:, None] - y))
    sizes = 2 * np.cumsum(rank_sums(tuple(range(1, 2 * n + 1)))[n * (n + 1) // 2 :]) if n else np.zeros(0)
    return Test(
        RANK_SUM, n, int(np.count_nonzero(rounded(x - y))), min(1.0, 2 * min(below, above)), floor(n),
        _middle(differences) if n else 0.0, *_interval(differences, sizes, confidence),
    )  # fmt: skip


def holm(p_values: Iterable[float], absent: int = 0) -> list[float]:
    """Holm's step-down correction of `p_values`, in their order; `absent` members of the family have p = 1.

    Written out because statsmodels' `multipletests` collects garbage on every call (45 ms; import 0.8 s);
    a test holds the two together. Source: Holm 1979.
    """
    p = np.array(list(p_values), dtype=float)
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p) + absent, absent, -1))
    p[order] = np.minimum(corrected, 1)
    return p.tolist()


def verdicts(
    families: Mapping[Any, Pairs],
    margin: float,
    level: float = 0.05,
    planned: int = 0,
    joint: tuple[Callable[[float], float], Callable[[float], float]] = (CORRECTED_BY_NOTHING, CORRECTED_BY_NOTHING),
    confidence: float | None = None,
    few: bool | None = None,
) -> dict[Any, Verdict]:
    """The verdict on each method of one family, `families` being a mapping of method to its pairs.

    With p and q Holm's p of the difference and of equivalence: better or worse where p <= level, by the
    sign of the Hodges-Lehmann estimate, negligible where q <= level too; else equivalent where q <= level;
    else undecided. decidable is false where Holm's floor is above `level`: no data with so few seeds could have been
    called better or worse. The interval has confidence 1 - level, or `confidence`.

    Args:
        planned: methods that the plan counts in this family: Holm corrects for as many, present or not.
        joint: what a p of the difference and one of equivalence are where there are several planned looks.
        few: which test is taken, where the plan fixes it (`compare`).

    Raises:
        AnalysisError: NaN, a margin not above 0 or a level outside (0, 1).
    """
    check_margin(margin)
    if not 0 < level < 1:
        raise AnalysisError(f"level {level} is outside (0, 1)")
    absent = max(planned - len(families), 0)
    wide = 1 - level if confidence is None else confidence
    tests = {method: compare(both, wide, few) for method, both in families.items()}
    p_equivalence = {method: equivalence(both, margin, few) for method, both in families.items()}
    p_holm = holm([joint[0](test.p_value) for test in tests.values()], absent)
    q_holm = holm([joint[1](q) for q in p_equivalence.values()], absent)
    best = holm([joint[0](floor(test.n, few)) for test in tests.values()], absent)
    best_nonzero = holm([joint[0](test.min_p_value) for test in tests.values()], absent)

    found = {}
    for i, (method, both) in enumerate(families.items()):
        word = _word(p_holm[i], q_holm[i], tests[method].estimate, level)
        rule = _Rule(
            margin, (1 - wide) * (1 + 1e-9), len(families) + absent, best[i] <= level, best_nonzero[i] <= level
        )
        negligible = word in ("better", "worse") and q_holm[i] <= level
        reason = _reason(word, negligible, both.differences, tests[method], q_holm[i], rule)
        of_both = p_holm[i], p_equivalence[method], q_holm[i]
        found[method] = Verdict(word, negligible, rule.decidable, reason, tests[method], *of_both)
    return found


@dataclass(frozen=True)
class _Rule:
    margin: float
    level: float  # of the interval, and what 1 - (1 - p) is off; at planned looks that of one of them
    k: int
    decidable: bool
    zeros_decidable: bool


def _word(p: float, q: float, estimate: float, level: float) -> str:
    if p <= level and estimate != 0:  # six wins and many zeros: p is small, the estimate 0, no direction
        return "better" if estimate > 0 else "worse"
    return "equivalent" if q <= level else "undecided"


def _reason(word: str, negligible: bool, d: np.ndarray, test: Test, q_holm: float, rule: _Rule) -> str:
    """One plain sentence: why this word, and what a reader must know of these seeds."""
    if not test.n:
        return "no paired seed"
    parts = []
    if word in ("better", "worse"):
        side = int(np.sum(d > 0) if word == "better" else np.sum(d < 0))
        parts.append(f"{'higher' if word == 'better' else 'lower'} in {side} of {n_seeds(test.n)}")
        if negligible:
            parts.append(f"real, but smaller than the margin of {rule.margin:g}")
    elif word == "equivalent":
        parts.append(f"any difference is smaller than the margin of {rule.margin:g} (Holm p = {q_holm:.2g})")
    elif not rule.decidable:
        verb = "is" if test.n == 1 else "are"
        family = f" in a family of {rule.k}" if rule.k > 1 else ""
        parts.append(f"{n_seeds(test.n)} {verb} too few to call a difference, whatever the data{family}")
    else:
        parts.append(_why_undecided(test, rule))
    return "; ".join(parts + _flags(d, test, rule))


def _why_undecided(test: Test, rule: _Rule) -> str:
    if test.p_value <= rule.level and test.estimate != 0:
        return f"p = {test.p_value:.2g} reaches {rule.level:.4g} alone, not after correction"
    if not rule.zeros_decidable and test.n_nonzero < test.n:
        return f"only {test.n_nonzero} differences are not zero, too few to reach {rule.level:.4g}"
    if test.low < -rule.margin or test.high > rule.margin:
        held = interval(test.low, test.high, rule.margin)
        return f"the interval {held} still holds effects beyond the margin of {rule.margin:g}"
    return f"neither a difference nor equivalence reaches {rule.level:.4g} after Holm"


def _flags(d: np.ndarray, test: Test, rule: _Rule) -> list[str]:
    flags, level, mean = [], rule.level, float(d.mean())
    shown = interval(test.low, test.high, rule.margin)
    if test.n_nonzero == 0:
        flags.append("all differences are zero")
    elif test.n_nonzero < test.n:
        flags.append(f"{test.n - test.n_nonzero} of {test.n} differences are zero")
    if np.sign(np.round(mean, DECIMALS)) * np.sign(test.estimate) < 0:
        both = [number(value, decimals(rule.margin), sign=True) for value in (mean, test.estimate)]
        flags.append(f"mean {both[0]} and Hodges-Lehmann {both[1]} disagree in sign: collapsed seeds?")
    if math.isinf(test.low):
        flags.append(f"no bounded interval with n = {test.n}")
    elif test.p_value <= level and test.low <= 0 <= test.high:
        flags.append(f"the interval {shown} touches 0 although p is {test.p_value:.2g} (ties)")
    elif test.p_value > level and not test.low <= 0 <= test.high:
        flags.append(f"the interval {shown} leaves 0 out although p is {test.p_value:.2g} (ties)")
    return flags


def n_seeds(n: int) -> str:
    return f"{n} seed" if n == 1 else f"{n} seeds"


def decimals(margin: float) -> int:
    """With how many decimals differences are told: at a margin of 0.005 nats, two of them would show nothing."""
    return max(2, 1 - math.floor(math.log10(margin))) if margin > 0 else 2


def number(value: float, digits: int = 2, sign: bool = False) -> str:
    """A number as people round it, by its shortest decimals: 92.205 is 92.21, although its float is a little less, and
    so is a mean that is a little less than that."""
    if not math.isfinite(value):
        return f"{value:+f}" if sign else f"{value:f}"
    if abs(value) >= 1e15:  # a float has no decimals there
        return f"{value:{'+' * sign}.3g}"
    clean = round(float(value), max(DECIMALS, digits))
    rounded = Decimal(repr(clean)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{rounded + 0:+}" if sign else f"{rounded + 0}"


def interval(low: float, high: float, margin: float) -> str:
    """The interval of a difference, with the decimals that its margin asks for."""
    ends = [number(end, decimals(margin), sign=True) for end in (low, high)]
    return f"[{', '.join(ends)}]"


def check_margin(margin: float) -> None:
    if not (margin > 0 and math.isfinite(margin)):
        raise AnalysisError(f"margin {margin} is not allowed: a number of points above 0")


# Signs of pairs


def signed_ranks(d: np.ndarray) -> tuple[list[int], list[bool]]:
    """Doubled mid-ranks (integers even with ties) of the non-zero d, and which of them are positive."""
    nonzero = [x for x in d.tolist() if x != 0]
    return _mid_ranks([abs(x) for x in nonzero]), [x > 0 for x in nonzero]


def _mid_ranks(values: list[float]) -> list[int]:
    """Doubled: first and last rank of the tied group, together."""
    ordered = sorted(values)
    return [bisect_left(ordered, x) + bisect_right(ordered, x) + 1 for x in values]


def tails(ranks: list[int], positive: list[bool]) -> tuple[float, float]:
    """P(W <= w) and P(W >= w), W being the sum of the ranks that a fair sign makes positive."""
    chances, w = null(tuple(sorted(ranks))), sum(compress(ranks, positive))
    return float(chances[: w + 1].sum()), float(chances[w:].sum())


@lru_cache(maxsize=128)
def null(ranks: tuple[int, ...]) -> np.ndarray:
    """P(W = w) for w = 0 ... sum(ranks); exact up to 53 ranks (all values are multiples of 2^-n)."""
    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1
    for rank in ranks:
        chances[rank:] += chances[:-rank]
        chances /= 2
    chances.flags.writeable = False  # it is shared
    return chances


def _walsh(d: np.ndarray) -> np.ndarray:
    i, j = _indices(len(d))
    return np.sort(np.round((d[i] + d[j]) / 2, DECIMALS + 1) + 0.0)


_indices = lru_cache(maxsize=32)(np.triu_indices)


# Ranks of scores


def _rank_sum_tails(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """P(R <= r) and P(R >= r), R being the sum of the mid-ranks of any n of the 2n scores."""
    ranks = _mid_ranks([*x.tolist(), *y.tolist()])
    chances, r = rank_sums(tuple(sorted(ranks))), sum(ranks[: len(x)])
    return float(chances[: r + 1].sum()), float(chances[r:].sum())


@lru_cache(maxsize=1024)
def rank_sums(ranks: tuple[int, ...]) -> np.ndarray:
    """P(R = r) for r = 0 ... sum(ranks), over all halves of `ranks`."""
    sums = [sum(half) for half in combinations(ranks, len(ranks) // 2)]
    return np.bincount(sums, minlength=sum(ranks) + 1) / len(sums)


# Estimates


def _middle(ordered: np.ndarray) -> float:
    """The median of what is in order."""
    last = len(ordered) - 1
    return round(float(ordered[last // 2] + ordered[last - last // 2]) / 2, DECIMALS + 1) + 0.0


def _interval(ordered: np.ndarray, sizes: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """low, high and level of the interval whose ends are the c-th of `ordered` from either side; `sizes[c]` is the
    chance that it misses."""
    c = int(np.searchsorted(sizes, (1 - confidence) * (1 + 1e-9), side="right")) - 1  # 1 - (1 - p) is a little off p
    if c < 0:
        return -math.inf, math.inf, 1.0
    return float(ordered[c]), float(ordered[len(ordered) - 1 - c]), 1 - float(sizes[c])
