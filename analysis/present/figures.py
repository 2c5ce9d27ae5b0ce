"""Figure 1 of the paper from runs: mean score and one standard deviation per method, initialisations side by side."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.margins import fractions
from analysis.pairing import method_rank
from analysis.present.paper_tables import GLUE, NAMES, SPLITS, TEACHER

INITS = {"pretrained": "pre-trained", "random": "from scratch"}
# Okabe and Ito's palette, which colour-blind people can tell apart; each method has a marker of its own too
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
MARKERS = "osD^vPX"
COLUMNS = ["init", "method", "seed", "score", "split", "tasks"]


def figure1_scores(cells: pd.DataFrame, model: str) -> tuple[pd.DataFrame, list[str]]:
    """What `figure1` draws for a model, from `paper_tables.scores`; and what is left out, in words.

    One row per init, method and seed (COLUMNS): score, the mean over `tasks` (their number) of the test scores,
    or of the dev scores where any test score is missing (`split` says which). Tasks are GLUE's seven where the
    model has them all, else those that fine-tuning has in every init. Left out are methods and seeds without
    all of these tasks.
    """
    part = cells[(cells["model"] == model) & (cells["method"] != TEACHER)]
    if part.empty:
        return pd.DataFrame(columns=COLUMNS), []
    part = part.assign(method=[f"{m} [{s}]" if s else m for m, s in zip(part["method"], part["setting"], strict=True)])
    place, held = ["init", "method", "seed"], set(part["task"])
    base = part[part["method"].str.partition(" [")[0] == "finetune"]
    common = [set(found["task"]) for _, found in (base if len(base) else part).groupby("init")]
    tasks = list(GLUE.values()) if set(GLUE.values()) <= held else sorted(set.intersection(*common))
    if not tasks:
        return pd.DataFrame(columns=COLUMNS), [f"figure 1: no task of {model} has every initialisation"]
    part = part[part["task"].isin(tasks)]
    tables = {split: found.pivot_table("score", place, "task") for split, found in part.groupby("split")}
    whole = {split: tables.get(split, pd.DataFrame()).reindex(columns=tasks).dropna() for split in SPLITS}
    split = "test" if len(whole["test"]) and whole["dev"].index.isin(whole["test"].index).all() else "dev"
    every = pd.MultiIndex.from_frame(part[place].drop_duplicates().sort_values(place))
    left = every.difference(whole[split].index)
    told = [f"figure 1: {_name(method)} {init}, seed {seed}" for init, method, seed in left]
    frame = whole[split].mean(axis=1).rename("score").reset_index()
    return frame.assign(split=split, tasks=len(tasks)).reindex(columns=COLUMNS), told


@contextmanager
def plain_text() -> Iterator[None]:
    """Names are drawn and saved as they are: `$` begins no formula, and a letter that the font lacks is a box."""
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@plain_text()
def figure1(scores: pd.DataFrame, subject: str = "") -> Figure:
    """The figure of `scores` (COLUMNS, one row per init, method and seed), one panel per init.

    `subject` begins the title, which says whether test or dev scores are shown. Small dots are seeds; the grey
    band is fine-tuning's mean and one standard deviation. Scores are in percent, or fractions of 1. A method of one
    seed has no interval. Raises ValueError without rows.
    """
    if scores.empty:
        raise ValueError("no scores to draw")
    inits = [init for init in (*INITS, *sorted(set(scores["init"]) - set(INITS))) if init in set(scores["init"])]
    names = sorted(set(scores["method"]), key=lambda name: (*method_rank(name.partition(" [")[0]), name))
    figure = Figure(figsize=(1.2 + 3.1 * len(inits), 3.6), layout="constrained")
    for i, init in enumerate(inits):
        panel = figure.add_subplot(1, len(inits), i + 1)
        _panel(panel, scores[scores["init"] == init], names)
        panel.set_title(INITS.get(init, init), fontsize=10)
        if i == 0:
            percent = "" if fractions("score", scores["score"].tolist()) else " (%)"
            panel.set_ylabel(f"{scores['split'].iloc[0]} score{percent}")
    figure.suptitle(title(scores, subject), fontsize=11)
    return figure


def title(scores: pd.DataFrame, subject: str = "") -> str:
    """The figure's title: subject, tasks, test or dev, seeds."""
    tasks, split = int(scores["tasks"].iloc[0]), scores["split"].iloc[0]
    counts = sorted(set(scores.groupby(["init", "method"]).size()))
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    what = f"{split} score, mean of {tasks} tasks" if tasks > 1 else f"{split} score"
    shown = f"{subject}: {what}" if subject else what
    missing = "; no test scores" if split == "dev" else ""
    return f"{shown}\nmean and one standard deviation, n = {n}{missing}"


def _panel(panel: Axes, scores: pd.DataFrame, names: list[str]) -> None:
    groups = {name: scores.loc[scores["method"] == name, "score"] for name in names}
    base = groups.get("finetune", pd.Series(dtype=float))
    if len(base) > 1:
        panel.axhspan(base.mean() - base.std(), base.mean() + base.std(), color="#888888", alpha=0.18, lw=0)
    for at, name in enumerate(names):
        values, colour = groups[name], COLOURS[at % len(COLOURS)]
        if values.empty:
            continue
        spread = values.std() if len(values) > 1 else None
        panel.scatter([at + 0.22] * len(values), values, s=9, color=colour, alpha=0.55, linewidths=0)
        panel.errorbar(
            at, values.mean(), yerr=spread, fmt=MARKERS[at % len(MARKERS)], color=colour, capsize=4, markersize=6
        )
    panel.set_xticks(range(len(names)), [_name(name) for name in names], rotation=30, ha="right", fontsize=9)
    panel.set_xlim(-0.6, len(names) - 0.4)
    panel.grid(axis="y", alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def _name(method: str) -> str:
    base, bracket, setting = method.partition(" [")
    return NAMES.get(base, base) + bracket + setting
