"""The pictures of the page, of the frames of an answer; none where there is nothing to draw."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from analysis.calibration import Calibration
from analysis.hypothesis import decimals
from analysis.pairing import Paired, in_order
from analysis.present import charts
from analysis.present.charts import Row
from analysis.present.render import number, p_text, signed
from analysis.present.wording import GLYPHS, label, own_label, unit

EPOCH_METRICS = ("dev/score", "train/loss")  # what learning curves show


class Picture(NamedTuple):
    heading: str
    svg: str


def means(paired: Paired, margin: float = 0.0) -> list[Picture]:
    """Mean and standard deviation of every method's scores, with the decimals that the margin asks for."""
    digits = decimals(margin)
    grouped = paired.runs.groupby(["task", "model", "metric", "init", "method", "setting"])["score"]
    table = pd.DataFrame({"mean": grouped.mean(), "std": grouped.std().fillna(0), "points": grouped.agg(tuple)})

    def row(r: dict) -> Row:
        mean, sd, n = r["mean"], r["std"], len(r["points"])
        note = f"{number(mean, digits)} ± {number(sd, digits)}, n = {n}" if n > 1 else f"{number(mean, digits)}, n = 1"
        return Row(label(r), note, r["method"], mean, mean - sd, mean + sd, r["points"])

    return _rows("scores", in_order(table.reset_index()), row, zero=False)


def differences(judged: pd.DataFrame) -> list[Picture]:
    """The paired differences themselves, seed by seed."""

    def row(r: dict) -> Row:
        d, mean = r["differences"], r["mean_difference"]
        note = f"{signed(mean, r['margin'])}, ahead in {sum(x > 0 for x in d)} of {len(d)}" if len(d) else "no pair"
        return Row(own_label(r), note, r["method"], mean, mean, mean, d)

    return _rows("pairs", judged, row, "difference in ", judged, band=False)


def intervals(judged: pd.DataFrame) -> list[Picture]:
    """Hodges-Lehmann estimates with their exact intervals, the margin and the verdict."""

    def row(r: dict) -> Row:
        word = f"{GLYPHS[r['verdict']]} {r['verdict']}" + (", negligible" if r["negligible"] else "")
        note = f"{signed(r['estimate'], r['margin'])}  {word}" if r["n"] else f"no pair  {word}"
        return Row(own_label(r), note, r["method"], r["estimate"] if r["n"] else math.nan, r["low"], r["high"])

    return _rows("intervals", judged, row, "difference in ", judged)


def interaction(table: pd.DataFrame, judged: pd.DataFrame) -> list[Picture]:
    """What a method adds from a random start beyond what it adds to a pre-trained one (interaction.interaction)."""
    margin = judged["margin"].min()

    def row(r: dict) -> Row:
        note = f"{signed(r['estimate'], margin)}, Holm p {p_text(r['p_holm'])}, n = {r['n']}"
        return Row(label(r), note, r["method"], r["estimate"], r["low"], r["high"])

    return _rows("interaction", table.assign(init=""), row, "difference of differences in ", judged)


def effects(table: pd.DataFrame, judged: pd.DataFrame) -> list[Picture]:
    """The mean difference over these tasks with its interval (over_tasks.these_tasks)."""

    def row(r: dict) -> Row:
        note = f"{signed(r['mean_difference'], r['margin'])}  {GLYPHS[r['verdict']]} {r['verdict']}"
        return Row(r["method"], note, r["method"].partition(" [")[0], r["mean_difference"], r["low"], r["high"])

    return _rows("these_tasks", table.assign(task=""), row, "mean difference in ", judged)


def trends(table: pd.DataFrame, judged: pd.DataFrame) -> list[Picture]:
    """What each method adds at each size of the training set (trend.by_size)."""

    def draw(part: pd.DataFrame) -> tuple[Figure, str]:
        by_metric = dict(list(part.groupby("metric")))  # several where runs differ in `selection`
        alone = f"difference in {_unit(judged, part['task'].iloc[0], part['metric'].iloc[0])}"
        named = by_metric if len(by_metric) > 1 else {alone: part}
        return charts.panels(named, "training examples", deep=len(named))

    return _panels("trend", table, draw)


def curves(paired: Paired, histories: pd.DataFrame | None) -> list[Picture]:
    """Means after each epoch, of runs with several; `histories` has the columns run_id, name, step, value."""
    if histories is None or histories.empty:
        return []
    frame = histories.merge(paired.runs.drop(columns="score"), on="run_id")
    frame = frame[frame.groupby(["run_id", "name"])["step"].transform("nunique") > 1]

    def draw(part: pd.DataFrame) -> tuple[Figure, str]:
        grouped = part.groupby(["name", "method", "setting", "step"])["value"].mean()
        mean = grouped.reset_index().rename(columns={"step": "x", "value": "y"})
        tables = {name: mean[mean["name"] == name] for name in EPOCH_METRICS if (mean["name"] == name).any()}
        return charts.panels(tables, "epoch", deep=len(tables))

    return _panels("curves", frame, draw)


def reliability(calibration: Calibration | None) -> list[Picture]:
    """Accuracy against confidence, as trained and with a temperature."""
    if calibration is None:
        return []

    def draw(part: pd.DataFrame) -> tuple[Figure, str]:
        part = part.rename(columns={"confidence": "x", "accuracy": "y"})
        named = {"accuracy as trained": part[~part["scaled"]], "with a temperature": part[part["scaled"]]}
        return charts.panels(named, "confidence", diagonal=True)

    return _panels("calibration", calibration.reliability.astype({"scaled": bool}), draw)


# What the parts share


def _rows(
    part: str,
    table: pd.DataFrame,
    row: Callable[[dict], Row],
    what: str = "",
    judged: pd.DataFrame | None = None,
    zero: bool = True,
    band: bool = True,
) -> list[Picture]:
    """A picture for each family, or each task, model and initialisation; differences of all of a task on one axis.

    Args:
        what: of differences, whose unit the rows of `judged` tell; else the axis is the metric's.
        band: whether the margin is drawn, where the table has one.
    """
    pictures: list[Picture] = []
    if table.empty:
        return pictures
    table = table.assign(band=table["margin"] if band and "margin" in table else 0.0)
    for (task, model, metric), cell in table.groupby(["task", "model", "metric"], sort=False):
        apart = ["init", *(["protocol"] if "protocol" in cell else [])]
        drawn = [
            (names, [row(r) for r in some.to_dict("records")], float(some["band"].iloc[0]))
            for names, some in cell.groupby(apart, sort=False)
        ]
        every = [line for _, lines, _ in drawn for line in lines]
        for names, lines, margin in drawn:
            span = charts.extent(every if zero else lines, cell["band"].max(), zero)
            told = "; ".join(f"{line.label}: {line.note}" for line in lines)
            x_label = metric if judged is None else f"{what}{_unit(judged, task, metric)} ({metric})"
            figure = charts.rows(lines, x_label, span, margin, zero)
            pictures.append(_picture(part, [task, model, *names], figure, told, metric))
    return pictures


def _unit(judged: pd.DataFrame, task: str, metric: str) -> str:
    """What differences are counted in; of all tasks where none is named."""
    here = judged[(judged["metric"] == metric) & (judged["task"].eq(task) if task else True)]
    return unit(metric, here.to_dict("records"))


def _panels(part: str, frame: pd.DataFrame, draw: Callable[[pd.DataFrame], tuple[Figure, str]]) -> list[Picture]:
    """`draw` of each cell's rows gives a figure and its description."""
    cells = frame.groupby(["task", "model", "init"])
    return [_picture(part, names, *draw(cell)) for names, cell in cells]


def _picture(part: str, names: Sequence[str], figure: Figure, told: str, metric: str = "") -> Picture:
    name = "".join(letter if letter.isalnum() else "-" for letter in "-".join([part, *names, metric]))
    heading = " · ".join(filter(None, names))
    return Picture(heading, charts.svg(figure, name, f"{part}, {heading}", told))
