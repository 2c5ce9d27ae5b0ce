"""What n, means and deviations leave possible, against brute force."""

import math
from itertools import product

import numpy as np
import pytest

from analysis.hypothesis import signed_rank
from analysis.paper import possible

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("n", [1, 2, 5])
def test_p_values_are_those_of_all_signs(n):
    every = {signed_rank(np.array(signs) * np.arange(1, n + 1)).p_value for signs in product((-1, 1), repeat=n)}
    assert possible.p_values(n).tolist() == sorted(every)


def test_p_values_with_ties_are_those_of_all_differences():
    every = {signed_rank(d).p_value for d in product(range(-3, 4), repeat=3)}
    assert possible.p_values_with_ties(3).tolist() == sorted(every)
    assert {15 / 16, 121 / 128} <= set(possible.p_values_with_ties(8)) and 15 / 16 not in possible.p_values(8)


def test_the_signed_rank_range_is_that_of_random_differences():
    """n = 4: of many differences with about this sd/mean, the least and largest p are the range's ends."""
    n, by_signs = 4, {}
    for signs in product((-1, 1), repeat=n):
        by_signs[signs] = signed_rank(np.array(signs) * np.arange(1, n + 1)).p_value
    draws = np.random.default_rng(0)
    d = draws.standard_normal((60_000, n)) * draws.choice([0.05, 0.3, 1, 4], (60_000, n)) + draws.normal(
        0, 1, (60_000, 1)
    )
    d *= np.sign(d.mean(axis=1))[:, None]
    ratio = d.std(axis=1, ddof=1) / d.mean(axis=1)
    ordered = np.take_along_axis(np.sign(d), np.argsort(np.abs(d), axis=1), axis=1)
    p = np.array([by_signs[tuple(row)] for row in ordered.astype(int).tolist()])
    for value in (0.2, 0.6, 0.8, 1.2, 1.7, 2.5):
        near = p[np.abs(ratio - value) < 0.04]
        assert len(near) > 50
        low, high = possible.signed_rank_range(-1.0, (value - 0.04, value + 0.04), n)
        assert (low, high) == (near.min(), near.max()), value


@pytest.mark.parametrize(
    "difference, sd, n, half, expected",
    [
        (1.0, (0.0, 0.0), 5, 0.0, (1 / 16, 1 / 16)),  # all differences are 1
        (1.0, (3.0, 3.0), 5, 0.0, (0.3125, 1.0)),  # five that all win have sd of at most sqrt(5) means
        (0.0, (1.0, 1.0), 5, 0.0, (0.4375, 1.0)),  # at the least the two largest, alike, cancel
        (0.0, (1.0, 1.0), 5, 0.01, (0.4375, 1.0)),
        (0.0, (0.0, 0.0), 5, 0.0, (1 / 16, 1.0)),
    ],
)
def test_ends_of_the_signed_rank_range(difference, sd, n, half, expected):
    assert possible.signed_rank_range(difference, sd, n, half) == expected


def test_a_range_is_not_enumerated_for_many():
    assert np.isnan(possible.signed_rank_range(1.0, (0, 1), 13)).all()


def test_the_paired_t_range_is_scipys():
    from scipy.stats import ttest_rel

    one, other = np.array([1.0, 2.0, 3.5, 5.0, 4.0]), np.array([0.0, 2.5, 2.0, 3.0, 3.0])
    d, stds = one - other, (one.std(ddof=1), other.std(ddof=1))
    low, high = abs(stds[0] - stds[1]), sum(stds)
    assert low <= d.std(ddof=1) <= high
    exact = possible.paired_t_range(d.mean(), (d.std(ddof=1),) * 2, 5)
    assert exact == pytest.approx((ttest_rel(one, other).pvalue,) * 2)
    least, most = possible.paired_t_range(d.mean(), (low, high), 5)
    assert least < exact[0] < most
    assert possible.paired_t_range(0.0, (0, 1), 5) == (1.0, 1.0)
    assert possible.paired_t_range(1.0, (0, 1), 5)[0] == 0.0


def test_the_deviation_of_a_mean_lies_between_its_limits():
    draws = np.random.default_rng(1)
    scores = draws.standard_normal((500, 5, 3)) * [1.0, 0.4, 0.3]
    scores[0] = scores[0, :, :1] * [1.0, 0.4, 0.3]  # tasks that move together
    scores[1] = scores[1, :, :1] * [1.0, -0.4, -0.3]  # tasks that cancel
    stds, means = scores.std(axis=1, ddof=1), scores.mean(axis=2).std(axis=1, ddof=1)
    limits = np.array([possible.deviation_of_mean(row, np.zeros(3)) for row in stds])
    assert (limits[:, 0] <= means + 1e-12).all() and (means <= limits[:, 1] + 1e-12).all()
    assert limits[0, 1] == pytest.approx(means[0]) and limits[1, 0] == pytest.approx(means[1])
    assert possible.deviation_of_mean([1.0, 0.2], [0.1, 0.1]) == pytest.approx((0.3, 0.7))


def test_the_chance_of_a_deviation_is_uniform_over_unrelated_tasks():
    draws = np.random.default_rng(2)
    scores = draws.standard_normal((150, 5, 4)) * [1.0, 1.0, 0.5, 2.0]
    chances = [
        possible.chance_of_deviation(row.mean(axis=1).std(ddof=1), row.std(axis=0, ddof=1), 5)[0] for row in scores
    ]
    assert 0.42 < np.mean(chances) < 0.58 and 0.02 < np.mean(np.array(chances) < 0.1) < 0.2
    small, large = possible.chance_of_deviation(1.125, [1.0, 1.0, 0.5, 2.0], 5)
    assert small > 0.999 and large < 0.001, "all tasks together"
    assert math.isclose(sum(possible.chance_of_deviation(0.5, [1.0, 1.0], 5)), 1, abs_tol=0.001)
