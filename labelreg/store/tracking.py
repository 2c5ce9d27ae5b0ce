"""MLflow, as labelreg uses it: opening runs, writing the contract's names, finding runs. records.py reads many of them.

Every call goes through `patiently`: a SQLite store takes one writer at a time, and a server may be away for minutes.
"""

import contextlib
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
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from labelreg.errors import StoreLostError, UserError, foreseen, told, unknown
from labelreg.output import masked, one_line
from labelreg.parameter import Value
from labelreg.store import logged, patience, sqlite, views
from labelreg.store.patience import Spool, client, deliver, patiently

if TYPE_CHECKING:
    from labelreg.store import checkpoint

KIND, FINGERPRINT, STUDY, DATA = "labelreg.kind", "labelreg.fingerprint", "labelreg.study", "labelreg.data"
INTENT, CONTINUED = "labelreg.intent", "labelreg.continued_in"
WEIGHTS = "labelreg.weights"  # registry.weights_digest of the model that the run began with
REST = "labelreg.rest"  # the digest of the rows that a run is tested on beyond its test set
PLAN, VERDICT, PARENT = "labelreg.plan", "labelreg.verdict", "mlflow.parentRunId"
NOTE, TUNED = "mlflow.note.content", "labelreg.tuned_seeds"
RESTORED = "labelreg.restored"  # the run of another store that this one stands for, made from a table of scores
EXPORTED, EXPORTED_TAG = "exported/", "labelreg.exported_"  # of it: what else the table says, of metrics and texts
Found = mlflow.entities.Run  # a run as the store has it: read alone
ONE_CLASS = "labelreg.one_class"  # the class that the run gives every example; a run that learnt has no such tag
METHOD_FILE = "labelreg.method_file"  # FILE.py:FUNCTION of a method of one's own; of a study, comma-separated
NEVER = "labelreg.never_predicted"  # of a run that learnt: classes that it gives no example, comma-separated


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
        held = {name: masked(v) for name, v in patiently(MlflowClient.get_run, self.run_id).data.params.items()}
        values = {name: masked(value) if isinstance(value, str) else value for name, value in values.items()}
        texts = {name: logged.plain(value) for name, value in values.items() if value is not None}
        # `mlflow run` logged the user's words before labelreg read them: both must mean what the run uses
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

    def tags(self, values: Mapping[str, str]) -> None:
        self._log([], values)

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
            patiently(MlflowClient.log_batch, self.run_id, patience.as_metrics(points))

    def folder(self, local: Path, path: str | None = None) -> None:
        """Store a folder's files as artifacts, each of them patiently."""
        patience.send(patience.artifacts_of(self.run_id), local, path)

    def data(self, name: str, digest: str, source: str) -> None:
        """Name the data set in MLflow's own way, with labelreg's digest of all examples."""
        dataset = Dataset(name, digest, "labelreg", json.dumps({"source": source}))
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        try:
            patiently(MlflowClient.log_inputs, self.run_id, inputs)
        except MlflowException:  # another worker has just registered the same data set; it is there now
            patiently(MlflowClient.log_inputs, self.run_id, inputs)

    def note(self, line: str) -> None:
        self.tags({NOTE: line})

    def _log(self, params: list[Param], tags: Mapping[str, str]) -> None:
        named = [RunTag(name, masked(value)) for name, value in tags.items()]
        patiently(MlflowClient.log_batch, self.run_id, params=params, tags=named)


def connect() -> None:
    """Check that the tracking store can be used, before anything is prepared.

    Raises:
        UserError: a server that does not answer within seconds, or a store that does not open.
    """
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        patience.check_server(uri)
    try:
        sqlite.make_tables(uri)
        experiment = patience.keep_trying(lambda: client().get_experiment(current_experiment()), patience.locked)
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
    views.keep(experiment)


def _deleted(experiment: "mlflow.entities.Experiment") -> UserError:
    return UserError(
        f"experiment {experiment.name} (id {experiment.experiment_id}) was deleted; `mlflow experiments restore "
        f"--experiment-id {experiment.experiment_id}` brings it back, MLFLOW_EXPERIMENT_NAME names another"
    )


def address() -> str:
    """The tracking store, as a process with another working folder names it."""
    return sqlite.absolute(mlflow.get_tracking_uri())


def current_experiment() -> str:
    """The id of MLflow's current experiment: that of the run that `mlflow run` opened, else Default."""
    if "MLFLOW_RUN_ID" in os.environ:
        return patiently(MlflowClient.get_run, os.environ["MLFLOW_RUN_ID"]).info.experiment_id
    if "MLFLOW_EXPERIMENT_ID" in os.environ:  # first: `mlflow run` sets it beside a name of the caller's shell
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    return patiently(_named, name) if name else "0"


def _named(store: MlflowClient, name: str) -> str:
    known = store.get_experiment_by_name(name)
    if known:
        return known.experiment_id
    try:
        return store.create_experiment(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        known = store.get_experiment_by_name(name)  # another process was faster
        if known is None:
            raise
        return known.experiment_id


def experiment_id(name: str | None) -> str:
    """An experiment by name or id; None is the current one.

    Raises:
        UserError: it does not exist (with the nearest name).
    """
    if name is None:
        return current_experiment()
    everything = patiently(lambda _: mlflow.search_experiments(view_type=ViewType.ALL))
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
    return patiently(MlflowClient.get_experiment, experiment).name


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
    # taken out of the environment: MLflow would make the next run of this process, and those of its workers, the same
    launch = os.environ.pop("MLFLOW_RUN_ID", None) if parent is None else None
    run_id, before, waiting = None if continued else launch, None, None
    # on disk before the run is made: who is killed before he notes its id finds it again by this name
    intent = claim.intend() if claim and not continued else None
    try:
        if continued:
            before = _before(continued)
            if launch:
                Run(launch).tags({KIND: "launch", CONTINUED: continued})
        run_id = continued or launch or create(name, parent, experiment, intent=intent)
        if claim:  # before the first epoch: a checkpoint without its run's id would begin another run
            claim.start(run_id)
        nested = mlflow.active_run() is not None
        patiently(lambda _: mlflow.start_run(run_id=run_id, nested=nested, run_name=None if continued else name))
        if spool:
            waiting = Spool(spool / f"{run_id}.jsonl", partial(deliver, run_id), patience.passes)
            waiting.flush()  # what was left by the process before; `_held` counts it as logged
        run = Run(run_id, _held(run_id) if before else frozenset(), before is not None, waiting)
        why_failed = {NOTE: ""} if before and before.info.status == "FAILED" else {}
        run.tags({KIND: kind} | ({STUDY: study} if study else {}) | why_failed)
        yield run
        if waiting:
            waiting.flush()
    except BaseException as error:
        _close(run_id, intent, error, waiting, before, launch)
        raise
    end_run(run_id, "FINISHED")


def create(
    name: str,
    parent: str | None,
    experiment: str | None,
    tags: Mapping[str, str] | None = None,
    intent: str | None = None,
    began: int | None = None,
) -> str:
    """The id of a new run, which `began` (ms) now or then. One whose answer was lost on the way is found again, by its
    intent, and not made twice."""
    where, intent = experiment or current_experiment(), intent or uuid.uuid4().hex
    own = {INTENT: intent} | ({PARENT: parent} if parent else {})
    tags, tries = resolve_tags(dict(tags or {}) | own), itertools.count()
    began = int(time.time() * 1000) if began is None else began

    def made(store: MlflowClient) -> str:
        there = _intended(store, intent) if next(tries) else None  # nothing to look for before the first try
        return there.info.run_id if there else store.create_run(where, began, dict(tags), name).info.run_id

    return patiently(made)


def _intended(store: MlflowClient, intent: str) -> Found | None:
    """The run that was made by this intent, where it was."""
    return next(iter(store.search_runs(experiments(), tagged({INTENT: intent}))), None)


def _before(continued: str) -> Found:
    """The run that is gone on with. Launches that were killed while they did so end: its claim is ours."""
    where = f"{tagged({CONTINUED: continued})} and attributes.status = 'RUNNING'"
    for launch in search(where):
        patiently(MlflowClient.set_terminated, launch.info.run_id, "KILLED")
    return patiently(MlflowClient.get_run, continued)


def _held(run_id: str) -> frozenset[tuple[str, int]]:
    """The (metric, step) that a run holds, those among them that waited on disk until now."""

    def held(store: MlflowClient) -> frozenset[tuple[str, int]]:
        names = store.get_run(run_id).data.metrics
        return frozenset((name, point.step) for name in names for point in store.get_metric_history(run_id, name))

    return patiently(held)


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
    # a store that is lost is asked once more, in vain or not; who pressed Ctrl-C waits for seconds, not for minutes
    seconds = 0.0 if gone else patience.CLOSING_SECONDS if interrupted else None
    ends: list[Callable[[], None]] = [waiting.flush] if waiting else []
    status = "KILLED" if interrupted else "FAILED"
    if before is not None and isinstance(error, UserError):  # of this command: the run that waits has no part in it
        status = "FAILED" if before.info.status == "FAILED" else "KILLED"
        if NOTE in before.data.tags and run_id:
            ends.append(lambda: Run(run_id).note(before.data.tags[NOTE]))
        if launch:
            ends.append(lambda: Run(launch).note(told(error).line))
    elif not interrupted and run_id:
        ends.append(lambda: Run(run_id).note(told(error).line))

    def end() -> None:
        made = _intended(client(), intent) if intent and not run_id else None
        if own := made.info.run_id if made else run_id:
            end_run(own, status)

    for call in (*ends, end):  # the store may be what failed; a later signal is heard all the same
        with contextlib.suppress(Exception), patience.within(seconds):
            call()


def end_run(run_id: str, status: str) -> None:
    """A run has ended, whether MLflow counts it as the active one or not."""
    active = mlflow.active_run()
    if active and active.info.run_id == run_id:
        with contextlib.suppress(Exception), patience.undivided():
            mlflow.end_run(status)  # takes the run from MLflow's list of active ones, whatever the store says
            return
    patiently(MlflowClient.set_terminated, run_id, status)


def end_left(study: str) -> None:
    """Runs of a study none of whose workers is at work have failed: whoever was killed at one could not end it, and its
    seed was tried."""
    for run in search(f"{tagged({PARENT: study})} and attributes.status = 'RUNNING'"):
        Run(run.info.run_id).note("its worker process ended")
        end_run(run.info.run_id, "FAILED")


def delete(run_id: str) -> None:
    """Take a run out of what is read (`mlflow runs restore` brings it back)."""
    patiently(MlflowClient.delete_run, run_id)


def note_failure(line: str) -> None:
    """Put the reason on the run that `mlflow run` opened, when a command ends before it opened a run."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        with contextlib.suppress(Exception):  # the store is what failed; the line is on the terminal
            client().set_tag(run_id, NOTE, line)


def find(where: str) -> list[Found]:
    """Finished runs of the store that match a filter, oldest first."""
    return search(f"attributes.status = 'FINISHED' and {where}")


def search(where: str, order: str = "ASC") -> list[Found]:
    """Runs of the store that match a filter, whatever their status, by the time of their start."""
    by = [f"attributes.start_time {order}"]
    return patiently(lambda _: mlflow.search_runs(experiments(), where, order_by=by, output_format="list"))


def ended(claim: "checkpoint.Claim") -> Found | None:
    """The run that finished under a claim whose process was killed before it gave the claim up; `mlflow run`'s own
    run is a launch then."""
    for run_id in claim.run_ids[:1]:
        where = f"attributes.run_id = '{run_id}' and attributes.status = 'FINISHED'"
        for run in search(where):
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
        runs = search(f"attributes.run_id = '{run_id}'")
        if not runs:  # another store's, or deleted: its checkpoint is put aside, not thrown away
            unknown.append(run_id)
        elif resume and runs[0].info.status != "FINISHED":
            return run_id
        else:
            _sweep(runs[0])
            claim.drop(run_id)
    intent = claim.intended  # of a run that was made, whose maker was killed before he noted its id
    orphan = patiently(_intended, intent) if intent else None
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
        patiently(MlflowClient.set_terminated, run.info.run_id, "KILLED")


def get(run_id: str) -> Found:
    """A run by id.

    Raises:
        UserError: there is no such run in this store.
    """
    try:
        return patiently(MlflowClient.get_run, run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(f"run {run_id}: not in the tracking store {mlflow.get_tracking_uri()}") from None


def tagged(tags: Mapping[str, str]) -> str:
    """MLflow's filter for runs with these tags; it raises as `having` does."""
    return having({f"tags.`{name}`": value for name, value in tags.items()})


def having(values: Mapping[str, str]) -> str:
    """MLflow's filter for runs with these values of params.NAME or tags.NAME. It knows no escapes, but two quotes.

    Raises:
        UserError: a value holds both of them.
    """
    both = [value for value in values.values() if "'" in value and '"' in value]
    if both:
        raise UserError(f"{both[0]}: a name with both kinds of quotes cannot be searched for; rename it")
    quoted = {name: f'"{value}"' if "'" in value else f"'{value}'" for name, value in values.items()}
    return " and ".join(f"{name} = {value}" for name, value in quoted.items())


def experiments() -> list[str]:
    return [experiment.experiment_id for experiment in mlflow.search_experiments()]
