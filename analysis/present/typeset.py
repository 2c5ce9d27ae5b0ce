"""Tables of `analysis.paper_tables` as the paper prints them: text, Markdown and LaTeX (booktabs).

Under each row stand the paper's numbers and the differences of the means, where the paper has such a row.
"""

import re
from collections.abc import Iterator
from functools import cache

import pandas as pd

from analysis import paper
from analysis.margins import fractions
from analysis.present.paper_tables import Tables
from analysis.present.render import number, signed, to_markdown, to_text
from analysis.reading import csv_table

PAPER, DIFFERENCE = "(paper)", "(difference)"
ESCAPED = re.compile(r"[&%$#_{}]")


def halves(tables: Tables) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(table, split, frame of printed cells), in order; the first column has no name, a missing cell is empty."""
    printed = _as_printed()
    for (table, split), cells in tables.cells.groupby(["table", "split"], sort=False):
        columns = list(dict.fromkeys(cells["column"]))
        digits = 4 if cells["std"].notna().any() and fractions("score", cells["mean"].dropna().tolist()) else 2
        rows = []
        for name, row in cells.groupby("row", sort=False):
            places = {cell["column"]: cell for cell in row.to_dict("records")}
            rows.append([name, *(_number(places[column]["mean"], places[column]["std"], digits) for column in columns)])
            others = [printed.get((table, split, name.partition(" [")[0], column), "") for column in columns]
            if any(others):
                apart = [places[column]["difference"] for column in columns]
                rows.append([PAPER, *others])
                rows.append([DIFFERENCE, *("" if pd.isna(d) else signed(d) for d in apart)])
        yield table, split, pd.DataFrame(rows, columns=["", *columns])


@cache
def _as_printed() -> dict[tuple, str]:
    """The paper's cells, digit by digit."""
    cells = csv_table(paper.CSV).to_dict("records")
    return {
        tuple(cell[name] for name in paper.COLUMNS[:4]): " ± ".join(filter(None, [cell["mean"], cell["std"]]))
        for cell in cells
    }


def _number(mean: float, std: float, digits: int) -> str:
    """60.53 ± 0.70; one number alone has no deviation."""
    if pd.isna(mean):
        return ""
    return number(mean, digits) if pd.isna(std) else f"{number(mean, digits)} ± {number(std, digits)}"


def heading(tables: Tables, table: str, split: str = "") -> str:
    """Table 1: DistilRoBERTa on GLUE (dev, n = 5)."""
    cells = tables.cells[(tables.cells["table"] == table) & (tables.cells["split"].isin([split] if split else [""]))]
    cells = tables.cells[tables.cells["table"] == table] if cells.empty else cells
    counts = sorted(set(cells.loc[(cells["n"] > 0) & (cells["row"] != "Teacher"), "n"]))
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}" if counts else ""
    told = ", ".join(filter(None, [split, n]))
    name = f"Table {table}: {tables.titles[table]}" if table.isdigit() else tables.titles[table]
    return f"{name} ({told})" if told else name


def as_text(tables: Tables) -> str:
    parts = [f"{heading(tables, table, split)}\n\n{to_text(frame)}" for table, split, frame in halves(tables)]
    return "\n\n".join([*parts, *_missing(tables, "  ")])


def as_markdown(tables: Tables) -> str:
    parts = [f"## {heading(tables, table, split)}\n\n{to_markdown(frame)}" for table, split, frame in halves(tables)]
    return "\n\n".join([*parts, *_missing(tables, "- ")]) + "\n"


def _missing(tables: Tables, sign: str) -> list[str]:
    return ["missing:\n" + "\n".join(f"{sign}{line}" for line in tables.missing)] if tables.missing else []


def as_latex(tables: Tables) -> str:
    r"""One `table*` per table, both splits in it as in the paper; needs \usepackage{booktabs}."""
    by_table: dict[str, list[pd.DataFrame]] = {}
    for table, split, frame in halves(tables):
        head = pd.DataFrame([[split.upper(), *[""] * (frame.shape[1] - 1)]], columns=frame.columns)
        by_table.setdefault(table, []).extend([head, frame] if split else [frame])
    return "\n".join(_latex_table(tables, table, pd.concat(parts)) for table, parts in by_table.items())


def _latex_table(tables: Tables, table: str, frame: pd.DataFrame) -> str:
    measured = tables.cells.loc[tables.cells["table"] == table, "std"].notna().any()
    text = frame.to_latex(
        index=False,
        escape=True,
        column_format="l" + "c" * (frame.shape[1] - 1),
        caption=ESCAPED.sub(r"\\\g<0>", heading(tables, table))
        + (". Means and standard deviations over seeds." if measured else "."),
        label=f"tab:labelreg-{re.sub('[^A-Za-z0-9]+', '-', table)}",
        position="t",
    )
    small = "\\centering\\footnotesize\\setlength{\\tabcolsep}{2pt}\n\\begin{tabular}"
    return text.replace("{table}", "{table*}").replace("±", r"$\pm$").replace("\\begin{tabular}", small)
