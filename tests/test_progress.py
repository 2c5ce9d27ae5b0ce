"""What is shown of a study: plain lines on a pipe, bars on a terminal."""

import contextlib
import fcntl
import os
import re
import struct
import sys
import termios
import threading
import time

import pytest

from labelreg.one_run import Done
from labelreg.studies import progress
from labelreg.workers.steps import Event, Step

A, B, C = (Step(name, {}) for name in ("run a", "run b", "run c"))


def events(pause: float = 0.0):
    for event in (
        Event(A, "running"),
        Event(B, "running"),
        Event(A, "done", 60.0, Done("1", 71.5, "test")),
        Event(C, "running"),
        Event(B, "failed", 5.0, reason="the loss of epoch 1 is nan"),
    ):
        yield event
        time.sleep(pause)
    yield Event(C, "done", 0.1, Done("2", 70.0, "test", reused=True))


def test_a_line_per_event_on_a_pipe(capsys):
    passed = list(progress.follow(events(), "smoke", 5, 2, 1, lambda name: None))
    assert [event.state for event in passed] == ["running", "running", "done", "running", "failed", "done"]
    assert capsys.readouterr().out.splitlines() == [
        "[2/5] run a: running",
        "[2/5] run b: running",
        "[3/5] run a: done, test score 71.50 (60 s); 2 to go, about 2 min",
        "[3/5] run c: running",
        "[4/5] run b: failed: the loss of epoch 1 is nan; 1 to go, about 1 min",
        "[5/5] run c: done, test score 70.00 (reused); 0 to go, about 0 s",
    ]


def test_more_workers_than_runs_end_no_sooner():
    tally = progress._Tally("smoke", 2, 0, jobs=16)
    for event in list(events())[:3]:
        tally.add(event)
    assert tally.eta() == pytest.approx(60, abs=1), "one run is left, of a minute"


def drain(terminal: int, parts: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(terminal, 4096):
            parts.append(part)


def test_bars_on_a_terminal(monkeypatch):
    """One line for the study, one for each running run with its epoch; failures stay in sight."""
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.02)
    read, write = os.openpty()
    fcntl.ioctl(write, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    parts: list[bytes] = []
    reader = threading.Thread(target=drain, args=(read, parts))
    reader.start()
    with os.fdopen(write, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        list(progress.follow(events(0.1), "smoke", 5, 2, 2, lambda name: "2/30" if name == "run a" else None))
        monkeypatch.undo()
    reader.join()
    os.close(read)
    shown = b"".join(parts).decode()
    assert "run a: epoch 2/30, 0 s" in shown and "run c: 0 s" in shown
    assert "run b: failed: the loss of epoch 1 is nan" in shown
    assert re.search(r"study smoke: 2 done, 2 running, 0 failed, 1 left", shown)
    assert re.search(r"study smoke: 4 done, 0 running, 1 failed, 0 left, ends about \w+ \d\d:\d\d", shown)
