"""What the system refuses: unreadable and missing files of every parameter, a full disk, a reader who leaves."""

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from running import CHILD, call, python, refused, runs, succeed

from labelreg.store import tracking

pytest_plugins = ["running"]

STRANGER = 65534  # a user who owns nothing; as root, permissions would hold nobody back
FILES = {  # parameters that name a file, by an entry point that reads it, and the ending that it needs
    "train_file": ("train_student", ".csv"),
    "dev_file": ("train_student", ".tsv"),
    "test_file": ("train_student", ".jsonl"),
    "recipe": ("train_student", ".yaml"),
    "settings": ("main", ".yaml"),
    "space": ("tune", ".yaml"),
    "csv": ("significance", ".csv"),
    "scores": ("submission", ".csv"),
}
FOLDERS = {  # parameters that name a folder, by an entry point that reads or writes it
    "data_root": "train_student",
    "model_root": "train_student",
    "cache_root": "train_student",
    "output_dir": "significance",
}


@pytest.fixture
def given(tiny):
    """The parameters of an entry point that begins but for one of them."""

    def of(entry_point: str) -> dict:
        if entry_point in ("significance", "submission"):
            return {}
        if entry_point == "main":
            return {name: tiny[name] for name in ("train_file", "model_root")} | {"models": "bert-small"}
        return tiny

    return of


@pytest.fixture
def stranger(tmp_path, tiny_models):
    """This test's folder, open to a user who is not its owner; and the change into that user."""
    for folder in (tmp_path, *tmp_path.parents, tiny_models):
        if folder != Path(tempfile.gettempdir()) and folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o055)

    @contextlib.contextmanager
    def become():
        before = os.geteuid()
        if before == 0:
            os.seteuid(STRANGER)
        try:
            yield
        finally:
            os.seteuid(before)

    return become


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file(name, given, tmp_path):
    entry_point, ending = FILES[name]
    folder = tmp_path / f"folder{ending}"
    folder.mkdir()
    refused(call(entry_point, **given(entry_point) | {name: folder}), "folder")  # images, to those that train
    assert not runs()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_may_not_be_read(name, given, store, tmp_path, stranger):
    entry_point, ending = FILES[name]
    path = tmp_path / f"file{ending}"
    path.write_text("text,label\na,b\n")
    path.chmod(0)
    (tmp_path / "mlflow.db").chmod(0o666)
    tmp_path.chmod(0o777)
    with stranger():
        ended = call(entry_point, **given(entry_point) | {name: path})
    refused(ended, str(path))
    assert "Permission denied" in ended.err or entry_point in ("significance", "submission"), ended


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_in_the_place_of_a_folder(name, given, tmp_path):
    path = tmp_path / "file"
    path.write_text("no folder")
    refused(call(FOLDERS[name], **given(FOLDERS[name]) | {name: path}), f"{name}={path}")
    refused(call(FOLDERS[name], **given(FOLDERS[name]) | {name: path / "in" / "it"}), f"{name}={path}")
    assert not runs() and path.read_text() == "no folder"


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_without_rights(name, given, tmp_path, stranger):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0)
    (tmp_path / "mlflow.db").chmod(0o666)
    tmp_path.chmod(0o777)
    with stranger():
        ended = call(FOLDERS[name], **given(FOLDERS[name]) | {name: folder})
    refused(ended, f"{name}={folder}")
    assert not any(run.info.status == "RUNNING" for run in runs())


def test_a_store_that_may_not_be_written(tiny, tmp_path, stranger):
    (tmp_path / "mlflow.db").chmod(0o444)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with stranger():
        ended = call("prepare", **{name: tiny[name] for name in ("train_file", "model", "model_root")})
    refused(ended, "mlflow.db")
    assert not runs()


def test_a_store_that_is_a_folder(store, monkeypatch):
    (store / "folder").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/folder")
    refused(call("significance"), f"{store}/folder", "folder")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_search_storage_that_is_none(what, tiny, tmp_path):
    path = tmp_path / "search.db"
    path.mkdir() if what == "folder" else path.write_text("no database " * 100)
    refused(call("tune", **tiny, storage=f"sqlite:///{path}"), f"sqlite:///{path}")
    assert not runs()


def test_an_experiment_that_was_deleted(tiny, monkeypatch):
    import mlflow

    deleted = mlflow.create_experiment("gone")
    mlflow.delete_experiment(deleted)
    way_out = f"`mlflow experiments restore --experiment-id {deleted}`"
    refused(call("significance", experiment="gone"), "gone", way_out)
    refused(call("significance", experiment=deleted), "gone", way_out)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gone")
    refused(call("train_student", **tiny), "experiment gone", way_out)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", deleted)
    refused(call("prepare", task="cola"), "experiment gone", way_out)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
    refused(call("significance"), "77")
    mlflow.MlflowClient().restore_experiment(deleted)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", deleted)
    succeed("significance")
    mlflow.delete_experiment("0")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    refused(call("train_student", **tiny), "experiment Default", "`mlflow experiments restore --experiment-id 0`")


def test_logits_that_were_deleted(tiny, tmp_path):
    student = tiny | {"method": "kd", "teacher_model": "bert-large"}
    succeed("train_student", **student)
    (teacher,) = runs("teacher")
    Path(teacher.info.artifact_uri, "logits", "train.safetensors").unlink()
    shutil.rmtree(tmp_path / "cache" / "logits")
    way_out = f"`mlflow runs delete --run-id {teacher.info.run_id}`"
    ended = call("train_student", **student, seed=1)
    refused(ended, teacher.info.run_id, "logits/train.safetensors", way_out)
    assert [run.info.status for run in runs("student")] == ["FINISHED", "FAILED"]
    assert ended.err == f"error: {runs('student')[1].data.tags['mlflow.note.content']}\n"
    tracking.client().delete_run(teacher.info.run_id)
    succeed("train_student", **student, seed=1)
    assert len(runs("teacher")) == 1, "trained anew"


# Standard output


def shell(line: str, store: Path, *words: str) -> subprocess.CompletedProcess:
    """A line of bash in which "$@" is the command."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}", "bash", *words],
        cwd=store, env=os.environ | CHILD, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.fixture
def table(tmp_path) -> Path:
    """Scores of two methods with seven seeds."""
    path = tmp_path / "scores.csv"
    rows = [f"t,m,pretrained,{m},{s},{50 + s + 2 * (m == 'ls')}" for m in ("finetune", "ls") for s in range(7)]
    path.write_text("\n".join(["task,model,init,method,seed,score", *rows]) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("entry_point, kind", [("significance", "significance"), ("report", "report")])
def test_a_reader_who_leaves_does_not_end_the_work(entry_point, kind, store, table):
    done = shell('"$@" | true', store, *python(entry_point, csv=table))
    assert (done.returncode, done.stderr) == (0, ""), done
    (run,) = runs(kind)
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_closed_standard_streams_do_no_harm(store, table):
    """A file that is opened next would get their numbers: the store, for one."""
    done = shell('"$@" <&- >&- 2>&-', store, *python("significance", csv=table))
    assert done.returncode == 0, done
    (run,) = runs("significance")
    assert run.info.status == "FINISHED"
    with contextlib.closing(sqlite3.connect(store / "mlflow.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_a_full_disk_under_standard_output_is_told(store, table):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    done = shell('"$@" > /dev/full', store, *python("significance", csv=table))
    assert done.returncode == 2 and done.stderr.startswith("error: standard output: No space left"), done
    assert [run.info.status for run in runs("significance")] == ["FINISHED"], "what was logged is there"


# Defects


def test_a_defect_is_one_line_and_a_traceback_in_a_file(tiny, tmp_path, monkeypatch):
    """In the middle of a run, whose note is the same line."""
    from labelreg import training

    def broken(*_, **__):
        return {}["no such key"]

    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "kept"))
    monkeypatch.setattr(training, "train", broken)
    ended = call("train_student", **tiny)
    refused(ended, "unexpected KeyError: 'no such key' at test_refused.py:", "traceback: ", status=1)
    kept = Path(ended.err.rpartition("traceback: ")[2].strip().rstrip(")"))
    assert kept.parent == tmp_path / "kept" and stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "Traceback (most recent call last)" in kept.read_text() and "labelreg/one_run.py" in kept.read_text()
    (run,) = runs()
    assert run.info.status == "FAILED" and ended.err == f"error: {run.data.tags['mlflow.note.content']}\n"
