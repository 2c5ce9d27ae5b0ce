"""A teacher of the user's own: what any model says of the training rows, as columns of a file.

One column a class, PREFIX and the class's name: in the file that is trained on, or in a file whose ids name its rows.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from labelreg import metrics
from labelreg.data import files, image_folder
from labelreg.data.labels import name_of
from labelreg.data.prepared import PreparedTask, shown
from labelreg.data.tasks import made_of, own_path
from labelreg.errors import UserError
from labelreg.output import shortened
from labelreg.settings import Settings
from labelreg.whole import checksum, file_digest

ID, PREFIX = "idx", "p_"  # as a run's own predictions/*.parquet have them
PROBABILITIES, LOGITS = "probabilities", "logits"
FLOOR = 1e-7  # what a smaller probability counts as: its logarithm is finite (docs/choices.md)
NEAR = 1e-3  # how far from 1 a row of probabilities may sum: they are often rounded to four digits
LOOSE = 0.02  # the same where the user says that they are probabilities: two digits, as a chat model writes them
NEGATIVE = 0.1  # rows of logits that have a negative number, at least: fewer are -1 for a failed call, or the like
SHOWN = 5  # rows and columns that an error line names
_NUMBER = re.compile("[0-9]{1,18}")


@dataclass(frozen=True)
class OwnTeacher:
    """What teaches a run.

    `logits` [examples, classes], float32, in the order of the training set; of probabilities, logarithms whose mean
    over the classes is 0. `kind`: what the file holds, probabilities or logits. `source`: its columns and name.
    `accuracy` on the training set, in percent. `file_digest`: the first 32 hex digits of the file's sha256.
    """

    logits: Tensor
    kind: str
    source: str
    accuracy: float
    file_digest: str
    remarks: tuple[str, ...]

    @property
    def digest(self) -> str:
        """32 hex digits of what a student sees of it: it stands in the fingerprint in a teacher run's place."""
        return checksum({"logits": self.logits})[:32]


def check(settings: Settings) -> None:
    """Refuse what is wrong before anything is read.

    Raises:
        UserError: columns of a file that is not the user's own, an id without its file, or no such file.
    """
    column, file, names = settings.teacher_column, settings.teacher_file, settings.teacher_id_column
    if not file and not column:
        return
    if not file:
        if names:
            raise UserError(f"teacher_id_column={names}: it goes with teacher_file; columns of train_file need no ids")
        if not settings.train_file:
            raise UserError(
                f"teacher_column={column}: task {settings.task} has no columns of yours; give teacher_file=FILE, with "
                f"the column {ID} (the row's number in its training set, from 0), or train_file=FILE"
            )
        if made_of(settings.task, settings.train_file) == "images":
            raise UserError(
                f"teacher_column={column}: a folder of images has no columns; give teacher_file=FILE and "
                "teacher_id_column=NAME, the column of each image's path below the folder"
            )
        return
    files.check(own_path(file))
    if names and not settings.train_file:
        raise UserError(
            f"teacher_id_column={names}: task {settings.task} has no ids of yours; leave it out: the column {ID} of "
            "teacher_file is the row's number in its training set, from 0"
        )
    if not names and settings.train_file and made_of(settings.task, settings.train_file) == "images":
        raise UserError(
            f"teacher_file={file}: which image is which? Give teacher_id_column=NAME, the column of each image's path "
            f"below {settings.train_file}"
        )


def read(settings: Settings, data: PreparedTask) -> OwnTeacher:
    """What `teacher_file`, or columns of `train_file`, say of the examples that are trained on.

    Args:
        data: the run's; only the rows of its split `train` teach, whatever else the file holds.

    Raises:
        UserError: the file cannot be read, has columns of other classes, lacks a row, names one twice; a value that is
            no finite number; probabilities that are negative or do not sum to 1; what may be either kind; rows whose
            numbers may count from 1.
    """
    check(settings)
    wanted = data.splits["train"].idx.tolist()
    if settings.teacher_file:
        path, id_column = own_path(settings.teacher_file), settings.teacher_id_column or ID
        frame = files.read(path, id_column).frame
        ids = _ids_of_rows(settings, wanted)
        at = _rows(_column(frame, id_column, str(path)), ids, path, id_column, settings)
        said = [f"row {row + 1} ({id_column} {shown(each)})" for row, each in zip(at, ids, strict=True)]
    else:
        path, at = own_path(settings.train_file), wanted
        frame = files.read(path, settings.label_column or "label").frame
        said = [f"row {row + 1}" for row in at]
    prefix = settings.teacher_column or PREFIX
    columns, others = _columns_of_classes(frame, prefix, data.classes, str(path), settings)
    values = np.column_stack(
        [_numbers(_column(frame, column, str(path)).iloc[at], said, str(path)) for column in columns]
    )
    kind, rounded = _kind(values, str(settings.teacher_values), said, str(path))
    logits, floored = as_logits(values) if kind == PROBABILITIES else (values, [])
    told = [*others, *rounded, *floored]
    tensor = torch.from_numpy(logits.astype(np.float32))
    labels = data.splits["train"].labels.numpy()
    accuracy = metrics.evaluate(tensor.numpy(), labels, "accuracy")["accuracy"]
    most = 100 * np.bincount(labels).max() / len(labels)
    noise = 3 * np.sqrt(most * (100 - most) / len(labels))  # three standard errors, in percent
    if accuracy <= most + noise:  # as where the rows of a file are in another order than its ids say
        told += [
            f"no better than the most frequent class ({most:.2f}%), give or take chance: are its rows and classes the "
            "right ones?"
        ]
    source = f"{prefix}* of {path.name}"
    return OwnTeacher(tensor, kind, source, accuracy, file_digest(path)[:32], tuple(told))


def lines(own: OwnTeacher) -> list[str]:
    """For people: what teaches, as what it was taken, and how good it is on the rows that it teaches."""
    taken = "each row sums to 1" if own.kind == PROBABILITIES else "as they are"
    rows = f"{own.accuracy:.2f}% of the {len(own.logits)} training rows right"
    head = f"teacher {own.source}: {own.kind} ({taken}), {rows}; no teacher is trained"
    return [head, *(f"teacher {own.source}: {remark}" for remark in own.remarks)]


def as_logits(probabilities: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Logits whose softmax they are, with a mean of 0 over the classes [examples, classes], and remarks.

    Any number could be added to a row's logits: methods that compare softmaxes do not see it, akd, which compares
    logits, would. Those of a trained classifier have a mean near 0.
    """
    low = int((probabilities < FLOOR).sum())
    logs = np.log(np.maximum(probabilities, FLOOR))
    told = [f"{low} probabilit{'y' if low == 1 else 'ies'} below {FLOOR:g}: counted as {FLOOR:g}"] if low else []
    return logs - logs.mean(axis=1, keepdims=True), told


# which row is which


def _ids_of_rows(settings: Settings, wanted: Sequence[int]) -> list[str]:
    """What the rows of these numbers (from 0, in the source of the training set) are called in teacher_file."""
    column = settings.teacher_id_column
    if not column:
        if settings.train_file:
            _check_own_numbers(settings)
        return list(map(str, wanted))
    path = own_path(settings.train_file)
    if path.is_dir():
        found = image_folder.find(path, settings.task)
        names = [file.relative_to(found.root).as_posix() for file, _ in found.splits["train"]]
    else:
        frame = files.read(path, settings.label_column or "label").frame
        names = _named(_column(frame, column, str(path)), path, column)
    return [names[row] for row in wanted]


def _rows(column: pd.Series, ids: Sequence[str], path: Path, name: str, settings: Settings) -> list[int]:
    """The row of teacher_file (from 0) that each id names."""
    row_of = {each: row for row, each in enumerate(_named(column, path, name))}
    if not settings.teacher_id_column:
        _check_numbers(row_of, ids, path, settings)
    missing = [each for each in ids if each not in row_of]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of the {len(ids)} training rows are missing ({name} {_listed(missing)}); "
            f"{_meaning(settings)}"
        )
    return [row_of[each] for each in ids]


def _named(column: pd.Series, path: Path, name: str) -> list[str]:
    """The ids of a file's rows, each once."""
    names, before = [], dict[str, int]()
    for row, value in enumerate(column, 1):
        names.append(name_of(value, f"{path}: row {row}", f"id ({name})"))
        if first := before.get(names[-1]):
            raise UserError(f"{path}: rows {first} and {row} have one id ({name} {shown(names[-1])}); each has its own")
        before[names[-1]] = row
    return names


def _check_own_numbers(settings: Settings) -> None:
    """A column of train_file that is named as the row's number must be it: teacher_file may have it from there."""
    source = own_path(settings.train_file)
    frame = files.read(source, settings.label_column or "label").frame
    if ID in map(str, frame.columns):
        column = _column(frame, ID, str(source))
        other = np.flatnonzero(_floats(column) != np.arange(len(column)))
        if len(other):
            raise UserError(
                f"{source}: train_file has a column {ID} that is not the row's number (row {other[0] + 1}, which is "
                f"{other[0]}, has {shown(column.iloc[other[0]])}): give teacher_id_column={ID}, or "
                "name that column otherwise"
            )


def _check_numbers(row_of: dict[str, int], ids: Sequence[str], path: Path, settings: Settings) -> None:
    """Numbers of rows must be numbers that count from 0; from 1, every row would have the next one's teacher.

    The rows that are trained on may lack row 0, and a file of them alone has gaps. So one that begins at 1 is refused
    where it has no gap, or would have every row that is trained on if it counted from 1.
    """
    for each, row in row_of.items():
        if not _NUMBER.fullmatch(each):
            raise UserError(f"{path}: row {row + 1} has {ID} {shown(each)!r}; {_meaning(settings)}")
    there = set(map(int, row_of))
    if settings.train_file:
        source = own_path(settings.train_file)
        rows, most = len(files.read(source, settings.label_column or "label").frame), max(there)
        if most >= rows:
            raise UserError(
                f"{path}: {ID} {most}, but {source} has {rows} rows, from 0 to {rows - 1}: they count from 0"
            )
    if min(there) == 1 and (max(there) == len(there) or all(int(each) + 1 in there for each in ids)):
        raise UserError(
            f"{path}: {ID} begins at 1, where rows count from 0; if these do, put row 0 in too (a row that is not "
            f"trained on may be empty); {_meaning(settings)}"
        )


def _meaning(settings: Settings) -> str:
    name, source = settings.teacher_id_column, settings.train_file
    if name and own_path(source).is_dir():
        return f"{name} is an image's path below {source}"
    if name:
        return f"{name} is what the column of that name has in {source}"
    if source:
        return f"{ID} is the row's number in {source}, from 0 (teacher_id_column=NAME takes ids of your own)"
    return f"{ID} is the row's number in the training set of {settings.task}, from 0"


# what stands in a row


def _column(frame: pd.DataFrame, name: str, origin: str) -> pd.Series:
    names = list(map(str, frame.columns))
    if names.count(name) != 1:
        raise UserError(
            f"{origin}: {names.count(name) or 'no'} column{'s are' if name in names else ' is'} named {name!r}; it has "
            f"{_listed(names)}"
        )
    return frame.iloc[:, names.index(name)]


def _columns_of_classes(
    frame: pd.DataFrame, prefix: str, classes: Sequence[str], origin: str, settings: Settings
) -> tuple[list[str], list[str]]:
    """The column of each class, in the order of the classes, none missing; and a remark on others that begin so."""
    names = list(map(str, frame.columns))
    there = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    needed = f"needed is a column for each class: {_listed([prefix + each for each in classes], 10)}"
    if missing := [each for each in classes if each not in there]:
        way = "" if settings.teacher_column else "; teacher_column=PREFIX names columns that begin otherwise"
        has = f"it has {_listed([prefix + each for each in there])}" if there else f"no column begins with {prefix!r}"
        raise UserError(f"{origin}: no column {prefix + missing[0]!r} ({has}); {needed}{way}")
    others = [prefix + each for each in there if each not in classes]
    told = [f"columns that begin with {prefix} and are of no class: {_listed(others)}"] if others else []
    return [prefix + each for each in classes], told


def _numbers(column: pd.Series, said: Sequence[str], origin: str) -> np.ndarray:
    """A column as float64 [rows]."""
    numbers = _floats(column)
    with np.errstate(over="ignore"):  # what float32 cannot hold is not finite either
        wrong = np.flatnonzero(~np.isfinite(numbers.astype(np.float32)))
    if len(wrong):
        value = column.iloc[wrong[0]]
        empty = (
            not isinstance(value, str) and pd.api.types.is_scalar(value) and pd.isna(value) or not str(value).strip()
        )
        what = "no value" if empty else f"{shown(value)!r}, no finite number,"
        raise UserError(f"{origin}: {said[wrong[0]]} has {what} in column {str(column.name)!r}")
    return numbers


def _floats(column: pd.Series) -> np.ndarray:
    """What has numbers, or texts of numbers, as float64 [rows]; nan where there is none."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        return column.to_numpy(np.float64, na_value=np.nan)
    values = [value if isinstance(value, str) else _float(value) for value in column]
    return pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(np.float64)


def _float(value: object) -> float:
    """A number as float64; of what is none (a date, a list, nothing), or too large for it, nan."""
    try:
        return float(value) if isinstance(value, Real | Decimal) else np.nan
    except OverflowError:
        return np.nan


def _kind(values: np.ndarray, asked: str, said: Sequence[str], origin: str) -> tuple[str, list[str]]:
    """What the rows are [examples, classes]; where that is not said, what all of them can be and none cannot.

    And a remark on rows of probabilities that are taken for ones although their sum is not near 1.
    """
    sums: np.ndarray = values.sum(axis=1)
    negative = values.min(axis=1) < 0
    alike, loose = (~negative & (np.abs(sums - 1) <= most + 1e-9) for most in (NEAR, LOOSE))
    if asked == LOGITS:
        return LOGITS, []
    if alike.all():
        return PROBABILITIES, []
    if asked == PROBABILITIES and loose.all():
        return PROBABILITIES, [f"{(~alike).sum()} of {len(values)} rows summed to 1 within {LOOSE:g} only: set right"]
    if asked == "auto" and negative.mean() >= NEGATIVE and not alike.any():
        return LOGITS, []
    row = int(np.argmax(negative) if negative.any() else np.argmin(loose if asked == PROBABILITIES else alike))
    numbers = f"{', '.join(f'{each:.6g}' for each in values[row, :SHOWN])}{', ...' * (values.shape[1] > SHOWN)}"
    why = "has a negative number" if negative[row] else f"sums to {sums[row]:.6g}, not to 1"
    line = f"{origin}: {said[row]} {why} ({numbers})"
    bounded = not negative.any() and values.max() <= 1  # as logits, they would teach next to nothing
    if asked == PROBABILITIES:
        way = "put the row right" if bounded else f"logits are teacher_values={LOGITS}"
        raise UserError(f"{line}: no probabilities (teacher_values={asked}; {way})")
    if alike.any():
        line += f", while {said[int(np.argmax(alike))]} is made of probabilities: which of them are all?"
    elif negative.any():
        line += f", as do {negative.sum()} of {len(values)} rows, fewer than logits have: are they wrong?"
    elif bounded:
        line += ", and no row has a number below 0 or above 1: probabilities that are wrong?"
    else:
        line += ", and no row has a negative number: logits, or probabilities that are wrong?"
    ways = [f"give teacher_values={LOGITS}"] * (not bounded)
    ways += [f"give teacher_values={PROBABILITIES}, which sets sums within {LOOSE:g} of 1 right"] * bool(loose.all())
    todo = ", or ".join([*ways, "put the row right"])
    raise UserError(f"{line} {todo[0].upper()}{todo[1:]}")


def _listed(names: Iterable[object], most: int = SHOWN) -> str:
    every = [shortened(str(name), 40) for name in names]
    return ", ".join(every[:most]) + ", ..." * (len(every) > most)
