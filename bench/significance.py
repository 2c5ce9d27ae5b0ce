"""How long 1,000 runs take to be answered, with everything: the process, MLflow, its search, all predictions.

`python -m bench.significance` trains one small run, fills an SQLite store with 1,000 copies of it (ten tasks, both
initialisations, five methods, ten seeds; curves of eight epochs; predictions for 1,000 examples of dev and of test). It
times `significance` (the first time, which writes the summaries, and again) against its limit, and
`report`, each as a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.copies import Copy, copies
from tests.stores import points, predictions, score_of

TASKS = "cola mnli mrpc qnli qqp rte sst2 sst5 stsb wnli".split()
EFFECTS = {"pretrained": (0.0, 0.0, 0.2, 0.5), "random": (0.3, 0.0, 1.0, 1.5)}  # of METHODS[1:], in points
METHODS = ["finetune", "ls", "tfreg", "selfkd", "kd"]
SEEDS, EPOCHS, EXAMPLES = 10, 8, 1000
LIMIT, ROUNDS = 10.0, 3
TEMPLATE = "--task=rotten_tomatoes --recipe=smoke --max_train_examples=64 --threads=1 --epochs=1".split()


def fill(folder: Path, seeds: int) -> int:
    """A store of generated runs in `folder`, MLflow's current one; how many."""
    from labelreg.store import tracking

    subprocess.run(
        [sys.executable, "-m", "entrypoints.train_student", *TEMPLATE], check=True, stdout=subprocess.DEVNULL
    )
    (template,) = tracking.find(f"tags.`{tracking.KIND}` = 'student'")
    database = Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"))
    copies(database, template.info.run_id, _runs(folder / "generated", seeds))
    tracking.client().delete_run(template.info.run_id)
    return len(TASKS) * len(EFFECTS) * len(METHODS) * seeds


def _runs(artifacts: Path, seeds: int) -> Iterator[Copy]:
    chance, number = np.random.default_rng(0), 0
    for at, task in enumerate(TASKS):
        truth = np.random.default_rng(at).integers(0, 2, EXAMPLES)
        for init, effects in EFFECTS.items():
            for seed in range(seeds):
                common = score_of(init, at) + chance.normal(0, 1)
                for method, effect in zip(METHODS, (0.0, *effects), strict=True):
                    number += 1
                    right = round((common + effect + chance.normal(0, 0.4)) / 100 * EXAMPLES)
                    changed = {"task": task, "init": init, "method": method, "seed": str(seed), "epochs": str(EPOCHS)}
                    changed |= {"labelreg.data": f"{at:032x}", "labelreg.fingerprint": f"{number:032x}"}
                    run_id, place = f"{number:032x}", artifacts / f"{number:032x}"
                    (place / "predictions").mkdir(parents=True)
                    for split in ("dev", "test"):
                        table = predictions(truth, right, method, chance)
                        (place / "predictions" / f"{split}.parquet").write_bytes(table)
                    score = 100 * right / EXAMPLES
                    curves = points(init, method, score, EPOCHS, number, chance)
                    yield Copy(run_id, f"{task} {init} {method} {seed}", changed, curves, place.as_uri())


def timed(words: list[str], folder: Path) -> float:
    """Wall seconds of a command from its start to its end."""
    began = time.perf_counter()
    with (folder / "said.txt").open("w") as said:
        subprocess.run([sys.executable, "-m", *words], check=True, stdout=said, stderr=said)
    return time.perf_counter() - began


def parts() -> dict[str, float]:
    """Of these: MLflow's import, and its search of the runs in this process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import mlflow"], check=True)
    imported = time.perf_counter() - began
    import mlflow

    mlflow.search_experiments()
    began = time.perf_counter()
    mlflow.search_runs()
    return {"import mlflow": imported, "mlflow.search_runs": time.perf_counter() - began}


def main() -> None:
    """Fill a store, time the commands, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="100 runs each")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--keep", help="a folder for the store, used again where it is filled already")
    parser.add_argument("--out", help="write the figures as JSON")
    given = parser.parse_args()
    here = os.getcwd()
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.keep or temporary).absolute()
        folder.mkdir(exist_ok=True)
        os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": here}
        os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "LABELREG_CACHE_ROOT": f"{folder}/cache"}
        filled = (folder / "mlflow.db").exists()
        os.chdir(folder)  # artifacts go to mlruns/ of the working folder
        runs = None if filled else fill(folder, given.seeds)
        significance = ["entrypoints.significance", f"--output_dir={folder}/out"]
        seconds: dict[str, list[float]] = {}
        if not filled:
            seconds["significance, writing its summaries"] = [timed(significance, folder)]
        for _ in range(given.rounds):
            for name, words in {
                "significance": significance,
                "report": ["entrypoints.report", f"--output_dir={folder}/out"],
            }.items():
                seconds.setdefault(name, []).append(timed(words, folder))
            for name, value in parts().items():
                seconds.setdefault(f"of which {name}", []).append(value)
        os.chdir(here)
    print(
        f"{runs or 'kept'} runs, {EXAMPLES:,} examples of dev and of test\n\n| command | s | at most |\n|---|---:|---:|"
    )
    for name, values in seconds.items():
        limit = f"{LIMIT:.0f}" if name.startswith("significance") else ""
        print(f"| {name} | {statistics.median(values):.1f} | {limit} |")
    print(f"\nall rounds: {json.dumps({name: [round(v, 2) for v in values] for name, values in seconds.items()})}")
    print(f"load after: {os.getloadavg()[0]:.1f}")
    if given.out:
        Path(given.out).write_text(json.dumps(seconds, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
