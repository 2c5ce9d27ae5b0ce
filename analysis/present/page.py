"""The page: the sections of an answer with pictures beside them, in one HTML file without scripts."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import pandas as pd

from analysis.present import pictures, render, wording
from analysis.present.again import again
from analysis.present.answer import Answer
from analysis.present.pictures import EPOCH_METRICS, Group
from analysis.present.render import Section
from analysis.present.wording import GLYPHS, Source, family_name

__all__ = ["EPOCH_METRICS", "page"]
TEMPLATES = Path(__file__).parent / "templates"
SHORT = {
    "mean_method": "mean",
    "mean_reference": "mean of reference",
    "mean_difference": "difference",
    "std_difference": "sd",
    "p_value": "p",
    "p_holm": "p (Holm)",
    "p_equivalence_holm": "p equivalent (Holm)",
    "min_p_value": "least p",
    "family_size": "family of",
    "times_reference": "times the reference",
}
SHARED = ("task", "model", "init", "metric", "split", "fitted_on", "design", "test")
MOST_ROWS = 300  # of a printed table; more are counted
LEADS = {
    "pairs": "Each bar is one seed: the method's score minus the reference's with the same seed; seeds stand in the "
    "same order in every row. Bars to the right of 0: the method was ahead.",
    "scores": "Ticks are single seeds, the marker is their mean, the bar one standard deviation to either side, as in "
    "figure 1 of the paper. Overlapping bars say little of paired runs: the differences do.",
    "curves": "Means over the seeds, after each epoch.",
    "calibration": "Accuracy against confidence in bins of equal mass, all seeds together; on the dashed line a model "
    "is as often right as it says, below it too sure.",
    "cost": "Mean score against mean training seconds of one run. Joined to it and hollow: with the seconds of the "
    "teacher, which is trained once for all seeds. Seconds compare only where the runs had the same machine.",
    "again": "From a clone of the project, with the data and checkpoints that the settings name.",
    "methods": "Text for a paper, to be copied.",
}
MISSING = {
    "curves": "no run has logged more than one epoch",
    "examples": "predictions are in a store, not in a table of scores",
    "calibration": "predictions are in a store, not in a table of scores",
    "cost": "no run logged cost/train_seconds",
}


@dataclass(frozen=True)
class Table:
    """Cells as text; `numeric` says which columns stand to the right."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    numeric: list[bool]


@dataclass(frozen=True)
class Part:
    """One part of the page; `missing` is the line that stands for a part without data."""

    name: str
    title: str
    lead: str = ""
    lines: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    tables: tuple[Table, ...] = ()
    paste: str = ""
    missing: str = ""


def page(found: Answer, source: Source, histories: pd.DataFrame | None = None) -> str:
    """The page as HTML: no script, no request, pictures inline. A part without data is one line with the reason.

    `histories`: columns run_id, name, step, value.
    """
    paired, judged = found.paired, found.judged
    families = defaultdict(list)
    for row in judged.to_dict("records"):
        families[row["task"], row["model"], row["init"], row["metric"], row["protocol"]].append(row)
    said = {section.name: section.text for section in found.sections}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        reference=paired.reference,
        headlines=[*wording.headlines(judged), *said.get("question", ())],
        verdicts=[(family_name(members[0]), wording.sentence(members)) for members in families.values()],
        notes=[*said.get("notes", ()), *said.get("deciding", ()), *said.get("read", ())],
        matrix=_matrix(list(families.values())),
        tested=wording.TESTED if families else "",
        parts=_parts(found, source, histories),
        source=source.name,
        margins=", ".join(sorted({f"±{margin:g}" for margin in judged["margin"]})),
        rule=found.rule,
        n_runs=len(paired.runs),
        n_left_out=len(paired.left_out),
        glyphs=GLYPHS,
        signed=render.signed,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _parts(found: Answer, source: Source, histories: pd.DataFrame | None) -> list[Part]:
    """The pictures of the verdicts first, then the sections of the answer, each with its picture."""
    judged, sections = found.judged, {section.name: section for section in found.sections}
    drawn = {
        "intervals": pictures.intervals(judged),
        "pairs": pictures.differences(judged),
        "scores": pictures.means(found.paired, found.runs),
        "these_tasks": pictures.effects(found.frame("these_tasks")),
        "interaction": pictures.interaction(found.frame("interaction")),
        "calibration": pictures.reliability(found.measured),
        "cost": pictures.costs(found.frame("cost"), found.paired),
        "curves": pictures.curves(found.paired, histories),
    }
    titles = {"intervals": "Estimates, intervals, margin", "pairs": "Paired differences", "curves": "Learning curves"}
    titles |= {"examples": "New seeds and new examples", "calibration": "Calibration", "cost": "Cost against score"}
    order = ["intervals", "pairs", "scores", "these_tasks", "across", "interaction", "comparisons", "examples"]
    order += ["calibration", "cost", "curves", "details", "plan", "left_out"]
    parts = []
    for name in order:
        section = sections.get(name, Section(name, titles.get(name, "")))
        part = _part(section, drawn.get(name, ()))
        if part.groups or part.tables or part.lines:
            parts.append(part)
        elif name in MISSING:
            parts.append(Part(name, section.title or titles[name], missing=MISSING[name]))
    if len(judged):
        told = "\n\n".join(wording.methods_section(found.paired, judged, found.runs, found.rule))
        parts.append(Part("methods", "Methods section", LEADS["methods"], paste=told))
    commands = "\n".join(again(found.paired, found.runs, source.given))
    return [*parts, Part("again", "How to run it again", LEADS["again"], paste=commands)]


def _part(section: Section, groups: Sequence[Group]) -> Part:
    lead = pictures.LEAD_OF_INTERVALS if section.name == "intervals" else LEADS.get(section.name, "")
    frame = section.shown()
    tables = () if frame is None else (_table(section.title, frame),)
    return Part(section.name, section.title, lead if groups else "", section.text, tuple(groups), tables)


def _matrix(families: list[list[dict]]) -> dict | None:
    """Families by methods, the verdicts at one glance; None where there is one family only."""
    methods = list(dict.fromkeys(row["method"] for members in families for row in members))
    if len(families) < 2:
        return None
    rows = []
    for members in families:
        cells = [[row for row in members if row["method"] == method] for method in methods]
        rows.append((family_name(members[0]), cells))
    return {"methods": methods, "rows": rows}


def _table(caption: str, frame: pd.DataFrame) -> Table:
    """The frame's cells as text: no row beyond MOST_ROWS; a name that all rows share is said once."""
    shared = [name for name in SHARED if name in frame and len(frame) > 1 and frame[name].nunique() == 1]
    if shared:
        caption += f". Throughout: {', '.join(f'{name} {frame[name].iloc[0]}' for name in shared)}"
    header, rows, numeric = render.cells(frame.drop(columns=shared).head(MOST_ROWS))
    if len(frame) > MOST_ROWS:
        caption += f". The first {MOST_ROWS} of {len(frame):,} rows"
    return Table(caption, [SHORT.get(name, name.replace("_", " ")) for name in header], rows, numeric)
