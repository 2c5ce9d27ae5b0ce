"""What in cache_root no unfinished run needs, with its size: what killed processes left, and what can be made anew.

A checkpoint goes when its run is finished or deleted, and no process owns it. Prepared data, converted weights and
copies of logits can be made again; they go when nobody has used them since before the oldest run began that may still
go on. Searches (search.db) and downloads stay.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from labelreg import places, whole
from labelreg.parameter import Value
from labelreg.settings import Folders, facet
from labelreg.store import checkpoint, records, tracking

DAY = 86400.0
IN_USE_DAYS = 2  # what was read or written since may be in use: file systems note the reading of a file once a day
UNKNOWN_DAYS = 30  # a run that this store does not know may be another store's
OWNED, MADE = ("checkpoints", "studies"), ("prepared", "converted", "logits")
NAME = re.compile(
    r"[0-9a-f]{8,}(-[0-9a-f]+-[0-9]+)?|tune-[0-9a-f]{8}"
)  # what labelreg names so; the rest is somebody's
LEFT = re.compile(rf"{whole.PREFIX}\w{{6,}}|ray-\w+|.*\.tmp")  # what a killed process leaves

Status = Callable[[str], str | None]  # of a run by its id; None: the store does not know it


@dataclass(frozen=True)
class Item:
    """A file or a folder of the cache; `why` it goes or stays."""

    path: Path
    size: int  # bytes
    goes: bool
    why: str


def carry_out(given: dict[str, Value]) -> None:
    """Name what the cache holds, biggest first, and remove what no unfinished run needs, or only say so."""
    cache, how = places.roots(facet(Folders, given)).cache, str(given["clean"])
    tracking.connect()
    with tracking.open_run("clean", f"clean {cache}") as run:
        run.params({"clean": how})
        held = sorted(clean(cache, records.status, how == "true"), key=lambda item: -item.size)
        verb = "removed" if how == "true" else "to remove"
        for goes, word in ((False, "kept"), (True, verb)):
            items = [item for item in held if item.goes is goes]
            for item in items:
                print(f"{word}: {item.size / 1e6:10.3f} MB  {item.path.relative_to(cache)} ({item.why})")
            size = sum(item.size for item in items)
            print(f"{word}: {size / 1e6:.3f} MB in {len(items)} of {cache}", flush=True)
            run.metrics({f"clean/{'bytes' if goes else 'kept_bytes'}": size})


def clean(cache: Path, status: Status, remove: bool) -> Iterator[Item]:
    """What the cache holds; with `remove`, what goes is gone when it is named."""
    now = time.time()
    since = now - IN_USE_DAYS * DAY
    for folder in _children(cache, OWNED, NAME):
        began = _time(folder / checkpoint.OWNER) or folder.stat().st_mtime
        item = _owned(folder, status, now, remove)
        if not item.goes:
            since = min(since, began - DAY)
        yield item
    for path in _children(cache, ("spool",), re.compile(r"[0-9a-f]{32}\.jsonl")):
        goes, why = _by_run([path.stem], status, now - _used(path))
        yield _item(path, goes, why, remove)
    for path in [*_children(cache, MADE, LEFT), *_children(cache.parent, (cache.name,), LEFT)]:
        recent = _used(path) > now - IN_USE_DAYS * DAY
        yield _item(
            path, not recent, f"used within {IN_USE_DAYS} days" if recent else "left by a killed process", remove
        )
    for path in _children(cache, MADE, NAME):
        recent = _used(path) > since
        yield _item(
            path, not recent, "used lately, or by a run that may go on" if recent else "can be made anew", remove
        )


def _owned(folder: Path, status: Status, now: float, remove: bool) -> Item:
    """A folder of a run's checkpoint, which its own process locks."""
    used = max([_time(path) or 0.0 for path in _files(folder)] or [folder.stat().st_mtime])  # written: here all is read
    try:
        with checkpoint.claim(folder) as claim:
            if claim.folder is None:
                return Item(folder, _size(folder), False, "in use by another process")
            goes, why = _by_run(claim.run_ids, status, now - used)
            return _item(folder, goes, why, remove)
    except OSError as error:
        return Item(folder, _size(folder), False, f"{error.strerror}: another user's")


def _by_run(run_ids: list[str], status: Status, age: float) -> tuple[bool, str]:
    """Whether what belongs to these runs goes, and why: no one of them may need it."""
    known = {run_id: status(run_id) for run_id in run_ids}
    for run_id, state in known.items():
        if state is None and age < UNKNOWN_DAYS * DAY:
            return False, f"run {run_id} may be in another tracking store (unused for less than {UNKNOWN_DAYS} days)"
        if state not in (None, "FINISHED", "deleted"):
            return False, f"run {run_id} is {state} and can go on"
    if not known and age < IN_USE_DAYS * DAY:
        return False, f"used within {IN_USE_DAYS} days"
    states = ", ".join(f"run {run_id} is {state or 'unknown'}" for run_id, state in known.items())
    return True, states or "of no run"


def _item(path: Path, goes: bool, why: str, remove: bool) -> Item:
    item = Item(path, _size(path), goes, why)
    if goes and remove:
        try:
            gone = whole.beside(path)  # whoever looks for it finds all of it or nothing
            os.replace(path, gone)
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        except OSError as error:
            return Item(path, item.size, False, f"{error.strerror}: another user's")
    return item


def _children(cache: Path, names: tuple[str, ...], pattern: re.Pattern) -> list[Path]:
    folders = [cache / name for name in names if (cache / name).is_dir()]
    return sorted(path for folder in folders for path in folder.iterdir() if pattern.fullmatch(path.name))


def _files(path: Path) -> list[Path]:
    inside = (path, *path.rglob("*"))
    return [each for each in inside if each.name != checkpoint.LOCK and each.is_file() and not each.is_symlink()]


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in _files(path))


def _used(path: Path) -> float:
    """When a file in it was last read or written, or the folder itself was made (seconds since 1970)."""
    return max([path.stat().st_mtime, *(max(each.stat().st_atime, each.stat().st_mtime) for each in _files(path))])


def _time(path: Path) -> float | None:
    return path.stat().st_mtime if path.is_file() else None
