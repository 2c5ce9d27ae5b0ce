"""The page: the sections of an answer with pictures beside them, in one HTML file without scripts.

What its parts are called and say stands in templates/page.yaml, how it looks in templates/report.html.j2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd

from analysis import trend
from analysis.present import pictures, render, wording
from analysis.present.again import again
from analysis.present.answer import Answer
from analysis.present.pictures import EPOCH_METRICS, Picture
from analysis.present.render import Section
from analysis.present.wording import GLYPHS, Source, family_name
from labelreg.settings import RUN

__all__ = ["EPOCH_METRICS", "page"]
SHARED = ("task", "model", "init", "metric", "split", "fitted_on", "design", "test")
MOST_ROWS = 300  # of a printed table; more are counted


@dataclass(frozen=True)
class Part:
    """One part of the page; a table is header, cells and which columns are numbers; `missing` stands for what is not
    there."""

    name: str
    title: str
    lead: str = ""
    lines: tuple[str, ...] = ()
    pictures: Sequence[Picture] = ()
    caption: str = ""
    table: tuple[list[str], list[list[str]], list[bool]] | None = None
    paste: str = ""
    missing: str = ""


def page(found: Answer, source: Source, histories: pd.DataFrame | None = None) -> str:
    """The page as HTML: no script, no request, pictures inline. A part without data is one line with the reason.

    `histories`: columns run_id, name, step, value.
    """
    paired, judged = found.paired, found.judged
    said = {section.name: section.text for section in found.sections}
    return render.filled(
        "report.html.j2",
        reference=paired.reference,
        headlines=[*wording.headlines(judged), *said.get("question", ())],
        families=[(family_name(rows[0]), wording.sentence(rows), rows) for rows in wording.families(judged)],
        methods=list(dict.fromkeys(judged["method"])),
        notes=[*said.get("notes", ()), *said.get("deciding", ()), *said.get("read", ())],
        parts=_parts(found, source, histories),
        source=source.name,
        margins=", ".join(sorted({f"±{margin:g}" for margin in judged["margin"]})),
        rule=found.rule,
        n_runs=len(paired.runs),
        n_left_out=len(paired.left_out),
        glyphs=GLYPHS,
        signed=render.signed,
        run=RUN,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _parts(found: Answer, source: Source, histories: pd.DataFrame | None) -> list[Part]:
    """The pictures of the verdicts first, then the sections of the answer, each with its picture."""
    judged, sections = found.judged, {section.name: section for section in found.sections}
    drawn = {
        "intervals": pictures.intervals(judged),
        "pairs": pictures.differences(judged),
        "scores": pictures.means(found.paired),
        "these_tasks": pictures.effects(found.frame("these_tasks")),
        "interaction": pictures.interaction(found.frame("interaction")),
        "trend": pictures.trends(trend.by_size(found.paired, judged)),
        "calibration": pictures.reliability(found.measured),
        "curves": pictures.curves(found.paired, histories),
    }
    pasted = {"again": "\n".join(again(found.paired, found.runs, source.given))}
    if len(judged):
        pasted["methods"] = wording.methods_section(found.paired, judged, found.runs, found.rule)
    known = render.declared("page.yaml")
    parts = []
    for name, told in known["parts"].items():
        told = told or {}
        section = sections.get(name, Section(name, told.get("title", "")))
        caption, table = _table(section, known["columns"])
        shown, paste = drawn.get(name, ()), pasted.get(name, "")
        lead = told.get("lead", "") if shown or paste else ""
        if shown or paste or table or section.text:
            parts.append(Part(name, section.title, lead, section.text, shown, caption, table, paste))
        elif "missing" in told:
            parts.append(Part(name, section.title, missing=told["missing"]))
    return parts


def _table(section: Section, names: dict[str, str]) -> tuple[str, tuple | None]:
    """The section's frame as text under its caption: no row beyond MOST_ROWS; what all rows share is said once."""
    frame, caption = section.shown(), section.title
    if frame is None:
        return "", None
    shared = [name for name in SHARED if name in frame and len(frame) > 1 and frame[name].nunique() == 1]
    if shared:
        caption += f". Throughout: {', '.join(f'{name} {frame[name].iloc[0]}' for name in shared)}"
    header, rows, numeric = render.cells(frame.drop(columns=shared).head(MOST_ROWS), section.digits)
    if len(frame) > MOST_ROWS:
        caption += f". The first {MOST_ROWS} of {len(frame):,} rows"
    return caption, ([names.get(name, name.replace("_", " ")) for name in header], rows, numeric)
