"""Patience with a tracking store that is busy or away: a call is tried again for minutes, metrics wait on disk.

This file knows no MLflow: what a call is, and which errors pass with time, is given to it.
"""

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from labelreg.errors import StoreLostError, UserError

VARIABLE = "LABELREG_STORE_SECONDS"  # how long a store may be away
DEFAULT_SECONDS = 600.0
CLOSING_SECONDS = 2.0  # for what an interrupted run still has to say
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds between two tries; doubled, and drawn so that workers spread
SAID_AFTER = 3.0  # seconds; shorter waits are no news
ANSWER_SECONDS, SHORTEST_ANSWER_SECONDS = 10.0, 1.0  # for a store to take metrics; of one that was away just now
MOST_WAITING = 0.05  # of a training's time, for a store that hangs

Result = TypeVar("Result")
Point = tuple[str, float, int, int]  # metric, value, milliseconds since 1970, step


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
                print(f"waiting for the tracking store, up to {allowed:.0f} s: {one_line(error)}", flush=True)
        time.sleep(min(pause * random.uniform(0.5, 1), max(0.0, allowed - waited)))
        pause = min(2 * pause, LONGEST_PAUSE)


def lost(seconds: float, error: Exception) -> StoreLostError:
    """The end of patience, in one line."""
    return StoreLostError(
        f"the tracking store was away for {seconds:.0f} s ({one_line(error)}): stopped; the same command goes on later"
    )


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]


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
    again: float = field(default=0.0)  # the next try
    pause: float = FIRST_PAUSE
    answer: float = ANSWER_SECONDS

    def put(self, points: list[Point]) -> None:
        """Deliver `points` after those that wait; where the store is away, they wait on disk.

        Raises:
            StoreLostError: it has been away for longer than `limit()`.
        """
        self._append(points)
        began = time.monotonic()
        if began < self.again:
            return
        try:
            self._send(self.answer)
        except Exception as error:
            if not self.passes(error):
                raise
            now = time.monotonic()
            self.answer = min(2 * self.answer, ANSWER_SECONDS) if self.since else SHORTEST_ANSWER_SECONDS
            self.since = self.since or began
            if now - self.since >= limit():
                raise lost(now - self.since, error) from None
            pause = max(self.pause * random.uniform(0.5, 1), (now - began) / MOST_WAITING)
            self.again = min(now + pause, self.since + limit())
            self.pause = min(2 * self.pause, LONGEST_PAUSE)

    def flush(self, seconds: float | None = None) -> None:
        """Deliver all that waits, however long it takes up to `limit()` after the first failure.

        Raises:
            StoreLostError: the store did not come back in time.
        """
        if not self.path.exists():
            return
        gone = time.monotonic() - self.since if self.since else 0.0
        allowed = max(0.0, limit() - gone) if seconds is None else seconds
        keep_trying(lambda: self._send(max(1.0, min(ANSWER_SECONDS, allowed))), self.passes, allowed)

    def _send(self, seconds: float) -> None:
        self.deliver(self._read(), seconds)
        self.path.unlink(missing_ok=True)
        self.since, self.again, self.pause, self.answer = 0.0, 0.0, FIRST_PAUSE, ANSWER_SECONDS

    def _append(self, points: list[Point]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(point)}\n" for point in points)
            file.flush()
            os.fsync(file.fileno())

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
