"""The pictures of the page, of the frames of an answer; none where there is nothing to draw."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis.calibration import Calibration
from analysis.pairing import Paired, method_rank
from analysis.present import charts, figures, paper_tables
from analysis.present.charts import Line, Panel, Row
from analysis.present.render import number, p_text, signed
from analysis.present.wording import GLYPHS, label, unit

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


LEAD_OF_INTERVALS = (
    "The marker is the Hodges-Lehmann estimate of the difference, the bar its exact interval for this comparison alone "
    "(the verdict is corrected for the whole family). An arrow is an end without a bound. In the shaded band a "
    "difference is smaller than the margin."
)


def means(paired: Paired, runs: pd.DataFrame) -> tuple[Group, ...]:
    """Mean and standard deviation of every method's scores, the starts of the models side by side; before them figure 1
    of the paper for each model with several tasks."""
    if paired.runs.empty:
        return ()
    cells, groups = paper_tables.scores(runs, paired), []
    for model in sorted(set(cells["model"])):
        scores, _ = figures.figure1_scores(cells, model)
        if len(scores) and scores["tasks"].iloc[0] > 1:
            groups.append(_figure1(model, scores))
    for (task, model, metric), cell in paired.runs.groupby(["task", "model", "metric"]):
        drawn = {
            init: [_scores(*key, found["score"]) for key, found in _by_method(part)] for init, part in _by_init(cell)
        }
        groups.append(_group("scores", [task, model], drawn, metric, zero=False))
    return tuple(groups)


def _figure1(model: str, scores: pd.DataFrame) -> Group:
    pictures = []
    for init, part in _by_init(scores):
        told = "; ".join(f"{m}: {v.mean():.2f}" for m, v in part.groupby("method", sort=False)["score"])
        with charts.styled():
            figure = figures.figure1(part)
            figure.suptitle("")  # the heading above says it
            pictures.append(_picture("scores", ["figure 1", model, init], figure, told))
    return Group(f"Figure 1: {model}, {figures.title(scores).replace(chr(10), ', ')}", tuple(pictures))


def _scores(method: str, setting: str, scores: pd.Series) -> Row:
    mean, sd = scores.mean(), scores.std(ddof=1) if len(scores) > 1 else 0.0
    note = f"{number(mean)} ± {number(sd)}, n = {len(scores)}" if len(scores) > 1 else f"{number(mean)}, n = 1"
    return Row(_label(method, setting), note, method, mean, mean - sd, mean + sd, tuple(scores))


def differences(judged: pd.DataFrame) -> tuple[Group, ...]:
    """The paired differences themselves, seed by seed."""
    cells: Cells = defaultdict(lambda: defaultdict(list))
    for row in judged.to_dict("records"):
        d, mean = row["differences"], row["mean_difference"]
        note = f"{signed(mean)}, ahead in {sum(x > 0 for x in d)} of {len(d)}" if len(d) else "no pair"
        found = Row(label(row), note, row["method"], mean, mean, mean, d)
        cells[row["task"], row["model"], row["metric"]][row["init"]].append(found)
    return _groups("pairs", cells, "difference in ")


def intervals(judged: pd.DataFrame) -> tuple[Group, ...]:
    """Hodges-Lehmann estimates with their exact intervals, the margin and the verdict."""
    cells: Cells = defaultdict(lambda: defaultdict(list))
    margins = {}
    for row in judged.to_dict("records"):
        word = f"{GLYPHS[row['verdict']]} {row['verdict']}" + (", negligible" if row["negligible"] else "")
        note = f"{signed(row['estimate'])}  {word}" if row["n"] else f"no pair  {word}"
        centre = row["estimate"] if row["n"] else math.nan
        found = Row(label(row), note, row["method"], centre, row["low"], row["high"])
        cells[row["task"], row["model"], row["metric"]][row["init"]].append(found)
        margins[row["task"]] = row["margin"]
    return _groups("intervals", cells, "difference in ", margins)


def interaction(table: pd.DataFrame) -> tuple[Group, ...]:
    """What a method adds from a random start beyond what it adds to a pre-trained one (interaction.interaction)."""
    cells: Cells = defaultdict(lambda: defaultdict(list))
    for row in table.to_dict("records"):
        note = f"{signed(row['estimate'])}, Holm p {p_text(row['p_holm'])}, n = {row['n']}"
        found = Row(label(row), note, row["method"], row["estimate"], row["low"], row["high"])
        cells["", row["model"], row["metric"]][row["task"]].append(found)
    return _groups("interaction", cells, "difference of differences in ")


def effects(table: pd.DataFrame) -> tuple[Group, ...]:
    """The mean difference over these tasks with its interval (over_tasks.these_tasks)."""
    cells: Cells = defaultdict(lambda: defaultdict(list))
    for row in table.to_dict("records"):
        note = f"{signed(row['mean_difference'])}  {GLYPHS[row['verdict']]} {row['verdict']}"
        method = row["method"].partition(" [")[0]
        found = Row(row["method"], note, method, row["mean_difference"], row["low"], row["high"])
        cells["", row["model"], row["metric"]][row["init"]].append(found)
    return _groups("these_tasks", cells, "mean difference in ")


def curves(paired: Paired, histories: pd.DataFrame | None) -> tuple[Group, ...]:
    """Means after each epoch, of runs with several; `histories` has the columns run_id, name, step, value."""
    if histories is None or histories.empty:
        return ()
    frame = histories.merge(paired.runs.drop(columns="score"), on="run_id")
    frame = frame[frame.groupby(["run_id", "name"])["step"].transform("nunique") > 1]

    def draw(part: pd.DataFrame) -> tuple[Figure, str]:
        found = [_curve(name, part[part["name"] == name]) for name in EPOCH_METRICS]
        found = [panel for panel in found if panel.lines]
        return charts.panels(found), _told(found)

    return _cells("curves", frame, draw)


def _curve(name: str, part: pd.DataFrame) -> Panel:
    lines = []
    for (method, setting), found in _by_method(part):
        mean = found.groupby("step")["value"].mean()
        lines.append(Line(_label(method, setting), method, tuple(mean.index), tuple(mean)))
    return Panel(tuple(lines), "epoch", name, whole=True)


def reliability(calibration: Calibration | None) -> tuple[Group, ...]:
    """Accuracy against confidence, as trained and with a temperature."""
    if calibration is None or calibration.reliability.empty:
        return ()

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

    return _cells("calibration", calibration.reliability, draw)


def costs(table: pd.DataFrame, paired: Paired) -> tuple[Group, ...]:
    """Score against seconds (calibration.costs)."""
    if table.empty:
        return ()
    metrics = list(dict.fromkeys(paired.runs["metric"]))
    metric = metrics[0] if len(metrics) == 1 else "score"
    table = table.dropna(subset=["train_seconds", "score"])
    table = table.assign(label=[_label(*pair) for pair in table[["method", "setting"]].itertuples(index=False)])

    def draw(part: pd.DataFrame) -> tuple[Figure, str]:
        part = pd.concat([found for _, found in _by_method(part)])
        told = "; ".join(
            f"{row['label']}: {number(row['score'])} for {row['train_seconds']:.0f} s, with teacher "
            f"{row['total_seconds']:.0f} s"
            for row in part.to_dict("records")
        )
        return charts.costs(part, metric), told

    return _cells("cost", table, draw)


# What the parts share


def _groups(part: str, cells: Cells, what: str, margins: Mapping[str, float] | None = None) -> tuple[Group, ...]:
    return tuple(
        _group(part, [task, model], drawn, f"{what}{unit(metric)} ({metric})", (margins or {}).get(task))
        for (task, model, metric), drawn in cells.items()
    )


def _group(
    part: str,
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
            part,
            [*names, init],
            charts.rows(lines, x_label, margin, zero, span),
            "; ".join(f"{line.label}: {line.note}" for line in lines),
            x_label,
        )
        for init, lines in drawn.items()
    ]
    return Group(" · ".join(filter(None, names)), tuple(pictures))


def _cells(part: str, frame: pd.DataFrame, draw: Callable[[pd.DataFrame], tuple[Figure, str]]) -> tuple[Group, ...]:
    """`draw` of each cell's rows gives a figure and its description."""
    groups = []
    for names, cell in frame.groupby(["task", "model"]):
        pictures = [_picture(part, [*names, init], *draw(some)) for init, some in _by_init(cell)]
        groups.append(Group(" · ".join(filter(None, names)), tuple(pictures)))
    return tuple(groups)


def _picture(part: str, names: Sequence[str], figure: Figure, told: str, also: str = "") -> Picture:
    name = "".join(letter if letter.isalnum() else "-" for letter in "-".join([part, *names, also]))
    return Picture(names[-1], charts.svg(figure, name, ", ".join(filter(None, [part, *names])), told))


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


def _label(method: str, setting: str) -> str:
    return label({"method": method, "setting": setting})
