"""The executors, on steps that do as they are told: order, failures, and what is left behind."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from running import wait_for

from labelreg.errors import StoreLostError, UserError
from labelreg.settings import Workers
from labelreg.workers import executors, local
from labelreg.workers.steps import Step


def obey(step: Step):
    """A job: fails or dies when told so; else the time in which it ran, and its number of threads."""
    began = time.monotonic()
    order = step.given.get("do")
    if order == "mistake":
        raise UserError("a user's mistake")
    if order == "defect":
        raise ZeroDivisionError("a defect\nof two lines")
    if order == "lose the store":
        raise StoreLostError("the tracking store was away for 600 s")
    if order == "wait":
        time.sleep(60)
    if order == "close slowly":
        try:
            Path(step.given["begun"]).touch()
            time.sleep(60)
        finally:
            time.sleep(3)
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return began, time.monotonic(), os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES")


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
    events = list(executors.execute(steps, obey, 1, Workers(jobs=2)))
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
    line, _, kept = last["defective"].reason.partition(" (traceback: ")
    assert line.startswith("unexpected ZeroDivisionError: a defect of two lines at test_executors.py:"), "one line"
    assert "Traceback" in Path(kept.rstrip(")")).read_text(), "what a defect needs is kept"
    assert last["after the killed"].reason == "needs killed, which failed"
    assert last["student"].result[0] >= last["teacher"].result[1], "a student waits for its teacher"
    assert {event.result[2] for event in events if event.state == "done"} == {"1"}
    assert "OMP_NUM_THREADS" not in os.environ, "the variable is the workers' alone"
    for name in states:
        running = [event.state for event in events if event.step.name == name]
        assert running == (["skipped"] if states[name] == "skipped" else ["running", states[name]]), name


def test_workers_end_when_the_iteration_stops():
    events = executors.execute([Step(f"step {i}", {}) for i in range(5)], obey, 1, Workers(jobs=2))
    for event in events:
        if event.state == "done":
            break
    events.close()
    assert not multiprocessing.active_children()


def test_workers_close_their_runs_at_the_same_time(tmp_path):
    begun = [tmp_path / str(i) for i in range(4)]
    steps = [Step(path.name, {"do": "close slowly", "begun": str(path)}) for path in begun]
    events = executors.execute(steps, obey, 1, Workers(jobs=4))
    for _ in steps:
        next(events)
    wait_for(lambda: all(path.exists() for path in begun), "four workers at work")
    began = time.monotonic()
    events.close()
    assert 2.9 < time.monotonic() - began < 9
    assert not multiprocessing.active_children()


def test_a_worker_that_loses_the_store_ends_the_study():
    """Nothing else would fare better: those that still run are stopped, and close their runs."""
    steps = [Step("waits", {"do": "wait"}), Step("loses", {"do": "lose the store"}), Step("later", {})]
    began, events = time.monotonic(), executors.execute(steps, obey, 1, Workers(jobs=2))
    with pytest.raises(StoreLostError, match="away for 600 s"):
        for event in events:
            assert event.state == "running", event
    assert not multiprocessing.active_children()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "visible, runs_per_gpu, jobs, expected",
    [
        ("3,GPU-5a", 1, None, {"3", "GPU-5a"}),
        ("3,GPU-5a", 2, 2, {"3", "GPU-5a"}),
        ("3,GPU-5a", 2, 3, {"3", "GPU-5a"}),
        ("7", 3, None, {"7"}),
        ("", 3, 2, {""}),
        ("-1", 1, 2, {"-1"}),
    ],
)
def test_each_worker_sees_one_gpu(monkeypatch, visible, runs_per_gpu, jobs, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    room = executors.check([], 1, Workers(jobs=jobs, runs_per_gpu=runs_per_gpu))
    assert room == (jobs or len(visible.split(",")) * runs_per_gpu)
    workers = local.Processes(obey, room, 1, runs_per_gpu).workers
    seen = [worker.environment.get("CUDA_VISIBLE_DEVICES", visible) for worker in workers]
    assert set(seen) == expected
    assert len(seen) == room and (not visible.strip("-1") or max(map(seen.count, seen)) <= runs_per_gpu)


def test_a_worker_has_its_gpu_before_it_imports_anything(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    steps = [Step(f"step {i}", {}) for i in range(2)]
    events = list(executors.execute(steps, obey, 1, Workers()))
    assert sorted(event.result[3] for event in events if event.state == "done") == ["4", "6"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6"


def test_more_jobs_than_the_gpus_take_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match=r"jobs=5: the GPUs \(2\) take 4 at a time; .* runs_per_gpu="):
        executors.check([], 1, Workers(jobs=5, runs_per_gpu=2))
