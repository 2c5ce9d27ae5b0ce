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
    def settings(self) -> tuple:
        """The values of `setting_names`."""
        return (*self.protocol, *self.shared, *self.own)


def read(runs: pd.DataFrame) -> list[Run]:
    """The runs of kind student, in order of the rows."""

    def column(name: str) -> list[Any]:
        return runs[name].tolist() if name in runs else [None] * len(runs)

    task, model, init, method, seed = (column(f"params.{n}") for n in ("task", "model", "init", "method", "seed"))
    names = ("precision_used", *setting_names())
    params = {name: column(f"params.{name}") for name in names}
    kind, run_id, status = column("tags.labelreg.kind"), column("run_id"), column("status")
    data, fingerprint = column("tags.labelreg.data"), column("tags.labelreg.fingerprint")
    average = column("params.average")
    one_class, never = column("tags.labelreg.one_class"), column("tags.labelreg.never_predicted")
    teacher = column("params.teacher_run_id")
    own_teacher, file, prefix = (column(f"params.teacher_{name}") for name in ("logits", "digest", "column"))
    start = pd.to_datetime(pd.Series(column("start_time"), dtype=object), utc=True, errors="coerce")

    def student(row: int) -> Run:
        values = {name: _value(params[name][row]) for name in names}
        values |= {name: usual for name, usual in USUAL.items() if values[name] is None}
        name = label(_text(method[row]), _text(average[row]))
        base, averaged = parted(name)  # in a table the name alone says how weights are averaged
        if values["precision_used"] is not None:  # what `auto` came to
            values["precision"] = values["precision_used"]
        # a task that is drawn anew for each seed has other logits for each: there the file says which teacher it is
        values[OWN_TEACHER] = _text(own_teacher[row]) or f"{_text(file[row])} {_text(prefix[row])}".strip() or None
        taught = f"own {values[OWN_TEACHER]}"[: len("own ") + 8] if _text(file[row]) else ""
        return Run(
            row=row,
            run_id=_text(run_id[row]),
            status=_text(status[row]),
            start=-math.inf if pd.isna(start[row]) else start[row].timestamp(),
            task=_text(task[row]),
            model=_text(model[row]),
            init=_text(init[row]),
            method=name,
            seed=_seed(seed[row]),
            protocol=tuple(values[name] for name in PROTOCOL),
            shared=tuple(values[name] for name in SHARED),
            # finetune has no setting of its own but its average's, whatever was passed to its command
            own=tuple(
                values[own] if (averaged != "none" if own in of(Averaged) else base != "finetune") else None
                for own in methods_own()
            ),
            data=_text(data[row]) or None,
            fingerprint=_text(fingerprint[row]) or None,
            one_class=_text(one_class[row]),
            never=tuple(next(csv.reader([_text(never[row])]), ())),
            teacher=_text(teacher[row]) or taught,
        )

    return [student(row) for row in range(len(runs)) if _text(kind[row]) == "student"]


def _value(raw: Any) -> int | float | str | None:
    """A parameter by value: "2e-05" is 2e-5, "1.0" is 1; None where it is missing, or is `none` in a table: values
    that are shown alike would be two comparisons of one name."""
    text = _text(raw)
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


def _seed(raw: Any) -> int | str | None:
    """A seed is a name: the folds 1.1 and 1.10 are two. Whole numbers are integers (7.0 too, as pandas writes a column
    with a gap), so that they stand in order."""
    text = _text(raw)
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
