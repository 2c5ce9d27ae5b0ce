"""The question of the paper: does a method do more for a model that starts from scratch than for a pre-trained one?"""

import math
from collections import defaultdict

import numpy as np
import pandas as pd

from analysis.hypothesis import DECIMALS, Pairs, rounded
from analysis.over_tasks import TEST, Group, over_tasks, tested
from analysis.pairing import Comparison, Paired

INTERACTION = [
    *("task", "model", "method", "setting", "reference", "metric", "n", "dropped", "mean_pretrained", "mean_random"),
    *("mean_interaction", "std_interaction", *TEST, "min_p_holm", "from_scratch"),
]
INITS = ("pretrained", "random")
BETWEEN_INITS = "random - pretrained"  # stands for the init of an interaction


def _matched(paired: Paired) -> tuple[list[tuple[Comparison, Comparison]], list[Comparison]]:
    """Pairs (pretrained, random) of one task, model and method, and the comparisons without a counterpart."""
    sides: dict[str, defaultdict[tuple, list[Comparison]]] = {init: defaultdict(list) for init in INITS}
    for c in paired.comparisons:
        if c.init in sides:
            sides[c.init][c.task, c.model, c.metric, c.method].append(c)
    pairs, alone = [], []
    for key in dict.fromkeys([*sides["pretrained"], *sides["random"]]):
        left, right = (sides[init].get(key, []) for init in INITS)
        if len(left) == len(right) == 1:
            pairs.append((left[0], right[0]))
            continue
        settings = {c.setting: c for c in right}
        pairs += [(c, settings[c.setting]) for c in left if c.setting in settings]
        both = {c.setting for c in left} & set(settings)
        alone += [c for c in (*left, *right) if c.setting not in both]
    return pairs, alone


def _interactions(paired: Paired) -> list[tuple[Comparison, Comparison, tuple, Pairs]]:
    """Each (pretrained, random), the seeds that both have, and d_i(random) beside d_i(pretrained)."""
    found = []
    for pretrained, random in _matched(paired)[0]:
        a, b = (dict(zip(c.seeds, c.differences, strict=True)) for c in (pretrained, random))
        seeds = tuple(seed for seed in pretrained.seeds if seed in b)
        if seeds:
            both = Pairs(rounded([b[seed] for seed in seeds]), rounded([a[seed] for seed in seeds]))
            found.append((pretrained, random, seeds, both))
    return found


def interaction(paired: Paired, level: float = 0.05) -> pd.DataFrame:
    """(method - reference | random) - (method - reference | pretrained), paired by seed (columns INTERACTION).

    The test of so many seeds (hypothesis.compare), Holm over the methods of a task, model and metric; min_p_holm is the
    smallest that so many seeds and methods can give. setting: of both sides where they differ. dropped: seeds
    that one side alone has. from_scratch: whether the method's effect is "larger" or "smaller" there at this level,
    else why nothing is said.
    """
    families = defaultdict(list)
    for item in _interactions(paired):
        c = item[0]
        families[c.task, c.model, c.metric].append(item)
    rows = []
    for members in families.values():
        tests = tested(dict(enumerate(item[3] for item in members)))
        for i, (pretrained, random, _, both) in enumerate(members):
            e = both.differences
            told = pretrained.setting
            if random.setting != told:
                told = f"pretrained: {told or 'default'}; random: {random.setting or 'default'}"
            dropped = len(set(pretrained.seeds) ^ set(random.seeds))
            means = [float(np.mean(side)) for side in (both.theirs, both.mine)]
            spread = float(np.round(e.std(ddof=1), DECIMALS)) if len(e) > 1 else math.nan
            c = pretrained
            rows.append(
                (c.task, c.model, c.method, told, c.reference, c.metric, len(e), dropped, *means)
                + (float(np.round(e.mean(), DECIMALS)) + 0.0, spread, *tests[i], _said(tests[i], level))
            )
    return pd.DataFrame(rows, columns=INTERACTION)


def interaction_across(paired: Paired) -> pd.DataFrame:
    """The interaction over tasks (columns AGAINST, init being "random - pretrained"), where there are several."""
    groups: defaultdict[Group, defaultdict[str, dict[str, np.ndarray]]]
    groups = defaultdict(lambda: defaultdict(dict))
    matched = _interactions(paired)
    count: defaultdict[tuple, int] = defaultdict(int)
    for c, *_ in matched:
        count[c.task, c.model, c.metric, c.method] += 1
    several = {method for (*_, method), n in count.items() if n > 1}
    for c, _, _, both in matched:
        label = f"{c.method} [{c.setting}]" if c.method in several and c.setting else c.method
        groups[c.model, BETWEEN_INITS, c.metric][label][c.task] = both.differences
    tasks = {key: {task for found in methods.values() for task in found} for key, methods in groups.items()}
    return over_tasks({key: methods for key, methods in groups.items() if len(tasks[key]) > 1}, paired.reference)


def _said(test: tuple, level: float) -> str:
    estimate, p_holm, lowest = test[0], test[TEST.index("p_holm")], test[-1]
    if p_holm <= level and estimate != 0:
        return "larger" if estimate > 0 else "smaller"
    return "too few seeds" if lowest > level else "not shown to differ"


def unmatched_lines(paired: Paired) -> list[str]:
    """One sentence per comparison that has no counterpart in the other init, or no seed in common with it."""
    lines: list[str] = []
    if len({c.init for c in paired.comparisons} & set(INITS)) < 2:
        return lines
    pairs, alone = _matched(paired)
    for c, random in pairs:
        if not set(c.seeds) & set(random.seeds):
            lines.append(
                f"{_name(c)} ({c.task}, {c.model}, {c.metric}): no seed has both initialisations; "
                f"{len(c.seeds) + len(random.seeds)} seeds have one initialisation only"
            )
    for c in alone:
        lines.append(f"{_name(c)} ({c.task}, {c.model}, {c.init}): no counterpart in the other initialisation")
    return lines


def _name(c: Comparison) -> str:
    return f"{c.method} [{c.setting}]" if c.setting else c.method
