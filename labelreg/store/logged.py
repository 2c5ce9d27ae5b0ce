"""Parameters in the words of a run: values as text, and what a text means, whoever wrote it."""

import hashlib
import shlex
from functools import lru_cache

from mlflow.entities import Run
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from labelreg.errors import UserError
from labelreg.parameter import Value, convert, joined
from labelreg.settings import known, method_label


def plain(value: Value) -> str:
    """A value as a parameter's text."""
    if isinstance(value, bool):
        return str(value).lower()
    return joined(value) if isinstance(value, list) else str(value)


@lru_cache(maxsize=4096)  # a thousand runs have few values, each of which takes shlex 10 us
def unquoted(text: str) -> str:
    """The value behind the shell-quoted text that `mlflow run` logs; what nobody quoted (men's.csv) stays."""
    try:
        words = shlex.split(text)
    except ValueError:
        return text
    if not words:
        return ""
    return words[0] if shlex.quote(words[0]) == text else text


def params(run: Run) -> dict[str, str]:
    """A run's parameters as they were given: `mlflow run` logs them as it quotes them for a shell."""
    return {name: unquoted(value) for name, value in run.data.params.items()}


def means(held: str, name: str, value: Value) -> bool:
    """Whether the text that a run holds of a parameter, as a user may have written it, means this value."""
    if len(held) >= MAX_PARAM_VAL_LENGTH:  # `mlflow run` logged it, and MLflow cut it off (ending in ...)
        return _bare(plain(value)).startswith(_bare(held).removesuffix("..."))
    if name == "method":  # one's own is given by its file, and logged by its name
        return _labels([unquoted(held)]) == [value]
    if not isinstance(value, list | bool) or name not in known():
        return same(held, plain(value))
    try:
        given = convert(name, known()[name], unquoted(held))
    except UserError:
        return False
    if name == "methods" and isinstance(value, list):  # their order decides nothing
        return sorted(_labels(given)) == sorted(_labels(value))
    return given == value


def _labels(methods: list[str]) -> list[str]:
    """Methods by their names; a text that names none stays as it is."""
    try:
        return [method_label(method) for method in methods]
    except UserError:
        return methods


def _bare(text: str) -> str:
    return "".join(text.split()).replace("'", "").replace('"', "")


def shortened(name: str, text: str) -> str:
    """A parameter that is too long for MLflow: its beginning, and where the whole is."""
    end = f" ... (whole in parameters/{name}.txt, sha256 {hashlib.sha256(text.encode()).hexdigest()})"
    return text[: MAX_PARAM_VAL_LENGTH - len(end)] + end


def same(held: str, value: str) -> bool:
    """Whether two texts of a parameter mean one value: '2e-5' and '2e-05' do."""
    held = unquoted(held)
    try:
        return held == value or float(held) == float(value)
    except ValueError:
        return value in ("true", "false") and held.lower() == value
