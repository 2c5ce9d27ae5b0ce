"""Standard output of a command: names cannot command the terminal, and a reader who leaves does not end the work."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

from labelreg.errors import masked, printable


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
