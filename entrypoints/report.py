"""One HTML page that answers the question: verdicts, pictures, tables, methods section. `mlflow run . -e report`"""

from pathlib import Path

from entrypoints.command import command
from entrypoints.scores import log_files, runs_of
from labelreg.parameters import ENTRY_POINTS, Value

PAGE = "report.html"


def main(given: dict[str, Value]) -> None:
    """Make the page of an experiment's runs, or of a table of scores; log it, and write it into output_dir."""
    from entrypoints.significance import HOW_TO_BEGIN, HOW_TO_BEGIN_A_TABLE
    from labelreg import tracking

    tracking.connect()
    html, compared = _page(*runs_of(given), given)
    if html is not None:
        with tracking.open_run("report", "report") as run:
            run.params({name: given.get(name) for name in ENTRY_POINTS["report"] if name != "output_dir"})
            log_files({PAGE: html}, run, given.get("output_dir"))
    if not compared:
        print(HOW_TO_BEGIN_A_TABLE if given.get("csv") else HOW_TO_BEGIN, flush=True)
    if html is not None:
        if given.get("output_dir"):
            print(Path(str(given["output_dir"])) / PAGE, flush=True)
        print(f"{PAGE}: {len(html.encode()) / 1e6:.2f} MB, artifact of run {run.run_id}", flush=True)


def _page(runs, source: str, metric: Value, remarks: list[str], given: dict[str, Value]) -> tuple[str | None, int]:
    """The page, or None where no run has a score; how many comparisons it has."""
    from analysis import further, pairing, report, tables
    from analysis.design import follows, mark_tuned, seed_orders
    from analysis.predictions import marked
    from entrypoints.significance import plans_of
    from labelreg import logged, records

    stored = not given.get("csv")
    rule = given["margin"], given["level"]
    looks, zeros = given.get("looks") or [], str(given["zeros"])
    paired = pairing.pair(runs, str(given["reference"]), metric, given.get("lower_is_better") or [])
    plans, predictions = plans_of(runs) if stored else [], None
    if stored:
        predictions = records.predictions(runs, further.compared(paired))
        paired = marked(paired, predictions)
    order = seed_orders(plans, pairing.seed_order(runs))
    judged = mark_tuned(tables.judge(paired, *rule, zeros, looks, order), plans)
    if paired.runs.empty:
        return None, 0
    evidence = report.Evidence(runs, remarks=tuple(remarks))
    if stored:
        plan = follows(plans, paired, judged, metric, *rule, looks) if len(judged) else []
        histories = records.histories(list(paired.runs["run_id"]), report.EPOCH_METRICS)
        evidence = report.Evidence(runs, histories, predictions, tuple(plan))
    told = [name for name in ENTRY_POINTS["report"] if name in given and name != "output_dir"]
    repeat = tuple((name, logged.plain(given[name])) for name in told)
    design = report.Design(source, *rule, zeros, tuple(looks), repeat)
    return report.page(paired, judged, evidence, design), len(judged)


if __name__ == "__main__":
    command("report", main, __doc__)
