"""A command that `mlflow run` started ends when that ends: nothing else would stop it, or collect its answer."""

import os
import select
import signal
import threading
from pathlib import Path

RUN_ID = "MLFLOW_RUN_ID"


def follow() -> None:
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
    threading.Thread(target=_wait, args=(watched,), daemon=True, name="labelreg-launcher").start()


def _wait(watched: int) -> None:
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
