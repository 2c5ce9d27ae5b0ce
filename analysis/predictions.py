"""Predictions of runs, read and checked, and the scores that follow from counts of them.

`predictions(run_id, split)` gives columns idx, label and p_<class>... by name, in a dict or a DataFrame (or None); a
mapping of (run_id, split) to such columns will do too. A score here is a function of sums over examples, so that
a resample of examples needs new sums only.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from analysis.pairing import WHO, Comparison, Paired

Columns: TypeAlias = Mapping[str, np.ndarray] | pd.DataFrame
Predictions = Callable[[str, str], Columns | None] | Mapping[tuple[str, str], Columns]
SCORES = ("accuracy", "f1", "matthews")  # in percent; f1 of class 1
SAME = 1e-6  # points; both sides are doubles of one formula
UNITY = 1e-3  # how far probabilities of an example may add up beside 1
LEFT_OUT = ["run_id", *WHO[:4], "seed", "reason"]


class Missing(Exception):
    """A run has no predictions that can be used; the text is the reason."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """A run's predictions on one split, in order of idx: labels `[examples]`, probabilities `[examples, classes]`, and
    the number of the group that each example belongs to `[examples]`, where the data have groups."""

    idx: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray | None = None

    @property
    def n_classes(self) -> int:
        return self.probabilities.shape[1]

    @cached_property
    def classes(self) -> np.ndarray:
        """The predicted class of each example `[examples]`."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def scores(self) -> dict[str, float]:
        return scores(self.labels, self.classes, self.n_classes)

    @cached_property
    def examples(self) -> str:
        """A digest of idx and labels: equal where two runs were tested on the same examples."""
        return hashlib.sha256(np.stack([self.idx, self.labels]).astype(np.int64).tobytes()).hexdigest()


def read(predictions: Predictions, run_id: str, split: str) -> Predicted:
    """The predictions of a run. Raises Missing where there are none, or none that can be used."""
    try:
        get = predictions.get((run_id, split)) if isinstance(predictions, Mapping) else predictions(run_id, split)
    except (OSError, ValueError) as error:  # a damaged file: pyarrow's errors are ValueErrors
        raise Missing(f"predictions of {split} cannot be read: {' '.join(str(error).split())[:120]}") from None
    names: list[Any] = [] if get is None else list(get)
    if get is None or not names or not len(get[names[0]]):
        raise Missing(f"no predictions of {split}")
    classes = [name for name in names if str(name).startswith("p_")]
    if not {"idx", "label"} <= set(names) or len(classes) < 2:
        raise Missing(f"predictions of {split} lack idx, label or p_<class> columns")
    try:
        values = np.array([get[name] for name in ("idx", "label", *classes)], dtype=float)
    except (ValueError, TypeError):
        raise Missing(f"predictions of {split} hold a word where a number is needed") from None
    if not np.isfinite(values).all():
        raise Missing(f"predictions of {split} hold a NaN or an infinite number")
    order = np.argsort(values[0], kind="stable")
    values = np.take(values, order, axis=1)
    groups = pd.factorize(np.asarray(get["group"])[order], use_na_sentinel=False)[0] if "group" in names else None
    idx, labels = values[:2].astype(np.int64)
    shares = values[2:].sum(axis=0)
    if values[2:].min() < 0 or abs(shares - 1).max() > UNITY or (labels != values[1]).any():
        raise Missing(f"predictions of {split} hold no probabilities of classes, or labels that are no classes")
    if (np.diff(idx) == 0).any():
        raise Missing(f"predictions of {split} hold an example twice")
    if labels.min() < 0:
        raise Missing(f"the labels of {split} are hidden")
    if labels.max() >= len(classes):
        raise Missing(f"predictions of {split} have {len(classes)} classes, a label is {labels.max()}")
    return Predicted(idx, labels, values[2:].T, groups)  # by columns: sums over classes take a fifth of the time


def one_class(labels: np.ndarray, predicted: np.ndarray) -> bool:
    """Whether all examples are given one class although their labels have more: the run has not learnt."""
    return np.ptp(predicted) == 0 and np.ptp(labels) > 0


def marked(paired: Paired, predictions: Predictions) -> Paired:
    """`paired` with what predictions tell of the runs in comparisons: those that have not learnt, beside those that a
    tag names, and the number of examples that their scores are from.

    A run is looked at on test, and on dev where test has no labels; one without predictions stays as it is.
    """
    lost = {
        run_id
        for run_id in paired.compared
        if (found := _first(predictions, run_id, "test", "dev")) and one_class(found.labels, found.classes)
    }
    return replace(
        paired, not_learnt=paired.not_learnt | lost, examples={**paired.examples, **_examples(paired, predictions)}
    )


def _examples(paired: Paired, predictions: Predictions) -> dict[str, int]:
    """By run id; one run with predictions speaks for its comparison, whose runs are tested on as many examples."""
    found: dict[str, int] = {}
    for c in paired.comparisons:
        known = (_first(predictions, run_id, split_of(c.metric) or "") for run_id in c.run_ids)
        if first := next(filter(None, known), None):
            found |= dict.fromkeys((*c.run_ids, *c.reference_run_ids), len(first.labels))
    return found


def _first(predictions: Predictions, run_id: str, *splits: str) -> Predicted | None:
    """Of the first of these splits on which the run has predictions that can be used."""
    for split in splits:
        with suppress(Missing):
            return read(predictions, run_id, split)
    return None


def split_of(metric: str) -> str | None:
    """The split that a metric belongs to: "test" for best/test/score; None where it names none."""
    return next((part for part in metric.split("/") if part.startswith(("dev", "test", "rest"))), None)


def is_score(metric: str) -> bool:
    """Whether the metric is a score that follows from predicted classes."""
    return metric.split("/")[-1] in ("score", *SCORES)


def indicators(labels: np.ndarray, predicted: np.ndarray, kind: str, n_classes: int) -> np.ndarray:
    """What is summed over examples for a score of this kind: 0 or 1 `[sums, examples]`."""
    right = labels == predicted
    if kind == "accuracy":
        rows = [right]
    elif kind == "f1":
        rows = [right & (labels == 1), predicted == 1, labels == 1]
    else:
        classes = range(n_classes)
        rows = [right, *(predicted == c for c in classes), *(labels == c for c in classes)]
    return np.array(rows, dtype=np.float32)  # exact: sums stay below 2^24


def score(sums: np.ndarray, n: int | np.ndarray, kind: str) -> np.ndarray:
    """The score in percent `[...]` from sums `[..., sums]` over n examples; 0 where it is undefined, as in sklearn.

    f1 = 2 TP / (predicted + actual). matthews, for any number of classes, is Gorodkin's (2004).
    """
    sums = np.asarray(sums, dtype=float)
    if kind == "accuracy":
        return 100 * sums[..., 0] / n
    if kind == "f1":
        above, below = 2 * sums[..., 0], sums[..., 1] + sums[..., 2]
    else:
        half = (sums.shape[-1] - 1) // 2
        predicted, actual = sums[..., 1 : 1 + half], sums[..., 1 + half :]
        above = n * sums[..., 0] - (predicted * actual).sum(axis=-1)
        below = np.sqrt((n**2 - (predicted**2).sum(axis=-1)) * (n**2 - (actual**2).sum(axis=-1)))
    return 100 * np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def scores(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> dict[str, float]:
    """The score of each kind, in percent; f1 for two classes alone."""
    found = {}
    for kind in SCORES if n_classes == 2 else ("accuracy", "matthews"):
        sums = indicators(labels, predicted, kind, n_classes).sum(axis=1, dtype=float)
        found[kind] = float(score(sums, len(labels), kind))
    return found


def left_out(c: Comparison, at: int, of_reference: bool, reason: str) -> tuple:
    """One row of LEFT_OUT: the run (or the reference's run) of the comparison's pair `at`."""
    run_id, method = (c.reference_run_ids[at], c.reference) if of_reference else (c.run_ids[at], c.method)
    return run_id, c.task, c.model, c.init, method, c.seeds[at], reason
