"""The parts of the page that are pictures: each takes what a store or a table gave, or says why it is left out."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure

from analysis import direction
from analysis.calibration import Calibration
from analysis.pairing import Paired, method_rank
from analysis.present import charts, figures
from analysis.present.charts import Line, Panel, Row
from analysis.present.tables import p_text
from analysis.present.wording import GLYPHS, label, left_out_lines, unit

EPOCH_METRICS = ("dev/score", "train/loss")  # what learning curves show
CELL = ["task", "model", "init"]
Cells = defaultdict[tuple[str, str, str], defaultdict[str, list[Row]]]  # (task, model, metric) -> init -> rows


@dataclass(frozen=True)
class Picture:
    """A chart under its heading."""

    heading: str
    svg: str


@dataclass(frozen=True)
class Group:
    """Pictures that are read side by side."""

    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Table:
    """Cells as text; `numeric` says which columns stand to the right."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    numeric: list[bool]


@dataclass(frozen=True)
class Section:
    """One part of the page; `missing` is the line that stands for a part without data."""

    name: str
    title: str
    lead: str = ""
    lines: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    tables: tuple[Table, ...] = ()
    paste: str = ""
    missing: str = ""


def means(paired: Paired, cells: pd.DataFrame) -> Section:
    """Mean and standard deviation of every method's scores, the starts of the models side by side.

    `cells`: paper_tables.scores, for figure 1 over the tasks of each model.
    """
    section = Section(
        "scores",
        "Scores",
        "Ticks are single seeds, the marker is their mean, the bar one standard deviation to either side, as in "
        "figure 1 of the paper. Overlapping bars say little of paired runs: the differences below do.",
    )
    if paired.runs.empty:
        return replace(section, missing="no run has a score")
    groups = []
    for model in sorted(set(cells["model"])):
        scores, _ = figures.figure1_scores(cells, model)
        if len(scores) and scores["tasks"].iloc[0] > 1:
            groups.append(_figure1(section, model, scores))
    for (task, model, metric), cell in paired.runs.groupby(["task", "model", "metric"]):
        drawn = {
            init: [_scores(*key, found["score"]) for key, found in _by_method(part)] for init, part in _by_init(cell)
        }
        groups.append(_group(section, [task, model], drawn, metric, zero=False))
    said = direction.lines((c.metric, c.negated) for c in paired.comparisons)
    return replace(section, groups=tuple(groups), lines=tuple(said))


def _figure1(section: Section, model: str, scores: pd.DataFrame) -> Group:
    pictures = []
    for init, part in _by_init(scores):
        told = "; ".join(f"{m}: {v.mean():.2f}" for m, v in part.groupby("method", sort=False)["score"])
        with charts.styled():
            figure = figures.figure1(part)
            figure.suptitle("")  # the heading above says it
            pictures.append(_picture(section, ["figure 1", model, init], figure, told))
    return Group(f"Figure 1: {model}, {figures.title(scores).replace(chr(10), ', ')}", tuple(pictures))


def _scores(method: str, setting: str, scores: pd.Series) -> Row:
    mean, sd = scores.mean(), scores.std(ddof=1) if len(scores) > 1 else 0.0
    note = f"{mean:.2f} ± {sd:.2f}, n = {len(scores)}" if len(scores) > 1 else f"{mean:.2f}, n = 1"
    return Row(_label(method, setting), note, method, mean, mean - sd, mean + sd, tuple(scores))


def differences(judged: pd.DataFrame) -> Section:
    """The paired differences themselves, seed by seed."""
    reference = judged["reference"].iloc[0] if len(judged) else ""
    section = Section(
        "differences",
        "Paired differences",
        f"Each bar is one seed: the method's score minus the score of {reference} with the same seed; seeds "
        "stand in the same order in every row. Bars to the right of 0: the method was ahead.",
    )
    if judged.empty:
        return replace(section, missing="no method has runs that pair with the reference")
    cells: Cells = defaultdict(lambda: defaultdict(list))
    for row in judged.to_dict("records"):
        d, mean = row["differences"], row["mean_difference"]
        note = f"{mean:+.2f}, ahead in {sum(x > 0 for x in d)} of {len(d)}" if len(d) else "no pair"
        found = Row(label(row), note, row["method"], mean, mean, mean, d)
        cells[row["task"], row["model"], row["metric"]][row["init"]].append(found)
    return replace(section, groups=_groups(section, cells, "difference in "), lines=_directions(judged))


def intervals(judged: pd.DataFrame) -> Section:
    """Hodges-Lehmann estimates with their exact intervals, the margin and the verdict."""
    section = Section("intervals", "Estimates, intervals, margin")
    if judged.empty:
        return replace(section, missing="there is no comparison")
    margin = float(judged["margin"].iloc[0])
    lead = (
        "The marker is the Hodges-Lehmann estimate of the difference, the bar its exact interval for this comparison "
        "alone (the verdict is corrected for the whole family). An arrow is an end without a bound. In the shaded "
        f"band a difference is smaller than the margin of {margin:g}."
    )
    cells: Cells = defaultdict(lambda: defaultdict(list))
    for row in judged.to_dict("records"):
        word = f"{GLYPHS[row['verdict']]} {row['verdict']}" + (", negligible" if row["negligible"] else "")
        note = f"{row['estimate']:+.2f}  {word}" if row["n"] else f"no pair  {word}"
        centre = row["estimate"] if row["n"] else math.nan
        found = Row(label(row), note, row["method"], centre, row["low"], row["high"])
        cells[row["task"], row["model"], row["metric"]][row["init"]].append(found)
    groups = _groups(section, cells, "difference in ", margin)
    return replace(section, lead=lead, groups=groups, lines=_directions(judged))


def interaction(table: pd.DataFrame, lines: Sequence[str], directions: Sequence[str] = ()) -> Section:
    """What a method adds from a random start beyond what it adds to a pre-trained one (across.interaction).

    `lines`: across.interaction_lines; `directions`: across.directions.
    """
    section = Section(
        "interaction",
        "Pre-trained or from scratch",
        "The paper's question: (method - reference | random) - (method - reference | pretrained), paired by seed, with "
        "its exact interval. To the right of 0: the method does more for a model that starts from scratch.",
    )
    if not lines:
        return replace(section, missing="no method has paired runs of both initialisations with the same seeds")
    cells: Cells = defaultdict(lambda: defaultdict(list))
    for row in table.to_dict("records"):
        note = f"{row['estimate']:+.2f}, Holm p {p_text(row['p_holm'])}, n = {row['n']}"
        found = Row(label(row), note, row["method"], row["estimate"], row["low"], row["high"])
        cells["", row["model"], row["metric"]][row["task"]].append(found)
    return replace(
        section, groups=_groups(section, cells, "difference of differences in "), lines=(*directions, *lines)
    )


def effects(section: Section, table: pd.DataFrame) -> Section:
    """`section` with a picture of the random-effects means over tasks (across.against_reference)."""
    cells: Cells = defaultdict(lambda: defaultdict(list))
    for row in table.dropna(subset=["effect"]).to_dict("records"):
        note = f"{row['effect']:+.2f} over {row['n_effect']} tasks"
        found = Row(row["method"], note, _base(row["method"]), row["effect"], row["effect_low"], row["effect_high"])
        cells["", row["model"], row["metric"]][row["init"]].append(found)
    return replace(section, groups=_groups(section, cells, "mean difference in "))


def curves(paired: Paired, histories: pd.DataFrame | None) -> Section:
    """Means after each epoch; `histories` has the columns run_id, name, step, value."""
    section = Section("curves", "Learning curves", "Means over the seeds, after each epoch.")
    if histories is None:
        return replace(section, missing="the epochs of runs are in a store, not in a table of scores")
    frame = histories.merge(paired.runs.drop(columns="score"), on="run_id")
    if frame.empty:
        return replace(section, missing=f"no run logged {' or '.join(EPOCH_METRICS)}")

    def draw(part: pd.DataFrame) -> tuple[Figure, str]:
        found = [_curve(name, part[part["name"] == name]) for name in EPOCH_METRICS]
        found = [panel for panel in found if panel.lines]
        return charts.panels(found), _told(found)

    return replace(section, groups=_cells(section, frame, draw))


def _curve(name: str, part: pd.DataFrame) -> Panel:
    lines = []
    for (method, setting), found in _by_method(part):
        mean = found.groupby("step")["value"].mean()
        lines.append(Line(_label(method, setting), method, tuple(mean.index), tuple(mean)))
    return Panel(tuple(lines), "epoch", name, whole=True)


def reliability(calibration: Calibration | None) -> Section:
    """Accuracy against confidence, as trained and with a temperature."""
    section = Section(
        "calibration",
        "Calibration",
        "Accuracy against confidence in bins of equal mass, all seeds together; on the dashed line a model is as often "
        "right as it says, below it too sure. Left: as trained. Right: with a temperature fitted on dev.",
    )
    if calibration is None:
        return replace(section, missing="predictions are in a store, not in a table of scores")
    reasons = left_out_lines(calibration.left_out)
    if calibration.reliability.empty:
        why = reasons[0].rstrip(".") if reasons else "no paired run"
        return replace(section, missing=f"no run has predictions that can be read ({why})")

    def draw(part: pd.DataFrame) -> tuple[Figure, str]:
        found = []
        for scaled, told in ((False, "as trained"), (True, "temperature fitted")):
            lines = [
                Line(_label(method, setting), method, tuple(line["confidence"]), tuple(line["accuracy"]))
                for (method, setting), line in _by_method(part[part["scaled"] == scaled])
            ]
            found.append(Panel(tuple(lines), f"confidence, {told}", "accuracy", diagonal=True))
        found = [panel for panel in found if panel.lines]
        return charts.panels(found, across=True), _told(found)

    return replace(section, groups=_cells(section, calibration.reliability, draw), lines=reasons)


def costs(table: pd.DataFrame | None, metric: str) -> Section:
    """Score against seconds (calibration.costs)."""
    section = Section(
        "cost",
        "Cost against score",
        "Mean score against mean training seconds of one run. Joined to it and hollow: with the seconds of the "
        "teacher, which is trained once for all seeds. Seconds compare only where the runs had the same machine.",
    )
    if table is None:
        return replace(section, missing="seconds are in a store, not in a table of scores")
    table = table.dropna(subset=["train_seconds", "score"])
    if table.empty:
        return replace(section, missing="no run logged cost/train_seconds")
    table = table.assign(label=[_label(*pair) for pair in table[["method", "setting"]].itertuples(index=False)])

    def draw(part: pd.DataFrame) -> tuple[Figure, str]:
        part = pd.concat([found for _, found in _by_method(part)])
        told = "; ".join(
            f"{row['label']}: {row['score']:.2f} for {row['train_seconds']:.0f} s, with teacher "
            f"{row['total_seconds']:.0f} s"
            for row in part.to_dict("records")
        )
        return charts.costs(part, metric), told

    return replace(section, groups=_cells(section, table, draw))


# What the parts share


def _directions(judged: pd.DataFrame) -> tuple[str, ...]:
    return tuple(direction.lines(zip(judged["metric"], judged["negated"], strict=True)))


def _groups(section: Section, cells: Cells, what: str, margin: float | None = None) -> tuple[Group, ...]:
    return tuple(
        _group(section, [task, model], drawn, f"{what}{unit(metric)} ({metric})", margin)
        for (task, model, metric), drawn in cells.items()
    )


def _group(
    section: Section,
    names: list[str],
    drawn: dict[str, list[Row]],
    x_label: str,
    margin: float | None = None,
    zero: bool = True,
) -> Group:
    """Rows of each start of the models; differences on one axis."""
    spans = [charts.extent(lines, margin, zero) for lines in drawn.values()]
    span = (min(low for low, _ in spans), max(high for _, high in spans)) if zero else None
    pictures = [
        _picture(
            section,
            [*names, init],
            charts.rows(lines, x_label, margin, zero, span),
            "; ".join(f"{line.label}: {line.note}" for line in lines),
            x_label,
        )
        for init, lines in drawn.items()
    ]
    return Group(" · ".join(filter(None, names)), tuple(pictures))


def _cells(
    section: Section, frame: pd.DataFrame, draw: Callable[[pd.DataFrame], tuple[Figure, str]]
) -> tuple[Group, ...]:
    """`draw` of each cell's rows gives a figure and its description."""
    groups = []
    for names, cell in frame.groupby(["task", "model"]):
        pictures = []
        for init, part in _by_init(cell):
            pictures.append(_picture(section, [*names, init], *draw(part)))
        groups.append(Group(" · ".join(filter(None, names)), tuple(pictures)))
    return tuple(groups)


def _picture(section: Section, names: Sequence[str], figure: Figure, told: str, also: str = "") -> Picture:
    name = "".join(letter if letter.isalnum() else "-" for letter in "-".join([section.name, *names, also]))
    title = f"{section.title}: {', '.join(filter(None, names))}"
    return Picture(names[-1], charts.svg(figure, name, title, told))


def _told(these: list[Panel]) -> str:
    return "; ".join(
        f"{panel.y_label} over {panel.x_label}, {line.label}: {line.y[0]:.3g} to {line.y[-1]:.3g}"
        for panel in these
        for line in panel.lines
    )


def _by_method(frame: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """((method, setting), rows) in the order of METHODS."""
    found = frame.groupby(["method", "setting"], sort=False)
    return sorted(found, key=lambda item: (method_rank(item[0][0]), item[0]))


def _by_init(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(init, rows), pretrained first."""
    return sorted(frame.groupby("init"), key=lambda item: (item[0] != "pretrained", item[0]))


def _base(name: str) -> str:
    """The method of a name that may carry its setting."""
    return name.partition(" [")[0]


def _label(method: str, setting: str) -> str:
    return label({"method": method, "setting": setting})
