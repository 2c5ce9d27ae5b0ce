"""A fault on a real Ray cluster: a worker is killed in the middle of a run."""

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest
from running import runs, succeed, wait_for
from test_ray_tasks import cluster, epochs_kept  # noqa: F401, the fixture

pytest_plugins = ["running"]

EPOCHS = 40


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
def test_a_worker_that_is_killed_is_started_again_and_its_run_goes_on(cluster, tiny, store, settings_file):  # noqa: F811
    import mlflow

    names = ("train_file", "model_root", "max_length")
    lists = {"models": "bert-small", "inits": "pretrained", "methods": "finetune,ls", "seeds": "1"}
    settings = settings_file(lr=1e-3, batch_size=4, epochs=EPOCHS)
    given = {name: tiny[name] for name in names} | lists | {"settings": settings, "checkpoint_seconds": 0}
    seen = {}

    def kill_one():
        wait_for(lambda: sum(epoch >= 2 for epoch in epochs_kept(store / "cache")) == 2, "two runs under way")
        seen["runs"] = {path.read_text() for path in (store / "cache" / "checkpoints").glob("*/run_id")}
        seen["killed"] = workers_at_work(os.environ["RAY_TMPDIR"])
        os.kill(seen["killed"][0], signal.SIGKILL)

    thread = threading.Thread(target=kill_one)
    thread.start()
    ended = succeed("main", **given, executor="ray")
    thread.join()
    assert len(seen["killed"]) == 2, "both were at work"
    assert {run.info.run_id for run in runs("student")} == seen["runs"], ended
    assert {run.info.status for run in runs("student")} == {"FINISHED"}
    for run in runs("student"):
        history = [point.step for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, "dev/score")]
        assert sorted(history) == list(range(1, EPOCHS + 1)), "each epoch once"
