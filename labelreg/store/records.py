"""Runs read back for analysis, many at a time: frames, histories, predictions, plans; and their summaries."""

import errno
import json
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri
from pyarrow import BufferReader
from pyarrow.parquet import ParquetFile

from labelreg.errors import UserError, told
from labelreg.output import words_of
from labelreg.store import logged, patience, tracking
from labelreg.store.patience import client, patiently
from labelreg.store.tracking import FINGERPRINT, KIND, NOTE, PLAN, STUDY, TUNED, VERDICT
from labelreg.whole import digest

Columns = dict[str, np.ndarray]

AT_ONCE, MOST_POINTS = 500, 1_000_000  # runs of one query, values of one answer
DOWNLOADS = 8  # at a time; a server answers several as fast as one


def frame(experiment: str | None, where: str | None = None) -> pd.DataFrame:
    """The runs of an experiment (None: of all) as mlflow.search_runs gives them, parameters unquoted.

    Raises:
        UserError: a filter that MLflow does not understand.
    """
    try:
        runs = patiently(
            lambda _: mlflow.search_runs(
                [experiment] if experiment else tracking.experiments(), filter_string=where or ""
            )
        )
    except MlflowException as error:
        way = "a run's parameters are params.NAME, their values in quotes: -P \"where=params.task='reviews'\""
        raise UserError(f"where={where}: {words_of(error).rstrip('.')}; {way}") from None
    for column in runs.columns:
        if column.startswith("params."):
            runs[column] = [logged.unquoted(value) if isinstance(value, str) else value for value in runs[column]]
    return runs.rename(columns=_as_in_tables)


def _as_in_tables(column: str) -> str:
    """What a restored run has of its table (restoring.py) has there the name that it has in a table's frame."""
    return column.removeprefix(f"metrics.{tracking.EXPORTED}").removeprefix(f"tags.{tracking.EXPORTED_TAG}")


def these(run_ids: Sequence[str]) -> pd.DataFrame:
    """The runs of these ids, whatever their experiments, as `frame` gives them."""
    parts = [run_ids[i : i + AT_ONCE] for i in range(0, len(run_ids), AT_ONCE)] or [[""]]
    told = [f"attributes.run_id IN ({', '.join(map(repr, part))})" for part in parts]
    return pd.concat([frame(None, each) for each in told], ignore_index=True)


def failed(study: str) -> pd.DataFrame:
    """The students of a study's run that ended in an error, as `frame` gives them."""
    return frame(None, f"attributes.status = 'FAILED' and {tracking.tagged({KIND: 'student', tracking.PARENT: study})}")


def place(run_id: str) -> str:
    """Where the artifacts of a run lie: a folder, or the address of a server's store."""
    uri = tracking.get(run_id).info.artifact_uri
    return str(local_file_uri_to_path(uri)) if is_local_uri(uri) else uri


def download(run_id: str, path: str, target: Path) -> Path:
    """An artifact of a run as a local file.

    Raises:
        UserError: the run has no such artifact, or it may not be read.
    """
    target.mkdir(parents=True, exist_ok=True)
    try:
        return Path(patience.moving(patience.artifacts_of(run_id).download_artifacts, path, str(target)))
    except PermissionError as error:
        raise UserError(f"run {run_id}: artifact {path}: {told(error).line}") from error
    except (MlflowException, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 404)  # of a server
        if getattr(error, "errno", None) not in (None, errno.ENOENT) or status != 404:
            raise
        raise UserError(f"run {run_id} has no artifact {path}") from error


def predictions(runs: pd.DataFrame, ahead: Collection[str] = ()) -> Callable[[str, str], Columns | None]:
    """How to read `predictions/<split>.parquet` of a run of `runs` (a frame) by its id, as arrays by column; None
    where it has none.

    A local store is read in place. A server's files are downloaded once per run, into a folder that goes with the
    reader: at the first question, or now, several at a time, for the runs in `ahead`. What the store does not give is
    an OSError when it is read.
    """
    places = dict(zip(runs["run_id"], runs["artifact_uri"], strict=True)) if len(runs) else {}
    kept = Path(tempfile.mkdtemp(prefix="labelreg-predictions-"))

    @cache
    def folder(run_id: str) -> Path | OSError | None:
        if is_local_uri(places[run_id]):
            return Path(local_file_uri_to_path(places[run_id])) / "predictions"
        try:
            return download(run_id, "predictions", kept / run_id)
        except UserError as error:
            why = error.__cause__ or error
        try:
            held = patiently(MlflowClient.list_artifacts, run_id)
        except (MlflowException, OSError, ImportError) as error:
            return OSError(words_of(error))
        return OSError(words_of(why)) if "predictions" in {file.path for file in held} else None

    def read(run_id: str, split: str) -> Columns | None:
        held = folder(run_id)
        if isinstance(held, OSError):
            raise held
        path = held and held / f"{split}.parquet"
        if not path or not path.is_file():
            return None
        table = ParquetFile(BufferReader(path.read_bytes())).read(use_threads=False)  # pandas takes three times as long
        return {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}

    weakref.finalize(read, shutil.rmtree, kept, ignore_errors=True)
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        list(pool.map(folder, ahead))
    return read


def histories(run_ids: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Every value of these metrics: columns run_id, name, step, value; of a step's values the newest.

    One query per metric and AT_ONCE runs where the store is a database, else one per metric and run.
    """
    bulk = getattr(client()._tracking_client.store, "get_metric_history_bulk", None)
    if bulk:
        parts = [run_ids[start : start + AT_ONCE] for start in range(0, len(run_ids), AT_ONCE)]
        rows = [
            (point.run_id, point.key, point.step, point.value, point.timestamp)
            for name in names
            for part in parts
            for point in patiently(lambda _, *asked: bulk(*asked), part, name, MOST_POINTS)
        ]
    else:
        wanted = [(run_id, name) for run_id in run_ids for name in names]
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            answers = list(pool.map(lambda pair: patiently(MlflowClient.get_metric_history, *pair), wanted))
        rows = [
            (run_id, name, point.step, point.value, point.timestamp)
            for (run_id, name), points in zip(wanted, answers, strict=True)
            for point in points
        ]
    frame = pd.DataFrame(rows, columns=["run_id", "name", "step", "value", "timestamp"])
    frame = frame.sort_values("timestamp", kind="stable").drop_duplicates(["run_id", "name", "step"], keep="last")
    return frame.drop(columns="timestamp").sort_values(["run_id", "name", "step"]).reset_index(drop=True)


def status(run_id: str) -> str | None:
    """A run's status, `deleted` where it was deleted, or None where this store does not know it."""
    try:
        info = patiently(MlflowClient.get_run, run_id).info
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return info.status if info.lifecycle_stage == "active" else "deleted"


def plans(studies: Collection[str], run_ids: Collection[str]) -> list[dict]:
    """Plans that studies logged, of studies by name or run id, newest first.

    Each has run_id, study (its name), start (seconds), digest (the tag), tuned (seeds that its settings were tuned on),
    plan (of plan.json), reused (ids of the runs that it found done; None: logged before plans named them) and lost: why
    that cannot be read (its plan then has no cells), or nothing.
    """
    read = []
    for run in _studies():
        tags = run.data.tags
        if PLAN in tags and (run.info.run_id in run_ids or tags.get(STUDY) in studies):
            plan, lost = _plan(run.info.run_id)
            tuned = [int(seed) for seed in tags.get(TUNED, "").split(",") if seed.isdecimal()]
            read.append({
                "run_id": run.info.run_id, "study": tags.get(STUDY, ""), "start": run.info.start_time / 1000,
                "digest": tags[PLAN], "tuned": tuned,
                "reused": plan.pop("reused", None), "plan": plan, "lost": lost,
            })  # fmt: skip
    return read


def _plan(run_id: str) -> tuple[dict, str]:
    """What plan.json of a run holds, and why it cannot be read: the scores are in the database all the same."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            plan = json.loads(download(run_id, "plan.json", Path(folder)).read_bytes())
            if isinstance(plan["cells"], list) and isinstance(plan["seeds"], list):
                return plan, ""
            why = "no plan"
        except UserError as error:
            why = str(error)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            why = f"{type(error).__name__}: {words_of(error)}"
    return {"cells": [], "seeds": []}, why


def summarise(summaries: Sequence[Mapping], parents: Mapping[str, str], beside: tracking.Run, key: str = "") -> None:
    """One finished run per summary: nested under the newest study of its runs, else under `beside`; made once.

    A summary has `params`, `metrics` (logged as summary/<name>, unbounded ones not), `verdict`, `line` and
    `run_ids`, whose parents are `parents`. One that exists for the same study, `key` and params is brought up to
    date, and finished where a kill left it half done; where it holds a number that there is no longer, it is replaced.
    """
    studies = _studies()
    held: dict[str | None, list] = {}  # by fingerprint: finished ones first, then by age
    for run in sorted(
        tracking.search(tracking.tagged({KIND: "summary"})), key=lambda run: run.info.status != "FINISHED"
    ):
        held.setdefault(run.data.tags.get(FINGERPRINT), []).append(run)
    here = tracking.get(beside.run_id)
    for summary in summaries:
        above = {parents.get(run_id) for run_id in summary["run_ids"]} | {beside.run_id}
        study = next((run for run in studies if run.info.run_id in above), None)
        params = {name: logged.plain(value) for name, value in summary["params"].items()}
        told = [study.info.run_id if study else here.info.experiment_id, key, *sorted(params.items())]
        fingerprint = digest(json.dumps(told))
        _keep_summary(summary, params, fingerprint, study or here, held.get(fingerprint, []))


def _studies() -> list["mlflow.entities.Run"]:
    """The studies of the store, newest first, whatever their status."""
    return tracking.search(tracking.tagged({KIND: "study"}), "DESC")


def _keep_summary(
    summary: Mapping, params: dict[str, str], fingerprint: str, parent: "mlflow.entities.Run", there: list
) -> None:
    metrics = {f"summary/{name}": float(v) for name, v in summary["metrics"].items() if abs(v) < float("inf")}
    tags = {KIND: "summary", FINGERPRINT: fingerprint, NOTE: summary["line"]}
    tags |= {VERDICT: summary["verdict"]} if summary["verdict"] else {}
    tags |= {STUDY: parent.data.tags[STUDY]} if STUDY in parent.data.tags else {}
    fitting = [run for run in there if set(run.data.metrics) <= set(metrics)]
    for run in there:
        if run not in fitting[:1]:  # a number that there is no longer, or twice: two commands made it at once
            tracking.delete(run.info.run_id)
    if fitting:
        made, now_there = fitting[0].info.run_id, fitting[0].data
    else:
        name = " ".join(params[part] for part in ("task", "model", "init", "method", "setting") if part in params)
        made = tracking.create(f"summary {name}", parent.info.run_id, parent.info.experiment_id, tags)
        now_there = tracking.get(made).data
    metrics = {name: value for name, value in metrics.items() if now_there.metrics.get(name) != value}
    tags = {name: value for name, value in tags.items() if now_there.tags.get(name) != value}
    params = {name: value for name, value in params.items() if name not in now_there.params}
    if metrics or tags or params:
        now = int(time.time() * 1000)
        points = [Metric(name, value, now, 0) for name, value in metrics.items()]
        logged = [Param(name, value) for name, value in params.items()]
        told = [RunTag(name, value) for name, value in tags.items()]
        patiently(MlflowClient.log_batch, made, points, logged, told)
    if not fitting or fitting[0].info.status != "FINISHED":
        patiently(MlflowClient.set_terminated, made, "FINISHED")
