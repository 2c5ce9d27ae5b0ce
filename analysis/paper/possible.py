"""What printed numbers leave possible: p-values that n can give, and those that mean and sd leave open.

Of two methods a paper prints means and standard deviations (ddof 1), not the paired differences d. The mean
of d is their difference; its sd lies anywhere in [|s1 - s2|, s1 + s2]. Null distributions are enumerated up
to n = LARGEST.
"""

import math
from functools import lru_cache
from itertools import product

import numpy as np

from analysis.hypothesis import Numbers, null

LARGEST = 12  # 4,096 patterns of signs, and as many of ties
LARGEST_UNTIED = 50  # 1,276 sums of ranks
DRAWS = 20_000
NOISE = 1e-9  # of floats, beside numbers of a few decimals


@lru_cache(maxsize=16)
def p_values(n: int) -> np.ndarray:
    """The two-sided p of W = 0, 1, ..., the smaller of the two sums of ranks, of n untied differences other than zero.

    They ascend, and are all that n such differences can give.
    """
    below = np.cumsum(null(tuple(range(1, n + 1))))
    return np.minimum(1, 2 * below[: n * (n + 1) // 4 + 1])


@lru_cache(maxsize=16)
def p_values_with_ties(n: int) -> np.ndarray:
    """The same where differences may be zero (and are dropped) or tied: every pattern is enumerated."""
    found = {1.0}
    for steps in product((0, 1), repeat=n):  # in order of size; 1: larger than the one before
        sizes = np.cumsum(steps)
        _, tied = np.unique(sizes[sizes > 0], return_counts=True)
        last = np.cumsum(tied)
        ranks = np.repeat(2 * last - tied + 1, tied)  # doubled mid-ranks
        chances = null(tuple(ranks.tolist()))
        below = np.cumsum(chances)[chances > 0]
        found.update(np.minimum(1, 2 * below[below <= 0.75]).tolist())
    return np.array(sorted(found))


def signed_rank_range(difference: float, sd: tuple[float, float], n: int, half: float = 0.0) -> tuple[float, float]:
    """Least and largest exact signed-rank p of n untied differences with this mean (+- half) and an sd in `sd`.

    Each pattern of signs, in order of size, allows a range of sd/|mean|; those that meet the given range count.
    n is at least 2; above LARGEST they are not enumerated, and both are NaN.
    """
    if n > LARGEST:
        return math.nan, math.nan
    mean = abs(difference)
    low = sd[0] / (mean + half) if mean + half > 0 else math.inf if sd[0] > 0 else 0.0
    high = sd[1] / (mean - half) if mean > half else math.inf
    p, least, most = _patterns(n)
    open_p = p[(least <= high + NOISE) & (most >= low - NOISE)]
    return float(open_p.min()), float(open_p.max())


@lru_cache(maxsize=16)
def _patterns(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p, least and largest sd/mean of every pattern of signs that can have a mean above 0.

    The sizes 0 <= a_1 <= ... <= a_n are a convex cone. Over it s.a/|a| is largest for the projection of the
    signs s, their isotonic regression cut at 0; |a|^2 at s.a = n is largest on one of the rays (0..0, 1..1),
    or unbounded where a ray has s.a <= 0.
    """
    from scipy.optimize import isotonic_regression

    signs = np.array(list(product((-1.0, 1.0), repeat=n)))
    projected = np.maximum([isotonic_regression(row).x for row in signs], 0)
    signs, projected = signs[projected.any(axis=1)], projected[projected.any(axis=1)]
    ranks = np.arange(1, n + 1)
    smaller = (ranks.sum() - np.abs(signs @ ranks).astype(int)) // 2
    rays = np.cumsum(signs[:, ::-1], axis=1)  # s.a where the 1, 2, ... n largest are 1
    with np.errstate(divide="ignore"):
        squares = (ranks * n**2 / rays**2).max(axis=1)
    most = np.where((rays > 0).all(axis=1), squares, np.inf)
    least = n**2 / (projected**2).sum(axis=1)
    return p_values(n)[smaller], _ratio(least, n), _ratio(most, n)


def _ratio(squares: np.ndarray, n: int) -> np.ndarray:
    """sd/mean of n differences with mean 1 and these sums of squares."""
    return np.sqrt(np.maximum(0, squares - n) / max(1, n - 1))


def paired_t_range(difference: float, sd: tuple[float, float], n: int, half: float = 0.0) -> tuple[float, float]:
    """Least and largest two-sided p of the paired t-test, of the same differences."""
    from scipy.special import stdtr

    def p(mean: float, deviation: float) -> float:
        if mean == 0 or n < 2:
            return 1.0
        return float(2 * stdtr(n - 1, -mean * math.sqrt(n) / deviation)) if deviation else 0.0

    return p(abs(difference) + half, sd[0]), p(max(0.0, abs(difference) - half), sd[1])


def welch(difference: float, std: float, other: float, n: int) -> float:
    """Two-sided p of Welch's t-test of two unpaired samples of n runs each; NaN where it has none."""
    from scipy.stats import ttest_ind_from_stats

    if n < 2 or (std == 0 and other == 0):
        return math.nan
    return float(ttest_ind_from_stats(difference, std, n, 0.0, other, n, equal_var=False).pvalue)


def deviation_of_mean(stds: Numbers, halves: Numbers) -> tuple[float, float]:
    """Least and largest sd of the mean over tasks per seed, given each task's sd (+- its half).

    Largest where all tasks move together; least where they cancel the largest as far as they can.
    """
    stds, halves = np.asarray(stds, dtype=float), np.asarray(halves, dtype=float)
    upper, lower = stds + halves, np.maximum(0, stds - halves)
    alone = max(lower[i] - (upper.sum() - upper[i]) for i in range(len(stds)))
    return max(0.0, float(alone)) / len(stds), float(upper.sum()) / len(stds)


def chance_of_deviation(std: float, stds: Numbers, n: int) -> tuple[float, float]:
    """P(sd of the mean <= std) and P(>= std) if seeds mean nothing across tasks, given each task's sd.

    Centred scores of a task are then a vector of known length and random direction in n - 1 dimensions,
    drawn DRAWS times from a fixed seed.
    """
    stds = np.asarray(stds, dtype=float)
    directions = _directions(n, len(stds))
    found = np.linalg.norm(np.einsum("t,dtk->dk", stds, directions), axis=1) / len(stds)
    return float((1 + np.sum(found <= std)) / (DRAWS + 1)), float((1 + np.sum(found >= std)) / (DRAWS + 1))


@lru_cache(maxsize=4)
def _directions(n: int, tasks: int) -> np.ndarray:
    drawn = np.random.default_rng(0).standard_normal((DRAWS, tasks, n - 1))
    return drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
