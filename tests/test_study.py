"""The grid as a graph, and whole studies: order, failures, signals, repetition."""

import contextlib
import json
import os
import re
import signal
from pathlib import Path

import pytest
from running import (
    Ended,
    call,
    ended,
    in_this_process,
    interrupted,
    measured,
    new_store,
    python,
    refused,
    run_of,
    runs,
    session_members,
    started,
    succeed,
    together,
    wait_for,
)

from labelreg.errors import UserError
from labelreg.models.registry import teacher_of
from labelreg.store import tracking
from labelreg.studies import grid
from labelreg.workers import executors

pytest_plugins = ["running"]

GRID = {
    "tasks": ["sst5", "fewrel"],
    "models": ["distilroberta", "distilgpt2"],
    "inits": ["pretrained", "random"],
    "methods": ["finetune", "ls", "selfkd", "kd"],
    "seeds": [42, 549],
}


# The plan


def test_the_plan_has_every_cell_once_and_each_teacher_first():
    steps = grid.steps(GRID | {"tasks": ["sst5"]}, {}, teacher_of)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names) == 2 + 2 * 2 * 4 * 2
    for step in steps:
        assert all(names.index(first) < names.index(step.name) for first in step.needs), step
    assert [step.name for step in steps if step.kind == "teacher"] == [
        "teacher sst5 roberta-large",
        "teacher sst5 gpt2",
    ]
    by_name = {step.name: step for step in steps}
    assert by_name["sst5 distilgpt2 random kd seed=549"].needs == ("teacher sst5 gpt2",)
    assert by_name["sst5 distilgpt2 random selfkd seed=549"].needs == ("sst5 distilgpt2 random finetune seed=549",)
    assert by_name["sst5 distilgpt2 random ls seed=549"].given == {
        "task": "sst5",
        "model": "distilgpt2",
        "init": "random",
        "method": "ls",
        "seed": 549,
    }


@pytest.mark.parametrize(
    ("wanted", "teachers"),
    [("one", [None] * 3), ("each", [3, 5, 7]), ("3", [3, 5, 7]), ("2", [3, 5, 3]), ("1", [3, 3, 3])],
)
def test_teachers_of_several_seeds_take_turns(wanted, teachers):
    seeds = {"tasks": ["sst5"], "models": ["distilroberta"], "seeds": [3, 5, 7]}
    steps = grid.steps(GRID | seeds, {}, teacher_of, teachers_of=grid.teacher_seeds(wanted, [3, 5, 7]))
    kd = [step for step in steps if step.kind == "student" and step.given["method"] == "kd"]
    assert [step.given.get("teacher_seed") for step in kd] == [each for each in teachers for _ in GRID["inits"]]
    names = [f"teacher sst5 roberta-large{'' if seed is None else f' seed={seed}'}" for seed in teachers]
    assert [step.needs for step in kd] == [(name,) for name in names for _ in GRID["inits"]]
    assert [step.name for step in steps if step.kind == "teacher"] == list(dict.fromkeys(names))
    others = [step for step in steps if step.kind == "student" and step.given["method"] != "kd"]
    assert not any("teacher_seed" in step.given for step in others)


@pytest.mark.parametrize("wanted", ["0", "4", "two", "-1", "1.5", "", "99999999999"])
def test_a_number_of_teachers_that_cannot_be(wanted):
    with pytest.raises(UserError, match="allowed is one, each, or a number of teachers from 1 to 3, the number of se"):
        grid.teacher_seeds(wanted, [3, 5, 7])


def test_teachers_where_there_is_nothing_to_choose():
    def of(wanted, **lists):
        seeds = grid.teacher_seeds(wanted, [1, 2])
        return grid.steps(GRID | {"seeds": [1, 2]} | lists, {}, teacher_of, teachers_of=seeds)

    assert of("each", tasks=["fewrel"]) == of("one", tasks=["fewrel"]), "it has a teacher for each seed anyway"
    with pytest.raises(UserError, match="fewrel is drawn anew for each seed, which has a teacher: give each"):
        of("1", tasks=["fewrel"])
    with pytest.raises(UserError, match="none of methods=finetune,selfkd learns from a teacher"):
        of("each", methods=["finetune", "selfkd"])


def test_a_study_with_a_teacher_for_each_seed(tiny, tmp_path, monkeypatch):
    """Each student learns from the teacher of its seed; the seed of the usual one is reused, nothing is run twice."""
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    recipe = tmp_path / "teachers.yaml"
    recipe.write_text(
        "{kind: study, models: [bert-small], inits: [pretrained], methods: [finetune, kd], seeds: [42, 7]}"
    )
    study = {name: value for name, value in tiny.items() if name != "model"} | {"recipe": recipe, "jobs": 1}
    succeed("study", **study)
    (usual,) = runs("teacher")
    before = {run.info.run_id for run in runs("student")}
    succeed("study", **study, teacher_seeds="each")
    teachers = {run.data.params["seed"]: run.info.run_id for run in runs("teacher")}
    assert set(teachers) == {"42", "7"} and teachers["42"] == usual.info.run_id
    (new,) = (run for run in runs("student") if run.info.run_id not in before)
    told = new.data.params
    assert (told["method"], told["seed"], told["teacher_seed"], told["teacher_run_id"]) == (
        "kd",
        "7",
        "7",
        teachers["7"],
    )
    old = next(run for run in runs("student") if run.data.params["method"] == "kd" and run.data.params["seed"] == "7")
    assert (old.data.params["teacher_seed"], old.data.params["teacher_run_id"]) == ("42", usual.info.run_id)
    assert measured(old) != measured(new)
    succeed("train_student", **tiny, method="kd", seed=7, teacher_seed=7)
    assert runs("student")[-1].data.tags["labelreg.fingerprint"] == new.data.tags["labelreg.fingerprint"]
    plan = succeed("study", **study, teacher_seeds="each", plan_only="true").out
    assert "4 students, 2 teachers, 6 reused" in plan


def test_a_teacher_that_ends_later_changes_no_study_though_it_began_first(tiny):
    """It was interrupted, and gone on with: students of two teachers would be in conflict, seed by seed."""
    teacher = {name: tiny[name] for name in ("train_file", "model", "model_root", "max_length")} | {"threads": 2}
    kd = tiny | {"method": "kd", "teacher_model": "bert-small"}
    with interrupted(2):
        assert call("train_teacher", **teacher).status == 130
    succeed("train_student", **kd, seed=1)
    succeed("train_teacher", **teacher)
    first, second = runs("teacher")
    assert first.info.start_time < second.info.start_time < second.info.end_time < first.info.end_time
    succeed("train_student", **kd, seed=2)
    assert {run.data.params["teacher_run_id"] for run in runs("student")} == {second.info.run_id}


def test_seeds_come_one_after_another_so_that_what_is_done_is_paired():
    students = [step for step in grid.steps(GRID, {}, teacher_of) if step.kind == "student"]
    seeds = [step.given["seed"] for step in students]
    assert seeds == sorted(seeds, key=GRID["seeds"].index)


def test_fewrel_has_a_teacher_per_seed():
    steps = grid.steps(GRID | {"models": ["distilroberta"]}, {}, teacher_of)
    assert [step.name for step in steps if step.kind == "teacher"] == [
        "teacher sst5 roberta-large",
        "teacher fewrel roberta-base seed=42",
        "teacher fewrel roberta-base seed=549",
    ]


def test_lists_of_the_user_replace_those_of_the_recipe():
    recipe = GRID | {"seeds": [1, 2, 3]}
    assert grid.lists(recipe, {}) == recipe
    assert grid.lists(recipe, {"seeds": [7], "methods": ["ls"]}) == recipe | {"seeds": [7], "methods": ["ls"]}
    with pytest.raises(UserError, match="seeds=1,2,1: a value stands there twice"):
        grid.lists(recipe, {"seeds": [1, 2, 1]})
    with pytest.raises(UserError, match="no methods"):
        grid.lists(recipe | {"methods": []}, {})


def test_cells_that_are_left_out():
    without = [{"method": ["kd", "selfkd"], "init": ["random"]}, {"model": ["distilgpt2"], "task": ["fewrel"]}]
    steps = grid.steps(GRID, {}, teacher_of, without)
    students = {step.cell[1:] for step in steps if step.kind == "student"}
    assert len(students) == 2 * 2 * 2 * 4 - 2 * 2 * 2 - 2 * 4 + 2 * 1
    assert ("sst5", "distilroberta", "random", "kd") not in students
    assert ("sst5", "distilroberta", "pretrained", "kd") in students
    with pytest.raises(UserError, match="the study has no run"):
        grid.steps(GRID, {}, teacher_of, [{"init": ["random", "pretrained"]}])
    with pytest.raises(UserError, match="selfkd learns from the finetune run"):
        grid.steps(GRID, {}, teacher_of, [{"method": ["finetune"], "init": ["random"]}])


def test_two_runs_of_one_name_are_refused():
    with pytest.raises(UserError, match="two runs of the study have one name"):
        grid.steps(GRID | {"tasks": ["a", "a b"], "models": ["b c", "c"]}, {}, lambda model, task: "t")


def test_a_study_is_known_by_its_plan_and_by_what_decides_its_runs():
    def identity(given: dict, digest: str = "d") -> str:
        return grid.identity(grid.steps(GRID, given, teacher_of), digest)

    first = identity({"epochs": 2, "cache_root": "here"})
    assert first == identity({"epochs": 2, "cache_root": "there", "checkpoint_seconds": 5})
    assert len({first, identity({"epochs": 3}), identity({"epochs": 2}, "other")}) == 3


def test_a_study_is_known_by_what_its_files_hold(tmp_path, monkeypatch):
    def identity(file: object, recipe: object) -> str:
        given = {"train_file": str(file), "recipe": str(recipe)}
        return grid.identity(grid.steps(GRID, given, teacher_of), "d", str(recipe))

    file, recipe = tmp_path / "reviews.csv", tmp_path / "own.yaml"
    file.write_text("text,label\ngood,1\n")
    recipe.write_text("kind: settings\n")
    first = identity(file, recipe)
    assert first == identity("reviews.csv", "./own.yaml"), "the same in other words"
    file.write_text("text,label\ngood,0\n")
    assert identity(file, recipe) != first
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"1")
    before = identity(tmp_path / "photos", "smoke")
    assert before == identity("photos/", "smoke") != identity("photos", "minilm")
    (tmp_path / "photos" / "a.png").write_bytes(b"2")
    assert identity("photos", "smoke") != before


# Whole studies, through the entry point


@pytest.fixture
def small(tiny, settings_file) -> dict:
    """A study of three methods and two seeds that takes seconds."""
    names = ("train_file", "model_root", "max_length")
    settings = settings_file(lr=1e-3, batch_size=8, epochs=1, teacher={"epochs": 1})
    lists = {"models": "bert-small", "inits": "pretrained", "methods": "finetune,selfkd,kd", "seeds": "1,2"}
    return {name: tiny[name] for name in names} | lists | {"settings": settings}


def cells() -> dict[tuple[str, str], dict]:
    """The metrics of all students, by method and seed."""
    return {(run.data.params["method"], run.data.params["seed"]): measured(run) for run in runs("student")}


def answer(study: Ended) -> str:
    """The scores and verdicts that a study prints."""
    return study.out.partition("\ntask ")[2].partition("\nThe plan")[0]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers_and_are_reused(small, tiny, store, empty_store, monkeypatch):
    first = succeed("main", **small, jobs=1)
    alone, trained = cells(), len(runs("student") + runs("teacher"))
    assert sorted(alone) == [(method, seed) for method in ("finetune", "kd", "selfkd") for seed in "12"]
    assert "runs to do: 7; runs done: 0" in first.out and "(reused)" not in first.out
    assert first.out.count("data reviews: train ") == 1, "what is read is said once a task"
    lines = [line for line in first.out.splitlines() if line.startswith("[")]
    assert len(lines) == 2 * 7, "a line when a run begins and one when it ends"
    assert re.fullmatch(r"\[1/7\] teacher reviews .*: done, test score [\d.]+.* \(\d+ s\); 6 to go, about .*", lines[1])
    run = run_of(succeed("train_student", **tiny, seed=1))  # the same run on its own, in this process
    assert measured(run) == alone["finetune", "1"]
    assert tiny["threads"] == 1 and run.data.params["threads"] == "1"

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another experiment")
    with monkeypatch.context() as quick:
        quick.setattr(executors, "execute", None)  # nothing is left to execute
        again = succeed("main", **small)
    assert len(re.findall(r"\(reused\)", again.out)) == 7, again
    assert answer(again) == answer(first), "it is there wherever the runs are"
    assert len(runs("student") + runs("teacher")) == trained + 1, "no training but the run on its own"
    assert len(runs("study")) == 2
    (done, study_done), _ = [(run, run.data.metrics["study/done"]) for run in runs("study")]
    nested = {run.data.tags["mlflow.parentRunId"] for run in runs("teacher") + runs("student")[:6]}
    assert study_done == 7 and nested == {done.info.run_id}

    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(empty_store, store / "second"))
    succeed("main", **small, jobs=2)
    assert cells() == alone, "equal metrics with two workers"


@pytest.mark.slow
def test_a_failed_run_is_isolated(small, store):
    rules = [
        {"set": {"lr": 1e-3, "batch_size": 8, "epochs": 1}},
        {"when": {"method": "finetune", "role": "student"}, "set": {"lr": 1e30, "epochs": 3}},
    ]
    settings = store / "diverges.yaml"
    settings.write_text(json.dumps({"kind": "settings", "extends": "default", "rules": rules}))
    ended = call("main", **small | {"settings": settings, "methods": "finetune,ls,selfkd", "seeds": 1}, jobs=1)
    assert ended.status == 4, ended
    assert re.search("finetune seed=1: failed: the loss of epoch", ended.out), ended
    assert re.search("selfkd seed=1: skipped: needs .* which failed", ended.out), ended
    assert re.search("ls seed=1: done", ended.out), ended
    assert "Traceback" not in ended.out + ended.err
    assert ended.out.count("finetune seed=1: failed") == 2, "it is tried once more"
    assert ended.out.count("ls seed=1: done") == 1
    error = ended.err.strip()
    assert error.startswith("error: 2 of 3 runs did not finish: ") and "\n" not in error, ended
    assert "finetune seed=1 (the loss of epoch" in error and "selfkd seed=1 (needs " in error
    found = [(run.data.params["method"], run.info.status) for run in runs("student")]
    assert sorted(found) == [("finetune", "FAILED"), ("finetune", "FAILED"), ("ls", "FINISHED")]
    assert all("the loss of epoch" in run.data.tags["mlflow.note.content"] for run in runs("student")[:1])
    (failed,) = runs("study")
    assert failed.info.status == "FAILED" and "2 of 3 runs did not finish" in failed.data.tags["mlflow.note.content"]
    assert (failed.data.metrics["study/done"], failed.data.metrics["study/failed"]) == (1, 2)


def test_a_run_is_tried_twice_however_often_it_is_asked_for(monkeypatch):
    """As until=decided does at each look."""
    from types import SimpleNamespace as Any

    from labelreg.studies.study import _Work

    begun = []

    def fail(self, steps):
        for step in steps:
            begun.append(step.name)
            yield executors.Event(step, "running")
            yield executors.Event(step, "failed", reason="it diverged")

    monkeypatch.setattr(_Work, "_execute", fail)
    monkeypatch.setattr("labelreg.store.tracking.end_left", lambda study: None)
    work = _Work(Any(name="s", jobs=1), Any(metrics=lambda *_: None, held=(), run_id=""), Any(finished={}))
    first, later = grid.Step("first", {}), grid.Step("later", {})
    work.carry_out([first])
    work.carry_out([first, later])
    assert begun == ["first", "first", "later", "later"] and set(work.failed) == {"first", "later"}


def test_a_run_whose_worker_was_killed_has_failed(small, monkeypatch):
    """As by the system, which has no memory left: nobody else ends it, and its seed counts as one that failed."""

    def dying(steps, job, *others):
        for step in steps:
            yield executors.Event(step, "running")
            if step.given["method"] == "ls":
                tracking.create("ls", job.keywords["parent"], job.keywords["experiment"], {tracking.KIND: "student"})
                yield executors.Event(step, "failed", reason="its worker process ended (exit status -9)")
            else:
                yield from in_this_process([step], job)

    monkeypatch.setattr(executors, "execute", dying)
    given = small | {"methods": "finetune,ls", "seeds": 1}
    refused(call("main", **given, jobs=1), "1 of 2 runs did not finish", "its worker process ended", status=4)
    finished, *killed = runs("student")
    assert [run.info.status for run in (finished, *killed)] == ["FINISHED", "FAILED", "FAILED"]
    assert {run.data.tags["mlflow.note.content"] for run in killed} == {"its worker process ended"}


def test_methods_in_another_order_are_the_same_study():
    recipe = {"tasks": ["sst5"], "models": ["minilm"], "inits": ["random"], "seeds": [1]}
    lists = grid.lists(recipe, {"methods": ["kd", "ls", "finetune"]})
    assert lists["methods"] == ["finetune", "ls", "kd"]


@pytest.mark.soak
def test_a_killed_study_goes_on_and_two_at_once_run_nothing_twice(small, store):
    """SIGKILL of all processes in the middle; then the same command twice at the same time."""
    import mlflow

    given = small | {"epochs": 40, "checkpoint_seconds": 0}
    command = python("study", **given, recipe="smoke", jobs=1)

    def in_the_third() -> bool:
        found = runs("student")
        return len(found) == 3 and found[2].info.status == "RUNNING" and "dev/score" in found[2].data.metrics

    with started(command, store) as process:
        wait_for(in_the_third, "a third run in training", process)
        os.killpg(process.pid, signal.SIGKILL)
        wait_for(lambda: not session_members(process.pid), "the end of every process of the study")
    (killed,) = runs("study")
    before = {run.info.run_id: run.info.status for run in runs("student") + runs("teacher")}
    assert sorted(before.values()) == ["FINISHED"] * 3 + ["RUNNING"], "a teacher, two students, and the third"

    found = together({"one": command, "two": command}, store, LABELREG_CACHE_ROOT=str(store / "cache"))
    assert [each.status for each in found.values()] == [0, 0], found
    students, teachers = runs("student"), runs("teacher")
    assert set(before) <= {run.info.run_id for run in students + teachers}, "a run keeps its id"
    assert len(teachers) == 1 and len(students) == 6
    fingerprints = [run.data.tags["labelreg.fingerprint"] for run in students + teachers]
    assert len(set(fingerprints)) == 7 and {run.info.status for run in students + teachers} == {"FINISHED"}
    client = mlflow.MlflowClient()
    for run in students:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "dev/score")]
        assert steps == list(range(1, 41)), "every epoch once"
    going_on = [each for each in found.values() if "going on with the study that was interrupted" in each.out]
    assert len(going_on) == 1 and killed.info.run_id in going_on[0].out
    studies = runs("study")
    assert len(studies) == 2 and {run.info.status for run in studies} == {"FINISHED"}
    points = sorted(client.get_metric_history(killed.info.run_id, "study/done"), key=lambda point: point.step)
    done = [point.value for point in points]
    assert done == sorted(done) and done[-1] == 7 and len({point.step for point in points}) == len(points)
    assert answer(found["one"]) == answer(found["two"])
    assert not list(store.glob("cache/checkpoints/*")) and not list(store.glob("cache/studies/*"))


def test_an_own_file_by_the_name_of_fewrel_has_one_teacher():
    lists = {
        "tasks": ["fewrel"],
        "models": ["m"],
        "inits": ["pretrained"],
        "seeds": [1, 2],
        "methods": ["finetune", "kd"],
    }
    for given, teachers in (({}, 2), ({"train_file": "fewrel.csv"}, 1)):
        steps = grid.steps(lists, given, lambda model, task: "t")
        assert [step.kind for step in steps].count("teacher") == teachers


def test_an_own_file_gets_the_same_study(tiny):
    """The settings of the recipe; the demo's are made for its own data, so `main` alone takes the default ones."""
    from unittest import mock

    from entrypoints import main
    from labelreg.settings import with_defaults
    from labelreg.studies.plan import design_of

    file = {name: tiny[name] for name in ("train_file", "model_root")}
    table = design_of(with_defaults("study", file | {"recipe": "table8"}))
    assert {step.given["recipe"] for step in table.steps} == {"table11"} and len(table.steps) == 57
    assert {step.given["task"] for step in table.steps} == {"reviews"}
    with mock.patch("labelreg.studies.study.carry_out") as asked:
        main.main(with_defaults("main", file))
        main.main(with_defaults("main", file | {"settings": "minilm"}))
        main.main(with_defaults("main", {}))
    found = [
        tuple(call.args[0].get(name) for name in ("recipe", "settings", "models")) for call in asked.call_args_list
    ]
    three = ["minilm-3l"]
    assert found == [("smoke", "default", three), ("smoke", "minilm", three), ("smoke", None, None)]


def test_a_teacher_whose_fingerprint_was_taken_away_is_trained_anew(tiny, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    kd = tiny | {"method": "kd", "teacher_model": "bert-small", "seed": 1}
    succeed("train_student", **kd)
    for number, command in enumerate(("train_student", "study"), 1):
        mlflow.MlflowClient().delete_tag(runs("teacher")[-1].info.run_id, "labelreg.fingerprint")
        if command == "study":
            recipe = tmp_path / "study.yaml"
            recipe.write_text("kind: study\nsettings: default\nmodels: [bert-small]\ninits: [pretrained]\nseeds: [2]\n")
            given = {name: value for name, value in kd.items() if name not in ("model", "method", "seed")}
            succeed("study", **given, recipe=recipe, methods="finetune,kd")
        else:
            succeed(command, **kd, resume="never")
        assert len(runs("teacher")) == number + 1


def test_seeds_that_were_tuned_on_are_barred(small, store, monkeypatch):
    rules = [{"set": {"lr": 1e-3, "batch_size": 8, "epochs": 1}}]
    settings = store / "tuned.yaml"
    content = {"kind": "settings", "extends": "default", "tuned_on_seeds": [2, 7], "rules": rules}
    settings.write_text(json.dumps(content))
    given = small | {"settings": settings, "methods": "finetune,ls", "recipe": "smoke"}
    refused(call("study", **given), "seeds=2", "tuned on", "allow_tuned_seeds=true")
    assert not runs()
    monkeypatch.setattr(executors, "execute", in_this_process)
    said = succeed("study", **given, allow_tuned_seeds="true").out
    marked = r"(?m)^ls: .*tuned on seeds of this comparison\s+\(2\)"
    assert re.search(marked, said), said
    assert runs("study")[0].data.tags["labelreg.tuned_seeds"] == "2"
    assert re.search(marked, succeed("significance").out)  # whoever asks later is told too


@pytest.mark.slow
def test_interrupted_studies(small, store, empty_store, monkeypatch):
    """Ctrl-C goes to all processes of a terminal, SIGTERM to one; either way all runs are closed and all end."""
    signals = {"Ctrl-C": lambda pid: os.killpg(pid, signal.SIGINT), "SIGTERM": lambda pid: os.kill(pid, signal.SIGTERM)}
    methods = {"Ctrl-C": ["finetune", "ls"], "SIGTERM": ["finetune"]}
    stores = {how: new_store(empty_store, store / how) for how in signals}

    def look(how: str) -> list:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", stores[how])
        return runs()

    def in_training(how: str) -> int:
        return sum("dev/score" in run.data.metrics for run in look(how))

    with contextlib.ExitStack() as stack:
        processes = {}
        for how, uri in stores.items():
            lists = {"methods": ",".join(methods[how]), "seeds": 1}
            command = python("main", **small | lists, jobs=2, epochs=100_000, batch_size=1)
            studied = started(command, store / how, MLFLOW_TRACKING_URI=uri, LABELREG_CACHE_ROOT="cache")
            processes[how] = stack.enter_context(studied)
        for how, process in processes.items():
            wait_for(lambda how=how: in_training(how) == len(methods[how]), "training in each worker", process)
            signals[how](process.pid)
        for how, process in processes.items():
            found = ended(process, store / how)
            told = f"interrupted: 0 of {len(methods[how])} runs are done; the same command goes on with the others\n"
            assert (found.status, found.err) == (130, told), f"{how}: {found}"
            wait_for(lambda pid=process.pid: not session_members(pid), "the end of every process of the study")
            states = {run.data.params.get("method", "study"): run.info.status for run in look(how)}
            assert states == dict.fromkeys(["study", *methods[how]], "KILLED"), how
            assert all(run.info.end_time for run in look(how))


def worker_loads_torch(session: int) -> bool:
    found = False
    for pid, command in session_members(session).items():
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text()
            found |= "spawn_main" in command and "libtorch" in maps and "sqlite" not in maps
    return found


@pytest.mark.slow
def test_ctrl_c_while_workers_still_start(small, store):
    command = python("main", **small | {"methods": "finetune,ls", "seeds": 1}, jobs=2, epochs=100_000, batch_size=1)
    with started(command, store) as process:
        wait_for(lambda: worker_loads_torch(process.pid), "a worker that loads its modules", process)
        os.killpg(process.pid, signal.SIGINT)
        found = ended(process, store)
        wait_for(lambda: not session_members(process.pid), "the end of every process of the study")
    assert found.status == 130, found
    assert found.err == "interrupted: 0 of 2 runs are done; the same command goes on with the others\n", found
    assert {run.info.status for run in runs()} == {"KILLED"}
