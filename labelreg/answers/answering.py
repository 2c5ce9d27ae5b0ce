"""Does a method differ from fine-tuning? Paired runs, exact tests, verdicts: `mlflow run . -e significance`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis import pairing
from analysis.design import follows, mark_tuned, seed_orders
from analysis.predictions import marked
from analysis.present import answer as parts
from analysis.present import further, tables
from labelreg.answers.sources import log_files, runs_of
from labelreg.parameter import Value
from labelreg.settings import Output, Report, Store, Table, of
from labelreg.store import records, tracking

HOW_TO_BEGIN = """nothing to compare yet: it takes runs of finetune and of another method with the same seeds, e.g.
  mlflow run . -e train_student -P method=finetune -P seed=42
  mlflow run . -e train_student -P method=ls -P seed=42
or a whole study: mlflow run ."""
HOW_TO_BEGIN_A_TABLE = """nothing to compare yet: it takes rows of finetune and of another method with the same seeds;
a baseline of another name is given by reference=NAME"""
RULE = [name for name in of(Report) if name not in of(Output, Table, Store)]


@dataclass(frozen=True, eq=False)
class Answer:
    """What is said of a frame of runs: sections for people, rows for programs, summaries for the MLflow UI."""

    sections: list[parts.Section]
    judged: pd.DataFrame  # of analysis.tables.judge
    left_out: pd.DataFrame
    summaries: list[dict]
    parents: dict[str, str]
    parameters: dict = field(default_factory=dict)


def significance(given: dict[str, Value]) -> None:
    """Compare the runs of an experiment, or the scores of a table; log the files, and print."""
    tracking.connect()
    rule = {name: given[name] for name in RULE if name in given}
    source = {name: given[name] for name in of(Store, Table) if name in given}
    runs, _, metric, remarks = runs_of(given)
    if "csv" in given:
        found = answer(runs, **rule | {"metric": metric})
    else:
        found = answer(runs, plans=plans_of(runs), examples=str(given.get("examples", "auto")), **rule)
    found.parameters.update(source)
    found.sections[:0] = [parts.Section("read", "Read", tuple(remarks))] if remarks else []
    with tracking.open_run("significance", "significance") as run:
        run.params(rule | source)
        log_files(_files(found), run, given.get("output_dir"))
        if "csv" not in given:
            records.summarise(found.summaries, found.parents, run, str(given.get("where", "")))
    _tell(found)  # when all is done: who reads no further (`| head`) ends nothing


def report(runs: pd.DataFrame, run: tracking.Run, output_dir: str | None = None, **rule: Any) -> None:
    """Log scores, comparisons and verdicts of a frame of runs as artifacts of `run`, a study's; print them."""
    found = answer(runs, plans=plans_of(runs, run.run_id), examples="auto", **rule)
    log_files(_files(found), run, output_dir)
    records.summarise(found.summaries, found.parents, run)
    _tell(found)


def answer(
    runs: pd.DataFrame,
    metric: str | None = None,
    lower_is_better: list[str] | None = None,
    reference: str = "finetune",
    margin: float = 0.5,
    level: float = 0.05,
    zeros: str = "wilcox",
    looks: list[int] | None = None,
    plans: list[dict] | None = None,
    examples: str = "false",
) -> Answer:
    """The answer on a frame of runs. `plans`: those of its studies, as `records.plans` reads them. `examples`: whether
    predictions are read from the store, auto being for up to further.MOST_RUNS runs."""
    looks, lower = looks or [], lower_is_better or []
    paired = pairing.pair(runs, reference, metric, lower)
    predictions = predictions_of(runs, paired, examples)
    if predictions is not None:
        paired = marked(paired, predictions)
    order = seed_orders(plans or [], pairing.seed_order(runs))
    judged = mark_tuned(tables.judge(paired, margin, level, zeros, looks, order), plans or [])
    sections = parts.first_sections(paired, judged, level, looks)
    plan = [] if plans is None or judged.empty else follows(plans, paired, judged, metric, margin, level, looks)
    sections += _further(runs, paired, predictions, examples, level) if len(judged) else []
    sections += parts.last_sections(paired, plan)
    above = runs.get("tags.mlflow.parentRunId")
    parents = {} if above is None else dict(zip(runs["run_id"], above, strict=True))
    rule: dict[str, Any] = {
        "metric": metric,
        "lower_is_better": lower,
        "reference": reference,
        "margin": margin,
        "level": level,
    }
    rule |= {"zeros": zeros, "looks": looks}
    return Answer(sections, judged, paired.left_out, parts.summaries(paired, judged), parents, rule)


def predictions_of(
    runs: pd.DataFrame, paired: pairing.Paired, examples: str = "auto"
) -> Callable[[str, str], records.Columns | None] | None:
    """Predictions of the compared runs, where `examples` and their number let them be read; else None."""
    ids = further.compared(paired)
    wanted = examples == "true" or examples == "auto" and len(ids) <= further.MOST_RUNS
    return records.predictions(runs, ids) if ids and wanted else None


def _further(
    runs: pd.DataFrame,
    paired: pairing.Paired,
    predictions: Callable[[str, str], records.Columns | None] | None,
    examples: str,
    level: float,
) -> list[parts.Section]:
    """The sections beside the comparisons."""
    too_many = [further.not_read(paired)] if predictions is None and examples == "auto" else []
    return [*too_many, *further.sections(paired, runs, predictions, level)]


def _files(found: Answer) -> dict[str, str]:
    return {
        "significance.csv": tables.to_csv(found.judged[tables.COLUMNS + tables.BESIDE]),
        "left_out.csv": tables.to_csv(found.left_out),
        "significance.json": parts.as_json(found.sections, found.parameters),
        "significance.md": parts.as_markdown(found.sections, "Does label regularisation help here?"),
    }


def _tell(found: Answer) -> None:
    print(parts.as_text(found.sections), flush=True)
    if found.judged.empty:
        print(f"\n{HOW_TO_BEGIN_A_TABLE if 'csv' in found.parameters else HOW_TO_BEGIN}", flush=True)


def plans_of(runs: pd.DataFrame, *studies: str) -> list[dict]:
    """The logged plans of the studies that these runs come from."""
    names, above = (runs.get(f"tags.{tag}") for tag in (tracking.STUDY, tracking.PARENT))
    named = set() if names is None else set(names.dropna())
    return records.plans(named, {*studies, *(() if above is None else above.dropna())})
