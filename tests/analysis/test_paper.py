"""The transcription of the paper, what its audit finds, and the audit of other people's tables."""

from collections import Counter
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from analysis import AnalysisError, paper
from analysis.paper import audit, summary

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
    assert found.p_values["power_80"].unique().tolist() == [pytest.approx(1.25, abs=0.07)]


def test_welch_and_holm_are_scipys_and_statsmodels(found):
    from scipy.stats import ttest_ind_from_stats
    from statsmodels.stats.multitest import multipletests

    column = found.ranges[(found.ranges[["table", "split", "column"]] == ["1", "dev", "Score"]).all(axis=1)]
    other = [(82.78, 0.15), (82.78, 0.29), (82.81, 0.19), (83.08, 0.14)]
    p = [ttest_ind_from_stats(mean, std, 5, 82.64, 0.11, 5, equal_var=False).pvalue for mean, std in other]
    assert column["p_welch"].tolist() == pytest.approx(p)
    assert column["p_welch_holm"].tolist() == pytest.approx(multipletests(p, method="holm")[1].tolist())


def test_an_audit_says_the_same_each_time(found):
    pd.testing.assert_frame_equal(summary.of().findings, found.findings)


def test_the_text_of_the_audit(found, tmp_path):
    lines = summary.to_text(found).splitlines()
    assert lines[0] == "415 printed numbers of 8 tables" and not found.notes
    assert "Numbers that do not agree with each other: 10" in lines
    assert "nan" not in "\n".join(lines)
    for name, content in summary.files(found).items():
        (tmp_path / name).write_text(content)
    assert {path.name for path in tmp_path.iterdir()} == {"findings.csv", "ranges.csv", "audit.txt"}
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
    assert found.findings.empty and not found.notes
    assert found.ranges["row"].tolist() == ["Mixup"] * 3 and found.ranges["reference"].tolist() == ["Baseline"] * 3
    assert "Numbers that do not agree with each other: 0" in summary.to_text(found).splitlines()


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


def test_fractions_are_told_with_the_decimals_that_are_printed(tmp_path):
    """0.7532 beside a mean of 0.75, "+0.00 from the mean", said nothing."""
    text = "".join(f"A,,{row},{column},{mean},{std}\n" for row, column, mean, std in (
        ("Base", "x", "0.6612", "0.0041"), ("Base", "y", "0.8411", "0.0032"), ("Base", "Avg", "0.7532", "0.0001"),
        ("LS", "x", "0.6651", "0.0035"), ("LS", "y", "0.8423", "0.0021"), ("LS", "Avg", "0.7537", "0.0020"),
    ))  # fmt: skip
    found = audited(tmp_path, text)
    assert found.findings["found"].tolist() == ["0.7511", "0.0004 to 0.0037"]
    assert found.findings["note"][0] == "+0.0020 from the mean of 2 tasks, rounding explains 0.0001"
    (line,) = [line for line in summary.to_text(found).splitlines() if line.startswith("A             x ")]
    assert line.split()[4] == "0.0039"


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


def test_a_p_value_of_the_score_is_no_mean_of_p_values(tmp_path):
    tested = "".join(
        f"A,,Baseline vs Mixup,{column},{p},\n" for column, p in (("x", "0.31"), ("y", "0.44"), ("Avg", "0.06"))
    )
    found = audited(tmp_path, GOOD + tested)
    assert found.findings.empty and len(found.p_values) == 3


def test_of_many_pairs_no_p_value_is_said_to_be_impossible(tmp_path):
    """0.03 of 60 pairs is one of many; "none" stood beside it."""
    (row,) = audited(tmp_path, "B,,Base vs X,test,0.03,\n", 60).p_values.to_dict("records")
    assert row["W"] == "" and np.isnan(row["p_exact"])
    (row,) = audited(tmp_path, "B,,Base vs X,test,0.03,\n", 5).p_values.to_dict("records")
    assert row["W"] == "none"


def test_what_cannot_be_checked_is_said(tmp_path):
    found = audited(tmp_path, "A,,mine,x,80,1\nA,,yours,x,81,1\nB,,base,x,80,1\nB,,new,x,90,1\n", n=60)
    told = "\n".join(found.notes)
    assert "methods not compared in table A: exactly one row must be named as one of finetune" in told
    assert "no Score column" in told and "n = 60 is above 12: the paired range is the t-test's" in told
    assert found.ranges["table"].tolist() == ["B"] and found.ranges["says"].tolist() == [audit.ALWAYS]
    assert "nan" not in summary.to_text(found).lower()


def test_a_column_that_the_reference_lacks_is_named(tmp_path):
    found = audited(tmp_path, GOOD.replace("A,,Baseline,y,60.0,2.0\n", ""))
    assert found.ranges["column"].tolist() == ["x", "Avg"]
    assert any(note.startswith("methods not compared in table A (y): exactly one row") for note in found.notes)


def test_deviations_of_zero(tmp_path):
    found = audited(tmp_path, "A,,base,x,80.0,0.0\nA,,new,x,81.0,0.0\nA,,other,x,80.0,0.0\n")
    assert found.ranges["p_low"].tolist() == [0.0625, 0.0625]
    assert found.ranges["p_welch"].isna().all(), "two samples without spread have no Welch test"
    assert "nan" not in summary.to_text(found).lower()


def deviations(score_sd, tasks=((1.0, 3.0, 0.5), (0.8, 2.0, 0.9), (1.3, 2.4, 0.2))):
    """Three rows of three tasks with these deviations, and of their Score what `score_sd` makes of them."""
    text = ""
    for i, (row, stds) in enumerate(zip(("Base", "Mixup", "Cutout"), tasks, strict=True)):
        text += "".join(f"A,,{row},t{j},{70 + i + j}.00,{sd:.2f}\n" for j, sd in enumerate(stds))
        text += f"A,,{row},Score,{71 + i}.00,{score_sd(stds):.2f}\n"
    return text


def test_a_mean_of_deviations_is_taken_for_what_it_is(tmp_path):
    rows = audited(tmp_path, deviations(lambda stds: sum(stds) / 3)).findings
    assert rows["check"].tolist() == ["deviation (a mean)"] * 3 and rows["row"].tolist() == ["Base", "Mixup", "Cutout"]
    assert set(rows["note"]) == {"the mean of the tasks' deviations, not the deviation of a score"}
    assert rows["printed"].tolist() == ["1.50", "1.23", "1.30"]
    usual = audited(tmp_path, deviations(lambda stds: sum(sd**2 for sd in stds) ** 0.5 / 3)).findings
    assert usual.empty, "what independent tasks give"
    one = deviations(lambda stds: sum(stds) / 3 if stds[0] == 1.0 else sum(sd**2 for sd in stds) ** 0.5 / 3)
    assert "deviation (a mean)" not in set(audited(tmp_path, one).findings["check"]), "one may be so by accident"


def test_columns_that_are_no_scores_are_left_and_named(tmp_path):
    with_params = GOOD + "A,,Baseline,Params,66,\nA,,Mixup,Params,110,\nA,,Mixup,#layers,12,\n"
    found = audited(tmp_path, with_params)
    assert found.findings.empty and found.notes == ("no scores, not looked at: #layers, Params",)
    pd.testing.assert_frame_equal(found.ranges, audited(tmp_path, GOOD).ranges)
    assert "note: no scores, not looked at: #layers, Params" in summary.to_text(found).splitlines()
    task = audited(tmp_path, GOOD.replace(",y,", ",parameter tying,"))
    assert not task.notes and len(task.ranges) == 3, "a score whose name only begins so"


@pytest.mark.parametrize(
    "row, column, judged",
    [
        ("Base vs X", "test", True),
        ("Base vs X (t-test)", "test", False),
        ("Base vs X", "t-test", False),
        ("Base vs X, t tests", "acc", False),
        ("Base vs X", "p (t)", False),
        ("Base vs X (Welch)", "acc", False),
        ("Base vs X", "test set", True),
    ],
)
def test_p_values_of_other_tests_are_not_judged_as_signed_rank(tmp_path, row, column, judged):
    found = audited(tmp_path, f'B,,"{row}",{column},0.001,\n', 5)
    assert found.findings["found"].tolist() == (["0.0625"] if judged else [])
    assert len(found.p_values) == judged and found.ranges.empty


def test_a_baseline_without_a_deviation_is_accepted(tmp_path):
    from scipy.stats import ttest_1samp

    found = audited(tmp_path, "A,,Baseline,x,80.0,\nA,,Mixup,x,82.0,1.0\nA,,Cutout,x,80.0,1.0\n", 8)
    rows = found.ranges.set_index("row")
    assert rows["reference"].tolist() == ["Baseline"] * 2
    assert not any("not compared" in note for note in found.notes)
    assert rows["difference"].to_dict() == {"Mixup": 2.0, "Cutout": 0.0}
    sample = np.array([-1, 1, -1, 1, -1, 1, -1, 1]) * (7 / 8) ** 0.5  # sd 1 of eight
    assert rows["p_welch"]["Mixup"] == pytest.approx(ttest_1samp(sample + 2, 0).pvalue)
    low, high = rows.loc["Mixup", ["p_t_low", "p_t_high"]]
    assert low < ttest_1samp(sample + 2, 0).pvalue < high, "rounding of the means alone"
    assert rows["says"]["Cutout"] == audit.NEVER and "nan" not in summary.to_text(found).lower()


def test_a_number_beyond_all_scores_is_no_traceback(tmp_path):
    lines = summary.to_text(audited(tmp_path, "A,,base,x,1e30,1\nA,,new,x,2e30,1\n")).splitlines()
    assert any("1e+30" in line for line in lines)


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


@pytest.mark.parametrize(
    "text, told", [("", "it has no numbers; a row is"), ("A,,base,Params,66,\n", "it has no numbers but Params, which")]
)
def test_a_table_without_scores_is_a_mistake(tmp_path, text, told):
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
