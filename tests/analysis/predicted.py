"""Runs with predictions for tests: frames as MLflow's search returns them, and tables as runs store them."""

import numpy as np
import pandas as pd

from analysis.pairing import pair
from analysis.predictions import indicators, score
from labelreg.whole import digest


def table(labels, predicted, n_classes=2, idx=None, sure=0.9) -> pd.DataFrame:
    """predictions/<split>.parquet of a run that gives probability `sure` to the classes `predicted`."""
    p = np.full((len(labels), n_classes), (1 - sure) / (n_classes - 1))
    p[np.arange(len(labels)), predicted] = sure
    columns = {f"p_{c}": p[:, c] for c in range(n_classes)}
    return pd.DataFrame({"idx": np.arange(len(labels)) if idx is None else idx, "label": labels, **columns})


def logged(labels, predicted, kind="accuracy", n_classes=2) -> float:
    sums = indicators(np.asarray(labels), np.asarray(predicted), kind, n_classes).sum(axis=1)
    return float(score(sums, len(labels), kind))


def run(method, seed, value, *, task="t", init="pretrained", dev=None, **more) -> dict:
    """A finished student run; `more`: further columns."""
    name = f"{task}-{init}-{method}-{seed}"
    params = {"task": task, "model": "m", "init": init, "method": method, "seed": str(seed), "epochs": "3"}
    return {
        "run_id": name,
        "status": "FINISHED",
        **{f"params.{key}": text for key, text in params.items()},
        "metrics.best/test/score": value,
        "metrics.best/dev/score": value if dev is None else dev,
        "tags.labelreg.kind": "student",
        "tags.labelreg.fingerprint": digest(name),
        **more,
    }


def paired(tables: dict, kind="accuracy", n_classes=2):
    """`pair` on runs whose scores follow from `tables`: (method, seed) -> (labels, predicted[, idx])."""
    rows, stored = [], {}
    for (method, seed), (labels, predicted, *idx) in tables.items():
        row = run(method, seed, logged(labels, predicted, kind, n_classes))
        rows.append(row)
        stored[row["run_id"], "test"] = table(labels, predicted, n_classes, *idx)
    return pair(pd.DataFrame(rows)), stored


METHODS = ("finetune", "ls", "kd", "akd")


def study(scores: dict, **more):
    """pair() of (task, init, method) -> scores, the seeds being 0, 1, ..."""
    found = [
        run(method, seed, value, task=task, init=init, **more)
        for (task, init, method), values in scores.items()
        for seed, value in (values.items() if isinstance(values, dict) else enumerate(values))
    ]
    return pair(pd.DataFrame(found))


def drawn(tasks=7, seeds=5, methods=METHODS, inits=("pretrained",), seed=0, gain=0.0):
    rng = np.random.default_rng(seed)
    return {
        (f"t{t}", init, method): 70 + rng.normal(0, 1, seeds) + rng.normal(0, 0.5) + gain * (method == "kd")
        for t in range(tasks)
        for init in inits
        for method in methods
    }
