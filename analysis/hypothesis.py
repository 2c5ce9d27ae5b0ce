"""Exact tests on paired differences, and the one rule that turns them into a verdict.

Differences d_i = score(method, seed i) - score(reference, seed i) are in points, higher is better. What is
tested is the symmetry of d about 0, over seeds, for one test set. Left out on purpose: normal approximations (all
null distributions here are enumerated), `zsplit`, and power computed from the observed effect.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import Any

import numpy as np

from analysis import AnalysisError, unknown

DECIMALS = 9  # float noise breaks ties: seven +0.1 and one -0.1 have p 0.0703, on raw floats 0.0234
POWER = 0.8
EFFICIENCY = 0.95  # of the signed-rank to the t-test; in the limit 3/pi = 0.955, 0.95 fits simulated sizes
CONFIDENCE = 0.95
ZEROS = ("wilcox", "pratt")
LARGEST = 1e15  # of a difference: beyond it a float has no decimals
MOST_SEEDS = 10**9  # that are counted
MOST_PAIRS = 1000  # of one test: its null distribution takes n^3 steps, 5 s here

Numbers = Sequence[float] | np.ndarray  # such as differences `[seeds]`


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test with the estimates that belong to it; fields as in `signed_rank`."""

    n: int
    n_nonzero: int
    p_value: float
    min_p_value: float
    estimate: float
    low: float
    high: float
    level: float
    rank_biserial: float


@dataclass(frozen=True)
class Verdict:
    """What is said of one method; `reason` is a sentence, `seeds_needed` a total (None once decided)."""

    word: str
    negligible: bool
    decidable: bool
    reason: str
    test: SignedRank
    p_holm: float
    p_equivalence: float
    p_equivalence_holm: float
    seeds_needed: int | None


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


def signed_rank(differences: Numbers, zeros: str = "wilcox", confidence: float = CONFIDENCE) -> SignedRank:
    """Exact two-sided signed-rank test of `differences` `[seeds]`, ties and zeros included.

    p_value: min(1, 2 min(P(W <= w), P(W >= w))) over all signs of the n_nonzero mid-ranks; `zeros` "wilcox"
    drops zeros before ranking, "pratt" after. min_p_value: 2^(1 - n_nonzero). estimate: Hodges-Lehmann, the
    median of all Walsh averages. low, high: exact interval of that level, at least `confidence`; unbounded
    (level 1) where n is too small. With ties the interval may touch 0 although p is small. n = 0 gives p 1,
    estimate 0 and an unbounded interval. Raises AnalysisError for NaN, more than MOST_PAIRS
    differences, another `zeros` or confidence. Source: Wilcoxon 1945, Pratt 1959, Hodges and Lehmann 1963, Kerby 2014.
    """
    if not 0 < confidence < 1:
        raise AnalysisError(f"confidence {confidence} is outside (0, 1)")
    d = rounded(differences)
    if len(d) > MOST_PAIRS:
        raise AnalysisError(f"{len(d):,} pairs (seeds) of one method: the exact test takes up to {MOST_PAIRS:,}")
    ranks, positive = _signed_ranks(d, zeros)
    below, above = _tails(ranks, positive)
    averages = _walsh(d)
    low, high, level = _interval(averages, len(d), confidence)
    total, won = sum(ranks), sum(compress(ranks, positive))
    return SignedRank(
        n=len(d),
        n_nonzero=len(ranks),
        p_value=min(1.0, 2 * min(below, above)),
        min_p_value=min_p_value(len(ranks)),
        estimate=_middle(averages) if len(d) else 0.0,
        low=low,
        high=high,
        level=level,
        rank_biserial=(2 * won - total) / total if total else 0.0,
    )


def equivalence(differences: Numbers, margin: float, zeros: str = "wilcox") -> float:
    """p of "the effect is within +-margin", from two exact one-sided signed-rank tests.

    The larger of the p of d > -margin and of d < +margin. `margin` is in points; one that is not above 0
    raises AnalysisError. Source: Schuirmann 1987.
    """
    _check_margin(margin)
    d = rounded(differences)
    _, above = _tails(*_signed_ranks(rounded(d + margin), zeros))
    below, _ = _tails(*_signed_ranks(rounded(d - margin), zeros))
    return max(above, below)


def sign_flip(differences: Numbers) -> float:
    """Two-sided sign-flip p of the mean of `differences`: a check beside the verdict.

    The share of sign vectors with abs(sum) >= abs(observed). Exact up to 40 non-zero differences,
    above that from 99,999 sign vectors of a fixed seed. Source: Fisher 1935.
    """
    d = rounded(differences)
    d = d[d != 0]
    slack = 10.0**-DECIMALS * (len(d) + 1)  # each difference was rounded by up to half of that
    observed = abs(d.sum()) - slack
    if observed <= 0:
        return 1.0
    if len(d) > 40:
        flips = np.random.default_rng(0).choice([-1.0, 1.0], size=(99_999, len(d)))
        return float((1 + np.sum(np.abs(flips @ d) >= observed)) / 100_000)
    left, right = _signed_sums(d[::2]), np.sort(_signed_sums(d[1::2]))
    at_least = len(right) - np.searchsorted(right, observed - left)
    return min(1.0, 2 * int(at_least.sum()) / 2.0 ** len(d))  # the mirrored sign vectors are the other tail


def t_test(differences: Numbers) -> float | None:
    """Two-sided p of Student's paired t-test: a check beside the verdict, never the verdict.

    None where it is not defined: fewer than two differences, or no spread. Source: Student 1908.
    """
    from scipy.special import stdtr

    d = rounded(differences)
    if len(d) < 2 or np.ptp(d) == 0:
        return None
    t = float(d.mean() / (d.std(ddof=1) / math.sqrt(len(d))))
    return float(2 * stdtr(len(d) - 1, -abs(t)))


def holm(p_values: Iterable[float]) -> list[float]:
    """Holm's step-down correction of `p_values`, in their order. Source: Holm 1979.

    Written out because statsmodels' `multipletests` collects garbage on every call (45 ms; import 0.8 s);
    a test holds the two together.
    """
    p = np.array(list(p_values), dtype=float)
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    p[order] = np.minimum(corrected, 1)
    return p.tolist()


def least_seeds(k: int = 1, level: float = 0.05) -> int:
    """Fewest seeds with which better or worse can be said in a family of k: k 2^(1-n) <= level.

    Equivalence needs one seed fewer (its tests are one-sided).
    """
    return 1 + max(0, math.ceil(math.log2(k / level)))


def seeds_needed(sd: float, effect: float, k: int = 1, level: float = 0.05) -> int:
    """Seeds in all that find `effect` with power 0.8 in a family of k.

    `effect` and `sd` (of the differences) share a unit. Noncentral t at the level that the signed-rank test
    attains with n seeds, at Wilcoxon's efficiency, and at least `least_seeds`: 11 and 15 for 1 sd (k = 1, 4),
    36 and 51 for 0.5 sd; at most MOST_SEEDS. Give it the margin, never the observed effect.
    """
    least = least_seeds(k, level)
    size = effect / sd if sd > 0 else math.inf
    fewest, high = _fewest(size, level / k), 100
    if fewest >= MOST_SEEDS:
        return MOST_SEEDS
    for n in range(max(least, fewest), high + 1):
        if _power(n, size, level / k) >= POWER:
            return n
    while _power(high, size, level / k) < POWER:
        high *= 2
    return bisect_left(range(high), POWER, lo=high // 2, key=lambda n: _power(n, size, level / k))


def detectable_effect(n: int, k: int = 1, level: float = 0.05) -> float | None:
    """Effect, in sd of the differences, that n seeds find with power 0.8; None below `least_seeds`."""
    if n < least_seeds(k, level):
        return None
    sizes = np.arange(0, 5, 0.001)
    return float(sizes[bisect_left(sizes, POWER, key=lambda size: _power(n, size, level / k))])


def upper_sd(sd: float, n: int) -> float:
    """80% upper confidence limit of a standard deviation that was estimated from n >= 2 differences."""
    from scipy.special import chdtri

    return sd * math.sqrt((n - 1) / chdtri(n - 1, 0.8))  # chdtri is the upper tail: chi2.ppf(0.2, n - 1)


def verdicts(families: dict, margin: float, level: float = 0.05, zeros: str = "wilcox") -> dict[Any, Verdict]:
    """The verdict on each method of one family, `families` being a dict of method to differences `[seeds]`.

    With p and q Holm's p of the difference and of equivalence: better or worse where p <= level, by the
    sign of the Hodges-Lehmann estimate, negligible where q <= level too; else equivalent where q <= level;
    else undecided. decidable is false where Holm's 2^(1-n) is above `level`: no data with so few seeds
    could have been called better or worse. The interval has confidence 1 - level. Raises AnalysisError for NaN, a
    margin not above 0 or a level outside (0, 1).
    """
    _check_margin(margin)
    _check_zeros(zeros)
    if not 0 < level < 1:
        raise AnalysisError(f"level {level} is outside (0, 1)")
    samples = {method: rounded(d) for method, d in families.items()}
    tests = {method: signed_rank(d, zeros, 1 - level) for method, d in samples.items()}
    p_equivalence = {method: equivalence(d, margin, zeros) for method, d in samples.items()}
    p_holm = holm(test.p_value for test in tests.values())
    q_holm = holm(p_equivalence.values())
    best = holm(min_p_value(test.n) for test in tests.values())
    best_nonzero = holm(test.min_p_value for test in tests.values())
    best_equivalence = holm(2.0**-test.n for test in tests.values())

    found = {}
    for i, (method, d) in enumerate(samples.items()):
        word = _word(p_holm[i], q_holm[i], tests[method].estimate, level)
        plan = _Plan(
            margin=margin, level=level, k=len(samples), decidable=best[i] <= level,
            zeros_decidable=best_nonzero[i] <= level, equivalence_decidable=best_equivalence[i] <= level,
        )  # fmt: skip
        negligible = word in ("better", "worse") and q_holm[i] <= level
        needed = _needed(d, plan) if word == "undecided" else None
        found[method] = Verdict(
            word=word, negligible=negligible, decidable=plan.decidable,
            reason=_reason(word, negligible, d, tests[method], p_holm[i], q_holm[i], needed, plan),
            test=tests[method], p_holm=p_holm[i], p_equivalence=p_equivalence[method],
            p_equivalence_holm=q_holm[i], seeds_needed=needed,
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class _Plan:
    margin: float
    level: float
    k: int
    decidable: bool
    zeros_decidable: bool
    equivalence_decidable: bool


def _word(p: float, q: float, estimate: float, level: float) -> str:
    if p <= level and estimate != 0:  # six wins and many zeros: p is small, the estimate 0, no direction
        return "better" if estimate > 0 else "worse"
    return "equivalent" if q <= level else "undecided"


def _needed(d: np.ndarray, plan: _Plan) -> int:
    if len(d) < 2:
        return least_seeds(plan.k, plan.level)  # no spread is known yet: the floor
    return seeds_needed(upper_sd(float(d.std(ddof=1)), len(d)), plan.margin, plan.k, plan.level)


def _reason(
    word: str, negligible: bool, d: np.ndarray, test: SignedRank, p_holm: float, q_holm: float, needed: int | None,
    plan: _Plan,
) -> str:  # fmt: skip
    """One plain sentence: why this word, and what a reader must know of these seeds."""
    if not test.n:
        return "no paired seed"
    parts = []
    if word in ("better", "worse"):
        side = int(np.sum(d > 0) if word == "better" else np.sum(d < 0))
        parts.append(f"{'higher' if word == 'better' else 'lower'} in {side} of {_seeds(test.n)}")
        if negligible:
            parts.append(f"real, but smaller than the margin of {plan.margin:g}")
    elif word == "equivalent":
        parts.append(f"any difference is smaller than the margin of {plan.margin:g} (Holm p = {q_holm:.2g})")
    elif plan.decidable and needed is not None:
        parts += _why_undecided(test, needed, plan)
    if word in ("equivalent", "undecided"):
        if not plan.decidable:
            parts.append(_too_few(word, test.n, plan))
        elif p_holm <= plan.level:
            parts.append("p is small but the Hodges-Lehmann estimate is 0, so there is no direction")
    return "; ".join(parts + _flags(d, test, plan.level))


def _why_undecided(test: SignedRank, needed: int, plan: _Plan) -> list[str]:
    if test.p_value <= plan.level and test.estimate != 0:
        first = f"p = {test.p_value:.2g} reaches {plan.level:.4g} alone, not after Holm over {plan.k} methods"
    elif not plan.zeros_decidable and test.n_nonzero < test.n:
        first = f"only {test.n_nonzero} differences are not zero, too few to reach {plan.level:.4g}"
    elif test.low < -plan.margin or test.high > plan.margin:
        first = f"the interval {_range(test)} still holds effects beyond the margin of {plan.margin:g}"
    else:
        first = f"neither a difference nor equivalence reaches {plan.level:.4g} after Holm"
    if needed > test.n:
        further = needed - test.n
        about = "about" if needed < MOST_SEEDS else "more than"
        return [first, f"{about} {further:,} more seed{'s' * (further > 1)} ({needed:,} in all) would decide"]
    return [first, f"by its spread {test.n} seeds are enough for an effect of the margin (power {POWER})"]


def _too_few(word: str, n: int, plan: _Plan) -> str:
    family = f" in a family of {plan.k}" if plan.k > 1 else ""
    text = (
        f"{_seeds(n)} {'is' if n == 1 else 'are'} too few to reach {plan.level:.4g} whatever the data{family}: "
        f"a difference needs {least_seeds(plan.k, plan.level)}"
    )
    if word == "equivalent":
        return text
    return text + f"; equivalence {'could' if plan.equivalence_decidable else 'could not'} have been shown"


def _flags(d: np.ndarray, test: SignedRank, level: float) -> list[str]:
    flags = []
    if test.n_nonzero == 0:
        flags.append("all differences are zero")
    elif test.n_nonzero < test.n:
        flags.append(f"{test.n - test.n_nonzero} of {test.n} differences are zero")
    if np.sign(np.round(d.mean(), DECIMALS)) * np.sign(test.estimate) < 0:
        estimate = f"Hodges-Lehmann {test.estimate:+.2f}"
        flags.append(f"mean {d.mean():+.2f} and {estimate} disagree in sign: collapsed seeds?")
    if math.isinf(test.low):
        flags.append(f"no bounded interval with n = {test.n}")
    elif test.p_value <= level and test.low <= 0 <= test.high:
        flags.append(f"the interval {_range(test)} touches 0 although p is {test.p_value:.2g} (ties)")
    return flags


def _seeds(n: int) -> str:
    return f"{n} seed" if n == 1 else f"{n} seeds"


def _range(test: SignedRank) -> str:
    return f"[{test.low:.2f}, {test.high:.2f}]"


def _check_margin(margin: float) -> None:
    if not (margin > 0 and math.isfinite(margin)):
        raise AnalysisError(f"margin {margin} is not allowed: a number of points above 0")


def _check_zeros(zeros: str) -> None:
    if zeros not in ZEROS:
        raise unknown("zeros", zeros, ZEROS)


def _signed_ranks(d: np.ndarray, zeros: str) -> tuple[list[int], list[bool]]:
    """Doubled mid-ranks (integers even with ties) of the non-zero d, and which of them are positive."""
    _check_zeros(zeros)
    nonzero = [x for x in d.tolist() if x != 0]
    sizes = sorted(map(abs, d.tolist() if zeros == "pratt" else nonzero))
    # first and last rank of the tied group, together
    ranks = [bisect_left(sizes, abs(x)) + bisect_right(sizes, abs(x)) + 1 for x in nonzero]
    return ranks, [x > 0 for x in nonzero]


def _tails(ranks: list[int], positive: list[bool]) -> tuple[float, float]:
    """P(W <= w) and P(W >= w), W being the sum of the ranks that a fair sign makes positive."""
    null, w = _null(tuple(sorted(ranks))), sum(compress(ranks, positive))
    return float(null[: w + 1].sum()), float(null[w:].sum())


@lru_cache(maxsize=128)
def _null(ranks: tuple[int, ...]) -> np.ndarray:
    """P(W = w) for w = 0 ... sum(ranks); exact up to 53 ranks (all values are multiples of 2^-n)."""
    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1
    for rank in ranks:
        chances[rank:] += chances[:-rank]
        chances /= 2
    chances.flags.writeable = False  # it is shared
    return chances


def _walsh(d: np.ndarray) -> np.ndarray:
    i, j = _pairs(len(d))
    return np.sort(np.round((d[i] + d[j]) / 2, DECIMALS + 1) + 0.0)


_pairs = lru_cache(maxsize=32)(np.triu_indices)


def _middle(ordered: np.ndarray) -> float:
    """The median of what is in order."""
    last = len(ordered) - 1
    return round(float(ordered[last // 2] + ordered[last - last // 2]) / 2, DECIMALS + 1) + 0.0


@lru_cache(maxsize=1024)
def _attained(n: int, level: float) -> tuple[int, float]:
    """The largest c with 2 P(W <= c) <= level under the tie-free null, and that size; (-1, 0) if none."""
    sizes = 2 * np.cumsum(_null(tuple(range(1, n + 1))))
    c = int(np.searchsorted(sizes, level, side="right")) - 1
    return c, float(sizes[c]) if c >= 0 else 0.0


def _interval(averages: np.ndarray, n: int, confidence: float) -> tuple[float, float, float]:
    c, size = _attained(n, 1 - confidence)
    if c < 0:
        return -math.inf, math.inf, 1.0
    return float(averages[c]), float(averages[len(averages) - 1 - c]), 1 - size


@lru_cache(maxsize=4096)
def _power(n: int, size: float, level: float) -> float:
    """Power of the two-sided test for a normal d with mean `size` sd, in the right direction."""
    from scipy.special import nctdtr, ndtr, stdtrit

    c, attained = _attained(n, level) if n <= 100 else (n, level)  # above that the two levels are alike
    if c < 0:
        return 0.0
    if c == 0:
        return float(ndtr(size) ** n)  # only all-positive differences reject
    size = min(size, 10.0)  # nctdtr fails far out, where the power is 1 anyway
    return float(1 - nctdtr(n - 1, size * math.sqrt(EFFICIENCY * n), stdtrit(n - 1, 1 - attained / 2)))


def _fewest(size: float, level: float) -> int:
    """Seeds below which not even a z-test, which knows the spread, has the power."""
    from scipy.special import ndtri

    root = float(ndtri(1 - level / 2) + ndtri(POWER))
    return int((root / size) ** 2) if root < size * math.sqrt(MOST_SEEDS) else MOST_SEEDS


def _signed_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums
