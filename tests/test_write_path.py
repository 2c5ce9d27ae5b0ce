"""The way of a study's numbers into its store: many writers on one SQLite file, a server that goes away."""

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import requests
from running import CHILD, Server, ended, python, started, wait_for

from labelreg.errors import StoreLostError
from labelreg.store import patience, records, tracking

pytest_plugins = ["running"]

WRITERS, RUNS, EPOCHS = 8, 200, 3

# one of the writers: opens a store that may not exist yet, and logs its share of the runs
WRITER = """
import sys
from labelreg.store import tracking
me, count, epochs = map(int, sys.argv[1:])
print("ready", flush=True)
sys.stdin.readline()
tracking.connect()
experiment = tracking.current_experiment()
for nth in range(count):
    with tracking.open_run("student", f"{me} {nth}", study="stress", experiment=experiment) as run:
        run.params({"task": "t", "seed": nth, "writer": me})
        run.data("task", "d" * 32, "file.csv")
        for epoch in range(1, epochs + 1):
            run.metrics({"train/loss": 1 / epoch, "dev/score": me + epoch / 10, "dev/nll": nth}, epoch)
        run.metrics({"best/dev/score": me + epochs / 10}, epochs)
"""


def rows(database: Path, query: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.soak
def test_eight_writers_lose_nothing_on_a_new_sqlite_file(tmp_path):
    """Also: the tables of the store, its experiment and the data set are made by all of them at once."""
    database = tmp_path / "mlflow.db"
    environment = CHILD | {"MLFLOW_TRACKING_URI": f"sqlite:///{database}", "MLFLOW_EXPERIMENT_NAME": "stress"}
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, str(me), str(RUNS // WRITERS), str(EPOCHS)],
                    cwd=tmp_path, env=os.environ | environment, text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )
            )
            for me in range(WRITERS)
        ]  # fmt: skip
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        said = [writer.communicate(timeout=500) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * WRITERS, said
    for out, err in said:
        assert "locked" not in out + err and "Traceback" not in err, (out, err)
    assert rows(database, "SELECT status, count(*) FROM runs GROUP BY status") == [("FINISHED", RUNS)]
    assert rows(database, "SELECT count(*) FROM experiments WHERE name = 'stress'") == [(1,)]
    per_run = rows(database, "SELECT run_uuid, key, count(*), count(DISTINCT step) FROM metrics GROUP BY run_uuid, key")
    assert Counter(per_run_row[1:] for per_run_row in per_run) == {
        ("train/loss", EPOCHS, EPOCHS): RUNS,
        ("dev/score", EPOCHS, EPOCHS): RUNS,
        ("dev/nll", EPOCHS, EPOCHS): RUNS,
        ("best/dev/score", 1, 1): RUNS,
    }
    assert rows(database, "SELECT count(*) FROM params")[0][0] == 3 * RUNS
    assert rows(database, "SELECT count(*) FROM datasets") == [(1,)]
    assert rows(database, "SELECT count(*) FROM inputs")[0][0] == RUNS


# A server that goes away


def epochs_of(server: Server) -> list[int]:
    """How many epochs of each training run have arrived."""
    found = rows(server.database, "SELECT count(*) FROM metrics WHERE key = 'train/loss' GROUP BY run_uuid")
    return [count for (count,) in found]


@pytest.fixture
def own_server(isolated, tmp_path, empty_store, monkeypatch) -> Server:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Server(tmp_path / "server", empty_store)


@pytest.mark.soak
@pytest.mark.server
def test_a_server_that_goes_away_costs_nothing(own_server, tiny_file, tiny_models, settings_file, tmp_path):
    """A study loses its server for good, ends as interrupted, goes on; then loses it for a while."""
    epochs = 300
    settings = settings_file(lr=1e-3, batch_size=8, epochs=epochs)
    lists = {"models": "bert-small", "inits": "pretrained", "methods": "finetune,ls", "seeds": 1}
    given = {"train_file": tiny_file, "model_root": tiny_models, "max_length": 32, "settings": settings, "jobs": 2}
    command = python("main", **given, **lists, checkpoint_seconds=0)
    environment = {"MLFLOW_TRACKING_URI": own_server.address}
    waiting = tmp_path / "cache" / "spool"
    work = tmp_path / "work"
    work.mkdir()

    with contextlib.ExitStack() as stack:
        with own_server.up():
            study = started(command, work, **environment, **{patience.VARIABLE: "1"})
            process = stack.enter_context(study)
            wait_for(lambda: epochs_of(own_server) and min(epochs_of(own_server)) >= 3, "three epochs", process)
        found = ended(process, work)
    assert found.status == 130, found
    (line,) = found.err.splitlines()
    assert re.match(r"error: the tracking store was away for \d+ s .*the same command goes on later", line), found
    before = dict(rows(own_server.database, "SELECT run_uuid, name FROM runs WHERE name LIKE '%seed=1'"))
    assert len(before) == 2

    with contextlib.ExitStack() as stack:
        with own_server.up():
            process = stack.enter_context(started(command, work, **environment))
            wait_for(lambda: not list(waiting.glob("*.jsonl")), "what had waited on disk", process)
            arrived = sum(epochs_of(own_server))  # what comes now was trained now: both runs are open
            wait_for(lambda: sum(epochs_of(own_server)) > arrived + 2, "epochs after the interruption", process)
        wait_for(lambda: list(waiting.glob("*.jsonl")), "metrics that wait on disk", process)  # one run may have ended
        stack.enter_context(own_server.up())
        found = ended(process, work)
        assert found.status == 0, found
    assert "Traceback" not in found.err + found.out
    after = dict(rows(own_server.database, "SELECT run_uuid, name FROM runs WHERE name LIKE '%seed=1'"))
    assert after == before, "under their own run ids, each run once"
    states = rows(own_server.database, "SELECT status, count(*) FROM runs WHERE name LIKE '%seed=1' GROUP BY status")
    assert states == [("FINISHED", 2)]
    for run_id in after:
        query = f"SELECT step FROM metrics WHERE run_uuid = '{run_id}' AND key = 'dev/score' ORDER BY timestamp"
        assert [step for (step,) in rows(own_server.database, query)] == list(range(1, epochs + 1)), (
            "every epoch, in order, once"
        )
    assert not list(waiting.glob("*.jsonl"))


def test_a_run_whose_server_is_gone_ends_within_its_patience(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv(patience.VARIABLE, "0.3")
    with pytest.raises(StoreLostError, match="was away for"), tracking.open_run("student", "a run", experiment="0"):
        raise AssertionError("no run can be opened")


def test_a_run_whose_answer_was_lost_is_not_made_twice(store, monkeypatch):
    import mlflow

    real, lost = mlflow.MlflowClient.create_run, []

    def create(*args, **kwargs):
        made = real(*args, **kwargs)
        if not lost:
            lost.append(made.info.run_id)
            raise requests.ConnectionError("the server died with the answer")
        return made

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", create)
    with tracking.open_run("student", "a 'quoted' run") as run:
        run.metrics({"dev/score": 1.0}, 1)
    found = mlflow.search_runs(["0"], output_format="list")
    assert [each.info.run_id for each in found] == lost == [run.run_id]
    assert found[0].info.status == "FINISHED"


def test_summaries_wait_for_another_writer(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db?timeout=1")  # MLflow's own patience
    summary = {"params": {"task": "t", "method": "ls"}, "metrics": {"mean": 50.0}, "verdict": "undecided"}
    summary |= {"line": "a line", "run_ids": []}
    with tracking.open_run("significance", "s") as run:
        other = sqlite3.connect(store / "mlflow.db", check_same_thread=False, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        freed = threading.Timer(5, other.rollback)
        freed.start()
        records.summarise([summary], {}, run)
        freed.join()
        other.close()
    (made,) = tracking.find("tags.`labelreg.kind` = 'summary'")
    assert made.data.metrics == {"summary/mean": 50.0} and made.data.tags["labelreg.verdict"] == "undecided"
    assert made.data.tags["mlflow.parentRunId"] == run.run_id


def test_what_waits_on_disk_arrives_when_the_run_is_continued(store):
    import mlflow

    spool = store / "cache" / "spool"
    with pytest.raises(KeyboardInterrupt), tracking.open_run("student", "a run", spool=spool) as run:
        run.metrics({"dev/score": 1.0}, 1)
        raise KeyboardInterrupt
    spool.mkdir(parents=True, exist_ok=True)
    (spool / f"{run.run_id}.jsonl").write_text(json.dumps(["dev/score", 2.0, 1_700_000_000_000, 2]) + "\n")
    with tracking.open_run("student", "a run", continued=run.run_id, spool=spool) as again:
        again.metrics({"dev/score": 2.0}, 2)  # trained again, from the checkpoint before it
        again.metrics({"dev/score": 3.0}, 3)
    history = mlflow.MlflowClient().get_metric_history(run.run_id, "dev/score")
    assert sorted((point.step, point.value) for point in history) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert not list(spool.iterdir())
