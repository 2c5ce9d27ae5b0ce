"""A disk that is full at some point of a run: one line, no run that looks as if it went on, and it goes on later."""

import pytest
from injector import fill, small_disk
from running import call, new_store, refused, runs, succeed

pytest_plugins = ["running"]


@pytest.mark.parametrize("place", ["cache", "store", "output_dir", "traceback"])
def test_a_full_disk(place, tiny, empty_store, tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", 2) as disk:
        if place == "store":
            monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(empty_store, disk))
        filling = fill(disk, leave=0)
        if place == "cache":
            ended = call("train_student", **tiny, cache_root=disk / "cache")
            refused(ended, str(disk), "No space left on device")
        elif place == "store":
            ended = call("train_student", **tiny)
            refused(ended, f"tracking store sqlite:///{disk}", "full")
        elif place == "output_dir":
            ended = call("audit")
            assert ended.status == 0
            ended = call("significance", output_dir=disk / "out")
            refused(ended, "output_dir=", str(disk), "No space left on device")
            assert [run.info.status for run in runs("significance")] == ["FAILED"]
        else:
            monkeypatch.setattr("tempfile.tempdir", str(disk))
            ended = call("report")  # nothing to keep: it works without room
            assert ended.status in (0, 2) and "Traceback" not in ended.err
        assert not any(run.info.status == "RUNNING" for run in runs())
        filling.unlink()
        if place == "cache":
            succeed("train_student", **tiny, cache_root=disk / "cache")
