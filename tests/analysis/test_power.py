"""How many seeds: counted out, simulated, and foretold from the pairs in hand."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from analysis.hypothesis import compare, pairs, signed_rank, verdicts
from analysis.power import (
    EFFICIENCY,
    detectable_effect,
    least_seeds,
    more_seeds,
    reachable,
    robust_sd,
    seeds_needed,
)

pytestmark = pytest.mark.filterwarnings("error")


def strongest(n, k, level=0.05):
    """The verdicts on k methods that are far ahead with each of n seeds."""
    return {v.word for v in verdicts({i: pairs([99.0] * n, [1.0] * n) for i in range(k)}, 0.5, level).values()}


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, 8, 12, 25])
def test_what_can_be_reached_is_what_the_strongest_data_reach(k):
    for n in range(1, 13):
        assert reachable(n, k) == (strongest(n, k) == {"better"})
        same = verdicts({i: pairs([1.0] * n, [1.0] * n) for i in range(k)}, 0.5)[0].word
        assert reachable(n, k, sides=1) == (same == "equivalent")
    assert least_seeds(k) == min(n for n in range(1, 13) if reachable(n, k))


def test_more_seeds_do_not_always_decide_more():
    """5 and 6 seeds have the rank-sum test and can decide four methods, 7 have the signed-rank test and cannot."""
    assert [n for n in range(2, 11) if reachable(n, 4)] == [5, 6, 8, 9, 10]
    assert [n for n in range(2, 11) if reachable(n, 7)] == [6, 9, 10]  # 7 * 2 / 252 is 0.0556, 7 / 128 is 0.0547
    assert [n for n in range(2, 11) if reachable(n, 1)] == [4, 5, 6, 7, 8, 9, 10]
    assert [least_seeds(k) for k in (1, 2, 6, 7, 23, 24)] == [4, 5, 5, 6, 6, 10]
    assert least_seeds(4, above=7) == 8 and least_seeds(4, level=0.01) == 6 and least_seeds(1, sides=1) == 3


def test_seeds_needed_is_the_text():
    assert [seeds_needed(1, effect, k) for effect in (1, 0.5) for k in (1, 4)] == [11, 15, 36, 51]
    assert seeds_needed(2, 1) == seeds_needed(1, 0.5)
    assert seeds_needed(0, 0.5) == 4 and seeds_needed(0, 0.5, k=4) == 5


@pytest.mark.parametrize("size, k", [(2.0, 1), (1.0, 1), (0.5, 4), (0.4, 2)])
def test_seeds_needed_have_the_power_and_one_seed_less_has_not(size, k):
    """The power of the two-sided t-test at Wilcoxon's efficiency, from the noncentral t distribution."""

    def power(n):
        shift, critical = size * math.sqrt(EFFICIENCY * n), stats.t.isf(0.05 / k / 2, n - 1)
        return stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)

    n = seeds_needed(1, size, k)
    before = max(m for m in range(2, n) if reachable(m, k))
    assert power(n) >= 0.8 > power(before)


@pytest.mark.parametrize("sd", [3.0, 1e6, 1e300])
def test_more_than_a_hundred_seeds_are_not_counted(sd):
    assert seeds_needed(sd, 0.5) is None
    assert TTestPower().power(0.5 / 3 * math.sqrt(EFFICIENCY), 100, 0.05) < 0.8


def test_detectable_effects_are_those_of_the_text():
    for k, row in {1: {10: 1.02, 20: 0.67, 30: 0.54}, 4: {12: 1.16, 20: 0.83, 30: 0.66}}.items():
        assert [detectable_effect(n, k) for n in row] == pytest.approx(list(row.values()), abs=0.016)
    assert detectable_effect(7, 4) is None and detectable_effect(3) is None and detectable_effect(1, 1, 0.5) is None
    assert detectable_effect(5, 4) > detectable_effect(6, 4) > detectable_effect(8, 4)


def test_where_the_strongest_data_alone_reject_the_power_is_that_all_are_positive():
    """7 seeds and three methods: 0.05 / 3 is above 2 / 128, and below 4 / 128."""
    assert stats.norm.cdf(detectable_effect(7, 3)) ** 7 == pytest.approx(0.8, abs=0.001)


def test_power_is_that_of_a_simulation():
    rng, n = np.random.default_rng(0), 11
    drawn = rng.normal(1.0, 1, size=(1500, n))
    called = np.mean([signed_rank(d).p_value <= 0.05 and d.mean() > 0 for d in drawn])
    assert called == pytest.approx(0.81, abs=0.03)


@pytest.mark.parametrize("n, k", [(5, 1), (6, 4), (12, 1), (12, 4)])
def test_a_detectable_effect_is_detected(n, k):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, math.sqrt(0.5), size=(2, 1200, n))
    a += detectable_effect(n, k)
    tests = [compare(pairs(*both)) for both in zip(a, b, strict=True)]
    assert np.mean([test.p_value <= 0.05 / k and test.estimate > 0 for test in tests]) >= 0.75


def test_a_spread_that_one_collapsed_seed_does_not_move():
    d = np.array([1.0, 1.4, 0.7, 1.1, 0.8, 1.3, 0.9, 1.2])
    collapsed = np.append(d[:-1], -40.0)
    assert robust_sd(d) == pytest.approx(stats.median_abs_deviation(d, scale="normal"), rel=1e-4)
    assert robust_sd(collapsed) < 2 * robust_sd(d) and collapsed.std(ddof=1) > 50 * d.std(ddof=1)
    drawn = np.random.default_rng(0).normal(3, 2, 5000)
    assert robust_sd(drawn) == pytest.approx(2, rel=0.04)
    assert robust_sd(np.array([1.0, 2, 6])) == pytest.approx(np.std([1, 2, 6], ddof=1))  # fewer than four
    assert robust_sd(np.array([1.0, 2, 3, 40])) == pytest.approx(1.4826)  # of four: 0.5, 0.5, 1.5, 37.5 from 2.5
    mostly = np.array([1.0, 1, 1, 1, 1, 5])  # half of them equal: no median distance
    assert robust_sd(mostly) == pytest.approx(mostly.std(ddof=1))
    assert robust_sd(np.array([1.0])) == robust_sd(np.full(6, 2.0)) == 0


CLEAR = [1.9, 2.3, 2.1, 2.6, 1.8, 2.2, 2.4, 2.0]
WIDE = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5]


def test_seeds_that_a_clear_effect_still_needs_are_few():
    assert more_seeds(CLEAR[:3], 0.5, 1) == 4  # of 7 seeds the floor is 0.0156; up to 6 nothing is foretold
    assert more_seeds(CLEAR[:3], 0.5, 4) == 5  # 7 seeds cannot decide four
    assert more_seeds(CLEAR, 0.5, 4) == 1
    assert more_seeds([-x for x in CLEAR[:3]], 0.5, 1) == 4  # whichever side it is on
    assert more_seeds([x / 100 for x in WIDE], 0.5) == 1  # equivalence is a verdict too


def test_seeds_that_decide_without_a_spread_and_seeds_that_never_do():
    assert more_seeds([0.0] * 3, 0.5) == more_seeds([0.7] * 3, 0.5) == 4
    assert more_seeds([0.0] * 7, 0.5, 4) == 1
    assert more_seeds(WIDE, 0.1) is None and more_seeds([1.0], 0.5) is None and more_seeds([], 0.5) is None
    assert more_seeds(WIDE, 6.0) <= 2 < more_seeds(WIDE, 2.0) < 100


@pytest.mark.parametrize("n, effect", [(5, 0.0), (5, 0.5), (8, 0.5)])
def test_what_is_foretold_comes_true(n, effect):
    """Pairs that decide nothing yet: with so many more of the same origin a verdict falls nine times in ten."""
    rng, decided = np.random.default_rng(n), []
    while len(decided) < 60:
        d = rng.normal(effect, 1, n)
        more = more_seeds(d, 1.0)
        if verdicts({0: pairs(d, 0 * d)}, 1.0)[0].word == "undecided" and more:
            whole = np.append(d, rng.normal(effect, 1, more))
            decided.append(verdicts({0: pairs(whole, 0 * whole)}, 1.0)[0].word != "undecided")
    assert np.mean(decided) >= 0.85
