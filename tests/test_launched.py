"""A command under `mlflow run` ends with it, KILLED, and goes on under the same run afterwards."""

import os
import signal

import pytest
from running import mlflow_run, runs, session_members, started, wait_for

pytest_plugins = ["running"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.soak), signal.SIGKILL])
def test_a_run_ends_with_its_mlflow_run(number, tiny, tmp_path):
    given = tiny | {"epochs": 100000, "checkpoint_seconds": 0}
    folder = tmp_path / "launch"
    folder.mkdir()
    with started(mlflow_run("train_student", **given), folder) as process:
        wait_for(lambda: [run for run in runs("student") if "dev/score" in run.data.metrics], "an epoch", process)
        os.kill(process.pid, number)  # that process alone
        process.wait(60)
        wait_for(lambda: not session_members(process.pid), "the end of the trainer")
    (run,) = runs("student")
    assert run.info.status == "KILLED"
    assert list((tmp_path / "cache" / "checkpoints").glob("*/checkpoint.safetensors")), "it can go on"
