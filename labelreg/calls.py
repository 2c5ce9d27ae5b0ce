"""How MLflow is called: patiently, and with a limit where the training would wait."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests

from labelreg import patience
from labelreg.patience import Point, Result

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # its retries (4 minutes a call) would stop the training
import mlflow
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

# "creating initial tables" is no news, and a locked database is tried again
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
ANSWER_SECONDS = 10  # a tracking server that does not answer within this time is not there


def deliver(run_id: str, points: list[Point], seconds: float | None = None) -> None:
    with timeout(seconds):
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


def patiently(call: Callable[[], Result], seconds: float | None = None) -> Result:
    with timeout(seconds):
        return patience.keep_trying(call, passes, seconds)


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
