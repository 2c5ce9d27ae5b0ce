"""Brute force in exact fractions, scipy where it is exact, worked numbers, properties, verdicts."""

import itertools
import math
import statistics
import tempfile
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis import AnalysisError
from analysis.hypothesis import (
    FEW,
    RANK_SUM,
    SIGNED_RANK,
    Pairs,
    compare,
    equivalence,
    floor,
    holm,
    min_p_value,
    pairs,
    rank_sum,
    rounded,
    signed_rank,
    verdicts,
)

pytestmark = pytest.mark.filterwarnings("error")  # no answer comes with a warning

set_hypothesis_home_dir(tempfile.gettempdir())  # not into the working folder
few = settings(max_examples=40, deadline=None, database=None)
tenths = st.lists(st.integers(-30, 30), min_size=1, max_size=11)

# in tenths of a point: no ties, ties, zeros, ties and zeros, one sign, all of a kind
CASES = [
    [3],
    [-2, 5],
    [1, -2, 3, 4, -5, 6],
    [1, 1, 1, 1, 1, 1, 1, -1],
    [0, 0, 3, -1, 2, 2, -2, 7],
    [0, 0, 0, 0, 0],
    [4, 4, 4, 4, 4, 4],
    [5, -5, 5, -5, 0, 1, 1, 9],
    [-1, -2, -2, -3, -4, -9, -9, -9, -12],
    [2, 0, -2, 4, 4, 1, 0, -7, 3, 3],
    [10, 7, -1, 3, 8, 2, 6, 5, 4, 9],
]
# scores of both sides, in tenths: no ties, ties within and across, all alike, one seed, apart
SIDES = [
    ([3], [1]),
    ([5, 2], [1, 4]),
    ([701, 705, 709], [700, 702, 704]),
    ([1, 1, 2, 3], [1, 2, 2, 2]),
    ([4, 4, 4, 4, 4], [4, 4, 4, 4, 4]),
    ([5, 6, 7, 8, 9], [0, 1, 2, 3, 4]),
    ([1, 5, 5, 9, 12], [0, 5, 6, 6, 2]),
    ([3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]),
    ([10, 7, -1, 3, 8, 2], [6, 5, 4, 9, 11, 12]),
]


def as_scores(in_tenths):
    """Differences as the difference of two float scores, with the noise that this brings."""
    return [(70.1 + d / 10) - 70.1 for d in in_tenths]


def over(d, base=70.0):
    """Pairs with these differences; the reference has the same score with each seed."""
    return pairs([base + x for x in d], [base] * len(d))


def mid_ranks(values):
    ordered = sorted(values)
    return [Fraction(2 * ordered.index(v) + ordered.count(v) + 1, 2) for v in values]


def tails(d):
    """P(W <= w) and P(W >= w) by all sign vectors, in fractions."""
    kept = [x for x in d if x != 0]
    ranks = mid_ranks([abs(x) for x in kept])
    w = sum(rank for rank, x in zip(ranks, kept, strict=True) if x > 0)
    null = [sum(itertools.compress(ranks, s)) for s in itertools.product((0, 1), repeat=len(ranks))]
    below, above = sum(v <= w for v in null), sum(v >= w for v in null)
    return Fraction(below, len(null)), Fraction(above, len(null))


def sum_tails(x, y):
    """P(R <= r) and P(R >= r) by all ways to choose which of the scores are the method's, in fractions."""
    ranks = mid_ranks([*x, *y])
    r = sum(ranks[: len(x)])
    null = [sum(some) for some in itertools.combinations(ranks, len(x))]
    return Fraction(sum(v <= r for v in null), len(null)), Fraction(sum(v >= r for v in null), len(null))


@pytest.mark.parametrize("d", CASES, ids=str)
def test_signed_rank_is_the_enumeration(d):
    found = signed_rank(as_scores(d))
    assert Fraction(found.p_value) == min(1, 2 * min(tails(d)))
    nonzero = [x for x in d if x]
    assert (found.name, found.n, found.n_nonzero) == (SIGNED_RANK, len(d), len(nonzero))
    averages = [Fraction(a + b, 20) for a, b in itertools.combinations_with_replacement(d, 2)]
    assert found.estimate == pytest.approx(float(statistics.median(averages)), abs=1e-9)


@pytest.mark.parametrize("x, y", SIDES, ids=str)
def test_rank_sum_is_the_enumeration(x, y):
    found = rank_sum(np.array(x) / 10 + 0.1 - 0.1, np.array(y) / 10)
    n = len(x)
    assert found.p_value == pytest.approx(float(min(1, 2 * min(sum_tails(x, y)))), abs=1e-12)
    differences = [Fraction(a - b, 10) for a in x for b in y]
    assert found.estimate == pytest.approx(float(statistics.median(differences)), abs=1e-9)
    assert (found.name, found.n, found.min_p_value) == (RANK_SUM, n, min(1, 2 / math.comb(2 * n, n)))
    assert found.n_nonzero == sum(a != b for a, b in zip(x, y, strict=True))
    turned = rank_sum(np.array(y) / 10, np.array(x) / 10)
    assert turned.p_value == pytest.approx(found.p_value, abs=1e-12)
    assert (turned.estimate, turned.low) == (pytest.approx(-found.estimate, abs=1e-9), -found.high)


@pytest.mark.parametrize("n", range(2, FEW + 1))
def test_rank_sum_is_scipys_exact_test(n):
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.7, 3.0):
        x, y = rng.normal(shift, 1, n), rng.normal(size=n)
        exact = stats.mannwhitneyu(x, y, method="exact")
        assert rank_sum(x, y).p_value == pytest.approx(exact.pvalue, rel=1e-12)
    tied = rng.integers(0, 4, n), rng.integers(0, 4, n)
    by_permutation = stats.permutation_test(
        tied, lambda a, b, axis: stats.rankdata(np.concatenate([a, b], axis=-1), axis=-1)[..., :n].sum(axis=-1),
        vectorized=True, n_resamples=np.inf,
    )  # fmt: skip
    assert rank_sum(*tied).p_value == pytest.approx(by_permutation.pvalue)


@pytest.mark.parametrize("margin", [1, 4, 30])
@pytest.mark.parametrize("d", [d for d in CASES if len(d) > FEW], ids=str)
def test_equivalence_is_the_enumeration_of_two_one_sided_tests(d, margin):
    above = tails([x + margin for x in d])[1]
    below = tails([x - margin for x in d])[0]
    assert Fraction(equivalence(pairs(np.array(d) / 10 + 70.1, [70.1] * len(d)), margin / 10)) == max(above, below)


@pytest.mark.parametrize("margin", [1, 4, 30])
@pytest.mark.parametrize("x, y", SIDES, ids=str)
def test_equivalence_of_few_seeds_is_the_enumeration_too(x, y, margin):
    above, below = sum_tails([a + margin for a in x], y)[1], sum_tails([a - margin for a in x], y)[0]
    found = equivalence(pairs(np.array(x) / 10, np.array(y) / 10), margin / 10)
    assert found == pytest.approx(float(max(above, below)), abs=1e-12)


@pytest.mark.parametrize("n", [6, 8, 10])
def test_interval_is_the_enumeration(n):
    d = sorted(np.random.default_rng(n).normal(size=n).round(3))
    averages = sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(d, 2))
    null = [sum(itertools.compress(range(1, n + 1), s)) for s in itertools.product((0, 1), repeat=n)]
    c = max(c for c in range(n * n) if Fraction(2 * sum(w <= c for w in null), 2**n) <= Fraction(5, 100))
    found = signed_rank(d)
    assert (found.low, found.high) == pytest.approx((averages[c], averages[-1 - c]), abs=1e-9)
    assert found.level == 1 - 2 * sum(w <= c for w in null) / 2**n


@pytest.mark.parametrize("n", range(3, FEW + 1))
def test_the_interval_of_few_seeds_holds_the_shifts_that_the_test_does_not_reject(n):
    """Its ends are differences of scores; just inside them scipy's exact p is above 0.05, just outside at most 0.05."""
    rng = np.random.default_rng(n)
    x, y = rng.normal(1, 1, n).round(4), rng.normal(size=n).round(4)
    found = rank_sum(x, y)
    if n == 3:
        assert (found.low, found.high, found.level) == (-math.inf, math.inf, 1.0)  # 2 / C(6, 3) is 0.1
        return
    for end, inward in ((found.low, 1e-5), (found.high, -1e-5)):
        assert np.isclose(end, (x[:, None] - y).ravel()).any()
        assert stats.mannwhitneyu(x - end - inward, y, method="exact").pvalue > 0.05
        assert stats.mannwhitneyu(x - end + inward, y, method="exact").pvalue <= 0.05


@pytest.mark.parametrize("n", [4, 5, 6])
def test_the_interval_of_few_seeds_covers_as_often_as_it_says(n):
    rng = np.random.default_rng(0)
    found = [rank_sum(2 + rng.normal(size=n), rng.normal(size=n)) for _ in range(1500)]
    hit = np.mean([test.low <= 2 <= test.high for test in found])
    assert hit == pytest.approx(found[0].level, abs=0.02) and found[0].level >= 0.95


def test_scipy_agrees_where_it_is_exact():
    rng = np.random.default_rng(1)
    for n in (5, 8, 13, 30):
        d = rng.normal(0.3, 1, size=n)
        exact = stats.wilcoxon(d, method="exact")
        assert signed_rank(d).p_value == pytest.approx(exact.pvalue, rel=1e-12)
    tied = [1.0, 1.0, -2.0, 3.0, 3.0, 4.0, -4.0, 5.0]
    by_permutation = stats.wilcoxon(tied, method=stats.PermutationMethod(n_resamples=np.inf))
    assert signed_rank(tied).p_value == pytest.approx(by_permutation.pvalue)


def test_the_number_of_seeds_alone_fixes_the_test():
    rng = np.random.default_rng(2)
    for n in range(10):
        both = pairs(rng.normal(size=n), rng.normal(size=n))
        found = compare(both)
        if n <= FEW:
            assert found == rank_sum(both.mine, both.theirs)
        else:
            assert found == signed_rank(both.differences)
        assert found.p_value >= floor(n)


def test_float_noise_does_not_break_ties():
    finetune = np.array([77.6, 61.3, 70.9, 76.6, 61.6, 67.6, 70.1, 66.5])
    method = np.array([77.7, 61.4, 71.0, 76.7, 61.7, 67.7, 70.2, 66.4])
    assert stats.wilcoxon(method, finetune).pvalue == pytest.approx(0.0234, abs=5e-5)  # on the raw columns
    assert signed_rank(method - finetune).p_value == pytest.approx(0.0703, abs=5e-5)
    noisy = np.array([0.1 + 0.2, 0.7, 0.8]), np.array([0.3, 0.1, 0.2])  # 0.30000000000000004 and 0.3 are one score
    assert rank_sum(*noisy).p_value == pytest.approx(float(2 * min(sum_tails([3, 7, 8], [3, 1, 2]))))


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "d, p, floor, estimate, low, word, decidable",
    [
        ([], 1, 1, 0, -INF, "undecided", False),
        ([0.7], 1, 1, 0.7, -INF, "undecided", False),
        ([0.0], 1, 1, 0, -INF, "undecided", False),
        ([2.0, 3.0], 1 / 3, 1 / 3, 2.5, -INF, "undecided", False),
        ([2.0] * 3, 0.1, 0.1, 2, -INF, "undecided", False),
        ([0.0] * 3, 1, 0.1, 0, -INF, "equivalent", False),  # one-sided 1/20 twice
        ([2.0] * 4, 1 / 35, 1 / 35, 2, 2, "better", True),
        ([0.0] * 4, 1, 1 / 35, 0, 0, "equivalent", True),
        ([2.0] * 5, 1 / 126, 1 / 126, 2, 2, "better", True),
        ([-2.0] * 6, 1 / 462, 1 / 462, -2, -2, "worse", True),
        ([2.0] * 7, 1 / 64, 1 / 64, 2, 2, "better", True),
        ([0.0] * 8, 1, 1, 0, 0, "equivalent", True),
        ([2.0] * 8, 1 / 128, 1 / 128, 2, 2, "better", True),
        ([-2.0] * 8, 1 / 128, 1 / 128, -2, -2, "worse", True),
        ([2.0, -2.0] * 4, 1, 1 / 128, 0, -2, "undecided", True),
        ([0.1, -0.1] * 4, 1, 1 / 128, 0, -0.1, "equivalent", True),
    ],
    ids=str,
)
def test_dull_cases(d, p, floor, estimate, low, word, decidable):
    verdict = verdicts({"ls": over(d)}, 0.5)["ls"]
    found = verdict.test
    assert (found.p_value, found.min_p_value) == pytest.approx((p, floor), rel=1e-12)
    assert (found.estimate, found.low) == (estimate, low)
    assert math.isinf(found.low) == (found.level == 1.0)
    assert (verdict.word, verdict.decidable) == (word, decidable)
    assert verdict.reason and "nan" not in verdict.reason
    assert 0 < equivalence(over(d), 0.5) <= 1


@pytest.mark.parametrize("bad", [NAN, INF, None])
def test_a_difference_that_is_no_number_is_refused_in_one_line(bad):
    for call in (signed_rank, lambda d: pairs(d, [1.0, 2.0, 3.0]), lambda d: rank_sum([1.0, 2.0, 3.0], d)):
        with pytest.raises(AnalysisError, match="difference 2 of 3 is (nan|inf)") as error:
            call([1.0, bad, 2.0])
        assert "\n" not in str(error.value)


def test_mistakes_are_told():
    assert issubclass(AnalysisError, ValueError)
    for margin in (0, -1, NAN, INF):
        with pytest.raises(AnalysisError, match="above 0"):
            equivalence(over([1.0]), margin)
        with pytest.raises(AnalysisError, match="above 0"):
            verdicts({}, margin)
    with pytest.raises(AnalysisError, match="level 0 is outside"):
        verdicts({}, 0.5, level=0)
    with pytest.raises(AnalysisError, match="1,001 pairs .* up to 1,000"):
        signed_rank([1.0] * 1001)
    assert verdicts({}, 0.5) == {}


def test_the_numbers_of_the_text():
    assert [min_p_value(n) for n in (0, 1, 5, 6, 7, 8)] == [1, 1, 0.0625, 0.03125, 0.015625, 0.0078125]
    of_seeds = [1, 1, 1 / 3, 1 / 10, 1 / 35, 1 / 126, 1 / 462, 1 / 64, 1 / 128, 1 / 256]
    assert [floor(n) for n in range(10)] == pytest.approx(of_seeds)
    distinct = np.arange(1.0, 11)
    levels = [signed_rank(distinct[:n]).level for n in (6, 8, 10)]
    assert levels == pytest.approx([0.969, 0.961, 0.951], abs=5e-4)
    assert signed_rank(distinct[:5]).low == -INF and signed_rank(distinct[:5], confidence=0.9).low == 1
    assert signed_rank(distinct[:6], confidence=1 - 2**-5).low == 1  # attained exactly, "at least" holds
    zeros = [0.2] * 6 + [0.0] * 9
    assert signed_rank(zeros).min_p_value == min_p_value(6) == signed_rank(zeros).p_value
    # table 8 of the paper: W = 12 is .46, W = 15 is .74, at n = 8
    assert round(signed_rank([-1, -2, -3, 4, 5, -6, 7, 8]).p_value, 2) == 0.46
    assert round(signed_rank([-1, -2, 3, -4, 5, 6, 7, -8]).p_value, 2) == 0.74


@given(tenths)
@few
def test_sign_symmetry_and_bounds(d):
    d = np.array(d) / 10
    plus, minus = compare(over(d)), compare(over(-d))
    assert plus.p_value == pytest.approx(minus.p_value, rel=1e-12) and plus.p_value > plus.min_p_value * (1 - 1e-12)
    assert plus.estimate == pytest.approx(-minus.estimate)
    assert (plus.low, plus.high) == pytest.approx((-minus.high, -minus.low))
    assert plus.low <= plus.estimate <= plus.high
    assert equivalence(over(d), 0.7) == pytest.approx(equivalence(over(-d), 0.7), rel=1e-12)


@given(tenths, st.sampled_from([0.01, 0.5, 3.0, 100.0]))
@few
def test_scale_invariance(d, scale):
    d = np.array(d) / 10
    one, other = compare(over(d, 0)), compare(over(d * scale, 0))
    assert one.p_value == other.p_value
    assert other.estimate == pytest.approx(one.estimate * scale, abs=1e-8)
    assert equivalence(over(d, 0), 0.75) == equivalence(over(d * scale, 0), 0.75 * scale)


@given(st.lists(st.integers(-500, 500), min_size=6, max_size=14), st.integers(-300, 300))
@few
def test_the_interval_holds_what_the_test_does_not_reject(d, shift):
    shifted = [x - shift for x in d]
    assume(0 not in shifted and len({abs(x) for x in shifted}) == len(d))  # the interval's null has no ties
    found = signed_rank(np.array(d) / 10)
    rejected = signed_rank(np.array(shifted) / 10).p_value <= 0.05
    assert rejected == (not found.low <= shift / 10 <= found.high)


@given(st.lists(st.integers(-80, 80), min_size=7, max_size=12), st.integers(1, 100))
@few
def test_equivalence_is_the_90_percent_interval_within_the_margin(d, margin):
    for shifted in ([x - margin for x in d], [x + margin for x in d]):
        assume(0 not in shifted and len({abs(x) for x in shifted}) == len(d))
    found = signed_rank(np.array(d) / 10, confidence=0.9)
    within = -margin / 10 < found.low and found.high < margin / 10
    assert (equivalence(over(np.array(d) / 10), margin / 10) <= 0.05) == within


@given(st.lists(st.floats(-5, 5).map(lambda x: round(x, 4)), min_size=1, max_size=12))
@few
def test_rounding_is_stable(d):
    assert rounded(d).tolist() == rounded(rounded(d)).tolist()
    assert signed_rank(d) == signed_rank(np.array(d) + 1e-12)


def test_holm():
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    for p in np.random.default_rng(0).uniform(0, 0.4, size=(5, 5)).round(1):
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())
        with_absent = multipletests([*p, 1.0, 1.0], method="holm")[1][:5]
        assert holm(p, absent=2) == pytest.approx(with_absent.tolist())
    assert holm(min_p_value(8) for _ in range(4)) == pytest.approx([4 * 2**-7] * 4)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("n", [4, 5, 6, 7, 8, 9])
def test_the_two_floors(n, k):
    """The strongest data that n seeds can show: k floor(n) for a difference, half of it for equivalence."""
    least = 2 / math.comb(2 * n, n) if n <= 6 else 2.0 ** (1 - n)
    best = verdicts({i: over([9.0] * n) for i in range(k)}, 0.5)[0]
    assert best.p_holm == pytest.approx(min(1, k * least))
    assert best.decidable == (k * least <= 0.05) == (best.word == "better")
    same = verdicts({i: over([0.0] * n) for i in range(k)}, 0.5)[0]
    assert (same.word == "equivalent") == (k * least / 2 <= 0.05)
    if best.word == "undecided":
        family = f" in a family of {k}" if k > 1 else ""
        assert f"{n} seeds are too few to call a difference, whatever the data{family}" in best.reason


WIDE = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5]


def test_the_words():
    found = verdicts(
        {
            "up": over([2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7]),
            "down": over([-0.3, -0.21, -0.22, -0.23, -0.24, -0.25, -0.26, -0.27]),
            "none": over([0.1, -0.11, 0.05, -0.02, 0.03, 0.07, -0.06, -0.04]),
            "wide": over(WIDE),
        },
        margin=0.5,
    )
    assert {method: v.word for method, v in found.items()} == {
        "up": "better",
        "down": "worse",
        "none": "equivalent",
        "wide": "undecided",
    }
    assert [v.negligible for v in found.values()] == [False, True, False, False]
    assert all(v.decidable for v in found.values())
    assert "higher in 8 of 8 seeds" in found["up"].reason
    assert "lower in 8 of 8 seeds; real, but smaller than the margin of 0.5" in found["down"].reason
    assert "smaller than the margin of 0.5" in found["none"].reason
    assert "still holds effects beyond the margin of 0.5" in found["wide"].reason


def test_five_seeds_that_decide():
    """Seven pairs of five and five scores: 2/252 each, Holm over the family that was planned."""
    apart = pairs([71.0, 72, 73, 74, 75], [60.0, 61, 62, 63, 64])
    same = pairs([70.0, 70.1, 70.2, 70.3, 70.4], [70.4, 70.2, 70.0, 70.3, 70.1])
    found = verdicts({"kd": apart, "ls": same}, 0.5, planned=4)
    assert (found["kd"].word, found["kd"].p_holm) == ("better", pytest.approx(4 * 2 / 252))
    assert found["kd"].test.name == RANK_SUM and "higher in 5 of 5 seeds" in found["kd"].reason
    assert found["ls"].word == "equivalent" and found["ls"].p_equivalence == pytest.approx(1 / 252)
    assert verdicts({"kd": apart}, 0.5, planned=7)["kd"].word == "undecided"  # 7 * 2 / 252 is 0.0556


def test_methods_that_are_planned_count_in_the_family_present_or_not():
    up = over([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, -0.9])  # p = 0.0156 at 8 seeds
    assert verdicts({"up": up}, 0.5)["up"].p_holm == 1 / 64
    assert verdicts({"up": up}, 0.5, planned=3)["up"].p_holm == 3 / 64
    assert verdicts({"up": up}, 0.5, planned=4)["up"].word == "undecided"
    assert verdicts({"up": up, "wide": over(WIDE)}, 0.5, planned=1)["up"].p_holm == 2 / 64


def test_holm_can_undo_a_verdict():
    up = over([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, -0.9])
    assert verdicts({"up": up}, 0.5)["up"].word == "better"
    crowd = {"up": up, **{str(i): over(WIDE) for i in range(4)}}
    undone = verdicts(crowd, 0.5)["up"]
    assert undone.word == "undecided" and undone.reason == "p = 0.016 reaches 0.05 alone, not after correction"
    assert verdicts({"up": up}, 0.5, level=0.01)["up"].word == "undecided"


def test_seeds_may_differ_in_a_family():
    found = verdicts({"eight": over([1.0] * 8), "three": over([1.0] * 3), "none": over([])}, 0.5)
    assert [v.decidable for v in found.values()] == [True, False, False]
    assert found["eight"].word == "better" and found["eight"].p_holm == 3 * min_p_value(8)
    assert "3 seeds are too few" in found["three"].reason and found["none"].reason == "no paired seed"


def test_flags():
    six_wins = verdicts({"m": over([0.6] * 6 + [0.0] * 15)}, 0.5)["m"]
    assert six_wins.test.estimate == 0 and six_wins.p_holm <= 0.05 and six_wins.word == "equivalent"
    assert "15 of 21 differences are zero" in six_wins.reason
    collapsed = verdicts({"m": over([1.0, 1.1, 1.2, 0.9, 0.8, 0.7, 1.3, -40.0])}, 0.5)["m"]
    assert "disagree in sign: collapsed seeds?" in collapsed.reason
    few_left = verdicts({"m": over([0.0] * 6 + [3.0, 4.0])}, 0.5)["m"]
    assert few_left.decidable and "only 2 differences are not zero" in few_left.reason
    touching = verdicts({"m": over([0.2] * 6 + [0.0] * 9)}, 0.5)["m"]
    assert "touches 0 although p is" in touching.reason and touching.word == "better"
    assert verdicts({"m": over([0.0] * 8)}, 0.5)["m"].reason.endswith("all differences are zero")


def test_an_interval_that_leaves_0_out_although_p_is_above_the_level_is_flagged():
    d = [-3, 0, 2, 2, 2, 2, 3, 4, 5, 6]
    assert 2 * min(tails(d)) == Fraction(13, 256)  # 0.0508
    found = verdicts({"m": over(np.array(d) / 10)}, 0.1)["m"]
    assert (found.word, found.test.low) == ("undecided", 0.05)
    assert "the interval [+0.05, +0.40] leaves 0 out although p is 0.051 (ties)" in found.reason


def test_a_reason_rounds_as_the_table_beside_it():
    """Scores of two decimals have averages of three, half of which would be rounded to an even digit."""
    d = [0.11, -0.65, -0.31, 0.43, -0.94, 0.75, -0.19, 0.34]
    found = verdicts({"m": over(d)}, 0.4)["m"]
    assert (found.test.low, found.test.high) == (-0.625, 0.43)
    assert "the interval [-0.63, +0.43] still holds effects" in found.reason


def test_size_of_a_family_under_no_effect():
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(150):
        common = rng.normal(size=8)
        family = {i: over((rng.normal(size=8) + common) / math.sqrt(2)) for i in range(4)}
        false += any(v.word in ("better", "worse") for v in verdicts(family, 0.5).values())
    assert false <= 13  # 5% of 150 is 7.5; 14 or more have chance 0.02 at exactly 5%


def test_size_of_few_seeds_whose_sides_rise_and_fall_together():
    rng = np.random.default_rng(1)
    for shared, most in ((0.0, 26), (1.0, 12)):  # of 300; 5% is 15, and the attained size of five seeds is 3.2%
        false = 0
        for _ in range(300):
            seed = shared * rng.normal(size=5)
            false += compare(Pairs(seed + rng.normal(size=5), seed + rng.normal(size=5))).p_value <= 0.05
        assert false <= most


@pytest.mark.parametrize("huge", [1e300, -1e16, math.inf])
def test_differences_that_are_no_scores_are_refused(huge):
    with pytest.raises(AnalysisError, match="difference 2 of 3 is"):
        rounded([1.0, huge, 2.0])
