"""The task score (section 3: Matthews, F1, accuracy) and calibration (NLL, ECE, Brier)."""

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from analysis import measures

SCORES = {
    "accuracy": accuracy_score,
    "f1": lambda labels, predicted: f1_score(labels, predicted, zero_division=0.0),
    "matthews": matthews_corrcoef,
}


def evaluate(logits: np.ndarray, labels: np.ndarray, metric: str) -> dict[str, float]:
    """Score and calibration of predictions; higher is better for score, lower for the others.

    Args:
        logits: [examples, classes], finite.
        labels: [examples], integers.
        metric: accuracy, f1 (of class 1) or matthews.

    Returns:
        `score` and `<metric>`, both in percent; `nll` in nats; `ece` and `brier` as fractions.
    """
    probabilities = softmax(logits)
    predicted = probabilities.argmax(axis=1)
    score = 100 * float(SCORES[metric](labels, predicted))
    return {
        "score": score,
        metric: score,
        "nll": measures.nll(log_softmax(logits), labels),
        "ece": measures.ece(probabilities, labels),
        "brier": measures.brier(probabilities, labels),
    }


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities in float64 [examples, classes]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities in float64 [examples, classes]."""
    return np.exp(log_softmax(logits))
