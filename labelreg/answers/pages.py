"""What is made of runs beside the verdicts: the page of `report`, and the paper's tables."""

import io
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import pairing
from analysis.predictions import marked
from analysis.present import figures as drawings
from analysis.present import page, paper_tables, pictures, render, typeset
from labelreg.answers.answering import HOW_TO_BEGIN, HOW_TO_BEGIN_A_TABLE, answer, predictions_of
from labelreg.answers.sources import log_files, runs_of
from labelreg.data.tasks import TASKS
from labelreg.errors import UserError
from labelreg.parameter import Value
from labelreg.settings import RUN, named
from labelreg.store import logged, records, tracking, views

HOW_TO_BEGIN_TABLES = f"""no runs to show yet: a table takes runs of one task and model, e.g.
  {RUN} -e train_student -P method=finetune -P seed=42
or a whole study: {RUN}"""
PAGE = "report.html"


def make_page(given: dict[str, Value]) -> None:
    """Make the page of an experiment's runs, or of a table of scores; log it, and write it into output_dir."""
    tracking.connect()
    html, compared = _page(*runs_of(given), given)
    with tracking.open_run("report", "report") as run:
        run.params({name: given.get(name) for name in named("report")})
        log_files({PAGE: html}, run, given.get("output_dir"))
    if not compared:
        print(HOW_TO_BEGIN_A_TABLE if given.get("csv") else HOW_TO_BEGIN, flush=True)
    if given.get("output_dir"):
        print(Path(str(given["output_dir"])) / PAGE, flush=True)
    print(
        f"{records.place(run.run_id)}/{PAGE}: {len(html.encode()) / 1e6:.2f} MB, artifact of run {run.run_id}",
        flush=True,
    )
    views.tell_run(run.run_id)


def _page(
    runs: pd.DataFrame, source: str, metric: Value, remarks: list[str], given: dict[str, Value]
) -> tuple[str, int]:
    """The page, and how many comparisons it has.

    Raises:
        UserError: no run has a score, so there is no page.
    """
    found = answer(runs, given, metric, remarks, "true")
    if found.paired.runs.empty:
        way = f"significance names what is left out, a study trains more: {RUN}"
        raise UserError(f"{source}: no run has a score, so there is nothing to compare and no page; {way}")
    told = tuple((name, logged.plain(given[name])) for name in named("report") if name in given)
    stored = not given.get("csv")
    histories = records.histories(list(found.paired.runs["run_id"]), pictures.EPOCH_METRICS) if stored else None
    return page.page(found, source, told, histories), len(found.judged)


def make_tables(given: dict[str, Value]) -> None:
    """Make the tables and figures of runs or of a table of scores; log, write them into output_dir, and print."""
    tracking.connect()
    runs, _, metric, remarks = runs_of(given)
    if "params.train_file" in runs:  # a file of one's own may be called as a task is: it is none of the paper's
        own = runs["params.train_file"].fillna("").ne("") & runs["params.task"].isin(TASKS)
        runs["params.task"] = runs["params.task"].mask(own, runs["params.task"] + " (own file)")
    paired = pairing.pair(runs, metric=metric)
    predictions = None if given.get("csv") else predictions_of(runs, paired)
    if predictions is not None:
        paired = marked(paired, predictions)
    studies = [] if given.get("csv") or given.get("study") else runs.get(f"tags.{tracking.STUDY}", [])
    made = paper_tables.tables(runs, paired, set(studies))
    told = remarks + [HOW_TO_BEGIN_TABLES]
    with tracking.open_run("report", "tables") as run:
        run.params({name: given.get(name) for name in named("tables")})
        if len(made.cells):
            figures = _figures(paper_tables.scores(runs, paired), made)
            log_files(_table_files(made, figures), run, given.get("output_dir"))
            told = remarks + [typeset.as_text(made)]
    if len(made.cells) and len(paired.left_out):
        told.append(f"\n{len(paired.left_out)} runs are in no comparison; significance names them")
    print("\n".join(told), flush=True)
    views.tell_run(run.run_id)


def _figures(scores: pd.DataFrame, made: paper_tables.Tables) -> dict[str, Figure]:
    """Figure 1 for every model, by file name; what it leaves out is listed as missing."""
    drawn = {}
    for model in sorted(set(scores["model"])):
        frame, left = drawings.figure1_scores(scores, model)
        made.missing += left
        if len(frame):
            drawn[f"figure1-{model.replace('/', '_')}"] = drawings.figure1(frame, model)
    return drawn


def _table_files(made: paper_tables.Tables, figures: dict[str, Figure]) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {
        "tables.csv": render.to_csv(made.cells),
        "tables.md": typeset.as_markdown(made),
        "tables.tex": typeset.as_latex(made),
    }
    for name, figure in figures.items():
        for ending in ("svg", "pdf"):
            drawn = io.BytesIO()
            with drawings.plain_text():
                figure.savefig(drawn, format=ending)
            files[f"{name}.{ending}"] = drawn.getvalue()
    return files
