"""Does a method differ from fine-tuning? Paired runs, exact tests, verdicts: `mlflow run . -e significance`."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis import exported, pairing
from analysis.judge import LEVEL, Rule
from analysis.margins import margins
from analysis.plan_check import agreed, held
from analysis.present import answer as parts
from analysis.present import render, wording
from analysis.present.answer import Answer, Evidence
from labelreg.answers.sources import log_files, remove_older, runs_of
from labelreg.parameter import Value
from labelreg.settings import RUN, Output, Report, Store, Table, of
from labelreg.store import records, tracking, views

HOW_TO_BEGIN = f"""nothing to compare yet: it takes runs of finetune and of another method with the same seeds, e.g.
  {RUN} -e train_student -P method=finetune -P seed=42
  {RUN} -e train_student -P method=ls -P seed=42
or a whole study: {RUN}"""
HOW_TO_BEGIN_A_TABLE = """nothing to compare yet: it takes rows of finetune and of another method with the same seeds;
a baseline of another name is given by reference=NAME"""
RULE = [name for name in of(Report) if name not in of(Output, Table, Store)]
SCORES = "scores.csv"  # of an answer whose finished runs all have a fingerprint
MORE = f"more: significance.md and .json of run {{}}; {RUN} -e report: a page; -P verbose=true: everything"


def significance(given: dict[str, Value]) -> None:
    """Compare the runs of an experiment, or the scores of a table; log the files, and print."""
    tracking.connect()
    rule = {name: given[name] for name in RULE if name in given}
    source = {name: given[name] for name in of(Store, Table) if name in given}
    runs, _, metric, remarks = runs_of(given)
    found = answer(runs, given, metric, remarks, str(given.get("examples", "auto")))
    found.parameters.update(source)
    with tracking.open_run("significance", "significance") as run:
        run.params(rule | source)
        _log(found, run, given.get("output_dir"), None if "csv" in given else str(given.get("where", "")))
    tell(found, run, bool(given.get("verbose")))  # when all is done: who reads no further (`| head`) ends nothing
    if "csv" in given:
        views.tell_run(run.run_id)
    else:
        views.tell("methods", tracking.experiment_id(given.get("experiment")))


def report(runs: pd.DataFrame, run: tracking.Run, given: Mapping[str, Value]) -> None:
    """Log scores, comparisons and verdicts of a frame of runs as artifacts of `run`, a study's; print them."""
    found = answer(runs, given, None, [], "auto", run.run_id)
    _log(found, run, None, "")
    tell(found, run)


def answer(
    runs: pd.DataFrame,
    given: Mapping[str, Value],
    metric: str | None,
    remarks: Sequence[str] = (),
    examples: str = "auto",
    *studies: str,
) -> Answer:
    """The answer on a frame of runs, by the rule that was given, else that of the plans where they agree.

    `examples`: whether predictions are read from the store, auto being for up to answer.MOST_RUNS runs; `studies`: run
    ids of studies whose plans hold, beside those of the runs.
    """
    lower = list(given.get("lower_is_better") or [])
    paired = pairing.pair(runs, str(given.get("reference", "finetune")), metric, lower)
    if given.get("csv"):
        taught = runs[runs[exported.KIND] == "teacher"]
        evidence = Evidence(runs, exported.plans(runs), None, tuple(remarks), taught)
    else:
        read = plans_of(runs, *studies), predictions_of(runs, paired, examples)
        evidence = Evidence(runs, *read, tuple(remarks), teachers_of(runs, paired))
    planned = agreed(held(evidence.plans or [], paired, runs), paired) if metric is None else {}
    tasks = {str(task) for task in runs.get("params.task", pd.Series(dtype=object)).dropna()} - {""}
    margins(given.get("margin")).check(tasks)
    rule = rule_of(planned | dict(given))
    return parts.answer(evidence, paired, rule, metric, lower)


def rule_of(given: Mapping[str, Value]) -> Rule:
    """What decides, of the parameters of a command."""
    return Rule(margins(given.get("margin")), given.get("level") or LEVEL, tuple(given.get("looks") or ()))


def predictions_of(
    runs: pd.DataFrame, paired: pairing.Paired, examples: str = "auto"
) -> Callable[[str, str], records.Columns | None] | None:
    """Predictions of the compared runs, where `examples` and their number let them be read; else None."""
    ids = paired.compared
    wanted = examples == "true" or examples == "auto" and len(ids) <= parts.MOST_RUNS
    return records.predictions(runs, ids) if ids and wanted else None


def teachers_of(runs: pd.DataFrame, paired: pairing.Paired) -> pd.DataFrame:
    """The runs that compared ones learnt from; those that `where` or `study` left out are read."""
    taught = {run_id for c in paired.comparisons for teacher in c.teachers for run_id in teacher.split(",")}
    ids = {run_id for run_id in taught if run_id and " " not in run_id}  # a teacher of the user's own is no run
    if more := sorted(ids.difference(runs["run_id"])):
        runs = pd.concat([runs, records.these(more)], ignore_index=True)
    return runs[runs["run_id"].isin(ids)] if ids else runs.iloc[:0]


def _log(found: Answer, run: tracking.Run, output_dir: Value, key: str | None) -> None:
    """The files as artifacts, and one summary run for each method (`key` None: none)."""
    log_files(files := parts.files(found), run, output_dir)
    older, read = Path(str(output_dir), SCORES), Path(str(found.parameters.get("csv", "")))
    if output_dir and SCORES not in files and older.resolve() != read.resolve():
        remove_older(older)
    if key is not None:
        above = found.runs.get("tags.mlflow.parentRunId")
        parents = {} if above is None else dict(zip(found.runs["run_id"], above, strict=True))
        records.summarise(parts.summaries(found.paired, found.judged), parents, run, key)


def tell(found: Answer, run: tracking.Run, verbose: bool = False) -> None:
    """Print the answer: in short, or everything."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    if verbose or found.judged.empty:
        print(render.as_text(found.sections), flush=True)
    else:
        lines = render.as_text(found.sections, verbose=False, width=width).splitlines()
        print("\n".join(wording.wrapped([*lines, MORE.format(run.run_id)], width)), flush=True)
    if found.judged.empty:
        print(f"\n{HOW_TO_BEGIN_A_TABLE if 'csv' in found.parameters else HOW_TO_BEGIN}", flush=True)


def plans_of(runs: pd.DataFrame, *studies: str) -> list[dict]:
    """The logged plans of the studies that these runs come from."""
    names, above = (runs.get(f"tags.{tag}") for tag in (tracking.STUDY, tracking.PARENT))
    named = set() if names is None else set(names.dropna())
    return records.plans(named, {*studies, *(() if above is None else above.dropna())})
