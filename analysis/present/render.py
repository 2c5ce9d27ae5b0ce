"""An answer is sections; here they become text, Markdown, JSON and CSV, with one rounding for all."""

import json
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from analysis.hypothesis import decimals, number

TEMPLATES = Path(__file__).parent / "templates"
MOST_LINES = 8  # of a section in short


@dataclass(frozen=True, eq=False)
class Section:
    """One part of the answer: `name` in JSON, `title` and `text` (a sentence each) for people, and a frame.

    `columns`: those of the frame that people are shown (default all); JSON has every one. `brief`: a terminal shows it
    unasked. What is not `for_people` is in JSON alone. `digits`: decimals of scores and differences.
    """

    name: str
    title: str
    text: tuple[str, ...] = ()
    frame: pd.DataFrame | None = None
    columns: tuple[str, ...] = ()
    brief: bool = False
    for_people: bool = True
    digits: int = 2

    def shown(self) -> pd.DataFrame | None:
        """The frame as people see it; None where there is nothing to see. A column without a value is left out."""
        if self.frame is None or self.frame.empty:
            return None
        frame = self.frame[list(self.columns)] if self.columns else self.frame
        empty = [name for name in frame.columns if frame[name].isna().all() or (frame[name] == "").all()]
        return frame.drop(columns=empty)


def filled(template: str, **values: Any) -> str:
    """A template with these values; names are escaped in HTML alone."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["join_and"] = join
    return environment.get_template(template).render(**values).strip("\n")


@cache
def declared(name: str) -> dict[str, Any]:
    """What a YAML file of the templates says."""
    return yaml.safe_load((TEMPLATES / name).read_text(encoding="utf-8"))


def join(names: Sequence) -> str:
    """a, b and c"""
    words = [str(name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def as_text(sections: Sequence[Section], verbose: bool = True, width: int = 0) -> str:
    """The sections for a terminal; without `verbose` the brief ones, which need no headings. `width`: of tables."""
    parts = []
    for section in sections:
        if section.for_people and (verbose or section.brief):
            frame = section.shown()
            text = section.text if verbose or len(section.text) <= MOST_LINES else section.text[: MOST_LINES - 1]
            more = (
                [f"and {len(section.text) - len(text)} more lines like these"] if len(text) < len(section.text) else []
            )
            lines = [*([section.title] if verbose else []), *text, *more]
            lines += [to_text(frame, width, section.digits)] if frame is not None else []
            parts += ["\n".join(lines)] if section.text or frame is not None else []
    return ("\n\n" if verbose else "\n").join(parts)


def as_markdown(sections: Sequence[Section], title: str) -> str:
    """The sections as one Markdown document."""
    parts = [f"# {title}"]
    for section in sections:
        frame = section.shown()
        if not section.for_people or not (section.text or frame is not None):
            continue
        parts.append(f"## {section.title}")
        if section.text:
            parts.append("\n".join(f"- {line}" for line in section.text) if len(section.text) > 1 else section.text[0])
        if frame is not None:
            parts.append(to_markdown(frame, section.digits))
    return "\n\n".join(parts) + "\n"


def as_json(sections: Sequence[Section], parameters: dict) -> str:
    """{"parameters": ..., "text": {section: sentences}, section: rows ...}; a missing or unbounded value is null."""
    answer: dict = {"parameters": parameters, "text": {section.name: list(section.text) for section in sections}}
    for section in sections:
        if section.frame is not None:
            rows = section.frame.to_dict("records")
            answer[section.name] = [{name: _plain(value) for name, value in row.items()} for row in rows]
    return json.dumps(answer, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def signed(value: float, margin: float = 0.0) -> str:
    """A difference: +0.31; with the decimals that its margin asks for."""
    return number(value, decimals(margin), sign=True)


def p_text(p: float) -> str:
    """A p-value for people: 0.31, 0.0078, 1.9e-06."""
    return f"{p:.2f}" if p >= 0.1 else f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"


def to_text(frame: pd.DataFrame, width: int = 0, digits: int = 2) -> str:
    """The frame as aligned plain text: words to the left, numbers to the right, a missing value as "-"; where it is
    wider than `width` (0: any) as `_narrow` has it."""
    header, rows, numeric = cells(frame, digits)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    if 0 < width < sum(widths) + 2 * len(widths[1:]):
        return "\n".join(_narrow(header, rows, numeric, width))
    return "\n".join(_line(cells, widths, numeric) for cells in [header, ["-" * w for w in widths], *rows])


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    columns = zip(cells, widths, numeric, strict=True)
    return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in columns).rstrip()


def _narrow(header: list[str], rows: list[list[str]], numeric: list[bool], width: int) -> list[str]:
    """Lines of a table whose rows are named by the last words before their numbers: those before the name are a line
    above their rows, a name without room is one above its numbers, and long headers are broken at "_"."""
    name = max(numeric.index(True) - 1, 0) if any(numeric) else 0
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][name:]
    heads = [[h] if len(h) <= w else re.split("(?<=_)", h) for h, w in zip(header[name:], widths, strict=True)]
    widths = [max(w, *map(len, head)) for w, head in zip(widths, heads, strict=True)]
    room = max(width - sum(widths[1:]) - 2 * len(widths[1:]), len(header[name]))
    widths[0] = max(len(each) for each in (header[name], *(row[name] for row in rows)) if len(each) <= room)
    titles = [*zip_longest(*heads, fillvalue=""), ["-" * w for w in widths]]
    lines, above = [_line(each, widths, numeric[name:]) for each in titles], [""] * name
    for row in rows:
        lines += [", ".join(filter(None, row[:name]))] if row[:name] != above else []
        above, own = row[:name], row[name:]
        if len(own[0]) > widths[0]:
            lines += textwrap.wrap(own[0], width, subsequent_indent="  ")
            own[0] = ""
        lines.append(_line(own, widths, numeric[name:]))
    return lines


def to_markdown(frame: pd.DataFrame, digits: int = 2) -> str:
    """The frame as a Markdown table, cells as in `to_text`."""
    header, rows, numeric = cells(frame, digits)
    rule = ["---:" if right else "---" for right in numeric]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, rule, *rows]]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def cells(frame: pd.DataFrame, digits: int = 2) -> tuple[list[str], list[list[str]], list[bool]]:
    """Header, rows as text, and which columns are numbers."""
    numeric = [pd.api.types.is_numeric_dtype(t) and not pd.api.types.is_bool_dtype(t) for t in frame.dtypes]
    columns = [[_cell(str(name), value, digits) for value in frame[name]] for name in frame.columns]
    return [str(name) for name in frame.columns], [list(row) for row in zip(*columns, strict=True)], numeric


def _cell(name: str, value: Any, digits: int) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    if pd.isna(value):
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        if name == "p" or name.startswith(("p_", "min_p_")):
            return p_text(value)
        fine = name.split("_")[0] in ("nll", "ece", "brier", "aurc", "error")
        return number(value, max(4, digits) if fine else 3 if name == "level" else digits)
    return str(value)


# CSV files


FORMULA = re.compile(r"'*[=+\-@\t\r]")  # what a spreadsheet takes for the beginning of one
PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|-?inf")


def to_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV. A name that a spreadsheet would compute has an apostrophe before it (`plain_text` reads it)."""
    words = frame.select_dtypes(exclude=["number", "bool"])
    return frame.assign(**{name: words[name].map(_no_formula) for name in words}).to_csv(index=False)


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) and not PLAIN.fullmatch(value) else value


def plain_text(cell: str) -> str:
    """A cell without the apostrophe of `to_csv`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
