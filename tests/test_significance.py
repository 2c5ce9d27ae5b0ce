"""significance on a store of generated runs with known effects, hostile ones among them, and on tables."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from running import artifacts, call, refused, runs, succeed

from analysis.margins import margins
from analysis.plan_check import make_plan, plan_digest
from labelreg.whole import digest

pytest_plugins = ["running"]

SEEDS = list(range(8))
NOISE = np.array([0.04, -0.03, 0.02, -0.05, 0.01, 0.03, -0.02, 0.06])
EFFECTS = {  # points to finetune, by init and method
    "pretrained": {"ls": 3 + NOISE, "kd": NOISE},
    "random": {"ls": -3 + NOISE, "kd": 50 * NOISE},
}
WORDS = {
    ("pretrained", "ls"): "better",
    ("pretrained", "kd"): "equivalent",
    ("random", "ls"): "worse",
    ("random", "kd"): "undecided",
}
AT = 1_700_000_000_000  # ms


def student(method: str, seed: int, score: float | None, init: str = "pretrained", study=None, **other) -> str:
    """Log one run as job.py would; `other` are parameters, or status, kind, data, print, at (ms after AT)."""
    from mlflow.entities import Metric, Param, RunTag

    at, status = AT + other.pop("at", 0), other.pop("status", "FINISHED")
    tags = {"labelreg.kind": other.pop("kind", "student"), "labelreg.data": other.pop("data", "d")}
    tags["labelreg.fingerprint"] = digest(other.pop("print", f"{method} {seed} {init} {sorted(other.items())}"))
    if study:
        tags |= {"mlflow.parentRunId": study, "labelreg.study": "generated"}
    client = mlflow.MlflowClient()
    name, experiment = f"{init} {method} {seed}", other.pop("experiment", "0")
    run_id = client.create_run(experiment, start_time=at, run_name=name).info.run_id
    params = {"task": "rte", "model": "m", "init": init, "method": method, "seed": seed, "epochs": 3} | other
    client.log_batch(
        run_id,
        metrics=[] if score is None else [Metric(f"{end}/test/score", score, at, 3) for end in ("best", "last")],
        params=[Param(name, str(value)) for name, value in params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    if status != "RUNNING":
        client.set_terminated(run_id, status, at + 10)
    return run_id


def generated(study: str | None = None, inits=tuple(EFFECTS), seeds=SEEDS) -> None:
    for init in inits:
        for seed in seeds:
            base = 70 + 5 * np.sin(seed)
            for method, effect in {"finetune": np.zeros(8), **EFFECTS[init]}.items():
                student(method, seed, base + effect[seed], init, study, at=10 * seed)


def planned(at: int = -1000, **other) -> tuple[str, str]:
    """A study's run with its logged plan: run id and digest."""
    import mlflow

    cells = [("rte", "m", init, method) for init in EFFECTS for method in ("finetune", "ls", "kd")]
    reused = other.pop("reused", None)
    plan = make_plan(**{"cells": cells, "seeds": SEEDS, "metric": None, "margins": margins(0.5), "level": 0.05} | other)
    digest, client = plan_digest(plan), mlflow.MlflowClient()
    tags = {"labelreg.kind": "study", "labelreg.study": "generated", "labelreg.plan": digest}
    run_id = client.create_run("0", start_time=AT + at, run_name="study", tags=tags).info.run_id
    client.log_dict(run_id, plan if reused is None else plan | {"reused": reused}, "plan.json")
    client.set_terminated(run_id)
    return run_id, digest


def summaries() -> dict:
    found = [r for r in runs("summary") if r.data.params["task"] == "rte"]
    return {(r.data.params["init"], r.data.params["method"]): r for r in found}


@pytest.mark.slow
def test_known_effects_are_read_back_among_hostile_runs(store):
    study, digest = planned()
    generated(study)
    hostile = {
        student("ls", 3, None, status="FAILED"): "failed",
        student("kd", 3, 99.0, status="RUNNING"): "running",
        student("kd", 3, 99.0, status="KILLED"): "killed",
        student("kd", 4, 99.0, data="other", lr=1): "no partner: other data digest other, finetune d",
        student("kd", 4, 99.0, epochs=5): "no partner: other epochs 5, finetune 3",
        student("kd", 4, 99.0, selection="last"): "no partner: other selection last, finetune none",
        student("kd", 4, 99.0, precision_used="bf16"): "no partner: other precision bf16, finetune none",
        student("ls", 99, 99.0): "no partner: no usable finetune run with seed 99",
        student("ls", 5, float("nan"), note="'a b'"): "no such metric",
        student("kd", 5, 99.0, at=-5, print="kd 5 pretrained []"): "duplicate: ",
        student("kd", 1, 99.0, "random", task="sst5", print="another"): "no partner: no usable finetune",
    }
    for kind in ("teacher", "trial", "launch"):
        student("ls", 5, 99.0, kind=kind)
    ended = succeed("significance", output_dir=store / "report", verbose=True)
    (run,) = runs("significance")
    assert ended.err == ""
    files = {"significance.csv", "significance.json", "significance.md", "left_out.csv", "scores.csv"}
    assert artifacts(run) == files
    assert {path.name for path in (store / "report").iterdir()} == artifacts(run)
    for name in artifacts(run):
        logged = Path(run.info.artifact_uri.removeprefix("file://")) / name
        assert logged.read_text() == (store / "report" / name).read_text()

    table = pd.read_csv(store / "report" / "significance.csv")
    assert {(row.init, row.method): row.verdict for row in table.itertuples()} == WORDS
    assert table["n"].tolist() == [8] * 4 and table["mean_difference"][0] == pytest.approx(3 + NOISE.mean())
    told = json.loads((store / "report" / "significance.json").read_text())
    reasons = {row["run_id"]: row["reason"] for row in told["left_out"]}
    assert set(reasons) == set(hostile)
    assert all(reasons[run_id].startswith(reason) for run_id, reason in hostile.items()), reasons
    assert all(run_id in ended.out for run_id in hostile)
    assert told["text"]["plan"][0] == f"plan {digest} of run {study}: followed"

    made = summaries()
    assert set(made) == {*WORDS, ("pretrained", "finetune"), ("random", "finetune")}
    for key, word in WORDS.items():
        summary, row = made[key], next(r for r in told["comparisons"] if (r["init"], r["method"]) == key)
        assert summary.data.tags["labelreg.verdict"] == word == row["verdict"]
        metrics = summary.data.metrics
        assert metrics["summary/mean"] == row["mean_method"] and metrics["summary/p_value"] == row["p_value"]
        assert (metrics["summary/low"], metrics["summary/high"]) == (row["low"], row["high"])
        assert metrics["summary/difference"] == row["mean_difference"] and metrics["summary/n"] == 8
    assert {r.data.tags["mlflow.parentRunId"] for r in made.values()} == {study}
    assert {r.data.tags["labelreg.study"] for r in made.values()} == {"generated"}
    assert {r.info.status for r in made.values()} == {"FINISHED"}

    # a second time, and then with new numbers: the same summary runs
    assert succeed("significance", verbose=True).out == ended.out
    again = summaries()
    (alone,) = [r for r in runs("summary") if r.data.params["task"] == "sst5"]
    assert "no pair with finetune" in alone.data.tags["mlflow.note.content"]
    assert [r.info.run_id for r in again.values()] == [made[key].info.run_id for key in made]
    assert {k: r.data.metrics for k, r in again.items()} == {k: r.data.metrics for k, r in made.items()}
    before = made["pretrained", "ls"]
    student("ls", 7, 20.0, study=study, at=900, print="ls 7 pretrained []")  # newer, of the same fingerprint
    said = succeed("significance", study="generated", margin=1.5, verbose=True).out
    assert "not followed" in said and "margin: 1.5, the plan says 0.5" in said
    after = summaries()["pretrained", "ls"]
    assert after.info.run_id == before.info.run_id and len(runs("summary")) == 7
    assert after.data.metrics["summary/mean"] < before.data.metrics["summary/mean"]
    assert after.data.tags["labelreg.verdict"] == "undecided"

    # narrowed, they are others, and no interval is logged where there is none
    succeed("significance", where=f"attributes.start_time < {AT + 30}", reference="kd")
    narrow = [r for r in runs("summary") if r.data.params["reference"] == "kd" and r.data.params["method"] != "kd"]
    assert len(narrow) == 4 and {r.data.metrics["summary/n"] for r in narrow} == {3}
    assert not any("summary/low" in r.data.metrics for r in narrow)


def test_looks_are_taken_in_the_order_of_the_plan(store):
    study, _ = planned(
        seeds=SEEDS[::-1], looks=[6, 8], cells=[("rte", "m", "pretrained", m) for m in ("finetune", "ls")]
    )
    for seed in SEEDS:
        student("finetune", seed, 70.0 + seed, study=study)
        student("ls", seed, 70.0 + seed + (3 + NOISE[seed] if seed > 0 else -40), study=study)
    refused(call("significance", looks="2,8"), "looks=2,8", "one method at 0.05 over 2 looks need 4 at the first")
    refused(call("significance", looks="8,6"), "looks=8,6", "rise")
    refused(call("significance", looks="six"), "looks=six", "10,14,20")
    assert not runs("significance"), "a run was opened for a command that could not begin"
    said = succeed("significance", looks="7,8", verbose=True).out
    assert "ls vs finetune (rte, m, pretrained, best/test/score): better;" in said
    assert "look at 7 seeds; 1 seed beyond it are not used" in said
    assert "looks: 7,8, the plan says 6,8" in said
    as_planned = succeed("significance", verbose=True).out  # not the collapsed one, which is the last
    assert "look at 6 seeds; 2 seeds beyond it are not used" in as_planned and "the plan says" not in as_planned


def test_a_study_has_the_runs_of_others_that_it_found_done(store):
    """As those of answer-a that answer-b takes as they are; its own answer counts them too."""
    import mlflow

    cells, elsewhere = [("rte", "m", "pretrained", m) for m in ("finetune", "ls")], mlflow.create_experiment("other")
    before = [student("finetune", seed, 70.0 + seed, experiment=elsewhere if seed % 2 else "0") for seed in SEEDS]
    student("tfreg", 0, 90.0)
    study, _ = planned(cells=cells, reused=before)
    for seed in SEEDS:
        student("ls", seed, 73.0 + seed + NOISE[seed], study=study)
    said = succeed("significance", study="generated").out
    assert "ls (+3.01) is better than finetune (means in points over 8 seeds)" in said and "tfreg" not in said
    half = succeed("significance", study="generated", where="attributes.start_time > 0").out
    assert "over 4 seeds" in half, "a filter is of this experiment"


def test_an_older_table_of_scores_does_not_stand_beside_an_answer_that_has_none(store):
    import mlflow

    study, _ = planned()
    mlflow.MlflowClient().set_tag(study, "labelreg.tuned_seeds", "none")  # edited by hand
    ids = [student(method, seed, 70.0 + seed, study=study) for method in ("finetune", "ls") for seed in SEEDS]
    succeed("significance", output_dir="told")
    assert Path("told/scores.csv").is_file()
    mlflow.MlflowClient().delete_tag(ids[0], "labelreg.fingerprint")
    said = succeed("significance", output_dir="told").out
    assert "told/scores.csv: removed" in said and not Path("told/scores.csv").exists()
    Path("told/scores.csv").write_text("task,score\nmine,1\n")
    assert "removed" not in succeed("significance", output_dir="told").out and Path("told/scores.csv").is_file()


def test_summaries_without_a_study_nest_under_the_first_answer(store):
    generated(inits=["random"], seeds=SEEDS[:4])
    succeed("significance")
    (first,) = runs("significance")
    made = summaries()
    assert len(made) == 3 and {r.data.tags["mlflow.parentRunId"] for r in made.values()} == {first.info.run_id}
    assert "summary/low" in made["random", "ls"].data.metrics
    import mlflow

    gone = next(r for r in runs("student") if r.data.params["seed"] == "3" and r.data.params["method"] == "ls")
    mlflow.MlflowClient().delete_run(gone.info.run_id)
    assert "no plan was logged before these runs" in succeed("significance", verbose=True).out
    after = summaries()
    assert len(runs("summary")) == 3, "the one whose interval is no longer bounded was replaced"
    assert "summary/low" not in after["random", "ls"].data.metrics
    assert after["random", "kd"].info.run_id == made["random", "kd"].info.run_id


def test_a_method_with_two_settings_is_a_table_in_eighty_columns(store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    long = {"alpha": 0.9, "tau": 4, "kd_weight": 0.75, "weight_decay": 0.01, "batch_size": 8}
    for seed in SEEDS:
        student("finetune", seed, 70.0 + seed, weight_decay=0.02, batch_size=32)
        student("kd", seed, 71.0 + seed, alpha=0.5, tau=2, kd_weight=0.25, weight_decay=0.02, batch_size=32)
        student("kd", seed, 72.0 + seed, **long)
    lines = succeed("significance").out.splitlines()
    header = next(line for line in lines if line.startswith("method "))
    rows = [line for line in lines if line.endswith(("  better", "  -"))]
    assert len(rows) == 3 and all(row[header.index("  n") + 2] == "8" for row in rows), "under their headers"
    assert all(len(line) <= 80 for line in lines[:-1]), "less the address"
    assert sum(line.startswith("kd [") for line in lines) == 2


def test_a_weak_teacher_is_named_though_where_leaves_it_out(store):
    teacher = student("finetune", 42, 60.0, kind="teacher", model="large")
    for seed in SEEDS:
        student("finetune", seed, 70.0 + seed)
        student("kd", seed, 70.1 + seed, teacher_run_id=teacher)
    told = "kd: for this one teacher ({}); the teacher's own score is 60.00, finetune's 73.50 (best/test/score)"
    for given in ({}, {"where": "params.model = 'm'"}):
        assert told.format(teacher[:8]) in succeed("significance", **given).out


def test_answers_that_are_no_mistakes(store):
    assert "nothing to compare yet" in succeed("significance", metric="best/dev/f1").out
    failed = student("ls", 1, None, status="FAILED")
    said = succeed("significance").out
    assert "Not compared: 1 run" in said and failed in said, "nothing is left out silently"
    student("finetune", 1, 70.0)
    student("finetune", 2, 71.0)
    said = succeed("significance").out
    assert "nothing to compare yet" in said and "no partner: no run of another method" in said
    student("ls", 1, 70.0, alpha=0.1)
    student("ls", 2, 71.0, alpha=0.1)
    student("ls", 1, 72.0, alpha=0.2)
    student("kd", 2, float("nan"))
    ended = succeed("significance", output_dir="report")
    assert ended.err == "" and "nan" not in ended.out.replace("finetune", "")
    rows = json.loads(Path("report/significance.json").read_text())["comparisons"]
    assert [(row["setting"], row["n"], row["verdict"]) for row in rows] == [
        ("alpha 0.1", 2, "undecided"),
        ("alpha 0.2", 1, "undecided"),
    ]
    assert "all differences are zero" in rows[0]["reason"]
    assert rows[0]["p_holm"] == rows[0]["p_value"] == 1 and rows[0]["low"] is None


def test_what_is_not_given_is_as_the_plans_have_it(store):
    """In the store, and in the table of its scores; where plans differ, the usual."""
    cells = [("rte", "m", "random", method) for method in ("finetune", "ls")]
    study, _ = planned(cells=cells, margins=margins("rte:40"), level=0.2, looks=(6, 8), reused=[])
    for seed in SEEDS:
        student("finetune", seed, 70.0 + seed, "random", study, at=500)
        student("ls", seed, 70.3 + seed + NOISE[seed], "random", study, at=500)

    def told(**given) -> tuple:
        succeed("significance", output_dir="told", **given)
        said = json.loads(Path("told/significance.json").read_text())
        return said["parameters"]["margin"], said["parameters"]["looks"], said["text"]["plan"][0].endswith(": followed")

    assert told() == ("rte:40", [6, 8], True)
    assert told(csv="told/scores.csv") == ("rte:40", [6, 8], True)
    assert told(margin=1) == (1, [6, 8], False)
    assert told(level=0.1)[2] is False
    assert told(metric="best/test/score") == (0.5, [], False), "a plan of the usual metric says nothing of another"
    planned(
        at=-500,
        cells=cells,
        margins=margins("rte:40"),
        looks=(7, 8),
        reused=[run.info.run_id for run in runs("student")],
    )
    assert told()[:2] == ("rte:40", [])


def test_mistakes(store):
    student("finetune", 1, 70.0, study="x")
    student("ls", 1, 70.0, study="x")
    count = len(runs())
    refused(call("significance", metric="best/test/scor"), "nearest: best/test/score")
    refused(call("significance", study="genrated"), "study 'genrated'", "nearest: generated")
    refused(call("significance", reference="sl"), "reference 'sl'", "there are: finetune, ls")
    refused(call("significance", margin=-1), "margin=-1", "above 0")
    refused(call("significance", csv="none.csv"), "csv=none.csv", "no such file")
    refused(call("significance", csv="none.csv", where="params.seed = '1'"), "a table has no where")
    Path("few.csv").write_text("task,method,seed\nrte,ls,1\n")
    refused(call("significance", csv="few.csv"), "no column model, init, score", "it has: task, method, seed")
    assert len(runs()) == count, "a run was opened for a command that could not begin"


def test_a_table_that_labelreg_did_not_write(store):
    """Accuracies as somebody's spreadsheet holds them; kd wins on all eight seeds, ls on four."""
    finetune = [87.1, 86.4, 88.0, 87.5, 86.9, 87.7, 87.2, 86.8]
    kd = [87.6, 86.8, 88.3, 88.1, 87.5, 87.9, 87.9, 87.6]
    ls = [87.3, 86.1, 88.1, 87.2, 87.0, 87.4, 87.6, 86.3]
    lines = ["task,model,init,method,seed,score,comment"]
    for method, scores in {"finetune": finetune, "kd": kd, "ls": ls}.items():
        lines += [f"imdb,roberta,pretrained,{method},{seed},{score}," for seed, score in enumerate(scores, 1)]
    Path("table.csv").write_text("\n".join(lines) + "\n")
    ended = succeed("significance", csv="table.csv", output_dir="report", margin=1)
    assert ended.err == "" and "columns that are not used: comment (a setting's column has its param" in ended.out
    rows = pd.read_csv("report/significance.csv").set_index("method")
    assert rows["verdict"].to_dict() == {"ls": "equivalent", "kd": "better"} and set(rows["metric"]) == {"score"}
    assert rows["p_value"]["kd"] == 1 / 128 and rows["p_holm"]["kd"] == 2 / 128 and bool(rows["negligible"]["kd"])
    assert {run.data.tags["labelreg.kind"] for run in runs()} == {"significance"}, "no run of a store was made up"
    (run,) = runs("significance")
    Path("twice.csv").write_text("\n".join([*lines, lines[-1]]) + "\n")
    said = succeed("significance", csv="twice.csv", verbose=True).out
    assert "conflict: line 25, line 26 agree in setting and seed" in said and "fingerprint" not in said
    assert "2 runs are left out here: conflict: line 25, line 26" in succeed("significance", csv="twice.csv").out
    many = [f"imdb,roberta,pretrained,{m},{seed},{seed % 7}," for m in ("finetune", "ls") for seed in range(1001)]
    Path("many.csv").write_text("\n".join([lines[0], *many]) + "\n")
    refused(call("significance", csv="many.csv"), "1,001 pairs", "up to 1,000")
    baseline = Path("table.csv").read_text().replace("finetune", "baseline")
    Path("table.csv").write_text(baseline)
    assert "is given by reference=NAME" in succeed("significance", csv="table.csv").out
    assert "better than baseline" in succeed("significance", csv="table.csv", reference="baseline").out
    assert run.data.params["csv"] == "table.csv" and "significance.json" in artifacts(run)


def of_ls(**given) -> dict[str, tuple[int, float]]:
    """What significance says of ls, by its setting: family size and Holm's p."""
    succeed("significance", output_dir="told", **given)
    table = pd.read_csv("told/significance.csv", keep_default_na=False).query("method == 'ls'")
    return {row.setting: (row.family_size, float(row.p_holm)) for row in table.itertuples()}


def said_of_plans() -> list[str]:
    return json.loads(Path("told/significance.json").read_text())["text"]["plan"]


def a_study(methods: list[str], at: int, reused: list[str] | None, **settings) -> list[str]:
    """A study with its plan and its runs, less those of the methods that it reuses; the ids of all its runs."""
    cells = [("rte", "m", "random", method) for method in ("finetune", *methods)]
    study, _ = planned(at=at, cells=cells, reused=reused)
    there = [run for run in runs("student") if run.info.run_id in (reused or [])]
    held = {(run.data.params["method"], int(run.data.params["seed"])) for run in there}
    ids = []
    for method, seed in [(m, s) for m in ("finetune", *methods) for s in SEEDS if (m, s) not in held]:
        effect = {"finetune": 0.0, "ls": 3 + NOISE[seed]}.get(method, 50 * NOISE[seed])
        ids.append(student(method, seed, 70 + seed + effect, "random", study, at=at + 500, **settings))
    return ids + [run.info.run_id for run in there]


@pytest.mark.parametrize("setting", [{"epochs": 5}, {"lr": 1e-5}], ids=["another family", "another setting"])
@pytest.mark.parametrize("reused", [None, []], ids=["before plans named what they reuse", "now"])
def test_a_second_study_with_other_settings_changes_no_p_of_the_first(store, setting, reused):
    a_study(["ls"], -1000, reused)
    assert list(of_ls().values()) == [(1, 1 / 128)]
    a_study(["ls", "kd", "tfreg"], 5000, reused, **setting)
    for given in ({}, {"study": "generated"}):
        both = of_ls(**given)
        assert sorted(both.values()) == [(1, 1 / 128), (3, 3 / 128)], both
        assert [line.endswith(": followed") for line in said_of_plans()] == [True, True], said_of_plans()
    assert list(of_ls(where=f"attributes.start_time < {AT + 3000}").values()) == [(1, 1 / 128)]
    first, *more = said_of_plans()
    assert first.endswith(": followed")
    assert [line.partition(" planned")[2] for line in more] == (
        []
        if reused == []
        else [" them later, with other cells (perhaps for other settings: none of its runs is among these)"]
    )


def test_a_second_study_that_adds_a_method_corrects_for_all_that_it_plans(store):
    first = a_study(["ls"], -1000, [])
    a_study(["ls", "kd"], 5000, first)
    assert of_ls() == {"": (2, 2 / 128)}
    followed, older, before = said_of_plans()
    assert followed.endswith("not followed") and older.startswith("16 of 24 runs are older than the plan")
    assert before.endswith("had planned some of these cells before, with other cells")
