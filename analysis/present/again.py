"""How to run it again: shell commands for the runs that were compared, and for the page.

What a command names is what its entry point takes and the runs logged, less what decides no result: a parameter that
is new is named without a list being kept here.
"""

import shlex
from collections.abc import Sequence

import pandas as pd

from analysis.pairing import Paired, method_rank
from analysis.present.wording import distinct, in_order, used
from labelreg.methods import own_file
from labelreg.settings import RUN, named

PARENT, KIND = "tags.mlflow.parentRunId", "tags.labelreg.kind"
GIVEN_TEACHER = "tags.labelreg.teacher_given"
METHOD_FILE = "tags.labelreg.method_file"
CELL = ("task", "model", "init")
ALWAYS = "split_seed"  # what every study logs that logs all that it was given


def again(paired: Paired, runs: pd.DataFrame, given: Sequence[tuple]) -> list[str]:
    """Shell commands that repeat the runs and this page; runs of a study by the study's own command."""
    mine = used(paired, runs)
    lines = [f"git checkout {commit}" for commit in distinct(mine, "tags.mlflow.source.git.commit")]
    if len(lines) > 1:
        lines = [f"# runs of {len(lines)} commits:", *(f"#   {line}" for line in lines)]
    if "csv" not in dict(given):  # a table's runs were not these commands'
        studies = _studies(runs, set(distinct(mine, PARENT)))
        lines += dict.fromkeys(studies.values())
        lines += _single(mine[~mine[PARENT].isin(list(studies))] if studies else mine, runs)
    return [*lines, command("report", given)]


def command(entry_point: str, given: Sequence[tuple]) -> str:
    """What `mlflow run` takes, quoted for a shell."""
    words = [f"-P {name}={shlex.quote(str(value))}" for name, value in given]
    return " ".join([RUN, *([] if entry_point == "main" else [f"-e {entry_point}"]), *words])


def with_model(row: dict) -> str:
    """The command that does this run again and stores its model."""
    return command("train_student", [*_logged(row, "train_student", ("save_model",)), ("save_model", "true")])


def _studies(runs: pd.DataFrame, parents: set[str]) -> dict[str, str]:
    """The command of each of these runs that is a study and logged all that it was given."""
    if not parents or KIND not in runs or f"params.{ALWAYS}" not in runs:
        return {}
    found = runs[(runs[KIND] == "study") & runs["run_id"].isin(parents) & runs[f"params.{ALWAYS}"].notna()]
    commands = {}
    for row in found.to_dict("records"):
        entry_point = row.get("tags.mlflow.project.entryPoint")
        entry_point = "main" if pd.isna(entry_point) else entry_point
        commands[row["run_id"]] = command(entry_point, _logged(row, "study"))
    return commands


def _single(mine: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """A loop over methods and seeds for each setting."""
    if mine.empty or not {f"params.{name}" for name in CELL} <= set(mine.columns):
        return []
    told = [tuple(_logged(row, "train_student", ("method", "seed"))) for row in mine.to_dict("records")]
    lines = _teachers({value for given in told for name, value in given if name == "teacher_run_id"}, runs)
    for given, rows in mine.groupby(pd.Series(told, mine.index), sort=False):
        methods = sorted(distinct(rows, "params.method"), key=method_rank)
        methods = [own_file.as_given("method", method, distinct(rows, METHOD_FILE)) for method in methods]
        seeds = in_order(distinct(rows, "params.seed"))
        lines += [
            f"for method in {shlex.join(map(str, methods))}; do for seed in {shlex.join(map(str, seeds))}; do",
            f'  {command("train_student", given)} -P method="$method" -P seed="$seed"',
            "done; done",
        ]
    return lines


def _teachers(run_ids: set[str], runs: pd.DataFrame) -> list[str]:
    """How the runs were trained that a user named as teachers, some of them together."""
    lines, run_ids = [], {run_id for each in run_ids for run_id in each.split(",")}
    for row in runs[runs["run_id"].isin(run_ids)].to_dict("records"):
        entry_point = "train_teacher" if row.get(KIND) == "teacher" else "train_student"
        lines.append(f"# run {row['run_id']}: {command(entry_point, _logged(row, entry_point))}")
    return lines


def _logged(row: dict, entry_point: str, without: Sequence[str] = ()) -> list[tuple]:
    """(name, value) of what a run logged of its entry point's parameters."""
    names = [name for name in named(entry_point) if name not in without]
    found = {name: row.get(f"params.{name}") for name in names}
    used = {name: row.get(f"params.{name}_used") for name in found}  # what `auto` came to
    found |= {name: value for name, value in used.items() if not pd.isna(value)}
    given = row.get(GIVEN_TEACHER) == "true"  # else found, or trained first, by the settings
    for name in ("teacher_model", "teacher_seed") if given else ("teacher_run_id",):
        found.pop(name, None)
    if entry_point == "train_student" and not pd.isna(own := row.get(f"params.{own_file.SETTINGS}")):
        found |= own_file.heard(str(own))
    for name in {"method", "methods"} & {name for name, value in found.items() if not pd.isna(value)}:
        found[name] = own_file.as_given(name, str(found[name]), [row.get(METHOD_FILE)])
    return [(name, value) for name, value in found.items() if not pd.isna(value)]
