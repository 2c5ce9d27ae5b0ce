"""MLflow, as labelreg uses it: opening runs, writing the contract's names, finding runs. records.py reads many of them.

Every call goes through `patiently`: a SQLite store takes one writer at a time, and a server may be away for minutes.
"""

import contextlib
import errno
import itertools
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from labelreg import whole
from labelreg.errors import StoreLostError, UserError, foreseen, masked, one_line, told, unknown
from labelreg.parameter import Value
from labelreg.store import logged, patience
from labelreg.store.calls import (
    artifacts_of,
    check_server,
    client,
    deliver,
    locked,
    make_tables,
    passes,
    patiently,
    timeout,
    undivided,
)
from labelreg.store.patience import Spool

if TYPE_CHECKING:
    from labelreg.store import checkpoint

KIND, FINGERPRINT, STUDY, DATA = "labelreg.kind", "labelreg.fingerprint", "labelreg.study", "labelreg.data"
INTENT, CONTINUED = "labelreg.intent", "labelreg.continued_in"
REST = "labelreg.rest"  # the digest of the rows that a run is tested on beyond its test set
PLAN, VERDICT, PARENT = "labelreg.plan", "labelreg.verdict", "mlflow.parentRunId"
NOTE, TUNED = "mlflow.note.content", "labelreg.tuned_seeds"
Found = mlflow.entities.Run  # a run as the store has it: read alone
ONE_CLASS = "labelreg.one_class"  # the class that the run gives every example; a run that learnt has no such tag


@dataclass(frozen=True)
class Run:
    """An open run. Every write goes through here, by name of the contract."""

    run_id: str
    held: frozenset[tuple[str, int]] = frozenset()  # (metric, step) that a continued run has already
    continued: bool = False
    spool: Spool | None = None  # where metrics wait; without one a call waits

    def params(self, values: Mapping[str, Value], tags: Mapping[str, str] | None = None) -> None:
        """Log what the run does not hold yet, and tags; what `mlflow run` logged (shell-quoted) counts by value.

        A run that is gone on with is the same run by its fingerprint: it keeps the words that it was begun with. A
        value that is longer than MLflow keeps is stored whole as parameters/<name>.txt.

        Raises:
            UserError: `mlflow run` was given another value than the one that the run uses.
        """
        held = patiently(lambda: client().get_run(self.run_id)).data.params
        held = {name: masked(value) for name, value in held.items()}
        values = {name: masked(value) if isinstance(value, str) else value for name, value in values.items()}
        texts = {name: logged.plain(value) for name, value in values.items() if value is not None}
        for name in set(texts) & set(held) if not self.continued else ():
            if not logged.means(held[name], name, values[name]):
                raise UserError(
                    f"{name}={logged.unquoted(held[name])}: the run uses {texts[name]}; give that, or leave it out"
                )
        long = {name: text for name, text in texts.items() if len(text) > MAX_PARAM_VAL_LENGTH}
        if long:
            with tempfile.TemporaryDirectory() as folder:
                for name, text in long.items():
                    Path(folder, f"{name}.txt").write_text(text, encoding="utf-8")
                self.folder(Path(folder), "parameters")
        texts |= {name: logged.shortened(name, text) for name, text in long.items()}
        self._log([Param(name, text) for name, text in texts.items() if name not in held], tags or {})

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
            patiently(lambda: deliver(self.run_id, points))

    def folder(self, local: Path, path: str | None = None) -> None:
        """Store a folder's files as artifacts, each of them patiently; MLflow copies them with their rights."""
        store = artifacts_of(self.run_id)
        for file in sorted(each for each in local.rglob("*") if each.is_file()):
            whole.give_rights(file)
            place: str | None = Path(path or "", file.parent.relative_to(local)).as_posix()
            place = None if place == "." else place
            patiently(partial(store.log_artifact, str(file), place), moves_files=True)

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
        named = [RunTag(name, masked(value)) for name, value in tags.items()]
        patiently(lambda: client().log_batch(self.run_id, params=params, tags=named), seconds)


def connect() -> None:
    """Check that the tracking store can be used, before anything is prepared.

    Raises:
        UserError: a server that does not answer within seconds, or a store that does not open.
    """
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        check_server(uri)
    try:
        make_tables(uri)
        experiment = patience.keep_trying(lambda: client().get_experiment(current_experiment()), locked)
    except (UserError, StoreLostError):
        raise
    except Exception as error:  # MLflow's types, SQLAlchemy's and those of the drivers
        known = foreseen(error)
        raise UserError(known.line if known else f"tracking store {uri}: {one_line(str(error), 200)}") from None
    if experiment.lifecycle_stage == "deleted":
        raise _deleted(experiment)
    if experiment.artifact_location.startswith("mlflow-artifacts:") and not uri.startswith("http"):
        raise UserError(
            f"experiment {experiment.name} was made by an MLflow server and keeps its artifacts there: "
            "set MLFLOW_TRACKING_URI to the server's address, or name another experiment (MLFLOW_EXPERIMENT_NAME)"
        )


def _deleted(experiment: "mlflow.entities.Experiment") -> UserError:
    return UserError(
        f"experiment {experiment.name} (id {experiment.experiment_id}) was deleted; `mlflow experiments restore "
        f"--experiment-id {experiment.experiment_id}` brings it back, MLFLOW_EXPERIMENT_NAME names another"
    )


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
        found = client().get_experiment_by_name(name)  # another process was faster
        if found is None:
            raise
        return found.experiment_id


def experiment_id(name: str | None) -> str:
    """An experiment by name or id; None is the current one.

    Raises:
        UserError: it does not exist (with the nearest name).
    """
    if name is None:
        return current_experiment()
    everything = patiently(lambda: mlflow.search_experiments(view_type=ViewType.ALL))
    known = {e.name: e.experiment_id for e in everything if e.lifecycle_stage == "active"}
    if name in known.values():
        return name
    if name not in known:
        for experiment in everything:
            if name in (experiment.name, experiment.experiment_id):
                raise _deleted(experiment)
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
    claim: "checkpoint.Claim | None" = None,
) -> Iterator[Run]:
    """A run that ends FINISHED, FAILED (with the reason as its note) or, interrupted, KILLED.

    The first run that a command opens is the one that `mlflow run` opened, where there is one. With
    `continued` it is that run, and the one that `mlflow run` opened becomes a launch. A mistake of a command that
    would go on with a run leaves it as it was: it stands on the launch.

    Args:
        spool: the folder where metrics wait while the store is away.
        claim: the folder that is the run's from here on.
    """
    launch = os.environ.pop("MLFLOW_RUN_ID", None) if parent is None else None
    run_id, before, waiting = None if continued else launch, None, None
    intent = claim.intend() if claim and not continued else None
    try:
        if continued:
            before = _before(continued)
            if launch:
                Run(launch).tags({KIND: "launch", CONTINUED: continued})
        run_id = continued or launch or create(name, parent, experiment, intent=intent)
        if claim:
            claim.start(run_id)
        nested = mlflow.active_run() is not None
        patiently(lambda: mlflow.start_run(run_id=run_id, nested=nested, run_name=None if continued else name))
        if spool:
            waiting = Spool(spool / f"{run_id}.jsonl", partial(deliver, run_id), passes)
            waiting.flush()
        run = Run(run_id, _held(run_id) if before else frozenset(), before is not None, waiting)
        why_failed = {NOTE: ""} if before and before.info.status == "FAILED" else {}
        run.tags({KIND: kind} | ({STUDY: study} if study else {}) | why_failed)
        yield run
        if waiting:
            waiting.flush()
    except BaseException as error:
        _close(run_id, intent, error, waiting, before, launch)
        raise
    _end(run_id, "FINISHED")


def create(
    name: str,
    parent: str | None,
    experiment: str | None,
    tags: Mapping[str, str] | None = None,
    intent: str | None = None,
) -> str:
    """The id of a new run. One whose answer was lost on the way is found again, by its intent, and not made twice."""
    where, intent = experiment or current_experiment(), intent or uuid.uuid4().hex
    own = {INTENT: intent} | ({PARENT: parent} if parent else {})
    tags, began, tries = resolve_tags(dict(tags or {}) | own), int(time.time() * 1000), itertools.count()

    def made() -> str:
        found = _intended(intent) if next(tries) else None
        return found.info.run_id if found else client().create_run(where, began, dict(tags), name).info.run_id

    return patiently(made)


def _intended(intent: str) -> Found | None:
    """The run that was made by this intent, where it was."""
    return next(iter(client().search_runs(experiments(), tagged({INTENT: intent}))), None)


def _before(continued: str) -> Found:
    """The run that is gone on with. Launches that were killed while they did so end: its claim is ours."""
    where = f"{tagged({CONTINUED: continued})} and attributes.status = 'RUNNING'"
    for launch in patiently(lambda: client().search_runs(experiments(), where)):
        patiently(lambda run_id=launch.info.run_id: client().set_terminated(run_id, "KILLED"))
    return patiently(lambda: client().get_run(continued))


def _held(run_id: str) -> frozenset[tuple[str, int]]:
    """The (metric, step) that a run holds, those among them that waited on disk until now."""
    names = patiently(lambda: client().get_run(run_id)).data.metrics
    histories = {name: patiently(lambda name=name: client().get_metric_history(run_id, name)) for name in names}
    return frozenset((name, point.step) for name, points in histories.items() for point in points)


def _close(
    run_id: str | None,
    intent: str | None,
    error: BaseException,
    waiting: Spool | None,
    before: Found | None,
    launch: str | None,
) -> None:
    """End a run that did not finish, as far as the store lets it: `error` is what is told."""
    gone = isinstance(error, StoreLostError)
    interrupted = gone or isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
    seconds = 0.0 if gone else patience.CLOSING_SECONDS if interrupted else None
    ends: list[Callable[[], None]] = [lambda: waiting.flush(seconds)] if waiting else []
    status = "KILLED" if interrupted else "FAILED"
    if before is not None and isinstance(error, UserError):
        status = "FAILED" if before.info.status == "FAILED" else "KILLED"
        if NOTE in before.data.tags and run_id:
            ends.append(lambda: Run(run_id).note(before.data.tags[NOTE]))
        if launch:
            ends.append(lambda: Run(launch).note(told(error).line))
    elif not interrupted and run_id:
        ends.append(lambda: Run(run_id).note(told(error).line))

    def end() -> None:
        made = _intended(intent) if intent and not run_id else None
        if own := made.info.run_id if made else run_id:
            _end(own, status, seconds)

    for call in (*ends, end):
        with contextlib.suppress(Exception):  # the store may be what failed; a later signal is heard all the same
            call()


def _end(run_id: str, status: str, seconds: float | None = None) -> None:
    active = mlflow.active_run()
    if active and active.info.run_id == run_id:
        with contextlib.suppress(Exception), timeout(seconds), undivided():
            mlflow.end_run(status)  # takes the run from MLflow's list of active ones, whatever the store says
            return
    patiently(lambda: client().set_terminated(run_id, status), seconds)


def note_failure(line: str) -> None:
    """Put the reason on the run that `mlflow run` opened, when a command ends before it opened a run."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        with contextlib.suppress(Exception):  # the store is what failed; the line is on the terminal
            client().set_tag(run_id, NOTE, line)


def find(where: str) -> list[Found]:
    """Finished runs of the store that match a filter, oldest first."""
    query = f"attributes.status = 'FINISHED' and {where}"
    order = ["attributes.start_time ASC"]
    return patiently(
        lambda: mlflow.search_runs(experiments(), filter_string=query, order_by=order, output_format="list")
    )


def ended(claim: "checkpoint.Claim") -> Found | None:
    """The run that finished under a claim whose process was killed before it gave the claim up; `mlflow run`'s own
    run is a launch then."""
    for run_id in claim.run_ids[:1]:
        where = f"attributes.run_id = '{run_id}' and attributes.status = 'FINISHED'"
        for run in patiently(lambda where=where: client().search_runs(experiments(), where)):
            launch = os.environ.pop("MLFLOW_RUN_ID", None)
            if launch:
                Run(launch).tags({KIND: "launch", CONTINUED: run_id})
            return run
    return None


def unfinished(claim: "checkpoint.Claim", resume: bool = True) -> str | None:
    """The run that was interrupted under a claim, if this store has it and it did not finish; the others end.

    Args:
        resume: whether a run is wanted that goes on; else there is none, and those that seem to run end KILLED.
    """
    unknown = []
    for run_id in claim.run_ids:
        where = f"attributes.run_id = '{run_id}'"
        found = patiently(lambda where=where: client().search_runs(experiments(), where))
        if not found:
            unknown.append(run_id)
        elif resume and found[0].info.status != "FINISHED":
            return run_id
        else:
            _sweep(found[0])
            claim.drop(run_id)
    intent = claim.intended
    orphan = patiently(lambda: _intended(intent)) if intent else None
    if orphan and resume and orphan.info.status != "FINISHED":
        return orphan.info.run_id
    if orphan:
        _sweep(orphan)
    if unknown:
        print(
            f"the interrupted run {unknown[0]} is not in this store: what it did is kept, a new one begins", flush=True
        )
    return None


def _sweep(run: Found) -> None:
    """A run that nobody goes on with does not run for ever."""
    if run.info.status == "RUNNING":
        patiently(lambda: client().set_terminated(run.info.run_id, "KILLED"))


def get(run_id: str) -> Found:
    """A run by id.

    Raises:
        UserError: there is no such run in this store.
    """
    try:
        return patiently(lambda: client().get_run(run_id))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(f"run {run_id}: not in the tracking store {mlflow.get_tracking_uri()}") from None


def download(run_id: str, path: str, target: Path) -> Path:
    """An artifact of a run as a local file.

    Raises:
        UserError: the run has no such artifact, or it may not be read.
    """
    target.mkdir(parents=True, exist_ok=True)
    try:
        fetch = partial(artifacts_of(run_id).download_artifacts, path, str(target))
        return Path(patiently(fetch, moves_files=True))
    except PermissionError as error:
        raise UserError(f"run {run_id}: artifact {path}: {told(error).line}") from error
    except (MlflowException, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 404)  # of a server
        if getattr(error, "errno", None) not in (None, errno.ENOENT) or status != 404:
            raise
        raise UserError(f"run {run_id} has no artifact {path}") from error


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
