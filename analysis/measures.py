"""NLL, ECE and Brier, each by one function: what a run logs and what its predictions give later are the same number.

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


def confidence(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest probability of each example, and whether its class is right `[examples]`."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def reliability(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[int, int, float, float]]:
    """(bin, n, mean confidence, accuracy) of bins of equal mass, by confidence (Nguyen and O'Connor 2015).

    Examples of one confidence count with their mean accuracy, so that their order does not.
    """
    said, right = (np.concatenate(values) for values in zip(*parts, strict=True))
    order = np.argsort(said)
    said, right = said[order], right[order].astype(float)
    same = said[1:] == said[:-1]
    if same.any():
        first = np.flatnonzero(np.append(True, ~same))
        counts = np.diff(first, append=len(said))
        right = np.repeat(np.add.reduceat(right, first) / counts, counts)
    each, more = divmod(len(said), BINS)
    sizes = [each + (i < more) for i in range(BINS if each else more)]
    starts = np.cumsum([0, *sizes[:-1]])
    sums = (np.add.reduceat(values, starts) for values in (said, right))
    means = [(total / sizes).tolist() for total in sums]
    return list(zip(range(1, len(sizes) + 1), sizes, *means, strict=True))
