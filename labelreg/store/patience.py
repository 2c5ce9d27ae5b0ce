"""How MLflow is called: patiently, as its store may be busy or away for minutes, and metrics wait on disk meanwhile."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Concatenate, ParamSpec, TypeVar

import requests

from labelreg import whole
from labelreg.errors import StoreLostError, UserError
from labelreg.output import words_of
from labelreg.store import signals

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # its retries (4 minutes a call) would stop the training
import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

# "creating initial tables" is no news, and a locked database is tried again
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
VARIABLE = "LABELREG_STORE_SECONDS"  # how long a store may be away
DEFAULT_SECONDS = 600.0
CLOSING_SECONDS = 2.0  # for what an interrupted run still has to say
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds between two tries; doubled, and drawn so that workers spread
CHANCE = SystemRandom()  # what training draws from starts alike in workers, and is not drawn from beside it
SAID_AFTER = 3.0  # seconds; shorter waits are no news
ANSWER_SECONDS, SHORTEST_ANSWER_SECONDS = 10.0, 1.0  # for a server to answer; of one that was away just now
MOST_WAITING = 0.05  # of a training's time, for a store that hangs

Given = ParamSpec("Given")
Result = TypeVar("Result")
Call = Callable[Concatenate[MlflowClient, Given], Result]  # a method of the client, or a function like one
Point = tuple[str, float, int, int]  # metric, value, milliseconds since 1970, step
_seconds: ContextVar[float | None] = ContextVar("seconds", default=None)  # of `within`


def client() -> MlflowClient:
    return MlflowClient()


def patiently(call: Call[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
    """What a method of MLflow's client returns, called again while the store is busy or away (`keep_trying`).

    A signal that comes meanwhile waits for the call's end where the store is a database (`undivided`).
    """

    def whole() -> Result:
        with undivided():
            return call(client(), *given, **named)

    return keep_trying(whole, passes, _seconds.get())


def moving(call: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
    """As `patiently`, of what moves files (`artifacts_of`): it may take long, and is interrupted where it is."""
    return keep_trying(lambda: call(*given, **named), passes, _seconds.get())


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Calls made here have these seconds, where others have `limit()` (None: they, too).

    A server has as many for each answer, in whole ones; MLflow would give it two minutes.
    """
    token, before = _seconds.set(seconds), os.environ.get(TIMEOUT)
    if seconds is not None:
        os.environ[TIMEOUT] = str(min(max(1, math.ceil(seconds)), int(before or ANSWER_SECONDS)))
    try:
        yield
    finally:
        _seconds.reset(token)
        os.environ.pop(TIMEOUT, None) if before is None else os.environ.__setitem__(TIMEOUT, before)


def keep_trying(
    call: Callable[[], Result], passes: Callable[[Exception], bool], seconds: float | None = None
) -> Result:
    """What `call` returns; it is called again while its errors are such that pass with time.

    Args:
        passes: whether an error may be gone at a later call.
        seconds: the time after which no new call is made; None: `limit()`.

    Raises:
        StoreLostError: no call within that time succeeded.
    """
    allowed = limit() if seconds is None else seconds
    began, pause, said = time.monotonic(), FIRST_PAUSE, False
    while True:
        try:
            return call()
        except Exception as error:
            if not passes(error):
                raise
            waited = time.monotonic() - began
            if waited >= allowed:
                raise lost(waited, error) from None
            if waited >= SAID_AFTER and not said:
                said = True
                print(f"waiting for the tracking store, up to {allowed:.0f} s: {words_of(error)}", flush=True)
        # eight workers that found the database locked at one moment would find it so again at the next
        time.sleep(min(pause * CHANCE.uniform(0.5, 1), max(0.0, allowed - waited)))
        pause = min(2 * pause, LONGEST_PAUSE)


def limit() -> float:
    """Seconds for which a store may be away: LABELREG_STORE_SECONDS, or ten minutes.

    Raises:
        UserError: the variable is no number of at least 0.
    """
    text = os.environ.get(VARIABLE) or DEFAULT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{VARIABLE}={text}: allowed is a number of seconds of at least 0")
    return seconds


def lost(seconds: float, error: Exception) -> StoreLostError:
    """The end of patience, in one line."""
    return StoreLostError(
        f"the tracking store was away for {seconds:.0f} s ({words_of(error)}): stopped; the same command goes on later"
    )


def locked(error: Exception) -> bool:
    return "database is locked" in str(error)


def passes(error: Exception) -> bool:
    """Whether a later call may succeed: the database has another writer, or the server does not answer."""
    if locked(error) or any(words in str(error) for words in ("Max retries exceeded", "Connection broken")):
        return True  # no connection, an answer such as 503, half a file: MLflow keeps the text, not the type
    inner = error.__cause__ if isinstance(error, MlflowException) else error
    if isinstance(inner, requests.ConnectionError | requests.Timeout):
        return True
    away = isinstance(error, MlflowException) and error.error_code == "TEMPORARILY_UNAVAILABLE"
    return away and not mlflow.get_tracking_uri().startswith("sqlite")  # there it is a full disk, a missing file


def undivided() -> AbstractContextManager:
    """A signal that comes meanwhile is heard at the end, where the store is a database: its calls are short."""
    return nullcontext() if mlflow.get_tracking_uri().startswith("http") else signals.undivided()


def artifacts_of(run_id: str) -> ArtifactRepository:
    """Where a run's files are.

    MLflow's own calls with a run's id ask the database in the middle of a transfer, which may be interrupted, and make
    a missing file of any error.
    """
    uri = patiently(MlflowClient.get_run, run_id).info.artifact_uri
    return get_artifact_repository(uri, mlflow.get_tracking_uri())


def send(store: ArtifactRepository, local: Path, path: str | None = None) -> None:
    """Store a folder's files, each of them patiently; MLflow copies them with their rights."""
    files = sorted(each for each in local.rglob("*") if each.is_file())
    for file in files:  # libraries write weights for their owner alone, and a store may have other readers
        whole.give_rights(file)
    for file in files:
        at = Path(path or "", file.parent.relative_to(local)).as_posix()
        moving(store.log_artifact, str(file), None if at == "." else at)


def check_server(uri: str) -> None:
    """Ask a server how it is, with the credentials that MLflow itself uses."""
    said = f"MLFLOW_TRACKING_URI={uri}: the tracking server"
    host = get_default_host_creds(uri)
    try:
        answer = http_request(host, "/health", "GET", max_retries=0, timeout=ANSWER_SECONDS, raise_on_status=False)
    except (MlflowException, requests.RequestException) as error:
        why = type(error.__cause__ or error.__context__ or error).__name__
        raise UserError(f"{said} does not answer ({why})") from None
    if answer.status_code in (401, 403):
        way = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        raise UserError(f"{said} refuses this user ({answer.status_code} {answer.reason}); give {way}")
    if not answer.ok:
        raise UserError(f"{said} does not answer ({answer.status_code} {answer.reason}): is the address whole?")


def deliver(run_id: str, points: list[Point], seconds: float) -> None:
    """Log metrics now or not at all; a server has these seconds for its answer."""
    with within(seconds), undivided():
        client().log_batch(run_id, as_metrics(points))


def as_metrics(points: list[Point]) -> list[Metric]:
    return [Metric(name, value, at, step) for name, value, at, step in points]


@dataclass
class Spool:
    """The metrics of one run that its store has not taken yet, oldest first, in a file of one JSON list a line.

    A point is on disk before it is sent. One that is delivered twice (the answer was lost, the process died) counts
    once: its time is written down with it, and MLflow keeps one of two points that agree in metric, step, value and
    time. A store that hangs is waited for once; then it is asked shortly and rarely, while the training goes on.
    """

    path: Path
    deliver: Callable[[list[Point], float], None]  # the points, and the seconds that an answer may take
    passes: Callable[[Exception], bool]
    since: float = 0.0  # monotonic seconds: the first failure
    again: float = 0.0  # the next try
    pause: float = FIRST_PAUSE
    answer: float = ANSWER_SECONDS

    def put(self, points: list[Point]) -> None:
        """Deliver `points` after those that wait; where the store is away, they wait on disk.

        Raises:
            StoreLostError: it has been away for longer than `limit()`.
        """
        self._append(points)  # first: a process that is killed while it sends has lost nothing
        began = time.monotonic()
        if began < self.again:
            return
        try:
            self._send(self.answer)
        except Exception as error:
            if not self.passes(error):
                raise
            now = time.monotonic()
            # a store that hung once is asked shortly, then ever longer: a slow one must be able to answer in the end
            self.answer = min(2 * self.answer, ANSWER_SECONDS) if self.since else SHORTEST_ANSWER_SECONDS
            self.since = self.since or began
            if now - self.since >= limit():
                raise lost(now - self.since, error) from None
            # what this try cost the training is at most its share of the time until the next one
            pause = max(self.pause * CHANCE.uniform(0.5, 1), (now - began) / MOST_WAITING)
            self.again = min(now + pause, self.since + limit())  # the last try is at the limit, not after it
            self.pause = min(2 * self.pause, LONGEST_PAUSE)

    def flush(self) -> None:
        """Deliver all that waits, however long it takes up to `limit()` after the first failure, or `within` the time.

        Raises:
            StoreLostError: the store did not come back in time.
        """
        if not self.path.exists():
            return
        gone = time.monotonic() - self.since if self.since else 0.0
        seconds = _seconds.get()
        allowed = max(0.0, limit() - gone) if seconds is None else seconds
        keep_trying(lambda: self._send(max(1.0, min(ANSWER_SECONDS, allowed))), self.passes, allowed)

    def _send(self, seconds: float) -> None:
        self.deliver(self._read(), seconds)  # a kill between these two lines delivers twice, which counts once
        self.path.unlink(missing_ok=True)
        self.since, self.again, self.pause, self.answer = 0.0, 0.0, FIRST_PAUSE, ANSWER_SECONDS

    def _append(self, points: list[Point]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(point)}\n" for point in points)
            file.flush()  # from Python to the system,
            os.fsync(file.fileno())  # and to the disk: an epoch's numbers outlive a machine that loses its power

    def _read(self) -> list[Point]:
        """The points on disk. The last line may have been cut off by a kill: its epoch is trained again."""
        try:
            *whole, _ = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        points = [_point(line) for line in whole]
        if None in points:
            print(f"{self.path}: {points.count(None)} of {len(points)} lines are damaged: left out", flush=True)
        return [point for point in points if point is not None]


def _point(line: bytes) -> Point | None:
    """A line of a spool, or None where it is damaged."""
    try:
        name, value, at, step = json.loads(line)
        return str(name), float(value), int(at), int(step)
    except (ValueError, TypeError, RecursionError):
        return None
