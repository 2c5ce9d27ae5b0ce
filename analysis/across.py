"""Across tasks, across initialisations, and what pairing saves."""

from dataclasses import dataclass

import pandas as pd

from analysis.pairing import Paired

MEANS = ["model", "init", "metric", "task", "method", "n", "mean"]
FRIEDMAN = ["model", "init", "metric", "n_tasks", "n_methods", "chi2", "f", "df1", "df2", "p_value", "note"]
AGAINST = [
    *("model", "init", "metric", "method", "reference", "n_tasks", "tasks", "mean_difference"),
    *("estimate", "low", "high", "level", "p_value", "p_holm", "min_p_value", "min_p_holm"),
    *("effect", "effect_low", "effect_high", "tau", "n_effect", "note"),
]
INTERACTION = [
    *("task", "model", "method", "setting", "reference", "metric", "n", "mean_pretrained", "mean_random"),
    *("mean_interaction", "std_interaction", "estimate", "low", "high", "level"),
    *("p_value", "p_holm", "min_p_value", "rank_biserial"),
]
PAIRING = [
    *("task", "model", "init", "method", "setting", "reference", "metric", "n"),
    *("std_method", "std_reference", "std_difference", "correlation", "low", "high"),
    *("unpaired_seeds", "saved_seeds"),
]


@dataclass(frozen=True, eq=False)
class Ranks:
    """Input of scikit_posthocs.critical_difference_diagram(mean_ranks, p_values): rank 1 is best."""

    model: str
    init: str
    metric: str
    n_tasks: int
    mean_ranks: pd.Series
    p_values: pd.DataFrame


def one_metric(runs: pd.DataFrame, paired: Paired) -> Paired:
    """`paired`, or, where its tasks have several metrics, the same runs paired again on best/dev/score."""
    raise NotImplementedError


def task_means(paired: Paired) -> pd.DataFrame:
    """Mean score over the seeds that all methods of a task share (columns MEANS), one row per task and method."""
    raise NotImplementedError


def friedman(paired: Paired) -> pd.DataFrame:
    """Friedman's test over task means with Iman and Davenport's F (columns FRIEDMAN), per model and init."""
    raise NotImplementedError


def against_reference(paired: Paired) -> pd.DataFrame:
    """Each method against the reference over tasks (columns AGAINST): exact Wilcoxon over mean differences per
    task with Holm and its floor, and the random-effects mean `effect` with its interval and tau, the standard
    deviation between tasks."""
    raise NotImplementedError


def ranks(paired: Paired) -> list[Ranks]:
    """Data of the critical-difference diagram, per model, init and metric."""
    raise NotImplementedError


def interaction(paired: Paired) -> pd.DataFrame:
    """(method - reference | random) - (method - reference | pretrained) per seed (columns INTERACTION), Holm
    within a task and model."""
    raise NotImplementedError


def pairing_gain(paired: Paired) -> pd.DataFrame:
    """Correlation of both scores over seeds, and the unpaired seeds per method that would be as exact as the n
    paired ones (columns PAIRING)."""
    raise NotImplementedError
