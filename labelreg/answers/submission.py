"""GLUE test predictions to the server and back: `mlflow run . -e submission`, then `-P scores=server.csv`.

Without `scores`: one zip per (model, init, method, seed), with placeholders for tasks that have no run.
With `scores`: the server's answers become the runs' test scores.
"""

import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path

import pandas as pd

from analysis import units
from analysis.reading import csv_table
from labelreg import whole
from labelreg.data.tasks import TASKS
from labelreg.errors import UserError
from labelreg.methods import label
from labelreg.parameter import Value
from labelreg.store import records, tracking

# file -> (rows of the test set, a constant that the server accepts)
GLUE_FILES = {
    "CoLA": (1063, "0"), "SST-2": (1821, "0"), "MRPC": (1725, "1"), "QQP": (390965, "0"), "STS-B": (1379, "2.5"),
    "MNLI-m": (9796, "entailment"), "MNLI-mm": (9847, "entailment"), "QNLI": (5463, "entailment"),
    "RTE": (3000, "entailment"), "WNLI": (146, "0"), "AX": (1104, "entailment"),
}  # fmt: skip
CELL = ["params.model", "params.init", "params.method", "params.seed"]
SOURCE = "labelreg.test_source"
DEFAULT_FOLDER = "submissions"


def submit(given: dict[str, Value]) -> None:
    """Write the zips, or bring the server's scores back."""
    tracking.connect()
    runs = records.frame(tracking.experiment_id(given.get("experiment")), given.get("where"))
    glue = _glue_students(runs)
    if given.get("scores"):
        _bring_back(glue, Path(str(given["scores"])))
    elif glue.empty:
        print("no GLUE runs to submit yet: train_student -P task=cola (sst2, mrpc, qqp, mnli, rte, qnli)", flush=True)
    else:
        repeated = glue[glue.duplicated(["params.task", *CELL], keep=False)]
        if len(repeated):
            first = repeated.iloc[0]
            cell = " ".join(str(first[name]) for name in ["params.task", *CELL])
            same = repeated[(repeated[["params.task", *CELL]] == first[["params.task", *CELL]]).all(axis=1)]
            raise UserError(f"{cell} has several runs ({', '.join(same['run_id'])}): narrow with where=...")
        _write_zips(glue, Path(str(given.get("output_dir") or DEFAULT_FOLDER)))


def _glue_students(runs: pd.DataFrame) -> pd.DataFrame:
    """Finished students of GLUE tasks; of runs with one fingerprint the newest."""
    kind, fingerprint = f"tags.{tracking.KIND}", f"tags.{tracking.FINGERPRINT}"
    if not {"params.task", kind, fingerprint} <= set(runs.columns):
        return runs.iloc[:0]
    glue = [name for name, task in TASKS.items() if task.glue]
    found = runs[(runs[kind] == "student") & (runs["status"] == "FINISHED") & runs["params.task"].isin(glue)]
    if "params.train_file" in found:  # a file of one's own may be called as a task is: the server has no test set of it
        found = found[found["params.train_file"].fillna("").eq("")]
    if "params.average" in found:  # the same method with averaged weights is another row of the server's table
        labels = [label(*pair) for pair in zip(found["params.method"], found["params.average"], strict=True)]
        found = found.assign(**{"params.method": labels})
    return found.sort_values("start_time").drop_duplicates(fingerprint, keep="last")


def _write_zips(glue: pd.DataFrame, folder: Path) -> None:
    for cell, members in glue.groupby(CELL):
        lines: dict[str, str] = {}
        with tempfile.TemporaryDirectory() as temporary:
            for run in members.to_dict("records"):
                for name in TASKS[run["params.task"]].glue.values():
                    path = records.download(run["run_id"], f"submission/{name}.tsv", Path(temporary) / run["run_id"])
                    lines[name] = path.read_text(encoding="utf-8")
        held = [name for name in GLUE_FILES if name not in lines]
        target = folder / ("-".join(str(value).replace("/", "_") for value in cell) + ".zip")
        with whole.file(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, (rows, constant) in GLUE_FILES.items():
                placeholder = "index\tprediction\n" + "".join(f"{row}\t{constant}\n" for row in range(rows))
                archive.writestr(f"{name}.tsv", lines.get(name, placeholder))
        print(f"{target}: {', '.join(name for name in GLUE_FILES if name in lines)}", flush=True)
        print(f"  placeholders, whose scores mean nothing: {', '.join(held)}", flush=True)


def _bring_back(glue: pd.DataFrame, path: Path) -> None:
    """Log the server's scores on the runs that they belong to; all rows are checked before the first is logged."""
    table = csv_table(path, "scores")
    keys = ["run_id"] if "run_id" in table else ["task", "model", "init", "method", "seed"]
    missing = [name for name in [*keys, "score"] if name not in table]
    if missing:
        raise UserError(
            f"scores={path}: no column {', '.join(missing)}; run_id, or task, model, init, method, seed; and score"
        )
    answers = defaultdict(list)
    for number, row in zip(table.index, table.to_dict("records"), strict=True):
        columns = {"run_id": "run_id"} if keys == ["run_id"] else {name: f"params.{name}" for name in keys}
        match = glue
        for name, column in columns.items():
            match = match[match[column].astype(str) == row[name].strip()] if len(match) else match
        what = " ".join(row[name] for name in keys)
        if len(match) != 1:
            raise UserError(f"scores={path}, line {number}: {len(match)} GLUE runs are {what!r}; there must be one")
        try:
            score = float(row["score"])
        except ValueError:
            score = float("nan")
        if not -100 <= score <= 100:
            raise UserError(f"scores={path}, line {number}: score {row['score']!r}: a number in percent is needed")
        dev = abs(match.iloc[0].get("metrics.best/dev/score", 0))
        if 0 < abs(score) < 1 and units.BESIDE[0] * dev <= 100 * abs(score) <= units.BESIDE[1] * dev:
            raise UserError(
                f"scores={path}, line {number}: score {row['score']!r} beside {dev:.2f} on dev is a fraction: a number "
                "in percent is needed"
            )
        answers[match.iloc[0]["run_id"]].append((match.iloc[0], score))
    for run_id, rows in answers.items():
        run, score = rows[-1]
        if len(rows) > 1:
            raise UserError(f"scores={path}: run {run_id} stands there {len(rows)} times")
        if run["params.task"] == "mrpc":
            print(f"{run_id}: mrpc has labels; its computed test score stays", flush=True)
            continue
        which = run.get("params.selection") or "best"
        tracking.Run(run_id).metrics({f"{which}/test/score": score})
        tracking.Run(run_id).tags({SOURCE: "glue-server"})
        print(f"{run_id}: {run['params.task']} {which}/test/score = {score}", flush=True)
