"""Resampled scores against scikit-learn, variances worked by hand, coverage, and runs that do not count."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from predicted import logged, paired, run, table
from scipy.stats import t
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from analysis.examples import (
    COLUMNS,
    Variance,
    _interval,
    crossed_variance,
    intervals,
    nested_variance,
    pseudo_values,
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
    rng, repeats, seeds, n = np.random.default_rng(4), 1500, 6, 40
    hit = 0
    for _ in range(repeats):
        a, e = rng.normal(0, sd[0], (seeds, 1)), rng.normal(0, sd[2], (seeds, n))
        d = a + rng.normal(0, sd[1], n) + e  # the true mean is 0
        variance = nested_variance(list(d)) if nested else crossed_variance(d)
        low, high, _ = _interval(d.mean(), variance, 0.95)
        hit += low <= 0 <= high
    assert 0.93 <= hit / repeats <= 0.985


def test_the_interval_is_students():
    low, high, se = _interval(3.0, Variance(0.09, 0.16, 0.0, df=7), 0.95)
    assert se == pytest.approx(0.5) and high - 3 == pytest.approx(3 - low) == pytest.approx(t.ppf(0.975, 7) * 0.5)
    low, high, _ = _interval(3.0, Variance(0.0, 0.25, 0.0, df=np.inf), 0.9)
    assert (low, high) == pytest.approx((3 - 1.644854 * 0.5, 3 + 1.644854 * 0.5))
    assert _interval(3.0, Variance(0.0, 0.0, 0.0, df=np.inf), 0.95) == (3, 3, 0)


def test_one_seed_has_an_interval_for_new_examples():
    labels = np.ones(40, dtype=int)
    ours, theirs = labels.copy(), labels.copy()
    ours[:3], theirs[2:12] = 0, 0  # both wrong at 2; 2 wrong alone, 9 wrong alone
    labels[20:], ours[20:], theirs[20:] = 0, 0, 0
    found, left = intervals(*paired({("ls", 0): (labels, ours), ("finetune", 0): (labels, theirs)}))
    row = found.iloc[0]
    assert left.empty and list(found.columns) == COLUMNS
    assert (row["design"], row["n_seeds"], row["n_examples"]) == ("one seed", 1, 40)
    assert row["difference"] == pytest.approx(17.5) and row["low"] < 17.5 < row["high"]
    assert row["share_examples"] == 1


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
    found, left = intervals(*given)
    row = found.iloc[0]
    assert left.empty and (row["score"], row["design"], row["split"]) == (kind, "crossed", "test")
    assert row["difference"] == pytest.approx(np.mean(given[0].comparisons[0].differences))
    assert row["low"] < row["difference"] < row["high"]
    assert row[["share_seeds", "share_examples", "share_both"]].sum() == pytest.approx(1)
    assert (row["n_seeds"], row["n_examples"], row["n_units"]) == (5, 300, 300)
    narrow = intervals(*given, level=0.8)[0].iloc[0]
    assert row["low"] < narrow["low"] < narrow["high"] < row["high"]


def test_swapping_method_and_reference_turns_the_sign():
    one, other = (intervals(*paired(crossed(swap=swap)))[0].iloc[0] for swap in (False, True))
    assert other["difference"] == pytest.approx(-one["difference"])
    assert (other["low"], other["high"]) == (pytest.approx(-one["high"]), pytest.approx(-one["low"]))
    assert other["share_both"] == pytest.approx(one["share_both"])


def test_examples_that_differ_between_seeds_are_nested():
    rng, tables = np.random.default_rng(7), {}
    for s in SEEDS:
        labels, idx = rng.integers(0, 2, 200), rng.choice(10_000, 200, replace=False)
        for method in ("ls", "finetune"):
            tables[method, s] = (labels, guesses(rng, labels, 0.8), idx)
    given = paired(tables)
    row = intervals(*given)[0].iloc[0]
    d = given[0].comparisons[0].differences
    assert row["design"] == "nested" and row["share_both"] == 0
    assert row["se"] == pytest.approx(np.std(d, ddof=1) / np.sqrt(5))
    assert row["share_seeds"] + row["share_examples"] == pytest.approx(1)


def test_seeds_that_differ_by_as_much_by_chance_are_not_certain():
    """As in the crossed design: the spread within a seed's examples stays."""
    values = [np.array([2.0, -2.0, 6.0, 2.0, 2.0]), np.array([2.0, 2.0, 2.0, 6.0, -2.0])]
    found = nested_variance(values)
    assert found.total == pytest.approx(np.mean([v.var(ddof=1) / 5 for v in values]) / 2) and found.total > 0


def test_one_document_says_nothing_of_new_ones():
    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    for seeds in (SEEDS, SEEDS[:1]):
        tables = {(m, s): (labels, guesses(rng, labels, 0.8)) for m in ("ls", "finetune") for s in seeds}
        given, stored = paired(tables)
        row = intervals(given, grouped("the one document", stored))[0].iloc[0]
        assert row["n_units"] == 1 and np.isnan(row["low"]) and np.isnan(row["high"])


def test_what_dominates():
    labels, wrong = np.arange(60) % 2, 1 - np.arange(60) % 2
    half = np.where(np.arange(60) < 25, wrong, labels)
    same = {(m, s): (labels, p) for m, p in (("ls", labels), ("finetune", half)) for s in SEEDS}
    row = intervals(*paired(same))[0].iloc[0]  # all seeds agree: only other examples could change it
    assert (row["dominates"], row["share_examples"]) == ("examples", pytest.approx(1))
    assert row["low"] < row["difference"] - 5
    own = {("ls", s): (labels, labels if s % 2 else wrong) for s in SEEDS}
    row = intervals(*paired(own | {("finetune", s): (labels, labels) for s in SEEDS}))[0].iloc[0]
    assert (row["dominates"], row["share_seeds"]) == ("seeds", pytest.approx(1))
    none = {(m, s): (labels, half) for m in ("ls", "finetune") for s in SEEDS}
    found = intervals(*paired(none))[0]
    assert found[["difference", "se"]].iloc[0].tolist() == [0, 0] and found["dominates"][0] == ""
    assert found["high"][0] == -found["low"][0] == pytest.approx(100 * 3 / 60, rel=0.03), "the rule of three"


def test_the_rule_of_three_is_of_the_smallest_test_set():
    sets = {seed: np.arange(n) % 2 for seed, n in enumerate((60, 40))}
    same = {(m, seed): (labels, labels) for m in ("ls", "finetune") for seed, labels in sets.items()}
    row = intervals(*paired(same))[0].iloc[0]
    assert row["design"] == "nested" and row["high"] == -row["low"] == pytest.approx(100 * (1 - 0.05 ** (1 / 40)))


def test_equal_scores_of_other_examples_are_not_certain():
    """Each seed of ls loses one example and wins another: no seed differs, new examples may."""
    labels = np.arange(40) % 2
    runs = {}
    for seed in SEEDS:
        mine, theirs = labels.copy(), labels.copy()
        mine[seed], theirs[seed + 20] = 1 - mine[seed], 1 - theirs[seed + 20]
        runs |= {("ls", seed): (labels, mine), ("finetune", seed): (labels, theirs)}
    row = intervals(*paired(runs))[0].iloc[0]
    assert row["difference"] == 0 and row["low"] < -1 and row["high"] > 1


def test_the_interval_of_two_seeds_and_three_examples_by_hand():
    """Right or wrong as ls - finetune: [[1, 0, 1], [0, 0, 1]], in hundredths of points."""
    labels = np.array([0, 1, 0])
    finetune = {("finetune", s): (labels, 1 - labels) for s in (0, 1)}
    ls = {("ls", 0): (labels, np.array([0, 0, 0])), ("ls", 1): (labels, np.array([1, 0, 0]))}
    row = intervals(*paired(ls | finetune))[0].iloc[0]
    # means of seeds 2/3, 1/3, of examples 1/2, 0, 1, of all 1/2
    of_seeds = Fraction(3, 1) * (Fraction(1, 36) + Fraction(1, 36)) / 1
    of_examples = Fraction(2, 1) * (0 + Fraction(1, 4) + Fraction(1, 4)) / 2
    total = Fraction(1 + 0 + 1 + 0 + 0 + 1, 1) - 6 * Fraction(1, 4)
    of_both = (total - of_seeds * 1 - of_examples * 2) / 2
    assert (of_seeds, of_examples, of_both) == (Fraction(1, 6), Fraction(1, 2), Fraction(1, 6))
    variance = (of_seeds + of_examples - of_both) / 6  # of the mean of six
    df = (of_seeds + of_examples - of_both) ** 2 / of_seeds**2
    assert row["difference"] == pytest.approx(50) and row["se"] == pytest.approx(100 * float(variance) ** 0.5)
    assert row["high"] - 50 == pytest.approx(row["se"] * t.ppf(0.975, float(df)))
    assert (row["n_seeds"], row["n_examples"], row["n_units"]) == (2, 3, 3)


# Examples that belong together


def grouped(groups, stored):
    return {key: frame.assign(group=groups) for key, frame in stored.items()}


def documents(kind="accuracy"):
    """Answers to 60 documents of 5 sentences, right or wrong together nine times in ten; their group."""
    rng = np.random.default_rng(8)
    of = np.repeat(np.arange(60), 5)
    labels, tables = rng.integers(0, 2, 300), {}
    for method, share in (("ls", 0.85), ("finetune", 0.75)):
        whole = rng.random(60) < share
        for s in SEEDS:
            right = np.where(rng.random(300) < 0.9, whole[of], rng.random(300) < share)
            tables[method, s] = (labels, np.where(right, labels, 1 - labels))
    return of, paired(tables, kind)


def test_groups_are_left_out_together():
    """Accuracy: the pseudo-value of a group is its sum times groups over examples, as if groups were the examples."""
    of, (given, stored) = documents()
    (table, left), (alone, _) = intervals(given, grouped(of, stored)), intervals(given, stored)
    assert left.empty and (table["n_units"][0], table["n_examples"][0], alone["n_units"][0]) == (60, 300, 300)
    right = {key: (f[["p_0", "p_1"]].to_numpy().argmax(axis=1) == f["label"]).to_numpy() for key, f in stored.items()}
    d = [
        100.0
        * np.subtract(right[f"t-pretrained-ls-{s}", "test"], right[f"t-pretrained-finetune-{s}", "test"], dtype=float)
        for s in SEEDS
    ]
    variance = crossed_variance(np.stack([x.reshape(60, 5).mean(axis=1) for x in d]))
    low, high, se = _interval(np.mean(d), variance, 0.95)
    assert table[["low", "high", "se"]].iloc[0].tolist() == pytest.approx([low, high, se])
    assert table["se"][0] > 1.5 * alone["se"][0], "sentences of a document agree"
    assert table["design"][0] == alone["design"][0] == "crossed"


def test_groups_of_unequal_sizes_leave_their_examples_out():
    rng = np.random.default_rng(9)
    labels, groups = rng.integers(0, 2, 40), np.sort(rng.integers(0, 9, 40))
    predicted = guesses(rng, labels, 0.7)
    for kind in ("accuracy", "f1"):
        whole = 100 * SKLEARN[kind](labels, predicted)
        g = len(set(groups))
        numbers = np.unique(groups, return_inverse=True)[1]
        expected = [
            g * whole - (g - 1) * 100 * SKLEARN[kind](labels[groups != name], predicted[groups != name])
            for name in np.unique(groups)
        ]
        found = pseudo_values(indicators(labels, predicted, kind, 2), kind, numbers)
        assert found == pytest.approx(np.array(expected), abs=1e-9)


def test_groups_of_one_example_are_no_groups():
    given, stored = paired(crossed(n=40))
    one, other = (intervals(given, s)[0] for s in (stored, grouped([f"user {i}" for i in range(40)], stored)))
    pd.testing.assert_frame_equal(one, other)


def test_runs_with_and_without_groups_are_compared():
    of, (given, stored) = documents()
    some = {key: frame if "finetune" in key[0] else frame.assign(group=of) for key, frame in stored.items()}
    assert len(intervals(given, some)[0]) == 1


def test_a_group_without_a_name_is_no_traceback():
    of, (given, stored) = documents()
    names = [None if i == 3 else f"doc {i}" for i in of]
    named = grouped([f"doc {i}" for i in of], stored)
    found, same = (intervals(given, each)[0] for each in (grouped(names, stored), named))
    pd.testing.assert_frame_equal(found, same)  # rows without a name are one group


def reasons(given, stored):
    found, left = intervals(given, stored)
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


def test_a_metric_that_predictions_do_not_give():
    rows = [run(m, s, 50, **{"metrics.dev/nll": 0.5 + s}) for m in ("ls", "finetune") for s in SEEDS]
    found, why = reasons(pair(pd.DataFrame(rows), metric="dev/nll"), {})
    assert found.empty and set(why.values()) == {"dev/nll is no score that predictions give"}


def test_a_mapping_and_unordered_rows_will_do():
    given, stored = paired(crossed(n=40))
    shuffled = {key: value.sample(frac=1, random_state=i) for i, (key, value) in enumerate(stored.items())}
    pd.testing.assert_frame_equal(intervals(given, stored)[0], intervals(given, shuffled)[0])


def test_all_scores_of_a_run():
    labels, predicted = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 0, 1])
    assert scores(labels, predicted, 2) == {
        kind: pytest.approx(100 * function(labels, predicted)) for kind, function in SKLEARN.items()
    }
    assert set(scores(labels, predicted, 3)) == {"accuracy", "matthews"}
    assert score(np.array([[4.0]]), 5, "accuracy") == pytest.approx([80])
    assert len(table(labels, predicted)) == 5
