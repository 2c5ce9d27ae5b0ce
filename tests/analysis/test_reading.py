"""Scores from tables that labelreg did not write: what counts, what is listed, what is refused."""

import re

import pandas as pd
import pytest

from analysis import AnalysisError
from analysis.pairing import pair
from analysis.present.render import plain_text, to_csv
from analysis.reading import csv_table, scores_table, study_runs

pytestmark = pytest.mark.filterwarnings("error")

HEAD = "task,model,init,method,seed,score\n"
GOOD = "".join(f"rte,bert,random,{m},{s},{60 + s + (m == 'kd')}\n" for m in ("finetune", "kd") for s in range(3))


@pytest.fixture
def table(tmp_path):
    def write(text, name="scores.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_a_plain_table(table):
    runs, told = scores_table(table(HEAD + GOOD))
    assert told == ["scores.csv: 6 rows; 1 task, 2 methods, 3 seeds"]
    paired = pair(runs, metric="score")
    (found,) = paired.comparisons
    assert (found.task, found.model, found.init, found.method) == ("rte", "bert", "random", "kd")
    assert found.metric == "score" and found.seeds == (0, 1, 2) and found.differences == (1, 1, 1)
    assert found.run_ids == ("line 5", "line 6", "line 7") and paired.left_out.empty


def test_a_table_without_rows_is_an_answer(table):
    runs, _ = scores_table(table(HEAD))
    assert runs.empty and pair(runs, metric="score").comparisons == ()


def test_columns_in_any_order_with_a_mark_and_spaces_and_columns_of_ones_own(table):
    text = (
        "\ufeffscore, seed,method , init,model,task,who\n61,0,kd,random,bert,rte,x\n60,0,finetune ,random,bert,rte,y\n"
    )
    runs, told = scores_table(table(text))
    assert pair(runs, metric="score").comparisons[0].differences == (1,)
    assert told[1] == (
        "columns that are not used: who (a setting's column has its parameter's name, such as lr, batch_size or alpha)"
    )


def test_settings_of_a_table_count_as_such(table):
    lines = [f"rte,bert,random,{m},{s},{60 + s}" for m in ("finetune", "kd", "kd") for s in range(3)]
    alpha = ["", "", "", *["0.5"] * 3, *["0.9"] * 3]
    text = HEAD.strip() + ",alpha\n" + "".join(f"{line},{a}\n" for line, a in zip(lines, alpha, strict=True))
    paired = pair(scores_table(table(text))[0], metric="score")
    assert [c.setting for c in paired.comparisons] == ["alpha 0.5", "alpha 0.9"]


def test_two_rows_of_one_seed_and_a_score_that_is_missing_are_listed(table):
    text = HEAD + GOOD + "rte,bert,random,kd,1,70\nrte,bert,random,ls,0,\nrte,bert,random,ls,1,nan\n"
    paired = pair(scores_table(table(text))[0], metric="score")
    reasons = dict(zip(paired.left_out["run_id"], paired.left_out["reason"], strict=True))
    assert paired.comparisons[0].seeds == (0, 2)
    assert set(reasons) == {"line 3", "line 6", "line 8", "line 9", "line 10"}
    assert "conflict: line 6, line 8" in reasons["line 8"]
    assert reasons["line 9"] == reasons["line 10"] == "no such metric: score is missing or no finite number"


@pytest.mark.parametrize("end", [",\n", ",,\n", "\r\n", "\n\n", "\n , \n"])
def test_commas_at_the_end_and_empty_lines_change_nothing(table, end):
    path = table("\n" + HEAD + GOOD.replace("\n", end))
    runs, told = scores_table(path)
    plain, _ = scores_table(table(HEAD + GOOD, "plain.csv"))
    lines = path.read_text(encoding="utf-8").split("\n")
    found = [lines[int(run_id.removeprefix("line ")) - 1].split(",")[3:5] for run_id in runs["run_id"]]
    assert found == [list(pair) for pair in zip(plain["params.method"], plain["params.seed"], strict=True)]
    columns = [name for name in plain if name != "run_id"]
    assert runs[columns].values.tolist() == plain[columns].values.tolist() and len(told) == 1


def test_a_cell_may_be_as_long_as_a_plan_that_reused_many_runs(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text(f"a,b\n1,{'x' * 200_000}\n")
    assert len(csv_table(path)["b"].iloc[0]) == 200_000


def test_a_cell_with_a_line_break_moves_no_line(table):
    text = 'task,model,init,method,seed,score,note\nr,b,x,kd,1,2,"a\nb"\nr,b,x,kd,2,2\n'
    assert scores_table(table(text))[0]["run_id"].tolist() == ["line 2", "line 4"]


def test_another_column_of_scores(table):
    text = (HEAD + GOOD).replace("score", "test/nll")
    (found,) = pair(scores_table(table(text), "test/nll")[0], metric="test/nll").comparisons
    assert found.metric == "test/nll" and found.negated and found.differences == (-1, -1, -1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "task,model,method,seed,score\na,b,c,1,2\n",
            "no column init; needed: task, model, init, method, seed, score;",
        ),
        (
            "task;model;init\n",
            "its columns are separated by semicolons; commas are needed",
        ),
        ("task\tmodel\tscore\n", "separated by tabs"),
        ("", "cannot be read as CSV"),
        (HEAD + "a,b,c,d,1,2,3,4\na,b\n" + 'a,"b', "cannot be read as CSV"),
        (HEAD + "a,b,c,finetune,1,high\n", "score in line 2 is 'high', no number"),
        ("task,model,init,method,seed,score,score \n", "the column score stands there twice"),
        ("task,model,init,method,seed,score,score\na,b,c,kd,1,2,3\n", "the column score stands there twice"),
        (HEAD + "a,b,c,kd,1,2\n\na,b,c,kd,2,2,5\n", "line 4 has 7 cells, the first line 6"),
        (HEAD + "\na,b,c,kd,1,high\n", "score in line 3 is 'high', no number"),
        (HEAD + 'a,b,c,kd,1,"78,72"\n', "'78,72', no number; decimals are written with a point"),
        (HEAD + "a,b,c,kd,1,78,72\n", "line 2 has 7 cells, the first line 6; decimals are written with a point"),
        (
            HEAD + 'a,b,c,kd,1,"1,078.72"\n',
            "'1,078.72', no number; decimals are written with a point, thousands",
        ),
        (HEAD + "a,b,c,kd,1,1_0\n", "score in line 2 is '1_0', no number"),
        (HEAD + "a,b,c,kd,1,0x1F\n", "score in line 2 is '0x1F', no number"),
        (HEAD + "a,b,c,kd,1,True\n", "score in line 2 is 'True', no number"),
        (HEAD + "a,b,c,kd,1,80 ± 1\n", "no number"),
        (HEAD + "a,b,c,kd,1,2\na,b,c,KD,2,2\n", "method 'kd' in line 2 and 'KD' in line 3: one name in two spellings"),
        (HEAD + "a,b\u200b,c,kd,1,2\na,b,c,ls,1,2\n", r"model 'b\u200b' in line 2 and 'b' in line 3: one name"),
        (HEAD + "café,b,c,kd,1,2\ncafe\u0301,b,c,ls,1,2\n", r"task 'caf\xe9' in line 2 and 'cafe\u0301' in line 3"),
        (HEAD + "a b,b,c,kd,1,2\na  B,b,c,kd,2,2\n", "task 'a b' in line 2 and 'a  B' in line 3"),
    ],
)
def test_mistakes_in_a_table(table, text, told):
    with pytest.raises(AnalysisError) as error:
        scores_table(table(text))
    assert str(error.value).startswith("csv=") and told in str(error.value) and "\n" not in str(error.value)


def test_a_table_that_cannot_be_opened(tmp_path, table):
    with pytest.raises(AnalysisError, match="none.csv: no such file"):
        scores_table(tmp_path / "none.csv")
    with pytest.raises(AnalysisError, match="directory"):
        scores_table(tmp_path)
    for name in ("seed", "method", "lr"):
        with pytest.raises(AnalysisError, match=f"metric={name}: this column is no score"):
            scores_table(table(HEAD + GOOD), name)


def test_a_table_that_is_not_utf_8(tmp_path):
    (tmp_path / "scores.csv").write_bytes(b"task,model\xff\xfe\n")
    with pytest.raises(AnalysisError, match="cannot be read as CSV .byte 10 is not UTF-8"):
        scores_table(tmp_path / "scores.csv")


def test_seeds_are_names(table):
    """As in two repetitions of ten folds: 1.1 and 1.10 are two."""
    folds = ["1.1", "1.10", "01", "1", "a", " a2 "]
    rows = [f"r,b,x,{m},{f},{i + (m == 'kd')}" for m in ("finetune", "kd") for i, f in enumerate(folds)]
    paired = pair(scores_table(table(HEAD + "\n".join(rows)))[0], metric="score")
    (found,) = paired.comparisons
    assert set(found.seeds) == {"1.1", "1.10", "01", 1, "a", "a2"} and found.differences == (1,) * 6
    assert paired.left_out.empty


@pytest.mark.parametrize("names", [("fold1", "Fold2"), ("1.1", "2.1"), ("cv1", "cv_2"), ("r1f1", "r1f2")])
def test_seeds_that_are_named_as_folds_are_told(table, names):
    rows = [f"r,b,x,{m},{name},{at}" for m in ("finetune", "kd") for at, name in enumerate(names)]
    told = f"seeds are named like folds ({', '.join(names)}): "
    assert any(line.startswith(told) for line in scores_table(table(HEAD + "\n".join(rows)))[1])


def test_whole_seeds_beside_an_empty_cell_are_no_folds(table):
    """As pandas writes a column with a gap: 0.0, 1.0; and beside 0, 1 they are the same seeds."""
    rows = [f"r,b,x,{m},{seed}{'.0' * (m == 'kd')},{seed}" for m in ("finetune", "kd") for seed in range(3)]
    assert scores_table(table(HEAD + "\n".join(rows)))[1] == ["scores.csv: 6 rows; 1 task, 2 methods, 3 seeds"]


def test_names_that_look_like_formulas_come_back(table):
    name = "=1+1"
    text = HEAD + GOOD.replace(",kd,", f",{name},")
    (found,) = pair(scores_table(table(text))[0], metric="score").comparisons
    assert found.method == name
    written = to_csv(pd.DataFrame({"method": [name, "-x", "'=y", "kd", "-1"], "n": [-1, 2, 3, 4, 5]}))
    assert written.splitlines()[1:] == ["'=1+1,-1", "'-x,2", "''=y,3", "kd,4", "-1,5"]
    assert [plain_text(line.rpartition(",")[0]) for line in written.splitlines()[1:]] == [name, "-x", "'=y", "kd", "-1"]
    (found,) = pair(scores_table(table(text.replace(name, f"'{name}")))[0], metric="score").comparisons
    assert found.method == name


# Percent and fractions


def column(**methods):
    """The rows of a table: a list of scores for each method."""
    rows = [f"rte,bert,random,{m},{seed},{score}" for m, found in methods.items() for seed, score in enumerate(found)]
    return HEAD + "\n".join(rows) + "\n"


MIXED = {
    "a method in fractions": dict(finetune=[78.7, 79.1, 77.9, 78.2], kd=[0.787, 0.79, 0.783, 0.78]),
    "as coarse as the percent": dict(finetune=[78.72, 79.1, 77.9, 78.25], kd=[0.79, 0.78, 0.8, 0.81]),
    "whole doubles": dict(finetune=[100 * k / 277 for k in (210, 214, 219)], kd=[k / 277 for k in (211, 215, 218)]),
    "one row": dict(finetune=[78.7, 79.1, 77.9], kd=[78.8, 0.791, 78.9]),
    "one run each": dict(finetune=["78.7"], kd=["0.787"]),
    "half of a method": dict(finetune=[60.1, 61.2, 60.7, 60.3, 60.2, 60], kd=[61.5, 60.9, 60.2, 0.61, 0.6, 0.62]),
    "one of them collapsed": dict(finetune=[78.7, 79.1, 77.9, 79], kd=[0.78, 0.79, 0.5, 0.77]),
    "some at one": dict(finetune=[98.7, 99.1, 97.9, 99], kd=["1.0", "0.99", "0.98", "0.97"]),
}
PERCENT = {
    "accuracies of hundreds of classes": dict(finetune=[0.8, 0.9, 1.2, 0.7], kd=[1.6, 2.1, 0.9, 1.8]),
    "one seed at chance": dict(finetune=[80.1, 79.2, 0.8, 79.9], kd=[80.4, 80.2, 79.7, 80.5]),
    "one class of 150": dict(finetune=[85.33, 84.67, 85.2, 86.1], kd=[0.67, 0.67, 0.67, 0.67]),
    "near one class of 150": dict(finetune=[95.33, 94.67, 95.2, 96.1], kd=[0.62, 0.71, 0.67, 0.69]),
    "Matthews near nothing": dict(finetune=[50.1, 51.3, 49.8, 0.9], kd=[0.0, 0.9, -0.4, 0.6]),
    "whole doubles of Matthews": dict(finetune=[50.12345678, 51.3012345678], kd=[0.4312345678, 50.2212345678]),
    "nothing and one": dict(finetune=[0, 1, 0, 1], kd=[50, 51, 100, 0]),
    "counts": dict(finetune=[223, 213, 0.5], kd=[230, 220, 210]),
    "marked": dict(finetune=["78.7%", "79.1%", "77.9%"], kd=["0.787%", "0.79%", "0.78%"]),
}


@pytest.mark.parametrize("methods", MIXED.values(), ids=MIXED)
def test_percent_and_fractions_in_one_column_are_refused_with_two_rows(methods, table):
    with pytest.raises(AnalysisError) as error:
        scores_table(table(column(**methods)))
    assert "both of task rte: fractions and percent in one column" in str(error.value)
    first, second = re.findall(r"([\d.]+) in line \d+", str(error.value))
    assert float(first) < 1.5 < float(second)


@pytest.mark.parametrize("methods", PERCENT.values(), ids=PERCENT)
def test_low_scores_are_no_fractions(methods, table):
    runs, told = scores_table(table(column(**methods)))
    assert runs["metrics.score"].tolist() == [float(str(s).rstrip("%")) for found in methods.values() for s in found]
    rows = [float(str(s)) for found in methods.values() for s in found if not str(s).endswith("%")]
    remark = any(0 < abs(s) < 1 for s in rows) and any(abs(s) > 1.5 for s in rows)
    assert remark == any("taken to be in one unit" in line for line in told)


def test_each_task_has_a_unit_of_its_own(table):
    text = column(finetune=[78.7, 79.1, 77.9], kd=[78, 79, 80])
    text += "cola,bert,random,kd,0,0.787\ncola,bert,random,kd,1,0.8\n"
    assert len(scores_table(table(text))[1]) == 1


def test_what_was_read_is_counted(table):
    text = HEAD + GOOD + "rte,bert,random,ls,0,\nrte,bert,random,ls,1,NaN\nrte,bert,random,ls,2,inf\n"
    assert scores_table(table(text))[1] == ["scores.csv: 9 rows, 3 of them without a score; 1 task, 3 methods, 3 seeds"]


def test_the_runs_of_a_study():
    runs = pd.DataFrame({"run_id": ["a", "b", "c"], "tags.labelreg.study": ["table1", None, "table8"]})
    assert study_runs(runs, "table8")["run_id"].tolist() == ["c"]
    with pytest.raises(AnalysisError, match="study 'tabel8' is unknown; nearest: table8; there are: table1, table8"):
        study_runs(runs, "tabel8")
    with pytest.raises(AnalysisError, match="there are: none"):
        study_runs(pd.DataFrame(), "table8")


def test_what_labelreg_alone_writes_is_read_from_its_own_tables(table):
    """In anyone else's `dev` may be a word, `data` the name of a data set, `fingerprint` a number of their own."""
    rows = [f"rte,bert,random,{m},{s},{60 + s},{{dev}},{m}" for m in ("finetune", "kd") for s in range(3)]

    def read(dev, prints):
        named = [",fingerprint" if prints else "", *(f",{prints.format(i)}" if prints else "" for i in range(6))]
        lines = [HEAD.strip() + ",dev,data", *(row.format(dev=dev) for row in rows)]
        return scores_table(table("\n".join(map("".join, zip(lines, named, strict=True)))))[0]

    assert len(pair(read("set A", ""), metric="score").comparisons) == 1
    assert len(pair(read("best", "{}"), metric="score").comparisons) == 1
    assert pair(read(1, "{:032x}"), metric="score").comparisons == (), "other data are no pair"
    with pytest.raises(AnalysisError, match="dev in line 2 is 'best', no number"):
        read("best", "{:032x}")
