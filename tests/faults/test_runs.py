"""A run under faults: mistakes when it is gone on with, kills around its beginning, damaged files, moved stores.

Whatever happens, the same command ends with one run that has the undisturbed run's numbers and files to the last bit.
"""

import errno
import os
import random
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import mlflow
import pytest
import torch
from injector import FULL, every_step_once, fill, record, small_disk, strike
from running import BIN, call, finish, new_store, python, refused, run_of, runs, succeed
from safetensors import safe_open
from safetensors.torch import save_file

from labelreg import job, one_run, training
from labelreg.errors import UserError
from labelreg.settings import with_defaults
from labelreg.store import checkpoint, records, tracking

pytest_plugins = ["running"]
EPOCHS = 4


@pytest.fixture
def given(tiny) -> dict:
    return tiny | {"epochs": EPOCHS, "checkpoint_seconds": 0}


@pytest.fixture
def undisturbed(given, tmp_path, empty_store, monkeypatch):
    """Records a run of a command in a store and a cache of its own: what every disturbed one must give."""

    def run(**parameters) -> dict:
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("LABELREG_CACHE_ROOT", str(tmp_path / "undisturbed" / "cache"))
            elsewhere.setenv("MLFLOW_TRACKING_URI", new_store(empty_store, tmp_path / "undisturbed"))
            return record(run_of(succeed("train_student", **given | parameters)).info.run_id)

    return run


def train(given: dict, at: int, happens) -> None:
    """A run in this process in which something happens after epoch `at` is logged."""

    def watch(run, epochs):
        for report in epochs:
            yield report
            if report.epoch == at:
                happens()

    given = with_defaults("train_student", {name: value for name, value in given.items()} | {"task": "reviews"})
    one_run.carry_out(job.Job(job.settings_of(given | {"save_model": "true"}), given, quiet=True, watch=watch))


def interrupt() -> None:
    raise KeyboardInterrupt


def only(kind: str | None = "student"):
    (run,) = runs(kind)
    return run


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / "cache" / "checkpoints").glob(f"*/{checkpoint.FILE}"))


def test_a_mistake_on_resume_costs_nothing(given, tmp_path, undisturbed):
    kd = given | {"method": "kd", "teacher_model": "bert-large"}
    killed = strike(python("train_student", **kd), tmp_path, "labelreg.store.checkpoint:save_file", count=EPOCHS + 3)
    assert killed.status == -signal.SIGKILL, killed
    run_id, teacher = only().info.run_id, only("teacher")
    (file,) = checkpoints(tmp_path)
    kept = file.read_bytes()
    logits = tmp_path / "mlruns/0" / teacher.info.run_id / "artifacts/logits/train.safetensors"
    whole = logits.read_bytes()
    with safe_open(logits, "pt") as read:
        about, values = read.metadata(), read.get_tensor("logits")

    def mistaken(*words: str) -> None:
        shutil.rmtree(tmp_path / "cache" / "logits", ignore_errors=True)
        refused(call("train_student", **kd), *words)
        assert only().info.run_id == run_id and only().info.status == "KILLED"
        assert "mlflow.note.content" not in only().data.tags
        assert file.read_bytes() == kept

    logits.unlink()
    mistaken(teacher.info.run_id, "logits/train.safetensors")
    save_file({"logits": values.flip(0)}, logits, about)
    mistaken(teacher.info.run_id, "damaged", "delete that run")
    logits.write_bytes(whole)
    copy = tmp_path / "cache" / "logits" / teacher.info.run_id / "train.safetensors"
    copy.parent.mkdir(parents=True, exist_ok=True)
    save_file({"logits": values.flip(0)}, copy, about)

    same = {"train_file": "reviews.csv", "precision": training.resolve_precision("auto")}
    again = succeed("train_student", **kd | same)
    assert f"going on with the interrupted run {run_id}" in again.out and f"epoch 3/{EPOCHS}" in again.out
    assert "epoch 1/" not in again.out and f"{copy} is fetched again" in again.out
    assert copy.read_bytes() == whole
    assert only().info.run_id == run_id and record(run_id) == undisturbed(**kd)
    assert not list((tmp_path / "cache" / "checkpoints").iterdir())


def test_a_mistake_of_a_launch_stands_on_the_launch(store, monkeypatch):
    with pytest.raises(KeyboardInterrupt), tracking.open_run("student", "s") as run:
        raise KeyboardInterrupt
    monkeypatch.setenv("MLFLOW_RUN_ID", tracking.create("launch", None, None))
    launch = os.environ["MLFLOW_RUN_ID"]
    with pytest.raises(UserError), tracking.open_run("student", "s", continued=run.run_id):
        raise UserError("no such file")
    assert tracking.get(launch).data.tags["mlflow.note.content"] == "no such file"
    found = tracking.get(run.run_id)
    assert found.info.status == "KILLED" and "mlflow.note.content" not in found.data.tags


def test_a_study_with_700_seeds_goes_on(store):
    """MLflow keeps 6,000 characters of a parameter."""
    seeds = list(range(1_000_000_000, 1_000_000_700))
    place = store / "cache" / "studies" / "s"
    for attempt in range(2):
        with pytest.raises(KeyboardInterrupt), checkpoint.claim(place) as claim:
            before = tracking.unfinished(claim)
            assert bool(before) == bool(attempt)
            with tracking.open_run("study", "s", continued=before, claim=claim) as run:
                run.params({"recipe": "r", "seeds": seeds})
                raise KeyboardInterrupt
    held = only("study")
    assert held.info.run_id == run.run_id
    assert "parameters/seeds.txt, sha256 " in held.data.params["seeds"] and len(held.data.params["seeds"]) == 6000
    whole = records.download(run.run_id, "parameters/seeds.txt", store / "download").read_text()
    assert whole == ",".join(map(str, seeds))


@pytest.mark.parametrize("end, fits", [("0", True), ("1", False)])
def test_what_mlflow_run_logged_and_cut_off_counts_by_its_beginning(store, monkeypatch, end, fits):
    seeds = list(range(1_000_000_000, 1_000_000_700))
    run_id = tracking.create("launch", None, None)
    mlflow.MlflowClient().log_param(run_id, "seeds", f"'100000000{end}, " + ", ".join(map(str, seeds[1:])) + "'")
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    if fits:
        with tracking.open_run("study", "s") as run:
            run.params({"seeds": seeds})
        return
    with pytest.raises(UserError, match="seeds="), tracking.open_run("study", "s") as run:
        run.params({"seeds": seeds})


@pytest.mark.parametrize(
    "place, action, when, status, state",
    [
        ("mlflow:MlflowClient.create_run", "SIGKILL", "after", -signal.SIGKILL, "RUNNING"),
        ("mlflow:MlflowClient.create_run", "SIGINT", "after", 130, "KILLED"),
        ("labelreg.store.checkpoint:Claim.start", FULL, "before", 2, "FAILED"),
    ],
)
def test_a_run_that_was_made_and_not_noted_is_found_again(given, tmp_path, place, action, when, status, state):
    found = strike(python("train_student", **given), tmp_path, place, action, when=when)
    assert found.status == status, found
    first = only(None)
    assert first.info.status == state
    again = succeed("train_student", **given)
    assert f"going on with the interrupted run {first.info.run_id}" in again.out
    assert only().info.run_id == first.info.run_id and only().info.status == "FINISHED"


def test_a_run_that_was_killed_when_all_but_its_checkpoint_was_done_is_not_trained_again(given, tmp_path):
    strike(python("train_student", **given), tmp_path, "labelreg.store.checkpoint:Claim.forget")
    first = only()
    assert first.info.status == "FINISHED"
    again = succeed("train_student", **given)
    assert f"the interrupted run {first.info.run_id} had ended" in again.out and "epoch 1/" not in again.out
    assert [run.info.run_id for run in runs("student")] == [first.info.run_id]
    succeed("train_student", **given)
    assert len(runs("student")) == 2, "asked for once more, it is trained once more"


def test_what_resume_never_leaves_does_not_run_for_ever(given, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(given, 2, interrupt)
    killed = only()
    mlflow.MlflowClient().update_run(killed.info.run_id, "RUNNING")  # as a SIGKILL leaves it
    ended = succeed("train_student", **given, resume="never")
    assert f"epoch 1/{EPOCHS}" in ended.out
    assert tracking.get(killed.info.run_id).info.status == "KILLED"
    assert sorted(run.info.status for run in runs("student")) == ["FINISHED", "KILLED"]


def test_any_flipped_byte_of_a_checkpoint_is_seen(tmp_path, capsys):
    tensors = {"a": torch.randn(5, 7), "b": torch.tensor(3.0), "c": torch.ones(3, dtype=torch.bfloat16)}
    checkpoint.save(tmp_path, tensors, {"epoch": 3, "dev": {"score": 50.1}})
    file = tmp_path / checkpoint.FILE
    whole = file.read_bytes()
    silent = []
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << random.Random(place).randrange(8)
        file.write_bytes(content)
        found = checkpoint.load(tmp_path)
        if found is None:
            assert "is damaged" in capsys.readouterr().out
        elif found[1] != {"epoch": 3, "dev": {"score": 50.1}} or any(
            not torch.equal(found[0].get(name, torch.tensor(0)), value) for name, value in tensors.items()
        ):
            silent.append(place)
    assert not silent
    for length in (0, 8, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert checkpoint.load(tmp_path) is None and "is damaged" in capsys.readouterr().out


def test_a_checkpoint_of_before_there_were_checksums_is_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / checkpoint.FILE, {"record": '{"epoch": 2}'})
    tensors, about = checkpoint.load(tmp_path)
    assert about == {"epoch": 2} and torch.equal(tensors["a"], torch.ones(2))


def test_a_damaged_checkpoint_costs_its_epochs_only(given, tmp_path, undisturbed):
    with pytest.raises(KeyboardInterrupt):
        train(given, 3, interrupt)
    (file,) = checkpoints(tmp_path)
    content = bytearray(file.read_bytes())
    content[-5] ^= 64
    file.write_bytes(content)
    run_id = only().info.run_id
    again = succeed("train_student", **given)
    assert f"{file} is damaged" in again.out and f"epoch 1/{EPOCHS}" in again.out
    found = record(run_id)
    every_step_once(found)
    assert found == undisturbed()


def test_the_checkpoint_of_another_run_is_not_gone_on_with(given, tmp_path, undisturbed):
    """Such as a cache that was put together by hand: the other run's numbers would stand under this one's name."""
    with pytest.raises(KeyboardInterrupt):
        train(given | {"seed": 5}, 3, interrupt)
    (other,) = checkpoints(tmp_path)
    kept = other.read_bytes()
    shutil.rmtree(other.parent)
    with pytest.raises(KeyboardInterrupt):
        train(given, 3, interrupt)
    (file,) = checkpoints(tmp_path)
    file.write_bytes(kept)
    again = succeed("train_student", **given)
    assert f"it is that of another run, {other.parent.name}" in again.out and f"epoch 1/{EPOCHS}" in again.out
    found = record(run_of(again).info.run_id)
    every_step_once(found)
    assert found == undisturbed()


def test_a_checkpoint_with_more_rows_of_the_embedding_begins_again(given, tmp_path, undisturbed):
    """Earlier versions trained the rows of every split's tokens."""
    with pytest.raises(KeyboardInterrupt):
        train(given, 3, interrupt)
    (file,) = checkpoints(tmp_path)
    tensors, found = checkpoint.load(file.parent)
    (name,) = [each for each in tensors if each.startswith("model.") and each.endswith("word_embeddings.weight")]
    checkpoint.save(file.parent, tensors | {name: torch.cat([tensors[name], tensors[name][:2]])}, found)
    again = succeed("train_student", **given)
    assert "of an earlier version" in again.out and f"epoch 1/{EPOCHS}" in again.out
    assert record(run_of(again).info.run_id) == undisturbed()


def test_a_cache_that_is_deleted_costs_the_checkpoints_only(given, tmp_path, undisturbed, capsys):
    train(given, 2, lambda: shutil.rmtree(tmp_path / "cache"))
    assert "keeps no checkpoints" in capsys.readouterr().out
    assert record(only().info.run_id) == undisturbed()


def test_a_disk_that_is_full_stops_a_run_and_more_room_lets_it_go_on(given, tmp_path, undisturbed, monkeypatch):
    with small_disk(tmp_path / "disk", 16) as disk:
        monkeypatch.setenv("LABELREG_CACHE_ROOT", str(disk))
        with pytest.raises(OSError, match="No space left"):
            train(given, 2, lambda: fill(disk, leave=4096))
        assert only().info.status == "FAILED" and "No space left" in only().data.tags["mlflow.note.content"]
        assert not list(disk.glob("checkpoints/*/*.tmp"))
        (disk / "filling").unlink()
        again = succeed("train_student", **given)
        assert f"epoch 3/{EPOCHS}" in again.out and "epoch 1/" not in again.out
        assert record(only().info.run_id) == undisturbed()


def test_a_file_system_without_locks_is_told(given, tmp_path, monkeypatch):
    """As some network file systems are: two processes would train one run."""

    def flock(*_) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    refused(call("train_student", **given), "cache_root: the file system of ", "has no locks (No locks available)")
    assert [run.info.status for run in runs()] == []


@pytest.mark.parametrize("moved", ["another store", "mlflow gc"])
def test_a_run_that_its_store_does_not_know_is_kept(given, tmp_path, empty_store, monkeypatch, undisturbed, moved):
    with pytest.raises(KeyboardInterrupt):
        train(given, 3, interrupt)
    first, here = only().info.run_id, os.environ["MLFLOW_TRACKING_URI"]
    if moved == "mlflow gc":
        mlflow.MlflowClient().delete_run(first)
        done = finish([str(BIN / "mlflow"), "gc", "--backend-store-uri", here, "--run-ids", first], tmp_path)
        assert done.status == 0, done
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(empty_store, tmp_path / "other"))
    again = succeed("train_student", **given)
    assert f"the interrupted run {first} is not in this store" in again.out and f"epoch 1/{EPOCHS}" in again.out
    assert record(only().info.run_id) == undisturbed()
    if moved == "another store":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
        back = succeed("train_student", **given)
        assert f"going on with the interrupted run {first}" in back.out and "epoch 1/" not in back.out
        assert record(first) == undisturbed()
        assert not list((tmp_path / "cache" / "checkpoints").iterdir())


def test_a_clock_that_jumps_back_changes_nothing(given, tmp_path, undisturbed, monkeypatch):
    real = time.time
    with pytest.raises(KeyboardInterrupt):
        train(given, 2, interrupt)
    monkeypatch.setattr(time, "time", lambda: real() - 7200)
    train(given, 3, lambda: monkeypatch.setattr(time, "time", lambda: real() - 14400))
    monkeypatch.setattr(time, "time", real)
    found = record(only().info.run_id)
    every_step_once(found)
    assert found == undisturbed()


def test_a_damaged_spool_does_not_stop_a_run(given, tmp_path, undisturbed, capsys):
    with pytest.raises(KeyboardInterrupt):
        train(given, 2, interrupt)
    run_id = only().info.run_id
    spool = tmp_path / "cache" / "spool" / f"{run_id}.jsonl"
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        (name, value, at, step) = database.execute(
            "SELECT key, value, timestamp, step FROM metrics WHERE key = 'dev/score' AND step = 2"
        ).fetchone()
    spool.parent.mkdir(parents=True, exist_ok=True)
    spool.write_text(f'["dev/sc\n["{name}", {value!r}, {at}, {step}]\n["train/lo')
    train(given, 0, interrupt)
    assert "1 of 2 lines are damaged" in capsys.readouterr().out and not spool.exists()
    assert record(run_id) == undisturbed()
