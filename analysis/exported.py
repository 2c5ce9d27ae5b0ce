"""The runs of an answer as a table, a row a run, and back: `reading.scores_table` gives the same answer from it.

What it says beyond task, model, init, method, seed, score and settings is read only where it has a FINGERPRINT, which
labelreg alone writes: in a table of other people `dev` or `data` may be anything.
"""

import pandas as pd

from analysis.calibration import MEASURED, RELIABILITY, RUNS, Calibration
from analysis.pairing import DEV, REST, TEST, Paired
from analysis.predictions import LEFT_OUT
from analysis.students import PROTOCOL, SHARED, methods_own

WHO = ["task", "model", "init", "method", "seed"]
FINGERPRINT = "fingerprint"
TEXTS = {"data": "tags.labelreg.data", "one_class": "tags.labelreg.one_class", "teacher": "params.teacher_run_id"}
TEXTS |= {FINGERPRINT: "tags.labelreg.fingerprint"}
NUMBERS = {"dev": f"metrics.{DEV}", "test": f"metrics.{TEST}", "rest": f"metrics.{REST}"}
NUMBERS |= {"best_epoch": "metrics.best/epoch", "train_seconds": "metrics.cost/train_seconds"}
NUMBERS |= {"teacher_seconds": "metrics.cost/teacher_seconds", "examples": "examples"}
NUMBERS |= {name: name for name in MEASURED}
SPLIT = ["split", "fitted_on"]  # of the score and of MEASURED; of its temperature
PLACES = TEXTS | NUMBERS | {name: name for name in SPLIT}  # column of the table -> column of a frame of runs


def table(paired: Paired, runs: pd.DataFrame, measured: Calibration | None) -> pd.DataFrame:
    """A row for each usable run of `paired`, with the columns that have a value; `runs` as given to `pair`."""
    rows = paired.runs[["run_id", *WHO, "metric", "score"]]
    known = runs.drop_duplicates("run_id").set_index("run_id").reindex(rows["run_id"])
    used = known.get("params.precision_used")
    found = {name: known[column] for name, column in (TEXTS | NUMBERS).items() if column in known}
    found |= {name: known[f"params.{name}"] for name in settings() if f"params.{name}" in known}
    if used is not None:
        found["precision"] = used.fillna(found["precision"]) if "precision" in found else used
    if measured is not None:
        found |= dict(measured.runs.set_index("run_id")[[*SPLIT, *MEASURED]].reindex(rows["run_id"]))
    if paired.examples:
        found["examples"] = rows["task"].map(paired.examples).set_axis(known.index)
    columns = {name: found[name].to_numpy() for name in (*NUMBERS, *SPLIT, *settings(), *TEXTS) if name in found}
    result = rows.drop(columns=["run_id", "metric"]).reset_index(drop=True).assign(**columns)
    return result.drop(columns=[name for name in columns if result[name].replace("", None).isna().all()])


def settings() -> tuple[str, ...]:
    """What tells the runs of a method apart."""
    return (*PROTOCOL, *SHARED, *methods_own())


def calibration(paired: Paired, runs: pd.DataFrame) -> Calibration | None:
    """What a table says of the calibration of the compared runs; None where it says nothing."""
    if not {*SPLIT, *MEASURED} <= {*runs}:
        return None
    rows = paired.runs[paired.runs["run_id"].isin(paired.compared)].drop(columns=["metric", "score", "start"])
    rows = rows.merge(runs[["run_id", *SPLIT, *MEASURED]], on="run_id").dropna(subset=MEASURED)
    return Calibration(rows[RUNS], pd.DataFrame(columns=RELIABILITY), pd.DataFrame(columns=LEFT_OUT))
