"""A kill or a crowd while the tables of a SQLite store are made, or those of an older one are migrated."""

import contextlib
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import BIN, CHILD, ended, finish, refused, started, together

pytest_plugins = ["running"]

STILL = "from labelreg.store import sqlite; sqlite.STILL_SECONDS = 0.5; "  # of five
OPEN = [sys.executable, "-c", f"{STILL}from labelreg.store import tracking; tracking.connect(); print('opened')"]
MLFLOWS_OWN = [sys.executable, "-c", "import mlflow; mlflow.MlflowClient().search_experiments()"]
SEARCH = "from labelreg.tuning import search; search.open_storage('sqlite:///{}'); print('opened')"


def tables(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def killed_when(condition, command: list[str], folder: Path, **environment: str) -> None:
    """Run a command until `condition` holds, looked at each millisecond, and kill it there."""
    folder.mkdir(exist_ok=True)
    with started(command, folder, **environment) as process:
        while process.poll() is None:
            with contextlib.suppress(sqlite3.Error, OSError):
                if condition():
                    process.send_signal(signal.SIGKILL)
                    break
            time.sleep(0.001)
        assert ended(process, folder).status == -signal.SIGKILL, "the command was faster"


@pytest.fixture
def new(tmp_path, isolated, monkeypatch) -> Path:
    """A store that is not there yet."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")
    return tmp_path / "new.db"


def opens(folder: Path, path: Path, empty: Path) -> None:
    """The store opens, and is what MLflow makes of a new one."""
    folder.mkdir(exist_ok=True)
    said = finish(OPEN, folder)
    assert said.status == 0 and said.out == "opened\n", said
    assert named(path) == named(empty)


def named(path: Path) -> list:
    """What is in a database; MLflow writes some conditions in another order each time."""
    return sorted((kind, name) for kind, name, _ in schema(path))


def schema(path: Path) -> list:
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return sorted(database.execute("SELECT type, name, sql FROM sqlite_master"), key=str)


def test_a_store_whose_first_command_was_killed_opens(new, empty_store, tmp_path):
    killed_when(new.with_name("new.db-journal").exists, OPEN, tmp_path / "killed")
    assert not tables(new), "nothing or all"
    opens(tmp_path / "again", new, empty_store)


def test_a_store_that_mlflow_itself_left_half_made_opens(new, empty_store, tmp_path):
    """`mlflow run` and `mlflow ui` make the tables in place, one statement at a time, and never mend half of them."""
    for many in range(13, 40, 3):  # some halves MLflow can go on with
        killed_when(lambda many=many: len(tables(new)) > many, MLFLOWS_OWN, tmp_path / "killed")
        if finish(MLFLOWS_OWN, tmp_path / "killed").status == 1:
            break
        new.unlink()
    assert 0 < len(tables(new)) < len(tables(empty_store)), "the fault is there"
    opens(tmp_path / "again", new, empty_store)


def test_many_first_commands_at_once_with_temporary_folders_of_their_own(new, empty_store, tmp_path):
    """A link that was planted there, under the name of a lock that could be foreseen, empties nothing."""
    commands, kept = {}, tmp_path / "kept"
    kept.write_text("of somebody else")
    name = hashlib.sha256(str(new).encode()).hexdigest()[:32]
    for number in range(4):
        own = tmp_path / f"tmp{number}"
        own.mkdir()
        (own / f"labelreg-{os.getuid()}-{name}.lock").symlink_to(kept)
        commands[f"first{number}"] = ["env", f"TMPDIR={own}", *OPEN]
    said = together(commands, tmp_path)
    assert {each.out for each in said.values()} == {"opened\n"}, said
    assert named(new) == named(empty_store)
    assert kept.read_text() == "of somebody else"


def test_many_searches_open_one_new_storage_at_once(tmp_path, isolated):
    path = tmp_path / "search.db"
    commands = {f"search{number}": [sys.executable, "-c", SEARCH.format(path)] for number in range(3)}
    said = together(commands, tmp_path)
    assert {each.out for each in said.values()} == {"opened\n"}, said


def test_a_storage_whose_first_search_was_killed_opens_with_all_indices(tmp_path, isolated):
    whole, path = tmp_path / "whole.db", tmp_path / "search.db"
    command = [sys.executable, "-c", SEARCH.format(path)]
    finish([sys.executable, "-c", SEARCH.format(whole)], tmp_path)
    killed_when((tmp_path / "search.db-journal").exists, command, tmp_path / "killed")
    assert finish(command, tmp_path).out == "opened\n"
    assert named(path) == named(whole)


@pytest.fixture
def older(new) -> Path:
    """A store of an older MLflow, with a run in it."""
    program = f"""
import sqlalchemy, alembic.command
from mlflow.store.db import utils
engine = utils.create_sqlalchemy_engine("sqlite:///{new}")
utils.InitialBase.metadata.create_all(engine)
config = utils._get_alembic_config("sqlite:///{new}")
with engine.begin() as connection:
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "acf3f17fdcc7")  # of MLflow 2.11
    connection.execute(sqlalchemy.text("INSERT INTO experiments (experiment_id, name, artifact_location, "
        "lifecycle_stage) VALUES (0, 'Default', '{new.parent}/mlruns/0', 'active')"))
    connection.execute(sqlalchemy.text("INSERT INTO runs (run_uuid, name, status, lifecycle_stage, experiment_id, "
        "start_time, artifact_uri) VALUES ('{"a" * 32}', 'old', 'FINISHED', 'active', 0, 1, '{new.parent}/mlruns/0')"))
"""
    subprocess.run([sys.executable, "-c", program], env=os.environ | CHILD, check=True)
    return new


def test_an_older_store_is_migrated_whole_or_not_at_all(older, empty_store, tmp_path):
    before = schema(older)
    killed_when(older.with_name("new.db-journal").exists, OPEN, tmp_path / "killed")
    assert schema(older) == before
    opens(tmp_path / "again", older, empty_store)
    with contextlib.closing(sqlite3.connect(older)) as database:
        assert database.execute("SELECT run_uuid, name, status FROM runs").fetchall() == [("a" * 32, "old", "FINISHED")]


@pytest.mark.parametrize(
    "content, words",
    [(None, "is a folder; a SQLite store is a file, such as"), (b"no database at all " * 99, "file is not a database")],
)
def test_what_is_no_database_is_told_at_once(new, tmp_path, content, words):
    new.mkdir() if content is None else new.write_bytes(content)
    began = time.monotonic()
    refused(finish([str(BIN / "python"), "-m", "entrypoints.significance"], tmp_path), words)
    assert time.monotonic() - began < 60, "MLflow tries for 102 s"
    assert content is None or new.read_bytes() == content
