"""Error rates and power of the verdict rule, simulated with the function that users get.

Paired differences of standard deviation 1 and a true effect of 0 to 2 sd, alone and in families of four (correlated
.5 through the common baseline), from three distributions, with a margin of 0.5 sd; then the same rule at planned
looks (`until=decided`, looks 10, 14, 20), where only the undecided go on. `python -m bench.verdicts --out FILE`
prints a Markdown table and writes JSON; about five minutes on one core.
"""

import argparse
import json
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.design import at_looks
from analysis.hypothesis import verdicts
from analysis.present.tables import to_markdown

SEEDS, EFFECTS, METHODS = (5, 8, 10, 20), (0.0, 0.25, 0.5, 1.0, 2.0), (1, 4)
MARGIN, LEVEL, LOOKS = 0.5, 0.05, (10, 14, 20)
DISTRIBUTIONS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy-tailed": lambda rng, shape: rng.standard_t(3, size=shape) / math.sqrt(3),  # t with 3 degrees, sd 1
    "discrete": lambda rng, shape: rng.normal(size=shape),  # then rounded to steps of half a sd: ties and zeros
}
STEP = 0.5


def families(rng, distribution: str, draws: int, methods: int, n: int) -> np.ndarray:
    """Differences without effect `[draws, methods, seeds]`."""
    draw = DISTRIBUTIONS[distribution]
    own = draw(rng, (draws, methods, n))
    return own if methods == 1 else (own + draw(rng, (draws, 1, n))) / math.sqrt(2)


def lattice(distribution: str, d: np.ndarray) -> np.ndarray:
    return np.round(d / STEP) * STEP if distribution == "discrete" else d


def rates(words: list[list[str]], effect: float) -> dict[str, float]:
    """Shares of families (any_, wrong) and of methods (the words)."""
    called = [word for family in words for word in family]
    wrong = {"better", "worse"} if effect == 0 else {"worse"}
    return {word: called.count(word) / len(called) for word in ("better", "worse", "equivalent", "undecided")} | {
        "false_difference": sum(bool(wrong & set(family)) for family in words) / len(words),
        "any_equivalent": sum("equivalent" in family for family in words) / len(words),
    }


def fixed(draws: int, draws_null: int) -> list[dict]:
    """The rule once, at n seeds."""
    cells = []
    for distribution in DISTRIBUTIONS:
        for methods in METHODS:
            for n in SEEDS:
                for effect in EFFECTS:
                    rng = np.random.default_rng([len(cells), n])
                    count = draws if effect else draws_null
                    d = lattice(distribution, families(rng, distribution, count, methods, n) + effect)
                    told = [verdicts(dict(enumerate(family)), MARGIN, LEVEL) for family in d]
                    words = [[verdict.word for verdict in family.values()] for family in told]
                    cell = {"distribution": distribution, "methods": methods, "n": n, "effect": effect}
                    cells.append(cell | {"families": count} | rates(words, effect))
    return cells


def sequential(draws: int, draws_null: int) -> list[dict]:
    """The rule at planned looks, with the seeds that it spends on a method."""
    cells = []
    for distribution in DISTRIBUTIONS:
        for methods in METHODS:
            for effect in (0.0, 1.0):
                rng = np.random.default_rng([100 + len(cells)])
                count = draws if effect else draws_null
                d = lattice(distribution, families(rng, distribution, count, methods, LOOKS[-1]) + effect)
                told = [at_looks(dict(enumerate(map(list, family))), MARGIN, LEVEL, LOOKS) for family in d]
                words = [[decision.verdict.word for decision in family.values()] for family in told]
                looks = [decision.look for family in told for decision in family.values()]
                cell = {"distribution": distribution, "methods": methods, "effect": effect, "families": count}
                cells.append(cell | {"seeds": float(np.mean(looks))} | rates(words, effect))
    return cells


def exact_size(n: int) -> float:
    """The probability of p <= LEVEL without effect, one method and no ties: what a simulated rate scatters about."""
    ways = np.ones(1)
    for rank in range(1, n + 1):  # how many of the 2^n signs give each sum of ranks
        ways = np.convolve(ways, [1.0, *[0.0] * (rank - 1), 1.0])
    chance = ways / 2**n
    tail = np.minimum(1.0, 2 * np.cumsum(chance))  # two-sided p of a sum in the lower half
    return 2 * float(chance[: len(chance) // 2][tail[: len(chance) // 2] <= LEVEL].sum())


def tables(once: list[dict], looks: list[dict]) -> str:
    """Both results in percent, as Markdown."""
    rows = []
    keys = ["distribution", "methods", "n"]
    for (distribution, methods, n), cells in pd.DataFrame(once).groupby(keys, sort=False):
        by = cells.set_index("effect")
        row = {"d": distribution, "methods": methods, "n": n}
        row["false better/worse"] = _percent(by["false_difference"][0.0])
        row |= {f"better at {effect:g} sd": _percent(by["better"][effect]) for effect in EFFECTS[1:]}
        row["equivalent at 0"] = _percent(by["equivalent"][0.0])
        row[f"equivalent at {MARGIN:g} sd"] = _percent(by["any_equivalent"][MARGIN])
        row["wrong direction"] = _percent(by["false_difference"][list(EFFECTS[1:])].max())
        rows.append(row)
    later = []
    for (distribution, methods), cells in pd.DataFrame(looks).groupby(keys[:2], sort=False):
        by = cells.set_index("effect")
        row = {"d": distribution, "methods": methods, "false better/worse": _percent(by["false_difference"][0.0])}
        row |= {"better at 1 sd": _percent(by["better"][1.0]), "seeds spent at 1 sd": f"{by['seeds'][1.0]:.1f}"}
        later.append(row | {"seeds spent at 0": f"{by['seeds'][0.0]:.1f}"})
    title = f"until=decided, looks {', '.join(map(str, LOOKS))}, each at {LEVEL:g}/{len(LOOKS)}:"
    return f"{to_markdown(pd.DataFrame(rows))}\n\n{title}\n\n{to_markdown(pd.DataFrame(later))}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="also write the rates as JSON")
    parser.add_argument("--draws", type=int, default=250, help="families per cell with an effect")
    parser.add_argument("--draws-null", type=int, default=6000, help="families per cell without one")
    given = parser.parse_args()
    begin = time.process_time()
    once = fixed(given.draws, given.draws_null)
    looks = sequential(given.draws, given.draws_null)
    seconds = time.process_time() - begin
    print(tables(once, looks))
    sizes = ", ".join(f"n={n} {_percent(exact_size(n))}" for n in SEEDS)
    print(f"\nexact size, one method, no ties: {sizes}")
    print(f"\n{given.draws_null} families per cell without an effect, {given.draws} with one; {seconds:.0f} s")
    if given.out:
        about = {
            "margin": MARGIN,
            "level": LEVEL,
            "looks": LOOKS,
            "seconds": round(seconds, 1),
            "python": platform.python_version(),
        }
        about |= {name: version(name) for name in ("numpy", "scipy")}
        Path(given.out).write_text(json.dumps({"about": about, "once": once, "looks": looks}, indent=1) + "\n")


if __name__ == "__main__":
    main()
