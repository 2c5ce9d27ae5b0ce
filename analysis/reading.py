"""Scores from a table that labelreg did not write, as a frame of runs that `pair` takes."""

import csv
import os
from pathlib import Path

import pandas as pd

from analysis import AnalysisError, unknown
from analysis.pairing import OWN, PROTOCOL, SHARED
from labelreg.errors import refusal

REQUIRED = ("task", "model", "init", "method", "seed")
SETTINGS = (*PROTOCOL, *SHARED, *OWN)
SCORE = "score"


def scores_table(path: str | Path, metric: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """A CSV of scores as `mlflow.search_runs` would give its runs, and the names of columns that are not used.

    One row per run: task, model, init, method, seed and the score, in the column `score` or in the one that
    `metric` names. Columns with the names of settings (lr, epochs, alpha, ...) count as such. A run is called
    by its line in the file. Raises AnalysisError: no such file, no CSV, a missing column, a score that is no number.
    """
    name = metric or SCORE
    table = _read(path)
    missing = [column for column in (*REQUIRED, name) if column not in table.columns]
    if missing:
        has = ", ".join(table.columns)
        raise AnalysisError(f"csv={path}: no column {', '.join(missing)}; needed: {_all(name)}; it has: {has}")
    runs = {f"params.{column}": table[column].str.strip() for column in REQUIRED}
    runs |= {f"params.{column}": table[column] for column in SETTINGS if column in table}
    runs[f"metrics.{name}"] = _numbers(table[name], path, name)
    runs["run_id"] = [f"line {number}" for number in table.index]
    runs["tags.labelreg.kind"] = "student"
    unused = [column for column in table.columns if column not in ("", *REQUIRED, name, *SETTINGS)]
    return pd.DataFrame(runs).reset_index(drop=True), unused


def _read(path) -> pd.DataFrame:
    """The table as text; its index is the line of the file on which a row begins."""
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            lines, end = [], 0
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    lines.append((end + 1, cells))
                end = reader.line_num
    except FileNotFoundError:
        raise AnalysisError(f"csv={path}: no such file") from None
    except OSError as error:
        raise AnalysisError(f"csv={path}: {refusal(error)}") from None
    except (ValueError, csv.Error) as error:
        raise AnalysisError(f"csv={path}: cannot be read as CSV ({' '.join(str(error).split())[:120]})") from None
    if not lines:
        raise AnalysisError(f"csv={path}: cannot be read as CSV (it is empty)")
    names = [name.strip() for name in _trimmed(lines[0][1])]
    twice = [name for at, name in enumerate(names) if name and name in names[:at]]
    if twice:
        raise AnalysisError(f"csv={path}: the column {twice[0]} stands there twice")
    rows = {number: _trimmed(cells, len(names)) for number, cells in lines[1:]}
    for number, cells in rows.items():
        if len(cells) > len(names):
            raise AnalysisError(f"csv={path}: line {number} has {len(cells)} cells, the first line {len(names)}")
    filled = {number: cells + [""] * (len(names) - len(cells)) for number, cells in rows.items()}
    return pd.DataFrame.from_dict(filled, orient="index", columns=names, dtype=str)


def _trimmed(cells: list[str], most: int = 0) -> list[str]:
    """Without the empty cells beyond `most` that commas at the end of a line make."""
    while len(cells) > most and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def _numbers(column: pd.Series, path, name: str) -> pd.Series:
    """The scores; an empty cell, nan or inf is a missing one (it is listed), a word is a mistake."""
    numbers = pd.to_numeric(column.str.strip(), errors="coerce")
    words = column[numbers.isna() & ~column.str.strip().str.lower().isin(["", "nan", "na", "none", "null", "-"])]
    if len(words):
        raise AnalysisError(f"csv={path}: {name} in line {words.index[0]} is {words.iloc[0]!r}, no number")
    return numbers


def _all(name: str) -> str:
    return ", ".join((*REQUIRED, name))


def study_runs(runs: pd.DataFrame, study: str) -> pd.DataFrame:
    """The runs of one study (tag labelreg.study).

    Raises AnalysisError for a study without runs, with the nearest name.
    """
    names = runs.get("tags.labelreg.study", pd.Series(dtype=object))
    found = runs[names.eq(study)] if len(names) else runs.iloc[:0]
    if found.empty:
        raise unknown("study", study, sorted(set(names.dropna())))
    return found.reset_index(drop=True)
