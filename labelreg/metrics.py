"""The task score (section 3: Matthews, F1, accuracy) and calibration (NLL, ECE, Brier)."""

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

ECE_BINS = 15
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
    picked = log_softmax(logits)[np.arange(len(labels)), labels]
    one_hot = np.eye(logits.shape[1])[labels]
    return {
        "score": score,
        metric: score,
        "nll": float(-picked.mean()),
        "ece": expected_calibration_error(probabilities.max(axis=1), predicted == labels),
        "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
    }


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over 15 bins of equal mass (Nguyen and O'Connor 2015)."""
    order = np.argsort(confidence, kind="stable")
    bins = [part for part in np.array_split(order, ECE_BINS) if len(part)]
    gaps = [len(part) * abs(confidence[part].mean() - correct[part].mean()) for part in bins]
    return float(sum(gaps) / len(confidence))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities in float64 [examples, classes]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities in float64 [examples, classes]."""
    return np.exp(log_softmax(logits))
