"""Exported scores back into a store, so that a study goes on where its store is lost: `mlflow run . -e restore`.

scores.csv of significance has what verdicts and the list of a study's finished runs are made of; it has neither weights
nor logits nor predictions. So a student counts as done, and a teacher that is still needed is trained again.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import exported, reading
from analysis.calibration import MEASURED
from labelreg.errors import UserError
from labelreg.methods import parted
from labelreg.parameter import Value
from labelreg.settings import RUN
from labelreg.store import tracking, views

TEACHER, STUDY, REST = (exported.TEXTS[name] for name in ("teacher", "study_name", "rest_data"))
ENDED = "FINISHED"
AGAIN = "restored_teacher"  # the kind of one: readers of teachers look for weights and logits


def restore(given: dict[str, Value]) -> None:
    """Make a finished run of each student, teacher and study of a table that this store does not have.

    Raises:
        UserError: no csv, or one that labelreg did not write.
    """
    if not given.get("csv"):
        raise UserError("csv: the table to restore is needed, scores.csv of significance (-P csv=results/scores.csv)")
    path = Path(str(given["csv"]))
    rows, _ = reading.scores_table(path)
    plans = exported.plans(rows)
    if plans is None:
        raise UserError(f"csv={path}: labelreg did not write this table; {RUN} -e significance -P csv={path} reads it")
    tracking.connect()
    with tracking.open_run("restore", f"restore {path.name}") as run:
        run.params({"csv": str(path)})
        told = _Restored(tracking.get(run.run_id).info.experiment_id).table(rows, plans)
        run.note(told)
    print(f"{path.name}: {told}", flush=True)
    views.tell("methods", tracking.current_experiment())


class _Restored:
    """What has become of a table's runs: by their ids there, the ids of those that stand for them in this store."""

    def __init__(self, experiment: str):
        self.experiment = experiment
        self.ids: dict[str, str] = {}
        self.trained: dict[tuple, str] = {}  # by fingerprint and rest: what is there without a table
        for found in tracking.search(tracking.tagged({tracking.KIND: "student"})):
            tags = found.data.tags
            if tracking.RESTORED not in tags and found.info.status == ENDED:
                self.trained[tags.get(tracking.FINGERPRINT), tags.get(tracking.REST)] = found.info.run_id

    def table(self, rows: pd.DataFrame, plans: list[dict]) -> str:
        """Restore all that ended, in an order in which each finds the runs that it names; what was done, in words."""
        ended = rows["status"].eq(ENDED) if "status" in rows else pd.Series(True, rows.index)
        runs = [{name: value for name, value in row.items() if not pd.isna(value)} for row in rows.to_dict("records")]
        names = {run.get(exported.PARENT): run[STUDY] for run in runs if STUDY in run}
        only = next(iter(names.values())) if len(set(names.values())) == 1 else ""  # of pilots, which left no runs here
        before = self._there()
        for logged in plans:
            self._study(logged, logged.get("study") or names.get(logged["run_id"], only), before)
        made = {"teacher": 0, "student": 0}
        for kind in made:
            for run, whole in zip(runs, ended, strict=True):
                if whole and run[exported.KIND] == kind:
                    made[kind] += self._run(run, kind, before)
        for logged in plans:
            self._plan(logged)
        failed = int((~ended & rows[exported.KIND].ne("study")).sum())
        there = sum(rows[exported.KIND].eq("student") & ended) - made["student"]
        told = f"{made['student']} students restored, {there} were there, {made['teacher']} teachers for their scores"
        unsure = sum(exported.NUMBERS["rest"] in run and REST not in run for run in runs)
        lacks = f"; {unsure} have a rest score, but no rest_data (an older table): a study runs them again"
        return told + (f"; {failed} runs that did not end are left out" if failed else "") + (lacks if unsure else "")

    def _there(self) -> dict[str, str]:
        """What an earlier restore has made, and what stands for itself in a table of this store; a run that was left
        half made is made anew, a study is gone on with: runs that were made already are its own."""
        there: dict[str, str] = {}
        for kind in ("student", "teacher", AGAIN, "study"):
            for found in tracking.search(tracking.tagged({tracking.KIND: kind})):
                was, whole = found.data.tags.get(tracking.RESTORED), found.info.status == ENDED or kind == "study"
                if was and not whole:
                    tracking.delete(found.info.run_id)
                elif whole:
                    there |= {each: found.info.run_id for each in (was, found.info.run_id) if each}
        return there

    def _study(self, logged: Mapping, name: str, before: Mapping[str, str]) -> None:
        tags = {tracking.KIND: "study", tracking.PLAN: logged["digest"]} | ({tracking.STUDY: name} if name else {})
        if logged["tuned"]:
            tags[tracking.TUNED] = ",".join(map(str, logged["tuned"]))
        self._made(logged["run_id"], f"study {name}".strip(), logged["start"], tags, before)

    def _plan(self, logged: Mapping) -> None:
        """plan.json, of what it reused the runs that stand for them; then the study's run is whole."""
        run_id = self.ids[logged["run_id"]]
        if run_id == logged["run_id"] or tracking.get(run_id).info.status == ENDED:
            return
        reused = logged["reused"] and [self.ids[each] for each in logged["reused"] if each in self.ids]
        if not logged.get("lost"):
            with tempfile.TemporaryDirectory() as folder:
                text = json.dumps(logged["plan"] | {"reused": reused}, indent=1)
                Path(folder, "plan.json").write_text(text, encoding="utf-8")
                tracking.Run(run_id).folder(Path(folder))
        tracking.end_run(run_id, ENDED)

    def _run(self, run: Mapping, kind: str, before: Mapping[str, str]) -> bool:
        """Whether it was made now."""
        was = str(run["run_id"])
        twin = self.trained.get((run[exported.FINGERPRINT], run.get(REST)))
        if kind == "student" and twin:
            self.ids[was] = twin
            return False
        params, metrics, tags = _kept(run)
        if TEACHER in run:
            params["teacher_run_id"] = ",".join(self.ids.get(each, each) for each in run[TEACHER].split(","))
        tags |= {tracking.KIND: AGAIN if kind == "teacher" else kind}
        above = self.ids.get(str(run.get(exported.PARENT)))
        name = " ".join([*(params[each] for each in ("task", "model", "init", "method")), f"seed={params['seed']}"])
        start = run["start_time"].timestamp() if "start_time" in run else 0.0
        if not self._made(was, name, start, tags, before, above):
            return False
        made = tracking.Run(self.ids[was])
        made.params(params)
        made.metrics(metrics)
        tracking.end_run(made.run_id, ENDED)
        return True

    def _made(
        self,
        was: str,
        name: str,
        start: float,
        tags: Mapping[str, str],
        before: Mapping[str, str],
        above: str | None = None,
    ) -> bool:
        """The run that stands for `was`: whether it is new. Its start is that of the run, so that order is kept."""
        if was in before:
            self.ids[was] = before[was]
            return False
        own = dict(tags) | {tracking.RESTORED: was}
        self.ids[was] = tracking.create(name, above, self.experiment, own, began=int(start * 1000))
        return True


def _kept(run: Mapping) -> tuple[dict[str, str], dict[str, float], dict[str, str]]:
    """Parameters, metrics and tags of a row, in the words of the contract."""
    parts: dict[str, dict[str, Any]] = {kind: {} for kind in ("params", "metrics", "tags")}
    for column, value in run.items():
        kind, _, name = column.partition(".")
        if name and kind in parts and value != "":  # an empty cell is a parameter that the run had not
            parts[kind][name] = float(value) if kind == "metrics" else str(value)
    params, metrics, tags = parts.values()
    params["method"], average = parted(params["method"])
    params |= {} if average == "none" else {"average": average}
    metrics |= {f"{tracking.EXPORTED}{name}": float(run[name]) for name in ("examples", *MEASURED) if name in run}
    tags |= {f"{tracking.EXPORTED_TAG}{name}": str(run[name]) for name in exported.SPLIT if name in run}
    tags.pop(tracking.PARENT, None)
    return params, metrics, tags
