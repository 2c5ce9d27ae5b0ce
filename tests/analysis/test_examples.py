"""Resampled scores against scikit-learn, variances worked by hand, coverage, and runs that do not count."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from predicted import logged, paired, run, table
from scipy.special import stdtrit
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from analysis.examples import (
    COLUMNS,
    Variance,
    _interval,
    bootstrap,
    crossed_variance,
    lines,
    mcnemar,
    nested_variance,
    pseudo_values,
    resampled_means,
    resampled_scores,
)
from analysis.pairing import pair
from analysis.predictions import LEFT_OUT, indicators, score, scores

pytestmark = pytest.mark.filterwarnings("error", "ignore:A single label was found")  # scikit-learn says that
SKLEARN = {
    "accuracy": accuracy_score,
    "f1": lambda labels, predicted: f1_score(labels, predicted, zero_division=0.0),
    "matthews": matthews_corrcoef,
}
CASES = [("accuracy", 2), ("accuracy", 5), ("f1", 2), ("matthews", 2), ("matthews", 3)]


def guesses(rng, labels, right, n_classes=2):
    return np.where(rng.random(len(labels)) < right, labels, rng.integers(0, n_classes, len(labels)))


@pytest.mark.parametrize("kind, n_classes", CASES)
def test_scores_are_those_of_scikit_learn(kind, n_classes):
    rng = np.random.default_rng(0)
    for right in (0.0, 0.6, 1.0):
        labels = rng.integers(0, n_classes, 50)
        predicted = guesses(rng, labels, right, n_classes)
        assert logged(labels, predicted, kind, n_classes) == pytest.approx(100 * SKLEARN[kind](labels, predicted))
    for labels, predicted in (([0] * 6, [0] * 6), ([0, 1] * 3, [0] * 6), ([1] * 6, [0] * 6)):  # undefined: 0
        expected = 100 * SKLEARN[kind](np.array(labels), np.array(predicted))
        assert logged(labels, predicted, kind, n_classes) == pytest.approx(expected)


@pytest.mark.parametrize("kind, n_classes", CASES)
def test_resamples_are_those_of_examples_drawn_one_by_one(kind, n_classes):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, n_classes, 30)
    runs = [guesses(rng, labels, right, n_classes) for right in (0.5, 0.8)]
    values = np.stack([indicators(labels, predicted, kind, n_classes) for predicted in runs])
    found = resampled_scores(values, kind, 7, np.random.default_rng(5))
    drawn = np.random.default_rng(5).integers(0, 30, (7, 30))
    expected = [[100 * SKLEARN[kind](labels[d], predicted[d]) for d in drawn] for predicted in runs]
    assert found == pytest.approx(np.array(expected))


def test_blocks_of_resamples_hold_all_of_them(monkeypatch):
    monkeypatch.setattr("analysis.examples.BLOCK", 64)  # two resamples of 30 examples
    values = np.stack([indicators(np.ones(30), np.arange(30) % 2, "accuracy", 2)] * 2)
    found = resampled_scores(values, "accuracy", 501, np.random.default_rng(0))
    assert found.shape == (2, 501) and (found[0] == found[1]).all()
    assert found[0].mean() == pytest.approx(50, abs=1.5) and found[0].std() == pytest.approx(9.13, abs=1)


@pytest.mark.parametrize("kind, n_classes", CASES)
def test_pseudo_values_leave_one_out(kind, n_classes):
    rng = np.random.default_rng(2)
    labels = rng.integers(0, n_classes, 25)
    predicted = guesses(rng, labels, 0.7, n_classes)
    whole = 100 * SKLEARN[kind](labels, predicted)
    others = [np.delete(np.arange(25), i) for i in range(25)]
    expected = [25 * whole - 24 * 100 * SKLEARN[kind](labels[o], predicted[o]) for o in others]
    found = pseudo_values(indicators(labels, predicted, kind, n_classes), kind)
    assert found == pytest.approx(np.array(expected), abs=1e-9)
    if kind == "accuracy":
        assert found == pytest.approx(100.0 * (labels == predicted))


def test_crossed_variance_by_hand():
    values = [[1, 0, 2, 3], [4, 1, 1, 2], [0, -1, 3, 2]]
    table = [[Fraction(v) for v in row] for row in values]
    s, n = 3, 4
    mean = sum(map(sum, table)) / (s * n)
    rows, columns = [sum(row) / n for row in table], [sum(column) / s for column in zip(*table, strict=True)]
    of_seeds = n * sum((r - mean) ** 2 for r in rows) / (s - 1)
    of_examples = s * sum((c - mean) ** 2 for c in columns) / (n - 1)
    rest = [(table[i][j] - rows[i] - columns[j] + mean) ** 2 for i in range(s) for j in range(n)]
    of_both = sum(rest) / ((s - 1) * (n - 1))
    found = crossed_variance(np.array(values, dtype=float))
    assert of_seeds < of_both < of_examples  # the seeds' own part is cut at 0
    assert (found.seeds, found.both) == (0, pytest.approx(float(of_seeds / 12)))
    assert found.examples == pytest.approx(float((of_examples - of_both) / 12))
    assert found.df == pytest.approx(float((of_seeds + of_examples - of_both) ** 2 / (of_seeds**2 / 2)))


def test_variances_are_right_on_average():
    """The true variance of the mean of a_s + b_i + e_si is 4/5 + 9/20 + 1/100."""
    rng = np.random.default_rng(3)

    def draw(nested):
        b = rng.normal(0, 3, (5, 20)) if nested else rng.normal(0, 3, 20)
        return rng.normal(0, 2, (5, 1)) + b + rng.normal(0, 1, (5, 20))

    crossed = [crossed_variance(draw(False)) for _ in range(1500)]
    assert np.mean([v.total for v in crossed]) == pytest.approx(1.26, rel=0.05)
    assert np.mean([v.seeds for v in crossed]) == pytest.approx(0.8, rel=0.06)
    assert np.mean([v.examples for v in crossed]) == pytest.approx(0.45, rel=0.05)
    nested = [nested_variance(list(draw(True))) for _ in range(1500)]
    assert np.mean([v.total for v in nested]) == pytest.approx(0.8 + 0.09 + 0.01, rel=0.05)
    assert np.mean([v.examples for v in nested]) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("nested, sd", [(False, (0.1, 0.5, 0.5)), (False, (0.6, 0.1, 0.1)), (True, (0.3, 0.0, 0.5))])
def test_the_interval_covers_the_mean_over_new_seeds_and_examples(nested, sd):
    rng, repeats, seeds, n, resamples = np.random.default_rng(4), 250, 6, 40, 150
    hit = 0
    for _ in range(repeats):
        a, e = rng.normal(0, sd[0], (seeds, 1)), rng.normal(0, sd[2], (seeds, n))
        d = a + rng.normal(0, sd[1], n) + e  # the true mean is 0
        if nested:
            drawn = rng.integers(0, n, (seeds, resamples, n))
            means = np.take_along_axis(d[:, None, :], drawn, axis=2).mean(axis=2)
            variance = nested_variance(list(d))
        else:
            means = d[:, rng.integers(0, n, (resamples, n))].mean(axis=2)
            variance = crossed_variance(d)
        low, high, _ = _interval(d.mean(), resampled_means(means, nested, rng), variance, 0.95)
        hit += low <= 0 <= high
    assert 0.90 <= hit / repeats <= 0.985  # plain percentiles cover 0.82 to 0.98


def test_the_interval_is_students_where_the_resamples_are_symmetric():
    means = np.concatenate([np.linspace(-1, 1, 1001), [0.0]]) + 3
    low, high, se = _interval(3.0, means, Variance(0.09, 0.16, 0.0, df=7), 0.95)
    assert se == pytest.approx(0.5)
    assert high - 3 == pytest.approx(3 - low)
    assert high - low == pytest.approx(2 * stdtrit(7, 0.975) * 0.5 * 0.95 / (1.959964 * means.std()), rel=1e-3)


@pytest.mark.parametrize("b, c", [(0, 0), (1, 0), (7, 7), (3, 12), (12, 3), (41, 30)])
def test_mcnemar_is_a_binomial_test(b, c):
    assert mcnemar(b, c) == pytest.approx(binomtest(b, b + c, 0.5).pvalue if b + c else 1.0)


def test_one_seed_is_answered_by_mcnemar():
    labels = np.ones(40, dtype=int)
    ours, theirs = labels.copy(), labels.copy()
    ours[:3], theirs[2:12] = 0, 0  # both wrong at 2; 2 wrong alone, 9 wrong alone
    labels[20:], ours[20:], theirs[20:] = 0, 0, 0
    found, left = bootstrap(*paired({("ls", 0): (labels, ours), ("finetune", 0): (labels, theirs)}))
    row = found.iloc[0]
    assert left.empty and list(found.columns) == COLUMNS
    assert (row["design"], row["n_seeds"], row["n_examples"]) == ("one seed", 1, 40)
    assert (row["only_method"], row["only_reference"]) == (9, 2)
    assert row["p_mcnemar"] == pytest.approx(binomtest(2, 11).pvalue)
    assert row["difference"] == pytest.approx(17.5) and row["low"] < 17.5 < row["high"]
    (line,) = lines(found)
    assert "one seed: McNemar's exact test p = 0.0654" in line and "not for new seeds" in line


SEEDS = range(5)


def crossed(kind="accuracy", swap=False, n=300):
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 2, n)
    names = ("finetune", "ls") if swap else ("ls", "finetune")
    rights = (0.85, 0.8)
    return {(m, s): (labels, guesses(rng, labels, r)) for m, r in zip(names, rights, strict=True) for s in SEEDS}


@pytest.mark.parametrize("kind", ["accuracy", "f1", "matthews"])
def test_crossed_seeds_and_examples(kind):
    given = paired(crossed(kind), kind)
    found, left = bootstrap(*given)
    row = found.iloc[0]
    assert left.empty and (row["score"], row["design"], row["split"]) == (kind, "crossed", "test")
    assert row["difference"] == pytest.approx(np.mean(given[0].comparisons[0].differences))
    assert row["low"] < row["difference"] < row["high"]
    assert row[["share_seeds", "share_examples", "share_both"]].sum() == pytest.approx(1)
    assert np.isnan(row["p_mcnemar"]) and "5 seeds, 300 examples, crossed" in lines(found)[0]
    pd.testing.assert_frame_equal(found, bootstrap(*given)[0])  # the same seed, the same interval
    assert bootstrap(*given, seed=1)[0]["low"][0] != row["low"]
    narrow = bootstrap(*given, level=0.8)[0].iloc[0]
    assert row["low"] < narrow["low"] < narrow["high"] < row["high"]


def test_swapping_method_and_reference_turns_the_sign():
    one, other = (bootstrap(*paired(crossed(swap=swap)))[0].iloc[0] for swap in (False, True))
    assert other["difference"] == pytest.approx(-one["difference"])
    assert (other["low"], other["high"]) == (pytest.approx(-one["high"]), pytest.approx(-one["low"]))
    assert (other["only_method"], other["share_both"]) == (one["only_reference"], pytest.approx(one["share_both"]))


def test_examples_that_differ_between_seeds_are_nested():
    rng, tables = np.random.default_rng(7), {}
    for s in SEEDS:
        labels, idx = rng.integers(0, 2, 200), rng.choice(10_000, 200, replace=False)
        for method in ("ls", "finetune"):
            tables[method, s] = (labels, guesses(rng, labels, 0.8), idx)
    given = paired(tables)
    row = bootstrap(*given)[0].iloc[0]
    d = given[0].comparisons[0].differences
    assert row["design"] == "nested" and row["share_both"] == 0
    assert row["se"] == pytest.approx(np.std(d, ddof=1) / np.sqrt(5))
    assert row["share_seeds"] + row["share_examples"] == pytest.approx(1)
    assert "drawn within each seed" in lines(bootstrap(*given)[0])[0]


def test_what_dominates():
    labels, wrong = np.arange(60) % 2, 1 - np.arange(60) % 2
    half = np.where(np.arange(60) < 25, wrong, labels)
    same = {(m, s): (labels, p) for m, p in (("ls", labels), ("finetune", half)) for s in SEEDS}
    row = bootstrap(*paired(same))[0].iloc[0]  # all seeds agree: only other examples could change it
    assert (row["dominates"], row["share_examples"]) == ("examples", pytest.approx(1))
    assert row["low"] < row["difference"] - 5
    own = {("ls", s): (labels, labels if s % 2 else wrong) for s in SEEDS}
    row = bootstrap(*paired(own | {("finetune", s): (labels, labels) for s in SEEDS}))[0].iloc[0]
    assert (row["dominates"], row["share_seeds"]) == ("seeds", pytest.approx(1))
    none = {(m, s): (labels, half) for m in ("ls", "finetune") for s in SEEDS}
    found = bootstrap(*paired(none))[0]
    assert found[["difference", "low", "high", "se"]].iloc[0].tolist() == [0, 0, 0, 0]
    assert found["dominates"][0] == "" and "no answer differs" in lines(found)[0]


def test_runs_that_answer_with_one_class_are_told():
    labels = np.arange(60) % 3 % 2
    majority, half = np.zeros(60, dtype=int), np.where(np.arange(60) < 25, 1 - labels, labels)
    runs = {("ls", s): (labels, majority if s == SEEDS[0] else half) for s in SEEDS}
    runs |= {("finetune", s): (labels, majority) for s in SEEDS}
    found = bootstrap(*paired(runs))[0]
    assert found["one_class"].tolist() == [len(SEEDS) + 1]
    words = f"; {len(SEEDS) + 1} of {2 * len(SEEDS)} runs give every example the same class"
    assert lines(found)[0].endswith(words)
    found = bootstrap(*paired({key: (labels, half) for key in runs}))[0]
    assert found["one_class"].tolist() == [0] and "same class" not in lines(found)[0]


def reasons(given, stored):
    found, left = bootstrap(given, stored, resamples=20)
    assert list(left.columns) == LEFT_OUT
    return found, dict(zip(left["run_id"], left["reason"], strict=True))


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"p_1": [0.9] * 40}, "no probabilities"),
        ({"p_0": [1.2] * 40, "p_1": [-0.2] * 40}, "no probabilities"),
        ({"label": [0.5] * 40}, "labels that are no classes"),
        ({"idx": [7] * 40}, "an example twice"),
        ({"p_0": [{"a": 1}] * 40}, "a word where a number is needed"),
        ({"p_0": ["high"] * 40}, "a word where a number is needed"),
    ],
)
def test_predictions_that_cannot_be(changed, reason):
    given, stored = paired(crossed(n=40))
    stored["t-pretrained-ls-0", "test"] = stored["t-pretrained-ls-0", "test"].assign(**changed)
    _, why = reasons(given, stored)
    assert reason in why["t-pretrained-ls-0"]


def test_runs_that_do_not_count():
    given, stored = paired(crossed(n=40))

    def damaged(run_id, split):
        if run_id.endswith("ls-1"):
            raise OSError("Parquet magic bytes\nnot found")
        return stored.get((run_id, split))

    hidden = stored["t-pretrained-ls-0", "test"]
    hidden["label"] = -1
    other = stored["t-pretrained-ls-2", "test"]
    other.loc[0, ["p_0", "p_1"]] = 1 - other.loc[0, ["p_0", "p_1"]]
    del stored["t-pretrained-finetune-3", "test"]
    found, why = reasons(given, damaged)
    assert found["n_seeds"].tolist() == [1]
    assert why["t-pretrained-ls-0"] == "the labels of test are hidden"
    assert why["t-pretrained-ls-1"] == "predictions of test cannot be read: Parquet magic bytes not found"
    assert why["t-pretrained-ls-2"].startswith("its predictions give accuracy ")
    assert why["t-pretrained-finetune-3"] == "no predictions of test"
    assert why["t-pretrained-ls-3"] == "its partner t-pretrained-finetune-3 is left out"
    assert len(why) == 5


def test_a_partner_with_other_examples_and_no_predictions_at_all():
    tables = crossed(n=40)
    labels, predicted = tables["ls", 1]
    given, stored = paired(tables | {("ls", 1): (labels, predicted, np.arange(40) + 1)})
    found, why = reasons(given, stored)
    assert found["n_seeds"].tolist() == [4] and found["design"].tolist() == ["crossed"]
    assert why == {"t-pretrained-ls-1": "other examples than its partner t-pretrained-finetune-1"}
    found, why = reasons(given, lambda run_id, split: None)
    assert found.empty and set(why.values()) == {"no predictions of test"} and len(why) == 10
    assert lines(found) == []


def test_a_metric_that_predictions_do_not_give():
    rows = [run(m, s, 50, **{"metrics.dev/nll": 0.5 + s}) for m in ("ls", "finetune") for s in SEEDS]
    found, why = reasons(pair(pd.DataFrame(rows), metric="dev/nll"), {})
    assert found.empty and set(why.values()) == {"dev/nll is no score that predictions give"}


def test_a_mapping_and_unordered_rows_will_do():
    given, stored = paired(crossed(n=40))
    shuffled = {key: value.sample(frac=1, random_state=i) for i, (key, value) in enumerate(stored.items())}
    pd.testing.assert_frame_equal(bootstrap(given, stored)[0], bootstrap(given, shuffled)[0])


def test_all_scores_of_a_run():
    labels, predicted = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 0, 1])
    assert scores(labels, predicted, 2) == {
        kind: pytest.approx(100 * function(labels, predicted)) for kind, function in SKLEARN.items()
    }
    assert set(scores(labels, predicted, 3)) == {"accuracy", "matthews"}
    assert score(np.array([[4.0]]), 5, "accuracy") == pytest.approx([80])
    assert len(table(labels, predicted)) == 5
