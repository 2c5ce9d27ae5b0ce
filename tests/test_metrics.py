"""Scores against scikit-learn and formulas by hand; calibration on cases whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, matthews_corrcoef

from analysis import measures
from labelreg.metrics import evaluate, log_softmax, softmax

pytestmark = pytest.mark.filterwarnings("error")


def confident(predicted, classes=2, size=5.0):
    """Logits that predict these classes."""
    return (size * np.eye(classes)[predicted]).astype(np.float32)


def draw(seed, examples=40, classes=3):
    chance = np.random.default_rng(seed)
    labels = chance.permutation(np.arange(examples) % classes)
    return 2 * chance.normal(size=(examples, classes)).astype(np.float32), labels


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 7))
def test_likelihood_and_brier_against_scikit_learn(seed, classes):
    logits, labels = draw(seed, classes=classes)
    found, probabilities = evaluate(logits, labels, "accuracy"), softmax(logits)
    assert found["nll"] == pytest.approx(log_loss(labels, probabilities))
    brier = brier_score_loss(labels, probabilities, labels=np.arange(classes), scale_by_half=False)
    assert found["brier"] == pytest.approx(brier)
    assert found["accuracy"] == found["score"] == pytest.approx(100 * (logits.argmax(axis=1) == labels).mean())


@given(seed=st.integers(0, 10_000))
def test_matthews_and_f1_from_the_confusion_matrix(seed):
    logits, labels = draw(seed, classes=2)
    predicted = logits.argmax(axis=1)
    tp, tn = ((predicted == c) & (labels == c) for c in (1, 0))
    fp, fn = ((predicted == c) & (labels != c) for c in (1, 0))
    tp, tn, fp, fn = (int(cell.sum()) for cell in (tp, tn, fp, fn))
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    matthews = 100 * (tp * tn - fp * fn) / below if below else 0.0
    assert evaluate(logits, labels, "matthews")["score"] == pytest.approx(matthews)
    assert evaluate(logits, labels, "f1")["score"] == pytest.approx(100 * 2 * tp / (2 * tp + fp + fn))


def test_f1_is_that_of_class_1():
    """Predicted 1, 1, 1, 0, 0; true 1, 1, 0, 1, 0: precision 2/3, recall 2/3."""
    found = evaluate(confident([1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 0]), "f1")
    assert found["score"] == found["f1"] == pytest.approx(100 * 2 / 3)


def test_matthews_of_several_classes():
    logits, labels = draw(3, classes=5)
    assert evaluate(logits, labels, "matthews")["score"] == pytest.approx(
        100 * matthews_corrcoef(labels, logits.argmax(1))
    )


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
def test_perfect_predictions(metric):
    labels = np.array([0, 1, 1, 0, 1])
    found = evaluate(confident(labels, size=50), labels, metric)
    assert found["score"] == found[metric] == 100
    assert (found["nll"], found["ece"], found["brier"]) == pytest.approx((0, 0, 0), abs=1e-12)


@pytest.mark.parametrize(("metric", "score"), [("accuracy", 60), ("f1", 0), ("matthews", 0)])
def test_one_class_is_predicted(metric, score):
    """Matthews is 0 by convention, and F1 is 0 when nothing is predicted positive."""
    assert evaluate(confident([0] * 5), np.array([0, 1, 1, 0, 0]), metric)["score"] == score


@pytest.mark.parametrize(("metric", "score"), [("accuracy", 100), ("f1", 0)])
def test_one_class_is_all_there_is(metric, score):
    assert evaluate(confident([0] * 5), np.zeros(5, dtype=int), metric)["score"] == score


def test_matthews_of_one_class_is_0_and_scikit_learn_says_so():
    with pytest.warns(UserWarning, match="A single label"):
        assert evaluate(confident([0] * 5), np.zeros(5, dtype=int), "matthews")["score"] == 0


def test_a_wrong_sure_prediction_costs_what_the_formulas_say():
    """p = (1/4, 3/4), label 0: nll ln 4, brier (3/4)^2 + (3/4)^2, ece 3/4."""
    found = evaluate(np.array([[0.0, math.log(3)]]), np.array([0]), "accuracy")
    assert (found["nll"], found["brier"], found["ece"]) == pytest.approx((math.log(4), 9 / 8, 3 / 4))


def expected_calibration_error(confidence, correct):
    """Of two classes, the first of which is predicted."""
    return measures.ece(np.stack([confidence, 1 - confidence], axis=1), np.where(correct, 0, 1))


def test_ece_by_hand():
    """30 examples, two to each of the 15 bins: the gap is that of the pair, not of its members."""
    confidence = np.repeat(np.linspace(0.51, 0.99, 15), 2)
    one_right = np.tile([True, False], 15)
    assert expected_calibration_error(confidence, one_right) == pytest.approx((confidence - 0.5).mean())
    assert expected_calibration_error(np.full(30, 0.5), one_right) == pytest.approx(0)
    assert expected_calibration_error(confidence, np.ones(30, bool)) == pytest.approx((1 - confidence).mean())


def test_ece_bins_by_confidence_whatever_the_order():
    chance = np.random.default_rng(0)
    confidence, correct = chance.uniform(0.5, 1, 100), chance.integers(0, 2, 100).astype(bool)
    order = chance.permutation(100)
    assert expected_calibration_error(confidence[order], correct[order]) == pytest.approx(
        expected_calibration_error(confidence, correct)
    )


def test_ece_of_equal_confidences_is_one_number_whatever_the_order():
    """30 examples of confidence 0.6 fill all 15 bins; half of them are right: the gap is 0.1 in any order."""
    logits, right = np.tile(np.log([0.6, 0.4]), (30, 1)), np.arange(30) < 15
    for order in (np.arange(30), np.arange(30)[::-1], np.random.default_rng(0).permutation(30)):
        labels = np.where(right[order], 0, 1)
        assert evaluate(logits, labels, "accuracy")["ece"] == pytest.approx(0.1)
        assert measures.ece(softmax(logits), labels) == pytest.approx(0.1)


@pytest.mark.parametrize("examples", [1, 2, 14, 15, 16, 31])
def test_ece_weighs_bins_by_their_size(examples):
    """All equally confident and right: one gap, whatever the number of bins that are filled."""
    assert expected_calibration_error(np.full(examples, 0.7), np.ones(examples, bool)) == pytest.approx(0.3)


def test_huge_logits_stay_finite():
    logits = np.array([[1e4, -1e4], [-3e38, 3e38]], dtype=np.float32)
    assert np.isfinite(log_softmax(logits)).all()
    assert evaluate(logits[:1], np.array([1]), "accuracy")["nll"] == pytest.approx(2e4)


@given(seed=st.integers(0, 10_000), shift=st.floats(-1e3, 1e3))
def test_a_constant_added_to_the_logits_changes_nothing(seed, shift):
    logits, _ = draw(seed)
    assert softmax(logits.astype(np.float64) + shift) == pytest.approx(softmax(logits), abs=1e-9)
    assert softmax(logits).sum(axis=1) == pytest.approx(1)
