"""The transcription of the paper, what its audit finds, and the audit of other people's tables."""

from collections import Counter
from decimal import Decimal

import pandas as pd
import pytest

from analysis import AnalysisError, paper
from analysis.paper import audit, statements, summary

pytestmark = pytest.mark.filterwarnings("error")
GLUE = "CoLA RTE MRPC SST-2 QNLI MNLI QQP Score".split()

# what does not agree: check, table, split, row, column, printed, what the other numbers give
FOUND = """
score                | 1 | dev  | Teacher    | Score       | 87.67 | 87.61
score                | 2 | dev  | Teacher    | Score       | 82.19 | 84.29
score                | 3 | dev  | Finetune   | Score       | 77.13 | 76.93
score                | 3 | dev  | Self-KD    | Score       | 77.16 | 77.22
score                | 3 | dev  | KD         | Score       | 77.34 | 77.27
score                | 7 | dev  | Teacher    | Score       | 87.67 | 87.61
score                | 7 | dev  | Base       | Score       | 61.87 | 61.80
score                | 7 | test | LS         | Score       | 60.72 | 61.13
deviation (unlikely) | 7 | dev  | KD         | Score       | 0.45  | about 0.20
p-value              | 8 |      | Base vs KD | Pre-trained | 0.94  | 0.9453
"""
# text against tables: section, answer, and words of what the tables say
DENIED = [
    ("Abstract", "open", "154 configurations in tables 1 to 7, 800 runs"),
    ("Abstract", "does not hold", "10 runs in table 6, 8 runs in table 8"),
    ("Abstract", "does not hold", "Base 77.90 to 78.44 and LS 78.47 to 78.87; Base 77.90 to 78.44 and TF-reg 78.66"),
    ("3.3", "open", "KD 82.94 to 83.22 and LS 82.63 to 82.93"),
    ("3.3", "does not hold", "Finetune 73.88 to 74.44 and Self-KD 74.74 to 75.10; LS 74.06 to 74.56 and Self-KD"),
    ("3.3", "open", "-0.006"),
    ("3.3", "does not hold", "table 1 dev KD Welch, Holm p = 0.0027; table 3 test Self-KD Welch, Holm p = 0.006"),
    ("1", "does not hold", "table 1 dev KD Welch, Holm p = 0.0027"),
    ("4.2.2", "does not hold", "LS 100% (table 1: 100%)"),
    ("Appendix D", "does not hold", "table 9: 0.5 for both"),
    ("Appendix D", "open", "1.5e-5"),
    ("Appendix D", "open", "0.1 for LS"),
]


@pytest.fixture(scope="module")
def found():
    return summary.of()


# The transcription


def test_every_cell_is_there_as_printed():
    cells = pd.read_csv(paper.CSV, dtype=str, keep_default_na=False)
    assert list(cells.columns) == paper.COLUMNS
    assert Counter(cells["table"]) == {"1": 96, "2": 96, "3": 96, "4": 10, "5": 10, "6": 6, "7": 96, "8": 5}
    glue = cells[cells["table"].isin(["1", "2", "3", "7"])]
    for (table, split), half in glue.groupby(["table", "split"]):
        base = "Base" if table == "7" else "Finetune"
        assert list(dict.fromkeys(half["row"])) == ["Teacher", base, "LS", "TF-reg", "Self-KD", "KD"], (table, split)
        assert all(list(row["column"]) == GLUE for _, row in half.groupby("row"))
        assert (half["std"] == "").eq(half["row"] == "Teacher").all()
    assert set(cells.loc[~cells["table"].isin(["1", "2", "3", "7"]), "split"]) == {""}
    at = cells.set_index(["table", "split", "row", "column"])
    assert at.loc[("2", "dev", "Teacher", "MNLI")].tolist() == ["86.3", ""], "digits as printed"
    assert at.loc[("7", "test", "KD", "MNLI")].tolist() == ["62.6", "0.0"]
    assert at.loc[("8", "", "Finetune vs AKD", "Pre-trained")].tolist() == ["0.74", ""]
    assert at.loc[("5", "", "Teacher", "Accuracy (test)")].tolist() == ["88.63", "0.45"]


# sums of all means and of all deviations, added up from the paper's pages by another program
@pytest.mark.parametrize(
    "table, mean, std",
    [
        ("1", "7878.72", "41.50"),
        ("2", "7410.17", "45.58"),
        ("3", "7311.32", "41.54"),
        ("4", "547.38", "5.66"),
        ("5", "868.40", "4.01"),
        ("6", "468.99", "1.41"),
        ("7", "6317.08", "42.75"),
        ("8", "2.16", "0"),
    ],
)
def test_sums_of_the_tables(table, mean, std):
    cells = pd.read_csv(paper.CSV, dtype=str, keep_default_na=False)
    cells = cells[cells["table"] == table]
    assert sum(map(Decimal, cells["mean"])) == Decimal(mean)
    assert sum(Decimal(text or "0") for text in cells["std"]) == Decimal(std)


# The audit of the paper


def test_the_list_of_numbers_that_do_not_agree(found):
    expected = [tuple(part.strip() for part in line.split("|")) for line in FOUND.strip().splitlines()]
    assert [tuple(row) for row in found.findings[audit.FINDINGS[:7]].values] == expected
    notes = found.findings["note"].tolist()
    assert notes[1] == "-2.10 from the mean of 7 tasks, rounding explains 0.02"
    assert "only zeros or ties give it (0.9375), or 0.9453 was cut off" in notes[-1]
    assert "at most 0.52" in notes[-2]


def test_the_list_of_statements_that_the_tables_do_not_support(found):
    rows = found.statements[found.statements["answer"] != statements.HOLDS]
    assert [(section, answer) for section, _, answer, _, _ in rows.values] == [line[:2] for line in DENIED]
    for told, (_, _, words) in zip(rows["found"], DENIED, strict=True):
        assert words in told
    assert len(found.statements) == len(statements.STATEMENTS) == 41


@pytest.mark.parametrize(
    "place, mean, statement, answer",
    [
        ("3 test Self-KD Score", 74.5, "DistilGPT-2 test: the intervals overlap", "holds"),
        ("3 test Self-KD Score", 74.5, "on average teacher-free methods are slightly better (test)", "does not hold"),
        ("8  Base vs KD|From scratch", 0.06, "SST-5 from scratch: the difference is significant", "does not hold"),
        ("7 dev Teacher RTE", 80.0, "the teacher of table 7 is that of table 1", "does not hold"),
        ("2 test KD Score", 76.5, "BERT-small test: all methods on par up to one deviation", "does not hold"),
        ("2 test KD Score", 76.0, "BERT-small test: LS is slightly better", "does not hold"),
        ("1 dev KD Score", 83.07, "DistilRoBERTa dev: KD's interval intersects with the teacher-free ones", "holds"),
        ("6  LS|Pre-trained", 79.2, "ResNet18: the gap diminishes notably for the pre-trained model", "does not hold"),
        ("7 test LS Score", 61.13, "from scratch intervals intersect much less (test)", "holds"),
    ],
)
def test_a_changed_number_changes_the_answer_that_rests_on_it(place, mean, statement, answer):
    table, split, rest = place.split(" ", 2)
    cells, at = paper.read(), [table, split, *(rest.split("|") if "|" in rest else rest.split(" "))]
    where = (cells[["table", "split", "row", "column"]] == at).all(axis=1)
    assert where.sum() == 1
    cells.loc[where, "mean"] = mean
    (check,) = [s.check for s in statements.STATEMENTS if s.words == statement]
    assert check(statements.Tables(cells))[0] == answer


def test_no_cell_of_five_seeds_can_be_significant_by_the_papers_own_test(found):
    five = found.ranges[found.ranges["n"] == 5]
    assert len(five) == 268 and (five["p_low"] >= 0.0625).all() and (five["says"] == audit.NEVER).all()
    ten = found.ranges[found.ranges["n"] == 10].set_index(["column", "row"])["says"].to_dict()
    assert ten == {
        ("From scratch", "LS"): audit.ALWAYS,
        ("From scratch", "TF-reg"): audit.ALWAYS,
        ("Pre-trained", "LS"): audit.PERHAPS,
        ("Pre-trained", "TF-reg"): audit.ALWAYS,
    }
    assert (found.ranges["p_low"] <= found.ranges["p_high"]).all()
    assert (found.ranges["p_welch"] <= found.ranges["p_welch_holm"]).all()


def test_the_papers_p_values_are_statistics_of_eight_pairs(found):
    rows = found.p_values[["row", "column", "printed", "W"]].values.tolist()
    assert rows == [
        ["Base vs TF-reg", "Pre-trained", "0.46", "12"],
        ["Base vs TF-reg", "From scratch", "0.01", "0"],
        ["Base vs KD", "Pre-trained", "0.94", "none"],
        ["Base vs KD", "From scratch", "0.01", "0"],
        ["Finetune vs AKD", "Pre-trained", "0.74", "15"],
    ]
    assert found.p_values["p_exact"].dropna().tolist() == [0.4609375, 0.0078125, 0.0078125, 0.7421875]
    assert found.p_values["power_80"].round(2).unique().tolist() == [1.25]


def test_welch_and_holm_are_scipys_and_statsmodels(found):
    from scipy.stats import ttest_ind_from_stats
    from statsmodels.stats.multitest import multipletests

    column = found.ranges[(found.ranges[["table", "split", "column"]] == ["1", "dev", "Score"]).all(axis=1)]
    other = [(82.78, 0.15), (82.78, 0.29), (82.81, 0.19), (83.08, 0.14)]
    p = [ttest_ind_from_stats(mean, std, 5, 82.64, 0.11, 5, equal_var=False).pvalue for mean, std in other]
    assert column["p_welch"].tolist() == pytest.approx(p)
    assert column["p_welch_holm"].tolist() == pytest.approx(multipletests(p, method="holm")[1].tolist())


def test_an_audit_says_the_same_each_time(found):
    pd.testing.assert_frame_equal(summary.of().statements, found.statements)


def test_the_text_of_the_audit(found, tmp_path):
    lines = summary.to_lines(found)
    assert lines[0] == "415 printed numbers of 8 tables" and not found.notes
    assert "Text against tables: 29 statements hold, 7 do not, 5 are open" in lines
    assert "Numbers that do not agree with each other: 10" in lines
    assert "nan" not in "\n".join(lines)
    for name, content in summary.files(found).items():
        (tmp_path / name).write_text(content)
    assert {path.name for path in tmp_path.iterdir()} == {"findings.csv", "statements.csv", "ranges.csv", "audit.txt"}
    assert pd.read_csv(tmp_path / "findings.csv", dtype=str)["printed"].tolist()[0] == "87.67"


# Another paper's table

HEADER = "table,split,row,column,mean,std\n"
GOOD = """A,,Baseline,x,80.0,1.0
A,,Baseline,y,60.0,2.0
A,,Baseline,Avg,70.0,1.2
A,,Mixup,x,82.0,1.0
A,,Mixup,y,61.0,2.0
A,,Mixup,Avg,71.5,1.2
"""


def audited(tmp_path, text, n=5, header=HEADER):
    path = tmp_path / "table.csv"
    path.write_text(header + text, encoding="utf-8")
    return summary.of(path, n)


def test_a_table_that_agrees_with_itself(tmp_path):
    found = audited(tmp_path, GOOD)
    assert found.findings.empty and found.statements.empty and not found.notes
    assert found.ranges["row"].tolist() == ["Mixup"] * 3 and found.ranges["reference"].tolist() == ["Baseline"] * 3
    assert "Numbers that do not agree with each other: 0" in summary.to_lines(found)


@pytest.mark.parametrize(
    "old, new, check, value",
    [
        ("Mixup,Avg,71.5,1.2", "Mixup,Avg,71.7,1.2", "score", "71.50"),
        ("Mixup,Avg,71.5,1.2", "Mixup,Avg,71.5,1.7", "deviation", "0.45 to 1.55"),
        ("Mixup,Avg,71.5,1.2", "Mixup,Avg,71.5,0.3", "deviation", "0.45 to 1.55"),
        ("Mixup,Avg,71.5,1.2", "Mixup,Avg,71.6,1.5", None, None),  # as much as rounding explains
    ],
)
def test_one_wrong_number_is_found(tmp_path, old, new, check, value):
    assert old in GOOD
    rows = audited(tmp_path, GOOD.replace(old, new)).findings
    assert rows["check"].tolist() == ([check] if check else [])
    if check:
        assert rows["found"].tolist() == [value] and rows["row"].tolist() == ["Mixup"]


@pytest.mark.parametrize(
    "p, n, found",
    [
        ("0.004", 8, "0.0078"),  # 8 pairs cannot
        ("0.0078", 8, None),
        ("0.01", 5, "0.0625"),
        ("0.06", 5, None),
        ("1.2", 5, "0 to 1"),
        ("0.50", 6, "0.4375"),
        ("0.94", 20, "0.9273"),  # tied values are not enumerated for so many
        ("0.03", 60, None),
    ],
)
def test_p_values_that_n_can_give(tmp_path, p, n, found):
    rows = audited(tmp_path, f"B,,Base vs X,test,{p},\n", n).findings
    assert rows["found"].tolist() == ([found] if found else [])


def test_what_cannot_be_checked_is_said(tmp_path):
    found = audited(tmp_path, "A,,mine,x,80,1\nA,,yours,x,81,1\nB,,base,x,80,1\nB,,new,x,90,1\n", n=60)
    told = "\n".join(found.notes)
    assert "methods not compared in table A: exactly one row must be named as one of finetune" in told
    assert "no Score column" in told and "n = 60 is above 12: the paired range is the t-test's" in told
    assert found.ranges["table"].tolist() == ["B"] and found.ranges["says"].tolist() == [audit.ALWAYS]
    assert "nan" not in "\n".join(summary.to_lines(found)).lower()


def test_deviations_of_zero(tmp_path):
    found = audited(tmp_path, "A,,base,x,80.0,0.0\nA,,new,x,81.0,0.0\nA,,other,x,80.0,0.0\n")
    assert found.ranges["p_low"].tolist() == [0.0625, 0.0625]
    assert found.ranges["p_welch"].isna().all(), "two samples without spread have no Welch test"
    assert "nan" not in "\n".join(summary.to_lines(found)).lower()


@pytest.mark.parametrize(
    "text, told",
    [
        ("A,,base,x,eighty,1\n", "line 2: mean is 'eighty', a number is needed"),
        ("A,,base,x,80,1\nA,,new,x,,1\n", "line 3: mean is empty"),
        ("A,,base,x,inf,1\n", "line 2: mean is 'inf'"),
        ("A,,base,x,80,-1\n", "line 2: std is below 0"),
        ("A,,base,x,80,1\nA,,base,x,80,1\n", "line 3: the cell A, base, x is there twice"),
    ],
)
def test_mistakes_in_a_table(tmp_path, text, told):
    with pytest.raises(AnalysisError, match=told):
        audited(tmp_path, text)


def test_mistakes_in_what_is_asked(tmp_path):
    with pytest.raises(AnalysisError, match="no column row, column; needed are table, split, row, column, mean, std"):
        audited(tmp_path, "A,,80,1\n", header="table,split,mean,std\n")
    with pytest.raises(AnalysisError, match="no such file"):
        summary.of(tmp_path / "absent.csv", 5)
    with pytest.raises(AnalysisError, match="n=5: it belongs to csv=FILE"):
        summary.of(None, 5)
    with pytest.raises(AnalysisError, match="give n too"):
        summary.of(tmp_path / "absent.csv")
