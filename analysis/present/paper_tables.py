"""Tables 1 to 8 of the paper from runs, its numbers beside them; another study gets tables of its own shape.

Score is the mean over tasks per seed, then mean and deviation over seeds; a seed that lacks a task has none.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd

from analysis import paper
from analysis.hypothesis import signed_rank
from analysis.pairing import DEV, METHODS, TEST, Paired
from analysis.present.answer import scores as mean_scores
from labelreg.methods import METHODS as KNOWN

GLUE = {
    "CoLA": "cola", "RTE": "rte", "MRPC": "mrpc", "SST-2": "sst2", "QNLI": "qnli", "MNLI": "mnli", "QQP": "qqp",
}  # fmt: skip
NAMES = {"finetune": "Finetune", "ls": "LS", "tfreg": "TF-reg", "selfkd": "Self-KD", "kd": "KD", "akd": "AKD"}
TEACHER, SCORE, SPLITS = "teacher", "Score", ("dev", "test")
SCORE_OF_A_TABLE = "score"
TAUGHT = [name for name, each in KNOWN.items() if each.needs == "teacher"]  # by the run that teacher_run_id names
INITS = {"Pre-trained": "pretrained", "From scratch": "random"}  # columns of tables 6 and 8
CELLS = ["task", "model", "init", "method", "setting", "seed", "split", "score"]
COLUMNS = ["table", "split", "row", "column", "mean", "std", "n", "paper_mean", "paper_std", "difference"]


@dataclass(frozen=True)
class Layout:
    """What a table shows: (split, column) -> (task, init, split of the score), `score` whether means follow."""

    table: str
    title: str
    model: str
    columns: dict[tuple[str, str], tuple[str, str, str]]
    score: bool = False
    rows: tuple[str, ...] = METHODS[:5]
    base: str = NAMES["finetune"]

    def name(self, method: str) -> str:
        """The row's name as printed."""
        return self.base if method == "finetune" else "Teacher" if method == TEACHER else NAMES.get(method, method)


def _glue(table: str, title: str, model: str, init: str, base: str = "Finetune") -> Layout:
    columns = {(split, column): (task, init, split) for split in SPLITS for column, task in GLUE.items()}
    return Layout(table, title, model, columns, score=True, rows=(TEACHER, *METHODS[:5]), base=base)


def _accuracy(table: str, title: str, task: str) -> Layout:
    columns = {("", f"Accuracy ({split})"): (task, "pretrained", split) for split in SPLITS}
    return Layout(table, title, "distilroberta", columns, rows=(TEACHER, "finetune", "ls", "tfreg", "kd"))


LAYOUTS = (
    _glue("1", "DistilRoBERTa on GLUE", "distilroberta", "pretrained"),
    _glue("2", "BERT-small on GLUE", "bert-small", "pretrained"),
    _glue("3", "DistilGPT-2 on GLUE", "distilgpt2", "pretrained"),
    _accuracy("4", "DistilRoBERTa on SST-5", "sst5"),
    _accuracy("5", "DistilRoBERTa on FewRel (64 classes)", "fewrel"),
    Layout(
        "6",
        "ResNet18 on CIFAR100",
        "resnet18",
        {("", name): ("cifar100", INITS[name], "test") for name in ("From scratch", "Pre-trained")},
        rows=("finetune", "ls", "tfreg"),
        base="Base",
    ),
    _glue("7", "Randomly initialized DistilRoBERTa on GLUE", "distilroberta", "random", "Base"),
)
TESTED = {"tfreg": "Base vs TF-reg", "kd": "Base vs KD", "akd": "Finetune vs AKD"}  # the rows of table 8
TITLE_8 = "Exact Wilcoxon signed-rank p, DistilRoBERTa on SST-5"


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
    taught = students[students["method"].isin(TAUGHT)]
    teachers = {(r.task, r.model, r.init, named.get(r.run_id)) for r in taught.itertuples()}
    for task, model, init, run_id in sorted(place for place in teachers if place[3] in frame.index):
        rows.append(_rows(frame, [task, model, init, TEACHER, "", frame.get("params.seed", named).get(run_id)], run_id))
    return pd.DataFrame([row for found in rows for row in found], columns=CELLS)


def _rows(frame: pd.DataFrame, place: list, run_id: str, metric: str = SCORE_OF_A_TABLE) -> list[list]:
    def logged(name: str) -> float:
        value = frame[f"metrics.{name}"].get(run_id) if f"metrics.{name}" in frame else None
        return math.nan if value is None else float(value)

    found = [[*place, split, logged(name)] for split, name in (("dev", DEV), ("test", TEST))]
    found = [row for row in found if math.isfinite(row[-1])]
    if not found and math.isfinite(logged(metric)):
        found = [[*place, "dev" if "dev" in metric.split("/") else "test", logged(metric)]]
    return found


def tables(runs: pd.DataFrame, paired: Paired) -> Tables:
    """The paper's tables that `runs` fill, then tables of their own shape for what the paper does not have."""
    found = scores(runs, paired)
    printed = {tuple(cell[name] for name in paper.COLUMNS[:4]): cell for cell in paper.read().to_dict("records")}
    made = Tables(pd.DataFrame(columns=COLUMNS), {})
    cells, shown = [], set()
    for layout in LAYOUTS:
        part = found[found["model"] == layout.model]
        wanted = {(task, init) for task, init, _ in layout.columns.values()}
        part = part[_among(part, ["task", "init"], wanted)]
        if part.empty:
            made.missing.append(f"table {layout.table} ({layout.title}): no runs")
            continue
        shown |= {(layout.model, *place) for place in wanted}
        cells += _fill(layout, part, made)
        made.titles[layout.table] = layout.title
    cells += _table8(paired, made)
    for layout, part in _own(found, shown):
        cells += _fill(layout, part, made)
        made.titles[layout.table] = layout.title
    for row in mean_scores(paired).to_dict("records"):
        if row["not_learnt"]:
            place = ", ".join(filter(None, [row["task"], row["model"], row["init"], row["setting"]]))
            told = f"{row['not_learnt']} of {row['n']} runs have not learnt, every example gets one class"
            made.missing.append(f"{row['method']} ({place}): {told}")
    made.cells = pd.DataFrame([_beside(cell, printed) for cell in cells], columns=COLUMNS)
    return made


def _among(frame: pd.DataFrame, names: list[str], places: set[tuple]) -> pd.Series:
    """Which rows have one of these places."""
    held = [place in places for place in frame[names].itertuples(index=False, name=None)]
    return pd.Series(held, index=frame.index, dtype=bool)


def _own(found: pd.DataFrame, shown: set) -> Iterator[tuple[Layout, pd.DataFrame]]:
    """A layout for each model and initialisation that no table of the paper shows."""
    rest = found[~_among(found, ["model", "task", "init"], shown)]
    for (model, init), part in rest.groupby(["model", "init"], sort=True):
        tasks = list(dict.fromkeys(part["task"]))
        splits = [split for split in SPLITS if split in set(part["split"])]
        columns = {(split, task): (task, init, split) for split in splits for task in tasks}
        methods = [m for m in (TEACHER, *METHODS) if m in set(part["method"])]
        name = " ".join(filter(None, [model, init]))
        yield Layout(name, name, model, columns, score=len(tasks) > 1, rows=tuple(methods)), part


def _fill(layout: Layout, part: pd.DataFrame, made: Tables) -> list[tuple]:
    """The cells (table, split, row, column, mean, std, n) of a table; what it lacks goes to `made.missing`."""
    cells, lacking = [], defaultdict(list)
    held = {key: group for key, group in part.groupby(["method", "setting", "task", "init", "split"], sort=False)}
    for split in dict.fromkeys(split for split, _ in layout.columns):
        columns = {column: place for (half, column), place in layout.columns.items() if half == split}
        for method, setting in _row_keys(layout, part):
            name = f"{layout.name(method)} [{setting}]" if setting else layout.name(method)
            by_column = {}
            for column, place in columns.items():
                group = held.get((method, setting, *place))
                if group is None:
                    lacking[split, name].append(column)
                else:
                    by_column[column] = group.groupby("seed")["score"].mean()
                cells.append((layout.table, split, name, column, *_mean(by_column.get(column))))
            if layout.score:
                seeds = pd.DataFrame(by_column) if len(by_column) == len(columns) else pd.DataFrame()
                cells.append((layout.table, split, name, SCORE, *_mean(_score(seeds, layout, split, name, made))))
    for (split, name), names in lacking.items():
        everything = len(names) == sum(half == split for half, _ in layout.columns)
        told = "everything" if everything and len(names) > 1 else ", ".join(names)
        made.missing.append(f"table {layout.table}{' ' * bool(split)}{split}, {name}: {told}")
    return cells


def _row_keys(layout: Layout, part: pd.DataFrame) -> list[tuple[str, str]]:
    """(method, setting) of each row: the layout's methods with or without runs, then others that have runs."""
    held = list(dict.fromkeys(zip(part["method"], part["setting"], strict=True)))
    methods = list(dict.fromkeys([*layout.rows, *METHODS, *sorted({method for method, _ in held})]))
    keys = []
    for method in methods:
        settings = sorted(setting for other, setting in held if other == method)
        keys += [(method, setting) for setting in settings] or ([(method, "")] if method in layout.rows else [])
    return keys


def _score(seeds: pd.DataFrame, layout: Layout, split: str, name: str, made: Tables) -> pd.Series:
    """Mean over tasks for every seed that has them all; a teacher's tasks may have seeds of their own."""
    if name == layout.name(TEACHER) and len(seeds):
        return pd.Series([seeds.mean().mean()])
    complete = seeds.dropna()
    if len(complete) < len(seeds):
        without = ", ".join(map(str, seeds.index.difference(complete.index)))
        made.missing.append(f"table {layout.table} {split}, {name}: no Score of seed {without}, which lack tasks")
    return complete.mean(axis=1)


def _mean(values: pd.Series | None) -> tuple[float, float, int]:
    if values is None or values.empty:
        return math.nan, math.nan, 0
    return float(values.mean()), float(values.std(ddof=1)), len(values)


def _table8(paired: Paired, made: Tables) -> list[tuple]:
    of = [c for c in paired.comparisons if (c.task, c.model) == ("sst5", "distilroberta")]
    if not of:
        made.missing.append(f"table 8 ({TITLE_8}): no pairs")
        return []
    made.titles["8"] = TITLE_8
    if {c.metric for c in of} == {DEV}:
        made.titles["8"] += ", dev scores: not every run has a test score"
    inits = {init: column for column, init in INITS.items()}
    count: defaultdict[tuple[str, str], int] = defaultdict(int)
    for c in of:
        count[c.method, c.init] += 1
    cells = {}
    for c in of:
        name = TESTED.get(c.method, f"Base vs {NAMES.get(c.method, c.method)}")
        if count[c.method, c.init] > 1:
            name += f" [{c.setting}]"
        if c.init in inits:
            p = signed_rank(c.differences).p_value
            cells[name, inits[c.init]] = ("8", "", name, inits[c.init], p, math.nan, len(c.differences))
    rows = list(dict.fromkeys([*TESTED.values(), *(name for name, _ in cells)]))
    for name in rows:
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
