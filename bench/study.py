"""What a study costs: the time to its verdicts, the executor's overhead per run, and the time to plan many runs.

`python -m bench.study` prints three ratios against their limits:
- wall time of a study with jobs=1 over the sum of its runs' training times, for runs of about 10 s;
- planning 10,000 runs against a store that holds them all finished, over MLflow's own `search_runs` of them;
- the demo, from its command to its verdicts, over the same runs by a shell loop of Trainer scripts
  (bench/trainer_run.py: one process a run, the teacher in kd's loop), both two at a time, the teacher's training
  included.
Data are the packaged rotten_tomatoes, the model minilm-3l, but for the demo's own; everything is written to a temporary
folder.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from bench.copies import Copy, copies
from bench.large import reviews

RUN_SECONDS, RUNS = 10.0, 56  # of training each; as many as table 8 has
PLANNED, ROUNDS = 10_000, 3
MOST_OVERHEAD, MOST_PLANNING, MOST_VERDICTS = 1.10, 1.3, 0.30
JOBS = 2
PILOT, HELD_OUT = 1_000, 20  # examples
METHODS = ["finetune", "ls", "tfreg", "selfkd"]


def overhead(folder: Path, runs: int, seconds: float) -> dict:
    """A study of `runs` runs, jobs=1, as a process of its own; its wall time and what its runs trained.

    Of methods that store no logits of the training set: a pass that another run is spared is no overhead.
    """
    from labelreg.store import tracking

    given = _own_files(folder)
    shared = ["--jobs=1", "--checkpoint_seconds=60", *(f"--{name}={value}" for name, value in given.items())]
    store = os.environ["MLFLOW_TRACKING_URI"]
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/pilot.db"
    _study(*shared, "--seeds=0", "--methods=finetune", f"--max_train_examples={PILOT}")
    (pilot,) = tracking.find(f"tags.`{tracking.KIND}` = 'student'")
    examples = round(PILOT * seconds / pilot.data.metrics["cost/train_seconds"])
    os.environ["MLFLOW_TRACKING_URI"] = store
    seeds = ",".join(map(str, range(runs // 2)))
    began = time.perf_counter()
    _study(*shared, f"--seeds={seeds}", "--methods=ls,tfreg", f"--max_train_examples={examples}")
    wall = time.perf_counter() - began
    found = tracking.find(f"tags.`{tracking.KIND}` = 'student'")
    trained = [run.data.metrics["cost/train_seconds"] for run in found]
    ends = [(run.info.start_time / 1000, run.info.end_time / 1000) for run in found]
    between = max(end for _, end in ends) - min(start for start, _ in ends)
    return {
        "runs": len(found),
        "training seconds per run": statistics.mean(trained),
        "wall / training": wall / sum(trained),
        "first run's start to last run's end / training": between / sum(trained),
        "seconds before the first run and after the last": wall - between,
    }


def _own_files(folder: Path) -> dict:
    """Three epochs, as by default, and few dev and test sentences: a run is its training."""
    frame = reviews()
    dev, test = frame[:HELD_OUT], frame[HELD_OUT : 2 * HELD_OUT]
    parts = {"train": frame[2 * HELD_OUT :], "dev": dev, "test": test}
    for split, part in parts.items():
        part.to_csv(folder / f"{split}.csv", index=False)
    recipe = {"kind": "study", "tasks": ["bench"], "models": ["minilm-3l"], "inits": ["pretrained"], "seeds": [0]}
    (folder / "study.yaml").write_text(json.dumps(recipe | {"methods": METHODS}))  # JSON is YAML
    settings = {"max_length": 24, "batch_size": 8, "lr": 3e-4, "epochs": 3}
    content = {"kind": "settings", "extends": "default", "rules": [{"set": settings}]}
    (folder / "settings.yaml").write_text(json.dumps(content))
    files = {f"{split}_file": str(folder / f"{split}.csv") for split in parts}
    return files | {"recipe": str(folder / "study.yaml"), "settings": str(folder / "settings.yaml")}


def _study(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "entrypoints.study", *words], check=True, stdout=subprocess.DEVNULL)


def _complete(given: dict) -> dict:
    from labelreg import recipes
    from labelreg.settings import with_defaults

    return with_defaults("study", recipes.asked(given["recipe"]) | given)


def planning_time(folder: Path, planned: int, rounds: int) -> dict:
    """Seconds to plan against a store that holds all runs finished, and those of MLflow's search."""
    import mlflow

    from labelreg.store import tracking
    from labelreg.studies import outlook
    from labelreg.studies.plan import design_of

    seeds = list(range(planned // (2 * len(METHODS))))
    lists = {"tasks": ["rotten_tomatoes"], "inits": ["pretrained", "random"], "seeds": seeds, "methods": METHODS}
    recipe = {"kind": "study", "models": ["minilm-3l"], "max_train_examples": 64, "settings": "smoke"} | lists
    (folder / "many.yaml").write_text(json.dumps(recipe))
    given = _complete({"recipe": str(folder / "many.yaml")})
    words = ["--task=rotten_tomatoes", "--recipe=smoke", "--max_train_examples=64", "--threads=1", "--epochs=1"]
    subprocess.run([sys.executable, "-m", "entrypoints.train_student", *words], check=True, stdout=subprocess.DEVNULL)
    (template,) = tracking.find(f"tags.`{tracking.KIND}` = 'student'")
    steps = design_of(dict(given)).steps
    fingerprints = outlook.look(steps).fingerprints
    assert len(fingerprints) == planned
    these = [Copy(uuid.uuid4().hex, step.name, _changed(step, fingerprints[step.name])) for step in steps]
    copies(Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")), template.info.run_id, these)
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    plans, searches = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        found = mlflow.search_runs(experiments, f"tags.`{tracking.KIND}` = 'student'", output_format="list")
        searches.append(time.perf_counter() - began)
        assert len(found) == planned + 1
        began = time.perf_counter()
        seen = outlook.look(design_of(dict(given)).steps)
        outlook.table(seen)
        plans.append(time.perf_counter() - began)
        assert len(seen.finished) == planned
    plan, search = statistics.median(plans), statistics.median(searches)
    return {"runs": planned, "plan seconds": plan, "search_runs seconds": search, "plan / search_runs": plan / search}


def _changed(step, fingerprint: str) -> dict[str, str]:
    return {name: str(step.given[name]) for name in ("method", "init", "seed")} | {"labelreg.fingerprint": fingerprint}


def to_verdicts(folder: Path, *rivals_own: str) -> dict:
    """Seconds of the demo as a user starts it and of the same runs by Trainer scripts, and of a run's training in both.

    rivals_own: options of the scripts, such as --bf16.
    """
    from labelreg.store import tracking

    project = os.environ["PYTHONPATH"]
    began = time.perf_counter()
    demo = ["mlflow", "run", project, "--env-manager", "local", "-P", f"jobs={JOBS}"]
    subprocess.run(demo, check=True, capture_output=True)
    walls, trained = {"labelreg": time.perf_counter() - began}, {"labelreg": {}, "Trainer": {}}
    for kind in ("teacher", "student"):
        for run in tracking.find(tracking.tagged({tracking.KIND: kind})):
            name = run.data.params["method"] if kind == "student" else kind
            trained["labelreg"].setdefault(name, []).append(run.data.metrics["cost/train_seconds"])
    teachers, students = _commands(folder, rivals_own)
    began = time.perf_counter()
    for loop in (teachers, students):
        xargs = ["xargs", "-P", str(JOBS), "-I{}", "sh", "-c", "{}"]
        subprocess.run(xargs, input="\n".join(loop), text=True, check=True)
    walls["Trainer"] = time.perf_counter() - began
    for record in (json.loads(path.read_text()) for path in folder.glob("out/*/run.json")):
        trained["Trainer"].setdefault(record["method"], []).append(record["train_seconds"])
    runs = len(teachers) + len(students)
    assert [sum(map(len, methods.values())) for methods in trained.values()] == [runs, runs]
    table = [
        {"": f"training, {name}"} | {side: statistics.mean(methods[name]) for side, methods in trained.items()}
        for name in trained["labelreg"]
    ]
    table.append({"": "all else"} | {
        side: (JOBS * walls[side] - sum(map(sum, methods.values()))) / runs for side, methods in trained.items()
    })  # fmt: skip
    return {"runs": runs, **walls, "demo / scripts": walls["labelreg"] / walls["Trainer"], "seconds of a run": table}


def _commands(folder: Path, own: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The demo's design as commands of the script: its teacher's, and its students'."""
    from transformers import AutoTokenizer

    from labelreg import places, recipes
    from labelreg.models import registry
    from labelreg.settings import DEMO, with_defaults

    study = recipes.read(DEMO, "study")
    (student,), (task,) = study["models"], study["tasks"]
    shared = {"recipe": study["settings"], "task": task}
    teacher = str(registry.MODELS[student].teacher)
    _write_reviews(folder / "texts", shared)
    for name in (student, teacher):  # as a user would have them: folders that transformers reads
        roots = places.roots(recipes.resolve(with_defaults("train_student", shared | {"model": name})))
        registry.load(name, ["negative", "positive"], "pretrained", 42, roots).save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(registry.checkpoint(name, roots)).save_pretrained(folder / name)
    logs = folder / "logs"
    logs.mkdir()

    def command(name: str, model: str, role: str, **cell: object) -> str:
        found = recipes.resolve(with_defaults(f"train_{role}", shared | {"model": model} | cell), role)
        asked = {each: getattr(found, each) for each in ("lr", "batch_size", "epochs", "max_length", "warmup_ratio")}
        asked |= {"init": "pretrained", "method": "teacher", "seed": 42} | cell
        asked |= {"model": folder / model, "data": folder / "texts", "out": folder / "out" / name, "classes": 2}
        asked |= {"alpha": found.value("alpha")} if cell.get("method") in ("ls", "kd") else {}
        asked |= {"teacher": folder / "out" / "teacher"} if cell.get("method") == "kd" else {}
        words = [f"--{each}={value}" for each, value in asked.items()]
        log = logs / name
        return " ".join(
            [sys.executable, "-m", "bench.trainer_run", *words, *own, f"> {log} 2>&1 || (cat {log}; exit 1)"]
        )

    cells = [
        {"init": init, "method": method, "seed": seed}
        for seed in study["seeds"] for init in study["inits"] for method in study["methods"]
    ]  # fmt: skip
    students = [command("-".join(map(str, cell.values())), student, "student", **cell) for cell in cells]
    return [command("teacher", teacher, "teacher")], students


def _write_reviews(folder: Path, shared: dict) -> None:
    """As many reviews in each split as runs of these settings have, as files."""
    from labelreg import places, recipes
    from labelreg.data import corpus
    from labelreg.settings import with_defaults

    settings, frame = recipes.resolve(with_defaults("train_student", shared)), reviews()
    folder.mkdir()
    for name, split in corpus.prepare(settings, places.roots(settings)).splits.items():
        part, frame = frame[: len(split)], frame[len(split) :]
        codes = part["label"].astype("category").cat.codes
        part.assign(label=codes).to_csv(folder / f"{name}.csv", index=False)


def main() -> None:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seconds", type=float, default=RUN_SECONDS)
    parser.add_argument("--planned", type=int, default=PLANNED)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", choices=("overhead", "planning", "verdicts"))
    parser.add_argument("--rivals_own", default="", help="options of the Trainer scripts, such as --rivals_own=--bf16")
    parser.add_argument("--out", help="write the figures as JSON")
    given = parser.parse_args()
    here = os.getcwd()
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": here}
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    figures = {}
    for name, measure in {
        "overhead": lambda folder: overhead(folder, given.runs, given.seconds),
        "planning": lambda folder: planning_time(folder, given.planned, given.rounds),
        "verdicts": lambda folder: to_verdicts(folder, *given.rivals_own.split()),
    }.items():
        if given.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                os.environ |= {
                    "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
                    "LABELREG_CACHE_ROOT": f"{folder}/cache",
                }
                os.chdir(folder)  # artifacts go to mlruns/ of the working folder
                figures[name] = measure(Path(folder))
                os.chdir(here)
            for what, value in figures[name].items():
                print(f"{name}: {what}: {value:.3f}" if isinstance(value, float) else f"{name}: {what}: {value}")
    print("\n| ratio | is | at most |\n|---|---:|---:|")
    if "overhead" in figures:
        print(f"| study / sum of training, jobs=1 | {figures['overhead']['wall / training']:.3f} | {MOST_OVERHEAD} |")
    if "planning" in figures:
        print(f"| plan / search_runs | {figures['planning']['plan / search_runs']:.3f} | {MOST_PLANNING} |")
    if "verdicts" in figures:
        import pandas as pd

        from analysis.present.render import to_markdown

        print(
            f"| demo / shell loop of Trainer scripts | {figures['verdicts']['demo / scripts']:.3f} | {MOST_VERDICTS} |"
        )
        table = pd.DataFrame(figures["verdicts"]["seconds of a run"])
        print(f"\nseconds of a run:\n{to_markdown(table)}")
    print(f"load after: {os.getloadavg()[0]:.1f}")
    if given.out:
        Path(given.out).write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
