"""How many seeds: what a design can show, and what the pairs in hand foretell.

Two questions are told apart. Before any run, or for an effect as large as the margin: the power of the t-test at
Wilcoxon's efficiency, from a spread that one collapsed seed does not move. With pairs in hand: how often a verdict
falls when so many more pairs like them are drawn. Left out on purpose: power computed from the observed effect.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from analysis.hypothesis import DECIMALS, FEW, attained, floor

POWER = 0.8
EFFICIENCY = 0.95  # of the signed-rank to the t-test; in the limit 3/pi = 0.955, 0.95 fits simulated sizes
MOST = 100  # seeds that are counted; beyond, it is "more than 100"
FURTHER = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100)
SURE = 0.9  # of a verdict, for "so many more seeds decide"
DRAWS = 400  # the standard error of a chance of 0.9 is then 0.015


def reachable(n: int, k: int = 1, level: float = 0.05, sides: int = 2) -> bool:
    """Whether n seeds can call a difference in a family of k, whatever the data (`sides` 1: equivalence)."""
    return k * floor(n) * sides / 2 <= level


def least_seeds(k: int = 1, level: float = 0.05, sides: int = 2, above: int = 1) -> int:
    """Fewest seeds, `above` or more, for which a verdict is `reachable` in a family of k.

    Not every number above it will do: 5 and 6 seeds can decide four methods at 0.05, 7 cannot, 8 can.
    """
    return next(n for n in range(above, 10**4) if reachable(n, k, level, sides))


def seeds_needed(sd: float, effect: float, k: int = 1, level: float = 0.05) -> int | None:
    """Seeds in all that find `effect` with power 0.8 in a family of k; None where that takes more than MOST.

    `effect` and `sd` (of the differences) share a unit. Give it the margin, never the observed effect.
    """
    least = least_seeds(k, level)
    if sd <= 0:
        return least
    counts = (n for n in range(max(least, 2), MOST + 1) if reachable(n, k, level))
    return next((n for n in counts if _power(n, effect / sd, level / k) >= POWER), None)


def detectable_effect(n: int, k: int = 1, level: float = 0.05) -> float | None:
    """Effect, in sd of the differences, that n seeds find with power 0.8; None where no difference is reachable."""
    if not reachable(n, k, level) or n < 2:
        return None
    sizes = np.arange(0, 5, 0.001)
    return float(sizes[min(bisect_left(sizes, POWER, key=lambda size: _power(n, size, level / k)), len(sizes) - 1)])


@lru_cache(maxsize=4096)
def _power(n: int, size: float, level: float) -> float:
    """Of a normal d with mean `size` sd, at the level that the test of n seeds attains."""
    from scipy.special import ndtr
    from statsmodels.stats.power import TTestPower

    level = attained(n, level)
    if n > FEW and level <= floor(n):
        return float(ndtr(size) ** n) if level else 0.0  # only all-positive differences reject
    size = min(size, 10.0)  # far out the noncentral t fails, where the power is 1 anyway
    return float(TTestPower().power(size * math.sqrt(EFFICIENCY), n, level)) if level else 0.0


def robust_sd(differences: np.ndarray) -> float:
    """Standard deviation of differences `[seeds]` by the median distance from the median (1.4826 MAD).

    With fewer than four, or more than half of them equal, it is the usual one (ddof 1; 0 for one seed).
    """
    d = np.asarray(differences, dtype=float)
    spread = 1.4826 * float(np.median(np.abs(d - np.median(d)))) if len(d) > 3 else 0.0
    return spread or (float(d.std(ddof=1)) if len(d) > 1 else 0.0)


def more_seeds(differences: Sequence[float] | np.ndarray, margin: float, k: int = 1, level: float = 0.05) -> int | None:
    """Seeds beside those in hand with which a verdict falls with probability SURE; None where MOST are not enough.

    Pairs are drawn, added to those in hand, and tested as `hypothesis.verdicts` does in a family of k (in the normal
    approximation, with the exact floor). It foretells a verdict of either kind. What is drawn from is not the pairs in
    hand, whose mean and spread are chance themselves (of five pairs: what was then foretold with 0.9 came true in three
    of four), but a sample of them for each draw, made as wide as n pairs stand for.
    """
    d = np.asarray(differences, dtype=float)
    if len(d) < 2:
        return None
    from scipy.special import ndtri

    rng, wide = np.random.default_rng(0), math.sqrt(len(d) / (len(d) - 1))
    worlds = d.mean() + wide * (rng.choice(d, (DRAWS, len(d))) - d.mean())
    means = worlds.mean(axis=1, keepdims=True)
    of_each = rng.integers(len(d), size=(DRAWS, max(FURTHER)))
    drawn = np.round(means + wide * (np.take_along_axis(worlds, of_each, axis=1) - means), DECIMALS)
    of_difference, of_equivalence = -ndtri([level / k / 2, level / k])

    def decides(more: int) -> bool:
        n = len(d) + more
        if n <= FEW or not reachable(n, k, level, sides=1):
            return False
        found = np.hstack([np.tile(d, (DRAWS, 1)), drawn[:, :more]])
        z = np.abs(_z(found)) if reachable(n, k, level) else np.full(DRAWS, -np.inf)
        equal = np.minimum(_z(found + margin), -_z(found - margin))
        return bool(np.mean((z >= of_difference) | (equal >= of_equivalence)) >= SURE)

    # where the most do not decide, nothing does
    return next((more for more in FURTHER if decides(more)), None) if decides(FURTHER[-1]) else None


def _z(d: np.ndarray) -> np.ndarray:
    """The signed-rank statistic of differences `[draws, seeds]`, standardised; ties and zeros as they come."""
    from scipy.stats import rankdata

    ranks = rankdata(np.abs(d), axis=1)
    ranks[d == 0] = 0
    return (np.sign(d) * ranks).sum(axis=1) / np.sqrt((ranks**2).sum(axis=1) + 1e-12)
