"""Faults on a real Ray cluster: a worker is killed in the middle of a run, whose server is away just then."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from injector import Proxy, Rule
from running import runs, succeed, wait_for
from test_ray_tasks import cluster, epochs_kept  # noqa: F401, the fixture

pytest_plugins = ["running"]

EPOCHS = 30


def workers_at_work(folder: str) -> list[int]:
    """The processes of this cluster in which a step runs: Ray names them after its function."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = f"RAY_TMPDIR={folder}".encode() in (path / "environ").read_bytes()
            if mine and (path / "cmdline").read_bytes().startswith(b"ray::attempt"):
                found.append(int(path.name))
    return found


@pytest.mark.slow
@pytest.mark.server
def test_a_worker_is_killed_while_the_server_is_away_and_every_run_goes_on(
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
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert len(seen["killed"]) == 2, "both were at work"
    mine = [run for run in runs("student") if run.info.experiment_id == served]
    assert {run.info.run_id for run in mine} == seen["runs"], ended
    assert {run.info.status for run in mine} == {"FINISHED"}
    for run in mine:
        history = [point.step for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, "dev/score")]
        assert sorted(history) == list(range(1, EPOCHS + 1)), "each epoch once"
