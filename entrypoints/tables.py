"""The paper's tables and figure 1 from runs, its numbers beside them: `mlflow run . -e tables`."""

import tempfile
from pathlib import Path

from entrypoints.command import command
from entrypoints.scores import STORE, runs_of
from labelreg.parameters import Value

HOW_TO_BEGIN = """no runs to show yet: a table takes runs of one task and model, e.g.
  mlflow run . -e train_student -P method=finetune -P seed=42
or a whole study: mlflow run ."""


def main(given: dict[str, Value]) -> None:
    """Make the tables and figures of runs or of a table of scores; print, log, and write them into output_dir."""
    from analysis import pairing, paper_tables, typeset
    from analysis.predictions import marked
    from entrypoints.significance import predictions_of
    from labelreg import tracking

    tracking.connect()
    runs, _, metric = runs_of(given)
    paired = pairing.pair(runs, metric=metric)
    predictions = None if given.get("csv") else predictions_of(runs, paired)
    if predictions is not None:
        paired = marked(paired, predictions)
    made = paper_tables.tables(runs, paired, str(given["zeros"]))
    with tracking.open_run("report", "tables") as run:
        run.params({name: given.get(name) for name in (*STORE, "zeros", "csv")})
        if made.cells.empty:
            print(HOW_TO_BEGIN, flush=True)
            return
        figures = _figures(paper_tables.scores(runs, paired), made)
        print(typeset.as_text(made), flush=True)
        if len(paired.left_out):
            print(f"\n{len(paired.left_out)} runs are in no comparison; significance names them", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for target in [Path(folder), *([Path(str(given["output_dir"]))] if given.get("output_dir") else [])]:
                _write(target, made, figures)
            run.folder(Path(folder))


def _figures(scores, made) -> dict:
    """Figure 1 for every model, by file name; what it leaves out is listed as missing."""
    from analysis import figures

    drawn = {}
    for model in sorted(set(scores["model"])):
        frame, left = figures.figure1_scores(scores, model)
        made.missing += left
        if len(frame):
            drawn[f"figure1-{model.replace('/', '_')}"] = figures.figure1(frame, model)
    return drawn


def _write(folder: Path, made, figures: dict) -> None:
    from analysis import typeset
    from analysis.figures import plain_text

    folder.mkdir(parents=True, exist_ok=True)
    made.cells.to_csv(folder / "tables.csv", index=False)
    (folder / "tables.md").write_text(typeset.as_markdown(made), encoding="utf-8")
    (folder / "tables.tex").write_text(typeset.as_latex(made), encoding="utf-8")
    for name, figure in figures.items():
        for ending in ("svg", "pdf"):
            with plain_text():
                figure.savefig(folder / f"{name}.{ending}")


if __name__ == "__main__":
    command("tables", main, __doc__)
