"""The runs of an answer as a table, a row a run, and back: `reading.scores_table` gives the same answer from it.

It has whatever a verdict is made of: runs that failed, where seeds stand in time, the plans of studies with margin and
looks. The rest of the rule (level, reference, lower_is_better) is given anew. Beyond task, model, init, method, seed,
score and settings a column is read only where labelreg wrote the table (`marked`): in others `dev` or `data` may be
anything.
"""

import json
from collections.abc import Sequence

import pandas as pd

from analysis import AnalysisError
from analysis.calibration import MEASURED, RELIABILITY, RUNS, Calibration
from analysis.pairing import DEV, LAST_DEV, LAST_REST, LAST_TEST, REST, TEST, Paired, pair
from analysis.plan_check import PARENT
from analysis.predictions import LEFT_OUT
from analysis.students import setting_names
from labelreg.methods import label

REQUIRED = ["task", "model", "init", "method", "seed"]
FINGERPRINT, KIND, PLAN = "tags.labelreg.fingerprint", "tags.labelreg.kind", "plan"
UNNAMED = "unnamed"  # the class of a run that has not learnt, where predictions alone say so
TEXTS = {"status": "status", "start": "start_time", "kind": KIND, "data": "tags.labelreg.data"}
TEXTS |= {name: f"tags.labelreg.{name}" for name in ("one_class", "never_predicted")}
TEXTS |= {"rest_data": "tags.labelreg.rest", "study_name": "tags.labelreg.study"}
TEXTS |= {"teacher": "params.teacher_run_id"}
TEXTS |= {name: f"params.{name}" for name in ("teacher_digest", "teacher_column")}
TEXTS |= {"study": PARENT, "run_id": "run_id", "fingerprint": FINGERPRINT, PLAN: PLAN}
SCORES = {"dev": DEV, "last_dev": LAST_DEV, "test": TEST, "last_test": LAST_TEST, "rest": REST, "last_rest": LAST_REST}
NUMBERS = {name: f"metrics.{score}" for name, score in SCORES.items()} | {"best_epoch": "metrics.best/epoch"}
NUMBERS |= {f"{name}_seconds": f"metrics.cost/{name}_seconds" for name in ("train", "teacher")}
NUMBERS |= {"examples": "examples"} | {name: name for name in MEASURED}
SPLIT = ["split", "fitted_on"]  # of the score and of MEASURED; of its temperature
LOGGED = {"run_id": str, "start": int | float, "digest": str, "tuned": list, "reused": list | None}  # records.plans
RULED = {"margin": int | float | str, "level": int | float, "looks": list}  # plan_check.make_plan
PLACES = TEXTS | NUMBERS | {name: name for name in ("metric", *SPLIT)}  # column -> that of a frame of runs


def table(
    paired: Paired, runs: pd.DataFrame, teachers: pd.DataFrame, plans: Sequence[dict], measured: Calibration | None
) -> pd.DataFrame:
    """A row for each student of `runs` (as given to `pair`) and each of `teachers`, by start, then each study (`plans`:
    as records.plans gives them), with the columns that have a value."""
    if "run_id" not in runs:
        return pd.DataFrame()
    students = runs[runs.get(KIND, pd.Series("", runs.index)).eq("student")]
    others = teachers[~teachers["run_id"].isin(students["run_id"])].assign(**{KIND: "teacher"})
    known = pd.concat([students, others], ignore_index=True)
    known["start_time"] = pd.to_datetime(_column(known, "start_time"), utc=True, errors="coerce")
    known = known.sort_values("start_time", kind="stable", na_position="first", ignore_index=True)
    known["start_time"] = known["start_time"].map(lambda at: None if pd.isna(at) else at.isoformat())
    classes, lost = _column(known, TEXTS["one_class"]), known["run_id"].isin(paired.not_learnt)
    known[TEXTS["one_class"]] = classes.where(classes.notna() | ~lost, UNNAMED)
    if measured is not None:
        known = known.drop(columns=[*SPLIT, *MEASURED], errors="ignore")
        known = known.merge(measured.runs[["run_id", *SPLIT, *MEASURED]], how="left", on="run_id")
    who = {name: _column(known, f"params.{name}").fillna("").astype(str).str.strip() for name in (*REQUIRED, "average")}
    found = who | {"method": pd.Series(map(label, who["method"], who["average"]), known.index, dtype=object)}
    by_task = found["task"].map(dict(zip(paired.runs["task"], paired.runs["metric"], strict=True)))
    found["metric"] = known["run_id"].map(paired.runs.set_index("run_id")["metric"]).fillna(by_task)
    found["score"] = pd.Series(float("nan"), known.index)
    for name in found["metric"].dropna().unique():
        found["score"] = found["score"].where(found["metric"] != name, pd.to_numeric(known[f"metrics.{name}"]))
    places = TEXTS | NUMBERS | {name: name for name in SPLIT} | {name: f"params.{name}" for name in setting_names()}
    found |= {name: known[place] for name, place in places.items() if place in known}
    used = _column(known, "params.precision_used")
    found["precision"] = used.where(used.notna(), _column(known, "params.precision"))
    found["examples"] = known["run_id"].map(dict(paired.examples)).astype("Int64")
    columns = [*REQUIRED, "score", "metric", *NUMBERS, *SPLIT, *setting_names(), *TEXTS]
    result = pd.DataFrame({name: found[name] for name in columns if name in found})
    ids = {*known["run_id"]}
    logged = [
        {"kind": "study", "run_id": plan["run_id"], "fingerprint": plan["digest"], PLAN: _text(plan, ids)}
        for plan in plans
    ]
    if logged:
        result = pd.concat([result, pd.DataFrame(logged)], ignore_index=True)
    empty = [name for name in result.columns[7:] if result[name].replace("", None).isna().all()]
    return result[[name for name in columns if name in result and name not in empty]]


def _column(runs: pd.DataFrame, name: str) -> pd.Series:
    return runs[name] if name in runs else pd.Series(None, runs.index, dtype=object)


def _text(plan: dict, ids: set[str]) -> str:
    """A logged plan as one cell, of what it reuses the runs that the table has: a cell holds 131,072 characters."""
    reused = plan.get("reused")
    return json.dumps(plan | {"reused": reused and [run_id for run_id in reused if run_id in ids]})


def marked(table: pd.DataFrame) -> bool:
    """Whether labelreg wrote this table: it has what ended well, and 32 hex digits as the fingerprint of all of it."""
    ended = _column(table, "status").fillna("").isin(["", "FINISHED"])
    prints = _column(table, "fingerprint").fillna("")
    return bool(ended.any() and prints[ended].str.fullmatch("[0-9a-f]{32}").all())


def metric(runs: pd.DataFrame) -> str | None:
    """The metric that a table's answer is about; None: each task's usual one."""
    if "metric" not in runs:
        return "score"
    named = runs[["params.task", "metric"]].dropna().drop_duplicates()
    usual = pair(runs).runs[["task", "metric"]].drop_duplicates()
    alike = {*named.itertuples(index=False, name=None)} == {*usual.itertuples(index=False, name=None)}
    return None if alike or named.empty else named["metric"].iloc[0]


def with_metrics(runs: pd.DataFrame, scores: pd.Series) -> pd.DataFrame:
    """A frame of a table's runs with each score as the metric that it is of."""
    for name in runs["metric"].dropna().unique():
        mine, column = runs["metric"] == name, f"metrics.{name}"
        runs = runs.assign(**{column: scores.where(mine, _column(runs, column))})
    return runs


def plans(runs: pd.DataFrame) -> list[dict] | None:
    """The logged plans that a table has; None for a table that labelreg did not write.

    Raises:
        AnalysisError: a cell that is no plan.
    """
    if "metric" not in runs:
        return None
    found = []
    for run_id, text in _column(runs.set_index("run_id"), PLAN).dropna().items():
        try:
            logged = json.loads(text)
            cells, seeds = logged["plan"]["cells"], logged["plan"]["seeds"]
            known = all(isinstance(logged[name], kind) for name, kind in LOGGED.items()) and isinstance(seeds, list)
            known = known and isinstance(logged.get("study", ""), str)  # older tables have none
            known = known and all(isinstance(cell, list) and len(cell) == len(REQUIRED) - 1 for cell in cells)
            ruled = {} if logged.get("lost") else RULED
            known = known and all(isinstance(logged["plan"][name], kind) for name, kind in ruled.items())
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise AnalysisError(f"the {PLAN} of run {run_id} is none that labelreg wrote: {text[:60]}")
        found.append(logged)
    return found


def calibration(paired: Paired, runs: pd.DataFrame) -> Calibration | None:
    """What a table says of the calibration of the compared runs; None where it says nothing."""
    if not {*SPLIT, *MEASURED} <= {*runs}:
        return None
    rows = paired.runs[paired.runs["run_id"].isin(paired.compared)].drop(columns=["metric", "score", "start"])
    rows = rows.merge(runs[["run_id", *SPLIT, *MEASURED]], on="run_id").dropna(subset=MEASURED)
    return Calibration(rows[RUNS], pd.DataFrame(columns=RELIABILITY), pd.DataFrame(columns=LEFT_OUT))


def completed(measured: Calibration, paired: Paired, runs: pd.DataFrame) -> Calibration:
    """With what their table said of runs that were restored from one, which left no predictions."""
    kept = calibration(paired, runs)
    if kept is None:
        return measured
    more = kept.runs[~kept.runs["run_id"].isin(measured.runs["run_id"])]
    left = measured.left_out[~measured.left_out["run_id"].isin(more["run_id"])]
    rows = pd.concat([measured.runs, more]) if len(measured.runs) else more
    rows = rows.sort_values("run_id", key=lambda ids: ids.map(paired.compared.index), ignore_index=True)
    return Calibration(rows, measured.reliability, left)
