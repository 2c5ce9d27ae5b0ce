"""The grid as a graph, its executor, and whole studies: order, failures, signals, repetition."""

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from running import (
    Ended,
    call,
    ended,
    in_this_process,
    measured,
    new_store,
    python,
    run_of,
    runs,
    session_members,
    started,
    succeed,
    wait_for,
)

from labelreg import study
from labelreg.errors import UserError
from labelreg.models import teacher_of
from labelreg.study import Step

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
    steps = study.plan(GRID | {"tasks": ["sst5"]}, {}, teacher_of)
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


def test_seeds_come_one_after_another_so_that_what_is_done_is_paired():
    students = [step for step in study.plan(GRID, {}, teacher_of) if step.kind == "student"]
    seeds = [step.given["seed"] for step in students]
    assert seeds == sorted(seeds, key=GRID["seeds"].index)


def test_fewrel_has_a_teacher_per_seed():
    steps = study.plan(GRID | {"models": ["distilroberta"]}, {}, teacher_of)
    assert [step.name for step in steps if step.kind == "teacher"] == [
        "teacher sst5 roberta-large",
        "teacher fewrel roberta-base seed=42",
        "teacher fewrel roberta-base seed=549",
    ]


def test_lists_of_the_user_replace_those_of_the_recipe():
    recipe = GRID | {"seeds": [1, 2, 3]}
    assert study.lists(recipe, {}) == recipe
    assert study.lists(recipe, {"seeds": [7], "methods": ["ls"]}) == recipe | {"seeds": [7], "methods": ["ls"]}
    with pytest.raises(UserError, match="seeds=1,2,1: a value stands there twice"):
        study.lists(recipe, {"seeds": [1, 2, 1]})
    with pytest.raises(UserError, match="no methods"):
        study.lists(recipe | {"methods": []}, {})


# The executor, on steps that do as they are told


def obey(step: Step):
    """A job: fails or dies when told so; else the time in which it ran, and its number of threads."""
    began = time.monotonic()
    order = step.given.get("do")
    if order == "mistake":
        raise UserError("a user's mistake")
    if order == "defect":
        raise ZeroDivisionError("a defect\nof two lines")
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return began, time.monotonic(), os.environ["OMP_NUM_THREADS"]


def test_execution(monkeypatch):
    """Order, isolation of failures, and a worker that is killed: each in one graph, two at a time."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    steps = [
        Step("student", {}, needs=("teacher",)),
        Step("killed", {"do": "die"}),
        Step("teacher", {}, "teacher"),
        Step("mistaken", {"do": "mistake"}),
        Step("defective", {"do": "defect"}),
        Step("after the killed", {}, needs=("killed",)),
        Step("after that", {}, needs=("after the killed", "teacher")),
        *(Step(f"other {i}", {}) for i in range(4)),
    ]
    events = list(study.execute(steps, obey, 2, {"OMP_NUM_THREADS": "1"}))
    last = {event.step.name: event for event in events}
    states = {name: event.state for name, event in last.items()}
    assert states == {
        "student": "done",
        "teacher": "done",
        "killed": "failed",
        "mistaken": "failed",
        "defective": "failed",
        "after the killed": "skipped",
        "after that": "skipped",
        **{f"other {i}": "done" for i in range(4)},
    }
    assert last["killed"].reason == "its worker process ended (exit status -9)"
    assert last["mistaken"].reason == "a user's mistake"
    assert last["defective"].reason == "ZeroDivisionError: a defect of two lines", "one line"
    assert last["after the killed"].reason == "needs killed, which failed"
    assert last["student"].result[0] >= last["teacher"].result[1], "a student waits for its teacher"
    assert {event.result[2] for event in events if event.state == "done"} == {"1"}
    assert "OMP_NUM_THREADS" not in os.environ, "the variable is the workers' alone"
    for name in states:
        running = [event.state for event in events if event.step.name == name]
        assert running == (["skipped"] if states[name] == "skipped" else ["running", states[name]]), name


def test_workers_end_when_the_iteration_stops():
    import multiprocessing

    events = study.execute([Step(f"step {i}", {}) for i in range(5)], obey, 2, {"OMP_NUM_THREADS": "1"})
    for event in events:
        if event.state == "done":
            break
    events.close()
    assert not multiprocessing.active_children()


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
    alone, everything = cells(), [*runs("student"), *runs("teacher"), *runs("study")]
    assert sorted(alone) == [(method, seed) for method in ("finetune", "kd", "selfkd") for seed in "12"]
    assert "7 runs, 1 at a time" in first.out and "(reused)" not in first.out
    run = run_of(succeed("train_student", **tiny, seed=1))  # the same run on its own, in this process
    assert measured(run) == alone["finetune", "1"]
    assert tiny["threads"] == 1 and run.data.params["threads"] == "1"

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another experiment")
    with monkeypatch.context() as quick:
        quick.setattr(study, "execute", in_this_process)
        again = succeed("main", **small)
    assert len(re.findall(r"\(reused\)", again.out)) == 7, again
    assert answer(again) == answer(first), "it is there wherever the runs are"
    now = [*runs("student"), *runs("teacher"), *runs("study")]
    assert len(now) == len(everything) + 2, "the run on its own and the second study, and no training"

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
    found = {run.data.params.get("method", "study"): run.info.status for run in runs()}
    assert found == {"study": "FINISHED", "finetune": "FAILED", "ls": "FINISHED"}
    note = next(run.data.tags["mlflow.note.content"] for run in runs() if run.info.status == "FAILED")
    assert "the loss of epoch" in note


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
            assert (found.status, found.err) == (130, "interrupted\n"), f"{how}: {found}"
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
    assert found.err == "interrupted\n", found
    assert {run.info.status for run in runs()} == {"KILLED"}
