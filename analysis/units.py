"""Percent and fractions in one column of scores: refused where it is plain, and remarked on where it may be.

Low scores are no fractions for being low: an accuracy of 0.8% among a hundred classes, a Matthews of 0.9 beside 50. A
score is plainly a fraction where a hundred times it stands beside its neighbours and it is written with two decimals
more than they are, or where that holds for a method's scores one and all, which are then never above 1 nor below 0.
"""

from decimal import Decimal

import pandas as pd

from analysis import AnalysisError

LARGE = 1.5  # no fraction; between 1 and this nothing is said
BESIDE = 0.75, 1.33  # a hundred times a fraction, as a share of its neighbours
MANY = 3  # different scores of a method that are never above 1: no accident
ROUNDED = 6  # decimals of numbers as people write them; a whole double has as many as fit


def one_unit(scores: pd.DataFrame, source: str) -> list[str]:
    """Remarks on a column of scores, by line: columns task, place and block (who ran together), text, value.

    A text that ends in % is percent for certain. Raises AnalysisError with two rows of different units.
    """
    remarks = []
    for task, rows in scores.groupby("task", sort=False):
        size = rows["value"].abs()
        small, large = rows[(size > 0) & (size < 1) & ~rows["text"].str.endswith("%")], rows[size > LARGE]
        if small.empty or large.empty:
            continue
        for block, some in small.groupby("block", sort=False):
            place = large[large["place"] == some["place"].iloc[0]]
            beside = next(found for found in (place[place["block"] == block], place, large) if len(found))
            fractions = _fractions(some, rows[rows["block"] == block], beside)
            if len(fractions):
                raise AnalysisError(
                    f"{source}: {_told(fractions)} and {_told(beside)}, both of task {task}: fractions and percent in "
                    f"one column; give all in one unit (a percent sign says that {fractions['text'].iloc[0]} is one)"
                )
        remarks.append(
            f"task {task}: {_told(small)} stands beside {_told(large)}; all of its scores are taken to be in one unit"
        )
    return remarks


def _fractions(small: pd.DataFrame, block: pd.DataFrame, beside: pd.DataFrame) -> pd.DataFrame:
    """The rows among `small`, of one block, that are plainly fractions."""
    neighbours = beside["value"].abs()
    low, high = BESIDE[0] * neighbours.min(), BESIDE[1] * neighbours.max()
    near = small[(100 * small["value"].abs()).between(low, high)]
    written = _decimals(beside).max()
    if written < ROUNDED and (shifted := near[_decimals(near) >= written + 2]).size:
        return shifted
    alone = not ((block["value"] > 1) & (block["value"] <= LARGE)).any() and not (block["value"] < 0).any()
    plain = alone and near["value"].nunique() >= MANY and len(near) >= MANY / 4 * len(small)
    return near if plain else near.iloc[:0]


def _decimals(rows: pd.DataFrame) -> pd.Series:
    numbers = [int(Decimal(text.rstrip("% ")).as_tuple().exponent) for text in rows["text"]]
    return pd.Series([max(0, -number) for number in numbers], rows.index, dtype=int)


def _told(rows: pd.DataFrame) -> str:
    return f"{rows['text'].iloc[0]} in line {rows.index[0]}"
