"""What n, means and deviations leave possible, against brute force."""

from itertools import product

import numpy as np
import pytest

from analysis.hypothesis import signed_rank
from analysis.paper import possible

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("n", [1, 2, 5])
def test_p_values_are_those_of_all_signs(n):
    every = {signed_rank(np.array(signs) * np.arange(1, n + 1)).p_value for signs in product((-1, 1), repeat=n)}
    assert sorted(set(possible.p_by_statistic(n).values())) == sorted(every)


def test_the_paired_t_range_is_scipys():
    from scipy.stats import ttest_rel

    one, other = np.array([1.0, 2.0, 3.5, 5.0, 4.0]), np.array([0.0, 2.5, 2.0, 3.0, 3.0])
    d, stds = one - other, (one.std(ddof=1), other.std(ddof=1))
    exact = possible.paired_t_range(d.mean(), d.std(ddof=1), 0.0, 5)
    assert exact == pytest.approx((ttest_rel(one, other).pvalue,) * 2)
    least, most = possible.paired_t_range(d.mean(), *stds, 5)
    assert least < exact[0] < most
    wider = possible.paired_t_range(d.mean(), *stds, 5, 0.1, 0.1)
    assert wider[0] < least < most < wider[1]
    assert possible.paired_t_range(0.0, 0.5, 0.5, 5) == (1.0, 1.0)
    assert possible.paired_t_range(1.0, 0.5, 0.5, 5)[0] == 0.0


def test_the_deviation_of_a_mean_lies_between_its_limits():
    draws = np.random.default_rng(1)
    scores = draws.standard_normal((500, 5, 3)) * [1.0, 0.4, 0.3]
    scores[0] = scores[0, :, :1] * [1.0, 0.4, 0.3]  # tasks that move together
    scores[1] = scores[1, :, :1] * [1.0, -0.4, -0.3]  # tasks that cancel
    stds, means = scores.std(axis=1, ddof=1), scores.mean(axis=2).std(axis=1, ddof=1)
    limits = np.array([possible.deviation_of_mean(row, [0.0] * 3) for row in stds])
    assert (limits[:, 0] <= means + 1e-12).all() and (means <= limits[:, 1] + 1e-12).all()
    assert limits[0, 1] == pytest.approx(means[0]) and limits[1, 0] == pytest.approx(means[1])
    assert possible.deviation_of_mean([1.0, 0.2], [0.1, 0.1]) == pytest.approx((0.3, 0.7))
