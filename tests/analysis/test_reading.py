"""Scores from tables that labelreg did not write: what counts, what is listed, what is refused."""

import pandas as pd
import pytest

from analysis import AnalysisError
from analysis.pairing import pair
from analysis.reading import scores_table, study_runs

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
    runs, unused = scores_table(table(HEAD + GOOD))
    paired = pair(runs, metric="score")
    (found,) = paired.comparisons
    assert (found.task, found.model, found.init, found.method) == ("rte", "bert", "random", "kd")
    assert found.metric == "score" and found.seeds == (0, 1, 2) and found.differences == (1, 1, 1)
    assert found.run_ids == ("line 5", "line 6", "line 7") and unused == [] and paired.left_out.empty


def test_a_table_without_rows_is_an_answer(table):
    runs, _ = scores_table(table(HEAD))
    assert runs.empty and pair(runs, metric="score").comparisons == ()


def test_columns_in_any_order_with_a_mark_and_spaces_and_columns_of_ones_own(table):
    text = (
        "\ufeffscore, seed,method , init,model,task,who\n61,0,kd,random,bert,rte,x\n60,0,finetune ,random,bert,rte,y\n"
    )
    runs, unused = scores_table(table(text))
    assert pair(runs, metric="score").comparisons[0].differences == (1,)
    assert unused == ["who"]


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
    runs, unused = scores_table(path)
    plain, _ = scores_table(table(HEAD + GOOD, "plain.csv"))
    lines = path.read_text(encoding="utf-8").split("\n")
    told = [lines[int(run_id.removeprefix("line ")) - 1].split(",")[3:5] for run_id in runs["run_id"]]
    assert told == [list(pair) for pair in zip(plain["params.method"], plain["params.seed"], strict=True)]
    columns = [name for name in plain if name != "run_id"]
    assert runs[columns].values.tolist() == plain[columns].values.tolist() and unused == []


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
        ("task;model;init\n", "no column task, model, init, method, seed, score"),
        ("", "cannot be read as CSV"),
        (HEAD + "a,b,c,d,1,2,3,4\na,b\n" + 'a,"b', "cannot be read as CSV"),
        (HEAD + "a,b,c,finetune,1,high\n", "score in line 2 is 'high', no number"),
        ("task,model,init,method,seed,score,score \n", "the column score stands there twice"),
        ("task,model,init,method,seed,score,score\na,b,c,kd,1,2,3\n", "the column score stands there twice"),
        (HEAD + "a,b,c,kd,1,2\n\na,b,c,kd,2,2,5\n", "line 4 has 7 cells, the first line 6"),
        (HEAD + "\na,b,c,kd,1,high\n", "score in line 3 is 'high', no number"),
    ],
)
def test_mistakes_in_a_table(table, text, told):
    with pytest.raises(AnalysisError) as error:
        scores_table(table(text))
    assert str(error.value).startswith("csv=") and told in str(error.value) and "\n" not in str(error.value)


def test_no_such_table(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(AnalysisError, match="no such file"):
            scores_table(path)


def test_a_table_that_is_not_text(tmp_path):
    (tmp_path / "scores.csv").write_bytes(b"task,model\xff\xfe\n")
    with pytest.raises(AnalysisError, match="cannot be read as CSV"):
        scores_table(tmp_path / "scores.csv")


def test_the_runs_of_a_study():
    runs = pd.DataFrame({"run_id": ["a", "b", "c"], "tags.labelreg.study": ["table1", None, "table8"]})
    assert study_runs(runs, "table8")["run_id"].tolist() == ["c"]
    with pytest.raises(AnalysisError, match="study 'tabel8' is unknown; nearest: table8; there are: table1, table8"):
        study_runs(runs, "tabel8")
    with pytest.raises(AnalysisError, match="there are: none"):
        study_runs(pd.DataFrame(), "table8")
