"""Labels as people write them, as the names and numbers of classes."""

import re
from decimal import Decimal
from numbers import Number

import numpy as np
import pandas as pd

from labelreg.data.batching import UNLABELLED
from labelreg.data.prepared import NAME_LENGTH, shown
from labelreg.data.tasks import Task
from labelreg.errors import UserError, looks
from labelreg.output import shortened

_INTEGER = re.compile(r"-?[0-9]{1,4000}")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
MOST = 20  # classes that an error line names


def labelled(frames: dict[str, pd.DataFrame], task: Task, name: str) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Labels as integers, and the names of the classes (those of train, numbers in order of size, names of letter)."""
    if task.classes:
        for split, frame in frames.items():
            numbers = pd.to_numeric(frame["label"], errors="coerce").astype(float)
            wrong = ~(numbers.between(UNLABELLED, len(task.classes) - 1) & (numbers % 1 == 0)).to_numpy()
            if wrong.any():
                row = int(wrong.argmax())
                raise UserError(
                    f"task {name}: a label of {split} is outside 0..{len(task.classes) - 1} "
                    f"(row {row + 1}: {shown(frame['label'].iloc[row])})"
                )
            frame["label"] = numbers.astype(np.int64)
        return frames, task.classes
    texts = {
        split: [name_of(value, f"task {name}: row {row} of {split}") for row, value in enumerate(frame["label"], 1)]
        for split, frame in frames.items()
    }
    known = set(texts["train"])  # -1 is a class where the training set has it among numbers, else "no label"
    numeric = all(map(_INTEGER.fullmatch, known))
    classes = tuple(sorted(known, key=lambda label: (int(label), label) if numeric else label))
    if str(UNLABELLED) in known and not numeric:
        row = texts["train"].index(str(UNLABELLED)) + 1
        raise UserError(f"task {name}: row {row} of train has the label -1 (no label), others have names")
    for split, labels in texts.items():
        unlabelled = split.startswith("test") and set(labels) == {str(UNLABELLED)}
        if unlabelled and str(UNLABELLED) in known:
            raise UserError(
                f"task {name}: {split} has the label -1 alone, which is a class of train, and marks rows that nobody "
                "has labelled: give the class another name in all files"
            )
        strange = sorted(set(labels) - known)
        if strange and not unlabelled:
            near = [label for label in classes if looks(label) == looks(strange[0])]
            raise UserError(
                f"task {name}: {split} has the label {shown(strange[0])!r}, which train lacks "
                f"({', '.join(map(shown, classes[:MOST]))}{', ...' if len(classes) > MOST else ''})"
                + (f": {_both(strange[0], near[0])} are two names" if near else "")
            )
        number = {str(UNLABELLED): UNLABELLED} | {label: index for index, label in enumerate(classes)}
        frames[split] = frames[split].assign(label=np.array([number[label] for label in labels], dtype=np.int64))
    alike(classes, name)
    return frames, classes


def name_of(value: object, origin: str, what: str = "label") -> str:
    """A label, or what else names a row, as text.

    Raises:
        UserError: there is none, or a value that is none.
    """
    if isinstance(value, str):
        result = value.strip()
    elif isinstance(value, Number | np.bool_) or value is None or value is pd.NA:
        whole = int(value) if isinstance(value, float | np.floating) and float(value).is_integer() else value
        result = "" if pd.isna(value) else str(whole)
    else:  # a list would be several labels
        raise UserError(f"{origin} has {value_and_type(value)} as its {what}; a {what} is one text or one number")
    if not result:
        raise UserError(f"{origin} has no {what}")
    return result


def alike(classes: tuple[str, ...], name: str) -> list[str]:
    """Remarks on classes whose names differ so little that one may be meant.

    Raises:
        UserError: one number written in two ways (0 and 0.0, True and 1).
    """
    same: dict[object, list[str]] = {}
    for label in classes:
        plain = looks(label)
        truth = {"true": Decimal(1), "false": Decimal(0)}.get(plain)
        number = Decimal(plain) if NUMBER.fullmatch(plain) else truth
        same.setdefault(plain if number is None else number, []).append(label)
    found = []
    for key, labels in same.items():
        told = _both(*labels[:2]) if len(labels) > 1 else ""
        if len(labels) > 1 and isinstance(key, Decimal) and not all(map(_INTEGER.fullmatch, labels)):
            raise UserError(f"task {name}: the labels {told} are one value written in two ways; write it in one")
        found += [f"{told} are two classes"] if len(labels) > 1 else []
    return found


def _both(one: str, other: str) -> str:
    """Two names for a line; by their codes where more than the case of letters tells them apart, as eyes cannot."""
    if one.casefold() == other.casefold() or looks(one) != looks(other):
        return f"{shown(one)!r} and {shown(other)!r}"
    return f"{shortened(ascii(one), NAME_LENGTH)} and {shortened(ascii(other), NAME_LENGTH)}"


def value_and_type(value: object) -> str:
    """A value of a file, for an error line."""
    return f"{shown(value)} ({type(value).__name__})"
