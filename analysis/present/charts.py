"""How pictures are drawn: matplotlib's SVG, 1:1 at a phone's width, in the colours of the page's CSS variables.

The colours that matplotlib draws in are those of the page in the light, and `svg` replaces each by `var(--role)`: a
picture follows the page into the dark and onto paper. Methods differ in colour (Okabe and Ito 2008) and in marker.
"""

import html
import io
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.pairing import METHODS, method_rank
from analysis.present.figures import COLOURS, MARKERS, plain_text
from analysis.present.render import TEMPLATES
from analysis.present.wording import label
from labelreg.methods import AVERAGES, parted

WIDTH, WIDE = 340, 680  # px of panels and of rows; the text of a picture is 10 px where it is shown as wide as this
NAMES, NOTES, BELOW = 158, 178, 40  # px beside and below the axis of rows
ROW, LINE = 24, 14  # px of a row, at least, and of a line of its name
PER_POINT = 3.5  # px between the single differences of a row
INK, MUTED, GRID, BAND = "#1b1f24", "#59636e", "#d8dee4", "#e3eefa"
ROLES = dict(zip((INK, MUTED, GRID, BAND), ("ink", "muted", "grid", "band"), strict=True))
ROLES |= {colour.lower(): f"method-{i}" for i, colour in enumerate(COLOURS)}
NOISE = r' id="[a-zA-Z][\w.]*_\d+"|<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->'
styled = rc_context(fname=TEMPLATES / "page.mplstyle")  # around what draws


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


DASHES = ("-", "--", ":", "-.")


def look(method: str) -> dict[str, Any]:
    """Colour and marker of a method: of the known ones, with averaged weights or without, each its own pair."""
    rank, _ = method_rank(method)
    own = sum(map(ord, method)) % len(COLOURS) if rank == len(METHODS) else 0
    nth = rank + own + len(METHODS) * ("none", *AVERAGES).index(parted(method)[1])
    again, at = divmod(nth, len(COLOURS))
    return {"color": COLOURS[at], "marker": MARKERS[(at + again) % len(MARKERS)]}


@styled
def svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an inline `<svg>`, with `title` and `description` for those who do not see it.

    `name` makes the ids of this picture its own on the page.
    """
    file = io.StringIO()
    with rc_context({"svg.hashsalt": name}), plain_text():
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(NOISE, "", file.getvalue(), flags=re.S).replace("xlink:href", "href")
    for colour, role in ROLES.items():
        text = text.replace(colour, f"var(--{role})")
    width, box = figure.get_figwidth() * 72, re.findall(r'viewBox="([^"]*)"', text)[0]
    opening = (
        f'<svg class="chart{" wide" if width > WIDTH else ""}" role="img" aria-labelledby="{name}-title {name}-desc" '
        f'style="max-width:{1.25 * width:.0f}px" viewBox="{box}">'
        f'<title id="{name}-title">{html.escape(title)}</title><desc id="{name}-desc">{html.escape(description)}</desc>'
    )
    return opening + text[text.index(">", text.index("<svg")) + 1 :].strip()


@styled
def rows(
    lines: Sequence[Row], x_label: str, span: tuple[float, float], margin: float = 0.0, zero: bool = True
) -> Figure:
    """Names at the left, intervals or single values on one axis of this `span`, notes at the right.

    margin: shaded about 0, where it is not 0. zero: draw 0, and single values as bars from it.
    """
    count = max((len(line.points) for line in lines), default=0) if zero else 0
    labels = [textwrap.wrap(line.label, 26) for line in lines]
    height = max(ROW, PER_POINT * count + 6, LINE * max(map(len, labels), default=0))
    total = height * len(lines) + 4 + BELOW
    figure = Figure(figsize=(WIDE / 72, total / 72))
    axes = figure.add_axes((NAMES / WIDE, BELOW / total, 1 - (NAMES + NOTES) / WIDE, 1 - BELOW / total))
    axes.set(xlim=span, ylim=(height * len(lines) + 4, 0), yticks=[], xlabel=x_label)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    if margin:
        axes.axvspan(-margin, margin, color=BAND, linewidth=0, zorder=0)
    if zero:
        axes.axvline(0, color=MUTED, linewidth=1)
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
    for at, (line, wrapped) in enumerate(zip(lines, labels, strict=True)):
        middle = at * height + height / 2
        axes.text(-0.03, middle, "\n".join(wrapped), ha="right", fontsize=10, **beside)
        axes.text(1.03, middle, line.note, ha="left", fontsize=9, **beside)
        if zero and line.points:
            _bars(axes, line, at * height + (height - PER_POINT * (len(line.points) + 1)) / 2)
        elif not math.isnan(line.centre):
            _interval(axes, line, middle, *span)
    return figure


def extent(lines: Sequence[Row], margin: float = 0.0, zero: bool = True) -> tuple[float, float]:
    """The axis that shows everything bounded."""
    values = [v for line in lines for v in (line.centre, line.low, line.high, *line.points) if math.isfinite(v)]
    values += [-1.2 * margin, 1.2 * margin] if zero else []
    low, high = min(values, default=-1.0), max(values, default=1.0)
    pad = 0.06 * (high - low) or 0.5
    return low - pad, high + pad


def _bars(axes: Axes, line: Row, top: float) -> None:
    y = [top + PER_POINT * (i + 1) for i in range(len(line.points))]
    style = look(line.method)
    axes.hlines(y, 0, line.points, color=style["color"], linewidth=1.4)
    axes.plot(line.points, y, linestyle="", markersize=3.2, markeredgewidth=0, **style)


def _interval(axes: Axes, line: Row, y: float, low: float, high: float) -> None:
    style = look(line.method)
    axes.plot(line.points, [y] * len(line.points), "|", color=MUTED, markersize=9, markeredgewidth=0.9)
    ends = max(line.low, low), min(line.high, high)
    axes.plot(ends, [y, y], color=style["color"], linewidth=2.4, solid_capstyle="butt")
    for end, bound, arrow in ((line.low, low, "<"), (line.high, high, ">")):
        if not low <= end <= high:
            axes.plot([bound], [y], arrow, color=style["color"], markersize=6, markeredgewidth=0, clip_on=False)
    axes.plot([line.centre], [y], markersize=7.5, markeredgecolor=INK, markeredgewidth=0.7, **style)


@styled
def panels(tables: dict[str, pd.DataFrame], x_label: str, deep: int = 1, diagonal: bool = False) -> tuple[Figure, str]:
    """A line for each method and setting, a panel for each table (columns method, setting, x, y; with low and high
    intervals of differences, over doublings of x), `deep` below each other, with one legend; and the figure in words.
    The tables' keys are the labels of y."""
    across = len(tables) // deep
    figure = Figure(figsize=(WIDTH / 72, (60 + 180 * deep) / 72), layout="constrained")
    drawn, told, dashes = {}, [], dict[str, tuple[dict, str]]()
    for at, (y_label, table) in enumerate(tables.items()):
        axes = figure.add_subplot(deep, across, at + 1)
        if diagonal:
            low = table[["x", "y"]].min(axis=None) - 0.03
            axes.plot([low, 1], [low, 1], color=MUTED, linewidth=1, linestyle="--")
            axes.set(xlim=(low, 1.02), ylim=(low, 1.02))
        doublings = "low" in table
        lines = sorted(table.groupby(["method", "setting"]), key=lambda item: (method_rank(item[0][0]), item[0]))
        for nth, ((method, setting), line) in enumerate(lines):
            name = label({"method": method, "setting": setting})
            same = [other for other in dashes if other != name and dashes[other][0] == look(method)]
            dashes.setdefault(name, (look(method), DASHES[len(same) % len(DASHES)]))  # settings of a method look alike
            style = look(method) | {"linestyle": dashes[name][1]} | ({} if len(line) <= 20 else {"marker": ""})
            style |= {"linewidth": 1.5, "markersize": 4 if len(line) > 1 else 7, "markeredgewidth": 0}
            x = line["x"] * 1.05**nth if doublings else line["x"]  # side by side
            if doublings:
                axes.vlines(x, line["low"], line["high"], color=style["color"], linewidth=1)
            (drawn[name],) = axes.plot(x, line["y"], label=name, **style)
            told.append(f"{y_label} over {x_label}, {name}: {line['y'].iloc[0]:.3g} to {line['y'].iloc[-1]:.3g}")
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=bool((table["x"] % 1 == 0).all())))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if doublings:
            axes.axhline(0, color=MUTED, linewidth=1)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sorted(set(table["x"])), [f"{x:,}" for x in sorted(set(table["x"]))], minor=False)
        axes.grid()
    longest = max(map(len, drawn), default=0)
    columns = 4 if longest <= 8 else 2 if longest <= 26 else 1
    figure.legend(handles=list(drawn.values()), loc="outside lower center", ncols=columns, columnspacing=1.2)
    return figure, "; ".join(told)
