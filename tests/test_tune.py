"""A search through its entry point: trials as nested runs, interruptions, budgets, and the settings file."""

import contextlib
import itertools
import os
import shlex
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
import yaml
from running import (
    artifacts,
    call,
    finish,
    in_this_process,
    interrupted,
    measured,
    python,
    refused,
    run_of,
    runs,
    started,
    succeed,
    wait_for,
)

from labelreg import metrics, one_run, recipes
from labelreg.errors import StoreLostError
from labelreg.settings import Workers
from labelreg.store import checkpoint, tracking
from labelreg.store.patience import CLOSING_SECONDS, TIMEOUT
from labelreg.tuning import search, tune
from labelreg.tuning.tune import _alike, watch
from labelreg.workers import executors
from labelreg.workers.steps import Event, Step

pytest_plugins = ["running"]
SPACE = {"lr": [1e-5, 1e-3, 3e-3], "alpha": [0.1, 0.9], "tau": [1, 2]}
EPOCHS, TRIALS = 3, 4


@pytest.fixture
def space(tmp_path):
    """Writes a search recipe, small unless told otherwise."""

    def write(**changed):
        path = tmp_path / "space.yaml"
        path.write_text(
            yaml.safe_dump({"kind": "search", "trials": TRIALS, "epochs": EPOCHS, "space": SPACE} | changed)
        )
        return path

    return write


@pytest.fixture
def small(tiny, space, monkeypatch) -> dict:
    """Parameters of a search that takes seconds, in this process."""
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    kept = {name: tiny[name] for name in ("train_file", "model", "model_root", "batch_size", "max_length")}
    return kept | {
        "method": "ls",
        "space": space(),
        "checkpoint_seconds": 0,
        "heartbeat_seconds": 1,
        "reduction_factor": 2,
    }


def steps_of(run, metric: str) -> list[int]:
    import mlflow

    return [point.step for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)]


def text(run, path: str) -> str:
    import mlflow

    return mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{path}")


def curves() -> dict[str, tuple]:
    """What each trial run holds, by its place in the search."""
    return {
        run.data.tags["optuna.trial"]: (run.data.tags["optuna.state"], run.data.tags["optuna.epochs"], measured(run))
        for run in runs("trial")
    }


def test_a_search_for_kd(small, tmp_path, monkeypatch):
    monkeypatch.setattr(search._Halving, "prune", lambda self, study, trial: trial.number == 2)  # on every machine
    small |= {"method": "kd", "teacher_model": "bert-small", "output_dir": tmp_path / "out"}
    ended = succeed("tune", **small)
    (tune,), trials, (teacher,) = runs("tune"), runs("trial"), runs("teacher")
    assert ended.out.count("data reviews: train ") == 1, "what is read is said once"
    own = recipes.resolve({"method": "finetune", "init": "pretrained"}, "teacher")
    assert teacher.data.params["epochs"] == str(own.epochs), "the recipe's, not the search's"
    assert len(trials) == TRIALS and tune.info.status == "FINISHED"
    states = [run.data.tags["optuna.state"] for run in trials]
    assert sorted(states) == ["complete"] * (TRIALS - 1) + ["pruned"]
    for run, state in zip(trials, states, strict=True):
        assert run.info.status == "FINISHED" and run.data.tags["mlflow.parentRunId"] == tune.info.run_id
        epochs = int(run.data.tags["optuna.epochs"])
        assert (epochs == EPOCHS) == (state == "complete")
        assert steps_of(run, "dev/score") == list(range(1, epochs + 1))
        assert {run.data.params["seed"], run.data.params["epochs"]} == {"7", str(EPOCHS)}
        assert not [name for name in run.data.metrics if "test" in name] and not artifacts(run)
    best = max(
        (run for run in trials if run.data.tags["optuna.state"] == "complete"),
        key=lambda r: r.data.metrics["best/dev/score"],
    )
    assert f"best dev score {best.data.metrics['best/dev/score']:.2f}" in ended.out
    files = "settings.yaml trials.csv importances.json budget.csv best_of_n.csv best_of_n.svg".split()
    plots = {f"plots/{name}.svg" for name in ("history", "slice", "parallel_coordinate", "curves")}
    assert artifacts(tune) == {*files, *plots}
    assert steps_of(tune, "search/done") == list(range(1, TRIALS + 1))
    ends = {"complete": "best/dev/score", "pruned": "last/dev/score"}
    differ = len({run.data.metrics[ends[state]] for run, state in zip(trials, states, strict=True)}) > 1
    importances = {name.rpartition("/")[2] for name in tune.data.metrics if name.startswith("importance/kd/")}
    assert importances == (set(SPACE) if differ else set()), "equal scores have no variance to explain"

    path = tmp_path / "out" / "settings.yaml"
    assert path.read_text() == text(tune, "settings.yaml")
    more = f"-P teacher_model=bert-small -P train_file={small['train_file']}"
    assert f"(train_student -P recipe=FILE -P method=kd {more}; main -P settings=FILE" in ended.out
    assert "main -P settings=FILE -P tasks=reviews -P models=" in ended.out
    assert f"-P inits=pretrained {more})" in ended.out
    again = {name: small[name] for name in ("train_file", "model_root")}
    student = run_of(
        succeed("train_student", **again, recipe=path, method="kd", seed=7, threads=1, teacher_model="bert-small")
    )
    assert student.data.metrics["best/dev/score"] == best.data.metrics["best/dev/score"]
    refused(call("main", recipe=path), "settings.yaml: kind is 'settings', here it must be 'study'")


def test_an_interrupted_search_goes_on_with_the_same_command(small, tmp_path, monkeypatch):
    with interrupted(3):  # at the end of the first trial's third epoch
        assert call("tune", **small).status == 130
    (tune,) = runs("tune")
    stopped = runs("trial")[-1]
    assert (tune.info.status, stopped.info.status) == ("KILLED", "KILLED")
    assert stopped.data.tags["optuna.state"] == "interrupted"

    ended = succeed("tune", **small)
    assert f"going on with the interrupted search {tune.info.run_id}" in ended.out
    assert [run.info.run_id for run in runs("tune")] == [tune.info.run_id] and len(runs("trial")) == TRIALS
    resumed = next(run for run in runs("trial") if run.info.run_id == stopped.info.run_id)
    assert resumed.data.tags["optuna.state"] == "complete" and steps_of(resumed, "dev/score") == [1, 2, 3]
    found = curves()
    assert not list((tmp_path / "cache" / "checkpoints").glob("*")), "nothing is left to go on with"

    monkeypatch.setenv("LABELREG_CACHE_ROOT", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/straight.db")
    succeed("tune", **small)
    assert found == curves()


def test_a_trial_whose_worker_died_after_its_run_is_not_trained_twice(small, monkeypatch):
    whole = one_run.carry_out

    def dying(asked):
        whole(asked)
        raise KeyboardInterrupt  # before the search is told

    with monkeypatch.context() as patched:
        patched.setattr(one_run, "carry_out", dying)
        assert call("tune", **small).status == 130
    (before,) = runs("trial")
    assert before.info.status == "FINISHED"
    held = curves()["0"]
    succeed("tune", **small)
    assert len(runs("trial")) == TRIALS and curves()["0"] == held
    assert before.info.run_id in {run.info.run_id for run in runs("trial")}


def test_a_search_whose_storage_is_lost_is_told_what_its_trials_were(small, tmp_path, monkeypatch):
    """Every epoch: a rung has what each trial had there, so that the same ones are pruned, and none trained again."""
    real, scores = metrics.evaluate, itertools.count(90.0, -1.0)
    monkeypatch.setattr(metrics, "evaluate", lambda *args: real(*args) | {"score": next(scores)})
    small |= {"min_resource": 1}

    def told() -> list:
        (name,) = optuna.get_all_study_names(f"sqlite:///{tmp_path}/cache/search.db")
        study = optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path}/cache/search.db")
        return [(trial.params, trial.state, trial.value, trial.intermediate_values) for trial in study.trials]

    succeed("tune", **small)
    before, ids = told(), {run.info.run_id for run in runs("trial")}
    assert len({state for _, state, *_ in before}) == 2, "some are pruned"
    (tmp_path / "cache" / "search.db").unlink()
    succeed("tune", **small)
    assert told() == before and {run.info.run_id for run in runs("trial")} == ids


@pytest.mark.parametrize("tag", ["optuna.epochs", "optuna.state"])
def test_a_trial_whose_tag_was_taken_away_is_trained_again(tag, small, tmp_path):
    import mlflow

    succeed("tune", **small, trials=1)
    (before,) = runs("trial")
    mlflow.MlflowClient().delete_tag(before.info.run_id, tag)
    (tmp_path / "cache" / "search.db").unlink()
    succeed("tune", **small, trials=1)
    assert len(runs("trial")) == 2


def test_another_teacher_is_another_search(small, space, settings_file):
    small |= {"method": "kd", "teacher_model": "bert-small", "space": space(trials=1)}
    for teacher, trained, trials in (
        ({"epochs": 1}, 1, 1),
        ({"epochs": 2}, 2, 2),
        ({"epochs": 1}, 2, 2),  # the first search again
    ):
        succeed("tune", **small, recipe=settings_file(teacher=teacher))
        assert (len(runs("teacher")), len(runs("trial"))) == (trained, trials)
    first, second = [run.data.params["teacher_run_id"] for run in runs("trial")]
    assert first != second


def test_what_a_search_learns_from_goes_on(small, settings_file, monkeypatch):
    settings = settings_file(teacher={"epochs": 4})
    small |= {"method": "kd", "teacher_model": "bert-small", "recipe": settings, "trials": 1}
    with interrupted(3):
        assert call("tune", **small).status == 130
    (stopped,) = runs("teacher")
    assert stopped.info.status == "KILLED" and steps_of(stopped, "dev/score") == [1, 2]
    began = len(steps_of(stopped, "train/loss"))
    succeed("tune", **small)
    (teacher,) = runs("teacher")
    assert teacher.info.run_id == stopped.info.run_id and teacher.info.status == "FINISHED"
    assert steps_of(teacher, "dev/score") == [1, 2, 3, 4] and began == 2


def test_the_reason_is_the_failure_not_what_followed(small, monkeypatch):
    def failing(steps, job, *_):
        first, *others = steps
        yield Event(first, "failed", 1.0, reason="the loss of epoch 1 is nan")
        for step in others:
            yield Event(step, "skipped", reason=f"needs {first.name}, which failed")

    monkeypatch.setattr("labelreg.workers.executors.execute", failing)
    kd = small | {"method": "kd", "teacher_model": "bert-small"}
    refused(call("tune", **kd), "no trial could be started: the loss of epoch 1 is nan", status=3)


def test_trials_that_others_left_behind_are_no_sign_that_none_could_be_started(monkeypatch):
    """Another machine died: while this one did its two last trials, the other's two came back into the queue."""
    counts = iter([2, 2, 0, 0])  # before each of two rounds; then nothing is left
    tried = tune.Tried("ls", 4, "complete", 50.0, 3, "")
    monkeypatch.setattr(tune.search, "open_study", lambda asked: None)
    monkeypatch.setattr(tune.search, "left", lambda study, trials: next(counts))
    monkeypatch.setattr(tune.search, "take_over", lambda study, beat: 0)
    monkeypatch.setattr(tune, "_say", lambda *_: None)
    monkeypatch.setattr(executors, "execute", lambda steps, *_: (Event(step, "done", result=tried) for step in steps))
    monkeypatch.setattr(tracking, "current_experiment", lambda: "0")
    searches = {"ls": search.Search("ls", "", {}, 6, 7)}
    tune._search(SimpleNamespace(run_id="", metrics=None), searches, {"threads": 1}, SimpleNamespace())
    assert not list(counts)


def test_parameters_as_a_user_writes_them_and_mlflow_logs_them(small, monkeypatch):
    """`-P "methods=finetune, ls"`: MLflow logs the text, shell-quoted, before the command begins."""
    import mlflow

    given = {"methods": "ls, finetune", "cross_check": "1", "per_method": "no", "trials": "2"}
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    for name, value in given.items():
        mlflow.MlflowClient().log_param(opened, name, shlex.quote(value))
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    succeed("tune", **small | given)
    (tune,) = runs("tune")
    assert tune.info.run_id == opened and tune.info.status == "FINISHED"
    assert {run.data.params["method"] for run in runs("student")} == {"finetune", "ls"}


def test_a_trial_that_loses_the_store_does_not_wait_for_it_twice(small, monkeypatch):
    """The reader of its epochs has waited ten minutes already: the trial's state is written at once, or not."""
    monkeypatch.delenv(TIMEOUT, raising=False)
    waited = []

    class Away:
        def tags(self, values):
            waited.append((values["optuna.state"], os.environ.get(TIMEOUT)))
            if len(waited) > 1:
                raise StoreLostError("away")

    reports = iter([SimpleNamespace(epoch=1, dev={"score": 50.0})])
    epochs = watch(SimpleNamespace(number=0, params={"lr": 1e-3}), lambda epoch, score, last: False, 3, Away(), reports)
    next(epochs)
    epochs.close()
    assert waited == [("running", None), ("interrupted", f"{CLOSING_SECONDS:.0f}")]


def test_a_file_whose_name_has_a_quote(small, tmp_path):
    small["train_file"] = Path(small["train_file"]).rename(tmp_path / "Bob's.csv")
    succeed("tune", **small)
    assert len(runs("trial")) == TRIALS


def test_more_trials_are_added_to_a_search(small):
    succeed("tune", **small)
    ended = succeed("tune", **small, trials=TRIALS + 1)
    assert f"[{TRIALS + 1}/{TRIALS + 1}] ls trial {TRIALS}" in ended.out
    assert len(runs("trial")) == TRIALS + 1 and len(runs("tune")) == 2
    assert pd.read_csv(pd.io.common.StringIO(text(runs("tune")[1], "budget.csv")))["trials"].tolist() == [TRIALS + 1]


def test_each_method_is_given_the_same_budget(small):
    ended = succeed("tune", **small | {"trials": 3}, per_method="true", methods="finetune,ls,selfkd")
    (tune,) = runs("tune")
    assert len(runs("trial")) == 9 and len(runs("student")) == 1  # the twin that all trials of selfkd learn from
    table = pd.read_csv(pd.io.common.StringIO(text(tune, "budget.csv"))).set_index("method")
    assert table["trials"].tolist() == [3, 3, 3] and table["epochs allowed"].tolist() == [3 * EPOCHS] * 3
    gains = table["best dev"] - table.loc["finetune", "best dev"]
    assert table["gain over finetune"].tolist() == pytest.approx(gains.tolist())
    assert "gain over finetune" in ended.out and "expected best dev score of n trials" in ended.out
    assert steps_of(tune, "search/best_of_n/selfkd") == [1, 2, 3]
    rules = yaml.safe_load(text(tune, "settings.yaml"))["rules"]
    shared = {"epochs": EPOCHS, "batch_size": small["batch_size"]}
    assert rules[1]["set"] == shared and "method" not in rules[1]["when"], "what was given is that of all methods"
    assert [rule["when"]["method"] for rule in rules[2:]] == ["finetune", "ls", "selfkd"]
    assert set(rules[2]["set"]) & set(SPACE) == {"lr"} and set(rules[3]["set"]) & set(SPACE) == {"lr", "alpha"}


def test_the_papers_cross_check(small):
    ended = succeed("tune", **small, cross_check=2, methods="finetune,ls")
    (tune,), students = runs("tune"), runs("student")
    assert len(students) == 3, "both settings have one lr: finetune runs once"
    assert {run.data.tags["mlflow.parentRunId"] for run in students} == {tune.info.run_id}
    table = pd.read_csv(pd.io.common.StringIO(text(tune, "cross_check.csv")))
    assert table["mean"].tolist() == pytest.approx(table[["finetune", "ls"]].mean(axis=1).tolist())
    rules = yaml.safe_load(text(tune, "settings.yaml"))["rules"]
    kept = table.loc[table["mean"].idxmax()]
    assert len(rules) == 4 and "method" not in rules[2]["when"] and rules[3]["when"]["method"] == "ls"
    assert rules[2]["set"]["lr"] == kept["lr"] and rules[3]["set"]["alpha"] == kept["alpha"]
    assert "what each method's own best differs" in ended.out


def test_a_worker_that_died_chooses_no_setting(small, monkeypatch):
    """A student of a cross-check that failed is tried once more; what needs it waits for that."""
    kept, killed = in_this_process, []

    def dying(steps, *others):
        first = next((step for step in steps if step.kind == "student" and not killed), None)
        if first is None:
            yield from kept(steps, *others)
            return
        killed.append(first.name)
        yield Event(first, "failed", reason="its worker process ended (exit status -9)")
        for step in steps[1:]:
            if first.name in step.needs:
                yield Event(step, "skipped", reason=f"needs {first.name}, which failed")
        yield from kept([step for step in steps[1:] if first.name not in step.needs], *others)

    monkeypatch.setattr(executors, "execute", dying)
    ended = succeed("tune", **small, cross_check=2, methods="finetune,selfkd", trials=2)
    assert killed == ["setting 1 with finetune"] and "setting 1 with selfkd: skipped" in ended.out
    table = pd.read_csv(pd.io.common.StringIO(text(runs("tune")[0], "cross_check.csv")))
    assert len(table) == 2 and not table.isna().any(axis=None), ended


def test_what_a_method_does_not_take_is_told(small, tmp_path):
    recipe = tmp_path / "apart.yaml"
    recipe.write_text("{kind: settings, extends: default, rules: [{when: {method: finetune}, set: {lr: 0.001}}]}")
    ended = succeed("tune", **small, cross_check=1, methods="finetune,ls", recipe=recipe, trials=1)
    assert "finetune keeps the recipe's lr, which the recipe sets apart from ls's" in ended.out


@pytest.mark.parametrize(
    ("recipe", "init", "method", "taken"),
    [
        ("table9", "pretrained", "finetune", {"lr", "batch_size"}),
        ("table9", "pretrained", "ls", {"lr", "batch_size"}),
        ("table9", "pretrained", "tfreg", {"lr", "batch_size", "alpha", "tau"}),
        ("table9", "random", "selfkd", {"lr", "batch_size", "tau"}),
        ("table11", "pretrained", "akd", {"lr"}),
        ("table9", "pretrained", "akd", {"lr", "batch_size", "tau"}),  # of which the recipe says nothing
    ],
)
def test_a_method_takes_of_kds_setting_what_is_the_same_in_it(recipe, init, method, taken):
    """Table 9 has label smoothing's alpha apart from KD's, table 11 Annealing KD's largest temperature."""
    setting = {"lr": 1e-5, "batch_size": 64, "alpha": 0.95, "tau": 5}
    given = {"recipe": recipe, "task": "sst5", "init": init}
    assert _alike(given, method, "kd", setting) == taken


def test_a_diverged_trial_is_a_failed_run_and_the_search_goes_on(small, space):
    small["space"] = space(space={"lr": [1e-3, 1e12]}, trials=6)
    ended = succeed("tune", **small | {"sampler": "random"})
    states = {run.data.params["lr"]: (run.data.tags["optuna.state"], run.info.status) for run in runs("trial")}
    assert states["1000000000000.0"] == ("failed", "FAILED")
    assert states["0.001"][1] == "FINISHED" and "failed at" not in ended.out and ": failed: " in ended.out
    small["space"] = space(space={"lr": [1e12]}, trials=1)
    refused(call("tune", **small), "no trial of ls succeeded: the ", "lower lr", status=3)


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"storage": "sqlite:////nowhere/at/all.db"}, ["storage=sqlite:////nowhere/at/all.db", "does not open"]),
        ({"storage": "here.db"}, ["storage=here.db", "no database URL"]),
        ({"space": "appendix"}, ["unknown recipe (search) 'appendix'"]),
        ({"alpha": 2}, ["alpha=2: allowed is a number in [0, 1]"]),
        ({"method": "kdd"}, ["unknown method 'kdd'", "'kd'"]),
        ({"trails": 5}, ["unknown parameter 'trails'", "'trials'"]),
        ({"sampler": "grid"}, ["unknown sampler 'grid'"]),
        ({"reduction_factor": 1}, ["reduction_factor=1: allowed is an integer of at least 2"]),
        ({"per_method": "true", "cross_check": 5}, ["cross_check", "per_method"]),
        ({"methods": "ls,kd"}, ["methods", "per_method=true", "cross_check=N"]),
        ({"per_method": "true", "methods": "ls,ls"}, ["methods=ls,ls", "twice"]),
        ({"recipe": "smoke.yml"}, ["unknown recipe (settings) 'smoke.yml'"]),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(small, changed, words):
    refused(call("tune", **small | changed), *words)
    assert not runs()


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"space": {"alpha": [0.5, 1.5]}}, ["alpha=1.5"]),
        ({"space": {"seed": [1, 2]}}, ["the seed is never tuned"]),
        ({"spaces": {}}, ["unknown key in recipe", "'spaces'", "'space'"]),
        ({"kind": "study"}, ["kind is 'study', here it must be 'search'"]),
        ({"trials": 0}, ["trials=0"]),
        ({"epochs": "many"}, ["epochs=many"]),
    ],
)
def test_a_mistake_in_the_space_is_one_line_before_anything_starts(small, space, changed, words):
    refused(call("tune", **small | {"space": space(**changed)}), *words)
    assert not runs()


@pytest.mark.soak
def test_a_search_whose_processes_are_killed_goes_on(tiny, space, tmp_path):
    parameters = {name: tiny[name] for name in ("train_file", "model", "model_root", "batch_size", "max_length")}
    parameters |= {
        "method": "ls",
        "space": space(epochs=60, trials=3),
        "checkpoint_seconds": 0,
        "heartbeat_seconds": 1,
        "reduction_factor": 2,
    }
    parameters |= {"jobs": 1, "min_resource": 61}
    checkpoints = tmp_path / "cache" / "checkpoints"
    with started(python("tune", **parameters), tmp_path) as process:
        wait_for(lambda: list(checkpoints.glob(f"*/{checkpoint.FILE}")), "a checkpoint", process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
    (tune,), (killed,) = runs("tune"), runs("trial")
    assert killed.data.tags["optuna.state"] == "running"
    time.sleep(search.SILENT_BEATS + 1)
    ended = finish(python("tune", **parameters), tmp_path)
    assert ended.status == 0, ended
    trials = runs("trial")
    assert len(trials) == 3 and [run.info.run_id for run in runs("tune")] == [tune.info.run_id]
    assert killed.info.run_id in [run.info.run_id for run in trials]
    for run in trials:
        assert run.data.tags["optuna.state"] == "complete" and steps_of(run, "dev/score") == list(range(1, 61))


def test_an_interruption_between_two_events_stops_the_workers_at_once(monkeypatch):
    """Its traceback holds the loop's frame, and with it what would be stopped: until it is printed, or for ever."""
    stopped = []

    def execute(*_, **__):
        try:
            yield Event(Step("kd trial (1 of 1)", {}, "trial"), "failed", reason="no memory")
        finally:
            stopped.append(True)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(executors, "execute", execute)
    monkeypatch.setattr(tracking, "current_experiment", lambda: "0")
    monkeypatch.setattr(tune, "print", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt) as caught:
        tune._round(SimpleNamespace(run_id="1"), {}, {}, {"threads": 1}, {"kd": 0}, Workers())
    assert stopped and caught.tb
