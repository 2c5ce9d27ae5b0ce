"""Runs read back for analysis, many at a time: frames, histories, predictions, plans; and their summaries."""

import hashlib
import json
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from labelreg import logged, patience, tracking
from labelreg.calls import client, patiently
from labelreg.errors import UserError
from labelreg.tracking import FINGERPRINT, KIND, NOTE, PLAN, STUDY, TUNED, VERDICT

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Columns = dict[str, "np.ndarray"]

AT_ONCE, MOST_POINTS = 500, 1_000_000  # runs of one query, values of one answer
DOWNLOADS = 8  # at a time; a server answers several as fast as one


def frame(experiment: str | None, where: str | None = None) -> "pd.DataFrame":
    """The runs of an experiment (None: of all) as mlflow.search_runs gives them, parameters unquoted.

    Raises:
        UserError: a filter that MLflow does not understand.
    """
    try:
        runs = patiently(
            lambda: mlflow.search_runs(
                [experiment] if experiment else tracking.experiments(), filter_string=where or ""
            )
        )
    except MlflowException as error:
        raise UserError(f"where={where}: {' '.join(str(error).split())[:200]}") from None
    for column in runs.columns:
        if column.startswith("params."):
            runs[column] = [logged.unquoted(value) if isinstance(value, str) else value for value in runs[column]]
    return runs


def predictions(runs: "pd.DataFrame", ahead: Collection[str] = ()) -> Callable[[str, str], Columns | None]:
    """How to read `predictions/<split>.parquet` of a run of `runs` (a frame) by its id, as arrays by column; None
    where it has none.

    A local store is read in place. A server's files are downloaded once per run, into a folder that goes with the
    reader: at the first question, or now, several at a time, for the runs in `ahead`. What the store does not give is
    an OSError when it is read.
    """
    from pyarrow import BufferReader
    from pyarrow.parquet import ParquetFile

    places = dict(zip(runs["run_id"], runs["artifact_uri"], strict=True)) if len(runs) else {}
    kept = Path(tempfile.mkdtemp(prefix="labelreg-predictions-"))

    @cache
    def folder(run_id: str) -> Path | OSError | None:
        if is_local_uri(places[run_id]):
            return Path(local_file_uri_to_path(places[run_id])) / "predictions"
        try:
            return tracking.download(run_id, "predictions", kept / run_id)
        except UserError as error:
            why = error.__cause__ or error
        try:
            held = patiently(lambda: client().list_artifacts(run_id))
        except (MlflowException, OSError, ImportError) as error:
            return OSError(patience.one_line(error))
        return OSError(patience.one_line(why)) if "predictions" in {file.path for file in held} else None

    def read(run_id: str, split: str) -> Columns | None:
        found = folder(run_id)
        if isinstance(found, OSError):
            raise found
        path = found and found / f"{split}.parquet"
        if not path or not path.is_file():
            return None
        table = ParquetFile(BufferReader(path.read_bytes())).read(use_threads=False)  # pandas takes three times as long
        return {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}

    weakref.finalize(read, shutil.rmtree, kept, ignore_errors=True)
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        list(pool.map(folder, ahead))
    return read


def histories(run_ids: Sequence[str], names: Sequence[str]) -> "pd.DataFrame":
    """Every value of these metrics: columns run_id, name, step, value; of a step's values the newest.

    One query per metric and AT_ONCE runs where the store is a database, else one per metric and run.
    """
    import pandas as pd

    store = client()._tracking_client.store
    if hasattr(store, "get_metric_history_bulk"):
        parts = [run_ids[start : start + AT_ONCE] for start in range(0, len(run_ids), AT_ONCE)]
        found = [
            (point.run_id, point.key, point.step, point.value, point.timestamp)
            for name in names
            for part in parts
            for point in patiently(partial(store.get_metric_history_bulk, part, name, MOST_POINTS))
        ]
    else:
        wanted = [(run_id, name) for run_id in run_ids for name in names]
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            answers = list(pool.map(lambda pair: patiently(partial(client().get_metric_history, *pair)), wanted))
        found = [
            (run_id, name, point.step, point.value, point.timestamp)
            for (run_id, name), points in zip(wanted, answers, strict=True)
            for point in points
        ]
    frame = pd.DataFrame(found, columns=["run_id", "name", "step", "value", "timestamp"])
    frame = frame.sort_values("timestamp", kind="stable").drop_duplicates(["run_id", "name", "step"], keep="last")
    return frame.drop(columns="timestamp").sort_values(["run_id", "name", "step"]).reset_index(drop=True)


def plans(studies: Collection[str], run_ids: Collection[str]) -> list[dict]:
    """Plans that studies logged, of studies by name or run id, newest first.

    Each has run_id, start (seconds), digest (the tag), tuned (seeds that its settings were tuned on) and plan (of
    plan.json).
    """
    read = []
    for run in _studies():
        tags = run.data.tags
        if PLAN in tags and (run.info.run_id in run_ids or tags.get(STUDY) in studies):
            with tempfile.TemporaryDirectory() as folder:
                text = tracking.download(run.info.run_id, "plan.json", Path(folder)).read_text(encoding="utf-8")
            found = {"run_id": run.info.run_id, "start": run.info.start_time / 1000, "digest": tags[PLAN]}
            tuned = [int(seed) for seed in tags.get(TUNED, "").split(",") if seed]
            read.append(found | {"tuned": tuned, "plan": json.loads(text)})
    return read


def summarise(summaries: Sequence[Mapping], parents: Mapping[str, str], beside: tracking.Run, key: str = "") -> None:
    """One finished run per summary: nested under the newest study of its runs, else under `beside`; made once.

    A summary has `params`, `metrics` (logged as summary/<name>, unbounded ones not), `verdict`, `line` and
    `run_ids`, whose parents are `parents`. One that exists for the same study, `key` and params is brought up to
    date; where it holds a number that there is no longer, it is replaced.
    """
    studies = _studies()
    held = {run.data.tags.get(FINGERPRINT): run for run in tracking.find(tracking.tagged({KIND: "summary"}))}
    here = tracking.get(beside.run_id)
    for summary in summaries:
        above = {parents.get(run_id) for run_id in summary["run_ids"]} | {beside.run_id}
        study = next((run for run in studies if run.info.run_id in above), None)
        params = {name: logged.plain(value) for name, value in summary["params"].items()}
        told = [study.info.run_id if study else here.info.experiment_id, key, *sorted(params.items())]
        fingerprint = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]
        _keep_summary(summary, params, fingerprint, study or here, held.get(fingerprint))


def _studies() -> list["mlflow.entities.Run"]:
    """The studies of the store, newest first, whatever their status."""
    newest, where = ["attributes.start_time DESC"], tracking.tagged({KIND: "study"})
    return patiently(lambda: mlflow.search_runs(tracking.experiments(), where, order_by=newest, output_format="list"))


def _keep_summary(summary: Mapping, params: dict[str, str], fingerprint: str, parent, held) -> None:
    metrics = {f"summary/{name}": float(v) for name, v in summary["metrics"].items() if abs(v) < float("inf")}
    tags = {KIND: "summary", FINGERPRINT: fingerprint, NOTE: summary["line"]}
    tags |= {VERDICT: summary["verdict"]} if summary["verdict"] else {}
    tags |= {STUDY: parent.data.tags[STUDY]} if STUDY in parent.data.tags else {}
    if held and not set(held.data.metrics) <= set(metrics):
        patiently(lambda: client().delete_run(held.info.run_id))
        held = None
    if held:
        metrics = {name: value for name, value in metrics.items() if held.data.metrics.get(name) != value}
        tags = {name: value for name, value in tags.items() if held.data.tags.get(name) != value}
        if metrics or tags:
            tracking.Run(held.info.run_id).metrics(metrics)
            tracking.Run(held.info.run_id).tags(tags)
        return
    name = " ".join(params[part] for part in ("task", "model", "init", "method", "setting") if part in params)
    made = tracking.create(f"summary {name}", parent.info.run_id, parent.info.experiment_id, tags)
    now = int(time.time() * 1000)
    points = [Metric(name, value, now, 0) for name, value in metrics.items()]
    logged = [Param(name, value) for name, value in params.items()]
    patiently(lambda: client().log_batch(made, metrics=points, params=logged))
    patiently(lambda: client().set_terminated(made, "FINISHED"))
