"""Stores of many finished runs, made in seconds: copies of one real run, with its parameters, tags and metrics."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

COPIED = ("params", "tags", "metrics", "latest_metrics")  # tables with a row per run and name
Point = tuple[str, float, int, int]  # metric, value, time, step


@dataclass(frozen=True)
class Copy:
    """What a copy has of its own: parameters and tags by name, metrics, and the folder of its artifacts."""

    run_id: str
    name: str
    changed: Mapping[str, str]
    points: Iterable[Point] = field(default=())
    artifacts: str | None = None


def copies(database: Path, template: str, these: Iterable[Copy]) -> None:
    """Write copies of the run `template` into an SQLite store, past MLflow, which takes 0.1 s a run."""
    with closing(sqlite3.connect(database)) as store, store:
        store.row_factory = sqlite3.Row
        rows = {table: _rows(store, table, template) for table in COPIED}
        (run,) = _rows(store, "runs", template)
        for copy in these:
            own = {"run_uuid": copy.run_id, "name": copy.name}
            own |= {"artifact_uri": copy.artifacts} if copy.artifacts else {}
            _insert(store, "runs", run | own)
            points = list(copy.points)
            replaced = {name for name, *_ in points}
            for table, found in rows.items():
                for row in found:
                    row = row | {"run_uuid": copy.run_id}
                    if table in ("params", "tags"):
                        row["value"] = copy.changed.get(row["key"], row["value"])
                    elif row["key"] in replaced:
                        continue
                    _insert(store, table, row)
            for name, value, timestamp, step in points:
                row = {"key": name, "value": value, "timestamp": timestamp, "step": step, "is_nan": 0}
                _insert(store, "metrics", row | {"run_uuid": copy.run_id})
            for name, value, timestamp, step in {point[0]: point for point in points}.values():
                row = {"key": name, "value": value, "timestamp": timestamp, "step": step, "is_nan": 0}
                _insert(store, "latest_metrics", row | {"run_uuid": copy.run_id})


def _rows(store: sqlite3.Connection, table: str, run_id: str) -> list[dict]:
    return [dict(row) for row in store.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run_id,))]


def _insert(store: sqlite3.Connection, table: str, row: dict) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    store.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
