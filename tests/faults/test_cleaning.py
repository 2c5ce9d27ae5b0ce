"""`prepare -P clean=...`: what no unfinished run needs is listed and removed; what one needs stays."""

import os
import shutil
import signal
import time

import pytest
from injector import strike
from running import python, run_of, succeed

from labelreg.store import checkpoint

pytest_plugins = ["running"]

DAY = 86400


def grow_old(folder, days: float) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - days * DAY,) * 2)


def kept(cache) -> set[str]:
    return {
        str(path.relative_to(cache))
        for name in ("prepared", "checkpoints", "spool")
        for path in cache.glob(f"{name}/*")
    }


def test_an_unfinished_run_goes_on_after_all_else_is_removed(tiny, store):
    cache = store / "cache"
    succeed("train_student", **tiny | {"max_length": 16})
    (finished,) = cache.glob("prepared/*")
    killed = tiny | {"epochs": 4, "checkpoint_seconds": 0}
    assert (
        strike(python("train_student", **killed), store, "labelreg.store.checkpoint:save", "SIGKILL", 3).status
        == -signal.SIGKILL
    )
    (unfinished,) = cache.glob("checkpoints/*")
    run_id = (unfinished / "run_id").read_text()
    shutil.copytree(finished, cache / "prepared" / "tmp0123456789")
    (cache / "spool").mkdir(exist_ok=True)
    (cache / "spool" / "of the user.jsonl").write_text("")
    (cache / "prepared" / "of the user").mkdir()
    grow_old(cache, 9)
    grow_old(finished, 12)
    before = kept(cache)
    listed = succeed("prepare", clean="list").out
    assert kept(cache) == before
    removed = succeed("prepare", clean="true").out
    assert listed.count("to remove: ") == removed.count("removed: ") == 3, listed + removed
    assert before - kept(cache) == {f"prepared/{finished.name}", "prepared/tmp0123456789"}
    assert f"run {run_id} is RUNNING and can go on" in removed
    went_on = succeed("train_student", **killed)
    assert "going on with the interrupted run" in went_on.out and run_of(went_on).info.run_id == run_id
    grow_old(cache, 9)
    succeed("prepare", clean="true")
    assert kept(cache) == {"prepared/of the user", "spool/of the user.jsonl"}


@pytest.mark.parametrize(
    "state, days, goes",
    [("FINISHED", 1, True), ("deleted", 1, True), ("RUNNING", 99, False), ("KILLED", 99, False), ("FAILED", 99, False)]
    + [(None, 9, False), (None, 40, True)],
)
def test_whose_checkpoint_goes(state, days, goes, tmp_path):
    from labelreg.store import cleaning

    folder = tmp_path / "checkpoints" / ("ab" * 16)
    with checkpoint.claim(folder) as claim:
        claim.start("c" * 32)
        (folder / checkpoint.FILE).write_bytes(b"x" * 1000)
        (item,) = cleaning.clean(tmp_path, {"c" * 32: "FINISHED"}.get, remove=True)
        assert not item.goes and item.why == "in use by another process"
    grow_old(folder, days)
    for remove in (False, True):  # looking does not make it younger
        (item,) = cleaning.clean(tmp_path, {"c" * 32: state}.get, remove)
        assert (item.goes, item.size) == (goes, 1032)
    assert folder.exists() is not goes
