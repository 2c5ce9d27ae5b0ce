"""Methods, averages and teachers through the entry points: what is refused, logged, compared."""

import pytest
from running import call, in_this_process, measured, refused, run_of, runs, succeed

from labelreg.studies import grid

pytest_plugins = ["running"]


@pytest.fixture
def two_classes(tiny, tmp_path):
    """The same file without its third class."""
    lines = tiny["train_file"].read_text().splitlines()
    path = tmp_path / "two.csv"
    path.write_text("\n".join(line for line in lines if not line.endswith("so so")) + "\n")
    return tiny | {"train_file": path}


@pytest.fixture
def study(tmp_path, monkeypatch):
    path = tmp_path / "study.yaml"
    path.write_text("kind: study\nsettings: default\nmodels: [bert-small]\ninits: [pretrained]\nseeds: [1, 2]\n")
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    return path


@pytest.mark.parametrize(("method", "why"), [("dkd", "NCKD"), ("dist", "rows"), ("lskd", "standardised logits")])
def test_a_method_that_can_do_nothing_is_refused_by_name(method, why, two_classes, tmp_path):
    said = (f"method={method} with 2 classes", why, "has no gradient", "allow_degenerate=true")
    refused(call("train_student", **two_classes, method=method), *said)
    space = tmp_path / "space.yaml"
    space.write_text("kind: search\ntrials: 2\nepochs: 1\nspace:\n  tau: [1, 2]\n")
    refused(call("tune", **two_classes, method=method, space=space), *said)
    assert not runs("teacher") and not runs("student") and not runs("trial")


def test_unless_that_is_asked_for(two_classes):
    run = run_of(succeed("train_student", **two_classes, method="dkd", allow_degenerate="true"))
    assert run.info.status == "FINISHED" and run.data.params["allow_degenerate"] == "true"


def test_a_study_is_refused_before_its_first_run(two_classes, study):
    given = {name: value for name, value in two_classes.items() if name != "model"} | {"recipe": study}
    refused(call("study", **given, methods="finetune,kd,lskd"), "method=lskd with 2 classes")
    assert not runs("student") and not runs("teacher")


def test_passes_and_their_cost_are_logged(tiny):
    cost = {}
    for method in ("finetune", "rdrop", "pskd"):
        run = run_of(succeed("train_student", **tiny | {"epochs": 3}, method=method))
        cost[method] = run.data.metrics["cost/passes"]
    assert cost == {"finetune": 3, "rdrop": 6, "pskd": 5}


# Weights that are averaged


def test_an_average_is_its_own_run_and_says_what_it_did(tiny):
    plain = run_of(succeed("train_student", **tiny))
    swa = run_of(succeed("train_student", **tiny, average="swa", average_start=0.25))
    assert {"average", "average_start", "ema_decay", "swa_lr"}.isdisjoint(plain.data.params)
    assert swa.data.params["average"] == "swa" and swa.data.params["average_start"] == "0.25"
    assert "ema_decay" not in swa.data.params
    assert measured(plain) != measured(swa)
    said = succeed("train_student", **tiny, average="swa", ema_decay=0.5).out
    assert "ema_decay is ignored: average swa has none" in said
    assert "average_start is ignored: average none has none" in succeed("train_student", **tiny, average_start=0.1).out


def test_what_it_learns_from_is_not_averaged(tiny):
    succeed("train_student", **tiny, method="kd", average="ema")
    succeed("train_student", **tiny, method="selfkd", average="ema")
    assert not [run for run in runs("teacher") if "average" in run.data.params]
    twin = next(run for run in runs("student") if run.data.params["method"] == "finetune")
    assert "average" not in twin.data.params


def test_a_study_has_averaged_methods_beside_the_others(tiny, study, tmp_path):
    """ "finetune with SWA" against finetune, and kd against it."""
    given = {name: value for name, value in tiny.items() if name != "model"} | {"recipe": study}
    said = succeed("study", **given, methods="kd+ema,finetune+swa,finetune,kd")
    students = runs("student")
    assert len(students) == 8 and len(runs("teacher")) == 1
    found = sorted({(run.data.params["method"], run.data.params.get("average", "none")) for run in students})
    assert found == [("finetune", "none"), ("finetune", "swa"), ("kd", "ema"), ("kd", "none")]
    assert "finetune+swa" in said.out and "kd+ema" in said.out
    answer = succeed("significance", verbose="true").out
    assert "finetune+swa" in answer and "kd+ema" in answer
    turned = succeed("significance", reference="finetune+swa", verbose="true").out
    assert "finetune+swa" in turned
    again = succeed("study", **given, methods="kd+ema,finetune+swa,finetune,kd").out
    assert again.count("(reused)") >= 8 and len(runs("student")) == 8


def test_the_grid_with_averages():
    lists = {"tasks": ["sst5"], "models": ["m"], "inits": ["pretrained"], "seeds": [1]}
    lists["methods"] = ["kd", "selfkd+swa", "finetune+swa", "finetune"]
    steps = [step for step in grid.steps(lists, {}, lambda model, task: "t") if step.kind == "student"]
    names = [step.cell[-1] for step in steps]
    assert names == ["finetune", "finetune+swa", "selfkd+swa", "kd"]
    assert [step.given.get("average") for step in steps] == [None, "swa", "swa", None]
    assert steps[2].needs == ("sst5 m pretrained finetune seed=1",), "the twin is not averaged"
    assert len({step.name for step in steps}) == 4


# Several teachers


def test_kd_learns_from_several_runs(tiny):
    for seed in (1, 2):
        succeed("train_teacher", **tiny | {"model": "gpt2"}, seed=seed)
    ids = [run.info.run_id for run in runs("teacher")]
    alone = run_of(succeed("train_student", **tiny, method="kd", teacher_run_id=ids[0]))
    both = run_of(succeed("train_student", **tiny, method="kd", teacher_run_id=",".join(ids)))
    logits = run_of(succeed("train_student", **tiny, method="kd", teacher_run_id=",".join(ids), teachers_mean="logits"))
    prints = {run.data.tags["labelreg.fingerprint"] for run in (alone, both, logits)}
    assert len(prints) == 3
    assert set(both.data.params["teacher_run_id"].split(",")) == set(ids)
    assert set(both.data.params["teacher_seed"].split(",")) == {"1", "2"}
    turned = run_of(succeed("train_student", **tiny, method="kd", teacher_run_id=",".join(reversed(ids))))
    assert turned.data.tags["labelreg.fingerprint"] == both.data.tags["labelreg.fingerprint"], "a mean has no order"
    assert "teachers_mean" not in both.data.params and logits.data.params["teachers_mean"] == "logits"
    assert both.data.metrics["cost/teacher_seconds"] > alone.data.metrics["cost/teacher_seconds"]
    refused(call("train_student", **tiny, method="dkd", teacher_run_id=",".join(ids)), "dkd learns from one run")
    refused(call("train_student", **tiny, method="kd", teacher_run_id=f"{ids[0]},{ids[0]}"), "different run ids")
