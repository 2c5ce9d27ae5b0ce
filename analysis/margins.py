"""The margin: differences below it do not matter. In points, the same for all tasks or each its own.

A test set has a resolution: no margin is finer than what one example is worth, and `auto` is what a set of this size
can tell at all. It is fixed by the number of examples, before any run.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from analysis import AnalysisError, unknown

USUAL = 0.5
AUTO = "auto"
FLIPPED = 0.1  # share of answers in which two fine-tuned models usually differ (measured: 0.06 to 0.16)
IN_POINTS = ("score", "accuracy", "f1", "matthews")
LARGE = 0.05  # of the scores: a margin that is meant for points of 100 looks so beside fractions


@dataclass(frozen=True)
class Margins:
    """`given` by task, "" being all others: points, AUTO, or None (USUAL, or AUTO where an example is worth more)."""

    given: Mapping[str, float | str | None]

    def of(self, task: str, metric: str, examples: int | None) -> float:
        """The margin of a task whose test set has so many examples (None: not known).

        Raises AnalysisError: a margin below one example's worth; auto where the size or the unit is not known.
        """
        asked = self.asked(task)
        in_points = metric.rpartition("/")[2] in IN_POINTS
        worth = _worth(metric, examples)
        if asked is None:
            return resolution(examples) if examples and worth > USUAL else USUAL
        if isinstance(asked, str):
            if not examples or not in_points:
                what = "the number of its test examples is not known" if in_points else f"{metric} is not in points"
                raise AnalysisError(f"margin=auto: {task}: {what}; give a number")
            return resolution(examples)
        if asked < worth:
            raise AnalysisError(
                f"margin={asked:g}: {task} has {examples:,} test examples, one of which is worth {worth:.2f} points; "
                f"margin={task}:{resolution(examples or 1):g} (auto) is what they can tell"
            )
        return asked

    def why(self, task: str, metric: str, examples: int | None) -> str:
        """Why a margin is auto, in words; "" where it was given as a number, or is the usual one."""
        asked, worth = self.asked(task), _worth(metric, examples)
        if not examples or not (asked == AUTO or asked is None and worth > USUAL):
            return ""
        usual = "" if asked else f", not {USUAL:g}"
        return f"auto{usual}: what {examples:,} test examples can tell; a smaller gain is not excluded"

    def fits(self, task: str, metric: str, scores: Sequence[float]) -> None:
        """Raises AnalysisError where none was given, and the usual one is not meant for such scores."""
        if self.asked(task) is not None or not too_large(USUAL, metric, scores):
            return
        known = metric.rpartition("/")[2] in IN_POINTS
        if known and not fractions(metric, scores):  # low ones, perhaps: a remark is enough
            return
        told = "look like fractions of 1" if known else f"are between {min(scores):g} and {max(scores):g}"
        half = f"{USUAL / 100:g} (or {task}:{USUAL / 100:g}, of this task alone) where half a point of 100 is meant"
        wanted = half if known else "NUMBER, in the metric's own unit"
        raise AnalysisError(
            f"margin: scores {told} ({task}, {metric}), and the usual margin is {USUAL:g} points of 100; "
            f"give margin={wanted}"
        )

    def check(self, tasks: Collection[str]) -> None:
        """Raises AnalysisError for a margin of a task that is none of these."""
        for task in self.given:
            if task and tasks and task not in tasks:
                raise unknown("margin of task", task, sorted(tasks))

    def asked(self, task: str) -> float | str | None:
        return self.given.get(task, self.given.get(""))

    def plain(self) -> float | str:
        """As a plan holds it: one number where there is one, else the text."""
        alone = self.given.get("")
        if set(self.given) == {""} and not isinstance(alone, str):
            return USUAL if alone is None else alone
        told = {task: value if isinstance(value, str) else f"{value:g}" for task, value in self.given.items() if value}
        return ",".join(f"{task}:{value}" if task else value for task, value in told.items())


def _worth(metric: str, examples: int | None) -> float:
    """Points that one test example is worth; 0 where that is not known, or the metric is not in points."""
    return 100 / examples if examples and metric.rpartition("/")[2] in IN_POINTS else 0.0


def too_large(margin: float, metric: str, scores: Sequence[float]) -> bool:
    """Whether a margin is so large beside the scores that it may be meant in another unit than theirs."""
    return not _in_percent(metric) and margin >= LARGE * max(map(abs, scores), default=0) > 0


def fractions(metric: str, scores: Sequence[float]) -> bool:
    """Whether scores of this name, which has points of 100 elsewhere, look like fractions (of -1 too: Matthews)."""
    known = metric.rpartition("/")[2] in IN_POINTS and not _in_percent(metric)
    return known and -1 <= min(scores) <= max(scores) <= 1 and any(scores)


def _in_percent(metric: str) -> bool:
    """Whether this project has logged it so: `eval/accuracy` of a table is another's."""
    return metric.startswith(("best/", "last/")) and metric.rpartition("/")[2] in IN_POINTS


def resolution(examples: int) -> float:
    """Points that so many test examples can tell: two of them, and the half-width of the 95% interval of a difference
    between two models that differ in FLIPPED of their answers; rounded up to 0.01."""
    half = 100 * 1.96 * math.sqrt(FLIPPED / examples)
    return math.ceil(100 * max(200 / examples, half) - 1e-9) / 100


def margins(text: float | str | None) -> Margins:
    """Of `margin=`: "0.5", "auto", "rte:1.5,sst5:0.5" or all of these; None is the usual.

    Raises AnalysisError for what is no number above 0, and for a task named twice.
    """
    if text is None or str(text).strip() == "":
        return Margins({"": None})
    found: dict[str, float | str | None] = {}
    for part in str(text).split(","):
        task, _, value = (piece.strip() for piece in part.rpartition(":"))
        number = AUTO if value == AUTO else _number(value, text)
        if task in found:
            raise AnalysisError(f"margin={text}: {task or 'the margin of all tasks'} stands there twice")
        found[task] = number
    return Margins({"": None, **found} if found.keys() - {""} else found)


def _number(value: str, text: float | str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise AnalysisError(f"margin={text}: allowed are points above 0, auto, or TASK:POINTS, comma-separated")
    return number
