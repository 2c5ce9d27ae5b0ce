"""Files of labelled text as people have them: CSV, TSV, JSON lines, Parquet. What is not certain is refused or said."""

import csv
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from labelreg.errors import UserError
from labelreg.output import words_of

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SAVED = {",": "save it with commas", "\t": "save it with tabs, or commas and the ending .csv"}
ENDINGS = (*SEPARATORS, ".jsonl", ".parquet")
# a way out for what people have instead
UNPACK, AS_CSV = "unpack it first", "save it as CSV (text and label in columns of these names)"
WAYS = {".gz": UNPACK, ".zip": UNPACK, ".bz2": UNPACK, ".xz": UNPACK, ".txt": AS_CSV, ".xlsx": AS_CSV, ".xls": AS_CSV}
WAYS |= {".json": "save it as JSONL, one object a line"}
ROW_BYTES = 100  # of memory that a short example takes at least, as a text and as tokens
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks; Excel's "Unicode text" begins with one
_SPACED = re.compile(r'\s+".*"\s*', re.DOTALL)
AS_QUOTED = "read with quoted fields, as spreadsheets and pandas write them"


@dataclass(frozen=True)
class Table:
    """What a file holds: its rows under its column names, and what a reader should know of them."""

    frame: pd.DataFrame
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Record:
    """One row of a delimited file, and the physical lines (counted from 1) that it stands on."""

    fields: list[str]
    first: int
    last: int


def check(path: Path) -> None:
    """Raises UserError when a file is missing, is none, or may not be read."""
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file" + ("" if path.is_absolute() else f" in {Path.cwd()}"))
        if not path.is_file():
            raise UserError(f"{path}: a folder, where a file is needed" if path.is_dir() else f"{path}: no plain file")
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def read(path: Path, label: str) -> Table:
    """The rows of a file; every value of a CSV or TSV is text.

    Args:
        label: the column of the label, by which swallowed rows are known.

    Raises:
        UserError: the file, the line where one can be named, and what is wrong.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        way = f"; {WAYS[ending]}" if ending in WAYS else ""
        raise UserError(f"{path}: the ending must be one of {', '.join(ENDINGS)}{way}")
    try:
        table = _parquet(path) if ending == ".parquet" else _text(path, ending, label)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line} is not {error.encoding.upper()} text; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # the readers raise dozens of types for a malformed file
        raise UserError(f"{path}: cannot be read as {path.suffix[1:]} ({words_of(error, 300)})") from None
    if table.frame.empty:
        nothing = not len(table.frame.columns) and ending in SEPARATORS
        raise UserError(f"{path}: the file is empty" if nothing else f"{path}: the file has no examples")
    return table


def _text(path: Path, ending: str, label: str) -> Table:
    lines, wide = _lines(path, "\n" if ending == ".jsonl" else "")
    if ending == ".jsonl":
        return Table(_json_lines(lines))
    if damaged := next((number for number, line in enumerate(lines, 1) if "\0" in line), 0):
        told = "the file is damaged, or UTF-16 without a mark at its beginning"
        raise ValueError(f"line {damaged} has a NUL byte: {told}")
    return delimited(lines, SEPARATORS[ending], label, wide)


def _lines(path: Path, newline: str) -> tuple[list[str], bool]:
    """The lines of a text with their ends, which `newline` names as `open` does, and whether it is UTF-16.

    Read line by line: the whole of a large file beside its lines takes five times its size.
    """
    with path.open("rb") as file:
        wide = file.read(2) in UTF16
    encoding = "utf-16" if wide else "utf-8-sig"
    try:
        with path.open(encoding=encoding, newline=newline) as file:
            return list(file), wide
    except UnicodeDecodeError:  # of a part of the file; the error of the whole knows its line
        path.read_bytes().decode(encoding)
        raise


def _parquet(path: Path) -> Table:
    """A Parquet file; the hub's names of classes, which stand beside the columns, in the place of their numbers."""
    rows, there = pq.read_metadata(path).num_rows, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if rows * ROW_BYTES > there:  # rows that are all the same take next to nothing on disk
        raise UserError(
            f"{path}: its {rows:,} rows take {rows * ROW_BYTES / 2**30:.0f} GB of memory or more, this machine has "
            f"{there / 2**30:.0f}: give a file with fewer"
        )
    frame = pd.read_parquet(path)
    if not {None, *frame.columns} & {*frame.index.names}:  # what pandas had as its index stands in the file as a column
        frame = frame.reset_index()
    about = (pq.read_schema(path).metadata or {}).get(b"huggingface")
    features = json.loads(about).get("info", {}).get("features", {}) if about else {}
    for column, feature in features.items():
        names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
        if names and column in frame:
            frame[column] = [named(value, names) for value in frame[column]]
    return Table(frame)


def named(value: Any, names: list[str]) -> Any:
    """The name of a class of the hub's; what is no number of one (-1: no label, a name) stays as it is."""
    return value if isinstance(value, str) or pd.isna(value) or not 0 <= value < len(names) else names[int(value)]


def _json_lines(lines: list[str]) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line.rstrip("\r\n"), object_pairs_hook=_object)
                if "\\u" in line:
                    json.dumps(row, ensure_ascii=False).encode()  # half a character cannot be written
            except ValueError as error:
                raise ValueError(f"line {number}: {getattr(error, 'msg', error)}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number}: no JSON object, one of which stands on each line")
            rows.append(row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pd.DataFrame({key: pd.Series([row.get(key) for row in rows], dtype=object) for key in columns})


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


# CSV and TSV


def delimited(lines: list[str], separator: str, label: str, spreadsheet: bool = False) -> Table:
    """The rows of a CSV (fields may stand in quotes) or a TSV (a quote is text, as in GLUE's files).

    A TSV is read as quoted only where all of its quotes are a CSV's, no rows are swallowed so, and it says so itself:
    its names stand in quotes, a field in quotes has doubled quotes inside or goes over lines or tabs, or a spreadsheet
    wrote it (`spreadsheet`).

    Args:
        lines: with their ends: \\n, \\r\\n or \\r, and nothing else.

    Raises:
        ValueError: what is no table, with its line.
    """
    header = next((line for line in lines if line.strip()), "")
    other = next((mark for mark in ",;\t" if mark in header), None)
    if other and separator not in header:
        raise ValueError(f"its columns are separated by {other!r}, not by {separator!r}: {SAVED[separator]}")
    if separator == ",":
        records = _quoted(lines, separator, label)
        kept = sum(any(map(_SPACED.fullmatch, record.fields)) for record in records)
        remark = f"rows with a space before a field's quotes, which are text then, and kept: {kept}"
        return _table(records, *([remark] if kept else []))
    plain = [
        _Record(line.rstrip("\r\n").split("\t"), at, at) for at, line in enumerate(lines, 1) if line.rstrip("\r\n")
    ]
    ragged = _ragged(plain)
    if not ragged and not any(field.startswith('"') for record in plain for field in record.fields):
        return _table(plain)
    try:
        quoted = _quoted(lines, separator, label)
        if wrong := _ragged(quoted):
            raise ValueError(wrong)
    except ValueError:
        if ragged:
            raise ValueError(f"{ragged}; a TSV has no place for a field that goes over lines or holds a tab") from None
        quoted = []
    if quoted and (ragged or spreadsheet or len(quoted) != len(plain) or _says_quoted(plain)):
        return _table(quoted, AS_QUOTED)
    kept = sum(any(map(_in_quotes, record.fields)) for record in plain)
    remark = f"rows with a field that begins and ends with a quote: {kept}; quotes in a TSV are text, and kept"
    return _table(plain, *([remark] if kept else []))


def _in_quotes(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == '"'


def _says_quoted(plain: list[_Record]) -> bool:
    """Whether the header stands in quotes, or a field in quotes has quotes inside (which are then doubled)."""
    inside = any(_in_quotes(field) and '"' in field[1:-1] for record in plain for field in record.fields)
    return inside or all(map(_in_quotes, plain[0].fields))


def _quoted(lines: list[str], separator: str, label: str) -> list[_Record]:
    """The rows of a file whose fields may stand in quotes; by the letter, where other readers guess.

    Raises:
        ValueError: a quote that neither ends its field nor is doubled, one that is never closed, or a field that
            swallows rows: two of its lines read as rows of their own, with labels of this file.
    """
    csv.field_size_limit(sys.maxsize)
    reader, before, records = csv.reader(lines, delimiter=separator, strict=True), 0, []
    try:
        for fields in reader:
            if fields:
                records.append(_Record(fields, before + 1, reader.line_num))
            before = reader.line_num
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise ValueError(f"line {before + 1}: a quote opens a field, and none closes it") from None
        begun = "" if reader.line_num == before + 1 else f" (begun in line {before + 1})"
        raise ValueError(
            f"line {reader.line_num}: a quote inside a field in quotes{begun} must be doubled ({error})"
        ) from None
    names = records[0].fields if records else []
    at = names.index(label) if label in names[:-1] else -1
    labels = {each.fields[at] for each in records[1:] if len(each.fields) == len(names)} - {""}
    for record in records:
        own = []
        for number in range(record.first, record.last + 1) if record.first < record.last else ():
            fields = lines[number - 1].rstrip("\r\n").split(separator)
            own += [number] if len(fields) >= len(names) and fields[at].strip('"') in labels else []
        if len(own) > 1:
            raise ValueError(
                f"line {record.first}: a quote opens a field that swallows rows down to line {record.last} (lines "
                f"{own[0]} and {own[1]} read as rows of their own); double the quotes that are text, or save as JSONL"
            )
    return records


def _ragged(records: list[_Record]) -> str:
    """The first row that has not as many fields as the header, in words; empty lines are no rows."""
    width = len(records[0].fields) if records else 0
    for each in records:
        if len(each.fields) != width and not _blank(each):
            number = len(each.fields)
            return f"line {each.first} has {number} field{'s' * (number != 1)}, the header has {width}"
    return ""


def _blank(record: _Record) -> bool:
    return not any(map(str.strip, record.fields))


def _names(record: _Record) -> list[str]:
    """The fields; the mark that a file begins with stands before them (and before quotes) where it follows another."""
    return [field.removeprefix("\ufeff").strip('"') for field in record.fields]


def _table(records: list[_Record], *remarks: str) -> Table:
    if not records:
        return Table(pd.DataFrame())
    if ragged := _ragged(records):
        raise ValueError(ragged)
    again = [each.first for each in records[1:] if _names(each) == _names(records[0])]
    if again:
        raise ValueError(f"line {again[0]} is the header again, as where files are put together; take it out")
    empty = sum(map(_blank, records))
    columns, *rows = [each.fields for each in records if not _blank(each)]
    frame = pd.DataFrame(rows, columns=range(len(columns)), dtype=object).set_axis(columns, axis="columns")
    return Table(frame, (*remarks, *([f"rows with nothing in them, left out: {empty}"] if empty else [])))
