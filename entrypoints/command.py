"""What all entry points share: arguments in, one line and an exit status out."""

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from entrypoints import launched
from labelreg import errors, output
from labelreg.arguments import parse, with_defaults
from labelreg.errors import INTERRUPTED, USER_ERROR, UserError, one_line, told
from labelreg.parameter import Value

ANSWERS = ("significance", "report", "tables")  # they read many runs and end
ECHO_SECONDS = 1.0  # a key that is held down, or a launcher that passes a Ctrl-C on, is no second one
ROOTS = ("LABELREG_DATA_ROOT", "LABELREG_MODEL_ROOT", "LABELREG_CACHE_ROOT")


def command(entry_point: str, main: Callable[[dict[str, Value]], int | None], description: str) -> None:
    """Parse the command line, run `main` on its parameters, and leave with the status that design.md names.

    0; 1 a defect (its traceback lies in a file); 2 a user's mistake, or something that the system refuses; 3 a run
    failed; 4 a study with failed runs; 130 interrupted, by Ctrl-C or because the tracking store was away for too
    long. Whatever it is, it is one line. A reader of standard output who leaves (`| head`) does not end the work.
    """
    before = output.guard()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # threads that wait for each other would spin: on a busy machine two of them are then five times slower
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        launched.follow()
        given = with_defaults(entry_point, parse(entry_point, sys.argv[1:], description))
        errors.places = given | {name: os.environ.get(name) for name in ROOTS}
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
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        status = INTERRUPTED
    except Exception as error:
        status = _fail(*told(error))
    finally:
        gc.enable()
        sys.stdout.flush()
        output.restore(before)
    sys.exit(status)


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
    if "MLFLOW_RUN_ID" in os.environ:
        from labelreg.store import tracking

        tracking.note_failure(line)
    return status
