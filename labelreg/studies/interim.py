"""A study that looks at its verdicts while it runs: on with what is undecided, and an end for the rest."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from analysis import design as rules
from analysis import pairing
from analysis.predictions import marked
from analysis.present import further
from analysis.present.tables import neither
from labelreg.store import records
from labelreg.workers.steps import Step

REFERENCE = "finetune"
FEW = 500  # run ids in one question to the store; of more finished runs the spread would cost more than it tells


def frame(done: Mapping[str, str]) -> pd.DataFrame:
    """The runs of a study (run ids by step) as MLflow gives them; a reused one may be of another experiment."""
    ids = list(done.values())
    parts = [", ".join(map(repr, ids[i : i + FEW])) for i in range(0, len(ids), FEW)] or ["''"]
    return pd.concat([records.frame(None, f"attributes.run_id IN ({part})") for part in parts], ignore_index=True)


def until_decided(steps: Sequence[Step], plan: dict, carry_out: Callable[[list[Step]], Mapping[str, str]]) -> None:
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
        decisions = decided(plan, frame(done), look)
        going_on = set()
        for cell, decision in decisions.items():
            if decision.verdict.word in rules.OPEN:
                going_on |= {cell, (*cell[:3], REFERENCE)}
            elif decision.look == look:
                print(f"look at {look} seeds: {' '.join(cell)}: {decision.verdict.word}", flush=True)
        still = sum(cell[3] != REFERENCE for cell in going_on)
        print(f"look at {look} seeds: {len(decisions) - still} decided, {still} undecided", flush=True)
        if not going_on:
            break


def decided(plan: dict, runs: pd.DataFrame, look: int) -> dict[tuple, rules.Decision]:
    """The verdicts on all cells of a plan, with what the looks up to this one had to show."""
    paired = pairing.pair(runs, REFERENCE)
    paired = marked(paired, records.predictions(runs, further.compared(paired)))
    found = {
        (c.task, c.model, c.init, c.method): {int(seed): d for seed, d in zip(c.seeds, c.differences, strict=True)}
        for c in paired.comparisons
    }
    lost = {
        (c.task, c.model, c.init, c.method): [plan["seeds"].index(int(seed)) for seed in neither(paired, c)]
        for c in paired.comparisons
    }
    families: dict[tuple, dict[tuple, list]] = {}
    for cell in map(tuple, plan["cells"]):
        if cell[3] != REFERENCE:
            differences = [found.get(cell, {}).get(seed) for seed in plan["seeds"][:look]]
            families.setdefault(cell[:3], {})[cell] = differences
    told: dict[tuple, rules.Decision] = {}
    for family in families.values():
        told |= rules.at_looks(family, plan["margin"], plan["level"], plan["looks"], not_learnt=lost)
    return told


def spreads(finished: Mapping[str, str]) -> dict[tuple, float]:
    """The largest standard deviation of paired differences among finished runs, by (task, model, init)."""
    if not 0 < len(finished) <= FEW:
        return {}
    found: dict[tuple, float] = {}
    for c in pairing.pair(frame(finished), REFERENCE).comparisons:
        if len(c.differences) > 2:
            place = (c.task, c.model, c.init)
            found[place] = max(found.get(place, 0.0), float(pd.Series(c.differences).std()))
    return {place: spread for place, spread in found.items() if spread > 0}
