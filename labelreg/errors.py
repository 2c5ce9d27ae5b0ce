"""How a run or a study can end badly, and the one line that a person is told of it.

`told` makes that line of any exception: in every entry point, in worker processes, and in the note of a failed run.
"""

import contextlib
import difflib
import errno
import os
import re
import sys
import tempfile
import traceback
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from labelreg.output import masked, one_line, shortened

USER_ERROR, RUN_FAILED, STUDY_FAILED, INTERRUPTED, UNEXPECTED = 2, 3, 4, 130, 1
ROOM_BYTES = 2**20  # a disk with less has none


class UserError(ValueError):
    """A user's mistake: one line that says what was given and what is allowed (exit status 2)."""

    exit_status = USER_ERROR


class DivergedError(RuntimeError):
    """The loss is no longer finite: the run is marked FAILED (exit status 3)."""

    exit_status = RUN_FAILED


class StoreLostError(RuntimeError):
    """The tracking store was away for too long: what runs ends as interrupted (exit status 130), and goes on later."""

    exit_status = INTERRUPTED


class IncompleteError(RuntimeError):
    """Runs of a study failed, all others are done: its run is marked FAILED (exit status 4)."""

    exit_status = STUDY_FAILED


def unknown(
    kind: str, given: str, allowed: Iterable[str], called: Mapping[str, str] = {}, listed_by: str = ""
) -> UserError:
    """The error for a name that is not in a list, with the nearest name that is.

    called: names by what else they are called. listed_by: the command that lists them, where a line is too short.
    """
    names = sorted(allowed)
    ways = {**dict(zip(names, names, strict=True)), **called}
    nearest = difflib.get_close_matches(given[:100].lower(), ways, n=1, cutoff=0.4)
    hint = f"; did you mean {ways[nearest[0]]!r}?" if nearest else "."
    known = f"`{listed_by}` lists them" if listed_by else f"Known: {', '.join(names)}"
    return UserError(f"unknown {kind} {shortened(given)!r}{hint} {known}")


def looks(name: str) -> str:
    """A name as eyes take it: one form for each accented letter and digit, no invisible characters, no case."""
    seen = "".join(each for each in unicodedata.normalize("NFKC", name) if unicodedata.category(each) != "Cf")
    return " ".join(seen.casefold().split())


# What is told of an exception


class Told(NamedTuple):
    """One line, and the exit status that goes with it."""

    line: str
    status: int


def told(error: BaseException) -> Told:
    """What a person is told of an exception; told twice, it is the same.

    A mistake or an end that labelreg foresees has a line of its own. What the system, a store or a library refuses
    for its sake is a line with the path and the way out (status 2; where memory ended, a run has failed: 3). What
    remains is a defect: its line names a file with the traceback (status 1).
    """
    before = getattr(error, "labelreg_told", None)
    if isinstance(before, Told):
        return before
    telling = foreseen(error) or _defect(error)
    with contextlib.suppress(AttributeError):  # a class with slots
        error.labelreg_told = telling  # type: ignore[attr-defined]  # ours, on an exception of anybody's
    return telling


def foreseen(error: BaseException) -> Told | None:
    """What is told of an exception that is no defect of labelreg; None of one that is."""
    status = getattr(error, "exit_status", None)
    if status is not None:
        return Told(one_line(str(error)), status)
    chain = sorted(_chain(error), key=lambda each: _package(each) != "sqlite3")  # it says what its wrappers quote
    return next(filter(None, map(_refused, chain)), None)


_WRAPPERS = ("mlflow", "sqlalchemy", "optuna", "requests", "urllib3", "safetensors_rust", "pyarrow")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from; what it was raised beside counts where a library wraps it."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop(0)
        if each is None or any(each is other for other in seen):
            continue
        seen.append(each)
        yield each
        wraps = _package(each) in _WRAPPERS
        todo += [getattr(each, "orig", None), each.__cause__, each.__context__ if wraps else None]


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


ANOTHER_PLACE = "name another place (output_dir, LABELREG_CACHE_ROOT, MLFLOW_TRACKING_URI, TMPDIR)"
_WAYS_OUT = {
    errno.EACCES: "user {user} may not do that there; change the owner or the rights",
    errno.EPERM: "user {user} may not do that there; change the owner, the rights or the attributes",
    errno.EROFS: "nothing can be written there; " + ANOTHER_PLACE,
    errno.ENOSPC: "make room, or " + ANOTHER_PLACE + "; the same command goes on later",
    errno.EDQUOT: "make room, or " + ANOTHER_PLACE + "; the same command goes on later",
    errno.EFBIG: "the limit is that of `ulimit -f`, or of the file system",
    errno.EISDIR: "a file is needed there",
    errno.ENOTDIR: "a folder is needed there, and a part of the path is a file",
    errno.EEXIST: "a folder is needed there, and a file has that name",
    errno.EMFILE: "`ulimit -n` allows too few; raise it, or run fewer jobs at a time",
    errno.ENOMEM: "give a smaller batch_size or max_length, or run fewer jobs at a time",
    errno.EAGAIN: "`ulimit -u` allows too few processes or threads; run fewer jobs at a time",
    errno.EIO: "the disk, or the way to it, fails",
}
_SQLITE = {  # SQLite's own names of its errors
    "SQLITE_FULL": errno.ENOSPC,
    "SQLITE_READONLY": errno.EACCES,
    "SQLITE_PERM": errno.EACCES,
    "SQLITE_IOERR": errno.EIO,
    "SQLITE_CANTOPEN": errno.ENOENT,
}
_RUST = re.compile(r"\(os error (\d+)\)")  # how safetensors and tokenizers pass on what the system says


def refusal(error: OSError) -> str:
    """What the system refuses, and the way out, without the path."""
    words = error.strerror or " ".join(str(error).split()) or type(error).__name__
    way = _WAYS_OUT.get(error.errno or 0, "")
    user = os.geteuid() if hasattr(os, "geteuid") else "of this process"
    return words + (f": {way.format(user=user)}" if way else "")


def _refused(error: BaseException) -> Told | None:
    """What is told of an error for which no defect of labelreg is to blame; None of others."""
    package, name, words = _package(error), type(error).__name__, " ".join(str(error).split())
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in words:
        return Told(one_line(f"no memory is left ({words or name}): {_WAYS_OUT[errno.ENOMEM]}", 600), RUN_FAILED)
    if package == "requests":
        return _told(f"{_store()} or another server does not answer: {name}: {words}")
    if isinstance(error, OSError) and error.errno:
        path = error.filename if error.filename2 is None else error.filename2
        place = f"{_parameter(path)}{os.fsdecode(path)}: " if isinstance(path, str | bytes) else _full(error.errno)
        return _told(f"{place}{refusal(error)}")
    if rust := _RUST.search(words):
        return _told(f"{_full(int(rust[1]))}{refusal(OSError(int(rust[1]), words))}")
    if package == "sqlite3":
        number = _SQLITE.get("_".join(str(getattr(error, "sqlite_errorname", "")).split("_")[:2]))
        way = refusal(OSError(number, "")).partition(": ")[2] if number else ""
        return _told(f"{_store()}, or another database: {words}" + (f": {way}" if way else ""))
    if name == "OperationalError" and hasattr(error, "pgcode"):
        return _told(f"the database refuses: {words}")
    return _told(_of_mlflow(error, words)) if name in ("MlflowException", "RestException") else None


def _told(line: str) -> Told | None:
    return Told(one_line(line, 1000), USER_ERROR) if line else None


given_places: dict[str, object] = {}  # the parameters of this command, and the variables that stand for some


def _parameter(path: str | bytes) -> str:
    """Which of the parameters a path comes from, as `name=value: `."""
    for name, value in given_places.items():
        if isinstance(value, str) and value and Path(os.fsdecode(path)).is_relative_to(os.path.expanduser(value)):
            return f"{name}={value}: " if value != os.fsdecode(path) else f"{name}="
    return ""


def _full(number: int) -> str:
    """Where the disk is full, among the places that a command may write to: the error of a write names no file."""
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    full = []
    named = {"TMPDIR": tempfile.gettempdir(), "working folder": os.getcwd()} | given_places
    for name, value in named.items():
        path = Path(os.path.expanduser(str(value)))
        with contextlib.suppress(OSError):
            while not path.exists():
                path = path.parent
            room = os.statvfs(path)
            if path.is_absolute() and (room.f_bavail * room.f_frsize < ROOM_BYTES or not room.f_favail):
                full.append(f"{name}={value}")
    return f"{', '.join(full)}: " if full else ""


def _store() -> str:
    """The tracking store in words, if this process has one."""
    mlflow = sys.modules.get("mlflow")
    return f"tracking store {mlflow.get_tracking_uri()}" if mlflow else "the tracking store"


_ANSWERS = {  # of a server, by MLflow's codes
    "UNAUTHENTICATED": "give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "PERMISSION_DENIED": "this user may not; ask the server's owner",
    "RESOURCE_DOES_NOT_EXIST": "it was deleted for good, or is in another store",
    "TEMPORARILY_UNAVAILABLE": "the same command goes on when it is back",
    "ENDPOINT_NOT_FOUND": "is it an MLflow server?",
}


_STATUSES = {"401": "UNAUTHENTICATED", "403": "PERMISSION_DENIED", "404": "ENDPOINT_NOT_FOUND"}


def _of_mlflow(error: BaseException, words: str) -> str:
    if "must be in the 'active' state" in words or "is in deleted state" in words:
        return f"{_store()}: {words}: it was deleted; `{restoring(words)}` brings it back"
    status = re.search(r"error code (\d{3})\b", words)  # of an answer that is not MLflow's
    code = str(status and _STATUSES.get(status[1]) or getattr(error, "error_code", ""))
    if "API request" in words or "<html" in words.lower():
        return f"{_store()}: {words}: " + _ANSWERS.get(code, "is it an MLflow server, and well?")
    return f"{_store()}: {words}: {_ANSWERS[code]}" if code in _ANSWERS else ""


def restoring(words: str) -> str:
    """The command that brings back the run or the experiment that MLflow's words name as deleted."""
    run, experiment = re.search(r"\b[0-9a-f]{32}\b", words), re.search(r"[Ee]xperiment\D*(\d+)", words)
    if run and "run" in words.lower():
        return f"mlflow runs restore --run-id {run[0]}"
    return f"mlflow experiments restore --experiment-id {experiment[1] if experiment else 'ID'}"


def _defect(error: BaseException) -> Told:
    """The line of what was not foreseen. The traceback lies in a file that only this user reads."""
    where = traceback.extract_tb(error.__traceback__)
    at = f" at {Path(where[-1].filename).name}:{where[-1].lineno}" if where else ""
    text = "".join(traceback.format_exception(error))
    try:
        number, path = tempfile.mkstemp(prefix="labelreg-", suffix=".traceback.txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(masked(f"{sys.argv}\n\n{text}"))
        kept = f"traceback: {path}"
    except OSError as why:
        kept = f"the traceback could not be kept: {why.strerror}"
    words = one_line(str(error), 600)
    return Told(one_line(f"unexpected {type(error).__name__}: {words}{at} ({kept})"), UNEXPECTED)
