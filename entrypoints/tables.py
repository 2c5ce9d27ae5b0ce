"""The paper's tables and figure 1 from runs, its numbers beside them: `mlflow run . -e tables`."""

import io

from entrypoints.command import command
from entrypoints.scores import STORE, log_files, runs_of
from labelreg.parameters import Value

HOW_TO_BEGIN = """no runs to show yet: a table takes runs of one task and model, e.g.
  mlflow run . -e train_student -P method=finetune -P seed=42
or a whole study: mlflow run ."""


def main(given: dict[str, Value]) -> None:
    """Make the tables and figures of runs or of a table of scores; log, write them into output_dir, and print."""
    from analysis import pairing, paper_tables, typeset
    from analysis.predictions import marked
    from entrypoints.significance import predictions_of
    from labelreg import tracking

    tracking.connect()
    runs, _, metric, remarks = runs_of(given)
    paired = pairing.pair(runs, metric=metric)
    predictions = None if given.get("csv") else predictions_of(runs, paired)
    if predictions is not None:
        paired = marked(paired, predictions)
    made = paper_tables.tables(runs, paired, str(given["zeros"]))
    told = remarks + [HOW_TO_BEGIN]
    with tracking.open_run("report", "tables") as run:
        run.params({name: given.get(name) for name in (*STORE, "zeros", "csv")})
        if len(made.cells):
            figures = _figures(paper_tables.scores(runs, paired), made)
            log_files(_files(made, figures), run, given.get("output_dir"))
            told = remarks + [typeset.as_text(made)]
    if len(made.cells) and len(paired.left_out):
        told.append(f"\n{len(paired.left_out)} runs are in no comparison; significance names them")
    print("\n".join(told), flush=True)


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


def _files(made, figures: dict) -> dict[str, str | bytes]:
    from analysis import tables, typeset
    from analysis.figures import plain_text

    files: dict[str, str | bytes] = {
        "tables.csv": tables.to_csv(made.cells),
        "tables.md": typeset.as_markdown(made),
        "tables.tex": typeset.as_latex(made),
    }
    for name, figure in figures.items():
        for ending in ("svg", "pdf"):
            drawn = io.BytesIO()
            with plain_text():
                figure.savefig(drawn, format=ending)
            files[f"{name}.{ending}"] = drawn.getvalue()
    return files


if __name__ == "__main__":
    command("tables", main, __doc__)
