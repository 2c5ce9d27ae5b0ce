"""The whole audit, of the paper or of a user's table, and its text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import AnalysisError, paper
from analysis.hypothesis import min_p_value
from analysis.paper import audit, possible
from analysis.present import render

SHOWN = ["table", "split", "column", "row", "n", "difference", "p_low", "p_high", "p_welch_holm", "says"]


@dataclass(frozen=True, eq=False)
class Audit:
    printed: pd.DataFrame
    findings: pd.DataFrame
    ranges: pd.DataFrame
    p_values: pd.DataFrame
    notes: tuple[str, ...]


def of(csv: str | Path | None = None, n: int | None = None) -> Audit:
    """Audit the paper, or another paper's table in a CSV file with `n` runs per cell.

    Raises AnalysisError for a file that cannot be read or has no scores, and for one of csv and n without the other.
    """
    if csv is None and n is not None:
        raise AnalysisError(f"n={n}: it belongs to csv=FILE; the runs per cell of the paper are known")
    if csv is not None and n is None:
        raise AnalysisError(f"csv={csv}: give n too, the runs per cell of its tables")
    printed, left = audit.scores_alone(paper.read(csv or paper.CSV))
    if printed.empty:
        beside = f" but {', '.join(left)}, which are not looked at" if left else ""
        raise AnalysisError(f"csv={csv}: it has no numbers{beside}; a row is a cell: {', '.join(paper.COLUMNS)}")
    runs = paper.RUNS if n is None else dict.fromkeys(printed["table"], n)
    ranges = audit.ranges(printed, runs)
    p_values = audit.exact_p_values(printed, runs)
    return Audit(printed, audit.findings(printed, runs), ranges, p_values, tuple(_notes(printed, runs, ranges, left)))


def _notes(printed: pd.DataFrame, runs: Mapping[str, int], ranges: pd.DataFrame, left: list[str]) -> Iterator[str]:
    if left:
        yield f"no scores, not looked at: {', '.join(left)}"
    alone = audit.without_reference(printed)
    if alone:
        names = ", ".join(audit.REFERENCES)
        yield f"methods not compared in table {', '.join(alone)}: exactly one row must be named as one of {names}"
    if not any(True for _ in audit.score_cells(printed)):
        yield f"no Score column with its tasks: a column named as one of {', '.join(audit.SCORE)} beside two or more"
    many = max(runs.values(), default=0)
    if many > possible.LARGEST and len(ranges):
        yield f"n = {many} is above {possible.LARGEST}: the paired range is the t-test's, not the signed-rank test's"
    if many > possible.LARGEST_UNTIED:
        yield f"n = {many} is above {possible.LARGEST_UNTIED}: only p-values below the smallest possible are found"


def to_text(found: Audit) -> str:
    """The audit as text, the findings last, where a terminal stops."""
    ranges, measured = found.ranges, found.printed[found.printed["std"].notna()]
    counted = ranges["says"].value_counts()
    return render.filled(
        "audit.txt.j2",
        found=found,
        level=audit.LEVEL,
        says={word: counted.get(word, 0) for word in (audit.ALWAYS, audit.PERHAPS, audit.NEVER)},
        floors={n: min_p_value(n) for n in sorted(set(ranges["n"]))},
        unpaired=(ranges["p_welch_holm"] <= audit.LEVEL).sum(),
        shown=SHOWN,
        digits=audit.told_with(measured["mean_half"]),
        table=render.to_text,
    )


def files(found: Audit) -> dict[str, str]:
    tables = {"findings.csv": render.to_csv(found.findings), "ranges.csv": render.to_csv(found.ranges)}
    return tables | {"audit.txt": to_text(found) + "\n"}
