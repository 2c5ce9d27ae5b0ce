"""The student runs of a frame as `mlflow.search_runs` returns it: parameters by value, seeds by name."""

import csv
import math
import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from labelreg.methods import label, own_file, own_parameters, parted
from labelreg.settings import Averaged, Computing, Fit, Head, Images, Lora, Protocol, Sgd, Teacher, Text, Tuning, of

# equal in a pair; then the setting: what finetune has too, and what is the method's own
PROTOCOL = tuple(name for name, known in of(Protocol, Text, Computing, Fit, Tuning, Images).items() if known.pairs)
SHARED = tuple(name for name in of(Fit, Sgd, Head, Lora) if name not in PROTOCOL)
USUAL = {name: known.usual for name, known in of(Fit, Head, Tuning).items() if known.usual}  # of runs that name none

OWN_TEACHER = "teacher_logits"  # what the user's own teacher says: one teacher in any file and any columns is one


def methods_own() -> tuple[str, ...]:
    """What is a method's own, of any method there is, or its average's."""
    return (*own_parameters(), *of(Teacher), OWN_TEACHER, *of(Averaged), own_file.SETTINGS)


def setting_names() -> tuple[str, ...]:
    """What tells the runs of a method apart."""
    return (*PROTOCOL, *SHARED, *methods_own())


@dataclass(frozen=True)
class Run:
    row: int
    run_id: str
    status: str
    start: float
    task: str
    model: str
    init: str
    method: str
    seed: object
    protocol: tuple
    shared: tuple
    own: tuple
    data: object
    fingerprint: object
    one_class: str  # the class that it is known to give every example; empty where it has learnt
    never: tuple[str, ...]  # classes that it is known to give no example
    teacher: str  # the run that it learnt from, or the digest of what the user's own says, where there was one
    metric: str = ""
    score: float = math.nan

    @property
    def cell(self) -> tuple[str, str, str]:
        return self.task, self.model, self.init

    @property
    def kept(self) -> str:
        """The epoch whose weights it has kept, best or last; the best where that is not known."""
        return "last" if self.protocol[PROTOCOL.index("selection")] == "last" else "best"

    @property
    def setting(self) -> tuple[tuple, tuple]:
        return self.shared, self.own

    @property
    def settings(self) -> tuple:  # of setting_names
        return (*self.protocol, *self.shared, *self.own)


def read(runs: pd.DataFrame) -> list[Run]:
    """The runs of kind student, in order of the rows."""
    names = ("precision_used", *setting_names())
    known = runs.filter(regex=r"^params\.|^tags\.labelreg\.|^(run_id|status|start_time)$")
    if "start_time" in known:
        known = known.assign(start_time=pd.to_datetime(known["start_time"].astype(object), utc=True, errors="coerce"))

    def student(at: int, row: dict[str, Any]) -> Run:
        def param(name: str) -> str:
            return _text(row.get(f"params.{name}"))

        def tag(name: str) -> str:
            return _text(row.get(f"tags.labelreg.{name}"))

        values = {name: _value(param(name)) for name in names}
        values |= {name: usual for name, usual in USUAL.items() if values[name] is None}
        name = label(param("method"), param("average"))
        base, averaged = parted(name)  # in a table the name alone says how weights are averaged
        if values["precision_used"] is not None:  # what `auto` came to
            values["precision"] = values["precision_used"]
        # a task that is drawn anew for each seed has other logits for each: there the file says which teacher it is
        digest, start = param("teacher_digest"), row.get("start_time", pd.NaT)
        values[OWN_TEACHER] = param("teacher_logits") or f"{digest} {param('teacher_column')}".strip() or None
        return Run(
            row=at,
            run_id=_text(row.get("run_id")),
            status=_text(row.get("status")),
            start=-math.inf if pd.isna(start) else start.timestamp(),
            task=param("task"),
            model=param("model"),
            init=param("init"),
            method=name,
            seed=seed_name(param("seed")),
            protocol=tuple(values[name] for name in PROTOCOL),
            shared=tuple(values[name] for name in SHARED),
            # finetune has no setting of its own but its average's, whatever was passed to its command
            own=tuple(
                values[own] if (averaged != "none" if own in of(Averaged) else base != "finetune") else None
                for own in methods_own()
            ),
            data=tag("data") or None,
            fingerprint=tag("fingerprint") or None,
            one_class=tag("one_class"),
            never=tuple(next(csv.reader([tag("never_predicted")]), ())),
            teacher=param("teacher_run_id") or (f"own {values[OWN_TEACHER]}"[: len("own ") + 8] if digest else ""),
        )

    rows = enumerate(known.to_dict("records"))
    return [student(at, row) for at, row in rows if _text(row.get("tags.labelreg.kind")) == "student"]


def _value(text: str) -> int | float | str | None:
    """A parameter by value: "2e-05" is 2e-5, "1.0" is 1; None where it is missing, or is `none` in a table: values
    that are shown alike would be two comparisons of one name."""
    if text.lower() in ("", "none"):
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number if number == number else None


def seed_name(text: str) -> int | str | None:
    """A seed is a name: the folds 1.1 and 1.10 are two. Whole numbers are integers (7.0 too, as pandas writes a column
    with a gap), so that they stand in order."""
    whole = re.fullmatch(r"(0|-?[1-9]\d*)(\.0)?", text)
    return int(whole[1]) if whole else text or None


def _text(raw: Any) -> str:
    return "" if pd.isna(raw) else str(raw).strip()


def logged(runs: pd.DataFrame, students: list[Run]) -> dict[str, list[float]]:
    """Metrics that some student logged, as lists over the rows of `runs`."""
    rows = [run.row for run in students]
    columns = [name for name in runs.columns if str(name).startswith("metrics.")]
    numbers = {name: pd.to_numeric(runs[name], errors="coerce") for name in columns}
    return {
        name.removeprefix("metrics."): values.tolist()
        for name, values in numbers.items()
        if values.iloc[rows].notna().any()
    }
