"""What printed numbers leave possible: p-values that n can give, and those that mean and sd leave open.

Of two methods a paper prints means and standard deviations (ddof 1), not the paired differences d. The mean
of d is their difference; its sd lies anywhere in [|s1 - s2|, s1 + s2].
"""

import math
from functools import lru_cache

import numpy as np

from analysis.hypothesis import Numbers, null

LARGEST_UNTIED = 50  # 1,276 sums of ranks
NOISE = 1e-9  # of floats, beside numbers of a few decimals


@lru_cache(maxsize=16)
def p_by_statistic(n: int) -> dict[int, float]:
    """The two-sided signed-rank p of each W, the smaller of the two sums of ranks, of n untied differences."""
    sizes = np.minimum(1, 2 * np.cumsum(null(tuple(range(1, n + 1)))))
    return dict(enumerate(sizes[: n * (n + 1) // 4 + 1].tolist()))


def paired_t_range(
    difference: float, std: float, other: float, n: int, half: float = 0.0, std_half: float = 0.0
) -> tuple[float, float]:
    """Least and largest two-sided p of the paired t-test, whatever the pairing.

    `difference` of the means is rounded by `half`, the two deviations by `std_half` together.
    """
    from scipy.special import stdtr

    def p(mean: float, deviation: float) -> float:
        if mean == 0 or n < 2:
            return 1.0
        return float(2 * stdtr(n - 1, -mean * math.sqrt(n) / deviation)) if deviation else 0.0

    least, most = max(0.0, abs(std - other) - std_half), std + other + std_half
    return p(abs(difference) + half, least), p(max(0.0, abs(difference) - half), most)


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
    upper, lower = np.add(stds, halves), np.maximum(0, np.subtract(stds, halves))
    alone = float((lower + upper).max() - upper.sum())
    return max(0.0, alone) / len(upper), float(upper.sum()) / len(upper)
