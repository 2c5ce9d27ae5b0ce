"""Stores of generated runs with known effects: what the pages and the timings read."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

LOSS = {"pretrained": (0.7, 0.25), "random": (1.0, 0.6)}
SCORE = {"pretrained": 84.0, "random": 62.0}
SECONDS = {"finetune": 40.0, "ls": 41.0, "tfreg": 41.5, "selfkd": 44.0, "kd": 47.0, "akd": 52.0}
TEACHER_SECONDS = {"selfkd": 40.0, "kd": 300.0, "akd": 300.0}


def generate(
    effects: Mapping[str, Mapping[str, float]],
    tasks: list[str],
    seeds: range,
    artifacts: Path | None = None,
    epochs: int = 4,
    examples: int = 400,
    spread: float = 0.4,
    lr: float = 5e-4,
    experiment: str = "0",
) -> int:
    """Write finished students of the contract's shape to an experiment (its id) of MLflow's store; how many.

    Args:
        effects: init -> method -> true difference to finetune, in points.
        artifacts: the experiment's artifact folder; None writes no predictions.
        examples: of each test set.
        spread: sd of a run's own noise, beside that of its seed.
    """
    import mlflow
    from mlflow.entities import Metric, Param, RunTag

    client, chance, number = mlflow.MlflowClient(), np.random.default_rng(0), 0
    for at, task in enumerate(tasks):
        truth = np.random.default_rng(at).integers(0, 2, examples)
        for init, methods in effects.items():
            for seed in seeds:
                common = score_of(init, at) + chance.normal(0, 1)
                for method, effect in {"finetune": 0.0, **methods}.items():
                    number += 1
                    score = common + effect + chance.normal(0, spread)
                    right = round(score / 100 * examples)
                    score = 100 * right / examples if artifacts else score
                    run = client.create_run(experiment, start_time=number, run_name=f"{task} {init} {method} {seed}")
                    run_id = run.info.run_id
                    params = {"task": task, "model": "minilm-3l", "init": init, "method": method, "seed": seed}
                    params |= {"epochs": epochs, "lr": lr, "batch_size": 32, "split_seed": 42, "selection": "best"}
                    tags = {"labelreg.kind": "student", "labelreg.study": "generated", "labelreg.data": f"{at:032x}"}
                    tags |= {"labelreg.fingerprint": f"{number + int(lr * 1e9):032x}"}
                    tags |= {"labelreg.version.torch": "2.14.0"}
                    client.log_batch(
                        run_id,
                        metrics=[Metric(*point) for point in points(init, method, score, epochs, number, chance)],
                        params=[Param(name, str(value)) for name, value in params.items()],
                        tags=[RunTag(name, value) for name, value in tags.items()],
                    )
                    if artifacts:
                        folder = artifacts / run_id / "artifacts" / "predictions"
                        folder.mkdir(parents=True)
                        for split in ("dev", "test"):
                            table = predictions(truth, right, method, chance)
                            (folder / f"{split}.parquet").write_bytes(table)
                    client.set_terminated(run_id, "FINISHED", number + 1000)
    return number


def score_of(init: str, at: int) -> float:
    """The true score of fine-tuning on the task of this number."""
    return SCORE[init] + 3 * at % 7


def points(init, method, score, epochs, number, chance):
    """(name, value, timestamp, step) of a run's metrics."""
    high, low = LOSS[init]
    for epoch in range(1, epochs + 1):
        learnt = 1 - 0.5**epoch
        yield "train/loss", high - (high - low) * learnt + chance.normal(0, 0.01), number, epoch
        yield "dev/score", 50 + (score - 50) * learnt / (1 - 0.5**epochs), number, epoch
    last = {"best/test/score": score, "best/dev/score": score + 0.3, "dev/nll": 0.5, "dev/ece": 0.05}
    last |= {"cost/train_seconds": SECONDS[method] * (1 + chance.normal(0, 0.02))}
    if method in TEACHER_SECONDS:
        last["cost/teacher_seconds"] = TEACHER_SECONDS[method]
    for name, value in last.items():
        yield name, value, number, epochs


def predictions(truth, right, method, chance) -> bytes:
    """Two classes, the `right` easiest examples right; finetune is too sure of itself, a smoothed method less."""
    difficulty = np.linspace(0, 1, len(truth)) + chance.normal(0, 0.1, len(truth))
    right = np.argsort(np.argsort(difficulty)) < right
    sharp = {"finetune": 3.0, "ls": 1.2}.get(method, 2.0)
    margin = np.abs(chance.normal(sharp * np.where(right, 1.2, 0.7), 0.8)) + 0.01
    sure = 1 / (1 + np.exp(-margin))
    p_1 = np.where(np.where(right, truth, 1 - truth) == 1, sure, 1 - sure)
    table = pd.DataFrame({"idx": np.arange(len(truth)), "label": truth, "p_0": 1 - p_1, "p_1": p_1})
    file = io.BytesIO()
    table.to_parquet(file, index=False)
    return file.getvalue()
