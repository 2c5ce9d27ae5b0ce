"""Faults on a real Ray cluster; a worker is killed while the server is away, others hold it all."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from injector import Proxy, Rule
from running import runs, succeed, wait_for
from test_ray_tasks import cluster, epochs_kept  # noqa: F401, the fixture

pytest_plugins = ["running"]

EPOCHS = 30
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
def test_a_killed_worker_whose_server_is_away_goes_on_and_a_full_cluster_is_waited_for(
    cluster,  # noqa: F811
    tiny,
    served,
    server,
    tmp_path,
    settings_file,
    monkeypatch,
):
    import mlflow

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
