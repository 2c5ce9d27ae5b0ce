"""The question of the paper: does a method do more for a model that starts from scratch than for a pre-trained one?"""

import math
from collections import defaultdict

import numpy as np
import pandas as pd

from analysis.hypothesis import DECIMALS, Pairs, rounded
from analysis.over_tasks import TEST, Group, over_tasks, tested
from analysis.pairing import Comparison, Paired
from analysis.present.render import p_text

INTERACTION = [
    *("task", "model", "method", "setting", "reference", "metric", "n", "dropped", "mean_pretrained", "mean_random"),
    *("mean_interaction", "std_interaction", *TEST, "min_p_holm"),
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


def interaction(paired: Paired) -> pd.DataFrame:
    """(method - reference | random) - (method - reference | pretrained), paired by seed (columns INTERACTION).

    The test of so many seeds (hypothesis.compare), Holm over the methods of a task, model and metric; min_p_holm is the
    smallest that so many seeds and methods can give. setting: of both sides where they differ. dropped: seeds
    that one side alone has.
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
                + (float(np.round(e.mean(), DECIMALS)) + 0.0, spread, *tests[i])
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


def interaction_lines(table: pd.DataFrame, paired: Paired, level: float = 0.05) -> list[str]:
    """One sentence per row of `interaction`, and one per comparison that has no counterpart in the other init, or
    no seed in common with it."""
    lines = [_interaction_line(row, level) for row in table.to_dict("records")]
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


def _interaction_line(row: dict, level: float) -> str:
    name = f"{row['method']} [{row['setting']}]" if row["setting"] else row["method"]
    seeds = f"{row['n']} seed{'s' if row['n'] > 1 else ''}"
    low, high = row["low"], row["high"]
    interval = "no bounded interval" if math.isinf(low) else f"{row['level']:.1%} interval [{low:+.2f}, {high:+.2f}]"
    text = (
        f"{name} ({row['task']}, {row['model']}, {row['metric']}): {row['mean_random']:+.2f} from scratch, "
        f"{row['mean_pretrained']:+.2f} pre-trained; interaction {row['mean_interaction']:+.2f}, Hodges-Lehmann "
        f"{row['estimate']:+.2f}, {interval}, n = {seeds}, p = {p_text(row['p_value'])}, Holm p = "
        f"{p_text(row['p_holm'])}: {_said(row, level)}"
    )
    if np.sign(row["mean_interaction"]) * np.sign(row["estimate"]) < 0:
        text += "; mean and Hodges-Lehmann disagree in sign: collapsed seeds?"
    return f"{text}; {row['dropped']} seeds have one initialisation only" if row["dropped"] else text


def _said(row: dict, level: float) -> str:
    if row["p_holm"] <= level and row["estimate"] != 0:
        return f"its effect is {'larger' if row['estimate'] > 0 else 'smaller'} from scratch than after pre-training"
    if row["min_p_holm"] > level:
        return f"not decided, so few seeds cannot give less than {p_text(row['min_p_holm'])}"
    return "no difference between the initialisations is shown"
