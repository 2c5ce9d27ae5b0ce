"""What all entry points share: arguments in, one line and an exit status out.

A command that `mlflow run` started ends when that ends: nothing else would stop it, or collect its answer.
"""

import argparse
import gc
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from labelreg import errors, output, settings
from labelreg.errors import INTERRUPTED, USER_ERROR, UserError, told, unknown
from labelreg.methods import METHODS, own_file
from labelreg.output import one_line, shortened
from labelreg.parameter import Parameter, Value, convert

ANSWERS = ("significance", "report", "tables")  # they read many runs and end
ECHO_SECONDS = 1.0  # a key that is held down, or a launcher that passes a Ctrl-C on, is no second one
ROOTS = ("LABELREG_DATA_ROOT", "LABELREG_MODEL_ROOT", "LABELREG_CACHE_ROOT")
SPINS = "1000"  # of a thread that waits at a barrier, some microseconds
RUN_ID = "MLFLOW_RUN_ID"  # what `mlflow run` gives to its command


def command(entry_point: str, main: Callable[[dict[str, Value]], int | None], description: str) -> None:
    """Parse the command line, run `main` on its parameters, and leave with the status that docs/contract.md names.

    0; 1 a defect (its traceback lies in a file); 2 a user's mistake, or something that the system refuses; 3 a run
    failed; 4 a study with failed runs; 130 interrupted, by Ctrl-C or because the tracking store was away for too
    long. Whatever it is, it is one line. A reader of standard output who leaves (`| head`) does not end the work.
    """
    before, given = output.guard(), {}
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # threads that wait for each other would spin for milliseconds: on a busy machine two of them are then many times
    # slower; not spinning at all costs a quarter of an idle machine's time (bench/busy.py)
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    try:
        _follow_launcher()
        given = settings.with_defaults(entry_point, parse(entry_point, sys.argv[1:], description))
        errors.given_places = given | {name: os.environ.get(name) for name in ROOTS}
        if given.get("output_dir"):
            given["output_dir"] = os.path.expanduser(str(given["output_dir"]))
            _check_output(Path(given["output_dir"]))
        if given.get("threads"):
            os.environ["OMP_NUM_THREADS"] = str(given["threads"])  # before torch starts
        if entry_point in ANSWERS:
            gc.disable()  # what they read stays: looking for garbage among it takes a fifth of their time
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # their matrices are small
        status = main(given) or 0
        status = status or _end_of_output()
    except KeyboardInterrupt as stop:
        print(f"interrupted: {str(stop) or _what_next(entry_point, given)}", file=sys.stderr, flush=True)
        status = INTERRUPTED
    except Exception as error:
        status = _fail(*told(error))
    finally:
        gc.enable()
        sys.stdout.flush()
        output.restore(before)
    sys.exit(status)


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
    """The parameters given on a command line, converted; those not given (or empty) are absent, unless the recipe of a
    study asks for them: one that is given empty is not asked for either.

    Raises:
        UserError: an unknown parameter (with the nearest name), or a value that is not allowed.
    """
    _load_methods(entry_point, arguments)  # they may have parameters of their own
    known = settings.parameters(entry_point)
    parser = _Parser(
        prog=f"python -m entrypoints.{entry_point}",
        usage=f"%(prog)s [--NAME=VALUE ...]\n   or: {settings.RUN} -e {entry_point} [-P NAME=VALUE ...]",
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for title, group in settings.grouped(entry_point).items():
        section = parser.add_argument_group(title.rstrip("."))
        for name, each in group.items():
            section.add_argument(f"--{name}", action=_Once, metavar=each.kind.upper(), help=_help(name, each))
    given, rest = parser.parse_known_args(arguments)
    if rest:
        if not rest[0].startswith("--") or rest[0] == "--":
            raise UserError(
                f"{shortened(rest[0])!r}: parameters are given as --name=value (`mlflow run`: -P name=value)"
            )
        name, listed_by = rest[0].lstrip("-").split("=")[0], f"python -m entrypoints.{entry_point} --help"
        raise unknown("parameter", name, known, listed_by=listed_by)
    result = {name: convert(name, known[name], value) for name, value in vars(given).items() if value != ""}
    result |= {name: _names(result[name]) for name in ("method", "methods") if name in result}
    return {name: value for name, value in _asked(result, entry_point).items() if name not in vars(given)} | result


def _help(name: str, known: Parameter) -> str:
    """What a parameter is, what it can be, and what it is when it is not given."""
    choices = METHODS if name in ("method", "methods", "reference") else known.choices
    shown = f" ({', '.join(choices)})" if choices else ""
    default = " [the recipe's]" if known.recipe else ""
    if known.default is not None:
        default = f" [{str(known.default).lower() if known.kind == 'flag' else known.default}]"
    return f"{known.help}{shown}{default}".replace("%", "%%")


def _load_methods(entry_point: str, arguments: Sequence[str]) -> None:
    """Load methods of the user's own, those of a study's recipe too."""
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default="")
    for name in ("--method", "--methods", "--recipe"):
        parser.add_argument(name)
    given, _ = parser.parse_known_args(arguments)
    listed: Any = given.methods
    own = os.path.expanduser(given.recipe)  # as the parameter is read
    if not listed and Path(own).is_file() and issubclass(settings.ENTRY_POINTS[entry_point], settings.Study):
        from labelreg import recipes  # an answer from a table does without

        listed = recipes.read(own, "study").get("methods") or ""
    _names([given.method, *convert("methods", settings.parameters("study")["methods"], listed)])


def _asked(given: dict[str, Value], entry_point: str) -> dict[str, Value]:
    """What the recipe of a study asks for."""
    kind = settings.ENTRY_POINTS[entry_point]
    recipe = given.get("recipe") or settings.of(kind)["recipe"].default if issubclass(kind, settings.Study) else None
    if not recipe:
        return {}
    from labelreg import recipes  # an answer from a table does without

    return recipes.asked(str(recipe))


def _names(given: Value) -> Value:
    """Methods by their names; those of the user's own are given by their files."""
    if isinstance(given, list):
        return [_names(each) for each in given]
    here = own_file.MARK in given and not os.path.dirname(given)  # a bare name is any file that is loaded already
    return settings.method_label(f"./{given}" if here else given)


# Signals, and the end of `mlflow run`


def _interrupt(number: int, frame: object) -> None:
    """The first signal ends the command in order; a second Ctrl-C, at once, and its workers too."""
    began = time.monotonic()

    def again(number: int, frame: object) -> None:
        # SIGTERM is what `mlflow run` makes of the same Ctrl-C, and comes of its own end, whenever that is
        if number == signal.SIGINT and time.monotonic() - began >= ECHO_SECONDS:
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(INTERRUPTED)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, again)
    raise KeyboardInterrupt


def _follow_launcher() -> None:
    """Where `mlflow run` is above this process, be told of its end as by SIGTERM: runs end KILLED and go on later.

    MLflow passes Ctrl-C on, but not SIGTERM, and is silent when it is killed. A shell may stand between.
    """
    above = _launcher()
    if above is None or not hasattr(os, "pidfd_open"):
        return
    try:
        watched = os.pidfd_open(above)
    except OSError:  # it has just ended
        watched = None
    if watched is None or _launcher() != above:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    threading.Thread(target=_wait_for_end, args=(watched,), daemon=True, name="labelreg-launcher").start()


def _wait_for_end(watched: int) -> None:
    ends = select.poll()
    ends.register(watched, select.POLLIN)
    while not ends.poll():
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _launcher() -> int | None:
    """The nearest process above that did not inherit the run's id, if it is an `mlflow run`."""
    run_id = os.environ.get(RUN_ID)
    above = os.getppid()
    while run_id and above > 1:
        try:
            environment = Path(f"/proc/{above}/environ").read_bytes().split(b"\0")
            if f"{RUN_ID}={run_id}".encode() not in environment:
                return above if _is_mlflow_run(Path(f"/proc/{above}/cmdline").read_bytes()) else None
            above = int(Path(f"/proc/{above}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # no such system, another user's process, or one that has ended
            return None
    return None


def _is_mlflow_run(line: bytes) -> bool:
    words = [Path(os.fsdecode(word)).name for word in line.split(b"\0")]
    return "run" in words and any(word in ("mlflow", "mlflow.cli") for word in words[: words.index("run")])


def _what_next(entry_point: str, given: Mapping[str, Value]) -> str:
    """What becomes of an interrupted command."""
    goes_on = issubclass(settings.ENTRY_POINTS[entry_point], settings.Checkpoints) and given.get("resume") != "never"
    return f"the same command {'goes on where this one was' if goes_on else 'begins again'}"


# Files and standard output


def _check_output(folder: Path) -> None:
    """What ends with files in a folder must not find at its end that there can be none."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"output_dir={folder}: {place} is a file; a folder is needed")
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise UserError(f"output_dir={folder}: nothing can be written into {place}")


def _end_of_output() -> int:
    """A reader who has left has seen what he wanted; a full disk has lost what was printed."""
    sys.stdout.flush()
    lost = getattr(sys.stdout, "lost", None)
    if lost is None or isinstance(lost, BrokenPipeError):
        return 0
    return _fail(
        f"standard output: {one_line(getattr(lost, 'strerror', None) or str(lost))}: what was printed is "
        "lost, what was logged is there",
        USER_ERROR,
    )


def _fail(line: str, status: int) -> int:
    print(f"error: {line}", file=sys.stderr, flush=True)
    if RUN_ID in os.environ:
        from labelreg.store import tracking

        tracking.note_failure(line)
    return status
