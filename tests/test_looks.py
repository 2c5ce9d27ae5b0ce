"""A study that looks at its verdicts: only what is undecided goes on, and verdicts stay."""

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from running import runs

from analysis.margins import margins
from analysis.plan_check import make_plan
from labelreg.answers.answering import rule_of
from labelreg.models.registry import teacher_of
from labelreg.store import tracking
from labelreg.studies import grid, interim

pytest_plugins = ["running"]
GRID = {
    "tasks": ["sst5", "cola"],
    "models": ["distilroberta"],
    "inits": ["pretrained"],
    "methods": ["finetune", "ls", "kd"],
    "seeds": list(range(1, 13)),
}
LOOKS = [8, 10, 12]


@pytest.fixture
def studied(store):
    """Carries out a study whose runs have the scores that `effect` says; what was run, look by look."""
    client = MlflowClient()

    def until_decided(effect) -> list[list[grid.Step]]:
        done, carried = {}, []

        def carry_out(steps):
            carried.append(list(steps))
            for step in steps:
                if step.name not in done:
                    done[step.name] = log(step)
            return {name: run_id for name, run_id in done.items() if run_id}

        def log(step) -> str | None:
            task, model, init, method = step.cell[1:]
            seed = step.given["seed"]
            score = (
                60 + seed % 3 + (0 if step.kind == "teacher" or method == "finetune" else effect(task, method, seed))
            )
            run = client.create_run("0", tags={"labelreg.kind": step.kind, "mlflow.parentRunId": "study"})
            cell = {"task": task, "model": model, "init": init, "method": method, "seed": str(seed)}
            params = [Param(name, value) for name, value in cell.items()]
            failed = score != score
            client.log_batch(run.info.run_id, [] if failed else [Metric("best/dev/score", score, 0, 1)], params)
            client.set_terminated(run.info.run_id, "FAILED" if failed else "FINISHED")
            return None if failed else run.info.run_id

        steps = grid.steps(GRID, {}, teacher_of)
        cells = dict.fromkeys(step.cell[1:] for step in steps if step.kind == "student")
        plan = make_plan(cells, GRID["seeds"], None, margins(0.5), 0.05, LOOKS)
        interim.until_decided(steps, plan, rule_of(plan), carry_out, "study")
        return carried

    return until_decided


def ran(steps, task: str) -> dict[str, int]:
    """How many seeds of each method were asked for."""
    found = [step.given["method"] for step in steps if step.kind == "student" and step.given["task"] == task]
    return {method: found.count(method) for method in dict.fromkeys(found)}


def test_only_what_is_undecided_goes_on(studied, capsys):
    def effect(task: str, method: str, seed: int) -> float:
        if task == "cola":
            return 3 + seed / 100  # decided at the first look
        return 0.01 * (-1) ** seed if method == "kd" else 2 * (-1) ** seed  # ls stays undecided

    carried = studied(effect)
    assert [ran(steps, "cola") for steps in carried] == [{"finetune": 8, "ls": 8, "kd": 8}, {}, {}]
    assert [ran(steps, "sst5") for steps in carried] == [
        {"finetune": 8, "ls": 8, "kd": 8},
        {"finetune": 10, "ls": 10},
        {"finetune": 12, "ls": 12},
    ]
    assert [step.name for step in carried[0] if step.kind == "teacher"] == [
        "teacher sst5 roberta-large",
        "teacher cola roberta-large",
    ]
    assert not [step for step in carried[1] if step.kind == "teacher"], "nobody is left who needs it"
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "look at 8 seeds: sst5 distilroberta pretrained kd: equivalent",
        "look at 8 seeds: cola distilroberta pretrained ls: better",
        "look at 8 seeds: cola distilroberta pretrained kd: better",
        "look at 8 seeds: 3 decided, 1 undecided",
        "look at 10 seeds: 3 decided, 1 undecided",
        "look at 12 seeds: 3 decided, 1 undecided",
    ]
    spreads = interim.spreads({run.info.run_id: run.info.run_id for run in runs("student")})
    assert set(spreads) == {("cola", "distilroberta", "pretrained"), ("sst5", "distilroberta", "pretrained")}
    assert spreads["sst5", "distilroberta", "pretrained"] == pytest.approx(2 * 1.4826), "of ls: 2, -2, 2, ..."
    assert interim.spreads({}) == {}


def test_it_stops_when_all_is_decided(studied, capsys):
    carried = studied(lambda task, method, seed: -4 - seed / 100)
    assert len(carried) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "look at 8 seeds: 4 decided, 0 undecided"


def test_the_seed_of_a_failed_run_is_tried(studied, capsys):
    """Of the method's own alone: no other has that seed."""

    def effect(task: str, method: str, seed: int) -> float:
        return float("nan") if seed == 3 else 3 + seed / 100

    assert len(studied(effect)) == 2
    said = capsys.readouterr().out
    assert "look at 8 seeds: 0 decided, 4 undecided" in said, "seven pairs of eight that were tried"
    assert "look at 10 seeds: sst5 distilroberta pretrained ls: better" in said, "by nine pairs"


def test_a_seed_without_a_pair_does_not_shift_the_others(studied):
    """A failed run leaves a gap: the look has fewer pairs, and the method goes on."""
    nan = float("nan")

    def effect(task: str, method: str, seed: int) -> float:
        if method == "ls":
            return 3 + seed / 100
        return nan if seed in (3, 4) else 2 * (-1) ** seed

    carried = studied(effect)
    assert [ran(steps, "sst5") for steps in carried] == [
        {"finetune": 8, "ls": 8, "kd": 8},
        {"finetune": 10, "kd": 10},
        {"finetune": 12, "kd": 12},
    ]


def test_a_look_at_runs_that_are_all_reused_is_that_of_its_own_plan(store, capsys):
    """Four studies of one method each had no looks: what they decide alone, four methods and three looks do not."""
    client, methods = MlflowClient(), ["finetune", "ls", "selfkd", "tfreg", "cp"]
    seeds, rule = GRID["seeds"], {"margins": margins(0.5), "level": 0.05}
    steps = grid.steps(GRID | {"tasks": ["sst5"], "methods": methods}, {}, teacher_of)
    cells = dict.fromkeys(step.cell[1:] for step in steps)

    def study(name: str, plan: dict, reused: list[str]) -> str:
        run = client.create_run("0", tags={tracking.KIND: "study", tracking.STUDY: name, tracking.PLAN: name})
        client.log_dict(run.info.run_id, plan | {"reused": reused}, "plan.json")
        return run.info.run_id

    done = {}
    for nth, method in enumerate(methods):
        pair = [cell for cell in cells if cell[3] in ("finetune", method)]
        above = study(method, make_plan(pair, seeds[:8], None, **rule, looks=[]), [])
        for seed in seeds[:8]:
            tags = {tracking.KIND: "student", tracking.PARENT: above, tracking.STUDY: method}
            run = client.create_run("0", tags=tags).info.run_id
            cell = {"task": "sst5", "model": "distilroberta", "init": "pretrained", "method": method, "seed": str(seed)}
            score = 60 + seed % 3 + (3 + seed / 100 if nth else 0)
            client.log_batch(run, [Metric("best/dev/score", score, 0, 1)], [Param(*item) for item in cell.items()])
            client.set_terminated(run)
            done[f"sst5 distilroberta pretrained {method} seed={seed}"] = run
    plan = make_plan(cells, seeds, None, **rule, looks=LOOKS)
    own = study("own", plan, list(done.values()))
    interim.until_decided(steps, plan, rule_of(plan), lambda steps: done, own)
    assert "look at 8 seeds: 0 decided, 4 undecided" in capsys.readouterr().out
