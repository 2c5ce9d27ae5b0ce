"""Faults on a real Ray cluster; a worker is killed while the server is away, others hold it all."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlflow
import pytest
import yaml
from injector import Proxy, Rule
from running import runs, succeed, wait_for
from test_ray_tasks import cluster, epochs_kept  # noqa: F401, the fixture

pytest_plugins = ["running"]

EPOCHS = 30
LONG = 150  # of a trial: three heartbeats are over before the other one ends
# another program of the cluster: it holds both CPUs until a file is there
OTHER = """
import pathlib, sys, time, ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=1)
def hold(release, number):
    pathlib.Path(f"{release}.{number}").touch()
    while not pathlib.Path(release).exists():
        time.sleep(0.1)
ray.get([hold.remote(sys.argv[1], number) for number in range(2)])
"""


def workers_at_work(folder: str) -> list[int]:
    """The processes of this cluster in which a step runs: Ray names them after its function."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = f"RAY_TMPDIR={folder}".encode() in (path / "environ").read_bytes()
            if mine and (path / "cmdline").read_bytes().startswith(b"ray::attempt"):
                found.append(int(path.name))
    return found


@pytest.mark.soak
@pytest.mark.server
def test_a_killed_worker_whose_server_is_away_goes_on_and_a_full_cluster_is_waited_for(
    cluster,  # noqa: F811
    tiny,
    served,
    server,
    tmp_path,
    settings_file,
    monkeypatch,
):
    names = ("train_file", "model_root", "max_length")
    lists = {"models": "bert-small", "inits": "pretrained", "methods": "finetune,ls", "seeds": "1"}
    settings = settings_file(lr=1e-3, batch_size=4, epochs=EPOCHS)
    given = {name: tiny[name] for name in names} | lists | {"settings": settings, "checkpoint_seconds": 0}
    cache, seen = tmp_path / "cache", {}

    def strike():
        wait_for(lambda: sum(epoch >= 2 for epoch in epochs_kept(cache)) == 2, "two runs under way")
        seen["runs"] = {path.read_text() for path in (cache / "checkpoints").glob("*/run_id")}
        proxy.set(Rule("refuse", path="log-batch"))
        seen["killed"] = workers_at_work(os.environ["RAY_TMPDIR"])
        wait_for(lambda: len(list(cache.glob("spool/*.jsonl"))) == 2, "metrics that wait")
        os.kill(seen["killed"][0], signal.SIGKILL)
        time.sleep(1)  # the other one trains on
        proxy.set()

    with Proxy(server).up() as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address)
        thread = threading.Thread(target=strike)
        thread.start()
        ended = succeed("main", **given, executor="ray")
        thread.join()
        first = [run for run in runs("student") if run.info.experiment_id == served]

        release = tmp_path / "release"
        other = subprocess.Popen([sys.executable, "-c", OTHER, str(release)])
        wait_for(lambda: len(list(tmp_path.glob("release.?"))) == 2, "another program on both CPUs")
        studies = len(runs("study"))

        def let_in():
            wait_for(lambda: len(runs("study")) > studies, "the second study's begin")
            time.sleep(2)
            seen["begun while the cluster was full"] = workers_at_work(os.environ["RAY_TMPDIR"])
            release.touch()

        thread = threading.Thread(target=let_in)
        thread.start()
        succeed("main", **given | {"methods": "finetune", "seeds": "2"}, executor="ray")
        thread.join()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert len(seen["killed"]) == 2, "both were at work"
    assert {run.info.run_id for run in first} == seen["runs"], ended
    assert {run.info.status for run in first} == {"FINISHED"}
    for run in first:
        history = [point.step for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, "dev/score")]
        assert sorted(history) == list(range(1, EPOCHS + 1)), "each epoch once"
    assert not other.wait(60)
    assert seen["begun while the cluster was full"] == []
    second = [run for run in runs("student") if run.info.experiment_id == served and run.data.params["seed"] == "2"]
    assert [run.info.status for run in second] == ["FINISHED"]


@pytest.mark.soak
def test_a_worker_that_stood_still_leaves_its_trial_to_the_one_that_took_it_over(cluster, tiny, tmp_path):  # noqa: F811
    """The lease of a trial is Optuna's, whoever carries the step out."""
    names = ("train_file", "model_root", "model", "batch_size", "max_length")
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump({"kind": "search", "trials": 3, "epochs": LONG, "space": {"lr": [1e-3, 3e-3]}}))
    given = {name: tiny[name] for name in names} | {"method": "ls", "space": space, "min_resource": LONG + 1}
    seen = {}

    def states() -> list[str]:
        with contextlib.closing(sqlite3.connect(tmp_path / "cache" / "search.db", timeout=60)) as database:
            return [state for (state,) in database.execute("SELECT state FROM trials ORDER BY number")]

    def stand_still():
        wait_for(lambda: len(runs("trial")) == 2, "two trials under way")
        wait_for(lambda: all("dev/score" in run.data.metrics for run in runs("trial")), "an epoch of each")
        seen["at work"] = workers_at_work(os.environ["RAY_TMPDIR"])
        os.kill(seen["at work"][0], signal.SIGSTOP)
        wait_for(lambda: states().count("COMPLETE") == 2, "the stopped worker's trial done by the other one")
        seen["states"] = states()
        os.kill(seen["at work"][0], signal.SIGCONT)

    thread = threading.Thread(target=stand_still)
    thread.start()
    ended = succeed("tune", **given, executor="ray", heartbeat_seconds=1)
    thread.join()
    assert len(seen["at work"]) == 2
    assert sorted(seen["states"]) == ["COMPLETE", "COMPLETE", "FAIL"], "a try that failed, and its retry"
    assert states() == [*seen["states"], "COMPLETE"], f"the third trial, and nothing of the worker that woke: {ended}"
    done = [run for run in runs("trial") if run.data.tags["optuna.state"] == "complete"]
    assert sorted(run.data.tags["optuna.trial"] for run in done) == ["0", "1", "2"]
    for run in done:
        history = [point.step for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, "dev/score")]
        assert sorted(history) == list(range(1, LONG + 1)), "each epoch once"
