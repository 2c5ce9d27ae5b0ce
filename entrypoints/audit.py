"""Do printed numbers agree with each other? The paper's, or a table of yours: `mlflow run . -e audit`."""

import tempfile
from pathlib import Path

from entrypoints.command import command
from labelreg.parameters import Value


def main(given: dict[str, Value]) -> None:
    """Audit the paper (or csv, with n runs per cell); print, and log findings, statements and ranges."""
    from analysis.paper import summary
    from labelreg import tracking

    tracking.connect()
    found = summary.of(given.get("csv"), given.get("n"))
    with tracking.open_run("audit", "audit") as run:
        run.params({name: given.get(name) for name in ("csv", "n")})
        print("\n".join(summary.to_lines(found)), flush=True)
        run.metrics({"audit/findings": len(found.findings)})
        with tempfile.TemporaryDirectory() as folder:
            summary.write(found, Path(folder))
            run.folder(Path(folder))


if __name__ == "__main__":
    command("audit", main, __doc__)
