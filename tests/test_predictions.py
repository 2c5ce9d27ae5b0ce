"""`significance` on a real store whose runs have predictions: read, not read, left out."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from running import call, refused, succeed
from sklearn.metrics import f1_score

from analysis.present import answer
from labelreg.store import tracking
from labelreg.whole import digest

pytest_plugins = ["running"]


@pytest.fixture
def runs_of_mrpc(store, tmp_path):
    """finetune and ls with seeds 0 to 2, their F1 on dev and its predictions; ls with seed 2 has none."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    for method in ("finetune", "ls"):
        for seed in range(3):
            p = np.clip(0.5 + (labels - 0.5) * 0.4 + rng.normal(0, 0.2, 80), 0.01, 0.99)
            with tracking.open_run("student", f"{method} {seed}") as run:
                run.params({"task": "mrpc", "model": "m", "init": "pretrained", "method": method, "seed": seed})
                run.tags({tracking.FINGERPRINT: digest(f"{method}{seed}")})
                score = 100 * f1_score(labels, p > 0.5)
                run.metrics({"best/dev/score": score, "cost/train_seconds": 3.0, "best/epoch": 2})
                if (method, seed) != ("ls", 2):
                    folder = tmp_path / f"{method}{seed}" / "predictions"
                    folder.mkdir(parents=True)
                    table = pd.DataFrame({"idx": np.arange(80), "label": labels, "p_0": 1 - p, "p_1": p})
                    table.to_parquet(folder / "dev.parquet", index=False)
                    run.folder(folder.parent)


def test_predictions_of_many_classes_are_written_without_a_word(tiny, tmp_path):
    """pandas warned once for each class beyond the hundredth."""
    rows = "".join(f"a good film,c{n % 120}\n" for n in range(360))
    (tmp_path / "many.csv").write_text(f"text,label\n{rows}")
    assert succeed("train_student", **tiny | {"train_file": tmp_path / "many.csv", "max_length": 8}).err == ""


def test_significance_reads_predictions(runs_of_mrpc, tmp_path, monkeypatch):
    ended = succeed("significance", output_dir=tmp_path / "out", verbose=True)
    assert ended.err == ""
    assert re.search(r"f1 +crossed +2 +80 ", ended.out)
    assert (
        "are left out here: no predictions of dev" in ended.out
        or "is left out here: no predictions of dev" in ended.out
    )
    assert "other half of dev" in ended.out and "teacher_seconds" in ended.out
    told = json.loads((tmp_path / "out" / "significance.json").read_text())
    assert [row["score"] for row in told["examples"]] == ["f1"]
    assert told["cost"][0]["train_seconds"] == 3
    assert "## Cost" in (tmp_path / "out" / "significance.md").read_text()

    ended = succeed("significance", examples="false", verbose=True)
    assert "crossed" not in ended.out and "Cost" in ended.out
    monkeypatch.setattr(answer, "MOST_RUNS", 5)
    ended = succeed("significance", verbose=True)
    assert "predictions of more than 5 runs are not read unasked" in ended.out and "examples=true" in ended.out
    assert "crossed" in succeed("significance", examples="true", verbose=True).out


def test_the_scores_of_an_answer_give_it_again(runs_of_mrpc, tmp_path):
    """A table that outlives its store: verdicts, calibration, costs, and what is said of the runs."""
    succeed("significance", output_dir="of_runs", margin=3)
    table = pd.read_csv("of_runs/scores.csv")
    assert len(table) == 6 and set(table["examples"]) == {80} and table["nll"].notna().sum() == 5
    ended = succeed("significance", csv="of_runs/scores.csv", output_dir="of_table", margin=3)
    assert "not used" not in ended.out, "it knows its own columns"
    told, again = (json.loads((tmp_path / name / "significance.json").read_text()) for name in ("of_runs", "of_table"))
    assert again["calibration_differences"] == told["calibration_differences"] != []
    costs = [sorted(each["cost"], key=lambda row: row["method"]) for each in (told, again)]  # in the order of the runs
    assert costs[0] == costs[1] != []
    (row,), (same,) = told["comparisons"], again["comparisons"]
    assert {name: value for name, value in row.items() if not name.startswith("new_")} == same, "of examples one by one"


def test_a_table_that_says_how_small_its_test_sets_are_has_margins_that_fit(runs_of_mrpc):
    """One of 80 examples is worth 1.25 points, so that the usual margin of 0.5 would be below one of them."""
    succeed("significance", output_dir="of_runs")
    succeed("significance", csv="of_runs/scores.csv", output_dir="of_table")
    margins = [pd.read_csv(f"{name}/significance.csv")["margin"][0] for name in ("of_runs", "of_table")]
    assert margins[0] == margins[1] > 1.25


def test_examples_is_one_of_three_words(store):
    refused(call("significance", examples="perhaps"), "examples", "auto, false, true")
