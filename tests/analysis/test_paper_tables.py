"""The paper's tables from runs that have its means and deviations: its own numbers come out, gaps are told."""

import re
import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest
from paper_runs import SEEDS, paper_shaped, row

from analysis import paper
from analysis.pairing import pair
from analysis.present.figures import figure1, figure1_scores
from analysis.present.paper_tables import COLUMNS, scores, tables
from analysis.present.typeset import as_latex, as_markdown, as_text, halves, heading

pytestmark = pytest.mark.filterwarnings("error")
KEY = ["table", "split", "row", "column"]


@pytest.fixture(scope="module")
def runs():
    return paper_shaped("12345678")


@pytest.fixture(scope="module")
def made(runs):
    return tables(runs, pair(runs))


def lines(made, table, split=""):
    cells = made.cells[(made.cells["table"] == table) & (made.cells["split"] == split)]
    ((_, _, frame),) = halves(replace(made, cells=cells))
    return frame.values.tolist()


def test_runs_with_the_papers_means_give_the_papers_tables(made):
    cells = paper.read().set_index(KEY)
    got = made.cells.set_index(KEY)
    tasks = cells[(cells.index.get_level_values("column") != "Score") & (cells.index.get_level_values("table") != "8")]
    joined = tasks.join(got.add_suffix("_got"))
    assert len(joined) == 415 - 5 - 48
    assert (joined["mean"] - joined["mean_got"]).abs().max() < 1e-9
    assert (joined["std"] - joined["std_got"]).abs().max() < 1e-9
    assert joined["difference_got"].abs().max() < 1e-9
    counts = (
        joined[joined["std"].notna()]
        .groupby("table")["n_got"]
        .agg(lambda found: found.iloc[0] if found.nunique() == 1 else 0)
    )
    assert counts.to_dict() == {name: paper.RUNS[name] for name in "1234567"}


def test_score_is_the_mean_over_tasks_per_seed(made, runs):
    of = runs[(runs["params.model"] == "bert-small") & (runs["params.method"] == "selfkd")]
    per_seed = of.groupby("params.seed")["metrics.best/test/score"].mean()
    (cell,) = made.cells[(made.cells[KEY] == ["2", "test", "Self-KD", "Score"]).all(axis=1)].to_dict("records")
    assert cell["mean"] == pytest.approx(per_seed.mean()) and cell["std"] == pytest.approx(per_seed.std())
    assert cell["n"] == 5 and (cell["paper_mean"], cell["paper_std"]) == (75.11, 0.41)
    wrong = made.cells[(made.cells[KEY] == ["3", "dev", "Finetune", "Score"]).all(axis=1)]
    assert wrong["difference"].tolist() == pytest.approx([-0.20], abs=0.005), "the paper's own Score is off"


def test_cells_are_printed_as_in_the_paper(made):
    one = lines(made, "1", "dev")
    assert one[0][:3] == ["Teacher", "68.14", "81.23"]
    assert one[3][:3] == ["Finetune", "60.53 ± 0.70", "68.66 ± 1.28"]
    assert one[4][:3] == ["(paper)", "60.53 ± 0.70", "68.66 ± 1.28"] and one[4][-1] == "82.64 ± 0.11"
    assert one[5][:3] == ["(difference)", "+0.00", "+0.00"]
    assert lines(made, "1", "test")[1][:2] == ["(paper)", "65.1"]
    seven = lines(made, "7", "test")
    assert seven[3][:2] == ["Base", "9.80 ± 0.10"] and seven[4][1] == "9.8 ± 0.1", "the paper's as it prints them"
    assert [line[0] for line in seven][::3] == ["Teacher", "Base", "LS", "TF-reg", "Self-KD", "KD"]
    assert lines(made, "5")[0][1:] == ["88.93 ± 0.27", "88.63 ± 0.45"], "a teacher per seed"
    assert lines(made, "6")[0] == ["Base", "77.04 ± 0.26", "78.17 ± 0.27"]
    assert heading(made, "6") == "Table 6: ResNet18 on CIFAR100 (n = 10)"
    assert heading(made, "1", "dev") == "Table 1: DistilRoBERTa on GLUE (dev, n = 5)"


def test_table_8_has_exact_p_values(made):
    eight = lines(made, "8")
    at = [line[0] for line in eight].index("Base vs KD")
    assert eight[at][2] == "0.01" and eight[at + 1][1:] == ["0.94", "0.01"], "columns as in the paper"
    exact = made.cells[(made.cells["table"] == "8") & (made.cells["column"] == "From scratch")]
    assert exact["mean"].tolist()[:2] == [2 / 256, 2 / 256] and exact["n"].tolist()[:2] == [8, 8]
    assert ["Finetune vs AKD", "", ""] in eight
    assert "table 8, Finetune vs AKD: Pre-trained" in made.missing
    assert not any("AKD: From scratch" in line for line in made.missing), "the paper has no such cell either"


def test_what_the_paper_does_not_show_gets_its_own_table(made):
    assert lines(made, "distilroberta random", "test") == [
        ["Teacher", "59.95"],
        ["Finetune", "37.05 ± 0.73"],
        ["TF-reg", "38.40 ± 0.98"],
        ["KD", "39.75 ± 1.22"],
    ]
    assert heading(made, "distilroberta random", "test") == "distilroberta random (test, n = 8)"


def test_missing_cells_are_empty_and_listed():
    def keep(place):
        table, method, task, split = place
        return not (
            (method == "kd" and task == "qnli")
            or (method == "selfkd")
            or (split == "test" and task in ("cola", "mnli"))
        )

    made = tables(frame := paper_shaped("1", keep), pair(frame))
    dev = {line[0]: line for line in lines(made, "1", "dev")}
    assert dev["KD"][1:] == ["62.13 ± 0.67", "68.66 ± 1.24", "90.83 ± 0.31", "92.73 ± 0.34", "", "84.34 ± 0.22",
                             "91.68 ± 0.08", ""]  # fmt: skip
    assert dev["Self-KD"][1:] == [""] * 8
    assert "table 1 dev, KD: QNLI" in made.missing
    assert "table 1 dev, Self-KD: everything" in made.missing
    assert "table 1 test, LS: CoLA, MNLI" in made.missing
    assert "table 2 (BERT-small on GLUE): no runs" in made.missing
    assert {line[0]: line for line in lines(made, "1", "test")}["LS"][-1] == "", "no Score without all tasks"
    assert not re.search(r"\bnan\b", as_text(made) + as_markdown(made) + as_latex(made))
    assert "\n- table 1 dev, KD: QNLI\n" in as_markdown(made)


@pytest.mark.parametrize(("selection", "dev", "test"), [("best", 10.0, 20.0), ("last", 30.0, 40.0)])
def test_cells_are_of_the_weights_that_are_kept(selection, dev, test):
    run = row("a", "rte", "m", "pretrained", "ls", 1, dev=10.0, test=20.0) | {"params.selection": selection}
    runs = pd.DataFrame([run | {"metrics.last/dev/score": 30.0, "metrics.last/test/score": 40.0}])
    found = scores(runs, pair(runs))
    assert dict(zip(found["split"], found["score"], strict=True)) == {"dev": dev, "test": test}


def test_what_another_study_adds_to_a_table_is_told_and_not_missed():
    """Table 8 has three seeds more of table 4's cells, and AKD, which is no row of table 4."""
    frame = paper_shaped("4")
    some = frame[frame["params.method"].isin(["finetune", "kd"]) & frame["params.seed"].isin(map(str, SEEDS[:3]))]
    more = some.assign(**{"params.seed": "9" + some["params.seed"], "run_id": some["run_id"] + "-more"})
    akd = some.assign(**{"params.method": "akd", "run_id": some["run_id"] + "-akd"}).drop(
        columns="metrics.best/dev/score"
    )
    frame = pd.concat([frame, more, akd], ignore_index=True)
    assert "table 4: up to 8 seeds a cell, where the paper has 5" in tables(frame, pair(frame)).missing, "no such study"
    made = tables(frame, pair(frame), {"table4"})
    assert (
        "table 4: up to 8 seeds a cell, where the paper has 5; study=table4 takes that study's runs alone"
        in made.missing
    )
    told = [line for line in made.missing if line.startswith(("table 4", "table 8"))]
    assert not any("AKD" in line and "table 4" in line or "LS" in line for line in told), told


def test_a_seed_that_lacks_a_task_has_no_score():
    frame = paper_shaped("1")
    gone = (frame["params.method"] == "ls") & (frame["params.task"] == "rte") & (frame["params.seed"] == str(SEEDS[1]))
    made = tables(frame := frame[~gone], pair(frame))
    (cell,) = made.cells[(made.cells[KEY] == ["1", "dev", "LS", "Score"]).all(axis=1)].to_dict("records")
    assert cell["n"] == 4
    assert f"table 1 dev, LS: no Score of seed {SEEDS[1]}, which lack tasks" in made.missing
    assert "n = 4 to 5" in heading(made, "1", "dev")


def test_another_study_gets_the_table_of_its_own_shape():
    rows = [
        row(f"{task} {method} {seed}", task, "my_model", "pretrained", method, seed, dev=70.0 + seed + gain)
        for task in ("a", "b & c")
        for method, gain in (("finetune", 0), ("mine", 1), ("ls", 0.5))
        for seed in (1, 2, 3)
    ]
    made = tables(frame := pd.DataFrame(rows), pair(frame))
    (table,) = list(halves(made))
    assert table[:2] == ("my_model pretrained", "dev")
    assert table[2].values.tolist()[1:] == [["LS", *["72.50 ± 1.00"] * 3], ["mine", *["73.00 ± 1.00"] * 3]]
    assert list(table[2].columns) == ["", "a", "b & c", "Score"]
    assert made.cells["paper_mean"].isna().all() and list(made.cells.columns) == COLUMNS
    assert r"my\_model" in as_latex(made) and r"b \& c" in as_latex(made)


def test_two_settings_of_a_method_are_two_rows_beside_one_of_the_paper():
    frame = paper_shaped("4")
    ls = frame[frame["params.method"] == "ls"]
    other = ls.assign(**{"params.alpha": "0.2", "run_id": ls["run_id"] + " b"})
    frame = pd.concat([frame.assign(**{"params.alpha": None}), other])
    rows = [line[0] for line in lines(tables(frame, pair(frame)), "4")][::3]
    assert rows == ["Teacher", "Finetune", "LS [alpha 0.2]", "LS [alpha none]", "TF-reg", "KD"]
    assert [line[1] for line in lines(tables(frame, pair(frame)), "4") if line[0] == "(paper)"].count(
        "53.50 ± 0.98"
    ) == 2


def test_one_run_has_no_deviation_and_no_runs_no_table():
    frame = pd.DataFrame([row("x", "sst5", "distilroberta", "pretrained", "finetune", 42, dev=53.0)])
    made = tables(frame, pair(frame))
    assert ["Finetune", "53.00", ""] in lines(made, "4")
    assert ["(difference)", "-0.40", ""] in lines(made, "4")
    empty = tables(pd.DataFrame(columns=["run_id"]), pair(pd.DataFrame()))
    assert empty.cells.empty and not empty.titles and len(empty.missing) == 8


def test_scores_of_a_table_without_splits_count_as_test():
    frame = pd.DataFrame(
        [row(str(i), "t", "m", "", m, i) | {"metrics.score": 1.0 * i} for i in (1, 2) for m in ("ls",)]
    )
    found = scores(frame, pair(frame, metric="score"))
    assert found["split"].tolist() == ["test", "test"] and found["score"].tolist() == [1.0, 2.0]


def test_latex_is_well_formed(made):
    text = as_latex(made)
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == len(made.titles)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == len(made.titles)
    assert "60.53 $\\pm$ 0.70" in text and "±" not in text
    for table in text.split(r"\begin{tabular}")[1:]:
        columns = len(re.match(r"\{l(c+)\}", table)[1])
        cells = [line for line in table.split(r"\end{tabular}")[0].splitlines() if " & " in line]
        assert cells and all(line.count(" & ") == columns for line in cells)
    odd = replace(made, cells=made.cells.assign(row="a_b 50% #1 $&"))
    assert r"a\_b 50\% \#1 \$\&" in as_latex(odd)


def test_latex_compiles(made, tmp_path):
    program = next(filter(shutil.which, ("tectonic", "pdflatex", "lualatex", "xelatex")), None)
    if program is None:
        pytest.skip("no LaTeX is installed (tectonic, pdflatex, lualatex or xelatex)")
    page = "\\documentclass{article}\n\\usepackage{booktabs}\n\\usepackage[margin=1cm]{geometry}\n\\begin{document}\n"
    (tmp_path / "page.tex").write_text(f"{page}{as_latex(made)}\\end{{document}}\n", encoding="utf-8")
    options = [] if program == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    ended = subprocess.run([program, *options, "page.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert (tmp_path / "page.pdf").stat().st_size > 1000


@pytest.mark.parametrize(("metric", "split"), [("accuracy", "test"), ("score", "test"), ("dev/accuracy", "dev")])
def test_a_table_with_a_metric_of_its_own_has_scores(metric, split):
    columns = ["task", "model", "init", "method", "seed"]
    rows = [("rte", "own", "pretrained", method, seed) for method in ("finetune", "kd") for seed in range(3)]
    frame = pd.DataFrame([dict(zip(columns, values, strict=True)) for values in rows]).add_prefix("params.")
    frame = frame.assign(run_id=[f"line {i}" for i in range(6)], **{"tags.labelreg.kind": "student"})
    frame[f"metrics.{metric}"] = [60.0, 61, 62, 63, 64, 65]
    found = scores(frame, pair(frame, metric=metric))
    assert found["score"].tolist() == [60, 61, 62, 63, 64, 65] and set(found["split"]) == {split}


def test_seeds_of_a_table_may_be_numbers_and_names():
    """Of tasks that have not the same ones: pandas cannot put 1 and s2 in order."""
    columns = ["task", "model", "init", "method", "seed"]
    of_task = {"a": ("1", "10", "9"), "b": ("1", "s2")}
    cells = [(t, m, s) for t, seeds in of_task.items() for m in ("finetune", "kd") for s in seeds]
    frame = pd.DataFrame([dict(zip(columns, (t, "own", "pretrained", m, s), strict=True)) for t, m, s in cells])
    frame = frame.add_prefix("params.").assign(run_id=frame.index.map(str), **{"tags.labelreg.kind": "student"})
    frame["metrics.score"] = [60.0 + i for i in range(len(frame))]
    paired = pair(frame, metric="score")
    found = tables(frame, paired)
    assert found.cells.set_index(["row", "column"])["n"].to_dict() == {
        **{(row, "a"): 3 for row in ("Finetune", "KD")},
        **{(row, "b"): 2 for row in ("Finetune", "KD")},
        **{(row, "Score"): 1 for row in ("Finetune", "KD")},
    }
    assert "table own pretrained test, KD: no Score of seed 9, 10, s2, which lack tasks" in found.missing


def test_fractions_of_a_table_keep_their_digits():
    columns = ["task", "model", "init", "method", "seed"]
    rows = [("rte", "own", "pretrained", method, seed) for method in ("finetune", "kd") for seed in range(3)]
    frame = pd.DataFrame([dict(zip(columns, values, strict=True)) for values in rows]).add_prefix("params.")
    frame = frame.assign(run_id=[f"line {i}" for i in range(6)], **{"tags.labelreg.kind": "student"})
    frame["metrics.accuracy"] = [0.7012, 0.7034, 0.7056, 0.7112, 0.7134, 0.7156]
    paired = pair(frame, metric="accuracy")
    assert "0.7034 ± 0.0022" in as_text(tables(frame, paired)), "not 0.70 ± 0.00"
    assert figure1(figure1_scores(scores(frame, paired), "own")[0]).axes[0].get_ylabel() == "test score"
    frame["metrics.accuracy"] *= 100
    paired = pair(frame, metric="accuracy")
    assert "70.34 ± 0.22" in as_text(tables(frame, paired))
    assert figure1(figure1_scores(scores(frame, paired), "own")[0]).axes[0].get_ylabel() == "test score (%)"
