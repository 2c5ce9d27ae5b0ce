"""What the paper's text says of its tables, as data, and what the tables say.

Each statement has the section, the paper's words and a check on the printed numbers. An interval is mean +- one
standard deviation, as in the paper. Where rounding of the printed digits decides, the answer is "open".
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import pandas as pd

from analysis.paper import RUNS, audit, possible

HOLDS, FAILS, OPEN = "holds", "does not hold", "open"
COLUMNS = ["section", "statement", "answer", "printed", "found"]
METHODS = ("LS", "TF-reg", "Self-KD", "KD")
TEACHER_FREE = METHODS[:3]
BASE = {"6": "Base", "7": "Base"}  # elsewhere "Finetune"
NLU = ("1", "2", "3")
NOISE = possible.NOISE


@dataclass(frozen=True)
class Statement:
    """One sentence of the paper; `check` gives (answer, what the text says, what the tables say)."""

    section: str
    words: str
    check: "Check"


class Tables:
    """The printed cells by (table, split, row, column)."""

    def __init__(self, printed: pd.DataFrame):
        place = ("table", "split", "row", "column")
        self.cells = {tuple(row[name] for name in place): row for row in printed.to_dict("records")}

    def cell(self, table: str, split: str, row: str, column: str = "Score") -> dict:
        return self.cells[table, split, row, column]

    def gap(self, table: str, split: str, row: str, column: str = "Score") -> float:
        """Method - base, in points."""
        base = self.cell(table, split, base_of(table), column)
        return round(self.cell(table, split, row, column)["mean"] - base["mean"], 9)


Check = Callable[[Tables], tuple[str, str, str]]  # (answer, what the text says, what the tables say)


def base_of(table: str) -> str:
    """The name of the row without label regularisation."""
    return BASE.get(table, "Finetune")


def _ends(cell: dict) -> tuple[float, float]:
    return cell["mean"] - cell["std"], cell["mean"] + cell["std"]


def _between(one: dict, other: dict) -> tuple[float, float]:
    """Distance between two intervals (negative: they intersect), and what rounding may add to it."""
    (a, b), (c, d) = _ends(one), _ends(other)
    return max(a, c) - min(b, d), sum(cell[f"{name}_half"] for cell in (one, other) for name in ("mean", "std"))


def _told(name: str, cell: dict) -> str:
    low, high = _ends(cell)
    return f"{name} {low:.2f} to {high:.2f}"


def intersect(
    table: str,
    split: str,
    pairs: Iterable[tuple[str, str]],
    column: str = "Score",
    some: bool = False,
    claim: bool = True,
) -> Check:
    """Check that the intervals of all `pairs` of rows (or of some) intersect; with `claim` False, that none do."""
    pairs = list(pairs)  # an iterator would give the first audit of a process its pairs, and the next one none

    def check(tables: Tables) -> tuple[str, str, str]:
        answers, apart = [], []
        for names in pairs:
            cells = [tables.cell(table, split, name, column) for name in names]
            distance, rounding = _between(*cells)
            meets = OPEN if 0 < distance - NOISE <= rounding else HOLDS if distance <= NOISE else FAILS
            answers.append(meets)
            if (meets != HOLDS) == claim:
                apart.append(" and ".join(map(_told, names, cells)))
        if not claim:
            answers = [{HOLDS: FAILS, FAILS: HOLDS}.get(answer, OPEN) for answer in answers]
        answer = (_any if some else _all)(answers)
        quoted = "intersect" if claim else "do not intersect"
        found = quoted if answer == HOLDS else "; ".join(apart)
        return answer, quoted, found

    return check


def _all(answers: list[str]) -> str:
    return FAILS if FAILS in answers else OPEN if OPEN in answers else HOLDS


def _any(answers: list[str]) -> str:
    return HOLDS if HOLDS in answers else OPEN if OPEN in answers else FAILS


def beside_base(table: str, rows: Sequence[str] = METHODS) -> list[tuple[str, str]]:
    return [(base_of(table), row) for row in rows]


def all_pairs(table: str, rows: Sequence[str] = METHODS) -> list[tuple[str, str]]:
    return list(combinations((base_of(table), *rows), 2))


def ordered(table: str, split: str, rows: Sequence[str], above: bool = True, column: str = "Score") -> Check:
    """Check that the means of `rows` are above (below) the base's."""

    def check(tables: Tables) -> tuple[str, str, str]:
        gaps = {row: tables.gap(table, split, row, column) * (1 if above else -1) for row in rows}
        wrong = [row for row, gap in gaps.items() if gap <= 0]
        sign = 1 if above else -1
        told = ", ".join(f"{row} {gap * sign:+.2f}" for row, gap in gaps.items())
        return FAILS if wrong else HOLDS, f"{'above' if above else 'below'} {base_of(table)}", told

    return check


def best(table: str, split: str, row: str, column: str = "Score") -> Check:
    """Check that a method's mean is the highest."""

    def check(tables: Tables) -> tuple[str, str, str]:
        means = {name: tables.cell(table, split, name, column)["mean"] for name in (base_of(table), *METHODS)}
        first = max(means, key=lambda name: means[name])
        return HOLDS if first == row else FAILS, f"{row} is best", f"{first} {means[first]:.2f}"

    return check


def shared_more(earlier: str, later: str, split: str) -> Check:
    """Check that the later table's intervals share less with its base's than the earlier's do, or nothing."""

    def check(tables: Tables) -> tuple[str, str, str]:
        shares = {row: tuple(_shared(tables, table, split, row) for table in (earlier, later)) for row in METHODS}
        wrong = {row: share for row, share in shares.items() if share[1] > 0 and share[1] >= share[0]}
        told = ", ".join(
            f"{row} {share[1]:.0%} (table {earlier}: {share[0]:.0%})" for row, share in (wrong or shares).items()
        )
        return FAILS if wrong else HOLDS, "much smaller or nonexistent", f"of the narrower interval is shared: {told}"

    return check


def _shared(tables: Tables, table: str, split: str, row: str) -> float:
    base, cell = tables.cell(table, split, base_of(table)), tables.cell(table, split, row)
    distance, _ = _between(base, cell)
    return min(1.0, max(0.0, round(-distance, 9)) / (2 * min(base["std"], cell["std"])))


def larger_gaps(
    later: tuple[str, str], earlier: tuple[str, str], split: str = "", rows: Sequence[str] = METHODS
) -> Check:
    """Check that the gaps of one (table, column) are above those of another."""

    def check(tables: Tables) -> tuple[str, str, str]:
        gaps = {row: [tables.gap(t, split, row, column) for t, column in (later, earlier)] for row in rows}
        answer = HOLDS if all(one > other for one, other in gaps.values()) else FAILS
        return (
            answer,
            "larger",
            ", ".join(f"{row} {one:+.2f} against {other:+.2f}" for row, (one, other) in gaps.items()),
        )

    return check


def slightly_better(rows: Sequence[str], split: str) -> Check:
    """Check that the gaps of `rows`, averaged over the three pre-trained GLUE tables, are above 0."""

    def check(tables: Tables) -> tuple[str, str, str]:
        mean = sum(tables.gap(table, split, row) for table, row in product(NLU, rows)) / len(rows) / len(NLU)
        rounding = 2 * 0.005
        return HOLDS if mean > rounding else OPEN if mean > -rounding else FAILS, "above 0", f"{mean:+.3f}"

    return check


def not_significant(*rows: str) -> Check:
    """Check that no Score of tables 1 to 3 differs from Finetune's by Welch's test with Holm's correction."""

    def check(tables: Tables) -> tuple[str, str, str]:
        frame = pd.DataFrame([cell for key, cell in tables.cells.items() if key[0] in NLU and key[3] == "Score"])
        tested = audit.ranges(frame, RUNS)
        low = tested[(tested["p_welch_holm"] <= audit.LEVEL) & tested["row"].isin(rows)].to_dict("records")
        told = [f"table {r['table']} {r['split']} {r['row']} Welch, Holm p = {r['p_welch_holm']:.2g}" for r in low]
        return FAILS if low else HOLDS, "p above 0.05", "; ".join(told) or "no p below 0.05 (Welch, unpaired)"

    return check


def p_side(column: str, rows: Sequence[str], below: bool) -> Check:
    """Check that table 8's p-values of a column are below (above) 0.05."""

    def check(tables: Tables) -> tuple[str, str, str]:
        values = {row: tables.cell("8", "", row, column)["mean"] for row in rows}
        right = all((value < audit.LEVEL) == below for value in values.values())
        told = ", ".join(f"{row} {value:.2f}" for row, value in values.items())
        return HOLDS if right else FAILS, f"p {'below' if below else 'above'} 0.05", told

    return check


def same_teacher(tables: Tables) -> tuple[str, str, str]:
    """Check that the teachers of tables 1 and 7, one model, have the same scores."""
    keys = [key[1:] for key in tables.cells if key[0] == "1" and key[2] == "Teacher"]
    other = [key for key in keys if tables.cells["1", *key]["mean"] != tables.cells["7", *key]["mean"]]
    return FAILS if other else HOLDS, "RoBERTa-large in both", f"{len(keys) - len(other)} of {len(keys)} numbers agree"


def configurations(tables: Tables) -> tuple[str, str, str]:
    """Count what was run several times in tables 1 to 7: one (table, method, task or initialisation) each."""
    keys = {
        (table, row, "" if table in "45" else column)
        for (table, _, row, column), cell in tables.cells.items()
        if cell["std"] == cell["std"] and row != "Teacher" and column != "Score"
    }
    runs = sum(RUNS[table] for table, _, _ in keys)
    return OPEN, "more than 600 trials, each run 5 times", f"{len(keys)} configurations in tables 1 to 7, {runs} runs"


def said(answer: str, printed: str, found: str) -> Check:
    """Two places of the text, or text and tables 9 to 13, beside each other."""
    return lambda tables: (answer, printed, found)


STATEMENTS = (
    Statement("Figure 1", "for the pre-trained model all intervals intersect", intersect("1", "test", all_pairs("1"))),
    Statement("Figure 1", "from scratch label regularization outperforms base training", ordered("7", "test", METHODS)),
    Statement("Abstract", "600 distinct trials, each configuration five times", configurations),
    Statement(
        "Abstract",
        "ran each configuration five times",
        said(FAILS, "5 runs", "10 runs in table 6, 8 runs in table 8"),
    ),
    Statement(
        "Abstract",
        "no meaningful role when the student is pre-trained, in NLP and computer vision",
        intersect("6", "", beside_base("6", ("LS", "TF-reg")), "Pre-trained"),
    ),
    Statement("3.3", "DistilRoBERTa dev: teacher-free methods outperform Finetune", ordered("1", "dev", TEACHER_FREE)),
    Statement("3.3", "DistilRoBERTa dev: KD is the best technique", best("1", "dev", "KD")),
    Statement(
        "3.3",
        "DistilRoBERTa dev: KD's interval intersects with the teacher-free ones",
        intersect("1", "dev", product(("KD",), TEACHER_FREE)),
    ),
    Statement(
        "3.3",
        "DistilRoBERTa test: teacher-free methods are slightly worse than Finetune",
        ordered("1", "test", TEACHER_FREE, above=False),
    ),
    Statement("3.3", "DistilRoBERTa test: KD is on average the best technique", best("1", "test", "KD")),
    Statement(
        "3.3",
        "DistilRoBERTa test: KD is comparable with Finetune up to one deviation",
        intersect("1", "test", beside_base("1", ("KD",))),
    ),
    Statement(
        "3.3",
        "BERT-small dev: teacher-free methods on par with Finetune up to one deviation",
        intersect("2", "dev", beside_base("2", TEACHER_FREE)),
    ),
    Statement("3.3", "BERT-small dev: LS is slightly better than Finetune", ordered("2", "dev", ("LS",))),
    Statement("3.3", "BERT-small dev: KD is the best performer", best("2", "dev", "KD")),
    Statement(
        "3.3",
        "BERT-small dev: KD's interval intersects with some of the teacher-free ones",
        intersect("2", "dev", product(("KD",), TEACHER_FREE), some=True),
    ),
    Statement("3.3", "BERT-small test: all methods on par up to one deviation", intersect("2", "test", all_pairs("2"))),
    Statement("3.3", "BERT-small test: LS is slightly better", best("2", "test", "LS")),
    Statement("3.3", "DistilGPT-2 dev: the intervals overlap", intersect("3", "dev", all_pairs("3"))),
    Statement("3.3", "DistilGPT-2 test: the intervals overlap", intersect("3", "test", all_pairs("3"))),
    Statement("3.3", "on average KD is slightly better (dev)", slightly_better(("KD",), "dev")),
    Statement("3.3", "on average KD is slightly better (test)", slightly_better(("KD",), "test")),
    Statement("3.3", "on average teacher-free methods are slightly better (dev)", slightly_better(TEACHER_FREE, "dev")),
    Statement(
        "3.3", "on average teacher-free methods are slightly better (test)", slightly_better(TEACHER_FREE, "test")
    ),
    Statement("3.3", "the gap to pure fine-tuning is not significant", not_significant(*METHODS)),
    Statement("1", "KD does not significantly outperform fine-tuning", not_significant("KD")),
    Statement(
        "4.1.1",
        "SST-5: deviations too large to call any technique superior (dev)",
        intersect("4", "", all_pairs("4", ("LS", "TF-reg", "KD")), "Accuracy (dev)"),
    ),
    Statement(
        "4.1.1",
        "SST-5: deviations too large to call any technique superior (test)",
        intersect("4", "", all_pairs("4", ("LS", "TF-reg", "KD")), "Accuracy (test)"),
    ),
    Statement(
        "4.1.2",
        "FewRel: all methods similar up to one deviation (dev)",
        intersect("5", "", all_pairs("5", ("LS", "TF-reg", "KD")), "Accuracy (dev)"),
    ),
    Statement(
        "4.1.2",
        "FewRel: all methods similar up to one deviation (test)",
        intersect("5", "", all_pairs("5", ("LS", "TF-reg", "KD")), "Accuracy (test)"),
    ),
    Statement(
        "4.2.1",
        "ResNet18 from scratch: base and label regularization do not intersect",
        intersect("6", "", beside_base("6", ("LS", "TF-reg")), "From scratch", claim=False),
    ),
    Statement(
        "4.2.1",
        "ResNet18: the gap diminishes notably for the pre-trained model",
        larger_gaps(("6", "From scratch"), ("6", "Pre-trained"), rows=("LS", "TF-reg")),
    ),
    Statement("4.2.2", "the teacher of table 7 is that of table 1", same_teacher),
    Statement("4.2.2", "from scratch the gap is bigger (dev)", larger_gaps(("7", "Score"), ("1", "Score"), "dev")),
    Statement("4.2.2", "from scratch the gap is bigger (test)", larger_gaps(("7", "Score"), ("1", "Score"), "test")),
    Statement("4.2.2", "from scratch intervals intersect much less (dev)", shared_more("1", "7", "dev")),
    Statement("4.2.2", "from scratch intervals intersect much less (test)", shared_more("1", "7", "test")),
    Statement(
        "4.2.2",
        "SST-5 pre-trained: no significant difference",
        p_side("Pre-trained", ("Base vs TF-reg", "Base vs KD", "Finetune vs AKD"), below=False),
    ),
    Statement(
        "4.2.2",
        "SST-5 from scratch: the difference is significant",
        p_side("From scratch", ("Base vs TF-reg", "Base vs KD"), below=True),
    ),
    Statement(
        "Appendix D",
        "different alpha values for random and pre-trained GLUE experiments",
        said(FAILS, "different alpha", "4.2.2: hyperparameters of the pre-trained experiments; table 9: 0.5 for both"),
    ),
    Statement(
        "Appendix D",
        "learning rate selected among 9e-6, 1e-5, 2e-5, 3e-5",
        said(OPEN, "9e-6, 1e-5, 2e-5 or 3e-5", "table 12 (FewRel, tuned by 4.1.2): 1.5e-5"),
    ),
    Statement(
        "Appendix D",
        "alpha selected among 0.4, 0.5, 0.7, 0.8, 0.9, 0.95",
        said(OPEN, "0.4 to 0.95", "tables 9, 10 and 12: 0.1 for LS"),
    ),
)


def check(printed: pd.DataFrame) -> pd.DataFrame:
    """All STATEMENTS with the answer, what the text says and what the tables say (COLUMNS)."""
    tables = Tables(printed)
    return pd.DataFrame([(s.section, s.words, *s.check(tables)) for s in STATEMENTS], columns=COLUMNS)
