"""The only file that talks to MLflow: opening runs, writing the contract's names, reading runs back.

Every call goes through `_patiently`: a SQLite store takes one writer at a time, and a server may be away for minutes.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import shlex
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from labelreg import patience
from labelreg.errors import DivergedError, IncompleteError, StoreLostError, UserError, unknown
from labelreg.parameters import Value
from labelreg.patience import Point, Result, Spool

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # its retries (4 minutes a call) would stop the training
import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

# "creating initial tables" is no news, and a locked database is tried again
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

if TYPE_CHECKING:
    import pandas as pd

KIND, FINGERPRINT, STUDY, DATA = "labelreg.kind", "labelreg.fingerprint", "labelreg.study", "labelreg.data"
CONTINUED, PLAN, VERDICT, PARENT = "labelreg.continued_in", "labelreg.plan", "labelreg.verdict", "mlflow.parentRunId"
NOTE = "mlflow.note.content"
AT_ONCE, MOST_POINTS = 500, 1_000_000  # runs of one query, values of one answer
DOWNLOADS = 8  # at a time; a server answers several as fast as one
ANSWER_SECONDS = 10  # a tracking server that does not answer within this time is not there


@dataclass(frozen=True)
class Run:
    """An open run. Every write goes through here, by name of the contract."""

    run_id: str
    held: frozenset[tuple[str, int]] = frozenset()  # (metric, step) that a continued run has already
    spool: Spool | None = None  # where metrics wait; without one a call waits

    def params(self, values: Mapping[str, Value]) -> None:
        """Log what the run does not hold yet; what `mlflow run` logged (shell-quoted) is compared by value."""
        held = _patiently(lambda: _client().get_run(self.run_id)).data.params
        missing = {name: plain(value) for name, value in values.items() if value is not None and name not in held}
        for name in set(values) & set(held):
            if values[name] is not None and not same(held[name], plain(values[name])):
                raise UserError(
                    f"{name}={unquoted(held[name])}: the run uses {plain(values[name])}; give that, or leave it out"
                )
        self._log(params=[Param(name, value) for name, value in missing.items()])

    def tags(self, values: Mapping[str, str]) -> None:
        self._log(tags=[RunTag(name, value) for name, value in values.items()])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log finite numbers in one batch; an unbounded or missing value is not logged.

        Raises:
            StoreLostError: the store has been away for longer than `patience.limit()`.
        """
        now = int(time.time() * 1000)
        values = {name: value for name, value in values.items() if (name, step) not in self.held}
        points = [
            (name, float(value), now, step)
            for name, value in values.items()
            if value is not None and abs(value) < float("inf")
        ]
        if self.spool:
            self.spool.put(points)
        else:
            _patiently(lambda: _deliver(self.run_id, points))

    def folder(self, local: Path, path: str | None = None) -> None:
        """Store a folder's files as artifacts."""
        _patiently(lambda: _client().log_artifacts(self.run_id, str(local), path))

    def data(self, name: str, digest: str, source: str) -> None:
        """Name the data set in MLflow's own way, with labelreg's digest of all examples."""
        dataset = Dataset(name, digest, "labelreg", json.dumps({"source": source}))
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        try:
            _patiently(lambda: _client().log_inputs(self.run_id, inputs))
        except MlflowException:  # another worker has just registered the same data set; it is there now
            _patiently(lambda: _client().log_inputs(self.run_id, inputs))
        self.tags({DATA: digest})

    def note(self, line: str) -> None:
        self.tags({NOTE: line})

    def _log(self, **batch: list) -> None:
        _patiently(lambda: _client().log_batch(self.run_id, **batch))


def connect() -> None:
    """Check that the tracking store can be used, before anything is prepared.

    Raises:
        UserError: a server that does not answer within seconds, or a store that does not open.
    """
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS).raise_for_status()
        except requests.RequestException as error:
            raise UserError(
                f"MLFLOW_TRACKING_URI={uri}: the tracking server does not answer ({type(error).__name__})"
            ) from None
    try:
        with _first_opening(uri):
            experiment = _client().get_experiment(current_experiment())
    except Exception as error:  # MLflow's types, SQLAlchemy's and those of the drivers
        raise UserError(f"tracking store {uri}: {' '.join(str(error).split())[:200]}") from None
    if experiment.artifact_location.startswith("mlflow-artifacts:") and not uri.startswith("http"):
        raise UserError(
            f"experiment {experiment.name} was made by an MLflow server and keeps its artifacts there: "
            "set MLFLOW_TRACKING_URI to the server's address, or name another experiment (MLFLOW_EXPERIMENT_NAME)"
        )


@contextmanager
def _first_opening(uri: str) -> Iterator[None]:
    """Two processes that make the tables of a new SQLite file at once would collide."""
    if not uri.startswith("sqlite"):
        yield
        return
    digest = hashlib.sha256(os.path.abspath(uri.partition("///")[2]).encode()).hexdigest()[:32]
    with Path(tempfile.gettempdir(), f"labelreg-{os.getuid()}-{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def address() -> str:
    """The tracking store, as a process with another working folder names it."""
    uri = mlflow.get_tracking_uri()
    kind, slashes, path = uri.partition(":///")
    return f"{kind}{slashes}{os.path.abspath(path)}" if kind == "sqlite" and path else uri


def current_experiment() -> str:
    """The id of MLflow's current experiment: that of the run that `mlflow run` opened, else Default."""
    if "MLFLOW_RUN_ID" in os.environ:
        return _patiently(lambda: _client().get_run(os.environ["MLFLOW_RUN_ID"])).info.experiment_id
    if "MLFLOW_EXPERIMENT_ID" in os.environ:  # first: `mlflow run` sets it beside a name of the caller's shell
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    return _patiently(lambda: _named(name)) if name else "0"


def _named(name: str) -> str:
    found = _client().get_experiment_by_name(name)
    if found:
        return found.experiment_id
    try:
        return _client().create_experiment(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _client().get_experiment_by_name(name).experiment_id  # another process was faster


def experiment_id(name: str | None) -> str:
    """An experiment by name or id; None is the current one.

    Raises:
        UserError: it does not exist (with the nearest name).
    """
    if name is None:
        return current_experiment()
    known = {e.name: e.experiment_id for e in _patiently(mlflow.search_experiments)}
    if name in known.values():
        return name
    if name not in known:
        raise unknown("experiment", name, known)
    return known[name]


def experiment_name(experiment: str) -> str:
    """The name of an experiment by its id."""
    return _client().get_experiment(experiment).name


@contextmanager
def open_run(
    kind: str,
    name: str,
    parent: str | None = None,
    study: str | None = None,
    experiment: str | None = None,
    continued: str | None = None,
    spool: Path | None = None,
) -> Iterator[Run]:
    """A run that ends FINISHED, FAILED (with the reason as its note) or, interrupted, KILLED.

    The first run that a command opens is the one that `mlflow run` opened, where there is one. With
    `continued` it is that run, and the one that `mlflow run` opened becomes a launch.

    Args:
        spool: the folder where metrics wait while the store is away.
    """
    launched = parent is None and "MLFLOW_RUN_ID" in os.environ
    if continued and launched:
        launch = os.environ.pop("MLFLOW_RUN_ID")
        Run(launch).tags({KIND: "launch", CONTINUED: continued})
        launched = False
    run_id = continued or (os.environ.pop("MLFLOW_RUN_ID") if launched else _create(name, parent, experiment))
    nested = mlflow.active_run() is not None
    _patiently(lambda: mlflow.start_run(run_id=run_id, nested=nested, run_name=None if continued else name))
    waiting = Spool(spool / f"{run_id}.jsonl", lambda points: _deliver(run_id, points), _passes) if spool else None
    try:
        if waiting:
            waiting.flush()
        run = Run(run_id, _held(run_id) if continued else frozenset(), waiting)
        run.tags({KIND: kind} | ({STUDY: study} if study else {}))
        yield run
        if waiting:
            waiting.flush()
    except BaseException as error:
        _close(run_id, error, waiting)
        raise
    _end(run_id, "FINISHED")


def _create(name: str, parent: str | None, experiment: str | None) -> str:
    """The id of a new run. One whose answer was lost on the way is found again instead of made twice."""
    where = experiment or current_experiment()
    tags = resolve_tags({"mlflow.parentRunId": parent} if parent else {})
    began, tries = int(time.time() * 1000), itertools.count()

    def create() -> str:
        if next(tries):
            for run in _client().search_runs([where], f"attributes.start_time = {began}"):
                if run.info.run_name == name and run.data.tags.get("mlflow.parentRunId") == parent:
                    return run.info.run_id
        return _client().create_run(where, began, tags, name).info.run_id

    return _patiently(create)


def _held(run_id: str) -> frozenset[tuple[str, int]]:
    """The (metric, step) that a run holds."""
    client = _client()
    names = _patiently(lambda: client.get_run(run_id)).data.metrics
    histories = {name: _patiently(lambda name=name: client.get_metric_history(run_id, name)) for name in names}
    return frozenset((name, point.step) for name, points in histories.items() for point in points)


def _close(run_id: str, error: BaseException, waiting: Spool | None) -> None:
    """End a run that did not finish; where the store is away too, `error` is what is told."""
    gone = isinstance(error, StoreLostError)
    interrupted = gone or isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
    seconds = 0.0 if gone else patience.CLOSING_SECONDS if interrupted else None
    with contextlib.suppress(StoreLostError):
        try:
            if waiting:
                waiting.flush(seconds)
            if not interrupted:
                known = isinstance(error, UserError | DivergedError | IncompleteError)
                Run(run_id).note(str(error) if known else f"{type(error).__name__}: {error}")
        finally:
            _end(run_id, "KILLED" if interrupted else "FAILED", seconds)


def _end(run_id: str, status: str, seconds: float | None = None) -> None:
    try:
        mlflow.end_run(status)  # takes the run from MLflow's list of active ones, whatever the store says
    except Exception:
        _patiently(lambda: _client().set_terminated(run_id, status), seconds)


def note_failure(line: str) -> None:
    """Put the reason on the run that `mlflow run` opened, when a command ends before it opened a run."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        try:
            _client().set_tag(run_id, NOTE, line)
        except (MlflowException, requests.RequestException):
            return  # the store is what failed; the line is on the terminal


def find(where: str) -> list["mlflow.entities.Run"]:
    """Finished runs of the store that match a filter, oldest first."""
    query = f"attributes.status = 'FINISHED' and {where}"
    order = ["attributes.start_time ASC"]
    return _patiently(
        lambda: mlflow.search_runs(_experiments(), filter_string=query, order_by=order, output_format="list")
    )


def unfinished(run_id: str | None) -> str | None:
    """The run's id, if this store has it and it did not finish."""
    where = f"attributes.run_id = '{run_id}'"
    found = _patiently(lambda: _client().search_runs(_experiments(), where)) if run_id else []
    return run_id if found and found[0].info.status != "FINISHED" else None


def get(run_id: str) -> "mlflow.entities.Run":
    """A run by id.

    Raises:
        UserError: there is no such run in this store.
    """
    try:
        return _patiently(lambda: _client().get_run(run_id))
    except MlflowException:
        raise UserError(f"run {run_id}: not in the tracking store {mlflow.get_tracking_uri()}") from None


def download(run_id: str, path: str, target: Path) -> Path:
    """An artifact of a run as a local file.

    Raises:
        UserError: the run has no such artifact.
    """
    target.mkdir(parents=True, exist_ok=True)
    fetch = mlflow.artifacts.download_artifacts
    try:
        return Path(_patiently(lambda: fetch(run_id=run_id, artifact_path=path, dst_path=str(target))))
    except (MlflowException, OSError):
        raise UserError(f"run {run_id} has no artifact {path}") from None


def predictions(runs: "pd.DataFrame", ahead: Collection[str] = ()) -> Callable[[str, str], "pd.DataFrame | None"]:
    """How to read `predictions/<split>.parquet` of a run of `runs` (a frame) by its id; None where it has none.

    A local store is read in place. A server's files are downloaded once per run, into a folder that goes with the
    reader: at the first question, or now, several at a time, for the runs in `ahead`.
    """
    from pyarrow.parquet import ParquetFile

    places = dict(zip(runs["run_id"], runs["artifact_uri"], strict=True)) if len(runs) else {}
    kept = Path(tempfile.mkdtemp(prefix="labelreg-predictions-"))

    @cache
    def folder(run_id: str) -> Path | None:
        if is_local_uri(places[run_id]):
            return Path(local_file_uri_to_path(places[run_id])) / "predictions"
        try:
            return download(run_id, "predictions", kept / run_id)
        except UserError:
            return None

    def read(run_id: str, split: str) -> "pd.DataFrame | None":
        found = folder(run_id)
        path = found and found / f"{split}.parquet"
        if not path or not path.is_file():
            return None
        return (
            ParquetFile(path).read(use_threads=False).to_pandas(use_threads=False)
        )  # read_parquet takes twice as long

    weakref.finalize(read, shutil.rmtree, kept, ignore_errors=True)
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        list(pool.map(folder, ahead))
    return read


def histories(run_ids: Sequence[str], names: Sequence[str]) -> "pd.DataFrame":
    """Every value of these metrics: columns run_id, name, step, value; of a step's values the newest.

    One query per metric and AT_ONCE runs where the store is a database, else one per metric and run.
    """
    import pandas as pd

    store = _client()._tracking_client.store
    if hasattr(store, "get_metric_history_bulk"):
        found = [
            (point.run_id, point.key, point.step, point.value, point.timestamp)
            for name in names
            for start in range(0, len(run_ids), AT_ONCE)
            for point in store.get_metric_history_bulk(run_ids[start : start + AT_ONCE], name, MOST_POINTS)
        ]
    else:
        wanted = [(run_id, name) for run_id in run_ids for name in names]
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            answers = list(pool.map(lambda pair: _client().get_metric_history(*pair), wanted))
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

    Each has run_id, start (seconds), digest (the tag) and plan (of plan.json).
    """
    read = []
    for run in _studies():
        tags = run.data.tags
        if PLAN in tags and (run.info.run_id in run_ids or tags.get(STUDY) in studies):
            with tempfile.TemporaryDirectory() as folder:
                text = download(run.info.run_id, "plan.json", Path(folder)).read_text(encoding="utf-8")
            found = {"run_id": run.info.run_id, "start": run.info.start_time / 1000, "digest": tags[PLAN]}
            read.append(found | {"plan": json.loads(text)})
    return read


def summarise(summaries: Sequence[Mapping], parents: Mapping[str, str], beside: Run, key: str = "") -> None:
    """One finished run per summary: nested under the newest study of its runs, else under `beside`; made once.

    A summary has `params`, `metrics` (logged as summary/<name>, unbounded ones not), `verdict`, `line` and
    `run_ids`, whose parents are `parents`. One that exists for the same study, `key` and params is brought up to
    date; where it holds a number that there is no longer, it is replaced.
    """
    studies = _studies()
    held = {run.data.tags.get(FINGERPRINT): run for run in find(f"tags.`{KIND}` = 'summary'")}
    here = get(beside.run_id)
    for summary in summaries:
        above = {parents.get(run_id) for run_id in summary["run_ids"]} | {beside.run_id}
        study = next((run for run in studies if run.info.run_id in above), None)
        params = {name: plain(value) for name, value in summary["params"].items()}
        told = [study.info.run_id if study else here.info.experiment_id, key, *sorted(params.items())]
        fingerprint = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]
        _keep_summary(summary, params, fingerprint, study or here, held.get(fingerprint))


def _studies() -> list["mlflow.entities.Run"]:
    """The studies of the store, newest first, whatever their status."""
    newest = ["attributes.start_time DESC"]
    return mlflow.search_runs(_experiments(), f"tags.`{KIND}` = 'study'", order_by=newest, output_format="list")


def _keep_summary(summary: Mapping, params: dict[str, str], fingerprint: str, parent, held) -> None:
    metrics = {f"summary/{name}": float(v) for name, v in summary["metrics"].items() if abs(v) < float("inf")}
    tags = {KIND: "summary", FINGERPRINT: fingerprint, NOTE: summary["line"]}
    tags |= {VERDICT: summary["verdict"]} if summary["verdict"] else {}
    tags |= {STUDY: parent.data.tags[STUDY]} if STUDY in parent.data.tags else {}
    if held and not set(held.data.metrics) <= set(metrics):
        _client().delete_run(held.info.run_id)
        held = None
    if held:
        metrics = {name: value for name, value in metrics.items() if held.data.metrics.get(name) != value}
        tags = {name: value for name, value in tags.items() if held.data.tags.get(name) != value}
        if metrics or tags:
            Run(held.info.run_id).metrics(metrics)
            Run(held.info.run_id).tags(tags)
        return
    name = " ".join(params[part] for part in ("task", "model", "init", "method", "setting") if part in params)
    tags |= {PARENT: parent.info.run_id}
    made = _client().create_run(parent.info.experiment_id, run_name=f"summary {name}", tags=tags)
    now = int(time.time() * 1000)
    _client().log_batch(
        made.info.run_id,
        metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
        params=[Param(name, value) for name, value in params.items()],
    )
    _client().set_terminated(made.info.run_id, "FINISHED")


def frame(experiment: str | None, where: str | None = None) -> "pd.DataFrame":
    """The runs of an experiment (None: of all) as mlflow.search_runs gives them, parameters unquoted.

    Raises:
        UserError: a filter that MLflow does not understand.
    """
    try:
        runs = _patiently(
            lambda: mlflow.search_runs([experiment] if experiment else _experiments(), filter_string=where or "")
        )
    except MlflowException as error:
        raise UserError(f"where={where}: {' '.join(str(error).split())[:200]}") from None
    for column in runs.columns:
        if column.startswith("params."):
            runs[column] = [unquoted(value) if isinstance(value, str) else value for value in runs[column]]
    return runs


def plain(value: Value) -> str:
    """A value as a parameter's text."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def unquoted(text: str) -> str:
    """The value behind the shell-quoted text that `mlflow run` logs."""
    try:
        words = shlex.split(text)
    except ValueError:
        return text
    return words[0] if len(words) == 1 else text if words else ""


def same(held: str, value: str) -> bool:
    """Whether two texts of a parameter mean one value: '2e-5' and '2e-05' do."""
    held = unquoted(held)
    try:
        return held == value or float(held) == float(value)
    except ValueError:
        return held.lower() == value.lower()


def _experiments() -> list[str]:
    return [experiment.experiment_id for experiment in mlflow.search_experiments()]


def _deliver(run_id: str, points: list[Point]) -> None:
    _client().log_batch(run_id, metrics=[Metric(name, value, at, step) for name, value, at, step in points])


def _patiently(call: Callable[[], Result], seconds: float | None = None) -> Result:
    return patience.keep_trying(call, _passes, seconds)


def _passes(error: Exception) -> bool:
    """Whether a later call may succeed: the database has another writer, or the server does not answer."""
    if any(words in str(error) for words in ("database is locked", "Max retries exceeded", "Connection broken")):
        return True  # no connection, an answer such as 503, half a file: MLflow keeps the text, not the type
    inner = error.__cause__ if isinstance(error, MlflowException) else error
    if isinstance(inner, requests.ConnectionError | requests.Timeout):
        return True
    away = isinstance(error, MlflowException) and error.error_code == "TEMPORARILY_UNAVAILABLE"
    return away and not mlflow.get_tracking_uri().startswith("sqlite")  # there it is a full disk, a missing file


def _client() -> "mlflow.MlflowClient":
    return mlflow.MlflowClient()
