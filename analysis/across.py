"""Across tasks, across initialisations, and what pairing saves.

A block is a task, its value a mean over seeds: pairs (task, seed) are never pooled, since the seeds of one task share
the task's own effect. Left out on purpose: post hoc tests on mean ranks as an answer, because they depend on the
other methods (Benavoli, Corani and Mangili 2016); `ranks` gives them for the diagram alone.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import direction
from analysis.hypothesis import DECIMALS, holm, min_p_value, rounded, signed_rank
from analysis.pairing import DEV, Comparison, Paired, pair
from analysis.permutation import friedman_p
from analysis.present.tables import p_text

MEANS = ["model", "init", "metric", "task", "method", "n", "mean"]
FRIEDMAN = ["model", "init", "metric", "n_tasks", "n_methods", "chi2", "p_value", "draws", "note"]
TEST = ["estimate", "low", "high", "level", "p_value", "p_holm", "min_p_value"]
AGAINST = [
    *("model", "init", "metric", "method", "reference", "n_tasks", "tasks", "mean_difference", *TEST, "min_p_holm"),
    *("effect", "effect_low", "effect_high", "tau", "n_effect", "note"),
]
INTERACTION = [
    *("task", "model", "method", "setting", "reference", "metric", "n", "dropped", "mean_pretrained", "mean_random"),
    *("mean_interaction", "std_interaction", *TEST, "min_p_holm", "rank_biserial"),
]
PAIRING = [
    *("task", "model", "init", "method", "setting", "reference", "metric", "n"),
    *("std_method", "std_reference", "std_difference", "correlation", "low", "high"),
    *("unpaired_seeds", "saved_seeds"),
]
INITS = ("pretrained", "random")
Group = tuple[str, str, str]  # model, init, metric
BETWEEN_INITS = "random - pretrained"  # stands for the init of an interaction


@dataclass(frozen=True, eq=False)
class Ranks:
    """Input of scikit_posthocs.critical_difference_diagram(mean_ranks, p_values): rank 1 is best."""

    model: str
    init: str
    metric: str
    n_tasks: int
    mean_ranks: pd.Series
    p_values: pd.DataFrame


def one_metric(runs: pd.DataFrame, paired: Paired) -> Paired:
    """`paired`, or, where its tasks have several metrics, the same runs paired again on the dev score."""
    if len({c.metric for c in paired.comparisons}) < 2:
        return paired
    return pair(runs, paired.reference, DEV)


def _groups(paired: Paired) -> dict[Group, dict[str, dict[str, Comparison]]]:
    """(model, init, metric) -> method -> task -> comparison, of groups with two tasks or more.

    A method that has one comparison in each task is one method, whatever its settings are called; where it has
    several in a task, each setting is a method of its own.
    """
    cells: defaultdict[Group, defaultdict[tuple[str, str], list[Comparison]]]
    cells = defaultdict(lambda: defaultdict(list))
    for c in paired.comparisons:
        cells[c.model, c.init, c.metric][c.task, c.method].append(c)
    groups = {}
    for key, cell in cells.items():
        if len({task for task, _ in cell}) < 2:
            continue
        several = {method for (_, method), found in cell.items() if len(found) > 1}
        methods: defaultdict[str, dict[str, Comparison]] = defaultdict(dict)
        for (task, method), found in cell.items():
            for c in found:
                methods[f"{method} [{c.setting}]" if method in several and c.setting else method][task] = c
        groups[key] = dict(methods)
    return groups


# Friedman and ranks


def task_means(paired: Paired) -> pd.DataFrame:
    """Mean score over the seeds that all methods of a task share (columns MEANS), one row per task and method, the
    reference included. A task without such seeds, or with several settings of the reference, has no rows."""
    rows = []
    for (model, init, metric), methods in _groups(paired).items():
        for task in sorted({task for found in methods.values() for task in found}):
            here = {label: found[task] for label, found in methods.items() if task in found}
            shared = set.intersection(*(set(c.seeds) for c in here.values()))
            of_reference = {(c.seeds[i], run) for c in here.values() for i, run in enumerate(c.reference_run_ids)}
            if not shared or len({seed for seed, _ in of_reference}) < len(of_reference):
                continue
            first = next(iter(here.values()))
            scores = {paired.reference: dict(zip(first.seeds, first.reference_scores, strict=True))}
            scores |= {label: dict(zip(c.seeds, c.scores, strict=True)) for label, c in here.items()}
            for label, found in scores.items():
                mean = float(np.mean([found[seed] for seed in sorted(shared)]))
                rows.append((model, init, metric, task, label, len(shared), mean))
    return pd.DataFrame(rows, columns=MEANS)


def _blocks(paired: Paired) -> list[tuple[Group, pd.DataFrame, list[str]]]:
    """Per (model, init, metric): scores [tasks, methods] of complete tasks, higher is better, and the other tasks."""
    negated = {c.metric: c.negated for c in paired.comparisons}
    means, blocks = task_means(paired), []
    for key, methods in _groups(paired).items():
        here = means[(means[["model", "init", "metric"]] == list(key)).all(axis=1)]
        table = here.pivot(index="task", columns="method", values="mean").round(DECIMALS)
        table = table.reindex(columns=[paired.reference, *methods])
        tasks = sorted({task for found in methods.values() for task in found})
        complete = table.dropna() * (-1 if negated[key[2]] else 1)
        blocks.append((key, complete, [task for task in tasks if task not in complete.index]))
    return blocks


def friedman(paired: Paired) -> pd.DataFrame:
    """Friedman's test over task means (columns FRIEDMAN), one row per model, init and metric with several tasks.

    p_value is the permutation test's: exact, or of so many random permutations (draws; 0 where it is exact).
    note: the tasks left out because a method is missing; where fewer than two tasks or three methods remain there is
    no test, and note says so.
    """
    return pd.DataFrame([(*key, *_friedman(table, other)) for key, table, other in _blocks(paired)], columns=FRIEDMAN)


def _friedman(table: pd.DataFrame, other: list[str]) -> tuple:
    n, k = table.shape
    note = f"incomplete, left out: {', '.join(other)}" if other else ""
    if n < 2 or k < 3:
        why = "two tasks with all methods" if n < 2 else "two methods beside the reference"
        return n, k, math.nan, math.nan, 0, "; ".join(filter(None, [f"no test: it takes {why}", note]))
    from scipy.stats import friedmanchisquare

    tied = (table.nunique(axis=1) == 1).all()
    chi2 = 0.0 if tied else float(friedmanchisquare(*table.to_numpy().T).statistic)
    return n, k, chi2, *friedman_p(table.rank(axis=1).to_numpy()), note


def ranks(paired: Paired) -> list[Ranks]:
    """Data of the critical-difference diagram per model, init and metric: mean ranks over tasks, and Nemenyi's p
    (Demsar 2006). For the eye: the test against the reference is `against_reference`."""
    found = []
    for key, table, _ in _blocks(paired):
        if len(table) < 2 or table.shape[1] < 3:
            continue
        from scikit_posthocs import posthoc_nemenyi_friedman

        mean_ranks = table.rank(axis=1, ascending=False).mean()
        p_values = posthoc_nemenyi_friedman(table.to_numpy())
        p_values.index = p_values.columns = table.columns
        found.append(Ranks(*key, len(table), mean_ranks, p_values))
    return found


# Each method against the reference, over tasks


def against_reference(paired: Paired) -> pd.DataFrame:
    """Each method against the reference over tasks (columns AGAINST), where there are several.

    Exact Wilcoxon over the tasks' mean differences, Holm over the methods of a model, init and metric; min_p_holm is
    the smallest that so many tasks and methods can give. effect with effect_low and effect_high (95%): the
    random-effects mean over n_effect tasks (Paule and Mandel, Student's t); tau: the standard deviation between tasks.
    A task needs two seeds and a spread to have a weight; note names those that have none.
    """
    groups = {
        key: {label: {task: c.differences for task, c in found.items()} for label, found in methods.items()}
        for key, methods in _groups(paired).items()
    }
    return _over_tasks(groups, paired.reference)


def _over_tasks(groups: dict, reference: str) -> pd.DataFrame:
    rows = []
    for key, methods in groups.items():
        means = {m: {t: np.mean(rounded(d)) for t, d in sorted(found.items())} for m, found in methods.items()}
        tests = tested({method: list(found.values()) for method, found in means.items()})
        for method, found in methods.items():
            values = list(means[method].values())
            mean = float(np.round(np.mean(values), DECIMALS)) + 0.0
            head = (*key, method, reference, len(found), tuple(means[method]), mean)
            rows.append((*head, *tests[method], *_random_effects(found)))
    return pd.DataFrame(rows, columns=AGAINST)


def tested(families: dict) -> dict[object, tuple]:
    """The values of TEST and min_p_holm for each name, of its differences; Holm over all of them."""
    tests = {name: signed_rank(d) for name, d in families.items()}
    corrected = holm(test.p_value for test in tests.values())
    floors = holm(min_p_value(test.n) for test in tests.values())
    return {
        name: (t.estimate, t.low, t.high, t.level, t.p_value, p, t.min_p_value, floor)
        for (name, t), p, floor in zip(tests.items(), corrected, floors, strict=True)
    }


def _random_effects(found: dict) -> tuple:
    """effect, effect_low, effect_high, tau, n_effect and note of {task: differences}."""
    means = {task: float(np.mean(rounded(d))) for task, d in found.items()}
    variances = {task: float(np.var(rounded(d), ddof=1)) / len(d) for task, d in found.items() if len(d) > 1}
    used = [task for task in sorted(found) if variances.get(task, 0) > 1e-12]
    without = [task for task in sorted(found) if task not in used]
    note = f"no spread over seeds, not in the effect: {', '.join(without)}" if without else ""
    if len(used) < 2:
        return math.nan, math.nan, math.nan, math.nan, len(used), note
    from statsmodels.stats.meta_analysis import combine_effects

    mean, variance = (np.array([values[task] for task in used]) for values in (means, variances))
    unit = np.sqrt(variance.mean())  # its stopping rule is absolute, made for effects of about 1
    with np.errstate(divide="ignore"):  # of its I^2, which is not used, where the means are equal
        result = combine_effects(mean / unit, variance / unit**2, method_re="iterated", use_t=True)
    low, high = result.conf_int()[1] * unit
    tau = math.sqrt(max(float(result.tau2), 0)) * unit
    return float(result.mean_effect_re * unit), float(low), float(high), float(tau), len(used), note


# The question of the paper


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


def _interactions(paired: Paired) -> list[tuple[Comparison, Comparison, tuple, np.ndarray]]:
    """Each (pretrained, random), the seeds that both have, and e_i = d_i(random) - d_i(pretrained)."""
    found = []
    for pretrained, random in _matched(paired)[0]:
        a, b = (dict(zip(c.seeds, c.differences, strict=True)) for c in (pretrained, random))
        seeds = tuple(seed for seed in pretrained.seeds if seed in b)
        if seeds:
            found.append((pretrained, random, seeds, rounded([b[seed] - a[seed] for seed in seeds])))
    return found


def interaction(paired: Paired) -> pd.DataFrame:
    """(method - reference | random) - (method - reference | pretrained), paired by seed (columns INTERACTION).

    The exact signed-rank test of hypothesis.py, Holm over the methods of a task, model and metric; min_p_holm is the
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
        for i, (pretrained, random, seeds, e) in enumerate(members):
            a, b = (dict(zip(c.seeds, c.differences, strict=True)) for c in (pretrained, random))
            told = pretrained.setting
            if random.setting != told:
                told = f"pretrained: {told or 'default'}; random: {random.setting or 'default'}"
            dropped = len(set(pretrained.seeds) ^ set(random.seeds))
            means = [float(np.mean([side[seed] for seed in seeds])) for side in (a, b)]
            spread = float(np.round(e.std(ddof=1), DECIMALS)) if len(e) > 1 else math.nan
            c = pretrained
            rows.append(
                (c.task, c.model, c.method, told, c.reference, c.metric, len(e), dropped, *means)
                + (float(np.round(e.mean(), DECIMALS)) + 0.0, spread, *tests[i], signed_rank(e).rank_biserial)
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
    for c, _, _, e in matched:
        label = f"{c.method} [{c.setting}]" if c.method in several and c.setting else c.method
        groups[c.model, BETWEEN_INITS, c.metric][label][c.task] = e
    tasks = {key: {task for found in methods.values() for task in found} for key, methods in groups.items()}
    return _over_tasks({key: methods for key, methods in groups.items() if len(tasks[key]) > 1}, paired.reference)


# What pairing saves


def pairing_gain(paired: Paired) -> pd.DataFrame:
    """Correlation of both scores over seeds, and what it saves (columns PAIRING), one row per comparison.

    low and high: Fisher's 95% interval, from four seeds on. unpaired_seeds: seeds per method, not paired, with
    the same standard error of the mean difference, n (s1^2 + s2^2) / sd^2; saved_seeds: those less n, negative where
    pairing costs. Missing where fewer than three seeds or no spread leave them open.
    """
    return pd.DataFrame([_gain(c) for c in paired.comparisons], columns=PAIRING)


def _gain(c: Comparison) -> tuple:
    head = (c.task, c.model, c.init, c.method, c.setting, c.reference, c.metric, len(c.seeds))
    if len(c.seeds) < 3:
        return *head, *[math.nan] * 8
    n, a, b = len(c.seeds), rounded(c.scores), rounded(c.reference_scores)
    s1, s2, sd = (float(np.round(values.std(ddof=1), DECIMALS)) for values in (a, b, a - b))
    r = low = high = math.nan
    if s1 > 0 and s2 > 0:
        r = float(np.clip(np.corrcoef(a, b)[0, 1], -1, 1))
    if n > 3 and abs(r) < 1:
        low, high = np.tanh(math.atanh(r) + np.array([-1, 1]) * 1.959964 / math.sqrt(n - 3)).tolist()
    unpaired = math.ceil(n * (s1**2 + s2**2) / sd**2 - 1e-6) if sd > 0 else math.nan
    return *head, s1, s2, sd, r, low, high, unpaired, unpaired - n


# Sentences


def directions(paired: Paired) -> list[str]:
    """Which way the metrics count, where it is not the usual one."""
    return direction.lines((c.metric, c.negated) for c in paired.comparisons)


def across_lines(friedman_table: pd.DataFrame, against: pd.DataFrame, level: float = 0.05) -> list[str]:
    """Sentences on `friedman` and `against_reference` (or `interaction_across`, with an empty first table)."""
    lines = []
    for row in friedman_table.to_dict("records"):
        where = f"{row['model']}, {row['init']}, {row['metric']}"
        if math.isnan(row["p_value"]):
            lines.append(f"Friedman ({where}): {row['note']}")
            continue
        note = f"; {row['note']}" if row["note"] else ""
        how = f"{row['draws']:,} random permutations" if row["draws"] else "exact"
        lines.append(
            f"Friedman over {row['n_tasks']} tasks and {row['n_methods']} methods ({where}): "
            f"chi-squared {row['chi2']:.2f}, p = {p_text(row['p_value'])} ({how}){note}"
        )
    return lines + [_across_line(row, level) for row in against.to_dict("records")]


def _across_line(row: dict, level: float) -> str:
    tasks = f"{row['n_tasks']} task{'s' if row['n_tasks'] > 1 else ''}"
    text = (
        f"{row['method']} vs {row['reference']} over {tasks} ({row['model']}, {row['init']}, {row['metric']}): "
        f"mean {row['mean_difference']:+.2f}, Wilcoxon over task means p = {p_text(row['p_value'])}, "
        f"Holm p = {p_text(row['p_holm'])}"
    )
    if row["min_p_holm"] > level:
        text += f" (so few tasks cannot give less than {p_text(row['min_p_holm'])}: {level:g} is out of reach)"
    if not math.isnan(row["effect"]):
        text += (
            f"; random-effects mean {row['effect']:+.2f} [{row['effect_low']:+.2f}, {row['effect_high']:+.2f}], "
            f"sd between tasks {row['tau']:.2f}"
        )
    return f"{text}; {row['note']}" if row["note"] else text


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


def pairing_line(table: pd.DataFrame) -> str:
    """What pairing saves over all comparisons of `pairing_gain`, in one sentence; "" where nothing is known."""
    known = table.dropna(subset=["correlation", "unpaired_seeds"])
    if known.empty:
        return ""
    n, seeds, r = (known[name].median() for name in ("n", "unpaired_seeds", "correlation"))
    several = f" (medians of {len(known)} comparisons)" if len(known) > 1 else ""
    saved = round(seeds - n)
    word = f"saves {saved} seeds" if saved > 0 else f"costs {-saved} seeds" if saved else "saves no seeds"
    return (
        f"pairing {word} per method: {n:.0f} paired seeds are as exact as {seeds:.0f} "
        f"unpaired ones, the scores' correlation over seeds is {r:.2f}{several}"
    )
