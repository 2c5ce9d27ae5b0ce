"""SQLite files whose tables are all there or not at all, whoever is killed while they are made, or comes just then.

MLflow and Optuna make and migrate tables one statement at a time. Here they do so in a file of their own, which is
copied in one transaction: SQLite undoes half of it, and its locks let one process at a time do it.
"""

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

import sqlalchemy

from labelreg.errors import UserError

WAIT_SECONDS = 60  # for another process that makes the tables
STILL_SECONDS = 5.0  # tables that are incomplete for so long are not being made by somebody else
OWN = "name NOT LIKE 'sqlite_%'"


def file_of(url: str) -> Path | None:
    """The file behind a database's URL; None where there is none."""
    address = sqlalchemy.make_url(url)
    name = address.database or ""
    inside = not name or name.startswith((":", "file:"))
    return None if inside or address.get_backend_name() != "sqlite" else Path(name)


def absolute(uri: str) -> str:
    """A database's address; a SQLite file's with its whole path."""
    kind, slashes, path = uri.partition(":///")
    return f"{kind}{slashes}{os.path.abspath(path)}" if kind.startswith("sqlite") and path[:1] not in ("", ":") else uri


def make_tables(uri: str) -> None:
    """The tables of a SQLite store, whole before MLflow looks at them: what it finds half made it never mends."""
    path = file_of(uri) if uri.startswith("sqlite") else None
    if not path:
        return
    from mlflow.store.db import utils

    def make(url: str) -> None:
        engine = utils.create_sqlalchemy_engine(url)
        utils._initialize_tables(engine)  # what MLflow does with a new file, and with an old one that lacks tables
        engine.dispose()

    mine = "EXISTS (SELECT 1 FROM runs) OR EXISTS (SELECT 1 FROM experiments WHERE experiment_id != 0)"
    try:
        complete(path, utils.Base.metadata.tables, mine, make)
    except UserError as error:
        raise UserError(f"tracking store {uri}: {error}") from None


def complete(path: Path, tables: Collection[str], rows: str, make: Callable[[str], object]) -> None:
    """See to it that `path` has all `tables`, whatever it was before: absent, empty, half made, or of an older version.

    Args:
        rows: an SQL condition, true where the file holds what must not be lost: then `make` gets a copy of it.
        make: makes (or migrates) the tables of the SQLite file behind a URL; may take seconds.

    Raises:
        UserError: a folder, or a file that may not be read.
        sqlite3.Error: no database, or locked by somebody else for a minute.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; a SQLite store is a file, such as {path / 'mlflow.db'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o666))  # SQLite's own mode would not follow the umask
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror})") from None
    with closing(sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)) as database:
        if set(tables) <= set(_names(database)):
            return
        _wait_until_still(path, database, tables)
        database.execute("BEGIN IMMEDIATE")  # one writer from here on, and readers see the file as it was
        try:
            if not set(tables) <= set(_names(database)):  # else another process made them while this one waited
                _remake(path, database, rows, make)
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise


def _names(database: sqlite3.Connection, which: str = OWN) -> list[str]:
    return [name for (name,) in database.execute(f"SELECT name FROM sqlite_master WHERE type = 'table' AND {which}")]


def _wait_until_still(path: Path, database: sqlite3.Connection, tables: Collection[str]) -> None:
    """Half-made tables may be the work of a process that goes on with it: `mlflow ui` makes them in place."""
    deadline, before = time.monotonic() + WAIT_SECONDS, None
    while (found := set(_names(database))) and not set(tables) <= found and time.monotonic() < deadline:
        now = (path.stat().st_mtime_ns, len(found))
        if now == before:
            return
        before = now
        time.sleep(STILL_SECONDS)


def _remake(path: Path, database: sqlite3.Connection, rows: str, make: Callable[[str], object]) -> None:
    """Replace all tables, in the transaction that `database` is in."""
    with tempfile.TemporaryDirectory(prefix="labelreg-tables-") as folder:
        other = Path(folder) / "tables.db"
        if _holds(database, rows):
            with closing(sqlite3.connect(path)) as reader, closing(sqlite3.connect(other)) as copy:
                reader.backup(copy)
        make(f"sqlite:///{other}")
        with closing(sqlite3.connect(other)) as made:
            for name in _names(database):  # indices and triggers go with their tables
                database.execute(f'DROP TABLE "{name}"')
            for sql in _sql(made, "type = 'table'"):
                database.execute(sql)
            for name in [
                *_names(made),
                *_names(made, "name = 'sqlite_sequence'"),
            ]:  # the last number that each table gave
                columns = [column[1] for column in made.execute(f'PRAGMA table_info("{name}")')]  # not computed ones
                listed, marks = ", ".join(f'"{column}"' for column in columns), ", ".join("?" * len(columns))
                found = made.execute(f'SELECT {listed} FROM "{name}"')
                database.executemany(f'INSERT INTO "{name}" ({listed}) VALUES ({marks})', found)
            for sql in _sql(made, "type != 'table'"):  # indices and triggers, after the rows
                database.execute(sql)


def _sql(database: sqlite3.Connection, where: str) -> list[str]:
    """The statements that made what is in a file."""
    return [sql for (sql,) in database.execute(f"SELECT sql FROM sqlite_master WHERE {OWN} AND sql != '' AND {where}")]


def _holds(database: sqlite3.Connection, rows: str) -> bool:
    try:
        return bool(database.execute(f"SELECT {rows}").fetchone()[0])
    except sqlite3.OperationalError:  # the tables that it speaks of are not there
        return False
