"""Calibration and selective classification, before and after temperature scaling, and cost, beside the score.

A method may look better calibrated because it softens probabilities, which one number fitted on dev does too (Guo et
al. 2017). So each run is measured as it is and with its logits divided by the temperature that dev likes best, and
methods are compared with the scaled reference.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from analysis import measures
from analysis.hypothesis import DECIMALS, pairs
from analysis.over_tasks import TEST, tested
from analysis.pairing import WHO, Paired, in_order
from analysis.predictions import LEFT_OUT, Missing, Predicted, Predictions, read, split_of

MEASURES = ("nll", "ece", "ece_floor", "brier", "aurc", "error_at_80")
TESTED = ("nll", "ece", "brier", "aurc", "error_at_80")  # ece less its floor, which differs between methods too
SCALED = {"none": (False, False), "reference": (False, True), "both": (True, True)}  # the method's, the reference's
SCORES = [*MEASURES, *(f"{measure}_scaled" for measure in MEASURES)]
MEASURED = ["temperature", *SCORES]
RUNS = ["run_id", *WHO, "seed", "split", "fitted_on", *MEASURED]
RELIABILITY = [*WHO, "scaled", "bin", "n", "confidence", "accuracy"]
METHODS = [*WHO, "split", "fitted_on", "n", *MEASURED]
MEANS = ["mean_method", "mean_reference", "mean_difference"]
DIFFERENCES = [*WHO, "reference", "measure", "scaled", "n", *MEANS, *TEST, "min_p_holm"]
SECONDS = ["train_seconds", "teacher_seconds", "total_seconds"]
COSTS = [*WHO, "n", "score", "epochs", "best_epoch", *SECONDS, "times_reference"]
TEMPERATURES = (0.05, 20.0)  # where dev likes none of them best, the nearer end is taken
LEAST = 1e-300  # a probability of 0 has no logarithm


@dataclass(frozen=True, eq=False)
class Calibration:
    """runs: columns RUNS; reliability: columns RELIABILITY; left_out: columns predictions.LEFT_OUT."""

    runs: pd.DataFrame
    reliability: pd.DataFrame
    left_out: pd.DataFrame


def calibrate(paired: Paired, predictions: Predictions) -> Calibration:
    """MEASURES (nats, fractions) of each paired run, as it is and scaled by a temperature fitted on dev.

    split: that of the run's metric; where it is dev, each half is scaled by the temperature of the other half
    (fitted_on "other half of dev"). reliability: measures.BINS bins of equal mass over all examples of all seeds of a
    method, with the mean confidence and the accuracy of each.
    """
    known = {run["run_id"]: run for run in paired.runs.to_dict("records")}
    rows, left, points = [], [], defaultdict(list)
    for run_id in paired.compared:
        run = known[run_id]
        cell = tuple(run[name] for name in WHO)
        try:
            table, scaled, temperature, fitted_on = _scaled(predictions, run_id, split_of(run["metric"]))
        except Missing as missing:
            left.append((run_id, *cell[:4], run["seed"], str(missing)))
            continue
        split = split_of(run["metric"])
        values = (*measured(table.probabilities, table.labels), *measured(scaled, table.labels))
        rows.append((run_id, *cell, run["seed"], split, fitted_on, temperature, *values))
        for is_scaled, probabilities in ((False, table.probabilities), (True, scaled)):
            points[cell, is_scaled].append(measures.confidence(probabilities, table.labels))
    bins = [
        (*cell, is_scaled, *row) for (cell, is_scaled), parts in points.items() for row in measures.reliability(parts)
    ]
    return Calibration(
        pd.DataFrame(rows, columns=RUNS),
        pd.DataFrame(bins, columns=RELIABILITY),
        pd.DataFrame(left, columns=LEFT_OUT),
    )


def _scaled(predictions: Predictions, run_id: str, split: str | None) -> tuple[Predicted, np.ndarray, float, str]:
    """The run's predictions on `split`, its scaled probabilities, the temperature and where it was fitted."""
    if split is None:
        raise Missing("its metric names no split")
    table = read(predictions, run_id, split)
    if split != "dev":
        dev = read(predictions, run_id, "dev")
        t = temperature(dev.probabilities, dev.labels)
        return table, scale(table.probabilities, t), t, "dev"
    if len(table.labels) < 2:
        raise Missing("one example of dev has no other half")
    half = np.random.default_rng(0).permutation(len(table.labels)) % 2  # drawn: a file may have its classes in turn
    fitted, scaled = [], np.empty_like(table.probabilities)
    for mine in (0, 1):
        fitted.append(temperature(table.probabilities[half != mine], table.labels[half != mine]))
        scaled[half == mine] = scale(table.probabilities[half == mine], fitted[-1])
    return table, scaled, math.sqrt(fitted[0] * fitted[1]), "other half of dev"


def temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The T within TEMPERATURES with the least NLL of softmax(log p / T), p `[examples, classes]` (Guo et al. 2017).

    The NLL is convex in 1 / T, so that its slope has one root.
    """
    from scipy.optimize import brentq
    from scipy.special import softmax

    logits = np.log(np.maximum(probabilities, LEAST))
    of_label = logits[np.arange(len(labels)), labels].mean()

    def slope(inverse: float) -> float:
        return float((softmax(logits * inverse, axis=1) * logits).sum(axis=1).mean() - of_label)

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if slope(low) >= 0:
        return TEMPERATURES[1]
    return TEMPERATURES[0] if slope(high) <= 0 else 1 / brentq(slope, low, high, xtol=1e-9)


def scale(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T) `[examples, classes]`: what dividing the logits by T gives."""
    from scipy.special import softmax

    return softmax(np.log(np.maximum(probabilities, LEAST)) / temperature, axis=1)


def measured(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """MEASURES of p `[examples, classes]`, all of which are the better the lower; NLL in nats."""
    nll = measures.nll(np.log(np.maximum(probabilities, LEAST)), labels)
    calibrated = measures.ece(probabilities, labels), measures.ece_floor(probabilities)
    selective = measures.aurc(probabilities, labels), measures.error_at_80(probabilities, labels)
    return nll, *calibrated, measures.brier(probabilities, labels), *selective


# Methods and comparisons


def methods(calibration: Calibration) -> pd.DataFrame:
    """Means over the runs of a method (columns METHODS); temperature is the geometric mean."""
    rows = []
    for key, found in calibration.runs.groupby([*WHO, "split", "fitted_on"], sort=False):
        t = math.exp(np.log(found["temperature"]).mean())
        rows.append((*key, len(found), t, *found[SCORES].mean()))
    return in_order(pd.DataFrame(rows, columns=METHODS))


def differences(paired: Paired, calibration: Calibration) -> pd.DataFrame:
    """Paired differences method - reference of each measure over seeds, below 0 is better (columns DIFFERENCES).

    ece is taken less its floor at this number of examples. scaled: "none", "reference" (the method as it is against the
    scaled reference) or "both". The exact test of so many seeds (hypothesis.compare); Holm over the methods of a
    family, for each measure and `scaled`. A seed counts where both of its runs could be measured.
    """
    known = calibration.runs.set_index("run_id")[SCORES]
    known["ece"] -= known["ece_floor"]
    known["ece_scaled"] -= known["ece_floor_scaled"]
    held = set(known.index)
    rows = []
    for family in paired.families:
        members = []
        for c in family:
            ids = [p for p in zip(c.run_ids, c.reference_run_ids, strict=True) if held.issuperset(p)]
            if ids:
                members.append((c, [a for a, _ in ids], [b for _, b in ids]))
        found = {}
        for measure, scaled in product(TESTED, SCALED):
            mine, theirs = (f"{measure}_scaled" if is_scaled else measure for is_scaled in SCALED[scaled])
            both = [pairs(known.loc[a, mine], known.loc[b, theirs]) for _, a, b in members]
            found[measure, scaled] = both, tested(dict(enumerate(both)))
        for i, (c, *_) in enumerate(members):
            head = (c.task, c.model, c.init, c.method, c.setting, c.reference)
            for (measure, scaled), (both, tests) in found.items():
                mean, of_reference = float(both[i].mine.mean()), float(both[i].theirs.mean())
                apart = float(np.round(both[i].differences.mean(), DECIMALS)) + 0.0
                rows.append((*head, measure, scaled, len(both[i].mine), mean, of_reference, apart, *tests[i]))
    return pd.DataFrame(rows, columns=DIFFERENCES)


# Cost


def costs(paired: Paired, runs: pd.DataFrame) -> pd.DataFrame:
    """What the runs of each method cost that logged it (columns COSTS): means, of seconds medians, as a machine that
    held one run up says nothing of the method; `runs` as given to `pair`.

    teacher_seconds: the whole training of the run's teacher (0 without one), though one teacher serves all seeds of a
    task; total_seconds: both, of each run; times_reference: total_seconds over that of all the reference's runs of this
    family. epochs: those asked for; best_epoch: the one whose weights count.
    """
    logged = {"epochs": "params.epochs", "best_epoch": "metrics.best/epoch"}
    logged |= {name: f"metrics.cost/{name}" for name in SECONDS[:2]}
    known = runs.drop_duplicates("run_id").set_index("run_id").reindex(paired.runs["run_id"], columns=logged.values())
    numbers = known.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    table = paired.runs.assign(**dict(zip(logged, numbers.T, strict=True))).dropna(subset=["train_seconds"])
    table = table.fillna({"teacher_seconds": 0.0})
    table["total_seconds"] = table["train_seconds"] + table["teacher_seconds"]
    families = dict(zip(paired.left_out["run_id"], paired.left_out["family"], strict=True))  # of other epochs, perhaps
    families |= {run_id: c.family for c in paired.comparisons for run_id in (*c.run_ids, *c.reference_run_ids)}
    table["family"] = table["run_id"].map(families).fillna("")
    of_reference = table[table["method"] == paired.reference].groupby([*WHO[:3], "family"])["total_seconds"].median()
    rows = []
    for (*key, family), found in table.groupby([*WHO, "family"], sort=False):
        means, seconds = found[["score", "epochs", "best_epoch"]].mean(), found[SECONDS].median()
        times = seconds["total_seconds"] / of_reference.get((*key[:3], family), math.nan)
        rows.append((*key, len(found), *means, *seconds, times))
    return in_order(pd.DataFrame(rows, columns=COSTS))
