"""Scores from a table that labelreg did not write, as a frame of runs that `pair` takes."""

import csv
import math
import os
import sys
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from analysis import AnalysisError, exported, unknown
from analysis.present import render
from analysis.students import seed_name, setting_names
from analysis.units import one_unit
from labelreg.errors import looks, refusal

REQUIRED = tuple(exported.REQUIRED)
SCORE = "score"
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*%?|[+-]?(?i:inf|infinity)"
MISSING = ("", "nan", "na", "n/a", "none", "null", "-")


def scores_table(path: str | Path, metric: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """A CSV of scores as `mlflow.search_runs` would give its runs, and what is to be said of it, line by line.

    One row per run: task, model, init, method, seed and the score, in the column `score` or in the one that
    `metric` names. Columns with the names of settings (lr, epochs, alpha, ...) count as such. A run is called
    by its line in the file. Raises AnalysisError: no such file, no CSV, a missing column, a score that is no number,
    a name in two spellings, scores in two units.
    """
    name, settings = metric or SCORE, setting_names()
    if name in (*REQUIRED, *settings):
        raise AnalysisError(f"metric={name}: this column is no score; it tells runs apart")
    table = csv_table(path)
    ours = exported.marked(table)
    if not ours and {"kind", "fingerprint", "metric"} <= set(table.columns):
        raise AnalysisError(
            f"csv={path}: it has the columns of a table that labelreg wrote, but a row that ended has no fingerprint "
            "(32 hex digits); rows of your own go into a table of their own: task, model, init, method, seed, score"
        )
    if ours and name not in table:
        name = SCORE  # what else labelreg's tables have is among the metrics that they give back
    missing = [column for column in (*REQUIRED, name) if column not in table.columns]
    if missing:
        has, needed = ", ".join(table.columns), ", ".join((*REQUIRED, name))
        raise AnalysisError(f"csv={path}: no column {', '.join(missing)}; needed: {needed}; it has: {has}")
    cells = {column: table[column].str.strip().map(render.plain_text) for column in REQUIRED}
    for column in () if ours else REQUIRED[:-1]:  # in a store Reviews and reviews are two, as any two names
        _one_spelling(cells[column], path, column)
    numbers = _numbers(table[name], path, name)
    runs = {f"params.{column}": values for column, values in cells.items()}
    runs |= {f"params.{column}": table[column].map(render.plain_text) for column in settings if column in table}
    runs |= {f"metrics.{name}": numbers, "run_id": [f"line {number}" for number in table.index]}
    runs |= {exported.KIND: pd.Series("student", table.index)}
    places = [column for column in exported.PLACES if column in table] if ours else []
    runs |= {exported.PLACES[column]: _given_back(table[column], path, column) for column in places}
    frame = pd.DataFrame(runs)
    if "metric" in places and name == SCORE:
        frame = exported.with_metrics(frame.drop(columns=f"metrics.{name}"), numbers)
    remarks = _counted(frame, numbers, path)
    unused = [column for column in table.columns if column not in ("", *REQUIRED, SCORE, name, *settings, *places)]
    if unused:
        told = "a setting's column has its parameter's name, such as lr, batch_size or alpha"
        remarks.append(f"columns that are not used: {', '.join(unused)} ({told})")
    if not ours:
        remarks += [*_folds(cells["seed"]), *_units(frame, table[name].str.strip(), numbers, f"csv={path}")]
    return frame.reset_index(drop=True), remarks


def _given_back(column: pd.Series, path: str | Path, name: str) -> pd.Series:
    """A column of a table that labelreg wrote, as a frame of runs has it."""
    texts = column.str.strip().map(render.plain_text).replace("", None)
    if name == "start":
        return pd.to_datetime(texts, utc=True, errors="coerce", format="ISO8601")
    if name == "examples":
        wrong = texts[texts.notna() & ~texts.fillna("").str.fullmatch(r"0*[1-9]\d{0,11}(\.0*)?")]
        if len(wrong):
            line, told = wrong.index[0], repr(wrong.iloc[0])
            raise AnalysisError(f"csv={path}: examples in line {line} is {told}, no number of examples (1, 2, ...)")
    return _numbers(column, path, name) if name in exported.NUMBERS else texts


def _counted(frame: pd.DataFrame, numbers: pd.Series, path: str | Path) -> list[str]:
    """What was read, in one line; the teachers and studies of labelreg's tables are beside it."""
    frame = frame[frame[exported.KIND] == "student"]
    names = {column: frame[f"params.{column}"] for column in ("task", "method", "seed")}
    names["seed"] = names["seed"].map(seed_name, na_action="ignore")  # 7 and 7.0 are one
    counts = [(found.nunique(), column) for column, found in names.items()]
    missing = len(frame) - numbers[frame.index].map(math.isfinite).sum()
    without = f", {missing:,} of them without a score" if missing else ""
    told = ", ".join(f"{n:,} {name}" if n == 1 else f"{n:,} {name}s" for n, name in counts)
    return [f"{Path(path).name}: {len(frame):,} rows{without}; {told}"]


def _folds(seeds: pd.Series) -> list[str]:
    """A warning where seeds are named as folds of a repeated cross-validation are: 1.1, 1.2, ..., fold3 or cv3."""
    names = seeds.drop_duplicates()
    names = names[~names.str.fullmatch(r"\d+\.0+")]  # whole numbers as pandas writes them beside an empty cell
    folds = names[names.str.fullmatch(r"(?i)\d+[._-]\d+|.*fold.*|r\d+f\d+|cv[._-]?\d+")]
    if len(folds) < 2 or len(folds) < len(names) / 2:
        return []
    return [
        f"seeds are named like folds ({', '.join(folds[:3])}): folds share training examples and are not independent, "
        "which these tests take for granted: a p-value from them is too small (take one split per seed instead)"
    ]


def _units(frame: pd.DataFrame, texts: pd.Series, numbers: pd.Series, source: str) -> list[str]:
    known = numbers.map(math.isfinite)
    place = frame["params.model"] + "\n" + frame["params.init"]
    settings = [f"params.{column}" for column in setting_names() if f"params.{column}" in frame]
    block = frame[["params.model", "params.init", "params.method", *settings]].agg("\n".join, axis=1)
    columns = {"task": frame["params.task"], "place": place, "block": block, "text": texts, "value": numbers}
    return one_unit(pd.DataFrame(columns)[known], source) if known.any() else []


def _one_spelling(names: pd.Series, path: str | Path, column: str) -> None:
    """Raises AnalysisError where two names differ in case, spaces or what eyes do not see: they would be two unsaid."""
    for _, found in names.groupby(names.map(looks), sort=False):
        two = found.drop_duplicates()
        if len(two) > 1:
            show = repr if two.str.casefold().nunique() == 1 else ascii  # eyes do not tell them apart
            told = " and ".join(f"{show(name)} in line {line}" for line, name in two.iloc[:2].items())
            raise AnalysisError(f"csv={path}: {column} {told}: one name in two spellings; give it one")


def _trimmed(cells: list[str], most: int = 0) -> list[str]:
    """Without the empty cells beyond `most` that commas at the end of a line make."""
    while len(cells) > most and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def _numbers(column: pd.Series, path: str | Path, name: str) -> pd.Series:
    """The scores; an empty cell, nan or inf is a missing one (it is listed), a word is a mistake. 78.7% is 78.7."""
    texts = column.str.strip()
    missing = texts.str.lower().isin(MISSING)
    wrong = texts[~missing & ~texts.str.fullmatch(NUMBER)]
    if len(wrong):
        comma = "; decimals are written with a point, thousands without a mark" if "," in wrong.iloc[0] else ""
        raise AnalysisError(f"csv={path}: {name} in line {wrong.index[0]} is {wrong.iloc[0]!r}, no number{comma}")
    return texts.where(~missing, "nan").str.rstrip("% ").astype(float)


def csv_table(path: str | Path, parameter: str = "csv") -> pd.DataFrame:
    """A CSV file as text; its index is the line of the file on which a row begins, empty cells at its ends are none.

    Raises AnalysisError, in words that name `parameter`: no such file, no CSV in UTF-8, other separators, a column
    twice, a row that is longer than the first line.
    """
    source = f"{parameter}={path}"
    csv.field_size_limit(sys.maxsize)  # a plan names the runs that it reused
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            lines, end = [], 0
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    lines.append((end + 1, cells))
                end = reader.line_num
    except FileNotFoundError:
        raise AnalysisError(f"{source}: no such file") from None
    except OSError as error:
        raise AnalysisError(f"{source}: {refusal(error)}") from None
    except UnicodeDecodeError as error:
        raise AnalysisError(f"{source}: cannot be read as CSV (byte {error.start} is not UTF-8)") from None
    except (ValueError, csv.Error) as error:
        raise AnalysisError(f"{source}: cannot be read as CSV ({' '.join(str(error).split())[:120]})") from None
    if not lines:
        raise AnalysisError(f"{source}: cannot be read as CSV (it is empty)")
    names = [name.strip() for name in _trimmed(lines[0][1])]
    for separator, told in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and separator in names[0]:
            raise AnalysisError(f"{source}: its columns are separated by {told}; commas are needed")
    twice = [name for at, name in enumerate(names) if name and name in names[:at]]
    if twice:
        raise AnalysisError(f"{source}: the column {twice[0]} stands there twice")
    rows = {number: _trimmed(cells, len(names)) for number, cells in lines[1:]}
    for number, cells in rows.items():
        if len(cells) > len(names):
            told = f"{source}: line {number} has {len(cells)} cells, the first line {len(names)}"
            raise AnalysisError(f"{told}; decimals are written with a point, a text with a comma in quotes")
    filled = {number: cells + [""] * (len(names) - len(cells)) for number, cells in rows.items()}
    return pd.DataFrame.from_dict(filled, orient="index", columns=names, dtype=str)


def study_runs(runs: pd.DataFrame, study: str, reused: Collection[str] = ()) -> pd.DataFrame:
    """The runs of one study (tag labelreg.study), and those of these ids, which it found done.

    Raises AnalysisError for a study without runs, with the nearest name.
    """
    names = runs.get("tags.labelreg.study", pd.Series(dtype=object))
    found = runs[names.eq(study) | runs["run_id"].isin(reused)] if len(names) else runs.iloc[:0]
    if found.empty:
        raise unknown("study", study, sorted(set(names.dropna())))
    return found.reset_index(drop=True)
