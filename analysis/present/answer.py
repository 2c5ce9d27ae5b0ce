"""The answer of `significance` as sections, and the sections as text, Markdown and JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.design import level_of_a_look
from analysis.hypothesis import POWER, detectable_effect, least_seeds, seeds_needed, upper_sd
from analysis.pairing import Paired
from analysis.present import tables
from analysis.present.tables import judge, scores, verdict_lines

__all__ = ["Section", "as_json", "as_markdown", "as_text", "first_sections", "judge", "last_sections", "summaries"]

BRIEF = (
    *("task", "model", "init", "method", "setting", "n", "mean_difference", "std_difference"),
    *("p_value", "min_p_value", "p_holm", "verdict", "look"),
)
WHO = ["task", "model", "init", "method", "setting"]
TWICE = (
    "Whoever tests, adds seeds and tests again must plan it: testing at 8 and again at 20 seeds at 0.05 finds a "
    "difference where there is none in 7.8% of studies, at 5, 8, 10 and 20 in 9.7%. Planned looks "
    "(looks=10,14,20) test at level / number of looks each and hold the level; a verdict once reached stays."
)


@dataclass(frozen=True, eq=False)
class Section:
    """One part of the answer: `name` in JSON, `title` and `text` (a sentence each) for people, and a frame.

    `columns`: those of the frame that people are shown (default all); JSON has every one. What is not `for_people`
    is in JSON alone.
    """

    name: str
    title: str
    text: tuple[str, ...] = ()
    frame: pd.DataFrame | None = None
    columns: tuple[str, ...] = ()
    for_people: bool = True

    def shown(self) -> pd.DataFrame | None:
        """The frame as people see it; None where there is nothing to see. A column without a value is left out."""
        if self.frame is None or self.frame.empty:
            return None
        frame = self.frame[list(self.columns)] if self.columns else self.frame
        empty = [name for name in frame.columns if frame[name].isna().all() or (frame[name] == "").all()]
        return frame.drop(columns=empty)


def first_sections(paired: Paired, judged: pd.DataFrame, level: float, looks: Sequence[int]) -> list[Section]:
    """Scores, comparisons with their verdicts, the other tests beside them, and what these seeds can show."""
    table = scores(paired)
    shown = tuple(name for name in table if name != "not_learnt" or table[name].any())
    found = [Section("scores", "Scores, mean and standard deviation over seeds", frame=table, columns=shown)]
    told = [tables.TESTED, *tables.remarks(judged), *verdict_lines(judged)] if len(judged) else []
    found.append(Section("comparisons", f"Compared with {paired.reference}", tuple(told), judged, BRIEF))
    if len(judged):
        found += [_estimates(judged), _beside(judged), _power(judged, level_of_a_look(level, looks), bool(looks))]
    return found


def last_sections(paired: Paired, plan: Sequence[str] = ()) -> list[Section]:
    """The plan of the study, and the runs that are not compared."""
    found = [Section("plan", "The plan of the study", tuple(plan))] if plan else []
    left = paired.left_out
    if len(left):
        found.append(Section("left_out", f"Not compared: {len(left)} run{'s' if len(left) > 1 else ''}", frame=left))
    return found


def summaries(paired: Paired, judged: pd.DataFrame) -> list[dict]:
    """What one summary run per method and setting holds: `params`, `metrics`, `verdict`, `line`, `run_ids`.

    A method without any comparison has one too. Metrics: mean and std of the score over n seeds; beside a reference
    the mean difference, the interval of the difference [low, high] (unbounded ends are infinite), p_value and p_holm.
    """
    ids = {tuple(key): list(group["run_id"]) for key, group in paired.runs.groupby([*WHO[:4]])}
    found = []
    table = scores(paired)
    compared = set(judged[WHO[:4]].itertuples(index=False, name=None))
    for row in table.to_dict("records"):
        if tuple(row[name] for name in WHO[:4]) not in compared:
            metrics = {name: row[name] for name in ("mean", "std", "n")}
            lost = f", {row['not_learnt']} of them not learnt" if row["not_learnt"] else ""
            line = f"{row['method']}: mean {row['mean']:.2f} over {_seeds(row['n'])}{lost}"
            alone = row["method"] != paired.reference
            found.append((row, metrics, "", f"{line}; no pair with {paired.reference}" if alone else line))
    for row, line in zip(judged.to_dict("records"), verdict_lines(judged), strict=True):
        metrics = {"mean": row["mean_method"], "n": row["n"], "difference": row["mean_difference"]}
        metrics |= {"std": float(np.std(row["scores"], ddof=1)) if row["n"] > 1 else None}
        metrics |= {name: row[name] for name in ("low", "high", "p_value", "p_holm")}
        word = f"{row['verdict']} (negligible)" if row["negligible"] else row["verdict"]
        found.append((row, metrics, word, line))
    return [
        {
            "params": {name: row[name] for name in (*WHO, "metric") if row[name]} | {"reference": paired.reference},
            "metrics": {name: value for name, value in metrics.items() if not pd.isna(value)},
            "verdict": word,
            "line": line,
            "run_ids": ids[tuple(row[name] for name in WHO[:4])],
        }
        for row, metrics, word, line in found
    ]


def _seeds(n: int) -> str:
    return f"{n} seed" if n == 1 else f"{n} seeds"


def _estimates(judged: pd.DataFrame) -> Section:
    columns = ["mean_method", "mean_reference", "mean_difference", "std_difference"]
    columns += ["estimate", "low", "high", "level", "rank_biserial"]
    text = (
        "estimate: Hodges-Lehmann's of the difference; [low, high] its exact interval of that level, unbounded where "
        "n is too small for one. rank_biserial: the share of ranks won less the share lost."
    )
    return Section("estimates", "How large the differences are", (text,), judged[[*WHO, *columns]])


def _beside(judged: pd.DataFrame) -> Section:
    columns = [*WHO, "p_value", "p_sign_flip", "p_t", "p_holm", "p_holm_study", "p_equivalence", "p_equivalence_holm"]
    text = (
        "p_value is Wilcoxon's and decides; the sign-flip test of the mean and the t-test stand beside it as a check. "
        f"p_holm is corrected within the family, p_holm_study over all {len(judged)} comparisons here: take that one "
        "for a claim about the whole study. p_equivalence: the difference is within the margin.",
    )
    return Section("tests", "The tests side by side", text, judged[columns])


def _power(judged: pd.DataFrame, level: float, looks: bool) -> Section:
    """What n seeds with this spread show with power 0.8, and how many seeds the margin needs."""
    rows = []
    for row in judged.itertuples():
        k, n, sd = len(row.family), row.n, row.std_difference
        known = n > 1 and not math.isnan(sd)
        smallest = detectable_effect(n, k, level)
        needed = seeds_needed(upper_sd(sd, n), row.margin, k, level) if known else None
        further = max(row.seeds_needed - n, 0) if row.verdict == "undecided" else None
        rows.append(
            [
                *(getattr(row, name) for name in WHO),
                *(n, sd if known else None, least_seeds(k, level)),
                smallest * sd if known and smallest is not None else None,
                *(needed, further),
            ]
        )
    columns = [*WHO, "n", "std_difference", "least_seeds", "detectable", "seeds_for_margin", "further_seeds"]
    frame = pd.DataFrame(rows, columns=columns)
    kinds = {"std_difference": float, "detectable": float, "seeds_for_margin": "Int64", "further_seeds": "Int64"}
    text = [
        f"least_seeds: below that, no data could be called better or worse. detectable: the effect in points that n "
        f"seeds of this spread find with power {POWER}. seeds_for_margin: seeds in all that find an effect of the "
        f"margin, {judged['margin'].iloc[0]:g} points, with that power (from the upper 80% limit of the spread). "
        "further_seeds: those that an undecided method lacks."
    ]
    if looks or (judged["verdict"] == "undecided").any():
        text.append(TWICE)
    return Section("power", "What these seeds can show", tuple(text), frame.astype(kinds))


def as_text(sections: Sequence[Section]) -> str:
    """The sections for a terminal."""
    parts = []
    for section in filter(_says_something, sections):
        frame = section.shown()
        lines = [section.title, *section.text, *([tables.to_text(frame)] if frame is not None else [])]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def as_markdown(sections: Sequence[Section], title: str) -> str:
    """The sections as one Markdown document."""
    parts = [f"# {title}"]
    for section in filter(_says_something, sections):
        parts.append(f"## {section.title}")
        if section.text:
            parts.append("\n".join(f"- {line}" for line in section.text) if len(section.text) > 1 else section.text[0])
        if (frame := section.shown()) is not None:
            parts.append(tables.to_markdown(frame))
    return "\n\n".join(parts) + "\n"


def _says_something(section: Section) -> bool:
    return section.for_people and (bool(section.text) or section.shown() is not None)


def as_json(sections: Sequence[Section], parameters: dict) -> str:
    """{"parameters": ..., "text": {section: sentences}, section: rows ...}; a missing or unbounded value is null."""
    answer: dict = {"parameters": parameters, "text": {section.name: list(section.text) for section in sections}}
    for section in sections:
        if section.frame is not None:
            answer[section.name] = [
                {name: _plain(value) for name, value in row.items()} for row in section.frame.to_dict("records")
            ]
    return json.dumps(answer, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
