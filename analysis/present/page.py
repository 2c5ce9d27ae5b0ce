"""The page: the sections of an answer with pictures beside them, in one HTML file without scripts.

What its parts are called and say stands in templates/page.yaml, how it looks in templates/report.html.j2.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from analysis import trend
from analysis.present import pictures, render, wording
from analysis.present.again import again
from analysis.present.answer import Answer
from analysis.present.render import Section
from analysis.present.wording import GLYPHS, family_name
from labelreg.settings import RUN

SHARED = ("task", "model", "init", "metric", "split", "fitted_on", "design", "test")
MOST_ROWS = 300  # of a printed table; more are counted


def page(found: Answer, source: str, given: Sequence[tuple] = (), histories: pd.DataFrame | None = None) -> str:
    """The page as HTML: no script, no request, pictures inline. A part without data is one line with the reason.

    `source`: where the runs came from; `given`: the parameters of the command; `histories`: columns run_id, name, step,
    value.
    """
    paired, judged = found.paired, found.judged
    return render.filled(
        "report.html.j2",
        reference=paired.reference,
        headlines=[*wording.headlines(judged), *found.told("question")],
        families=[(family_name(rows[0]), wording.sentence(rows), rows) for rows in wording.families(judged)],
        methods=list(dict.fromkeys(judged["method"])),
        notes=[line for name in ("notes", "deciding", "read") for line in found.told(name)],
        parts=_parts(found, given, histories),
        source=source,
        margins=", ".join(sorted({f"±{margin:g}" for margin in judged["margin"]})),
        rule=found.rule,
        n_runs=len(paired.runs),
        n_left_out=len(paired.left_out),
        glyphs=GLYPHS,
        signed=render.signed,
        run=RUN,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _parts(found: Answer, given: Sequence[tuple], histories: pd.DataFrame | None) -> list[dict[str, Any]]:
    """What the template shows: the pictures of the verdicts first, then the sections of the answer, each with its
    picture; `missing` stands for what is not there."""
    judged, sections = found.judged, {section.name: section for section in found.sections}
    margin = float(judged["margin"].min()) if len(judged) else 0.0
    drawn = {
        "intervals": pictures.intervals(judged),
        "pairs": pictures.differences(judged),
        "scores": pictures.means(found.paired, margin),
        "these_tasks": pictures.effects(found.frame("these_tasks"), judged),
        "interaction": pictures.interaction(found.frame("interaction"), judged),
        "trend": pictures.trends(trend.by_size(found.paired, judged), judged),
        "calibration": pictures.reliability(found.measured),
        "curves": pictures.curves(found.paired, histories),
    }
    pasted = {"again": "\n".join(again(found.paired, found.runs, given))}
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
            seen = dict(lead=lead, lines=section.text, pictures=shown, caption=caption, table=table, paste=paste)
            parts.append({"name": name, "title": section.title, **seen})
        elif "missing" in told:
            parts.append({"name": name, "title": section.title, "missing": told["missing"]})
    return parts


def _table(section: Section, names: dict[str, str]) -> tuple[str, tuple | None]:
    """The caption (what all rows share is said there), and header, cells and which columns are numbers."""
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
