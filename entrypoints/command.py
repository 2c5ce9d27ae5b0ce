"""What all entry points share: arguments in, one line and an exit status out."""

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable

from analysis import AnalysisError
from labelreg.errors import DivergedError, IncompleteError, StoreLostError, UserError
from labelreg.parameters import Value, parse, with_defaults

ANSWERS = ("significance", "report", "tables")  # they read many runs and end
ECHO_SECONDS = 1.0  # `mlflow run` passes a Ctrl-C on that its process group has already
USER_ERROR, RUN_FAILED, STUDY_FAILED, INTERRUPTED = 2, 3, 4, 130


def command(entry_point: str, main: Callable[[dict[str, Value]], int | None], description: str) -> None:
    """Parse the command line, run `main` on its parameters, and leave with the status that design.md names.

    0; 2 a user's mistake (one line); 3 a run failed; 4 a study with failed runs; 130 interrupted, by
    Ctrl-C or because the tracking store was away for too long.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        given = with_defaults(entry_point, parse(entry_point, sys.argv[1:], description))
        if given.get("threads"):
            os.environ["OMP_NUM_THREADS"] = str(given["threads"])  # before torch starts
        if entry_point in ANSWERS:
            gc.disable()  # what they read stays: looking for garbage among it takes a fifth of their time
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # their matrices are small
        status = main(given) or 0
    except (UserError, AnalysisError) as error:
        status = _fail(str(error), USER_ERROR)
    except StoreLostError as error:
        status = _fail(str(error), INTERRUPTED)
    except DivergedError as error:
        status = _fail(str(error), RUN_FAILED)
    except IncompleteError as error:
        status = _fail(str(error), STUDY_FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        status = INTERRUPTED
    finally:
        gc.enable()
    sys.stdout.flush()
    sys.exit(status)


def _interrupt(number: int, frame: object) -> None:
    """The first signal ends the command in order. One that comes later, not as its echo, ends it and its workers."""
    began = time.monotonic()

    def again(number: int, frame: object) -> None:
        if time.monotonic() - began >= ECHO_SECONDS:
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(INTERRUPTED)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, again)
    raise KeyboardInterrupt


def _fail(line: str, status: int) -> int:
    print(f"error: {line}", file=sys.stderr, flush=True)
    if "MLFLOW_RUN_ID" in os.environ:
        from labelreg import tracking  # 2 s, needed only where `mlflow run` opened a run

        tracking.note_failure(line)
    return status
