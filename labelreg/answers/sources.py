"""Where `significance`, `report` and `tables` find their runs (an experiment, a study of it, a table of scores),
and how they leave their files."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis import exported, reading
from labelreg import whole
from labelreg.errors import UserError
from labelreg.parameter import Value
from labelreg.settings import RUN, Store, of
from labelreg.store import records, tracking


def runs_of(given: dict[str, Value]) -> tuple[pd.DataFrame, str, str | None, list[str]]:
    """The runs (a DataFrame), words that say where they come from, the metric to compare (None: the default), and
    remarks on what was read.

    Raises:
        UserError: csv beside what names runs of a store; an experiment that does not exist; a `where` without runs.
        AnalysisError: a table that cannot be read, a study without runs.
    """
    if given.get("csv"):
        path = Path(str(given["csv"]))
        if clash := [name for name in of(Store) if name in given]:
            raise UserError(f"csv={path} and {clash[0]}={given[clash[0]]}: a table has no {clash[0]}")
        runs, remarks = reading.scores_table(path, given.get("metric"))
        return runs, f"scores of {path.name}", given.get("metric") or exported.metric(runs), remarks
    experiment = tracking.experiment_id(given.get("experiment"))
    runs = records.frame(experiment, given.get("where"))
    source = f"experiment {tracking.experiment_name(experiment)}"
    if given.get("where") and runs.empty:
        raise UserError(f"where={given['where']}: matches no run of {source}; {_tasks(experiment)}")
    if given.get("study"):
        runs, source = _of_study(runs, given, experiment), f"study {given['study']}, {source}"
    return runs, source, given.get("metric"), []


def _of_study(runs: pd.DataFrame, given: Mapping[str, Value], experiment: str) -> pd.DataFrame:
    """Of an experiment's runs those of a study: its own, and the runs of others that it found done, which its own
    answer counts too; those of other experiments where no `where` narrows."""
    study, reused = str(given["study"]), set[str]()
    for plan in records.plans({study}, ()):
        if tracking.get(plan["run_id"]).info.experiment_id == experiment:
            reused.update(plan["reused"] or ())
    if not given.get("where") and (elsewhere := sorted(reused.difference(runs["run_id"]))):
        runs = pd.concat([runs, records.these(elsewhere)], ignore_index=True)
    return reading.study_runs(runs, study, reused)


def _tasks(experiment: str) -> str:
    """Which tasks the students of an experiment are about, in words."""
    students = records.frame(experiment, tracking.tagged({tracking.KIND: "student"}))
    named = sorted(set(students["params.task"].dropna())) if len(students) else []
    return f"its tasks: {', '.join(named)}" if named else f"it has no students yet, a study trains them: {RUN}"


def write_files(files: Mapping[str, str | bytes], folder: Path) -> None:
    """The files, each whole or not there: a reader never finds half of one, nor loses the one before it."""
    for name, content in files.items():
        with whole.file(folder / name) as path:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def log_files(files: Mapping[str, str | bytes], run: tracking.Run, output_dir: Value) -> None:
    """The files as artifacts of a run, and in `output_dir` where it is given."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(files, Path(folder))
        run.folder(Path(folder))
    if output_dir:
        write_files(files, Path(str(output_dir)))


def remove_older(path: Path) -> None:
    """Remove the table of scores that an answer of before has left: beside the files of an answer that has none it
    would be read as that one's. A table that labelreg did not write stays."""
    try:
        ours = exported.marked(pd.read_csv(path, dtype=str))
    except (OSError, ValueError):  # none, or no table
        return
    if ours:
        path.unlink(missing_ok=True)
        print(f"{path}: removed, as it was an earlier answer's, and this one has none", flush=True)
