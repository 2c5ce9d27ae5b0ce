"""Two sources of chance, seeds and test examples: an interval for new seeds and new examples."""

import pandas as pd

from analysis.pairing import Paired

COLUMNS = [
    *("task", "model", "init", "family", "method", "setting", "reference", "metric"),
    *("score", "split", "design", "n_seeds", "n_examples", "difference", "low", "high", "level", "se"),
    *("share_seeds", "share_examples", "share_both", "dominates"),
    *("only_method", "only_reference", "p_mcnemar"),
]
LEFT_OUT = ["run_id", "task", "model", "init", "method", "seed", "reason"]


def bootstrap(
    paired: Paired, predictions, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per comparison (COLUMNS) whose runs have predictions, and the runs left out (LEFT_OUT).

    score: accuracy, f1 or matthews, recomputed per resample. design: "crossed" (seeds x examples), "nested" (examples
    within seed, where they differ between seeds) or "one seed" (examples alone, with McNemar's exact test in
    p_mcnemar, missing otherwise). difference: mean over seeds in points, higher is better; low, high, se: for new
    seeds and new examples. share_*: shares of the variance of that mean (they sum to 1; share_both is the
    interaction, missing when nested); dominates: "seeds", "examples", "both" or "" (no variance).
    only_method, only_reference: (example, seed) pairs that only one of the two got right.
    """
    raise NotImplementedError


def lines(table: pd.DataFrame) -> list[str]:
    """One sentence per row of `bootstrap`."""
    raise NotImplementedError
