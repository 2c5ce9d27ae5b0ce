"""How MLflow is called: patiently, and with a limit where the training would wait."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import requests

from labelreg.errors import UserError
from labelreg.store import patience, signals, sqlite
from labelreg.store.patience import Point, Result

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # its retries (4 minutes a call) would stop the training
import mlflow
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

# "creating initial tables" is no news, and a locked database is tried again
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
ANSWER_SECONDS = 10  # a tracking server that does not answer within this time is not there


def deliver(run_id: str, points: list[Point], seconds: float | None = None) -> None:
    with timeout(seconds), undivided():
        client().log_batch(run_id, metrics=[Metric(name, value, at, step) for name, value, at, step in points])


@contextmanager
def timeout(seconds: float | None) -> Iterator[None]:
    """Seconds that a server has for each answer, where MLflow gives it two minutes; rounded up to whole ones."""
    before = os.environ.get(TIMEOUT)
    if seconds is not None:
        os.environ[TIMEOUT] = str(min(max(1, math.ceil(seconds)), int(before or ANSWER_SECONDS)))
    try:
        yield
    finally:
        os.environ.pop(TIMEOUT, None) if before is None else os.environ.__setitem__(TIMEOUT, before)


def undivided() -> AbstractContextManager:
    """A signal that comes meanwhile is heard at the end, where the store is a database: its calls are short."""
    return nullcontext() if mlflow.get_tracking_uri().startswith("http") else signals.undivided()


def patiently(call: Callable[..., Result], seconds: float | None = None, moves_files: bool = False) -> Result:
    """What a call to the store returns, called without arguments (a lambda in a loop holds its own as defaults); one
    that moves files may take long, and is interrupted where it is."""

    def whole() -> Result:
        with undivided():
            return call()

    with timeout(seconds):
        return patience.keep_trying(call if moves_files else whole, passes, seconds)


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


def client() -> "mlflow.MlflowClient":
    return mlflow.MlflowClient()


def artifacts_of(run_id: str) -> ArtifactRepository:
    """Where a run's files are.

    MLflow's own calls with a run's id ask the database in the middle of a transfer, which may be interrupted, and make
    a missing file of any error.
    """
    uri = patiently(lambda: client().get_run(run_id)).info.artifact_uri
    return get_artifact_repository(uri, mlflow.get_tracking_uri())


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


def make_tables(uri: str) -> None:
    """The tables of a SQLite store, whole before MLflow looks at them: what it finds half made it never mends."""
    path = sqlite.file_of(uri) if uri.startswith("sqlite") else None
    if not path:
        return
    from mlflow.store.db import utils

    def make(url: str) -> None:
        engine = utils.create_sqlalchemy_engine(url)
        utils._initialize_tables(engine)  # what MLflow does with a new file, and with an old one that lacks tables
        engine.dispose()

    mine = "EXISTS (SELECT 1 FROM runs) OR EXISTS (SELECT 1 FROM experiments WHERE experiment_id != 0)"
    try:
        sqlite.complete(path, utils.Base.metadata.tables, mine, make)
    except UserError as error:
        raise UserError(f"tracking store {uri}: {error}") from None
