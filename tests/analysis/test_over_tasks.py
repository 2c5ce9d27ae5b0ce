"""Over the tasks of a study and over new tasks; answers known or worked otherwise."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from predicted import METHODS, drawn, run, study
from scipy import stats
from scipy.stats import friedmanchisquare, rankdata
from scipy.stats import t as t_distribution

from analysis.hypothesis import holm, pairs, signed_rank, verdicts
from analysis.judge import Rule, judge
from analysis.margins import margins
from analysis.over_tasks import (
    AGAINST,
    FRIEDMAN,
    MEANS,
    THESE,
    against_reference,
    friedman,
    friedman_p,
    task_means,
    these_tasks,
)
from analysis.pairing import pair

pytestmark = pytest.mark.filterwarnings("error")


def told(paired, margin=None, level=0.05, looks=(), order=()):
    """these_tasks by this rule."""
    rule = Rule(margins(margin), level, tuple(looks))
    return these_tasks(paired, judge(paired, rule, order), rule)


def flat(*orders):
    """One task per order of values of METHODS, three equal seeds each."""
    pairs = [(task, pair_) for task, order in enumerate(orders) for pair_ in zip(METHODS, order, strict=False)]
    return {(f"t{task}", "pretrained", method): [70.0 + value] * 3 for task, (method, value) in pairs}


def by_hand(table: np.ndarray) -> float:
    """Friedman's permutation p: the share of all orders of all rows whose statistic is as large."""
    rows = [list(itertools.permutations(row)) for row in rankdata(table, axis=1)]
    sums = np.array([np.sum(choice, axis=0) for choice in itertools.product(*rows)])
    spread = (sums**2).sum(axis=1)
    return float(np.mean(spread >= (rankdata(table, axis=1).sum(axis=0) ** 2).sum() - 1e-9))


def test_friedman_is_scipys_statistic_with_the_permutation_p():
    scores = drawn(tasks=3, seed=1, gain=0.8)
    table = np.array([[np.mean(scores[f"t{t}", "pretrained", m]) for m in METHODS] for t in range(3)])
    paired = study(scores)
    (row,) = friedman(paired).to_dict("records")
    assert list(friedman(paired)) == FRIEDMAN
    assert row["chi2"] == pytest.approx(friedmanchisquare(*table.T).statistic)
    assert row["p_value"] == pytest.approx(by_hand(table)) and row["draws"] == 0
    assert (row["n_tasks"], row["n_methods"], row["note"]) == (3, 4, "")


def test_friedman_with_ties_and_with_one_order():
    (row,) = friedman(study(flat([0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2]))).to_dict("records")
    assert row["p_value"] == pytest.approx(6 / 6**4)  # 6 of all 6^4 rankings agree
    (row,) = friedman(study(flat([0, 0, 0], [0, 0, 0]))).to_dict("records")
    assert (row["chi2"], row["p_value"]) == (0, 1)
    (row,) = friedman(study(flat([0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]))).to_dict("records")
    assert row["p_value"] == pytest.approx((24 / 6) ** (1 - 3)) == 0.0625  # tied ranks have four orders, not 24


@pytest.mark.parametrize("seed", range(8))
def test_friedmans_p_is_that_of_all_permutations(seed):
    rng = np.random.default_rng(seed)
    tied = rng.integers(0, 3, (3 + (seed > 3), 3 + (seed < 4)))  # of three values: ties in most rows
    untied = rng.random((4, 3))
    assert friedman_p(rankdata(tied, axis=1)) == (pytest.approx(by_hand(tied)), 0)
    assert friedman_p(rankdata(untied, axis=1)) == (pytest.approx(by_hand(untied)), 0)


def test_friedman_holds_its_level_at_three_tasks_and_three_methods():
    """Of all 36 pairs of orders beside the first, one has p below 0.05: 2.8%, where the F distribution calls 19%."""
    orders = list(itertools.permutations((1.0, 2.0, 3.0)))
    found = [friedman_p(np.array([orders[0], a, b]))[0] for a in orders for b in orders]
    assert sum(p <= 0.05 for p in found) == 1 and min(found) == pytest.approx(1 / 36)


def test_friedman_of_many_tasks_is_drawn_and_near_the_chi_squared_distribution():
    rng = np.random.default_rng(5)
    table = rng.normal(size=(20, 4)) + 0.15 * np.arange(4)
    p, draws = friedman_p(rankdata(table, axis=1))
    assert draws == 30_000 and p == pytest.approx(friedmanchisquare(*table.T).pvalue, abs=0.01)
    assert (p, draws) == friedman_p(rankdata(table, axis=1))  # the same each time
    assert friedman_p(np.tile(np.arange(8.0), (8, 1))) == (pytest.approx(1 / 30_001, rel=1e-4), 30_000)  # never 0


def test_friedman_says_what_it_lacks():
    scores = drawn(tasks=3)
    del scores["t1", "pretrained", "akd"]
    (row,) = friedman(study(scores)).to_dict("records")
    assert (row["n_tasks"], row["note"]) == (2, "incomplete, left out: t1")
    (row,) = friedman(study(drawn(tasks=3, methods=METHODS[:2]))).to_dict("records")
    assert row["note"] == "no test: it takes two methods beside the reference" and math.isnan(row["p_value"])
    assert friedman(study(drawn(tasks=1))).empty
    assert friedman(study({})).empty


def test_a_lower_metric_counts_the_other_way():
    better = {**drawn(seed=1), **{key: v - 5 for key, v in drawn(seed=1).items() if key[2] == "kd"}}
    rows = [
        run(m, s, 70, task=t, **{"metrics.dev/nll": v}) for (t, _, m), vs in better.items() for s, v in enumerate(vs)
    ]
    paired = pair(pd.DataFrame(rows), metric="dev/nll")
    for table in (against_reference(paired), told(paired)):
        assert table.set_index("method")["mean_difference"]["kd"] > 4
    assert told(paired).set_index("method")["verdict"]["kd"] == "better"


def test_task_means_are_over_shared_seeds():
    scores = {("t0", "pretrained", m): {0: 1.0, 1: 2.0, 2: 9.0} for m in METHODS[:2]}
    scores |= {("t1", "pretrained", m): [5.0, 6.0] for m in METHODS[:3]}
    scores["t0", "pretrained", "kd"] = {0: 3.0, 1: 5.0}
    table = task_means(study(scores))
    assert list(table) == MEANS
    found = {(row["task"], row["method"]): (row["n"], row["mean"]) for row in table.to_dict("records")}
    assert found["t0", "finetune"] == (2, 1.5) and found["t0", "kd"] == (2, 4.0) and found["t1", "ls"] == (2, 5.5)


def test_against_the_reference_over_task_means():
    scores = drawn(seed=2, gain=1.0)
    table = against_reference(study(scores))
    assert list(table) == AGAINST and table["method"].tolist() == ["ls", "kd", "akd"]
    tests = {}
    for method in METHODS[1:]:
        means = [
            np.mean(scores[f"t{t}", "pretrained", method] - scores[f"t{t}", "pretrained", "finetune"]) for t in range(7)
        ]
        tests[method] = signed_rank(means)
    corrected = holm(test.p_value for test in tests.values())
    for row, (method, test), p in zip(table.to_dict("records"), tests.items(), corrected, strict=True):
        assert (row["method"], row["n_tasks"], row["tasks"][0]) == (method, 7, "t0")
        assert (row["estimate"], row["p_value"], row["p_holm"]) == (test.estimate, test.p_value, p)
        assert (row["low"], row["high"], row["min_p_value"]) == (test.low, test.high, 2**-6)
        assert row["min_p_holm"] == 3 * 2**-6


def test_seven_tasks_and_four_methods_cannot_reach_5_percent():
    paired = study(drawn(methods=(*METHODS, "tfreg")))
    assert against_reference(paired)["min_p_holm"].tolist() == [0.0625] * 4


def test_several_settings_are_several_methods():
    rows = [run(m, s, 70 + s, task=t) for t in ("t0", "t1") for m in ("finetune", "kd") for s in range(3)]
    rows += [
        run("ls", s, 71 + s * alpha, task=t, run_id=f"{t}{s}{alpha}", **{"params.alpha": str(alpha)})
        for t in ("t0", "t1")
        for s in range(3)
        for alpha in (0.1, 0.2)
    ]
    for row in rows:
        row["tags.labelreg.fingerprint"] = row["run_id"]
    table = against_reference(pair(pd.DataFrame(rows)))
    assert table["method"].tolist() == ["ls [alpha 0.1]", "ls [alpha 0.2]", "kd"]
    assert table["n_tasks"].tolist() == [2, 2, 2]


def test_scores_of_different_splits_are_all_scores():
    rows = [run(m, s, 80.0 + s, task="t0", dev=60.0 + s) for m in METHODS for s in range(3)]
    rows += [run(m, s, math.nan, task="t1", dev=50.0 + s) for m in METHODS for s in range(3)]
    paired = pair(pd.DataFrame(rows))
    assert {c.metric for c in paired.comparisons} == {"best/test/score", "best/dev/score"}
    assert friedman(paired)[["n_tasks", "metric"]].values.tolist() == [[2, "score"]]
    assert set(told(paired)["metric"]) == {"score"}


# These tasks


def of_tasks(*differences, method="kd", base=70.0):
    """pair() of finetune and a method with these differences in each task, the seeds being 0, 1, ..."""
    scores = {}
    for t, d in enumerate(differences):
        finetune = base + np.arange(len(d)) / 4
        scores |= {(f"t{t}", "pretrained", "finetune"): finetune, (f"t{t}", "pretrained", method): finetune + d}
    return study(scores)


@pytest.mark.parametrize("seeds", [(3, 3), (5, 8), (2, 12)])
def test_over_two_tasks_it_is_welchs_test(seeds):
    """The mean of two tasks' means is half the difference between the one's d and the other's -d."""
    rng = np.random.default_rng(sum(seeds))
    a, b = (rng.normal(1, spread, n).round(6) for n, spread in zip(seeds, (0.5, 2), strict=True))
    (row,) = told(of_tasks(a, b), margin=0.7).to_dict("records")
    welch = stats.ttest_ind(a, -b, equal_var=False)
    assert list(told(of_tasks(a, b))) == THESE
    assert row["mean_difference"] == pytest.approx((a.mean() + b.mean()) / 2)
    assert row["p_value"] == row["p_holm"] == pytest.approx(welch.pvalue)
    interval = welch.confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((interval.low / 2, interval.high / 2))
    below = stats.ttest_ind(a - 0.7, -b + 0.7, equal_var=False, alternative="less").pvalue
    above = stats.ttest_ind(a + 0.7, -b - 0.7, equal_var=False, alternative="greater").pvalue
    assert row["p_equivalence"] == pytest.approx(max(below, above))
    assert (row["n_tasks"], row["tasks"], row["n"], row["n_most"]) == (2, ("t0", "t1"), min(seeds), max(seeds))


def test_over_more_tasks_it_is_the_sum_of_their_variances():
    rng = np.random.default_rng(1)
    d = [rng.normal(0.5, 0.3 + 0.3 * t, n).round(6) for t, n in enumerate((4, 6, 9))]
    (row,) = told(of_tasks(*d)).to_dict("records")
    parts = [x.var(ddof=1) / len(x) for x in d]
    df = sum(parts) ** 2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, d, strict=True))
    se = math.sqrt(sum(parts)) / 3
    mean = np.mean([x.mean() for x in d])
    assert row["p_value"] == pytest.approx(2 * t_distribution.sf(abs(mean) / se, df))
    assert row["high"] == pytest.approx(mean + t_distribution.ppf(0.975, df) * se)


def test_one_verdict_over_seven_tasks_where_no_task_has_one():
    """An effect of 0.9 sd with five seeds, four methods: no task's Holm reaches it, all tasks together do."""
    rng, methods = np.random.default_rng(2), ("finetune", "ls", "kd", "akd", "tfreg")
    scores = {}
    for t in range(7):
        seed = 70 + rng.normal(0, 1, 5)
        for method in methods:
            scores[f"t{t}", "pretrained", method] = seed + rng.normal(0, 0.7, 5) + 0.9 * (method == "kd")
    paired = study(scores)
    for t in range(7):
        families = {
            m: pairs(scores[f"t{t}", "pretrained", m], scores[f"t{t}", "pretrained", "finetune"]) for m in methods[1:]
        }
        assert verdicts(families, 0.5)["kd"].word == "undecided"
    table = told(paired).set_index("method")
    assert table["verdict"]["kd"] == "better" and not set(table["verdict"].drop("kd")) & {"better", "worse"}
    assert table["p_holm"].tolist() == holm(table["p_value"]) and table["p_holm"]["kd"] <= 0.05
    assert table["p_equivalence_holm"].tolist() == holm(table["p_equivalence"])


def test_its_size_where_spreads_differ_and_seeds_are_few():
    rng, false = np.random.default_rng(3), 0
    spreads = np.array([0.2, 0.3, 0.5, 0.5, 1.0, 2.0, 3.0])[:, None]
    from analysis.over_tasks import _mean_over

    for _ in range(600):
        false += _mean_over(list(rng.standard_t(4, (7, 5)) * spreads), 0.5, 0.05)[3] <= 0.05
    assert false <= 44  # 5% of 600 is 30; 45 or more have chance 0.005 at exactly 5%


def test_one_huge_effect_among_none_is_no_equivalence():
    small = [0.1, -0.1, 0.05, -0.05, 0.02]
    huge = [15.0, 15.3, 14.8, 15.1, 14.9]
    (row,) = told(of_tasks(huge, small, small, small, small)).to_dict("records")
    assert row["verdict"] == "better" and row["mean_difference"] == pytest.approx((15.02 + 4 * 0.004) / 5)
    (row,) = told(of_tasks([-x for x in huge], small, small)).to_dict("records")
    assert row["verdict"] == "worse"
    (row,) = told(of_tasks(*[[0.2, 0.21, 0.19, 0.2, 0.22]] * 2)).to_dict("records")
    assert (row["verdict"], row["reason"]) == ("better", "negligible: within the margin")
    (row,) = told(of_tasks(small, small, small)).to_dict("records")
    assert row["verdict"] == "equivalent" and row["p_equivalence"] < 1e-4
    assert row["p_verdict"] == row["p_equivalence_holm"] < row["p_holm"]
    (row,) = told(of_tasks([20.0, -9.0, 14.0, -3.0, 25.0], small, small)).to_dict("records")
    assert row["verdict"] == "undecided" and row["p_equivalence"] > 0.05


def test_the_margin_over_tasks_is_their_mean():
    d = [0.8, 0.9, 1.0, 1.1, 1.2]
    wide, narrow = (told(of_tasks(d, d), margin=m).iloc[0] for m in ("t0:1,t1:3", "t0:1,t1:1"))
    assert (wide["margin"], narrow["margin"]) == (2, 1)
    assert wide["p_equivalence"] < 0.001 and narrow["p_equivalence"] == pytest.approx(0.5)


def test_a_task_with_one_seed_or_no_spread_at_all_leaves_it_open():
    for d in ([[1.0], [1.0, 1.2]], [[0.0] * 5, [0.0] * 5]):
        (row,) = told(of_tasks(*d)).to_dict("records")
        assert (row["verdict"], row["p_value"], row["p_equivalence"]) == ("undecided", 1, 1)
        assert math.isinf(row["low"]) and math.isinf(row["high"])
    assert told(of_tasks([1.0], [1.0, 1.2])).iloc[0]["reason"] == "no test: fewer than two seeds in t0"
    assert told(of_tasks([2.0] * 5, [2.0] * 5)).iloc[0]["reason"] == "no test: no task's seeds differ"
    assert told(of_tasks([1.0, 1.1, 1.2])).empty  # one task


def test_a_further_setting_on_one_task_leaves_the_verdict_over_tasks():
    kept = [
        run(m, s, 70 + s + (2 + s / 10) * (m == "kd"), task=t) for t in "ab" for m in METHODS[::2] for s in range(5)
    ]
    other = [
        dict(row) | {"params.epochs": "5", "run_id": row["run_id"] + "-5"} for row in kept if "a-" in row["run_id"]
    ]
    (alone,) = told(pair(pd.DataFrame(kept))).to_dict("records")
    (row,) = told(pair(pd.DataFrame(kept + other))).to_dict("records")
    assert row["method"] == "kd [epochs=3]" and row["n_tasks"] == 2 and row["verdict"] == "better"
    assert {name: row[name] for name in ("mean_difference", "p_value", "low")} == {
        name: alone[name] for name in ("mean_difference", "p_value", "low")
    }
    both = [*kept, *other, *(dict(r) | {"params.epochs": "5", "run_id": r["run_id"] + "-5"} for r in kept[10:])]
    assert told(pair(pd.DataFrame(both)))["method"].tolist() == ["kd [epochs=3]", "kd [epochs=5]"]


def test_seeds_that_are_texts_and_numbers():
    rows = [run(m, s, 70 + i, task=t) for t in "ab" for m in METHODS for i, s in enumerate(("08", "09", "10"))]
    assert len(task_means(pair(pd.DataFrame(rows)))) == 8


def test_a_method_of_one_task_has_its_verdict_there():
    scores = drawn(tasks=2, methods=("finetune", "ls", "kd"))
    del scores["t1", "pretrained", "kd"]
    paired = study(scores)
    assert told(paired)["method"].tolist() == against_reference(paired)["method"].tolist() == ["ls"]


def test_over_tasks_the_look_and_the_planned_family_hold():
    mixed = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5, -3.0, 2.0, 4.0, 1.0]
    paired = of_tasks(mixed, mixed)
    (row,) = told(paired, looks=(8, 10), order=range(12)).to_dict("records")
    assert row["n"] == 10 and row["mean_difference"] == pytest.approx(np.mean(mixed[:10]))
    judged = judge(paired).assign(family_size=4)
    (row,) = these_tasks(paired, judged, Rule()).to_dict("records")
    assert row["p_holm"] == pytest.approx(min(1, 4 * row["p_value"]))


def test_planned_methods_that_are_absent_count_for_equivalence_too():
    paired = of_tasks([0.1, -0.1, 0.05, -0.05, 0.02], [0.1, -0.2, 0.15, 0.05, 0.02])
    (row,) = these_tasks(paired, judge(paired).assign(family_size=4), Rule()).to_dict("records")
    assert row["verdict"] == "equivalent" and row["p_equivalence_holm"] == pytest.approx(4 * row["p_equivalence"])


def test_a_task_that_stopped_early_leaves_it_open():
    up = [2.0 + i / 10 for i in range(12)]
    mixed = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5, -3.0, 2.0, 4.0, 1.0]
    (row,) = told(of_tasks(up[:8], mixed), looks=(8, 12), order=range(12)).to_dict("records")
    assert row["verdict"] == "undecided"
    assert row["reason"] == "it falls at the last planned look, with all seeds of all tasks"
    (row,) = told(of_tasks(mixed, mixed), looks=(8, 12), order=range(12)).to_dict("records")
    assert row["reason"] == "" and row["n"] == 12
    (row,) = told(of_tasks(up[:8], up), order=range(12)).to_dict("records")
    assert row["verdict"] == "better"  # without looks there is no early stop
