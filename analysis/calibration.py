"""Calibration before and after temperature scaling, and cost, beside the score."""

from dataclasses import dataclass

import pandas as pd

from analysis.pairing import Paired

MEASURES = ("nll", "ece", "brier")
RUNS = [
    *("run_id", "task", "model", "init", "method", "setting", "seed", "split", "fitted_on", "temperature"),
    *("nll", "ece", "brier", "nll_scaled", "ece_scaled", "brier_scaled"),
]
RELIABILITY = ["task", "model", "init", "method", "setting", "scaled", "bin", "n", "confidence", "accuracy"]
METHODS = ["task", "model", "init", "method", "setting", "split", "n", "temperature", *RUNS[10:]]
DIFFERENCES = [
    *("task", "model", "init", "method", "setting", "reference", "measure", "scaled", "n"),
    *("mean_method", "mean_reference", "mean_difference", "estimate", "low", "high", "level"),
    *("p_value", "p_holm", "min_p_value"),
]
COSTS = [
    *("task", "model", "init", "method", "setting", "n", "score", "epochs", "best_epoch"),
    *("train_seconds", "teacher_seconds", "total_seconds", "times_reference"),
]


@dataclass(frozen=True, eq=False)
class Calibration:
    """runs: columns RUNS; reliability: columns RELIABILITY, bins of equal mass over all seeds of a method;
    left_out: columns run_id, task, model, init, method, seed, reason."""

    runs: pd.DataFrame
    reliability: pd.DataFrame
    left_out: pd.DataFrame


def calibrate(paired: Paired, predictions) -> Calibration:
    """NLL (nats), ECE (15 bins of equal mass) and Brier of each run, before and after temperature scaling fitted
    on dev (on the other half of dev where the score is dev's)."""
    raise NotImplementedError


def methods(calibration: Calibration) -> pd.DataFrame:
    """Means over the runs of a method (columns METHODS)."""
    raise NotImplementedError


def differences(paired: Paired, calibration: Calibration) -> pd.DataFrame:
    """Paired differences method - reference of each measure, lower is better (columns DIFFERENCES); scaled is
    "none", "reference" (the method as it is against the scaled reference) or "both"."""
    raise NotImplementedError


def costs(paired: Paired, runs: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds and epochs per method (columns COSTS); `runs` as given to `pair`. times_reference: total_seconds
    over the reference's."""
    raise NotImplementedError


def lines(table: pd.DataFrame) -> list[str]:
    """What `differences` say of each method, in sentences: does it still help when the reference is scaled?"""
    raise NotImplementedError
