"""What is printed and logged: it holds no passwords and commands no terminal, and a reader who leaves ends no work."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from tqdm import tqdm

LONGEST_LINE = 4000  # characters of what is told; MLflow keeps 8000 of a tag
_IN_URI = re.compile(r"(://)[^/\s'\"<>]*@")
_WITHOUT_SCHEME = re.compile(r"(?<![\w.%+-])[\w.%+-]+:[^\s/@'\"<>]+@(?=[\w\[])")  # user:password@proxy, a mistyped URI
_NO_SECRET = "viewStateShareKey="  # names a view of the MLflow UI (store/views.py)
_IN_QUERY = re.compile(
    rf"([?&](?!{_NO_SECRET})[^=&\s]*(?:pass|pwd|token|secret|key|signature)[^=&\s]*=)[^&\s'\"<>]+", re.IGNORECASE
)
_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_SHORTEST_SECRET = 4  # a shorter one would be found in the middle of words


def masked(text: str) -> str:
    """`text` without the user information of the URIs in it, and without the passwords of the environment."""
    for secret in _secrets(os.environ):
        text = text.replace(secret, "***")
    if "@" in text:
        text = _WITHOUT_SCHEME.sub("***@", _IN_URI.sub(r"\1***@", text))
    return _IN_QUERY.sub(r"\1***", text) if "=" in text else text


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """The passwords that the environment holds; one in an address may have any character, / and @ too."""
    found = [environment.get(name, "") for name in _SECRETS]
    for name in _ADDRESSES:
        for address in (environment.get(name, ""), environment.get(name.lower(), "")):
            found.append(address.partition("://")[2].rpartition("@")[0].partition(":")[2])
    return filter(lambda secret: len(secret) >= _SHORTEST_SECRET, found)


# control characters, with them those that end a terminal's line or turn the direction of writing, and lone surrogates
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` in which what would move a cursor, recolour or reverse a line stands as an escape, such as \\x1b."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def shortened(text: str, most: int = 200) -> str:
    """`text`, without its middle where it is long."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-most // 4 :]}"


def one_line(text: str, most: int = LONGEST_LINE) -> str:
    """`text` as a line that can be shown to everyone: without line breaks, escapes and passwords, at most so long."""
    return shortened(masked(printable(" ".join(text.split()))), most)


def words_of(error: BaseException, most: int = 200) -> str:
    """What an error of a library's says, for a line of ours; its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


# Standard output


class Output:
    """A text stream that shows what is printable and no passwords; when it is lost, what follows is dropped.

    `plain` is the stream itself, for what moves the cursor on purpose; `lost` is the error that ended it.
    """

    def __init__(self, plain: TextIO, cleans: bool = True):
        self.plain, self.cleans = plain, cleans
        self.lost: Exception | None = None

    def write(self, text: str) -> int:
        shown = printable(masked(text)) if self.cleans else text
        self._try(lambda: self.plain.write(shown))
        return len(text)

    def flush(self) -> None:
        self._try(self.plain.flush)

    def _try(self, call: Callable[[], object]) -> None:
        if self.lost:
            return
        try:
            call()
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self.lost = error
            with contextlib.suppress(OSError, ValueError):  # what is still in the buffer goes nowhere, in silence
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.plain.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


def guard() -> tuple[TextIO, TextIO]:
    """Put an `Output` before standard output and error; what was there, for `restore`.

    The three descriptors are opened where they were closed: a database would get one of them as its own. Bars share no
    lock with other processes: that of a process which is killed is told as a leaked semaphore.
    """
    tqdm.set_lock(threading.RLock())
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
    before = sys.stdout, sys.stderr
    out, err = (stream or open(os.devnull, "w", encoding="utf-8") for stream in before)  # noqa: SIM115
    for stream in (out, err):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a letter
    sys.stdout, sys.stderr = Output(out), Output(err, cleans=False)  # libraries draw their bars on stderr
    return before


def restore(before: tuple[TextIO, TextIO]) -> None:
    """Undo `guard`."""
    sys.stdout, sys.stderr = before
