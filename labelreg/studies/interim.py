"""A study that looks at its verdicts while it runs: on with what is undecided, and an end for the rest."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis import pairing
from analysis.interim import OPEN
from analysis.judge import Rule, judge
from analysis.plan_check import held
from analysis.power import robust_sd
from analysis.predictions import marked
from labelreg.answers.answering import plans_of, predictions_of
from labelreg.store import records
from labelreg.workers.steps import Step

REFERENCE = "finetune"
FEW = 500  # of more finished runs the spread would cost more than it tells


def frame(done: Mapping[str, str], study: str | None = None) -> pd.DataFrame:
    """The runs of a study (run ids by step) as MLflow gives them; a reused one may be of another experiment.

    Args:
        study: its run, whose students that failed are there, too: their seeds were tried.
    """
    runs = records.these(list(done.values()))
    return pd.concat([runs, records.failed(study)], ignore_index=True) if study else runs


def until_decided(
    steps: Sequence[Step], plan: dict, rule: Rule, carry_out: Callable[[list[Step]], Mapping[str, str]], study: str
) -> None:
    """Run the seeds of each planned look, but only of what the looks before left undecided.

    Finetune goes on while any method of its family does.

    Args:
        carry_out: runs steps; run ids of all that are done, by step.
    """
    going_on = {tuple(cell) for cell in plan["cells"]}
    for look in plan["looks"]:
        seeds = set(plan["seeds"][:look])
        due = [s for s in steps if s.kind == "student" and s.cell[1:] in going_on and s.given["seed"] in seeds]
        first = {name for step in due for name in step.needs}
        done = carry_out([s for s in steps if s.kind == "teacher" and s.name in first] + due)
        told = decided(plan, rule, frame(done, study), look, study)
        going_on = set()
        for cell, (word, at) in told.items():
            if word in OPEN:
                going_on |= {cell, (*cell[:3], REFERENCE)}
            elif at == look:
                print(f"look at {look} seeds: {' '.join(cell)}: {word}", flush=True)
        still = sum(cell[3] != REFERENCE for cell in going_on)
        print(f"look at {look} seeds: {len(told) - still} decided, {still} undecided", flush=True)
        if not going_on:
            break


def decided(plan: dict, rule: Rule, runs: pd.DataFrame, look: int, study: str) -> dict[tuple, tuple[str, int | None]]:
    """The verdict on each cell of a study's plan and the look at which it fell, with what the looks so far had to
    show. Its plan is the one that was logged, too: with the runs that it reuses, of which another's would decide."""
    seeds = {str(seed) for seed in plan["seeds"][:look]}
    runs = runs[runs["params.seed"].isin(seeds)] if len(runs) else runs
    paired = pairing.pair(runs, REFERENCE)
    predictions = predictions_of(runs, paired)
    paired = paired if predictions is None else marked(paired, predictions)
    logged = plans_of(runs, study)  # what was compared before counts too
    plans = [{"run_id": "", "plan": plan, "start": time.time()}, *logged]
    judged = judge(paired, rule, plan["seeds"], held(plans, paired, runs))
    looks = [None if pd.isna(at) else int(at) for at in judged["look"]]
    names = judged[["task", "model", "init", "method"]].itertuples(index=False, name=None)
    found = dict(zip(names, zip(judged["verdict"], looks, strict=True), strict=True))
    cells = [tuple(cell) for cell in plan["cells"] if cell[3] != REFERENCE]
    return {cell: found.get(cell, ("undecided", None)) for cell in cells}


def spreads(finished: Mapping[str, str]) -> dict[tuple, float]:
    """The largest spread (power.robust_sd) of paired differences among finished runs, by (task, model, init)."""
    if not 0 < len(finished) <= FEW:
        return {}
    found: dict[tuple, float] = {}
    for c in pairing.pair(frame(finished), REFERENCE).comparisons:
        if len(c.differences) > 2:
            place = (c.task, c.model, c.init)
            found[place] = max(found.get(place, 0.0), robust_sd(np.array(c.differences)))
    return {place: spread for place, spread in found.items() if spread > 0}
