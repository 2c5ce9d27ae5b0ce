"""Planned looks: their joint level against a simulation of its own, verdicts that stay, and what stopping adds."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analysis import AnalysisError
from analysis.hypothesis import holm, min_p_value, pairs, signed_rank, verdicts
from analysis.interim import NOT_LEARNT, OPEN, at_looks, check_looks, joint, without_stopping

pytestmark = pytest.mark.filterwarnings("error")

UP = [2.0 + i / 100 for i in range(20)]
WIDE = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5, -3.5, 2.0] * 2


def over(d, base=70.0):
    """(score, reference's score) with these differences; None stays None."""
    return [None if x is None else (base + x, base) for x in d]


def looked(families: dict, *looks, margin=0.5, **more):
    return at_looks({method: over(d) for method, d in families.items()}, margin, 0.05, looks, **more)


def test_the_level_of_a_look():
    """Where each of three may spend 0.0167 by Bonferroni, 0.0245 each holds 0.05 over all of them."""
    assert joint((10, 14, 20)).level(0.05) == pytest.approx(0.0245, abs=0.0005)
    assert 0.048 < joint((10, 14, 20)).two_sided(joint((10, 14, 20)).level(0.05)) <= 0.05
    assert joint((10,)).level(0.05) == pytest.approx(0.0488, abs=1e-4)  # what ten pairs attain: 50 / 1024


@pytest.mark.parametrize("looks", [(10, 14, 20), (5, 8), (7, 9, 11)])
@pytest.mark.parametrize("p", [0.01, 0.0245, 0.05, 0.3])
def test_the_joint_chance_lies_between_the_largest_single_look_and_their_sum(looks, p):
    def attained(n, sides):
        """P(p-value <= p) of the exact test of n seeds without ties, by all its outcomes."""
        if n <= 6:
            sums = [sum(half) for half in itertools.combinations(range(1, 2 * n + 1), n)]
        else:
            sums = np.zeros(1, dtype=int)
            for rank in range(1, n + 1):
                sums = np.concatenate([sums, sums + rank])
        _, counts = np.unique(sums, return_counts=True)
        sizes = np.minimum(1, sides * np.cumsum(counts) / len(sums))
        return max([size for size in sizes if size <= p * (1 + 1e-9)], default=0.0)

    for sides, chance in ((2, joint(looks).two_sided(p)), (1, joint(looks).one_sided(p))):
        singles = [attained(n, sides) for n in looks]
        assert max(singles) - 1e-12 <= chance <= min(1.0, sum(singles)) + 1e-12


@pytest.mark.parametrize("looks", [(8, 12), (5, 9)])
def test_the_joint_chance_is_that_of_another_simulation(looks):
    """By scipy's exact tests on scores drawn here."""
    rng, least = np.random.default_rng(7), []
    for _ in range(600):
        x, y = rng.normal(size=(2, looks[-1]))
        p = [
            stats.mannwhitneyu(x[:n], y[:n], method="exact").pvalue if n <= 6 else signed_rank(x[:n] - y[:n]).p_value
            for n in looks
        ]
        least.append(min(p))
    for p in (0.02, 0.05, 0.2):
        chance = joint(looks).two_sided(p)
        assert chance == pytest.approx(np.mean(np.array(least) <= p), abs=4 * math.sqrt(chance / 600))


def test_an_interval_of_a_look_is_held_against_the_level_of_a_look():
    """Of ten pairs: p is 0.037, above the 0.0245 of a look, so that the interval has 0 in it; there are no ties."""
    d = [0.31, 0.83, 0.73, 0.94, 1.15, 1.36, 1.57, 0.23, -0.42, -0.53]
    found = looked({"m": d}, 10, 14, 20)["m"]
    assert joint((10, 14, 20)).level(0.05) < found.test.p_value < 0.05 and found.word == "undecided"
    assert found.test.low < 0 < found.test.high and "(ties)" not in found.reason
    assert "reaches 0.05" not in found.reason


def test_the_interval_of_a_look_has_its_level_where_scores_attain_it():
    """Of six and six scores 38 of 924 give the level of a look; 1 - (1 - 38 / 924) is a little less."""
    level = joint((6,)).level(0.05)
    assert level == pytest.approx(38 / 924) and 1 - (1 - level) < level
    test = looked({"m": [0.3, 1.2, 0.7, 2.1, 1.6, 0.1]}, 6)["m"].test
    assert test.level == pytest.approx(1 - 38 / 924)


def test_looks_that_are_refused():
    check_looks([], 5, 0.05)
    check_looks([10, 14, 20], 5, 0.05)
    with pytest.raises(AnalysisError) as error:
        check_looks([7, 14, 20], 5, 0.05)
    assert str(error.value) == (
        "looks=7,14,20: a look at 7 seeds could decide nothing, whatever the data: 5 methods at 0.05 over 3 looks "
        "need 9 at the first"  # 5 (1/256 + 0.0036 + 0.0039) is 0.057
    )
    for looks in ([10, 10], [14, 10], [0, 10], [-1]):
        with pytest.raises(AnalysisError, match="numbers of seeds that rise"):
            check_looks(looks, 1, 0.05)
    with pytest.raises(AnalysisError, match=r"^looks=10,1420: the exact test takes up to 1,000 seeds$"):
        check_looks([10, 1420], 1, 0.05)  # a comma is missing; its joint null takes minutes


@pytest.mark.parametrize("methods", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("looks", [(6,), (6, 9), (7, 9, 11), (3, 8)])
def test_a_first_look_that_is_allowed_can_decide(methods, looks):
    same = {i: [0.0] * looks[0] for i in range(methods)}
    try:
        check_looks(looks, methods, 0.05)
    except AnalysisError as refusal:
        need = int(str(refusal).split(" need ")[1].split()[0])
        assert need > looks[0]
        if not set(looks[1:]) & set(range(need + 1)):
            check_looks((need, *looks[1:]), methods, 0.05)
    else:
        found = looked(same, *looks)
        assert {d.word for d in found.values()} == {"equivalent"} and {d.look for d in found.values()} == {looks[0]}


def test_a_verdict_once_reached_stays_and_later_seeds_are_not_used():
    turned = UP[:10] + [-50.0] * 10  # better at 10 seeds, whatever comes later
    found = looked({"up": turned, "wide": WIDE}, 10, 14, 20)
    assert (found["up"].word, found["up"].look, found["up"].test.n) == ("better", 10, 10)
    assert "look at 10 seeds; 10 seeds beyond it are not used" in found["up"].reason
    assert (found["wide"].word, found["wide"].look, found["wide"].test.n) == ("undecided", 20, 20)
    assert "look at 20 seeds, the last that was planned" in found["wide"].reason
    assert verdicts({"up": pairs([70 + d for d in turned], [70.0] * 20)}, 0.5)["up"].word != "better"


def test_the_interval_is_that_of_one_look():
    found = looked({"wide": WIDE}, 10, 14, 20)["wide"].test
    alone = signed_rank(WIDE, 1 - joint((10, 14, 20)).level(0.05))
    assert (found.low, found.high, found.level) == (alone.low, alone.high, alone.level)


def test_the_family_stays_the_planned_one():
    """The decided one keeps its place in Holm's family: the other is tested as one of two."""
    late = [1.0, -0.4, 0.9, -0.6, 0.8, -0.7, 1.1, -0.5, 1.2, 1.3, *[2.0 + i / 10 for i in range(10)]]
    found = looked({"up": UP[:10], "late": late}, 10, 20)
    assert found["up"].look == 10 and found["late"].look == 20
    p = [joint((10, 20)).two_sided(found[m].test.p_value) for m in ("up", "late")]
    assert found["late"].p_holm == holm(p)[1]
    alone = looked({"late": late}, 10, 20)["late"]
    for crowded in (
        looked({i: WIDE[:10] for i in range(6)} | {"late": late}, 10, 20),
        looked({"late": late}, 10, 20, planned=7),  # six that are planned and absent
    ):
        assert crowded["late"].p_holm == pytest.approx(min(1, 7 * alone.p_holm))


def test_the_decided_one_stays_in_the_family_with_the_pairs_of_its_look():
    """What its later seeds would say, were they used, changes nothing for the other."""
    late = [1.0, -0.4, 0.9, -0.6, 0.8, -0.7, 1.1, -0.5, 1.2, 1.3, -1.4, 1.5, 1.6, -1.7, 1.8, -1.9, 2.0, 2.1, -2.2, 2.3]
    one, other = (looked({"up": UP[:10] + more, "late": late}, 10, 20) for more in ([], [-50.0] * 5 + [50.0] * 5))
    assert one["up"].look == other["up"].look == 10 and one["late"].look == other["late"].look == 20
    assert other["late"].p_holm == one["late"].p_holm == joint((10, 20)).two_sided(one["late"].test.p_value)


def test_what_has_not_learnt_at_one_look_is_looked_at_again():
    none_learnt = {"late": set(range(10))}
    (decision,) = looked({"late": UP[:10]}, 10, 20, not_learnt=none_learnt).values()
    assert (decision.word, decision.look) == (NOT_LEARNT, 10)
    (decision,) = looked({"late": UP}, 10, 20, not_learnt=none_learnt).values()
    assert (decision.word, decision.look) == ("better", 20)


def test_a_look_that_is_not_reached():
    (decision,) = looked({"up": UP[:9]}, 10, 14).values()
    assert decision.look is None and decision.word == "undecided"
    assert decision.reason == "9 seeds, the first planned look is at 10: nothing is decided before"
    (decision,) = looked({"wide": WIDE[:12]}, 10, 14).values()
    assert decision.look == 10 and "the next is at 14; 2 seeds beyond it are not used" in decision.reason
    assert looked({}, 10) == {}


def test_a_seed_without_a_pair_counts_as_run():
    (decision,) = looked({"up": [*UP[:5], None, None, *UP[7:10]]}, 10).values()
    assert (decision.look, decision.test.n, decision.word) == (10, 8, "better")


def test_seeds_that_all_failed_are_none_that_have_not_learnt():
    (decision,) = looked({"up": [None] * 10}, 10).values()
    assert (decision.word, decision.look, decision.test.n) == ("undecided", 10, 0)


def test_a_look_with_few_pairs_is_never_surer_than_its_test():
    """Two of eight seeds failed: six pairs have the test of eight, which the plan fixed."""
    (decision,) = looked({"up": [5 + x for x in UP[:3]] + [None, None] + [5 + x for x in UP[5:8]]}, 8).values()
    assert (decision.test.name, decision.test.p_value) == ("signed-rank", 2 / 64)
    assert decision.p_holm >= decision.test.p_value * (1 - 1e-9)


def test_what_a_look_with_few_pairs_could_decide_is_by_its_test_too():
    """Six pairs of eight seeds: two methods take 2 / 32 at least, which ranks of scores would not."""
    found = looked({i: [*UP[:3], None, None, *UP[5:8]] for i in range(2)}, 8)
    assert {(d.word, d.decidable) for d in found.values()} == {("undecided", False)}


def test_a_look_at_few_seeds_takes_the_rank_sum_test():
    found = looked({"up": UP, "wide": WIDE}, 5, 12)
    assert (found["up"].look, found["up"].test.name) == (5, "rank-sum")
    assert (found["wide"].look, found["wide"].test.name) == (12, "signed-rank")


def test_size_of_looking_at_the_data_three_times():
    rng, false, naive = np.random.default_rng(0), 0, 0
    for d in rng.normal(size=(150, 20)).tolist():
        false += looked({0: d}, 10, 14, 20, margin=0.01)[0].word not in OPEN
        naive += any(signed_rank(d[:n]).p_value <= 0.05 for n in (10, 14, 20))
    assert false <= 13  # 5% of 150 is 7.5; 14 or more have chance 0.02 at exactly 5%
    assert naive > false, "the same looks at 0.05 each"


def test_the_family_error_of_looks():
    """Three true nulls that share their reference, looked at with 10, 14 and 20 seeds: 5% is 15 of 300."""
    rng, false = np.random.default_rng(3), 0
    for _ in range(300):
        reference = 70 + rng.normal(size=20)
        family = {i: list(zip(70 + rng.normal(size=20), reference, strict=True)) for i in range(3)}
        told = at_looks(family, 0.01, 0.05, (10, 14, 20))
        false += any(decision.word in ("better", "worse") for decision in told.values())
    assert false / 300 <= 0.06


def test_a_family_of_looks_finds_what_is_there():
    rng, found = np.random.default_rng(4), 0
    for _ in range(40):
        d = rng.normal(1.2, 1, size=20).tolist()
        found += looked({0: d, 1: WIDE}, 10, 14, 20)[0].word == "better"
    assert found >= 36 and min_p_value(10) < 0.0245


# What stopping adds


def test_an_early_mean_is_shrunk_and_the_last_looks_is_left_alone():
    d = [1.3, 0.1, 1.9, 0.6, 1.4, 0.2, 1.1, 0.9, 1.5, 0.5]
    mean = float(np.mean(d))
    corrected = without_stopping(d, 10, (10, 14, 20), 0.05)
    assert 0.5 * mean < corrected < mean
    assert without_stopping([-x for x in d], 10, (10, 14, 20), 0.05) == pytest.approx(-corrected, abs=0.05)
    assert without_stopping(d * 2, 20, (10, 14, 20), 0.05) is None
    assert without_stopping([1.0] * 10, 10, (10, 20), 0.05) is None  # no spread: nothing to say
    assert without_stopping([1.0, 1.1], 2, (2, 20), 0.05) is None
    clear = [20 + x for x in d]  # it would have stopped whatever the seeds
    assert without_stopping(clear, 10, (10, 14, 20), 0.05) == pytest.approx(np.mean(clear), abs=0.02)


def test_what_stopping_adds_is_that_of_a_plain_loop():
    """Normal differences of this mean and sd, stopped where a t-test is at the level of a look: mean at the stop."""
    d = np.array([1.3, -0.5, 1.9, 0.6, 1.4, -0.2, 1.1, 0.9, 1.5, -0.3])
    mean, sd, looks = d.mean(), d.std(ddof=1), (10, 14, 20)
    level, rng, stops = joint(looks).level(0.05), np.random.default_rng(5), []
    for _ in range(800):
        drawn = rng.normal(mean, sd, 20)
        n = next((n for n in looks if stats.ttest_1samp(drawn[:n], 0).pvalue <= level), 20)
        stops.append(drawn[:n].mean())
    assert without_stopping(d, 10, looks, 0.05) == pytest.approx(2 * mean - np.mean(stops), abs=0.04)
