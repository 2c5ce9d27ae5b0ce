"""What is said beside the comparisons: examples, tasks, initialisations, pairing, calibration, cost; as sections.

A section is there only where it has something to say.
"""

from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from analysis import across, calibration, examples
from analysis.pairing import Paired
from analysis.predictions import Predictions
from analysis.present.answer import Section
from analysis.present.tables import not_learnt_cells

MOST_RUNS = 1000  # whose predictions are read unasked: 3 s for test sets of a thousand examples
WHERE = ("task", "model", "init", "method", "setting")
INTERVAL = ("n_seeds", "n_examples", "difference", "low", "high", "share_seeds", "share_examples", "share_both")
TESTED = ("estimate", "low", "high", "p_value", "min_p_value", "p_holm")


def compared(paired: Paired) -> list[str]:
    """The ids of all runs that are in a comparison."""
    return list(dict.fromkeys(run for c in paired.comparisons for run in (*c.reference_run_ids, *c.run_ids)))


def sections(paired: Paired, runs: pd.DataFrame, predictions: Predictions | None, level: float = 0.05) -> list[Section]:
    """All sections that have something to say; `runs` as given to `pair`, no predictions: none were read.

    Where looks cut the comparisons, these sections are about all pairs that there are.
    """
    one = across.one_metric(runs, paired)
    with ThreadPoolExecutor(2) as pool:  # files, random numbers and products let each other run
        if predictions is not None:
            drawn = pool.submit(examples.bootstrap, paired, predictions, level=1 - level)
            measured = pool.submit(calibration.calibrate, paired, predictions)
    found = [] if predictions is None else _examples(*drawn.result())
    lost = not_learnt_cells(paired)
    found += [*_across(one, level, lost), *_interaction(paired, one, level, lost), *_pairing(paired)]
    found += [] if predictions is None else _calibration(paired, measured.result(), level)
    return [*found, *_cost(paired, runs)]


def not_read(paired: Paired) -> Section:
    """Says that predictions were not read, and how they are."""
    text = (
        f"predictions of {len(compared(paired)):,} runs were not read (more than {MOST_RUNS:,}): examples=true reads "
        "them, for an interval over seeds and examples and for calibration"
    )
    return Section("examples", "Seeds and examples", (text,))


def _examples(table: pd.DataFrame, left: pd.DataFrame) -> list[Section]:
    title = "Seeds and examples: intervals for new seeds and new examples"
    found = [Section("examples", title, tuple(examples.lines(table)), table, (*WHERE, *INTERVAL))] if len(table) else []
    return found + _left_out("examples", "Not in seeds and examples", left)


def _across(paired: Paired, level: float, lost: list[str]) -> list[Section]:
    against = across.against_reference(paired)
    if against.empty:
        return []
    lines = across.directions(paired) + across.across_lines(across.friedman(paired), against, level) + lost
    columns = (
        *("model", "init", "method", "n_tasks", "mean_difference", "p_value", "p_holm", "min_p_holm"),
        *("effect", "effect_low", "effect_high", "tau"),
    )
    return [Section("across", "Across tasks: a task counts once, with its mean", tuple(lines), against, columns)]


def _interaction(paired: Paired, one: Paired, level: float, lost: list[str]) -> list[Section]:
    table = across.interaction(paired)
    lines = across.interaction_lines(table, paired, level)
    lines += across.across_lines(across.friedman(one).iloc[:0], across.interaction_across(one), level)
    title = "Pre-training and regularisation: (method - reference | random) - (method - reference | pretrained)"
    columns = ("task", "model", "method", "setting", "n", "mean_pretrained", "mean_random", *TESTED)
    told = (*across.directions(paired), *lines, *lost)
    return [Section("interaction", title, told, table, columns)] if lines else []


def _pairing(paired: Paired) -> list[Section]:
    table = across.pairing_gain(paired)
    line = across.pairing_line(table)
    columns = (*WHERE, "n", "correlation", "low", "high", "unpaired_seeds", "saved_seeds")
    return [Section("pairing", "What pairing by seed saves", (line,), table, columns)] if line else []


def _calibration(paired: Paired, measured: calibration.Calibration, level: float) -> list[Section]:
    found = []
    if len(measured.runs):
        table = calibration.differences(paired, measured)
        title = "Calibration, as trained and with a temperature fitted on dev (lower is better)"
        lines = tuple(calibration.lines(table, level))
        found.append(Section("calibration", title, lines, calibration.methods(measured)))
        found.append(Section("calibration_differences", "", (), table, for_people=False))
    return found + _left_out("calibration", "Not in calibration", measured.left_out)


def _cost(paired: Paired, runs: pd.DataFrame) -> list[Section]:
    table = calibration.costs(paired, runs)
    text = (
        "means over runs; teacher_seconds is the whole training of the teacher, which serves all seeds of a task; "
        f"times_reference compares the total with {paired.reference}'s",
    )
    return [Section("cost", "Cost", text, table)] if len(table) else []


def _left_out(part: str, title: str, left: pd.DataFrame) -> list[Section]:
    """One row per reason, with the runs."""
    if left.empty:
        return []
    rows = [
        (reason, found["run_id"].nunique(), ", ".join(found["run_id"].unique()[:3]), tuple(found["run_id"].unique()))
        for reason, found in left.groupby("reason", sort=False)
    ]
    frame = pd.DataFrame(rows, columns=["reason", "n_runs", "first_runs", "run_ids"])
    return [Section(f"{part}_left_out", title, (), frame, ("reason", "n_runs", "first_runs"))]
