"""The space as data, draws that an interruption does not change, pruning, workers that die, and what is reported."""

import itertools
import math
import multiprocessing
import os
import signal
import sqlite3
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml

from analysis.hypothesis import pairs, verdicts
from analysis.pairing import PROTOCOL
from labelreg import recipes
from labelreg.errors import DivergedError, UserError
from labelreg.methods import METHODS
from labelreg.settings import with_defaults
from labelreg.tuning import search, search_report

APPENDIX_D = {
    "batch_size": [8, 16, 32, 64],
    "lr": [9e-6, 1e-5, 2e-5, 3e-5],
    "alpha": [0.4, 0.5, 0.7, 0.8, 0.9, 0.95],
    "tau": [1, 2, 5, 10],
}
GIVEN = with_defaults("tune", {"epochs": 20})
SMALL = {"lr": [0.1, 0.2, 0.3], "alpha": [0.1, 0.5, 0.9]}


@pytest.fixture
def folder():
    """For databases: in memory where there is such a folder, as each write is waited for."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        yield Path(name)


def made(folder, **changed) -> search.Search:
    settings = {"name": "kd", "storage": f"sqlite:///{folder}/search.db", "space": SMALL, "trials": 6, "seed": 7}
    return search.Search(**settings | {"sampler": "random", "heartbeat_seconds": 1} | changed)


def resolved(given: dict, role: str = "student") -> dict:
    """What a run reads, by name."""
    return recipes.resolve(given, role).values()


def curve(draw: search.Draw, epochs: int = 4) -> list[float]:
    """Dev scores that rise with lr at every epoch; alpha adds little."""
    return [100 * draw.params["lr"] * (1 - 0.5**epoch) + draw.params["alpha"] for epoch in range(1, epochs + 1)]


def train(draw: search.Draw, stop: search.Stop) -> float:
    for epoch, score in enumerate(curve(draw), 1):
        if stop(epoch, score, False):
            break
    return score


def run(asked: search.Search, trainer=train) -> optuna.Study:
    study = search.open_study(asked)
    while search.run_trial(study, asked, trainer):
        pass
    return study


@pytest.mark.parametrize(
    "method, names",
    {
        "finetune": "",
        "ls": "alpha",
        "tfreg": "alpha tau",
        "selfkd": "alpha tau",
        "kd": "alpha tau",
        "akd": "tau",
    }.items(),
)
def test_a_method_is_given_the_parameters_that_it_has(method, names):
    space = search.space_for(method, recipes.read("search", "search"), GIVEN)
    assert space == {name: APPENDIX_D[name] for name in ["batch_size", "lr", *names.split()]}


def test_the_search_is_the_papers():
    recipe = recipes.read("search", "search")
    assert recipe == {"kind": "search", "trials": 20, "epochs": 20, "space": APPENDIX_D}
    assert GIVEN["seed"] not in {
        s for p in (recipes.HERE / "studies").glob("*.yaml") for s in yaml.safe_load(p.read_text())["seeds"]
    }


def test_what_the_user_gives_is_not_tuned():
    space = search.space_for("kd", {"space": SMALL}, GIVEN | {"alpha": 0.0})
    assert space == {"lr": SMALL["lr"]}
    with pytest.raises(UserError, match="no parameter that method finetune has"):
        search.space_for("finetune", {"space": {"alpha": [0.1]}}, GIVEN)
    adapters = {"space": {"lora_r": [2, 4]}}
    with pytest.raises(UserError, match="space: lora_r: runs with tuning=full have none; give tuning=lora"):
        search.space_for("kd", adapters, GIVEN)
    assert search.space_for("kd", adapters, GIVEN | {"tuning": "lora"}) == adapters["space"]


@pytest.mark.parametrize(
    "space, says",
    [
        ({"seed": [1, 2]}, "seed is never tuned"),
        ({"learning_rate": [1e-5]}, "unknown parameter of the space 'learning_rate'"),
        ({"alpha": [0.5, 1.5]}, r"alpha=1.5: allowed is a number in \[0, 1\]"),
        ({"tau": [0]}, "tau=0: allowed is a number above 0"),
        ({"batch_size": [8.5]}, "batch_size=8.5: allowed is an integer"),
        ({"lr": 3e-5}, "lr is a list of values"),
        ({"lr": []}, "lr is a list of values"),
        ({"lr": [1e-5, 0.00001]}, "stands there twice"),
        ({"phase1_epochs": [10, 20]}, "phase1_epochs=20 of epochs=20"),
        ([1], "a mapping"),
    ],
)
def test_a_space_that_the_method_refuses(space, says):
    with pytest.raises(UserError, match=says) as error:
        search.space_for("akd" if "phase1_epochs" in space else "kd", {"space": space}, GIVEN)
    assert "\n" not in str(error.value)


def test_a_storage_that_does_not_open(tmp_path):
    (tmp_path / "text.db").write_text("no database, " * 100)
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE runs (id INTEGER)")
    for url, says in {
        "search.db": "no database URL",
        f"sqlite:///{tmp_path}/nowhere/search.db": "unable to open",
        f"sqlite:///{tmp_path}/text.db": "not a database",
        f"sqlite:///{tmp_path}/other.db": "holds other tables",
        "sqlite://": "in memory",
        "postgresql://me:secret@127.0.0.1:1/none": "driver is not installed",
        "orakel://127.0.0.1/none": "does not open",
    }.items():
        with pytest.raises(UserError, match=says) as error:
            search.open_storage(url)
        assert "secret" not in str(error.value) and "\n" not in str(error.value), url


@pytest.mark.parametrize(  # TPE's first ten are random
    "sampler, trials, ends_at", [("tpe", 12, (5, 11, 12)), ("random", 5, (2, 5, 6))]
)
def test_an_interrupted_search_draws_what_it_would_have_drawn(folder, sampler, trials, ends_at):
    asked = made(folder, sampler=sampler, trials=trials)
    whole = run(replace(asked, name="whole"))
    asks = itertools.count(1)

    def interrupted(draw, stop):
        def asking(epoch, score, last):
            if next(asks) in ends_at:
                raise KeyboardInterrupt
            return stop(epoch, score, last)

        return train(draw, asking)

    study, ends = search.open_study(asked), 0
    while search.left(study, asked.trials):
        try:
            search.run_trial(study, asked, interrupted)
        except KeyboardInterrupt:
            ends += 1
    assert ends == 3 and len(study.trials) == trials + 3
    found, expected = ([(t.params, t.value) for t in search.own(s)] for s in (study, whole))
    assert sorted(map(str, found)) == sorted(map(str, expected))
    assert [t.params for t in run(replace(asked, name="other", seed=8)).trials] != [t.params for t in whole.trials]


def test_a_pruning_that_was_decided_stays_decided(folder):
    asked, killed = made(folder, trials=12), []

    def interrupted(draw, stop):
        def asking(epoch, score, last):
            ends = stop(epoch, score, last)
            if ends and not killed:
                killed.append((draw.number, epoch))
                raise KeyboardInterrupt  # decided, and Optuna not told
            return ends

        return train(draw, asking)

    with pytest.raises(KeyboardInterrupt):
        run(asked, interrupted)
    study = run(asked, interrupted)
    ((_, epoch),) = killed
    (again,) = [trial for trial in search.own(study) if "retry_history" in trial.system_attrs]
    assert again.state.name == "PRUNED" and again.last_step == epoch


def test_a_trial_that_is_done_again_is_not_judged_anew_at_epochs_that_it_has_told(folder):
    """Others went on meanwhile: beside them it would be pruned at its first epoch, which it had passed."""
    asked, seen = made(folder, trials=20, min_resource=1, reduction_factor=2), []

    def interrupted(draw, stop):
        stop(1, 0.0, False)  # the first trial of all, so it passes
        raise KeyboardInterrupt

    study = search.open_study(asked)
    with pytest.raises(KeyboardInterrupt):
        search.run_trial(study, asked, interrupted)
    for score in (50.0, 60.0, 70.0):  # what other workers did meanwhile; asked for one, Optuna gives the first again
        rungs = {"completed_rung_0": score, "completed_rung_1": score}
        values = {1: score, 2: score}
        study.add_trial(optuna.trial.create_trial(value=score, intermediate_values=values, system_attrs=rungs))

    def again(draw, stop):
        seen.extend(stop(epoch, 0.0, False) for epoch in (1, 2))
        return 0.0

    search.run_trial(study, asked, again)
    assert seen == [False, True], "told at 1, judged at 2"


def test_pruning_saves_epochs_and_keeps_the_best(folder):
    space = {"lr": [x / 1000 for x in range(1, 101)], "alpha": [0.0]}
    asked = made(folder, space=space, trials=20)
    pruned = run(asked, trained)
    whole = run(replace(asked, name="whole", min_resource=21), trained)
    assert search_report.epochs_spent(whole) == 20 * 20
    assert search_report.epochs_spent(pruned) <= 0.45 * 20 * 20
    assert search.best(pruned)[0].params == search.best(whole)[0].params
    later = run(replace(asked, name="later", min_early_stopping_rate=1), trained)
    assert min(trial.last_step for trial in later.trials) == 12  # the rung at epoch 3 is left out


def test_no_trial_is_pruned_at_its_last_epoch(folder):
    """Nothing would be spared, and a trial that fell behind there would lose its best epoch."""
    space = {"lr": [x / 1000 for x in range(1, 9)], "alpha": [0.0]}

    def falling(draw, stop):
        scores = [100 * draw.params["lr"], 200 * draw.params["lr"], -draw.params["lr"]]
        for epoch, score in enumerate(scores, 1):
            stop(epoch, score, epoch == len(scores))
        return max(scores)

    study = run(made(folder, space=space, trials=8, min_resource=3), falling)
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert search.best(study)[0].params["lr"] == max(trial.params["lr"] for trial in study.trials)


def trained(draw, stop, epochs=20):
    for epoch, score in enumerate(curve(draw, epochs), 1):
        if stop(epoch, score, False):
            break
    return score


def test_a_killed_worker_is_noticed_and_its_trial_goes_on(folder):
    asked = made(folder, min_resource=9)

    def die(draw, stop):
        stop(1, curve(draw)[0], False)
        stop(2, curve(draw)[1], False)
        os.kill(os.getpid(), signal.SIGKILL)

    study = search.open_study(asked)
    worker = multiprocessing.get_context("fork").Process(
        target=lambda: search.run_trial(search.open_study(asked), asked, die)
    )
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    assert search.left(study, asked.trials) == 5  # it is under way, as far as one knows
    assert search.take_over(study, asked.heartbeat_seconds) == 1
    deadline = time.monotonic() + 60
    while search.take_over(study, asked.heartbeat_seconds):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert search.left(study, asked.trials) == 6
    number, trial = search.run_trial(study, asked, train)
    killed = study.trials[0]
    assert (number, trial.params, killed.state.name) == (0, killed.params, "FAIL")
    assert trial.intermediate_values == dict(enumerate(curve(search.Draw(0, trial.params)), 1))
    assert len(search.own(study)) == 1


def test_a_worker_that_is_killed_at_its_first_heartbeat_is_noticed(folder, monkeypatch):
    """Its trial had begun: without a heartbeat it would be waited for for ever."""
    asked = made(folder, trials=1)

    def work():
        study = search.open_study(asked)
        monkeypatch.setattr(optuna.storages._heartbeat.HeartbeatThread, "_record_heartbeat", lambda *_: None)
        search.run_trial(study, asked, lambda draw, stop: os.kill(os.getpid(), signal.SIGKILL))

    _killed(work)
    _back_in_the_queue(asked)


def test_a_trial_whose_worker_was_taken_for_dead_by_one_that_died_then_is_not_lost(folder, monkeypatch):
    """Optuna fails a trial and then puts it back into the queue; who is killed between the two leaves it failed."""
    asked = made(folder, trials=1)
    _killed(lambda: search.run_trial(search.open_study(asked), asked, lambda *_: os.kill(os.getpid(), signal.SIGKILL)))

    def take_over():
        monkeypatch.setattr(optuna.Study, "add_trial", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        while True:
            search.take_over(search.open_study(asked), asked.heartbeat_seconds)
            time.sleep(0.5)

    _killed(take_over)
    assert [trial.state.name for trial in search.open_study(asked).trials] == ["FAIL"]
    _back_in_the_queue(asked)


def _killed(work) -> None:
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL


def _back_in_the_queue(asked) -> None:
    """The only trial of a search is, when it has been missed, and it ends as if nothing had been."""
    study, deadline = search.open_study(asked), time.monotonic() + 20
    while not search.left(study, asked.trials):
        assert time.monotonic() < deadline
        time.sleep(0.5)
        search.take_over(study, asked.heartbeat_seconds)
    search.run_trial(study, asked, train)
    assert [trial.state.name for trial in search.own(study)] == ["COMPLETE"]


def test_workers_share_a_search(folder):
    asked = made(folder, trials=9)
    search.open_study(asked)

    def work():
        study = search.open_study(asked)
        for _ in range(3):
            search.run_trial(study, asked, train)

    workers = [multiprocessing.get_context("fork").Process(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    study = search.open_study(asked)
    assert len(study.trials) == 9 and not search.left(study, 9)
    assert search.left(study, 12) == 3  # a search may be made longer
    alone = run(replace(asked, name="alone"))
    assert sorted(str(t.params) for t in study.trials) == sorted(str(t.params) for t in alone.trials)


def test_a_trial_that_fails_counts_and_the_search_goes_on(folder):
    def diverges(draw, stop):
        if draw.number == 1:
            raise DivergedError("the loss of epoch 1 is nan")
        return train(draw, stop)

    study = run(made(folder), diverges)
    assert [t.state.name for t in study.trials].count("FAIL") == 1 and len(study.trials) == 6
    assert study.trials[1].user_attrs[search.REASON] == "the loss of epoch 1 is nan"
    assert 1 not in [trial.number for trial in search.finished(study)]


def test_expected_best_of_n_is_the_mean_over_all_subsets():
    scores = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0]
    of_all = [statistics.mean(map(max, itertools.combinations(scores, n))) for n in range(1, len(scores) + 1)]
    assert search_report.expected_best(scores) == pytest.approx(of_all)


def test_expected_best_of_one_is_the_mean_and_of_all_the_best():
    scores = np.random.default_rng(0).normal(50, 2, 200).tolist()
    found = search_report.expected_best(scores)
    assert found[0] == pytest.approx(statistics.mean(scores)) and found[-1] == max(scores)
    assert found == sorted(found) and all(map(math.isfinite, found))


def simulated(quality: dict, noise: np.random.Generator):
    """A task where alpha does nothing: a setting's quality, and luck that each (setting, seed) has of its own."""
    luck: dict = {}

    def score(params, seed, method):
        setting = (params["batch_size"], params["lr"])
        return quality[setting] + luck.setdefault((method, setting, seed), noise.normal(0, 1))

    return score


def tuned(method: str, space: search.Space, score, seed: int, replication: int) -> search.Draw:
    asked = search.Search(method, "", space, 10, replication, "random", min_resource=9)
    study = optuna.create_study(direction="maximize")
    while search.run_trial(study, asked, lambda draw, stop: score(draw.params, seed, method)):
        pass
    return search.best(study)[0]


def test_a_method_that_does_nothing_does_not_win_by_being_tuned():
    """alpha = 0 is finetune. Tuned with the same budget and compared on fresh seeds, it wins no more than by chance."""
    recipe = recipes.read("search", "search")
    recipe = recipe | {"space": recipe["space"] | {"alpha": [0.0]}}
    spaces = {method: search.space_for(method, recipe, GIVEN) for method in ("finetune", "kd")}
    chance = np.random.default_rng(0)
    settings = list(itertools.product(APPENDIX_D["batch_size"], APPENDIX_D["lr"]))
    fair, untuned, on_the_tuned_seed, replications = 0, 0, [], 60
    for replication in range(replications):
        score = simulated({setting: 60 + chance.normal(0, 0.3) for setting in settings}, chance)
        best = {m: tuned(m, space, score, 7, replication + (m == "kd") * 1000) for m, space in spaces.items()}
        fresh = {m: [score(best[m].params, seed, m) for seed in range(100, 108)] for m in best}
        default = [score({"batch_size": 8, "lr": 9e-6}, seed, "default") - 1 for seed in range(100, 108)]
        fair += verdicts({"kd": pairs(fresh["kd"], fresh["finetune"])}, 0.5, 0.05)["kd"].word == "better"
        untuned += verdicts({"kd": pairs(fresh["kd"], default)}, 0.5, 0.05)["kd"].word == "better"
        on_the_tuned_seed.append(best["kd"].value - statistics.mean(fresh["kd"]))
    assert fair <= 0.15 * replications  # 5% in the long run; 9 of 60 has a probability below 0.3%
    assert untuned >= 0.3 * replications  # the mistake that per_method is there to avoid
    assert statistics.mean(on_the_tuned_seed) > 0.8  # and the one that tuned_on_seeds is there to avoid


def test_the_settings_file_gives_a_run_what_the_search_found(tmp_path):
    given = GIVEN | {"recipe": "table9", "task": "sst5", "max_train_examples": 500, "weight_decay": 0.1}
    found = {"kd": {"lr": 3e-5, "batch_size": 8, "alpha": 0.8, "tau": 5.0}, "finetune": {"lr": 1e-5, "batch_size": 64}}
    path = tmp_path / "found.yaml"
    path.write_text(search_report.settings(given, found, "0123"))
    assert recipes.tuned_on(str(path)) == [7]
    student = resolved(with_defaults("train_student", {"recipe": str(path), "method": "kd"}))
    wanted = found["kd"] | {"task": "sst5", "epochs": 20, "max_train_examples": 500, "weight_decay": 0.1}
    assert student | wanted == student
    plain = resolved(with_defaults("train_student", {"recipe": str(path)}))
    assert plain | found["finetune"] == plain
    before = resolved({"recipe": "table9", "method": "finetune", "init": "pretrained"}, "teacher")
    teacher = resolved({"recipe": str(path), "method": "finetune", "init": "pretrained"}, "teacher")
    assert teacher == before | {"recipe": str(path), "max_train_examples": 500}
    again = tmp_path / "again.yaml"  # a file of the user's own is copied in: it may move
    again.write_text(search_report.settings(given | {"recipe": str(path), "seed": 8}, {None: found["kd"]}, "0123"))
    path.unlink()
    assert recipes.tuned_on(str(again)) == [7, 8]
    for method in ("finetune", "tfreg", "kd"):
        every = resolved(with_defaults("train_student", {"recipe": str(again), "method": method}))
        assert (every["lr"], every["batch_size"]) == (3e-5, 8)


def test_what_is_found_for_one_method_can_be_paired_with_the_others(tmp_path):
    given = GIVEN | {"recipe": "smoke", "task": "rotten_tomatoes", "max_length": 24, "max_train_examples": 500}
    path = tmp_path / "found.yaml"
    path.write_text(
        search_report.settings(given, {"kd": {"lr": 3e-5, "batch_size": 8, "alpha": 0.8, "tau": 5.0}}, "0123")
    )
    runs = {m: resolved(with_defaults("train_student", {"recipe": str(path), "method": m})) for m in METHODS}
    assert {run["epochs"] for run in runs.values()} == {given["epochs"]} == {20}
    assert all(run.get(name) == runs["kd"].get(name) for run in runs.values() for name in PROTOCOL)
    more = {"tuning": "lora", "lora_r": 4, "selection": "last"}
    path.write_text(search_report.settings(given | more, {"kd": {"lr": 3e-5}}, "0123"))
    runs = {m: resolved(with_defaults("train_student", {"recipe": str(path), "method": m})) for m in METHODS}
    assert all({name: run[name] for name in more} == more for run in runs.values())
    assert all(run.get(name) == runs["kd"].get(name) for run in runs.values() for name in PROTOCOL)
    rates = {"lr": 1e-3, "batch_size": 4, "weight_decay": 0.2, "average_start": 0.1}
    path.write_text(search_report.settings(given | rates | {"alpha": 0.3}, {"selfkd": {"tau": 5.0}}, "0123"))
    swa = {"recipe": str(path), "average": "swa"}
    runs = {m: resolved(with_defaults("train_student", swa | {"method": m})) for m in METHODS}
    assert all({name: run[name] for name in rates} == rates for run in runs.values()), "of its twin too"
    assert (runs["selfkd"]["alpha"], runs["selfkd"]["tau"]) == (0.3, 5.0) and runs["ls"]["alpha"] != 0.3
    path.write_text(search_report.settings(given, {"kd": {"lr": 3e-5}}, "0123"))
    before = {"recipe": "smoke", "method": "finetune", "init": "random"}
    assert resolved(before | {"recipe": str(path)})["epochs"] == resolved(before)["epochs"]
    images = {"task": "digits", "recipe": "default", "stem": "imagenet", "image_size": 16, "augment": "none"}
    path.write_text(search_report.settings(GIVEN | {"init": "random"} | images, {"kd": {"lr": 3e-5}}, "0123"))
    plain = resolved({"recipe": str(path), "method": "finetune", "init": "random"})
    assert plain | images | {"epochs": 20, "recipe": str(path)} == plain
    teacher = resolved({"recipe": str(path), "method": "finetune", "init": "random"}, "teacher")
    assert teacher["image_size"] == 16, "its examples are the students'"


@pytest.mark.parametrize("tuned, shown", [(["kd"], ""), (["pskd"], "finetune,pskd"), (["ls", "cp"], "finetune,ls,cp")])
def test_what_is_printed_uses_what_was_found(tuned, shown, tmp_path):
    """`main` by itself compares finetune, ls and kd, and train_student trains finetune."""
    searches = {method: search.Search("name", "", {"lr": [1e-3]}, 1, 7) for method in tuned}
    one, study = search_report.commands(GIVEN | {"task": "sst5"}, searches, tuned)
    assert one == f"train_student -P recipe=FILE -P method={tuned[0]}"
    lists = f"-P inits=pretrained -P methods={shown}" if shown else "-P inits=pretrained"
    assert study.endswith(lists) and study.startswith("main -P settings=FILE -P tasks=sst5"), study
    (own := tmp_path / "own.csv").touch()  # by itself its task would be called own
    one, study = search_report.commands(GIVEN | {"task": "films", "train_file": str(own)}, searches, tuned)
    assert one.endswith(f"-P train_file={own} -P task=films") and "-P tasks=films" in study
    alone = GIVEN | {"task": "sst5", "model": "minilm"}  # it has no teacher: kd, which `main` has, would end the study
    _, study = search_report.commands(alone, searches, tuned)
    assert study.endswith(f"-P methods={shown or 'finetune,kd'}")
    _, study = search_report.commands(alone | {"teacher_model": "bert-large"}, searches, tuned)
    assert study.endswith(f"{lists} -P teacher_model=bert-large")
    one, _ = search_report.commands(GIVEN | {"train_file": str(own)}, searches, tuned)
    assert one.endswith(f"-P train_file={own}")
    for given in ({"teacher_run_id": "0123"}, {"teacher_seed": 9}):
        one, *study = search_report.commands(GIVEN | {"task": "sst5"} | given, searches, tuned)
        assert one.endswith("-P {}={}".format(*next(iter(given.items()))))
        assert len(study) == (tuned != ["kd"]), "the teacher of main is another"


@pytest.mark.parametrize("epochs, phase1", [(20, 13), (24, 16)])
def test_phase_1_of_a_search_is_that_of_what_it_found(tmp_path, epochs, phase1):
    """Table 11 divides its 30 epochs; a search has a number of its own, and divides that."""
    given, found, path = GIVEN | {"recipe": "table11", "epochs": epochs}, {"lr": 3e-5}, tmp_path / "found.yaml"
    for method, own in (("akd", {}), ("kd", {}), ("akd", {"phase1_epochs": 4})):
        path.write_text(search_report.settings(given, {method: found | own}, "0123"))
        run = resolved(with_defaults("train_student", {"recipe": str(path), "method": "akd"}))
        trial = resolved(given | own | {"method": "akd"})
        assert run["phase1_epochs"] == trial["phase1_epochs"] == own.get("phase1_epochs", phase1)


@pytest.mark.parametrize("kind, name", [("settings", "search"), ("study", "search"), ("search", "table9")])
def test_a_recipe_of_the_wrong_kind_is_refused_by_name(kind, name):
    folder = recipes.HERE if name == "search" else recipes.HERE / "settings"
    with pytest.raises(UserError, match=rf"{name}.yaml: kind is '\w+', here it must be '{kind}'"):
        recipes.read(str(folder / f"{name}.yaml"), kind)


def test_the_setting_that_is_best_on_average_is_kept():
    scores = pd.DataFrame({"finetune": [50.0, 52.0, 60.0], "kd": [56.0, 53.0, float("nan")]})
    kept, settings, differs = search_report.cross_check([{"lr": 1e-5}, {"lr": 2e-5}, {"lr": 3e-5}], scores)
    assert kept == 0  # 53 on average against 52.5; the third did not run with every method
    assert settings["lr"].tolist() == ["1e-05", "2e-05", "3e-05"] and settings["mean"][1] == 52.5
    assert differs.to_dict("records") == [
        {"method": "finetune", "kept": 50.0, "own best": 60.0, "own setting": 3, "difference": 10.0},
        {"method": "kd", "kept": 56.0, "own best": 56.0, "own setting": 1, "difference": 0.0},
    ]


def test_what_is_reported_of_a_search(folder, tmp_path):
    studies = {
        "kd": run(made(folder, trials=12)),
        "finetune": run(made(folder, name="finetune", trials=12, seed=8)),
    }
    shares = search_report.importances(run(made(folder, name="whole", trials=12, min_resource=9)))
    assert set(shares) == set(SMALL) and shares["lr"] > 0.6 and sum(shares.values()) == pytest.approx(1)
    table = search_report.budgets(studies, {"kd": 48, "finetune": 48}).set_index("method")
    assert table["trials"].tolist() == [12, 12] and (table["epochs"] < 48).all() and (table["pruned"] > 0).all()
    best = {
        method: max(t.value for t in study.trials if t.state.name == "COMPLETE") for method, study in studies.items()
    }
    assert table.loc["kd", "gain over finetune"] == pytest.approx(best["kd"] - best["finetune"])
    curves = search_report.best_of_n(studies)
    assert curves["n"].tolist() == list(range(1, 13))
    assert curves["kd"].iloc[-1] == max(t.value for t in studies["kd"].trials)
    search_report.plot(studies["kd"], tmp_path / "plots")
    search_report.plot_best_of_n(curves, tmp_path / "plots" / "best_of_n.svg")
    pictures = {path.name: path.read_text() for path in (tmp_path / "plots").iterdir()}
    assert set(pictures) == {f"{n}.svg" for n in "history slice parallel_coordinate curves best_of_n".split()}
    assert all("<svg" in text and len(text) > 5000 for text in pictures.values())
