"""MLflow, as labelreg uses it: opening runs, writing the contract's names, finding runs. records.py reads many of them.

Every call goes through `patiently`: a SQLite store takes one writer at a time, and a server may be away for minutes.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import requests

from labelreg import patience
from labelreg.errors import DivergedError, IncompleteError, StoreLostError, UserError, unknown
from labelreg.parameters import PARAMETERS, Value, convert
from labelreg.patience import Point, Result, Spool

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # its retries (4 minutes a call) would stop the training
import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

# "creating initial tables" is no news, and a locked database is tried again
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

KIND, FINGERPRINT, STUDY, DATA = "labelreg.kind", "labelreg.fingerprint", "labelreg.study", "labelreg.data"
CONTINUED, PLAN, VERDICT, PARENT = "labelreg.continued_in", "labelreg.plan", "labelreg.verdict", "mlflow.parentRunId"
NOTE, TUNED = "mlflow.note.content", "labelreg.tuned_seeds"
ONE_CLASS = "labelreg.one_class"  # the class that the run gives every example; a run that learnt has no such tag
ANSWER_SECONDS = 10  # a tracking server that does not answer within this time is not there


@dataclass(frozen=True)
class Run:
    """An open run. Every write goes through here, by name of the contract."""

    run_id: str
    held: frozenset[tuple[str, int]] = frozenset()  # (metric, step) that a continued run has already
    spool: Spool | None = None  # where metrics wait; without one a call waits

    def params(self, values: Mapping[str, Value], tags: Mapping[str, str] | None = None) -> None:
        """Log what the run does not hold yet, and tags; what `mlflow run` logged (shell-quoted) counts by value."""
        held = patiently(lambda: client().get_run(self.run_id)).data.params
        missing = {name: plain(value) for name, value in values.items() if value is not None and name not in held}
        for name in set(values) & set(held):
            if values[name] is not None and not _means(held[name], name, values[name]):
                raise UserError(
                    f"{name}={unquoted(held[name])}: the run uses {plain(values[name])}; give that, or leave it out"
                )
        self._log([Param(name, value) for name, value in missing.items()], tags or {})

    def tags(self, values: Mapping[str, str], seconds: float | None = None) -> None:
        self._log([], values, seconds)

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
            patiently(lambda: _deliver(self.run_id, points))

    def folder(self, local: Path, path: str | None = None) -> None:
        """Store a folder's files as artifacts."""
        patiently(lambda: client().log_artifacts(self.run_id, str(local), path))

    def data(self, name: str, digest: str, source: str) -> None:
        """Name the data set in MLflow's own way, with labelreg's digest of all examples."""
        dataset = Dataset(name, digest, "labelreg", json.dumps({"source": source}))
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        try:
            patiently(lambda: client().log_inputs(self.run_id, inputs))
        except MlflowException:  # another worker has just registered the same data set; it is there now
            patiently(lambda: client().log_inputs(self.run_id, inputs))

    def note(self, line: str) -> None:
        self.tags({NOTE: line})

    def _log(self, params: list[Param], tags: Mapping[str, str], seconds: float | None = None) -> None:
        named = [RunTag(name, value) for name, value in tags.items()]
        patiently(lambda: client().log_batch(self.run_id, params=params, tags=named), seconds)


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
            experiment = client().get_experiment(current_experiment())
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
    return absolute(mlflow.get_tracking_uri())


def absolute(uri: str) -> str:
    """A database's address; a SQLite file's with its whole path."""
    kind, slashes, path = uri.partition(":///")
    return f"{kind}{slashes}{os.path.abspath(path)}" if kind.startswith("sqlite") and path[:1] not in ("", ":") else uri


def current_experiment() -> str:
    """The id of MLflow's current experiment: that of the run that `mlflow run` opened, else Default."""
    if "MLFLOW_RUN_ID" in os.environ:
        return patiently(lambda: client().get_run(os.environ["MLFLOW_RUN_ID"])).info.experiment_id
    if "MLFLOW_EXPERIMENT_ID" in os.environ:  # first: `mlflow run` sets it beside a name of the caller's shell
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    return patiently(lambda: _named(name)) if name else "0"


def _named(name: str) -> str:
    found = client().get_experiment_by_name(name)
    if found:
        return found.experiment_id
    try:
        return client().create_experiment(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return client().get_experiment_by_name(name).experiment_id  # another process was faster


def experiment_id(name: str | None) -> str:
    """An experiment by name or id; None is the current one.

    Raises:
        UserError: it does not exist (with the nearest name).
    """
    if name is None:
        return current_experiment()
    known = {e.name: e.experiment_id for e in patiently(mlflow.search_experiments)}
    if name in known.values():
        return name
    if name not in known:
        raise unknown("experiment", name, known)
    return known[name]


def experiment_name(experiment: str) -> str:
    """The name of an experiment by its id."""
    return patiently(lambda: client().get_experiment(experiment)).name


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
    before = _before(continued) if continued else None
    if continued and launched:
        launch = os.environ.pop("MLFLOW_RUN_ID")
        Run(launch).tags({KIND: "launch", CONTINUED: continued})
        launched = False
    run_id = continued or (os.environ.pop("MLFLOW_RUN_ID") if launched else create(name, parent, experiment))
    nested = mlflow.active_run() is not None
    patiently(lambda: mlflow.start_run(run_id=run_id, nested=nested, run_name=None if continued else name))
    waiting = Spool(spool / f"{run_id}.jsonl", lambda points: _deliver(run_id, points), _passes) if spool else None
    try:
        if waiting:
            waiting.flush()
        run = Run(run_id, _held(before) if before else frozenset(), waiting)
        why_failed = {NOTE: ""} if before and before.info.status == "FAILED" else {}
        run.tags({KIND: kind} | ({STUDY: study} if study else {}) | why_failed)
        yield run
        if waiting:
            waiting.flush()
    except BaseException as error:
        _close(run_id, error, waiting)
        raise
    _end(run_id, "FINISHED")


def create(name: str, parent: str | None, experiment: str | None, tags: Mapping[str, str] | None = None) -> str:
    """The id of a new run. One whose answer was lost on the way is found again instead of made twice."""
    where = experiment or current_experiment()
    tags = resolve_tags(dict(tags or {}) | ({"mlflow.parentRunId": parent} if parent else {}))
    began, tries = int(time.time() * 1000), itertools.count()

    def made() -> str:
        if next(tries):
            for run in client().search_runs([where], f"attributes.start_time = {began}"):
                if run.info.run_name == name and run.data.tags.get("mlflow.parentRunId") == parent:
                    return run.info.run_id
        return client().create_run(where, began, tags, name).info.run_id

    return patiently(made)


def _before(continued: str) -> "mlflow.entities.Run":
    """The run that is gone on with. Launches that were killed while they did so end: its claim is ours."""
    where = f"{tagged({CONTINUED: continued})} and attributes.status = 'RUNNING'"
    for launch in patiently(lambda: client().search_runs(experiments(), where)):
        patiently(lambda run_id=launch.info.run_id: client().set_terminated(run_id, "KILLED"))
    return patiently(lambda: client().get_run(continued))


def _held(run: "mlflow.entities.Run") -> frozenset[tuple[str, int]]:
    """The (metric, step) that a run holds."""
    run_id, names = run.info.run_id, run.data.metrics
    histories = {name: patiently(lambda name=name: client().get_metric_history(run_id, name)) for name in names}
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
        patiently(lambda: client().set_terminated(run_id, status), seconds)


def note_failure(line: str) -> None:
    """Put the reason on the run that `mlflow run` opened, when a command ends before it opened a run."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        try:
            client().set_tag(run_id, NOTE, line)
        except (MlflowException, requests.RequestException):
            return  # the store is what failed; the line is on the terminal


def find(where: str) -> list["mlflow.entities.Run"]:
    """Finished runs of the store that match a filter, oldest first."""
    query = f"attributes.status = 'FINISHED' and {where}"
    order = ["attributes.start_time ASC"]
    return patiently(
        lambda: mlflow.search_runs(experiments(), filter_string=query, order_by=order, output_format="list")
    )


def unfinished(run_id: str | None) -> str | None:
    """The run's id, if this store has it and it did not finish."""
    where = f"attributes.run_id = '{run_id}'"
    found = patiently(lambda: client().search_runs(experiments(), where)) if run_id else []
    return run_id if found and found[0].info.status != "FINISHED" else None


def get(run_id: str) -> "mlflow.entities.Run":
    """A run by id.

    Raises:
        UserError: there is no such run in this store.
    """
    try:
        return patiently(lambda: client().get_run(run_id))
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
        return Path(patiently(lambda: fetch(run_id=run_id, artifact_path=path, dst_path=str(target))))
    except (MlflowException, OSError) as error:
        raise UserError(f"run {run_id} has no artifact {path}") from error


def plain(value: Value) -> str:
    """A value as a parameter's text."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@lru_cache(maxsize=4096)  # a thousand runs have few values, each of which takes shlex 10 us
def unquoted(text: str) -> str:
    """The value behind the shell-quoted text that `mlflow run` logs."""
    try:
        words = shlex.split(text)
    except ValueError:
        return text
    return words[0] if len(words) == 1 else text if words else ""


def _means(held: str, name: str, value: Value) -> bool:
    """Whether the text that a run holds of a parameter, as a user may have written it, means this value."""
    if not isinstance(value, list | bool) or name not in PARAMETERS:
        return same(held, plain(value))
    try:
        given = convert(name, unquoted(held))
    except UserError:
        return False
    return sorted(given) == sorted(value) if name == "methods" else given == value  # their order decides nothing


def same(held: str, value: str) -> bool:
    """Whether two texts of a parameter mean one value: '2e-5' and '2e-05' do."""
    held = unquoted(held)
    try:
        return held == value or float(held) == float(value)
    except ValueError:
        return held.lower() == value.lower()


def tagged(tags: Mapping[str, str]) -> str:
    """MLflow's filter for runs with these tags. It knows no escapes, but two quotes.

    Raises:
        UserError: a value holds both of them.
    """
    both = [value for value in tags.values() if "'" in value and '"' in value]
    if both:
        raise UserError(f"{both[0]}: a name with both kinds of quotes cannot be searched for; rename it")
    quoted = {name: f'"{value}"' if "'" in value else f"'{value}'" for name, value in tags.items()}
    return " and ".join(f"tags.`{name}` = {value}" for name, value in quoted.items())


def experiments() -> list[str]:
    return [experiment.experiment_id for experiment in mlflow.search_experiments()]


def _deliver(run_id: str, points: list[Point]) -> None:
    client().log_batch(run_id, metrics=[Metric(name, value, at, step) for name, value, at, step in points])


def patiently(call: Callable[[], Result], seconds: float | None = None) -> Result:
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


def client() -> "mlflow.MlflowClient":
    return mlflow.MlflowClient()
