"""One HTML page that answers the question: verdicts, pictures, tables, methods section. `mlflow run . -e report`"""

import os
import tempfile
from pathlib import Path

from entrypoints.command import command
from labelreg.errors import UserError
from labelreg.parameters import ENTRY_POINTS, Value

PAGE = "report.html"
STORE = ("experiment", "study", "where")


def main(given: dict[str, Value]) -> None:
    """Make the page of an experiment's runs, or of a table of scores; log it, and write it into output_dir."""
    from entrypoints.significance import HOW_TO_BEGIN
    from labelreg import tracking

    tracking.connect()
    html = _from_table(given) if given.get("csv") else _from_store(given)
    if html is None:
        print(HOW_TO_BEGIN, flush=True)
        return
    with tracking.open_run("report", "report") as run:
        run.params({name: given.get(name) for name in ENTRY_POINTS["report"] if name != "output_dir"})
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / PAGE).write_text(html, encoding="utf-8")
            run.folder(Path(folder))
        if given.get("output_dir"):
            _write(Path(str(given["output_dir"])), html)
    print(f"{PAGE}: {len(html.encode()) / 1e6:.2f} MB, artifact of run {run.run_id}", flush=True)


def _from_table(given: dict[str, Value]) -> str | None:
    from analysis import reading

    path = Path(str(given["csv"]))
    if clash := [name for name in STORE if name in given]:
        raise UserError(f"csv={path} and {clash[0]}={given[clash[0]]}: a table has no {clash[0]}")
    runs, unused = reading.scores_table(path, given.get("metric"))
    if unused:
        print(f"columns that are not used: {', '.join(unused)}", flush=True)
    return _page(runs, f"scores of {path.name}", given, given.get("metric") or reading.SCORE)


def _from_store(given: dict[str, Value]) -> str | None:
    from analysis import reading
    from labelreg import tracking

    experiment = tracking.experiment_id(given.get("experiment"))
    runs = tracking.frame(experiment, given.get("where"))
    source = f"experiment {tracking.experiment_name(experiment)}"
    if given.get("study"):
        runs, source = reading.study_runs(runs, str(given["study"])), f"study {given['study']}, {source}"
    return _page(runs, source, given, given.get("metric"))


def _page(runs, source: str, given: dict[str, Value], metric: Value) -> str | None:
    """The page, or None where no run has a score."""
    from analysis import pairing, report, tables
    from analysis.design import follows
    from entrypoints.significance import plans_of
    from labelreg import tracking

    stored = not given.get("csv")
    rule = given["margin"], given["level"]
    looks, zeros = given.get("looks") or [], str(given["zeros"])
    paired = pairing.pair(runs, str(given["reference"]), metric)
    plans = plans_of(runs, tracking) if stored else []
    order = plans[0]["plan"]["seeds"] if plans else pairing.seed_order(runs)
    judged = tables.judge(paired, *rule, zeros, looks, order)
    if paired.runs.empty:
        return None
    evidence = report.Evidence(runs)
    if stored:
        plan = follows(plans, paired, judged, metric, *rule, looks) if len(judged) else []
        histories = tracking.histories(list(paired.runs["run_id"]), report.EPOCH_METRICS)
        evidence = report.Evidence(runs, histories, tracking.predictions(runs), tuple(plan))
    told = [name for name in ENTRY_POINTS["report"] if name in given and name != "output_dir"]
    repeat = tuple((name, tracking.plain(given[name])) for name in told)
    return report.page(paired, judged, evidence, report.Design(source, *rule, zeros, tuple(looks), repeat))


def _write(folder: Path, html: str) -> None:
    """The whole page or none: a reader never finds half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{PAGE}.tmp"
    partial.write_text(html, encoding="utf-8")
    os.replace(partial, folder / PAGE)
    print(folder / PAGE, flush=True)


if __name__ == "__main__":
    command("report", main, __doc__)
