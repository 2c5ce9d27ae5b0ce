"""`make soak`: kills at random points in chains of the same command, until the time is over.

Each chain is a student with a teacher of its own, killed again and again and at last let through; its run must be one
run with the undisturbed run's numbers and files to the last bit.
LABELREG_SOAK_SECONDS and LABELREG_SOAK_SEED choose how long, and which kills.
"""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from injector import every_step_once, record
from running import CHILD, new_store, python, runs

pytest_plugins = ["running"]
SECONDS = 600
MOST_KILLS = 5


@pytest.mark.soak
def test_soak(store, tiny_file, tiny_models, tmp_path, monkeypatch, empty_store):
    """Chains until the time is over; at least one."""
    seconds = float(os.environ.get("LABELREG_SOAK_SECONDS", SECONDS))
    seed = int(os.environ.get("LABELREG_SOAK_SEED", random.randrange(10**6)))
    chance, began, chains, kills = random.Random(seed), time.monotonic(), 0, 0
    given = {"train_file": tiny_file, "model": "bert-small", "model_root": tiny_models, "epochs": 20, "batch_size": 8}
    given |= {"lr": 1e-3, "max_length": 32, "threads": 1, "checkpoint_seconds": 0, "method": "kd"}
    command = python("train_student", **given, teacher_model="bert-large")

    def run(folder: Path, limit: float | None = None) -> int:
        environment = {"LABELREG_CACHE_ROOT": str(folder / "cache")}
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | CHILD | environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
            return process.wait(60)

    def found(folder: Path) -> dict:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        kinds = {kind: runs(kind) for kind in ("student", "teacher")}
        assert [len(held) for held in kinds.values()] == [1, 1] and len(runs()) == 2, f"{folder}: not one run of each"
        records = {kind: record(held.info.run_id) for kind, (held,) in kinds.items()}
        for each in records.values():
            every_step_once(each)
        return records

    new_store(empty_store, tmp_path / "undisturbed")
    whole = time.monotonic()
    assert run(tmp_path / "undisturbed") == 0
    whole, expected = time.monotonic() - whole, found(tmp_path / "undisturbed")
    while not chains or time.monotonic() - began < seconds:
        folder = tmp_path / f"chain{chains}"
        new_store(empty_store, folder)
        for _ in range(chance.randint(1, MOST_KILLS)):
            done = run(folder, chance.uniform(0, whole)) == 0
            kills += not done
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
            if done or any(each.info.status == "FINISHED" for each in runs("student")):
                break  # killed on its way out of Python, perhaps: the same command would begin another run
        else:
            assert run(folder) == 0
        assert found(folder) == expected, f"seed {seed}, {folder}"
        chains += 1
    print(f"{chains} chains with {kills} kills, each as if undisturbed (seed {seed})")
