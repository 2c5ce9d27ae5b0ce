"""NLL, ECE, Brier and the risk at a coverage, each by one function.

What a run logs and what its predictions give later are then the same number.

labelreg.metrics takes them from here, not the other way round: it loads scikit-learn, which analysis does without, and
analysis knows nothing of labelreg. Numpy alone is loaded.
"""

from collections.abc import Sequence

import numpy as np

BINS = 15


def nll(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood in nats, of log-probabilities `[examples, classes]`."""
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over examples of the squared error summed over classes (Brier 1950), of `[examples, classes]`."""
    return float(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1).mean())


def ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error, a fraction: mean gap between confidence and accuracy over BINS bins of equal mass."""
    bins = reliability([confidence(probabilities, labels)])
    return float(sum(n * abs(said - right) for _, n, said, right in bins) / len(labels))


def ece_floor(probabilities: np.ndarray) -> float:
    """The ECE that so many examples give a model whose probabilities are right: chance alone makes bins miss.

    In each bin the mean of |gap| where the gap is normal, of the variance that the confidences imply.
    """
    said = np.sort(probabilities.max(axis=1))
    parts = [part for part in np.array_split(said, min(BINS, len(said))) if len(part)]
    return float(sum(np.sqrt(2 / np.pi * (part * (1 - part)).sum()) for part in parts) / len(said))


def aurc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Area under the risk-coverage curve: the error rate among the i most confident answers, mean over all i
    (Geifman and El-Yaniv 2017)."""
    _, right = _in_order(*confidence(probabilities, labels))
    return float((np.cumsum(1 - right[::-1]) / np.arange(1, len(right) + 1)).mean())


def error_at_80(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The error rate among the 80% of answers that are the most confident."""
    _, right = _in_order(*confidence(probabilities, labels))
    return float(1 - right[::-1][: max(1, round(0.8 * len(right)))].mean())


def confidence(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest probability of each example, and whether its class is right `[examples]`."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def _in_order(said: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By rising confidence. Examples of one confidence count with their mean accuracy, so that their order does not."""
    order = np.argsort(said)
    said, right = said[order], right[order].astype(float)
    same = said[1:] == said[:-1]
    if same.any():
        first = np.flatnonzero(np.append(True, ~same))
        counts = np.diff(first, append=len(said))
        right = np.repeat(np.add.reduceat(right, first) / counts, counts)
    return said, right


def reliability(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[int, int, float, float]]:
    """(bin, n, mean confidence, accuracy) of bins of equal mass, by confidence (Nguyen and O'Connor 2015)."""
    said, right = _in_order(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    each, more = divmod(len(said), BINS)
    sizes = [each + (i < more) for i in range(BINS if each else more)]
    starts = np.cumsum([0, *sizes[:-1]])
    sums = (np.add.reduceat(values, starts) for values in (said, right))
    means = [(total / sizes).tolist() for total in sums]
    return list(zip(range(1, len(sizes) + 1), sizes, *means, strict=True))
