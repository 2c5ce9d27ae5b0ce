"""What is carried out, and what is told of it: steps, events, and what every kind of worker gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labelreg.errors import StoreLostError, told
from labelreg.methods import label
from labelreg.parameter import Value
from labelreg.recipes import AXES

ATTEMPTS = 2  # of a step, of a study or a cross-check: one that failed is tried once more


@dataclass(frozen=True)
class Step:
    """One run of a study: what is given to it, and the names of the steps that come first."""

    name: str
    given: dict[str, Value]
    kind: str = "student"  # or teacher
    needs: tuple[str, ...] = ()

    @property
    def cell(self) -> tuple:
        """What it shares with the runs of other seeds: kind, task, model, init, method (with its average)."""
        *place, method = (self.given[axis] for axis in AXES)
        return (self.kind, *place, label(method, self.given.get("average")))


@dataclass(frozen=True)
class Event:
    """A step began, ended or failed. `result` is the job's, `reason` one line."""

    step: Step
    state: str  # running, done, failed, skipped
    seconds: float = 0.0
    result: Any = None
    reason: str = ""


def attempt(job: Callable[[Step], Any], step: Step) -> tuple[str, Any]:
    """(done, the job's result), (failed, one line) or (lost, one line): one run's defect must not end the study."""
    try:
        return "done", job(step)
    except StoreLostError as error:
        return "lost", told(error).line
    except Exception as error:
        return "failed", told(error).line


def event_of(step: Step, seconds: float, answer: tuple[str, Any]) -> Event:
    """What an answer of `attempt` means.

    Raises:
        StoreLostError: the worker lost the tracking store: nothing else would fare better.
    """
    state, value = answer
    if state == "lost":
        raise StoreLostError(value)
    return Event(step, "done", seconds, value) if state == "done" else Event(step, "failed", seconds, reason=value)
