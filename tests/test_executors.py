"""The executors, on steps that do as they are told: order, failures, and what is left behind."""

import os
import signal
import time

from labelreg import executors
from labelreg.errors import UserError
from labelreg.study import Step


def obey(step: Step):
    """A job: fails or dies when told so; else the time in which it ran, and its number of threads."""
    began = time.monotonic()
    order = step.given.get("do")
    if order == "mistake":
        raise UserError("a user's mistake")
    if order == "defect":
        raise ZeroDivisionError("a defect\nof two lines")
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return began, time.monotonic(), os.environ["OMP_NUM_THREADS"]


def test_execution(monkeypatch):
    """Order, isolation of failures, and a worker that is killed: each in one graph, two at a time."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    steps = [
        Step("student", {}, needs=("teacher",)),
        Step("killed", {"do": "die"}),
        Step("teacher", {}, "teacher"),
        Step("mistaken", {"do": "mistake"}),
        Step("defective", {"do": "defect"}),
        Step("after the killed", {}, needs=("killed",)),
        Step("after that", {}, needs=("after the killed", "teacher")),
        *(Step(f"other {i}", {}) for i in range(4)),
    ]
    events = list(executors.execute(steps, obey, 2, {"OMP_NUM_THREADS": "1"}))
    last = {event.step.name: event for event in events}
    states = {name: event.state for name, event in last.items()}
    assert states == {
        "student": "done",
        "teacher": "done",
        "killed": "failed",
        "mistaken": "failed",
        "defective": "failed",
        "after the killed": "skipped",
        "after that": "skipped",
        **{f"other {i}": "done" for i in range(4)},
    }
    assert last["killed"].reason == "its worker process ended (exit status -9)"
    assert last["mistaken"].reason == "a user's mistake"
    assert last["defective"].reason == "ZeroDivisionError: a defect of two lines", "one line"
    assert last["after the killed"].reason == "needs killed, which failed"
    assert last["student"].result[0] >= last["teacher"].result[1], "a student waits for its teacher"
    assert {event.result[2] for event in events if event.state == "done"} == {"1"}
    assert "OMP_NUM_THREADS" not in os.environ, "the variable is the workers' alone"
    for name in states:
        running = [event.state for event in events if event.step.name == name]
        assert running == (["skipped"] if states[name] == "skipped" else ["running", states[name]]), name


def test_workers_end_when_the_iteration_stops():
    import multiprocessing

    events = executors.execute([Step(f"step {i}", {}) for i in range(5)], obey, 2, {"OMP_NUM_THREADS": "1"})
    for event in events:
        if event.state == "done":
            break
    events.close()
    assert not multiprocessing.active_children()
