"""Error rates and power of the verdict rule, simulated with the functions that users get, beside the rule of before.

Differences of standard deviation 1 and a true effect of 0 to 2 sd, alone and in families of four (correlated .5 through
the common baseline), from three distributions, with a margin of 0.5 sd. Three designs: so many seeds; planned looks
(until=decided, looks 10, 14, 20); one verdict over seven tasks of five seeds. The rule of before: signed ranks whatever
the number of seeds, Bonferroni over looks, no verdict over tasks (its per-task verdicts are counted).
`python -m bench.verdicts --out FILE` prints Markdown tables and writes JSON.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.hypothesis import Pairs, holm, signed_rank, verdicts
from analysis.interim import at_looks
from analysis.judge import Rule
from analysis.margins import margins
from analysis.over_tasks import these_tasks
from analysis.pairing import Comparison, Paired
from analysis.present.render import to_markdown

SEEDS, EFFECTS, METHODS = (5, 6, 8, 10, 12, 20), (0.0, 0.5, 1.0, 2.0), (1, 4)
MARGIN, LEVEL, LOOKS = 0.5, 0.05, (10, 14, 20)
TASKS, PER_TASK, FAMILY = 7, 5, 5
DISTRIBUTIONS: dict[str, Callable] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy-tailed": lambda rng, shape: rng.standard_t(3, size=shape) / math.sqrt(3),  # t with 3 degrees, sd 1
    "discrete": lambda rng, shape: rng.normal(size=shape),  # then rounded to steps of half a sd: ties and zeros
}
STEP = 0.5


def scores(rng: np.random.Generator, distribution: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of methods `[draws, methods, ...]` and of their reference `[draws, 1, ...]`; a difference has sd 1."""
    draw, one = DISTRIBUTIONS[distribution], (shape[0], 1, *shape[2:])
    mine, theirs = draw(rng, shape) / math.sqrt(2), draw(rng, one) / math.sqrt(2)
    if distribution == "discrete":
        mine, theirs = np.round(mine / STEP) * STEP, np.round(theirs / STEP) * STEP
    return mine, np.broadcast_to(theirs, shape)


def before(mine: np.ndarray, theirs: np.ndarray, level: float = LEVEL) -> list[bool]:
    """Which methods `[methods, seeds]` the rule of before calls different."""
    return [p <= level for p in holm(signed_rank(d).p_value for d in mine - theirs)]


def fixed(draws: int, draws_null: int) -> pd.DataFrame:
    """The rule once, at n seeds."""
    rows = []
    for distribution in DISTRIBUTIONS:
        for methods in METHODS:
            for n in SEEDS:
                row: dict = {"d": distribution, "methods": methods, "n": n}
                for effect in EFFECTS:
                    rng = np.random.default_rng([len(rows), n])
                    mine, theirs = scores(rng, distribution, (draws if effect else draws_null, methods, n))
                    told = [_words(m + effect, t) for m, t in zip(mine, theirs, strict=True)]
                    old = [before(m + effect, t) for m, t in zip(mine, theirs, strict=True)]
                    if not effect:
                        row["false"] = np.mean([bool({"better", "worse"} & set(words)) for words in told])
                        row["false, before"] = np.mean([any(words) for words in old])
                        row["equivalent at 0"] = np.mean([[word == "equivalent" for word in words] for words in told])
                    else:
                        row[f"better at {effect:g}"] = np.mean([[word == "better" for word in words] for words in told])
                        row[f"{effect:g}, before"] = np.mean(old)
                    if effect == MARGIN:
                        row["equivalent at margin"] = np.mean(["equivalent" in words for words in told])
                rows.append(row)
    return pd.DataFrame(rows)


def _words(mine: np.ndarray, theirs: np.ndarray) -> list[str]:
    families = {i: Pairs(np.round(m, 9), np.round(t, 9)) for i, (m, t) in enumerate(zip(mine, theirs, strict=True))}
    return [verdict.word for verdict in verdicts(families, MARGIN, LEVEL).values()]


def sequential(draws: int, draws_null: int) -> pd.DataFrame:
    """The rule at planned looks, with the seeds that it spends on a method."""
    rows = []
    for distribution in DISTRIBUTIONS:
        for methods in METHODS:
            row: dict = {"d": distribution, "methods": methods}
            for effect in (0.0, 1.0):
                rng = np.random.default_rng([100 + len(rows)])
                mine, theirs = scores(rng, distribution, (draws if effect else draws_null, methods, LOOKS[-1]))
                told = [_at_looks(m + effect, t) for m, t in zip(mine, theirs, strict=True)]
                old = [_before_at_looks(m + effect, t) for m, t in zip(mine, theirs, strict=True)]
                words = [[word for word, _ in family] for family in told]
                if not effect:
                    row["false"] = np.mean([bool({"better", "worse"} & set(family)) for family in words])
                    row["false, before"] = np.mean([any(called for called, _ in family) for family in old])
                else:
                    row["better at 1"] = np.mean([[word == "better" for word in family] for family in words])
                    row["1, before"] = np.mean([[called for called, _ in family] for family in old])
                    row["seeds spent at 1"] = f"{np.mean([[look for _, look in family] for family in told]):.1f}"
                    row["spent, before"] = f"{np.mean([[look for _, look in family] for family in old]):.1f}"
            rows.append(row)
    return pd.DataFrame(rows)


def _at_looks(mine: np.ndarray, theirs: np.ndarray) -> list[tuple[str, int]]:
    families = {i: list(zip(m, t, strict=True)) for i, (m, t) in enumerate(zip(mine, theirs, strict=True))}
    return [(d.word, d.look or 0) for d in at_looks(families, MARGIN, LEVEL, LOOKS).values()]


def _before_at_looks(mine: np.ndarray, theirs: np.ndarray) -> list[tuple[bool, int]]:
    """Differences alone (equivalence ended a method too): whether it was called, and at which look."""
    p, ended = [1.0] * len(mine), [(False, LOOKS[-1])] * len(mine)
    open_ = set(range(len(mine)))
    for look in LOOKS:
        for i in open_:
            p[i] = signed_rank((mine - theirs)[i, :look]).p_value
        called = holm(p)
        for i in list(open_):
            if called[i] <= LEVEL / len(LOOKS):
                ended[i] = (True, look)
                open_.remove(i)
    return ended


def over_tasks(draws: int, draws_null: int) -> pd.DataFrame:
    """One verdict over tasks, and the best that per-task verdicts of the rule of before can do."""
    rows = []
    for distribution in [*DISTRIBUTIONS, "unequal spreads", "collapses"]:
        row: dict = {"d": distribution}
        for effect in (0.0, 0.5):
            rng = np.random.default_rng([200 + len(rows)])
            count, name = (
                draws if effect else draws_null // 4,
                distribution if distribution in DISTRIBUTIONS else "normal",
            )
            mine, theirs = scores(rng, name, (count, FAMILY, TASKS, PER_TASK))
            spread = np.geomspace(0.2, 5, TASKS)[:, None] if distribution == "unequal spreads" else 1.0
            if distribution == "collapses":  # one run in twenty loses ten sd
                mine = mine - 10 * (rng.random(mine.shape) < 0.05)
                theirs = theirs - 10 * (rng.random((count, 1, TASKS, PER_TASK)) < 0.05)
            told = [_these(m * spread + effect * spread, t * spread) for m, t in zip(mine, theirs, strict=True)]
            if not effect:
                row["false"] = np.mean([bool({"better", "worse"} & set(words)) for words in told])
            else:
                row["better at 0.5"] = np.mean([[word == "better" for word in words] for words in told])
                old = [
                    [before(m[:, task] + effect, t[:, task]) for task in range(TASKS)]
                    for m, t in zip(mine, theirs, strict=True)
                ]
                row["per task, before"] = np.mean(old)
        rows.append(row)
    return pd.DataFrame(rows)


def _these(mine: np.ndarray, theirs: np.ndarray) -> list[str]:
    comparisons = []
    for method, (of_method, of_reference) in enumerate(zip(mine, theirs, strict=True)):
        for task, (a, b) in enumerate(zip(of_method, of_reference, strict=True)):
            seeds = tuple(range(len(a)))
            ids = tuple(map(str, seeds))
            comparisons.append(
                Comparison(
                    f"t{task}", "m", "pretrained", "", f"m{method}", "", "finetune", "best/test/score", False, seeds,
                    tuple(a), tuple(b), tuple(a - b), ids, ids,
                )
            )  # fmt: skip
    paired = Paired("finetune", tuple(comparisons), pd.DataFrame(), pd.DataFrame())
    return list(these_tasks(paired, pd.DataFrame(), Rule(margins(MARGIN)))["verdict"])


def _percent(frame: pd.DataFrame) -> str:
    shown = frame.copy()
    for name in shown.columns:
        if shown[name].dtype == float:
            shown[name] = [f"{100 * value:.1f}%" for value in shown[name]]
    return to_markdown(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="also write the rates as JSON")
    parser.add_argument("--draws", type=int, default=250, help="families per cell with an effect")
    parser.add_argument("--draws-null", type=int, default=4000, help="families per cell without one")
    given = parser.parse_args()
    begin = time.process_time()
    found = {"seeds": fixed, "looks": sequential, "tasks": over_tasks}
    frames = {name: simulate(given.draws, given.draws_null) for name, simulate in found.items()}
    titles = {
        "seeds": "So many seeds",
        "looks": f"Looks at {', '.join(map(str, LOOKS))}, the undecided going on",
        "tasks": f"{TASKS} tasks of {PER_TASK} seeds, {FAMILY} methods",
    }
    for name, frame in frames.items():
        print(f"{titles[name]}:\n\n{_percent(frame)}\n")
    seconds = time.process_time() - begin
    print(f"{given.draws_null} families per cell without an effect, {given.draws} with one; {seconds:.0f} s")
    if given.out:
        about = {"margin": MARGIN, "level": LEVEL, "looks": LOOKS, "seconds": round(seconds, 1)}
        about |= {"python": platform.python_version()} | {name: version(name) for name in ("numpy", "scipy")}
        rates = {name: frame.to_dict("records") for name, frame in frames.items()}
        Path(given.out).write_text(json.dumps({"about": about} | rates, indent=1) + "\n")


if __name__ == "__main__":
    main()
