"""The question of the paper: does a method do more for a model that starts from scratch than for a pre-trained one?"""

import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.hypothesis import DECIMALS, pairs, rounded
from analysis.over_tasks import TEST, against_reference, said, tested, units_differ
from analysis.pairing import Comparison, Paired

INTERACTION = [
    *("task", "model", "method", "setting", "reference", "metric", "n", "dropped", "mean_pretrained", "mean_random"),
    *("mean_interaction", "std_interaction", *TEST, "min_p_holm", "from_scratch"),
]
INITS = ("pretrained", "random")
BETWEEN_INITS = "random - pretrained"  # stands for the init of an interaction


def _sides(paired: Paired) -> list[dict[str, Comparison]]:
    """By init, the comparisons of one task, model and method; of one setting too where a side has several."""
    counts = Counter((c.task, c.model, c.metric, c.method, c.init) for c in paired.comparisons)
    sides: defaultdict[tuple, dict[str, Comparison]] = defaultdict(dict)
    for c in paired.comparisons:
        several = any(counts[c.task, c.model, c.metric, c.method, init] > 1 for init in INITS)
        if c.init in INITS:
            sides[c.task, c.model, c.metric, c.method, c.setting if several else ""][c.init] = c
    return list(sides.values())


def between_inits(paired: Paired) -> Paired:
    """With method - reference from scratch in the place of the scores, and pre-trained in that of the reference's.

    The seeds are those that both sides have, the run ids all of the method's runs on either side.
    """
    found = []
    for both in _sides(paired):
        if len(both) == len(INITS):
            pretrained, random = (both[init] for init in INITS)
            a, b = (dict(zip(c.seeds, c.differences, strict=True)) for c in (pretrained, random))
            seeds, told = tuple(seed for seed in a if seed in b), pretrained.setting
            if random.setting != told:
                told = f"pretrained: {told or 'default'}; random: {random.setting or 'default'}"
            mine, theirs = (tuple(side[seed] for seed in seeds) for side in (b, a))
            one = replace(random, init=BETWEEN_INITS, family="", setting=told, seeds=seeds, scores=mine)
            e = tuple(rounded(np.subtract(mine, theirs)).tolist())
            found.append(replace(one, reference_scores=theirs, differences=e, reference_run_ids=pretrained.run_ids))
    return replace(paired, comparisons=tuple(found))


def interaction(paired: Paired, level: float = 0.05) -> pd.DataFrame:
    """(method - reference | random) - (method - reference | pretrained), paired by seed (columns INTERACTION).

    The test of so many seeds (hypothesis.compare), Holm over the methods of a task, model and metric; min_p_holm is the
    smallest that so many seeds and methods can give. setting: of both sides where they differ. dropped: seeds
    that one side alone has. from_scratch: whether the method's effect is "larger" or "smaller" there at this level,
    else why nothing is said.
    """
    rows = []
    for family in between_inits(paired).families:
        members = [c for c in family if c.seeds]
        tests = tested({i: pairs(c.scores, c.reference_scores) for i, c in enumerate(members)})
        for i, c in enumerate(members):
            e, n = np.array(c.differences), len(c.seeds)
            dropped = len(c.run_ids) + len(c.reference_run_ids) - 2 * n
            spread = float(np.round(e.std(ddof=1), DECIMALS)) if n > 1 else math.nan
            means = float(np.mean(c.reference_scores)), float(np.mean(c.scores))
            head = (c.task, c.model, c.method, c.setting, c.reference, c.metric, n, dropped, *means)
            rows.append((*head, float(np.round(e.mean(), DECIMALS)) + 0.0, spread, *tests[i], said(tests[i], level)))
    return pd.DataFrame(rows, columns=INTERACTION)


def interaction_across(paired: Paired) -> pd.DataFrame:
    """The interaction over tasks (columns AGAINST, init being "random - pretrained"), where there are several."""
    between, scored = between_inits(paired), defaultdict(list)
    for c in paired.comparisons:
        scored[c.model, c.metric].append(c)
    alike = (c for c in between.comparisons if c.seeds and not units_differ(c.metric, scored[c.model, c.metric]))
    return against_reference(replace(between, comparisons=tuple(alike)), units=False)  # its scores are differences


def unmatched_lines(paired: Paired) -> list[str]:
    """One sentence per comparison that has no counterpart in the other init, or no seed in common with it."""
    lines: list[str] = []
    if len({c.init for c in paired.comparisons} & set(INITS)) < 2:
        return lines
    for c in between_inits(paired).comparisons:
        if not c.seeds:
            alone = f"{len(c.run_ids) + len(c.reference_run_ids)} seeds have one initialisation only"
            lines.append(f"{c.label} ({c.task}, {c.model}, {c.metric}): no seed has both initialisations; {alone}")
    for both in _sides(paired):
        for c in both.values() if len(both) == 1 else ():
            lines.append(f"{c.label} ({c.task}, {c.model}, {c.init}): no counterpart in the other initialisation")
    return lines
