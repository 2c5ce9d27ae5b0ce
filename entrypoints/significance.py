"""Does a method differ from fine-tuning? Paired runs, exact tests, verdicts: `mlflow run . -e significance`."""

import tempfile
from pathlib import Path

from entrypoints.command import command
from labelreg.parameters import Value

HOW_TO_BEGIN = """nothing to compare yet: it takes runs of finetune and of another method with the same seeds, e.g.
  mlflow run . -e train_student -P method=finetune -P seed=42
  mlflow run . -e train_student -P method=ls -P seed=42
or a whole study: mlflow run ."""


def main(given: dict[str, Value]) -> None:
    """Compare the runs of an experiment; print, and log significance.csv."""
    from labelreg import tracking

    tracking.connect()
    experiment = tracking.experiment_id(given.get("experiment"))
    runs = tracking.frame(experiment, given.get("where"))
    with tracking.open_run("significance", "significance") as run:
        run.params({name: given.get(name) for name in ("metric", "reference", "margin", "level", "zeros", "where")})
        names = ("metric", "reference", "margin", "level", "zeros", "output_dir")
        report(runs, run, **{name: given[name] for name in names if name in given})


def report(
    runs,
    run,
    metric: str | None = None,
    reference: str = "finetune",
    margin: float = 0.5,
    level: float = 0.05,
    zeros: str = "wilcox",
    output_dir: str | None = None,
) -> None:
    """Print scores, comparisons and verdicts of a frame of runs; log them as artifacts of `run`."""
    from analysis import pairing, tables

    paired = pairing.pair(runs, reference, metric)
    if paired.runs.empty:
        print(HOW_TO_BEGIN, flush=True)
        return
    print(tables.to_text(tables.scores(paired)), flush=True)
    judged = tables.judge(paired, margin, level, zeros)
    if judged.empty:
        print(f"\n{HOW_TO_BEGIN}", flush=True)
    else:
        print("\n" + tables.to_text(judged[BRIEF]))
        print("\n" + "\n".join(tables.verdict_lines(judged)), flush=True)
    if len(paired.left_out):
        print(f"\nnot compared: {len(paired.left_out)} runs")
        print(tables.to_text(paired.left_out), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for target in [Path(folder), *([Path(output_dir)] if output_dir else [])]:
            target.mkdir(parents=True, exist_ok=True)
            judged[tables.COLUMNS].to_csv(target / "significance.csv", index=False)
            paired.left_out.to_csv(target / "left_out.csv", index=False)
        run.folder(Path(folder))


BRIEF = [
    "task",
    "model",
    "init",
    "method",
    "n",
    "mean_difference",
    "std_difference",
    "p_value",
    "min_p_value",
    "p_holm",
    "verdict",
]


if __name__ == "__main__":
    command("significance", main, __doc__)
