"""Do printed numbers agree with each other? The paper's, or a table of yours: `mlflow run . -e audit`."""

from entrypoints.command import command
from labelreg.parameter import Value


def main(given: dict[str, Value]) -> None:
    """Audit the paper (or csv, with n runs per cell); log findings and ranges, and print."""
    from analysis.paper import summary
    from labelreg.answers.sources import log_files
    from labelreg.store import tracking, views

    tracking.connect()
    found = summary.of(given.get("csv"), given.get("n"))
    with tracking.open_run("audit", "audit") as run:
        run.params({name: given.get(name) for name in ("csv", "n")})
        run.metrics({"audit/findings": len(found.findings)})
        log_files(summary.files(found), run, None)
    print(summary.to_text(found), flush=True)
    views.tell_run(run.run_id)


if __name__ == "__main__":
    command("audit", main, __doc__)
