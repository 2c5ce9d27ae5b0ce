"""The page: question, verdicts, pictures, tables and a methods section, in one HTML file without scripts."""

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import pandas as pd

from analysis import across, calibration, examples
from analysis.pairing import Paired
from analysis.predictions import Predictions
from analysis.present import paper_tables, sections, tables, wording
from analysis.present.again import again
from analysis.present.sections import EPOCH_METRICS, Section, Table
from analysis.present.wording import GLYPHS, Design, family_name

__all__ = ["EPOCH_METRICS", "Design", "Evidence", "page"]
TEMPLATES = Path(__file__).parent / "templates"
COMPARED = [
    *("task", "model", "init", "method", "setting", "look", "n", "mean_method", "mean_reference", "mean_difference"),
    *("std_difference", "estimate", "low", "high", "p_value", "p_holm", "p_holm_study", "p_equivalence_holm"),
    *("min_p_value", "verdict", "seeds_needed", "not_learnt", "not_learnt_reference"),
]
BOTH_CHANCES = [
    *("task", "model", "init", "method", "setting", "design", "n_seeds", "n_examples", "difference", "low", "high"),
    *("share_seeds", "share_examples", "share_both", "dominates", "p_mcnemar"),
]
SHORT = {
    "mean_method": "mean",
    "mean_reference": "mean of reference",
    "mean_difference": "difference",
    "std_difference": "sd",
    "p_value": "p",
    "p_holm": "p (Holm)",
    "p_holm_study": "p (Holm, all rows)",
    "p_equivalence_holm": "p equivalent (Holm)",
    "min_p_value": "least p",
    "times_reference": "times the reference",
}
SHARED = ("task", "model", "init", "metric", "split", "fitted_on", "design")
MOST_ROWS = 300  # of a printed table; more are counted
NO_STORE = "predictions are in a store, not in a table of scores"


@dataclass(frozen=True)
class Evidence:
    """What a store adds to scores; None where there is none.

    runs: as given to `pair`. histories: columns run_id, name, step, value. predictions: as analysis.predictions
    takes them. plan: what is said of the study's plan. remarks: what is said of a table of scores.
    """

    runs: pd.DataFrame
    histories: pd.DataFrame | None = None
    predictions: Predictions | None = None
    plan: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def page(paired: Paired, judged: pd.DataFrame, evidence: Evidence, design: Design) -> str:
    """The page as HTML: no script, no request, pictures inline.

    `judged` is what `tables.judge` made of `paired`. A part without data is one line with the reason.
    """
    families = defaultdict(list)
    for row in judged.to_dict("records"):
        families[row["task"], row["model"], row["init"], row["metric"], row["protocol"]].append(row)
    between = across.interaction(paired)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        reference=paired.reference,
        headlines=wording.headlines(judged)
        + wording.interaction_headline(between, design.level)
        + tables.remarks(judged)
        + list(evidence.remarks),
        verdicts=[(family_name(members[0]), wording.sentence(members)) for members in families.values()],
        matrix=_matrix(list(families.values())),
        tested=tables.TESTED if families else "",
        sections=_sections(paired, judged, between, evidence, design),
        design=design,
        n_runs=len(paired.runs),
        n_left_out=len(paired.left_out),
        glyphs=GLYPHS,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _sections(
    paired: Paired, judged: pd.DataFrame, between: pd.DataFrame, evidence: Evidence, design: Design
) -> list[Section]:
    return [
        sections.means(paired, paper_tables.scores(evidence.runs, paired)),
        sections.differences(judged),
        sections.intervals(judged),
        sections.interaction(
            between,
            across.interaction_lines(between, paired, design.level),
            across.directions(paired) + tables.not_learnt_cells(paired),
        ),
        _across(paired, evidence, design),
        sections.curves(paired, evidence.histories),
        _calibration(paired, evidence, design),
        _examples(paired, evidence),
        _costs(paired, evidence),
        _tables(paired, judged),
        _methods(paired, judged, evidence, design),
        Section(
            "again",
            "How to run it again",
            "From a clone of the project, with the data and checkpoints that the settings name.",
            paste="\n".join(again(paired, evidence.runs, design)),
        ),
    ]


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


def _across(paired: Paired, evidence: Evidence, design: Design) -> Section:
    section = Section(
        "across",
        "Across tasks",
        "A task counts once, with its mean over seeds. The marker is the random-effects mean of the difference over "
        "tasks, the bar its 95% interval.",
    )
    one = across.one_metric(evidence.runs, paired)
    against = across.against_reference(one)
    if against.empty:
        return replace(section, missing="there are not two tasks with the same model, initialisation and metric")
    lines = across.directions(one) + across.across_lines(across.friedman(one), against.head(0), design.level)
    lines += tables.not_learnt_cells(paired)
    columns = ["model", "init", "metric", "method", "n_tasks", "mean_difference", "p_value", "p_holm", "min_p_holm"]
    columns += ["effect", "effect_low", "effect_high", "tau"]
    table = _table("Each method against the reference over tasks.", against[columns])
    return sections.effects(replace(section, lines=tuple(lines), tables=(table,)), against)


def _calibration(paired: Paired, evidence: Evidence, design: Design) -> Section:
    if evidence.predictions is None:
        return sections.reliability(None)
    found = calibration.calibrate(paired, evidence.predictions)
    section = sections.reliability(found)
    if section.missing:
        return section
    told = calibration.lines(calibration.differences(paired, found), design.level)
    table = _table("Means over seeds, as trained and with a temperature fitted on dev.", calibration.methods(found))
    lines = _table("Does a method still help when the reference is scaled?", pd.DataFrame({"comparison": told}))
    return replace(section, tables=(table, lines))


def _examples(paired: Paired, evidence: Evidence) -> Section:
    section = Section(
        "examples",
        "New seeds and new examples",
        "The intervals above are for new seeds on these test examples. Here both are drawn anew: a paired bootstrap of "
        "seeds and examples, its 95% interval, and which of the two the variance comes from.",
    )
    if evidence.predictions is None:
        return replace(section, missing=NO_STORE)
    table, left = examples.bootstrap(paired, evidence.predictions)
    lines = wording.left_out_lines(left)
    if table.empty:
        why = f" ({lines[0].rstrip('.')})" if lines else ""
        return replace(section, missing=f"no pair has predictions that can be read{why}")
    return replace(section, lines=lines, tables=(_table("Differences in points.", table[BOTH_CHANCES]),))


def _costs(paired: Paired, evidence: Evidence) -> Section:
    if evidence.histories is None:
        return sections.costs(None, "")
    metrics = list(dict.fromkeys(paired.runs["metric"]))
    table = calibration.costs(paired, evidence.runs)
    section = sections.costs(table, metrics[0] if len(metrics) == 1 else "score")
    if section.missing:
        return section
    return replace(
        section, tables=(_table("Means over runs.", table.sort_values(["task", "model", "init"], kind="stable")),)
    )


def _tables(paired: Paired, judged: pd.DataFrame) -> Section:
    found = [
        _table("Mean and standard deviation of the scores over seeds.", tables.scores(paired)),
        _table(
            f"Every method against {paired.reference}; low and high belong to the Hodges-Lehmann estimate.",
            judged[[name for name in COMPARED if not name.startswith("not_learnt") or judged[name].any()]],
        ),
        _table("Why each verdict: the sentences of significance.", _verdict_lines(judged)),
        _table("Runs without a part in any comparison.", paired.left_out),
    ]
    shown = tuple(table for table in found if table.rows)
    return Section("tables", "Tables", tables=shown, missing="" if shown else "there is no run")


def _verdict_lines(judged: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"comparison": tables.verdict_lines(judged)})


def _table(caption: str, frame: pd.DataFrame) -> Table:
    """The frame's cells as text: no empty column, no row beyond MOST_ROWS; a name that all rows share is said once."""
    empty = [name for name in frame.columns if (frame[name].isna() | frame[name].eq("")).all()]
    shared = [name for name in SHARED if name in frame and name not in empty and len(frame) > 1]
    shared = [name for name in shared if frame[name].nunique() == 1]
    if shared:
        caption += f" Throughout: {', '.join(f'{name} {frame[name].iloc[0]}' for name in shared)}."
    header, rows, numeric = tables.cells(frame.drop(columns=[*empty, *shared]).head(MOST_ROWS))
    if len(frame) > MOST_ROWS:
        caption += f" The first {MOST_ROWS} of {len(frame):,} rows."
    return Table(caption, [SHORT.get(name, name.replace("_", " ")) for name in header], rows, numeric)


def _methods(paired: Paired, judged: pd.DataFrame, evidence: Evidence, design: Design) -> Section:
    section = Section("methods", "Methods section", "Text for a paper, to be copied.")
    if judged.empty:
        return replace(section, missing="there is no comparison to describe")
    told = wording.methods_section(paired, judged, evidence.runs, design)
    return replace(section, lines=evidence.plan, paste="\n\n".join(told))
