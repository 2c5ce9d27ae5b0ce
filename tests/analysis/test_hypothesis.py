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
    EFFICIENCY,
    MOST_SEEDS,
    detectable_effect,
    equivalence,
    holm,
    least_seeds,
    min_p_value,
    rounded,
    seeds_needed,
    sign_flip,
    signed_rank,
    upper_sd,
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


def as_scores(in_tenths):
    """Differences as the difference of two float scores, with the noise that this brings."""
    return [(70.1 + d / 10) - 70.1 for d in in_tenths]


def mid_ranks(values):
    ordered = sorted(values)
    return [Fraction(2 * ordered.index(v) + ordered.count(v) + 1, 2) for v in values]


def tails(d, zeros):
    """P(W <= w) and P(W >= w) by all sign vectors, in fractions."""
    kept = [x for x in d if x != 0] if zeros == "wilcox" else d
    pairs = [(rank, x) for rank, x in zip(mid_ranks([abs(x) for x in kept]), kept, strict=True) if x != 0]
    w = sum(rank for rank, x in pairs if x > 0)
    ranks = [rank for rank, _ in pairs]
    null = [sum(itertools.compress(ranks, s)) for s in itertools.product((0, 1), repeat=len(ranks))]
    below, above = sum(v <= w for v in null), sum(v >= w for v in null)
    return Fraction(below, len(null)), Fraction(above, len(null))


@pytest.mark.parametrize("zeros", ["wilcox", "pratt"])
@pytest.mark.parametrize("d", CASES, ids=str)
def test_signed_rank_is_the_enumeration(d, zeros):
    found = signed_rank(as_scores(d), zeros)
    assert Fraction(found.p_value) == min(1, 2 * min(tails(d, zeros)))
    nonzero = [x for x in d if x]
    assert (found.n, found.n_nonzero) == (len(d), len(nonzero))
    averages = [Fraction(a + b, 20) for a, b in itertools.combinations_with_replacement(d, 2)]
    assert found.estimate == pytest.approx(float(statistics.median(averages)), abs=1e-9)
    ranks = mid_ranks([abs(x) for x in (nonzero if zeros == "wilcox" else d)])
    signed = [r * np.sign(x) for r, x in zip(ranks, nonzero if zeros == "wilcox" else d, strict=True) if x]
    share = Fraction(sum(signed), sum(map(abs, signed))) if signed else 0
    assert found.rank_biserial == pytest.approx(float(share), abs=1e-12)


@pytest.mark.parametrize("margin", [1, 4, 30])
@pytest.mark.parametrize("d", CASES, ids=str)
def test_equivalence_is_the_enumeration_of_two_one_sided_tests(d, margin):
    above = tails([x + margin for x in d], "wilcox")[1]
    below = tails([x - margin for x in d], "wilcox")[0]
    assert Fraction(equivalence(as_scores(d), margin / 10)) == max(above, below)


@pytest.mark.parametrize("d", CASES, ids=str)
def test_sign_flip_is_the_enumeration(d):
    d = [x for x in d if x]
    flips = itertools.product((-1, 1), repeat=len(d))
    sums = [sum(sign * x for sign, x in zip(signs, d, strict=True)) for signs in flips]
    assert sign_flip(as_scores(d)) == sum(abs(s) >= abs(sum(d)) for s in sums) / len(sums)


@pytest.mark.parametrize("n", [6, 8, 10])
def test_interval_is_the_enumeration(n):
    d = sorted(np.random.default_rng(n).normal(size=n).round(3))
    averages = sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(d, 2))
    null = [sum(itertools.compress(range(1, n + 1), s)) for s in itertools.product((0, 1), repeat=n)]
    c = max(c for c in range(n * n) if Fraction(2 * sum(w <= c for w in null), 2**n) <= Fraction(5, 100))
    found = signed_rank(d)
    assert (found.low, found.high) == pytest.approx((averages[c], averages[-1 - c]), abs=1e-9)
    assert found.level == 1 - 2 * sum(w <= c for w in null) / 2**n


def test_scipy_agrees_where_it_is_exact():
    rng = np.random.default_rng(1)
    for n in (5, 8, 13, 30):
        d = rng.normal(0.3, 1, size=n)
        exact = stats.wilcoxon(d, method="exact")
        assert signed_rank(d).p_value == pytest.approx(exact.pvalue, rel=1e-12)
    tied = [1.0, 1.0, -2.0, 3.0, 3.0, 4.0, -4.0, 5.0]
    by_permutation = stats.wilcoxon(tied, method=stats.PermutationMethod(n_resamples=np.inf))
    assert signed_rank(tied).p_value == pytest.approx(by_permutation.pvalue)
    flips = stats.permutation_test((tied,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(tied) == pytest.approx(flips.pvalue)


def test_sign_flip_over_many_seeds():
    d = np.random.default_rng(0).normal(0.3, 1, size=60)
    assert sign_flip(d) == sign_flip(d)
    assert sign_flip(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.005)
    assert sign_flip(d[:40]) == pytest.approx(stats.ttest_1samp(d[:40], 0).pvalue, abs=0.01)
    assert sign_flip([100 / 3, 100 / 3, -200 / 3]) == 1  # the observed sum is 0, whatever the rounding left


def test_float_noise_does_not_break_ties():
    finetune = np.array([77.6, 61.3, 70.9, 76.6, 61.6, 67.6, 70.1, 66.5])
    method = np.array([77.7, 61.4, 71.0, 76.7, 61.7, 67.7, 70.2, 66.4])
    assert stats.wilcoxon(method, finetune).pvalue == pytest.approx(0.0234, abs=5e-5)  # on the raw columns
    assert signed_rank(method - finetune).p_value == pytest.approx(0.0703, abs=5e-5)
    assert signed_rank(method - finetune, "pratt").p_value == signed_rank([0.1] * 7 + [-0.1]).p_value


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "d, p, floor, estimate, low, biserial, word, decidable",
    [
        ([], 1, 1, 0, -INF, 0, "undecided", False),
        ([0.7], 1, 1, 0.7, -INF, 1, "undecided", False),
        ([0.0], 1, 1, 0, -INF, 0, "undecided", False),
        ([2.0, 3.0], 0.5, 0.5, 2.5, -INF, 1, "undecided", False),
        ([0.0] * 8, 1, 1, 0, 0, 0, "equivalent", True),
        ([0.0] * 5, 1, 1, 0, -INF, 0, "equivalent", False),
        ([0.0] * 4, 1, 1, 0, -INF, 0, "undecided", False),
        ([2.0] * 5, 0.0625, 0.0625, 2, -INF, 1, "undecided", False),
        ([2.0] * 8, 1 / 128, 1 / 128, 2, 2, 1, "better", True),
        ([-2.0] * 8, 1 / 128, 1 / 128, -2, -2, -1, "worse", True),
        ([2.0, -2.0] * 4, 1, 1 / 128, 0, -2, 0, "undecided", True),
        ([0.1, -0.1] * 4, 1, 1 / 128, 0, -0.1, 0, "equivalent", True),
    ],
    ids=str,
)
def test_dull_cases(d, p, floor, estimate, low, biserial, word, decidable):
    found = signed_rank(d)
    assert (found.p_value, found.min_p_value, found.estimate) == (p, floor, estimate)
    assert (found.low, found.rank_biserial) == (low, biserial)
    assert math.isinf(found.low) == (found.level == 1.0)
    verdict = verdicts({"ls": d}, 0.5)["ls"]
    assert (verdict.word, verdict.decidable) == (word, decidable)
    assert verdict.reason and "nan" not in verdict.reason
    assert (verdict.seeds_needed is None) == (word != "undecided")
    assert 0 < sign_flip(d) <= 1 and 0 < equivalence(d, 0.5) <= 1


@pytest.mark.parametrize("bad", [NAN, INF, None])
def test_a_difference_that_is_no_number_is_refused_in_one_line(bad):
    for call in (signed_rank, sign_flip, lambda d: equivalence(d, 1), lambda d: verdicts({"ls": d}, 1)):
        with pytest.raises(AnalysisError, match="difference 2 of 3 is (nan|inf)") as error:
            call([1.0, bad, 2.0])
        assert "\n" not in str(error.value)


def test_mistakes_are_told():
    assert issubclass(AnalysisError, ValueError)
    with pytest.raises(AnalysisError, match="'prat' is unknown; nearest: pratt; there are: wilcox, pratt"):
        signed_rank([1.0, 2.0], zeros="prat")
    for margin in (0, -1, NAN, INF):
        with pytest.raises(AnalysisError, match="above 0"):
            equivalence([1.0], margin)
        with pytest.raises(AnalysisError, match="above 0"):
            verdicts({}, margin)
    with pytest.raises(AnalysisError, match="level 0 is outside"):
        verdicts({}, 0.5, level=0)
    with pytest.raises(AnalysisError, match="confidence 95"):
        signed_rank([1.0], confidence=95)
    assert verdicts({}, 0.5) == {}


def test_the_numbers_of_the_text():
    assert [min_p_value(n) for n in (0, 1, 5, 6, 7, 8)] == [1, 1, 0.0625, 0.03125, 0.015625, 0.0078125]
    distinct = np.arange(1.0, 11)
    levels = [signed_rank(distinct[:n]).level for n in (6, 8, 10)]
    assert levels == pytest.approx([0.969, 0.961, 0.951], abs=5e-4)
    assert signed_rank(distinct[:5]).low == -INF and signed_rank(distinct[:5], confidence=0.9).low == 1
    assert signed_rank(distinct[:6], confidence=1 - 2**-5).low == 1  # attained exactly, "at least" holds
    assert [least_seeds(k) for k in range(1, 13)] == [6, 7, 7, 8, 8, 8, 9, 9, 9, 9, 9, 9]
    zeros = [0.2] * 6 + [0.0] * 9
    assert signed_rank(zeros).min_p_value == min_p_value(6) == signed_rank(zeros).p_value
    # table 8 of the paper: W = 12 is .46, W = 15 is .74, at n = 8
    assert round(signed_rank([-1, -2, -3, 4, 5, -6, 7, 8]).p_value, 2) == 0.46
    assert round(signed_rank([-1, -2, 3, -4, 5, 6, 7, -8]).p_value, 2) == 0.74


def test_zeros_are_dropped_before_or_after_ranking():
    d = [0.0, 0.0, 0.0, -0.1, -0.2, 0.3, 0.4, 0.5]
    assert (signed_rank(d).p_value, signed_rank(d, "pratt").p_value) == (0.3125, 0.4375)
    assert signed_rank(d).min_p_value == signed_rank(d, "pratt").min_p_value == 2**-4
    assert signed_rank([0.0, 0.2, 0.3]).p_value == signed_rank([0.0, 0.2, 0.3], "pratt").p_value


@given(tenths)
@few
def test_sign_symmetry_and_bounds(d):
    d = np.array(d) / 10
    plus, minus = signed_rank(d), signed_rank(-d)
    assert plus.p_value == minus.p_value >= plus.min_p_value
    assert plus.estimate == pytest.approx(-minus.estimate)
    assert (plus.low, plus.high) == pytest.approx((-minus.high, -minus.low))
    assert plus.low <= plus.estimate <= plus.high
    assert plus.rank_biserial == -minus.rank_biserial
    assert equivalence(d, 0.7) == equivalence(-d, 0.7)
    assert sign_flip(d) == sign_flip(-d)


@given(tenths, st.sampled_from([0.01, 0.5, 3.0, 100.0]))
@few
def test_scale_invariance(d, scale):
    d = np.array(d) / 10
    one, other = signed_rank(d), signed_rank(d * scale)
    assert one.p_value == other.p_value and one.rank_biserial == other.rank_biserial
    assert other.estimate == pytest.approx(one.estimate * scale, abs=1e-8)
    assert equivalence(d, 0.75) == equivalence(d * scale, 0.75 * scale)


@given(st.lists(st.integers(-500, 500), min_size=6, max_size=14), st.integers(-300, 300))
@few
def test_the_interval_holds_what_the_test_does_not_reject(d, shift):
    shifted = [x - shift for x in d]
    assume(0 not in shifted and len({abs(x) for x in shifted}) == len(d))  # the interval's null has no ties
    found = signed_rank(np.array(d) / 10)
    rejected = signed_rank(np.array(shifted) / 10).p_value <= 0.05
    assert rejected == (not found.low <= shift / 10 <= found.high)


@given(st.lists(st.integers(-80, 80), min_size=5, max_size=12), st.integers(1, 100))
@few
def test_equivalence_is_the_90_percent_interval_within_the_margin(d, margin):
    for shifted in ([x - margin for x in d], [x + margin for x in d]):
        assume(0 not in shifted and len({abs(x) for x in shifted}) == len(d))
    found = signed_rank(np.array(d) / 10, confidence=0.9)
    within = -margin / 10 < found.low and found.high < margin / 10
    assert (equivalence(np.array(d) / 10, margin / 10) <= 0.05) == within


@given(st.lists(st.floats(-5, 5).map(lambda x: round(x, 4)), min_size=1, max_size=12))
@few
def test_rounding_is_stable(d):
    assert rounded(d).tolist() == rounded(rounded(d)).tolist()
    assert signed_rank(d) == signed_rank(np.array(d) + 1e-12)


def test_holm():
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    for p in np.random.default_rng(0).uniform(0, 0.4, size=(20, 5)).round(1):
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert holm(min_p_value(8) for _ in range(4)) == pytest.approx([4 * 2**-7] * 4)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("n", [4, 5, 6, 7, 8, 9])
def test_the_two_floors(n, k):
    """The strongest data that n seeds can show: k 2^(1-n) for a difference, k 2^-n for equivalence."""
    best = verdicts({i: [9.0] * n for i in range(k)}, 0.5)[0]
    assert best.p_holm == pytest.approx(min(1, k * 2 ** (1 - n)))
    assert best.decidable == (k * 2 ** (1 - n) <= 0.05) == (n >= least_seeds(k)) == (best.word == "better")
    same = verdicts({i: [0.0] * n for i in range(k)}, 0.5)[0]
    assert (same.word == "equivalent") == (k * 2**-n <= 0.05) == (n >= least_seeds(k) - 1)
    if best.word == "undecided":
        assert f"a difference needs {least_seeds(k)}" in best.reason
        could = "could have" if k * 2**-n <= 0.05 else "could not have"
        assert f"equivalence {could} been shown" in best.reason


def test_the_words():
    wide = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5]
    found = verdicts(
        {
            "up": [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7],
            "down": [-0.3, -0.21, -0.22, -0.23, -0.24, -0.25, -0.26, -0.27],
            "none": [0.1, -0.11, 0.05, -0.02, 0.03, 0.07, -0.06, -0.04],
            "wide": wide,
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
    needed = seeds_needed(upper_sd(np.std(wide, ddof=1), 8), 0.5, k=4)
    assert found["wide"].seeds_needed == needed > 8
    assert f"about {needed - 8} more seeds ({needed} in all)" in found["wide"].reason
    assert "still holds effects beyond the margin of 0.5" in found["wide"].reason


def test_holm_can_undo_a_verdict():
    up = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, -0.9]  # p = 0.0156 at 8 seeds
    wide = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5]
    assert verdicts({"up": up}, 0.5)["up"].word == "better"
    crowd = {"up": up, **{str(i): wide for i in range(4)}}
    assert verdicts(crowd, 0.5)["up"].word == "undecided"
    assert verdicts({"up": up}, 0.5, level=0.01)["up"].word == "undecided"


def test_seeds_may_differ_in_a_family():
    found = verdicts({"eight": [1.0] * 8, "five": [1.0] * 5, "none": []}, 0.5)
    assert [v.decidable for v in found.values()] == [True, False, False]
    assert found["eight"].word == "better" and found["eight"].p_holm == 3 * min_p_value(8)
    assert "5 seeds are too few" in found["five"].reason and found["none"].reason == "no paired seed"


def test_flags():
    six_wins = verdicts({"m": [0.6] * 6 + [0.0] * 15}, 0.5)["m"]
    assert six_wins.test.estimate == 0 and six_wins.p_holm <= 0.05 and six_wins.word == "equivalent"
    assert "no direction" in six_wins.reason and "15 of 21 differences are zero" in six_wins.reason
    collapsed = verdicts({"m": [1.0, 1.1, 1.2, 0.9, 0.8, 0.7, 1.3, -40.0]}, 0.5)["m"]
    assert "disagree in sign: collapsed seeds?" in collapsed.reason
    few_left = verdicts({"m": [0.0] * 6 + [3.0, 4.0]}, 0.5)["m"]
    assert few_left.decidable and "only 2 differences are not zero" in few_left.reason
    touching = verdicts({"m": [0.2] * 6 + [0.0] * 9}, 0.5)["m"]
    assert "touches 0 although p is" in touching.reason and touching.word == "better"
    between = 0.27 + 0.76 * stats.norm.ppf((np.arange(30) + 0.5) / 30)
    enough = verdicts({"m": between}, 0.5)["m"]
    assert enough.word == "undecided" and enough.seeds_needed <= 30
    assert "30 seeds are enough for an effect of the margin (power 0.8)" in enough.reason


def test_seeds_needed_is_the_text():
    assert [seeds_needed(1, effect, k) for effect in (1, 0.5) for k in (1, 4)] == [11, 15, 36, 51]
    assert seeds_needed(2, 1) == seeds_needed(1, 0.5)
    assert seeds_needed(0, 0.5) == 6 and seeds_needed(0, 0.5, k=4) == 8
    assert 4e4 < seeds_needed(30, 0.4) < 5e4
    assert upper_sd(1, 8) == pytest.approx(math.sqrt(7 / stats.chi2.ppf(0.2, 7)))
    for k, row in {
        1: {6: 1.79, 8: 1.25, 10: 1.02, 12: 0.93, 20: 0.67, 30: 0.54},
        4: {8: 1.92, 10: 1.38, 12: 1.16, 20: 0.83, 30: 0.66},
    }.items():
        assert [detectable_effect(n, k) for n in row] == pytest.approx(list(row.values()), abs=0.016)
    assert detectable_effect(6, 4) is None and detectable_effect(5) is None


def test_power_is_that_of_a_simulation():
    rng, n = np.random.default_rng(0), 11
    drawn = rng.normal(1.0, 1, size=(1500, n))
    called = np.mean([signed_rank(d).p_value <= 0.05 and d.mean() > 0 for d in drawn])
    assert called == pytest.approx(0.81, abs=0.03)


def test_size_of_a_family_under_no_effect():
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(150):
        common = rng.normal(size=8)
        family = {i: (rng.normal(size=8) + common) / math.sqrt(2) for i in range(4)}
        false += any(v.word in ("better", "worse") for v in verdicts(family, 0.5).values())
    assert false <= 13  # 5% of 150 is 7.5; 14 or more have chance 0.02 at exactly 5%


@pytest.mark.parametrize("sd", [1e6, 1e9, 1e300])
def test_seeds_beyond_counting_are_capped(sd):
    assert seeds_needed(sd, 0.5) == MOST_SEEDS
    assert seeds_needed(1e3, 0.5) == pytest.approx(7.849 / EFFICIENCY * 4e6, rel=1e-3)


@pytest.mark.parametrize("huge", [1e300, -1e16, math.inf])
def test_differences_that_are_no_scores_are_refused(huge):
    with pytest.raises(AnalysisError, match="difference 2 of 3 is"):
        rounded([1.0, huge, 2.0])
