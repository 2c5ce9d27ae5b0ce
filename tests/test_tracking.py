"""The contract (docs/contract.md), read back from real stores: what each entry point leaves through `mlflow run`."""

import contextlib
import csv
import gc
import os
import re
import shlex
import signal
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from running import ROOT, artifacts, call, finish, mlflow_run, python, runs, started, succeed, together, wait_for
from running import ended as end_of

from labelreg.errors import UserError
from labelreg.store import logged, records, tracking

pytest_plugins = ["running"]

EPOCHS = 2
COMMON = {"lr": "2e-5", "batch_size": 8, "epochs": EPOCHS, "max_length": 32, "threads": 1, "text_column": "the text"}
PER_EPOCH = {"train/loss", "dev/score", "dev/accuracy", "dev/nll", "dev/ece", "dev/brier"}
AT_THE_END = {"best/epoch", *(f"{which}/{split}/score" for which in ("best", "last") for split in ("dev", "test"))}
COST = "train_seconds tokens_per_second padding_share passes peak_memory_mb trainable_parameters model_mb".split()
COST = {f"cost/{name}" for name in COST}
PARAMS = set(
    "task model init method seed split_seed lr batch_size epochs phase1_epochs alpha tau a max_length "
    "max_train_examples weight_decay warmup_ratio precision compile threads selection teacher_model teacher_run_id "
    "teacher_seed precision_used compile_used device optimizer tfreg_target".split()
)


@pytest.fixture(scope="module")
def commands(server, tiny_models, tmp_path_factory):
    """Every entry point once through a real `mlflow run` against a real server; Ended by name."""
    import mlflow

    mlflow.MlflowClient(server).create_experiment("contract")
    folder = tmp_path_factory.mktemp("contract")
    with (folder / "own reviews.csv").open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file)
        write.writerow(["the text", "label"])
        for row in range(60):
            label, word = [("very good", "fine"), ("bad", "dull"), ("bof", "plain")][row % 3]
            write.writerow([f'a "{word}" film,\nscene {row}, größe', label])
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "{kind: settings, extends: default, rules: [{set: {lr: 2.0e-5, epochs: 2, batch_size: 8, max_length: 32}},"
        " {when: {role: teacher}, set: {lr: 2.0e-5, batch_size: 8}}]}"
    )
    environment = {
        "MLFLOW_TRACKING_URI": server,
        "MLFLOW_EXPERIMENT_NAME": "contract",
        "LABELREG_CACHE_ROOT": str(folder / "cache"),
    }
    data = {"train_file": folder / "own reviews.csv", "model_root": tiny_models, "recipe": recipe, **COMMON}
    student = data | {"model": "bert-small"}
    study = {name: value for name, value in data.items() if name != "recipe"}
    study |= {
        "settings": recipe,
        "models": "bert-small",
        "inits": "pretrained",
        "methods": "finetune,selfkd",
        "seeds": "1,42",
        "jobs": 1,
    }
    left = {"mlruns", "mlflow.db", "submissions"} - set(os.listdir(ROOT))

    first = {
        "prepare": mlflow_run("prepare", **student),
        "train_teacher": mlflow_run("train_teacher", **data, model="bert-large"),
        "a mistake": mlflow_run("train_student", **student, method="lss"),
    }
    found = together(first, folder, **environment)
    second = {"kd": mlflow_run("train_student", **student, method="kd"), "main": mlflow_run("main", **study)}
    found |= together(second, folder, **environment)
    third = {name: mlflow_run(name) for name in ("significance", "submission")}
    found |= together(third, folder, **environment)
    assert not left & set(os.listdir(ROOT)), "a command wrote into the project's folder"
    return found


@pytest.fixture
def contract(commands, served):
    """The runs that `mlflow run` opened, by name of the command, and all runs of the experiment."""
    import mlflow

    for name, ended in commands.items():
        assert ended.status == (1 if name == "a mistake" else 0), f"{name}: {ended}"
        assert "Traceback" not in ended.err, f"{name}: {ended}"
    experiment = mlflow.get_experiment_by_name("contract").experiment_id
    everything = [run for run in runs() if run.info.experiment_id == experiment]
    opened = {}
    for name, ended in commands.items():
        (run_id,) = set(re.findall(r"Run \(ID '(\w+)'\) (?:succeeded|failed)", ended.err + ended.out))
        (opened[name],) = [run for run in everything if run.info.run_id == run_id]
    return opened, everything


def in_study(opened: dict, everything: list) -> list:
    nested = [run for run in everything if run.data.tags.get("mlflow.parentRunId") == opened["main"].info.run_id]
    return [run for run in nested if run.data.tags["labelreg.kind"] != "summary"]


def server_test(test):
    return pytest.mark.slow(pytest.mark.server(test))


@server_test
def test_the_run_that_mlflow_opened_holds_the_results(contract):
    opened, everything = contract
    kinds = {name: run.data.tags.get("labelreg.kind") for name, run in opened.items()}
    assert kinds == {
        "prepare": "prepare",
        "train_teacher": "teacher",
        "kd": "student",
        "significance": "significance",
        "submission": None,
        "main": "study",
        "a mistake": None,
    }
    assert {run.info.status for run in everything if run != opened["a mistake"]} == {"FINISHED"}
    beside = [run for run in everything if run.info.run_id not in {run.info.run_id for run in opened.values()}]
    summaries = [run for run in beside if run.data.tags["labelreg.kind"] == "summary"]
    assert {run.data.params["method"] for run in summaries} == {"finetune", "selfkd", "kd"}
    above = {opened[name].info.run_id for name in ("main", "significance")}
    assert {run.data.tags["mlflow.parentRunId"] for run in summaries} == above
    beside = [run for run in beside if run not in summaries]
    assert beside == in_study(opened, everything), "every other run is nested in the study's"
    assert len(beside) == 4


@pytest.mark.parametrize("value", ["men's.csv", "a b", "rock'n'roll", "a\\b", "", "x", 'say "so"', "'"])
def test_what_mlflow_run_quotes_is_unquoted_and_nothing_else(value):
    assert logged.unquoted(shlex.quote(value)) == logged.unquoted(value) == value
    assert logged.same(shlex.quote(value), value) and not logged.same("A", "a")


@server_test
def test_params_have_one_spelling_and_the_value_that_was_given(contract):
    opened, _ = contract
    for name in ("train_teacher", "kd"):
        held = opened[name].data.params
        files = {"train_file", "text_column", "model_root", "recipe"}
        assert set(held) - files <= PARAMS, f"{name}: names outside the contract"
        assert {"lr", "seed", "split_seed", "precision_used", "compile_used", "device"} <= set(held)
        assert held["lr"] == "2e-5", "as it was typed, for mlflow run logged it first"
        assert float(held["lr"]) == 2e-5
        assert logged.unquoted(held["text_column"]) == "the text"
        for key, value in {"task": "own reviews", "seed": "42", "epochs": "2", "threads": "1"}.items():
            assert held[key] == value, (name, key)
    params = {name: run.data.params for name, run in opened.items()}
    assert params["kd"]["method"] == "kd" and params["train_teacher"]["method"] == "finetune"
    assert (params["kd"]["alpha"], params["kd"]["tau"]) == ("0.5", "1.0")
    assert "alpha" not in params["train_teacher"] and "a" not in params["kd"]


@server_test
def test_metrics_have_one_point_per_epoch_and_the_ends(contract):
    import mlflow

    opened, everything = contract
    client = mlflow.MlflowClient()
    for run in [opened["train_teacher"], opened["kd"], *in_study(opened, everything)]:
        name = run.info.run_name
        taught = {"cost/teacher_seconds"} if run.data.params["method"] in ("kd", "selfkd") else set()
        assert set(run.data.metrics) == PER_EPOCH | AT_THE_END | COST | taught, name
        for metric in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, metric)]
            assert steps == (list(range(1, EPOCHS + 1)) if metric in PER_EPOCH else [EPOCHS]), (name, metric)
        scores = [point.value for point in client.get_metric_history(run.info.run_id, "dev/score")]
        assert run.data.metrics["best/dev/score"] == max(scores)
        assert run.data.metrics["best/epoch"] == 1 + scores.index(max(scores)), "the first on ties"
        assert run.data.metrics["last/dev/score"] == scores[-1]
        assert run.data.metrics["cost/train_seconds"] > 0 and 0 <= run.data.metrics["cost/padding_share"] < 1


@server_test
def test_data_and_fingerprints(contract):
    opened, everything = contract
    trained = [run for run in everything if run.data.tags.get("labelreg.kind") in ("teacher", "student")]
    digests = {run.data.tags["labelreg.data"] for run in [opened["prepare"], *trained]}
    assert len(digests) == 1 and re.fullmatch("[0-9a-f]{32}", digests.pop()), "one data set, one digest"
    for run in trained:
        (data,) = run.inputs.dataset_inputs
        assert data.dataset.digest == run.data.tags["labelreg.data"]
        assert data.dataset.name == "own reviews"
    prints = [run.data.tags["labelreg.fingerprint"] for run in trained]
    assert all(re.fullmatch("[0-9a-f]{32}", text) for text in prints)
    assert len(set(prints)) == len(prints), "none of them the same"


@server_test
def test_artifacts(contract, tmp_path):
    import mlflow

    opened, everything = contract
    studied = {run.data.params["method"]: run for run in in_study(opened, everything)}
    logits = {f"logits/{split}.safetensors" for split in ("train", "dev", "test")}
    predictions = {f"predictions/{split}.parquet" for split in ("dev", "test")}
    for name, run, expected in [
        ("teacher", opened["train_teacher"], logits | predictions),
        ("kd", opened["kd"], predictions),
        ("finetune of a study", studied["finetune"], logits | predictions),
        ("selfkd of a study", studied["selfkd"], predictions),
    ]:
        files = artifacts(run)
        model = {file for file in files if file.startswith("model/")}
        assert files - model == expected, name
        if run in studied.values():
            assert not model, f"{name}: a study of hundreds stores no models"
        else:
            assert {"model/config.json", "model/model.safetensors"} <= model, name
        assert not [file for file in files if Path(file).suffix in (".bin", ".pt", ".pth", ".pkl")], name

    run = opened["kd"]
    path = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="predictions/dev.parquet", dst_path=str(tmp_path)
    )
    table = pd.read_parquet(path)
    classes = ["p_bad", "p_bof", "p_very good"]
    assert list(table.columns) == ["idx", "label", *classes]
    assert table[classes].sum(axis=1).between(1 - 1e-6, 1 + 1e-6).all()
    accuracy = 100 * (table[classes].to_numpy().argmax(axis=1) == table["label"]).mean()
    assert accuracy == pytest.approx(run.data.metrics["best/dev/score"])
    assert table["idx"].is_unique


@server_test
def test_kd_finds_the_teacher_and_selfkd_its_twin(contract, commands):
    opened, everything = contract
    teacher, student = opened["train_teacher"], opened["kd"]
    assert student.data.params["teacher_run_id"] == teacher.info.run_id, commands["kd"]
    assert student.data.params["teacher_model"] == "bert-large"
    assert student.data.metrics["cost/teacher_seconds"] == teacher.data.metrics["cost/train_seconds"]
    assert "training it first" not in commands["kd"].out
    studied = {(run.data.params["method"], run.data.params["seed"]): run for run in in_study(opened, everything)}
    for seed in ("1", "42"):
        twin = studied["finetune", seed].info.run_id
        assert studied["selfkd", seed].data.params["teacher_run_id"] == twin, "of its own seed"


@server_test
def test_a_mistake_fails_the_run_with_its_line_as_the_note(contract, commands):
    opened, _ = contract
    (line,) = re.findall("^error: (.*)$", commands["a mistake"].err, re.MULTILINE)
    assert "unknown method 'lss'" in line and "'ls'" in line
    run = opened["a mistake"]
    assert run.info.status == "FAILED" and run.data.tags["mlflow.note.content"] == line


@server_test
def test_what_is_printed(contract, commands):
    opened, everything = contract
    assert "classes bad, bof, very good" in commands["prepare"].out
    assert "epoch 2/2: loss " in commands["kd"].out, "loss and dev score of each epoch"
    assert f"(run {opened['kd'].info.run_id})" in commands["kd"].out
    assert f"teacher_run_id={opened['train_teacher'].info.run_id}" in commands["train_teacher"].out
    told = commands["significance"].out
    assert re.search(r"^(random +|pretrained +)?kd .* 1 .*(undecided|not learnt)$", told, re.MULTILINE), told
    assert "significance.csv" in artifacts(opened["significance"])
    assert "no GLUE runs to submit yet" in commands["submission"].out
    said = commands["main"].out
    scores = re.search(r"(finetune|selfkd) +\d+\.\d\d +\d+\.\d\d +2 ", said)
    assert scores, f"no table of mean, deviation and number of runs:\n{said}"
    assert re.search("(?m)^.*selfkd .*(undecided|better|worse|equivalent|not learnt)$", said), said
    studies = {run.data.tags["labelreg.study"] for run in [opened["main"], *in_study(opened, everything)]}
    assert studies == {"own reviews"}


@pytest.mark.slow
def test_the_default_store_is_a_file_beside_the_command(store, tiny, monkeypatch):
    """`mlflow run` without any variable, then the same store by its relative and its absolute path."""
    (store / "mlflow.db").unlink()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    ended = finish(mlflow_run("train_student", **tiny, method="ls"), store)
    assert ended.status == 0, ended
    assert (store / "mlflow.db").is_file()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    succeed("train_student", **tiny)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    assert "· pretrained: " in succeed("significance").out
    students = runs("student")
    assert [run.data.params["method"] for run in students] == ["ls", "finetune"]
    for run in students:
        assert str(store) in run.info.artifact_uri, "artifacts lie beside the store"
        assert "predictions/dev.parquet" in artifacts(run)


# Interrupted: a run ends KILLED, nested ones too


LONG = {"epochs": 100_000, "batch_size": 1}  # an epoch is not so short that logging starves other writers


def states(method: str) -> list[str]:
    return [run.info.status for run in runs() if method in run.info.run_name.split()]


def printed(text: str, folder: Path):
    return lambda: text in (folder / "stdout").read_text()


@pytest.mark.slow
def test_ctrl_c_and_sigterm(store, tiny, settings_file):
    """Three commands at a time: Ctrl-C while a nested teacher is trained, alone and under `mlflow run`; SIGTERM."""
    import mlflow

    folders = [store / name for name in ("alone", "under mlflow run", "terminated")]
    for folder in folders:
        folder.mkdir()
    taught = tiny | {"recipe": settings_file(teacher=LONG)}
    another = settings_file(teacher=LONG | {"lr": 1e-3})  # two commands would share one teacher
    again = tiny | {"epochs": 12, "batch_size": 1, "checkpoint_seconds": 0, "method": "ls"}
    commands = [
        python("train_student", **taught, method="kd"),
        mlflow_run("train_student", **taught | {"method": "akd", "epochs": 2, "recipe": another}),
        python("train_student", **again),
    ]
    with contextlib.ExitStack() as stack:
        alone, under, terminated = (
            stack.enter_context(started(command, folder)) for command, folder in zip(commands, folders, strict=True)
        )
        wait_for(printed("epoch 3/12", folders[2]), "training", terminated)
        terminated.send_signal(signal.SIGTERM)
        wait_for(printed("epoch 3/100000", folders[0]), "the teacher's training", alone)
        wait_for(printed("epoch 3/100000", folders[1]), "the teacher's training under mlflow run", under)
        alone.send_signal(signal.SIGINT)
        os.killpg(under.pid, signal.SIGINT)
        ended = [end_of(*both) for both in zip((alone, under, terminated), folders, strict=True)]
    for each in (ended[0], ended[2]):
        assert (each.status, each.err) == (130, "interrupted: the same command goes on where this one was\n"), each
    assert ended[1].status == 1, ended[1]
    assert "Aborted!" in ended[1].err or "failed ===" in ended[1].err, "whichever MLflow sees first: Ctrl-C, its child"
    assert sorted(states("finetune")) == ["KILLED", "KILLED"], "the nested teachers"
    assert states("kd") == states("ls") == ["KILLED"]
    assert states("akd")[0] in ("KILLED", "FAILED"), "mlflow run decides the status of the run that it opened"
    assert all(run.info.end_time for run in runs())

    (killed,) = [run for run in runs() if "ls" in run.info.run_name.split()]
    client = mlflow.MlflowClient()
    assert 3 <= len(client.get_metric_history(killed.info.run_id, "dev/score")) < 12
    assert "going on with the interrupted run" in succeed("train_student", **again).out
    assert mlflow.get_run(killed.info.run_id).info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(killed.info.run_id, "dev/score")]
    assert steps == list(range(1, 13)), "one point per step, also after a resume"


def test_a_run_continues_only_its_own_command(store, tiny):
    """Two different seeds are two runs, and a finished run is not taken for an interrupted one."""
    for seed in (1, 2, 1):
        ended = call("train_student", **tiny, seed=seed)
        assert ended.status == 0 and "going on" not in ended.out, ended
    assert len(runs("student")) == 3


@pytest.mark.parametrize(
    "name, held, value, same",
    [
        ("methods", "kd, finetune", ["finetune", "kd"], True),
        ("methods", "kd", ["finetune", "kd"], False),
        ("methods", "kd,kd", ["kd"], False),
        ("seeds", "1, 2", [1, 2], True),
        ("seeds", "2,1", [1, 2], False),  # the order in which they are run and looked at
        ("seeds", "one,2", [1, 2], False),
        ("plan_only", "yes", True, True),
        ("plan_only", "0", True, False),
        ("lr_milestones", "0.30,.6", [0.3, 0.6], True),
        ("lr", "2e-05", 2e-5, True),
    ],
)
def test_what_a_run_holds_counts_by_value(store, name, held, value, same):
    import mlflow

    run = tracking.Run(mlflow.MlflowClient().create_run("0").info.run_id)
    mlflow.MlflowClient().log_param(run.run_id, name, shlex.quote(held))
    if same:
        run.params({name: value})
    else:
        with pytest.raises(UserError, match=f"{name}=.*the run uses {logged.plain(value)}"):
            run.params({name: value})


def test_what_went_wrong_before_is_not_said_of_a_run_that_went_on(store):
    import mlflow

    with contextlib.suppress(UserError), tracking.open_run("study", "s") as run:
        raise UserError("two of them failed")
    assert mlflow.get_run(run.run_id).data.tags[tracking.NOTE] == "two of them failed"
    with tracking.open_run("study", "s", continued=run.run_id):
        pass
    held = mlflow.get_run(run.run_id)
    assert (held.data.tags[tracking.NOTE], held.info.status) == ("", "FINISHED")

    with contextlib.suppress(KeyboardInterrupt), tracking.open_run("study", "s") as run:
        run.note("a user's own words")
        raise KeyboardInterrupt
    with tracking.open_run("study", "s", continued=run.run_id):
        pass
    assert mlflow.get_run(run.run_id).data.tags[tracking.NOTE] == "a user's own words"


@pytest.mark.parametrize("value", ["Bob's", 'a "b"'])
def test_tags_with_quotes_are_found(store, value):
    with tracking.open_run("student", "s", study=value) as run:
        pass
    assert [found.info.run_id for found in tracking.find(tracking.tagged({tracking.STUDY: value}))] == [run.run_id]
    with pytest.raises(UserError, match="both kinds of quotes"):
        tracking.tagged({tracking.STUDY: "\"'"})


def test_workers_may_name_one_data_set_at_the_same_time(store):
    """MLflow inserts a data set that it did not find, without a lock: the second of two workers fails."""
    import mlflow

    client, barrier = mlflow.MlflowClient(), threading.Barrier(8)
    run_ids = [client.create_run("0").info.run_id for _ in range(8)]

    def name(run_id: str) -> None:
        barrier.wait()
        tracking.Run(run_id).data("task", "d" * 32, "file.csv")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(name, run_ids))
    for run_id in run_ids:
        (data,) = client.get_run(run_id).inputs.dataset_inputs
        assert data.dataset.digest == "d" * 32


def test_nested_runs_lie_in_the_experiment_of_the_run_that_mlflow_opened(store, tiny, monkeypatch):
    """`mlflow run --experiment-name chosen` while MLFLOW_EXPERIMENT_NAME names another."""
    import mlflow

    chosen = mlflow.create_experiment("chosen", str(store / "chosen"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the shell")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", chosen)  # as `mlflow run` sets both for its child
    monkeypatch.setenv("MLFLOW_RUN_ID", mlflow.MlflowClient().create_run(chosen).info.run_id)
    ended = call("train_student", **tiny, method="kd")
    assert ended.status == 0, ended
    assert {run.info.experiment_id for run in runs()} == {chosen}


def with_predictions(test_scores: list, folder: Path) -> pd.DataFrame:
    """A run per entry with predictions/test.parquet of these probabilities (None: without), as `frame` reads them."""
    for number, scores in enumerate(test_scores):
        with tracking.open_run("student", f"run {number}") as run:
            if scores is not None:
                (folder / str(number) / "predictions").mkdir(parents=True)
                table = pd.DataFrame({"idx": range(len(scores)), "label": 0, "p_0": scores})
                table.to_parquet(folder / str(number) / "predictions" / "test.parquet", index=False)
                run.folder(folder / str(number))
    return records.frame(tracking.current_experiment()).iloc[::-1].reset_index(drop=True)


def test_predictions_of_a_local_store_are_read_in_place(store, tmp_path):
    runs = with_predictions([[0.5, 0.25], None], tmp_path / "own")
    read = records.predictions(runs, list(runs["run_id"]))
    assert read(runs["run_id"][0], "test")["p_0"].tolist() == [0.5, 0.25]
    assert read(runs["run_id"][0], "dev") is None and read(runs["run_id"][1], "test") is None
    place = next(tmp_path.glob(f"mlruns/**/{runs['run_id'][0]}/artifacts/predictions/test.parquet"))
    place.write_bytes(b"no parquet")
    with pytest.raises((OSError, ValueError)):  # what analysis.predictions takes for a damaged file
        read(runs["run_id"][0], "test")
    assert records.predictions(runs.iloc[:0])  # an empty store


@pytest.mark.server
def test_predictions_of_a_server_are_downloaded_once(served, tmp_path, monkeypatch):
    import mlflow

    runs = with_predictions([[0.5], [0.75], None], tmp_path / "own")
    one, other, without = runs["run_id"]
    asked, download = [], records.download

    def counted(run_id, path, target):
        asked.append(run_id)
        return download(run_id, path, target)

    monkeypatch.setattr(records, "download", counted)
    read = records.predictions(runs, [one, without])
    assert sorted(asked) == sorted([one, without])
    for _ in range(2):
        assert read(one, "test")["p_0"].tolist() == [0.5] and read(one, "dev") is None
        assert read(other, "test")["p_0"].tolist() == [0.75] and read(without, "test") is None
    assert len(asked) == 3

    def refuses(self, run_id):
        raise OSError("no credentials")

    monkeypatch.setattr(mlflow.MlflowClient, "list_artifacts", refuses)
    with pytest.raises(OSError, match="no credentials"):  # which is not to say that the run has none
        records.predictions(runs)(without, "test")
    folders = list(Path(tempfile.gettempdir()).glob(f"labelreg-predictions-*/{one}"))
    assert len(folders) == 1
    del read
    gc.collect()
    assert not folders[0].exists()
