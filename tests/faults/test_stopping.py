"""A study that is told to stop ends, in time, with all of its workers, whatever goes wrong while it does so."""

import contextlib
import os
import signal
import sqlite3
import time

import pytest
from injector import FULL, fault
from running import ended, python, session_members, started, wait_for

from labelreg.store import patience

pytest_plugins = ["running"]

EPOCHS = 5000
STRIDE = 7
BOUND = 90  # seconds; most of it is for a busy machine, and what does not end takes 500 or more
STUBBORN = """
import os, signal, sys, time
from tqdm import tqdm
from entrypoints.command import command
from labelreg.settings import Workers
from labelreg.workers import executors, local
from labelreg.workers.steps import Step

local.STOP_SECONDS = {seconds}

def stubborn(step):
    bar = tqdm(total=1, leave=False)
    open(step.name, "w").close()
    try:
        time.sleep(600)
    finally:
        {closing}

def main(given):
    for event in executors.execute([Step("one", {{}}), Step("two", {{}})], stubborn, 1, Workers(jobs=2)):
        pass

if __name__ == "__main__":
    command("significance", main, "")
"""


def stop(number, frame):
    raise KeyboardInterrupt


@pytest.fixture
def study(tiny, settings_file) -> list[str]:
    """A study of two workers that trains until it is told to stop."""
    given = {name: tiny[name] for name in ("train_file", "model_root", "max_length")}
    given |= {"models": "bert-small", "inits": "random", "methods": "finetune,ls", "seeds": "1,2", "jobs": 2}
    return python("main", **given, settings=settings_file(lr=1e-3, batch_size=8, epochs=EPOCHS), checkpoint_seconds=0)


def training(store) -> int:
    return len(list((store / "cache" / "checkpoints").glob("*/checkpoint.safetensors")))


def stopped(process, folder, number, group: bool = True):
    """Send a signal to all of the session, or to the parent alone; it must end in time, with nobody left."""
    began = time.monotonic()
    os.killpg(process.pid, number) if group else process.send_signal(number)
    found = ended(process, folder)
    assert time.monotonic() - began < BOUND, f"it took {time.monotonic() - began:.0f} s: {found}"
    wait_for(lambda: not session_members(process.pid), "the end of all workers")
    assert "leaked" not in (folder / "stderr").read_text(), "what libraries share between processes is given back"
    return found


@pytest.mark.parametrize(
    "number, group", [(signal.SIGINT, True), pytest.param(signal.SIGTERM, False, marks=pytest.mark.soak)]
)
def test_a_study_whose_runs_were_deleted_stops(number, group, study, store):
    """As in the UI: closing a deleted run is an error of MLflow's, in the place of the interruption."""
    with started(study, store) as process:
        wait_for(lambda: training(store) == 2, "two runs under way", process)
        with contextlib.closing(sqlite3.connect(store / "mlflow.db", timeout=60)) as database, database:
            database.execute("UPDATE runs SET lifecycle_stage = 'deleted'")
        found = stopped(process, store, number, group)
    assert found.status == 130 and found.err.splitlines()[-1].startswith("interrupted: "), found


def test_a_study_whose_workers_cannot_close_their_runs_for_a_full_disk_stops(study, store):
    one = [word.replace("jobs=2", "jobs=1") for word in study]  # the fault strikes once
    with started(one, store, **fault("labelreg.store.tracking:end_run", FULL, when="before")) as process:
        wait_for(lambda: training(store) == 1, "a run under way", process)
        assert stopped(process, store, signal.SIGINT).status == 130


@pytest.mark.parametrize("number, before", [(signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, stop)])
def test_a_signal_in_the_middle_of_a_call_to_a_database_waits_for_its_end(number, before, store, monkeypatch):
    """SQLAlchemy may leave a transaction open then: nobody could write any more, not even the run's own end."""
    handler, done = signal.signal(number, before), []

    def call(store):
        signal.raise_signal(number)
        done.append("whole")

    try:
        with pytest.raises(KeyboardInterrupt):
            patience.patiently(call)
        assert done == ["whole"] and signal.getsignal(number) is before
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")  # a server may hang
        with pytest.raises(KeyboardInterrupt):
            patience.patiently(call)
        assert done == ["whole"]
    finally:
        signal.signal(number, handler)


def test_a_signal_at_any_point_of_a_search_leaves_its_storage_as_it_should_be(tmp_path, isolated):
    """Nobody is locked out, no trial seems to run, and each counts once."""
    from sqlalchemy import event

    from labelreg.tuning import search

    def train(draw, stop) -> float:
        return float(not stop(1, 1.0, False))

    def strike(*_) -> None:
        """In the middle of what SQLAlchemy does with the database."""
        seen.append(len(seen) + 1)
        if seen[-1] == nth:
            signal.raise_signal(signal.SIGINT)

    own = search.Search("s", f"sqlite:///{tmp_path}/s.db", {"lr": [0.1, 0.2]}, 1000, 7, heartbeat_seconds=60)
    study = search.open_study(own)
    engine = study._storage._backend.engine
    for place, name in ((engine, "before_cursor_execute"), (engine, "commit"), (engine.pool, "reset")):
        event.listen(place, name, strike)
    handler, points = signal.signal(signal.SIGINT, signal.default_int_handler), []
    try:
        for nth in range(1, 1000, STRIDE):  # until a trial is through before
            seen = []
            with contextlib.suppress(KeyboardInterrupt):
                search.run_trial(study, own, train)
            points.append(len(seen))
            with contextlib.closing(sqlite3.connect(tmp_path / "s.db", timeout=0)) as other:
                other.execute("BEGIN IMMEDIATE")  # it is not locked
                other.execute("ROLLBACK")
                assert not other.execute("SELECT * FROM trials WHERE state = 'RUNNING'").fetchall(), f"at point {nth}"
            if len(seen) < nth:
                break
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(points) > 10, points
    held = search.own(search.open_study(own))
    assert [trial.number for trial in held if trial.state.name != "COMPLETE"] in ([], [held[-1].number]), held


@pytest.mark.parametrize("closing", ["raise OSError('no space left on device')", "time.sleep(600)"])
def test_a_worker_that_errs_or_hangs_when_it_is_told_to_stop_is_gone(closing, store):
    (store / "stubborn.py").write_text(STUBBORN.format(closing=closing, seconds=3))
    with started(["python", "stubborn.py"], store) as process:
        wait_for((store / "two").exists, "two steps under way", process)
        assert stopped(process, store, signal.SIGINT).status == 130


def test_a_second_ctrl_c_ends_it_at_once(store):
    (store / "stubborn.py").write_text(STUBBORN.format(closing="time.sleep(600)", seconds=500))
    with started(["python", "stubborn.py"], store) as process:
        wait_for((store / "two").exists, "two steps under way", process)
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)  # the echo that `mlflow run` sends
        time.sleep(2)
        assert process.poll() is None, "its workers have time to close their runs"
        assert stopped(process, store, signal.SIGINT).status == 130


def test_a_worker_that_alone_is_told_to_stop_is_replaced(store):
    """Its step counts as failed; the worker does not stay, deaf to the next signal."""
    from labelreg.settings import Workers
    from labelreg.workers import executors
    from labelreg.workers.steps import Step

    events = executors.execute([Step("first", {}), Step("second", {})], told_to_stop, 1, Workers(jobs=1))
    seen = [(event.step.name, event.state, event.reason) for event in events if event.state != "running"]
    assert seen == [("first", "failed", "its worker process ended (exit status 0)"), ("second", "done", "")]


def told_to_stop(step):
    if step.name == "first":
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            raise ValueError("closing the run failed")
