"""Tasks as blocks, initialisations against each other, and what pairing saves; answers known or worked otherwise."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from predicted import run
from scipy.optimize import brentq
from scipy.stats import friedmanchisquare, rankdata
from scipy.stats import t as t_distribution

from analysis.across import (
    AGAINST,
    FRIEDMAN,
    INTERACTION,
    MEANS,
    PAIRING,
    across_lines,
    against_reference,
    friedman,
    interaction,
    interaction_across,
    interaction_lines,
    one_metric,
    pairing_gain,
    pairing_line,
    ranks,
    task_means,
)
from analysis.hypothesis import holm, signed_rank
from analysis.pairing import pair
from analysis.permutation import friedman_p
from analysis.present.tables import p_text

pytestmark = pytest.mark.filterwarnings("error")
METHODS = ("finetune", "ls", "kd", "akd")


def study(scores: dict, **more):
    """pair() of (task, init, method) -> scores, the seeds being 0, 1, ..."""
    found = [
        run(method, seed, value, task=task, init=init, **more)
        for (task, init, method), values in scores.items()
        for seed, value in (values.items() if isinstance(values, dict) else enumerate(values))
    ]
    return pair(pd.DataFrame(found))


def drawn(tasks=7, seeds=5, methods=METHODS, inits=("pretrained",), seed=0, gain=0.0):
    rng = np.random.default_rng(seed)
    return {
        (f"t{t}", init, method): 70 + rng.normal(0, 1, seeds) + rng.normal(0, 0.5) + gain * (method == "kd")
        for t in range(tasks)
        for init in inits
        for method in methods
    }


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
    scores = drawn(tasks=4, seed=1, gain=0.8)
    table = np.array([[np.mean(scores[f"t{t}", "pretrained", m]) for m in METHODS] for t in range(4)])
    in_task = rankdata(table, axis=1)
    k = len(METHODS)
    paired = study(scores)
    (row,) = friedman(paired).to_dict("records")
    assert list(friedman(paired)) == FRIEDMAN
    assert row["chi2"] == pytest.approx(friedmanchisquare(*table.T).statistic)
    assert row["p_value"] == pytest.approx(by_hand(table)) and row["draws"] == 0
    assert (row["n_tasks"], row["n_methods"], row["note"]) == (4, 4, "")
    told = f"chi-squared {row['chi2']:.2f}, p = {p_text(row['p_value'])} (exact)"
    assert across_lines(friedman(paired), against_reference(study({})))[0].endswith(told)
    (found,) = ranks(paired)
    assert found.mean_ranks[list(METHODS)].to_numpy() == pytest.approx(k + 1 - in_task.mean(axis=0))
    assert found.p_values.index.tolist() == found.p_values.columns.tolist() == found.mean_ranks.index.tolist()
    assert (found.p_values.to_numpy().diagonal() == 1).all()


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
    tied = rng.integers(0, 3, (3 + seed % 2, 3 + (seed < 4)))  # of three values: ties in most rows
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
    for effect in (0.0, 0.05, 0.1):
        table = rng.normal(size=(60, 5)) + effect * np.arange(5)
        p, draws = friedman_p(rankdata(table, axis=1))
        assert draws == 100_000 and p == pytest.approx(friedmanchisquare(*table.T).pvalue, abs=0.01)
        assert (p, draws) == friedman_p(rankdata(table, axis=1))  # the same each time
    assert friedman_p(np.tile(np.arange(12.0), (20, 1))) == (pytest.approx(1e-5, rel=1e-4), 100_000)  # never 0


def test_friedman_says_what_it_lacks():
    scores = drawn(tasks=3)
    del scores["t1", "pretrained", "akd"]
    (row,) = friedman(study(scores)).to_dict("records")
    assert (row["n_tasks"], row["note"]) == (2, "incomplete, left out: t1")
    (row,) = friedman(study(drawn(tasks=3, methods=METHODS[:2]))).to_dict("records")
    assert row["note"] == "no test: it takes two methods beside the reference" and math.isnan(row["p_value"])
    assert across_lines(friedman(study(drawn(methods=METHODS[:2]))), against_reference(study({})))[0].endswith(
        "no test: it takes two methods beside the reference"
    )
    assert friedman(study(drawn(tasks=1))).empty and ranks(study(drawn(tasks=1))) == []
    assert friedman(study({})).empty


def test_a_lower_metric_is_ranked_the_other_way():
    better = {**drawn(seed=1), **{key: v - 5 for key, v in drawn(seed=1).items() if key[2] == "kd"}}
    rows = [
        run(m, s, 70, task=t, **{"metrics.dev/nll": v}) for (t, _, m), vs in better.items() for s, v in enumerate(vs)
    ]
    (found,) = ranks(pair(pd.DataFrame(rows), metric="dev/nll"))
    assert found.mean_ranks["kd"] == 1


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
    lines = across_lines(friedman(paired), against_reference(paired))
    assert len(lines) == 5 and all("cannot give less than 0.0625: 0.05 is out of reach" in line for line in lines[1:])
    lines = across_lines(friedman(paired), against_reference(paired), level=0.1)
    assert not any("out of reach" in line for line in lines)


def test_random_effects_are_paule_and_mandels():
    rng = np.random.default_rng(3)
    d = {f"t{t}": rng.normal(0.5 + rng.normal(0, 0.8), 0.3 + 0.1 * t, 6) for t in range(6)}
    scores = {(task, "pretrained", "finetune"): [70.0] * 6 for task in d}
    (row,) = against_reference(study(scores | {(t, "pretrained", "kd"): 70 + v for t, v in d.items()})).to_dict(
        "records"
    )
    effects, variances = (np.array([f(v) for v in d.values()]) for f in (np.mean, lambda v: v.var(ddof=1) / 6))

    def mean(tau2):
        weights = 1 / (variances + tau2)
        return (weights * effects).sum() / weights.sum(), weights

    def spread(tau2):
        centre, weights = mean(tau2)
        return (weights * (effects - centre) ** 2).sum() - 5

    tau2 = brentq(spread, 0, 10)
    centre, weights = mean(tau2)
    half = t_distribution.ppf(0.975, 5) / math.sqrt(weights.sum())
    assert row["tau"] == pytest.approx(math.sqrt(tau2), rel=1e-3) and row["n_effect"] == 6
    assert (row["effect"], row["effect_low"]) == (
        pytest.approx(centre, rel=1e-3),
        pytest.approx(centre - half, rel=1e-2),
    )
    small = {(t, "pretrained", "kd"): 70 + v / 1000 for t, v in d.items()}
    (other,) = against_reference(study(scores | small)).to_dict("records")
    for name in ("effect", "effect_low", "effect_high", "tau"):  # no unit is special
        assert 1000 * other[name] == pytest.approx(row[name], rel=1e-3)


def test_tasks_without_spread_have_no_weight():
    table = against_reference(study(flat([0, 1], [0, 2])))
    (row,) = table.to_dict("records")
    assert math.isnan(row["effect"]) and row["n_effect"] == 0 and row["mean_difference"] == 1.5
    assert row["note"] == "no spread over seeds, not in the effect: t0, t1"
    assert row["note"] in across_lines(friedman(study({})), table)[0]


def test_equal_effects_have_no_spread_between_tasks():
    scores = {("finetune", "t0"): [70, 71, 70], ("ls", "t0"): [71, 73, 71]}
    both = {(task, "pretrained", method): values for (method, _), values in scores.items() for task in ("t0", "t1")}
    (row,) = against_reference(study(both)).to_dict("records")
    assert row["tau"] == 0 and row["effect"] == pytest.approx(4 / 3) and row["effect_low"] < 0


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


def test_one_metric_for_all_tasks():
    rows = [run(m, s, 80.0 + s, task="t0", dev=60.0 + s) for m in METHODS for s in range(3)]
    rows += [run(m, s, math.nan, task="t1", dev=50.0 + s) for m in METHODS for s in range(3)]
    frame = pd.DataFrame(rows)
    paired = pair(frame)
    assert {c.metric for c in paired.comparisons} == {"best/test/score", "best/dev/score"}
    assert friedman(paired).empty  # one task each
    same = one_metric(frame, paired)
    assert {c.metric for c in same.comparisons} == {"best/dev/score"}
    assert friedman(same)["n_tasks"].tolist() == [2]
    assert one_metric(frame, same) is same


def both_inits(seeds=8, gain=2.0, seed=4):
    rng = np.random.default_rng(seed)
    pretrained = {("t", "pretrained", m): 70 + rng.normal(0, 0.3, seeds) for m in METHODS}
    random = {("t", "random", m): 60 + rng.normal(0, 0.3, seeds) + gain * (m == "kd") for m in METHODS}
    return pretrained | random


def test_the_interaction_is_tested_per_seed():
    scores = both_inits()
    paired = study(scores)
    table = interaction(paired)
    assert list(table) == INTERACTION and table["method"].tolist() == ["ls", "kd", "akd"]
    for row in table.to_dict("records"):
        random, pretrained = (
            scores["t", i, row["method"]] - scores["t", i, "finetune"] for i in ("random", "pretrained")
        )
        test = signed_rank(random - pretrained)
        assert [row["estimate"], row["low"], row["high"]] == pytest.approx([test.estimate, test.low, test.high])
        assert (row["p_value"], row["rank_biserial"]) == (test.p_value, test.rank_biserial)
        assert row["mean_interaction"] == pytest.approx(row["mean_random"] - row["mean_pretrained"])
        assert row["std_interaction"] == pytest.approx((random - pretrained).std(ddof=1))
        assert (row["n"], row["dropped"], row["min_p_holm"]) == (8, 0, 3 * 2**-7)
    assert table["p_holm"].tolist() == holm(table["p_value"])
    lines = interaction_lines(table, paired)
    assert "its effect is larger from scratch than after pre-training" in lines[1]
    assert "no difference between the initialisations is shown" in lines[0]
    turned = {(t, {"random": "pretrained"}.get(i, "random"), m): v for (t, i, m), v in scores.items()}
    other = interaction(study(turned))
    assert other["estimate"].tolist() == [-e for e in table["estimate"]] and other["low"][1] == -table["high"][1]
    assert "smaller from scratch" in interaction_lines(other, study(turned))[1]


def test_seeds_and_methods_of_one_initialisation_are_named():
    scores = both_inits(seeds=5)
    scores["t", "random", "kd"] = dict(enumerate(scores["t", "random", "kd"][:3]))
    del scores["t", "random", "akd"]
    paired = study(scores)
    table = interaction(paired)
    assert table["n"].tolist() == [5, 3] and table["dropped"].tolist() == [0, 2]
    lines = interaction_lines(table, paired)
    assert lines[1].endswith("cannot give less than 0.25; 2 seeds have one initialisation only")
    assert lines[2] == "akd (t, m, pretrained): no counterpart in the other initialisation"
    scores["t", "random", "finetune"] = dict(enumerate(scores["t", "random", "finetune"]))
    for method in ("finetune", "kd"):
        scores["t", "random", method] = {seed + 10: score for seed, score in scores["t", "random", method].items()}
    elsewhere = study(scores)
    assert interaction_lines(interaction(elsewhere), elsewhere)[0] == (
        "kd (t, m, best/test/score): no seed has both initialisations; 8 seeds have one initialisation only"
    )
    one = study({key: values for key, values in scores.items() if key[1] == "pretrained"})
    assert interaction(one).empty and interaction_lines(interaction(one), one) == []


def test_a_collapsed_seed_is_pointed_at():
    flat = [70.0] * 8
    random = [60.5, 60.5, 60.5, 60.5, 60.5, 60.5, 60.5, 50.0]  # the mean is pulled below 0
    scores = {("t", i, m): flat for i in ("pretrained", "random") for m in METHODS[:2]}
    scores |= {("t", "random", "finetune"): [60.0] * 8, ("t", "random", "ls"): random}
    paired = study(scores)
    (line,) = interaction_lines(interaction(paired), paired)
    assert "interaction -0.81, Hodges-Lehmann +0.50" in line and line.endswith("collapsed seeds?")


def test_the_interaction_over_tasks():
    scores = drawn(inits=("pretrained", "random"), seed=5)
    table = interaction_across(study(scores))
    assert table["init"].unique().tolist() == ["random - pretrained"] and table["n_tasks"].tolist() == [7, 7, 7]
    d = {(t, i): np.mean(scores[t, i, "kd"] - scores[t, i, "finetune"]) for t, i, m in scores if m == "kd"}
    test = signed_rank([d[f"t{t}", "random"] - d[f"t{t}", "pretrained"] for t in range(7)])
    assert table.set_index("method").loc["kd", "p_value"] == test.p_value
    assert interaction_across(study(both_inits())).empty  # one task


def test_what_pairing_saves():
    a = [70.0, 71.0, 72.0, 73.0]
    paired = study({("t", "pretrained", "finetune"): a, ("t", "pretrained", "kd"): [71.0, 72.5, 72.5, 74.0]})
    table = pairing_gain(paired)
    assert list(table) == PAIRING
    (row,) = table.to_dict("records")
    assert row["correlation"] == pytest.approx(4.5 / math.sqrt(5 * 4.5))
    assert row["low"] == pytest.approx(math.tanh(math.atanh(row["correlation"]) - 1.959964))
    assert row["std_difference"] ** 2 == pytest.approx(1 / 6)
    assert (row["unpaired_seeds"], row["saved_seeds"]) == (76, 72)  # 4 (5/3 + 3/2) / (1/6)
    assert pairing_line(table) == (
        "pairing saves 72 seeds per method: 4 paired seeds are as exact as 76 unpaired ones, "
        "the scores' correlation over seeds is 0.95"
    )


@pytest.mark.parametrize(
    "scores, correlation, saved",
    [
        ([70, 71, 72, 73], 1.0, None),  # the same difference in each seed
        ([72, 72, 72, 72], math.nan, 0),  # no spread of one method
        ([73, 72, 71, 70], -1.0, -2),  # pairing costs
        ([71, 70, 73, 72], 0.6, 6),
        ([72, 70, 73, 71], 0.0, 0),
        ([71, 73], math.nan, None),
    ],
)
def test_pairing_at_its_edges(scores, correlation, saved):
    finetune = [70.0, 71.0, 72.0, 73.0]
    table = pairing_gain(study({("t", "pretrained", "finetune"): finetune, ("t", "pretrained", "kd"): scores}))
    (row,) = table.to_dict("records")
    assert row["correlation"] == pytest.approx(correlation, abs=1e-9, nan_ok=True)
    assert math.isnan(row["saved_seeds"]) if saved is None else row["saved_seeds"] == saved
    if saved is None or math.isnan(correlation):
        assert pairing_line(table) == ""
    else:
        word = {-2: "costs 2 seeds", 0: "saves no seeds", 6: "saves 6 seeds"}[saved]
        assert pairing_line(table).startswith(f"pairing {word} per method: 4 paired seeds are as exact as {4 + saved}")


def test_unpaired_seeds_give_the_same_standard_error():
    rng = np.random.default_rng(6)
    shared, own = rng.normal(0, 1, 40), rng.normal(0, 0.5, (2, 40))
    a, b = 70 + shared + own[0], 70 + shared + own[1]
    (row,) = pairing_gain(study({("t", "pretrained", "finetune"): a, ("t", "pretrained", "kd"): b})).to_dict("records")
    n = row["unpaired_seeds"]
    assert (a.var(ddof=1) + b.var(ddof=1)) / n <= (a - b).var(ddof=1) / 40
    assert (a.var(ddof=1) + b.var(ddof=1)) / (n - 1) > (a - b).var(ddof=1) / 40
    assert row["low"] < row["correlation"] < row["high"]
