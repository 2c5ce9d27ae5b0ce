"""Tables 1 to 8 of the paper from runs, its numbers beside them; another study gets tables of its own shape.

Score is the mean over tasks per seed, then mean and deviation over seeds; a seed that lacks a task has none.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache

import pandas as pd
import yaml

from analysis import paper
from analysis.hypothesis import signed_rank
from analysis.judge import taught
from analysis.pairing import BY_SELECTION, DEV, LAST_DEV, METHODS, Paired
from analysis.present.answer import scores as mean_scores
from analysis.present.wording import in_order

KNOWN = yaml.safe_load(paper.CSV.with_name("layouts.yaml").read_text(encoding="utf-8"))
GLUE, INITS, NAMES, TITLES = KNOWN["glue"], KNOWN["inits"], KNOWN["methods"], KNOWN["tables"]
METHOD_OF = {name: method for method, name in NAMES.items()} | {"Base": "finetune"}
TEACHER, SCORE, SPLITS = "teacher", "Score", ("dev", "test")
CELLS = ["task", "model", "init", "method", "setting", "seed", "split", "score"]
COLUMNS = ["table", "split", "row", "column", "mean", "std", "n", "paper_mean", "paper_std", "difference"]


@dataclass(frozen=True)
class Layout:
    """What a table shows: (split, column) -> (task, init, split of the score), None for Score; and method -> row."""

    table: str
    title: str
    model: str
    columns: dict[tuple[str, str], tuple[str, str, str] | None]
    rows: dict[str, str]

    @property
    def places(self) -> set[tuple[str, str]]:  # (task, init)
        return {place[:2] for place in self.columns.values() if place}


@cache
def layouts() -> tuple[Layout, ...]:
    """Tables 1 to 7, by what the paper has in them."""
    found = []
    for table, cells in paper.read().groupby("table"):
        if table != "8":
            title, model, init, task = TITLES[table]
            columns: dict[tuple[str, str], tuple[str, str, str] | None] = {}
            for half, column in dict.fromkeys(zip(cells["split"], cells["column"], strict=True)):
                split = half or ("dev" if "(dev)" in column else "test")
                place = GLUE.get(column, task), INITS.get(column, init), split
                columns[half, column] = None if column == SCORE else place
            found.append(Layout(table, title, model, columns, {METHOD_OF[row]: row for row in cells["row"]}))
    return tuple(found)


@dataclass(eq=False)
class Tables:
    """All tables that the runs fill: `cells` (COLUMNS, one row per cell), titles, and what is missing, in words."""

    cells: pd.DataFrame
    titles: dict[str, str]
    missing: list[str] = field(default_factory=list)


def scores(runs: pd.DataFrame, paired: Paired) -> pd.DataFrame:
    """Dev and test scores of the usable runs of `paired`, and of the teachers that they name (CELLS).

    A teacher has the task, model and init of the students that it taught, and method "teacher". Where scores
    came from a table (one metric, neither dev nor test), they count as test scores, unless its name says dev.
    """
    frame = runs.set_index("run_id")
    students = paired.runs
    columns = [*CELLS[:6], "run_id", "metric"]
    rows = [_rows(frame, place, run_id, metric) for *place, run_id, metric in students[columns].values]
    named = frame.get("params.teacher_run_id", pd.Series(dtype=object))
    with_teacher = students[students["method"].map(taught)]
    teachers = {
        (r.task, r.model, r.init, run_id)
        for r in with_teacher.itertuples()
        for run_id in str(named.get(r.run_id)).split(",")
    }
    for task, model, init, run_id in sorted(place for place in teachers if place[3] in frame.index):
        rows.append(_rows(frame, [task, model, init, TEACHER, "", frame.get("params.seed", named).get(run_id)], run_id))
    return pd.DataFrame([row for found in rows for row in found], columns=CELLS)


def _rows(frame: pd.DataFrame, place: list, run_id: str, metric: str = "score") -> list[list]:
    def logged(name: str) -> float:
        value = frame[f"metrics.{name}"].get(run_id) if f"metrics.{name}" in frame else None
        return math.nan if value is None else float(value)

    kept = frame["params.selection"].get(run_id) if "params.selection" in frame else None
    _, test, dev = BY_SELECTION["last" if kept == "last" else "best"]
    found = [[*place, split, logged(name)] for split, name in (("dev", dev), ("test", test))]
    found = [row for row in found if math.isfinite(row[-1])]
    if not found and math.isfinite(logged(metric)):
        found = [[*place, "dev" if "dev" in metric.split("/") else "test", logged(metric)]]
    return found


def tables(runs: pd.DataFrame, paired: Paired, studies: Collection[str] = ()) -> Tables:
    """The paper's tables that `runs` fill, then tables of their own shape for what the paper does not have.

    `studies`: those whose runs alone may be asked for instead.
    """
    found = scores(runs, paired)
    printed = {tuple(cell[name] for name in paper.COLUMNS[:4]): cell for cell in paper.read().to_dict("records")}
    made = Tables(pd.DataFrame(columns=COLUMNS), {})
    cells, shown = [], set()
    for layout in layouts():
        part = found[found["model"] == layout.model]
        part = part[pd.MultiIndex.from_frame(part[["task", "init"]]).isin(layout.places)]
        if part.empty:
            made.missing.append(f"table {layout.table} ({layout.title}): no runs")
            continue
        shown |= {(layout.model, *place) for place in layout.places}
        cells += _fill(layout, part, made, studies)
        made.titles[layout.table] = layout.title
    cells += _table8(paired, made)
    for layout, part in _own(found, shown):
        cells += _fill(layout, part, made, studies)
        made.titles[layout.table] = layout.title
    for row in mean_scores(paired).to_dict("records"):
        if row["not_learnt"]:
            place = ", ".join(filter(None, [row["task"], row["model"], row["init"], row["setting"]]))
            told = f"{row['not_learnt']} of {row['n']} runs have not learnt, every example gets one class"
            made.missing.append(f"{row['method']} ({place}): {told}")
    made.cells = pd.DataFrame([_beside(cell, printed) for cell in cells], columns=COLUMNS)
    return made


def _own(found: pd.DataFrame, shown: set) -> Iterator[tuple[Layout, pd.DataFrame]]:
    """A layout for each model and initialisation that no table of the paper shows."""
    rest = found[~pd.MultiIndex.from_frame(found[["model", "task", "init"]]).isin(shown)]
    for (model, init), part in rest.groupby(["model", "init"], sort=True):
        tasks = list(dict.fromkeys(part["task"]))
        splits = [split for split in SPLITS if split in set(part["split"])]
        columns: dict[tuple[str, str], tuple[str, str, str] | None] = {}
        for split in splits:
            columns |= {(split, task): (task, init, split) for task in tasks}
            columns |= {(split, SCORE): None} if len(tasks) > 1 else {}
        names = {m: NAMES.get(m, m) for m in (TEACHER, *METHODS) if m in set(part["method"])}
        name = " ".join(filter(None, [model, init]))
        yield Layout(name, name, model, columns, names), part


def _fill(layout: Layout, part: pd.DataFrame, made: Tables, studies: Collection[str]) -> list[tuple]:
    """The cells (table, split, row, column, mean, std, n) of a table; what it lacks goes to `made.missing`."""
    cells = []
    keys = ["method", "setting", "task", "init", "split"]
    part = part.assign(seed=part["seed"].map(str))  # of a table from outside they may be numbers and names
    held = {key: group.groupby("seed")["score"].mean() for key, group in part.groupby(keys, sort=False)}
    for split in dict.fromkeys(split for split, _ in layout.columns):
        columns = {column: place for (half, column), place in layout.columns.items() if half == split}
        for method, setting in _row_keys(layout, part):
            name = layout.rows.get(method, NAMES.get(method, method)) + (f" [{setting}]" if setting else "")
            keys_of = {column: (method, setting, *place) for column, place in columns.items() if place}
            seeds = pd.DataFrame({column: held[key] for column, key in keys_of.items() if key in held})
            absent = [column for column in keys_of if column not in seeds]
            place = f"table {layout.table}{' ' * bool(split)}{split}, {name}: "
            if absent and method in layout.rows:  # the others are no rows of it
                made.missing.append(place + ("everything" if seeds.empty and len(absent) > 1 else ", ".join(absent)))
            complete = seeds.iloc[:0] if absent else seeds.dropna()
            means = pd.Series([seeds.mean().mean()]) if method == TEACHER and not absent else complete.mean(axis=1)
            gone = ", ".join(map(str, in_order(list(seeds.index.difference(complete.index)))))
            if SCORE in columns and gone and not absent and method != TEACHER:
                made.missing.append(f"{place}no Score of seed {gone}, which lack tasks")
            for column in columns:
                values = means if column == SCORE else seeds.get(column)
                cells.append((layout.table, split, name, column, *_mean(values)))
    most, printed = max(n for *_, n in cells), paper.RUNS.get(layout.table, math.inf)
    if most > printed:
        told = f"table {layout.table}: up to {most} seeds a cell, where the paper has {printed}"
        study = f"table{layout.table}"
        made.missing.append(told + f"; study={study} takes that study's runs alone" * (study in studies))
    return cells


def _row_keys(layout: Layout, part: pd.DataFrame) -> list[tuple[str, str]]:
    """(method, setting) of each row: the layout's methods with or without runs, then others that have runs."""
    held = set(zip(part["method"], part["setting"], strict=True))
    keys = []
    for method in dict.fromkeys([*layout.rows, *METHODS, *sorted({method for method, _ in held})]):
        settings = sorted(setting for other, setting in held if other == method)
        keys += [(method, setting) for setting in settings] or ([(method, "")] if method in layout.rows else [])
    return keys


def _mean(values: pd.Series | None) -> tuple[float, float, int]:
    values = pd.Series(dtype=float) if values is None else values.dropna()
    return float(values.mean()), float(values.std(ddof=1)), len(values)


def _table8(paired: Paired, made: Tables) -> list[tuple]:
    title, model, _, task = TITLES["8"]
    of = [c for c in paired.comparisons if (c.task, c.model) == (task, model)]
    if not of:
        made.missing.append(f"table 8 ({title}): no pairs")
        return []
    made.titles["8"] = title
    if {c.metric for c in of} <= {DEV, LAST_DEV}:
        made.titles["8"] += ", dev scores: not every run has a test score"
    inits = {init: column for column, init in INITS.items()}
    count = Counter((c.method, c.init) for c in of)
    cells = {}
    for c in of:
        name = KNOWN["tested"].get(c.method, f"Base vs {NAMES.get(c.method, c.method)}")
        if count[c.method, c.init] > 1:
            name += f" [{c.setting}]"
        if c.init in inits:
            p = signed_rank(c.differences).p_value
            cells[name, inits[c.init]] = ("8", "", name, inits[c.init], p, math.nan, len(c.differences))
    rows = list(dict.fromkeys([*KNOWN["tested"].values(), *(name for name, _ in cells)]))
    for name in KNOWN["tested"].values():
        for column in INITS:
            if (name, column) not in cells and (name, column) != ("Finetune vs AKD", "From scratch"):
                made.missing.append(f"table 8, {name}: {column}")
    empty = (math.nan, math.nan, 0)
    return [cells.get((name, column), ("8", "", name, column, *empty)) for name in rows for column in INITS]


def _beside(cell: tuple, printed: dict) -> tuple:
    """The cell with the paper's number of the same place and the difference to it."""
    table, split, row, column, mean, *_ = cell
    other = printed.get((table, split, row.partition(" [")[0], column), {"mean": math.nan, "std": math.nan})
    return *cell, other["mean"], other["std"], round(mean - other["mean"], 9)
