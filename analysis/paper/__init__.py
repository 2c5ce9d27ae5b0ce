"""The paper's own numbers, tables 1 to 8 as printed, and the audit of such tables.

Kobyzev et al., "Do we need Label Regularization to Fine-tune Pre-trained Language Models?" (EACL 2023).
`tables.csv` is a transcription, mistakes included: it is never corrected.
"""

import math
from decimal import Decimal, InvalidOperation
from pathlib import Path

import pandas as pd

from analysis import AnalysisError
from analysis.reading import csv_table

CSV = Path(__file__).with_name("tables.csv")
COLUMNS = ["table", "split", "row", "column", "mean", "std"]
RUNS = {"1": 5, "2": 5, "3": 5, "4": 5, "5": 5, "6": 10, "7": 5, "8": 8}  # runs per cell, from the captions


def read(path: Path | str = CSV) -> pd.DataFrame:
    """Printed tables: COLUMNS, and `mean_half`, `std_half`, half a unit of the last digit printed.

    mean and std are numbers, std is missing where none is printed. A number that lost its trailing zeros on
    the way is taken as less exact than it was, so that the audit only becomes milder. Raises AnalysisError
    for a file that is none, lacks a column, holds what is no number, or names a cell twice.
    """
    name = f"csv={path}"
    frame = csv_table(path)
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise AnalysisError(f"{name}: no column {', '.join(missing)}; needed are {', '.join(COLUMNS)}")
    frame = frame[COLUMNS].apply(lambda column: column.str.strip())
    for column in ("mean", "std"):
        found = [_number(text, f"{name}, line {line}: {column}") for line, text in frame[column].items()]
        frame[column] = [value for value, _ in found]
        frame[f"{column}_half"] = [half for _, half in found]
    empty = frame["mean"].isna()
    if empty.any():
        raise AnalysisError(f"{name}, line {empty.idxmax()}: mean is empty; an empty cell is no row")
    if (frame["std"] < 0).any():
        raise AnalysisError(f"{name}, line {(frame['std'] < 0).idxmax()}: std is below 0")
    twice = frame.duplicated(COLUMNS[:4])
    if twice.any():
        cell = ", ".join(filter(None, frame.loc[twice.idxmax(), COLUMNS[:4]]))
        raise AnalysisError(f"{name}, line {twice.idxmax()}: the cell {cell} is there twice")
    return frame


def _number(text: str, where: str) -> tuple[float, float]:
    """A printed number and half a unit of its last digit; NaN twice where nothing is printed."""
    if not text:
        return math.nan, math.nan
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise AnalysisError(f"{where} is {text!r}, a number is needed")
    return float(number), 0.5 * 10.0 ** int(number.as_tuple().exponent)


def decimals(half: float) -> int:
    """Decimals of a number that was printed to within `half`."""
    return max(0, round(-math.log10(2 * half)))
