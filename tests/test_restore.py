"""Scores that outlived their store: restored elsewhere, and the study goes on as if it had not moved."""

import csv
import json
from pathlib import Path
from statistics import mode

import pytest
from running import ROOT, artifacts, call, in_this_process, new_store, refused, runs, succeed

from labelreg.answers import restoring

pytest_plugins = ["running"]


def table(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def written(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def asked(store, tiny, settings_file, monkeypatch) -> dict:
    fit = {"epochs": 1, "batch_size": 8, "lr": 1e-3, "max_length": 32}
    recipe = store / "moving.yaml"
    lists = "models: [bert-small], inits: [pretrained], methods: [finetune, ls, selfkd, kd], seeds: [1, 2, 3]"
    recipe.write_text(f"{{kind: study, {lists}}}")
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    given = {"train_file": tiny["train_file"], "model_root": tiny["model_root"], "teacher_model": "bert-small"}
    return given | {"recipe": recipe, "settings": settings_file(teacher=fit, **fit), "jobs": 1, "threads": 1}


def answered(folder: str) -> tuple[dict, set[tuple]]:
    """The answer, and what is the same of the runs in every store: a teacher that was trained again is no other row."""
    succeed("significance", output_dir=folder)
    told = json.loads(Path(folder, "significance.json").read_text(encoding="utf-8"))
    kept = (
        "kind",
        "method",
        "seed",
        "dev",
        "test",
        "nll",
        "aurc_scaled",
        "examples",
        "fingerprint",
        "data",
        "study_name",
    )
    rows = {tuple(row.get(name) for name in kept) for row in table(Path(folder, "scores.csv"))}
    return told, rows


def compared(row: dict) -> dict:
    """Without the names of runs, and what needs the predictions."""
    return {name: value for name, value in row.items() if not name.startswith("new_") and name != "teachers"}


def test_a_study_goes_on_from_its_scores(asked, empty_store, store, monkeypatch):
    """The last seed of it is not in the table: it alone is trained, with a teacher that is trained again."""
    succeed("study", **asked)
    told, rows = answered("whole")
    begun = Path("whole/scores.csv")  # as it was before the last seed
    written(begun, [row for row in table(begun) if row["seed"] != "3"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(empty_store, store / "elsewhere"))
    monkeypatch.setenv("LABELREG_CACHE_ROOT", str(store / "cache2"))
    ended = succeed("restore", csv=begun)
    assert "scores.csv: 8 students restored, 0 were there, 1 teachers for their scores" in ended.out
    assert "0 students restored, 8 were there" in succeed("restore", csv=begun).out
    assert len(runs("student")) == 8
    ended = succeed("study", **asked)
    assert "8 reused" in ended.out and "5 runs, 1 at a time" in ended.out, ended
    assert len(runs("student")) == 12 and len(runs("teacher")) == 1
    moved, rows_moved = answered("moved")
    assert rows_moved == rows
    assert told["calibration"] == moved["calibration"] != []
    assert list(map(compared, moved["comparisons"])) == list(map(compared, told["comparisons"])) != []
    assert not any(row["new_low"] for row in moved["comparisons"]), "one seed of three has predictions"
    plans = [line for line in moved["text"]["plan"] if line.startswith("plan ")]
    assert [line.rpartition(": ")[2] for line in plans] == ["followed"] and len(moved["text"]["plan"]) == 1
    assert "for this one teacher" in Path("moved/significance.md").read_text(encoding="utf-8")
    held = len(runs())
    again = succeed("restore", csv="moved/scores.csv")
    assert "0 students restored, 12 were there, 0 teachers" in again.out and len(runs()) == held + 1, "all is there"


def test_a_teacher_is_not_trained_again_for_students_that_are_all_there(asked, empty_store, store, monkeypatch):
    succeed("study", **asked)
    _, rows = answered("whole")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(empty_store, store / "elsewhere"))
    succeed("restore", csv="whole/scores.csv")
    assert "runs to do: 0; runs done: 12" in succeed("study", **asked, plan_only="true").out
    ended = succeed("study", **asked)
    assert "12 reused" in ended.out and "0 runs, 1 at a time" in ended.out, ended
    assert not runs("teacher") and answered("moved")[1] == rows


def test_a_study_that_only_reused_runs_keeps_its_name_and_its_part_of_the_answer(store):
    """answer-b took the runs with all sentences from answer-a: no run there has it as its parent."""
    published = table(ROOT / "results" / "answer-b" / "scores.csv")
    mine = ("8544", "42")
    rows = [row for row in published if row["kind"] == "study" or (row["max_train_examples"], row["seed"]) == mine]
    assert {row["study_name"] for row in rows} == {"answer-a", ""}
    assert "6 students restored" in succeed("restore", csv=written(store / "begun.csv", rows)).out
    succeed("significance", study="answer-b", output_dir="told")
    told = json.loads(Path("told/significance.json").read_text(encoding="utf-8"))["comparisons"]
    scores = {(row["init"], row["method"]): float(row["score"]) for row in rows if row["score"]}
    assert {(row["init"], row["method"]): row["mean_difference"] for row in told} == {
        (init, method): pytest.approx(score - scores[init, "finetune"])
        for (init, method), score in scores.items()
        if method != "finetune"
    }


def test_a_restore_that_was_killed_keeps_its_runs_under_their_study(store, monkeypatch):
    """Else the plan would be of no run, and its family would count for nothing."""
    published = table(ROOT / "results" / "answer-a" / "scores.csv")
    plan = mode(row["study"] for row in published)
    students = [row for row in published if row["study"] == plan][:4]
    part = written(store / "part.csv", students + [row for row in published if row["run_id"] == plan])
    end, ended = restoring.tracking.end_run, []

    def killed(run_id, status):
        ended.append(run_id)
        if len(ended) == 3:  # the command closes its own run after it
            raise KeyboardInterrupt
        end(run_id, status)

    with monkeypatch.context() as patched:
        patched.setattr(restoring.tracking, "end_run", killed)
        assert call("restore", csv=part).status == 130
    assert "2 students restored, 2 were there" in succeed("restore", csv=part).out
    (study,) = runs("study")
    assert study.info.status == "FINISHED" and artifacts(study) == {"plan.json"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs("student")} == {study.info.run_id}
    assert len(runs("student")) == 4


def test_what_cannot_be_restored(store):
    refused(call("restore"), "csv", "scores.csv of significance")
    refused(call("restore", csv="missing.csv"), "missing.csv", "no such file")
    Path("own.csv").write_text("task,model,init,method,seed,score\na,m,random,finetune,1,70\n", encoding="utf-8")
    refused(call("restore", csv="own.csv"), "own.csv", "labelreg did not write this table")
    assert not runs("student") and not runs("restore")


def test_an_older_table_says_what_runs_again(store):
    """Without the digest of what `rest` scores are from, a study cannot know these runs for its own."""
    published = table(ROOT / "results" / "answer-a" / "scores.csv")
    rows = [row for row in published if row["kind"] == "student" and row["rest"]][:2]
    older = [{name: value for name, value in row.items() if name != "rest_data"} for row in rows]
    ended = succeed("restore", csv=written(store / "older.csv", older))
    assert "2 students restored" in ended.out and "2 have a rest score, but no rest_data" in ended.out
    assert "rest_data" not in succeed("restore", csv=written(store / "newer.csv", rows)).out


def test_a_model_is_asked_of_the_study_and_not_of_a_row(store):
    """A row has no file, threads or folder: the command that it gives would make another run, and lose a seed."""
    published = table(ROOT / "results" / "answer-a" / "scores.csv")
    rows = [row for row in published if (row["task"], row["init"]) == ("sst5", "pretrained")]
    succeed("restore", csv=written(store / "part.csv", rows))
    (run, *_) = runs("student")
    assert not [name for name, value in run.data.params.items() if value == ""], "an empty cell was no parameter"
    told = ("stands for", "of a table", "mlflow runs delete --run-id", "the study's own command")
    refused(call("promote", name="sentences", accept_worse_calibration="true"), *told)
