"""A command line becomes values: those given, checked; and `--help`."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from labelreg import settings
from labelreg.errors import UserError, shortened, unknown
from labelreg.methods import METHODS
from labelreg.parameter import Value, convert


class _Once(argparse.Action):
    """A parameter is given once: of two values, one would be dropped without a word."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, option: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest, value)
        if before != value:
            raise UserError(f"{self.dest} is given twice: {shortened(before)} and {shortened(value)}")
        setattr(namespace, self.dest, value)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse(entry_point: str, arguments: Sequence[str], description: str = "") -> dict[str, Value]:
    """The parameters given on a command line, converted; those not given (or empty) are absent.

    Raises:
        UserError: an unknown parameter (with the nearest name), or a value that is not allowed.
    """
    known = settings.parameters(entry_point)
    parser = _Parser(
        prog=f"python -m entrypoints.{entry_point}",
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for name, each in known.items():
        default = "" if each.default is None else f" [{each.default}]"
        choices = METHODS if name in ("method", "methods", "reference") else each.choices
        shown = f" ({', '.join(choices)})" if choices else ""
        parser.add_argument(
            f"--{name}",
            action=_Once,
            metavar=each.kind.upper(),
            help=f"{each.help}{shown}{default}".replace("%", "%%"),
        )
    given, rest = parser.parse_known_args(arguments)
    if rest:
        if not rest[0].startswith("--") or rest[0] == "--":
            raise UserError(
                f"{shortened(rest[0])!r}: parameters are given as --name=value (`mlflow run`: -P name=value)"
            )
        raise unknown("parameter", rest[0].lstrip("-").split("=")[0], known)
    return {name: convert(name, known[name], value) for name, value in vars(given).items() if value != ""}


def with_defaults(entry_point: str, given: dict[str, Value]) -> dict[str, Value]:
    """`given` with the defaults of its entry point; what a recipe or a method decides stays absent."""
    known = settings.of(settings.ENTRY_POINTS[entry_point])
    return {name: each.default for name, each in known.items() if each.default is not None} | given
