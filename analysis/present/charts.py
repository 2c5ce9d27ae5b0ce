"""Pictures for a page: matplotlib's SVG, 1:1 at a phone's width, in the colours of the page's CSS variables.

The colours that matplotlib draws in are placeholders, which `svg` replaces by `var(--role)`: a picture
follows the page into the dark and onto paper. Methods differ in colour (Okabe and Ito 2008) and in marker.
"""

import html
import io
import math
import re
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.pairing import METHODS, method_rank
from analysis.present.figures import COLOURS, plain_text

WIDTH = 340  # px; the text of a picture is 10 px where it is shown as wide as this
WIDE, NAMES, NOTES = 680, 150, 170  # px of a picture of rows, and of the names and notes at its sides
SIDE, BELOW = 12, 40  # px beside and below an axis
ROW = 24  # px of a row
PER_POINT = 3.5  # px between the single differences of a row
COLOURED = 8  # colours of methods, of which the paper's six have one each
ROLES = ("ink", "muted", "grid", "band", "paper", *(f"method-{i}" for i in range(COLOURED)))
PLACEHOLDER = {role: f"#fa{i:02x}ce" for i, role in enumerate(ROLES)}
MARKERS = "osD^vPX*"
INK, MUTED, GRID, BAND, PAPER = (PLACEHOLDER[role] for role in ROLES[:5])
# colours of figures that are drawn elsewhere
OTHERWISE = {"#000000": "ink", "#ffffff": "paper", "#888888": "muted"} | {
    colour.lower(): f"method-{i}" for i, colour in enumerate(COLOURS[1:], 1)
}
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a $ in a name too
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.labelsize": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.labelcolor": INK,
}


@dataclass(frozen=True)
class Row:
    """One line of `rows`: a name, a note at the right, a centre with its interval, and single values."""

    label: str
    note: str
    method: str
    centre: float
    low: float
    high: float
    points: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of `panels`: a name, the method that gives colour and marker, and its points."""

    label: str
    method: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """One axis of `panels`."""

    lines: tuple[Line, ...]
    x_label: str
    y_label: str
    whole: bool = False  # x counts
    diagonal: bool = False


def styled() -> AbstractContextManager[None]:
    """A context in which figures that others draw have these colours too."""
    return rc_context(STYLE)


def look(method: str) -> dict[str, Any]:
    """Colour and marker of a method: of the known ones, each its own pair."""
    rank, _ = method_rank(method)
    nth = rank + (sum(map(ord, method)) % COLOURED if rank == len(METHODS) or "+" in method else 0)
    return {"color": PLACEHOLDER[f"method-{nth % COLOURED}"], "marker": MARKERS[(nth + nth // COLOURED) % COLOURED]}


def svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an inline `<svg>`, with `title` and `description` for those who do not see it.

    `name` makes the ids of this picture its own on the page.
    """
    file = io.StringIO()
    with (
        rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
        plain_text(),
    ):  # the reader's fonts have all letters
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r' id="[a-zA-Z][\w.]*_\d+"', "", text)
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"-?\d+\.\d{3,}", _shorter, tag[0]), text)  # not the words between
    text = re.sub(r"font: ((?:\d+ )?[\d.]+px)[^;\"]*", r"font: \1 var(--sans)", text)
    for role, colour in PLACEHOLDER.items():
        text = text.replace(colour, f"var(--{role})")
    for colour, role in OTHERWISE.items():
        text = text.replace(colour, f"var(--{role})")
    text = text.replace("xlink:href", "href")
    width, box = figure.get_figwidth() * 72, re.findall(r'viewBox="([^"]*)"', text)[0]
    opening = (
        f'<svg class="chart{" wide" if width > WIDTH else ""}" role="img" aria-labelledby="{name}-title {name}-desc" '
        f'style="max-width:{1.25 * width:.0f}px" viewBox="{box}">'
        f'<title id="{name}-title">{html.escape(title)}</title><desc id="{name}-desc">{html.escape(description)}</desc>'
    )
    body = text[text.index(">", text.index("<svg")) + 1 :]
    return opening + re.sub(r"\s*\n\s*", "\n", body).strip()


def _shorter(number: re.Match) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def rows(
    lines: Sequence[Row], x_label: str, margin: float | None = None, zero: bool = True, span: tuple | None = None
) -> Figure:
    """Names at the left, intervals or single values on one axis, notes at the right.

    margin: shaded about 0. zero: draw 0, and single values as bars from it. span: (low, high) of the axis.
    """
    count = max((len(line.points) for line in lines), default=0) if zero else 0
    height = max(ROW, PER_POINT * count + 6)
    total = height * len(lines) + 4 + BELOW
    with styled():
        figure = Figure(figsize=(WIDE / 72, total / 72))
        left, right = (NAMES + 8) / WIDE, 1 - (NOTES + 8) / WIDE
        axes = figure.add_axes((left, BELOW / total, right - left, 1 - BELOW / total))
        low, high = span or extent(lines, margin, zero)
        axes.set(xlim=(low, high), ylim=(height * len(lines) + 4, 0), yticks=[], xlabel=x_label)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        if margin:
            axes.axvspan(-margin, margin, color=BAND, linewidth=0, zorder=0)
        if zero:
            axes.axvline(0, color=MUTED, linewidth=1)
        beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
        for at, line in enumerate(lines):
            middle = at * height + height / 2
            axes.text(-0.03, middle, _folded(line.label), ha="right", fontsize=10, **beside)
            axes.text(1.03, middle, line.note, ha="left", fontsize=9, **beside)
            if zero and line.points:
                _bars(axes, line, at * height + (height - PER_POINT * (len(line.points) + 1)) / 2)
            else:
                _interval(axes, line, middle, low, high)
    return figure


def _folded(name: str) -> str:
    """A name that is longer than its place, on several lines."""
    return "\n".join(textwrap.wrap(name, 26)) or name


def extent(lines: Sequence[Row], margin: float | None = None, zero: bool = True) -> tuple[float, float]:
    """The axis that shows everything bounded."""
    values = [v for line in lines for v in (line.centre, line.low, line.high, *line.points) if math.isfinite(v)]
    values += ([0.0] if zero else []) + ([-1.2 * margin, 1.2 * margin] if margin else [])
    low, high = min(values, default=-1.0), max(values, default=1.0)
    pad = 0.06 * (high - low) or 0.5
    return low - pad, high + pad


def _bars(axes: Axes, line: Row, top: float) -> None:
    y = [top + PER_POINT * (i + 1) for i in range(len(line.points))]
    style = look(line.method)
    axes.hlines(y, 0, line.points, color=style["color"], linewidth=1.4)
    axes.plot(line.points, y, linestyle="", markersize=3.2, markeredgewidth=0, **style)


def _interval(axes: Axes, line: Row, y: float, low: float, high: float) -> None:
    if math.isnan(line.centre):
        return
    style = look(line.method)
    if line.points:
        axes.plot(line.points, [y] * len(line.points), "|", color=MUTED, markersize=9, markeredgewidth=0.9)
    ends = max(line.low, low), min(line.high, high)
    axes.plot(ends, [y, y], color=style["color"], linewidth=2.4, solid_capstyle="butt")
    for end, bound, arrow in ((line.low, low, "<"), (line.high, high, ">")):
        if not low <= end <= high:
            axes.plot([bound], [y], arrow, color=style["color"], markersize=6, markeredgewidth=0, clip_on=False)
    if math.isfinite(line.centre):
        axes.plot([line.centre], [y], markersize=7.5, markeredgecolor=INK, markeredgewidth=0.7, **style)


def panels(these: Sequence[Panel], across: bool = False) -> Figure:
    """Lines on one axis or several, below each other or `across`, with one legend below."""
    entries = {line.label: line.method for panel in these for line in panel.lines}
    longest = max(map(len, entries), default=0)
    columns = 4 if longest <= 8 else 3 if longest <= 14 else 2 if longest <= 26 else 1
    legend = 8 + 16 * math.ceil(len(entries) / columns)
    left, gap, axis_height = 46, 44, 150
    deep = 1 if across else len(these)
    total = deep * (axis_height + gap) + legend + 6
    width = (WIDTH - left - SIDE - (len(these) - 1) * 14) / len(these) if across else WIDTH - left - SIDE
    with styled():
        figure = Figure(figsize=(WIDTH / 72, total / 72))
        for i, panel in enumerate(these):
            x = left + (i * (width + 14) if across else 0)
            bottom = legend + gap - 6 + (0 if across else (deep - 1 - i) * (axis_height + gap))
            axes = figure.add_axes((x / WIDTH, bottom / total, width / WIDTH, axis_height / total))
            _panel(axes, panel, named=not (across and i))
        handles = [
            Line2D([], [], label=name, markersize=5.5, linewidth=1.5, **look(method))
            for name, method in entries.items()
        ]
        figure.legend(handles=handles, loc="lower center", ncols=columns, borderaxespad=0.2, columnspacing=1.2)
    return figure


def _panel(axes: Axes, panel: Panel, named: bool) -> None:
    if panel.diagonal:
        values = [v for line in panel.lines for v in (*line.x, *line.y)]
        low = min(values, default=0.0) - 0.03
        axes.plot([low, 1], [low, 1], color=MUTED, linewidth=1, linestyle="--")
        axes.set(xlim=(low, 1.02), ylim=(low, 1.02))
    dots = not panel.lines or len(panel.lines[0].x) <= 20
    for line in panel.lines:
        style = look(line.method) | ({} if dots else {"marker": ""})
        axes.plot(line.x, line.y, linewidth=1.5, markersize=4, markeredgewidth=0, alpha=0.9, **style)
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label if named else "")
    axes.tick_params(labelleft=named)
    axes.xaxis.set_major_locator(MaxNLocator(5 if named else 4, integer=panel.whole))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid()
    axes.set_axisbelow(True)


def costs(table: pd.DataFrame, y_label: str) -> Figure:
    """Score against seconds; hollow and joined to it: with the seconds of the teacher.

    `table`: label, method, score, train_seconds, total_seconds, one row per method.
    """
    found = table.to_dict("records")
    lines = tuple(Line(row["label"], row["method"], (row["train_seconds"],), (row["score"],)) for row in found)
    figure = panels([Panel(lines, "seconds per run", y_label)])
    axes = figure.axes[0]
    for row in found:
        if row["total_seconds"] > row["train_seconds"]:
            style = look(row["method"])
            ends = (row["train_seconds"], row["total_seconds"])
            axes.plot(ends, [row["score"]] * 2, color=style["color"], linewidth=1, linestyle=":")
            axes.plot(ends[1:], [row["score"]], markersize=6.5, markerfacecolor="none", markeredgewidth=1.3, **style)
    for line in axes.lines[: len(found)]:
        line.set_markersize(7)
    axes.margins(0.08, 0.15)
    return figure
