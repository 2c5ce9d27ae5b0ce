"""What a parameter is: its type, range, meaning and default; and how what is given becomes a value.

MLflow checks no types (`-P seed=abc` reaches the command), so all checking is here, before anything
is downloaded or written. A default of None is decided by the recipe, the task or the machine.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from labelreg.errors import UserError, unknown
from labelreg.output import shortened

Value = Any  # str, int, float, bool, list or None: checked where it is read, by its Parameter

# how a parameter enters a fingerprint: as it is; unless it has its usual value (so that runs of before there was the
# parameter keep theirs); by what it names, such as the digest of a file's examples; not at all, for where, when and how
# a run is done
ALWAYS, UNUSUAL, BY_CONTENT, NEVER = "always", "unless usual", "by content", "never"


@dataclass(frozen=True)
class Parameter:
    """One parameter. `low`/`high` bound a number (`high`: a text's length); `open_low`/`open_high` exclude them."""

    kind: str  # text, path (text in which ~ is the home folder), integer, number, flag, list
    help: str
    default: Value = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    counts: str = BY_CONTENT
    usual: Value = None  # what a run has that names none
    silent: bool = False  # a run that has the usual value names none
    recipe: bool = False  # a settings recipe may decide it
    needed: bool = False  # a run that reads it needs a value: a recipe that gives none is a mistake
    pairs: bool = False  # runs that are compared agree in it
    often: bool = False  # --help shows it first: what most people give
    words: str = ""  # what is allowed, where the others do not say it
    each: "tuple[str, Parameter] | None" = None  # of a list: what an item is called, and is; else a text

    def allowed(self) -> str:
        """The allowed values in words."""
        if self.words:
            return self.words
        words = {"integer": "an integer", "number": "a number", "flag": "true or false"}.get(self.kind, "text")
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.low is not None and self.high == MOST:
            return f"{words} of at least {self.low:g}, up to a billion"
        if self.low is not None and self.high is not None:
            ends = "(["[not self.open_low] + f"{self.low:.10g}, {self.high:.10g}" + ")]"[not self.open_high]
            return f"{words} in {ends}"
        if self.low is not None:
            return f"{words} {'above' if self.open_low else 'of at least'} {self.low:g}"
        return words


LONGEST_TEXT, LONGEST_NAME = 5000, 200  # characters; MLflow keeps 6000 of a parameter, 500 of a data set's name
MOST = 10**9  # what no count of this field reaches; libraries hold counts in 32 bits
MOST_AT_A_TIME = 1000  # processes of one machine


FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def convert(name: str, spec: Parameter, value: object, one: str = "") -> Value:
    """One value, from a command line (text) or a recipe (YAML), checked against `spec`.

    Args:
        one: what an item is called, of a list `name`.

    Raises:
        UserError: wrong type or out of range; the line says what is allowed.
    """

    def mistake() -> UserError:
        return UserError(f"{name}={shortened(str(value))}: allowed is {spec.allowed()}")

    if value is None:  # YAML's word for nothing
        raise mistake()
    if spec.kind == "list":
        given = value if isinstance(value, list) else _items(name, str(value))
        one, each = spec.each or (name, Parameter("text", spec.help))
        return [convert(name, each, item, one) for item in given if item != ""]
    if isinstance(value, bool) and spec.kind in ("integer", "number"):  # YAML has such values
        raise mistake()
    if spec.kind in ("text", "path") and isinstance(value, bool | dict | list):
        word = "on" if value is True else "off"
        if not isinstance(value, bool) or word not in spec.choices:
            hint = " (YAML reads on, off, yes and no so: write them in quotes)" if isinstance(value, bool) else ""
            raise UserError(f"{mistake()}{hint}")
        value = word
    try:
        result = READERS[spec.kind](value)
    except (ValueError, KeyError, TypeError, OverflowError):
        raise mistake() from None
    if isinstance(result, str):
        _check_text(name, result, int(spec.high or LONGEST_TEXT))
    if spec.choices and result not in spec.choices:
        raise unknown(one or name, str(result), spec.choices)
    if spec.kind in ("integer", "number"):
        below = spec.low is not None and (result <= spec.low if spec.open_low else result < spec.low)
        above = spec.high is not None and (result >= spec.high if spec.open_high else result > spec.high)
        if below or above or result != result or result in (float("inf"), float("-inf")):
            raise mistake()
    return result


def _items(name: str, text: str) -> list[str]:
    """The items of a list, as CSV has them: one with a comma in it stands in double quotes, which are doubled in it."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{name}={shortened(text)}: {error}; an item with a comma stands in double quotes, as in a CSV"
        ) from None
    return [item.strip() for row in rows for item in row]


def joined(items: Iterable[object]) -> str:
    """A list as one text, from which `convert` makes the same list."""
    result = io.StringIO()
    csv.writer(result, lineterminator="").writerow(list(items))
    return result.getvalue()


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _check_text(name: str, text: str, most: int) -> None:
    """A text that no store, terminal or path could hold as it is."""
    if found := _CONTROL.search(text):
        raise UserError(
            f"{name}={ascii(shortened(text))}: {ascii(found[0])} stands in it; allowed is text in UTF-8 without "
            "line breaks and control characters"
        )
    if len(text) > most:
        raise UserError(f"{name}={shortened(text)}: {len(text)} characters; allowed are up to {most}")


def _integer(value: Value) -> int:
    """Decimal digits: int() alone also takes 1_000 and the digits of other scripts, which MLflow would hold as text."""
    if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]+", value.strip()):
        raise ValueError
    if isinstance(value, float) and value != int(value):
        raise ValueError
    return int(value)


def _number(value: Value) -> float:
    if isinstance(value, str) and not (value.isascii() and "_" not in value):
        raise ValueError
    return float(value) + 0.0  # -0.0 is 0, in fingerprints too


READERS: dict[str, Callable[[Any], Any]] = {
    "integer": _integer,
    "number": _number,
    "flag": lambda value: FLAGS[str(value).lower()],
    "path": lambda value: os.path.expanduser(str(value)),  # a shell leaves -P train_file=~/film.csv as it is
    "text": str,
}
