"""A run that was killed goes on under its own id and ends as if nothing had happened."""

import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from injector import strike
from running import (
    PATIENCE,
    call,
    finish,
    measured,
    mlflow_run,
    python,
    run_of,
    runs,
    session_members,
    started,
    succeed,
    wait_for,
)
from safetensors.torch import load_file

from labelreg import recipes, training, whole
from labelreg.models import registry
from labelreg.settings import Machine, with_defaults
from labelreg.store import checkpoint, tracking

pytest_plugins = ["running"]
EPOCHS = 4


def points(run) -> dict[str, list[int]]:
    """The steps of each metric of a run."""
    import mlflow

    client = mlflow.MlflowClient()
    return {name: [p.step for p in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}


def die(parameters: dict, folder: Path, place: str, count: int, when: str = "before") -> None:
    ended = strike(python("train_student", **parameters), folder, place, "SIGKILL", count, when)
    assert ended.status == -signal.SIGKILL, ended


@pytest.mark.parametrize(
    "place, count, when, epochs_kept",
    [
        ("labelreg.methods.paper:smoothed_loss", 3, "before", 0),  # in the first epoch, before any checkpoint
        ("labelreg.metrics:evaluate", 3, "before", 2),  # at the end of the third epoch
        ("labelreg.store.checkpoint:save_file", 3, "before", 2),  # before the third checkpoint is written
        ("labelreg.store.checkpoint:save_file", 3, "after", 2),  # when it is written but not yet in place
        ("labelreg.data.teacher_logits:save", 1, "before", 4),  # after the last epoch, before the results are stored
    ],
)
def test_a_killed_run_goes_on_and_ends_the_same(tiny, tmp_path, monkeypatch, place, count, when, epochs_kept):
    parameters = tiny | {"epochs": EPOCHS, "checkpoint_seconds": 0}
    die(parameters, tmp_path, place, count, when)
    (killed,) = runs("student")
    kept = list((tmp_path / "cache" / "checkpoints").glob(f"*/{checkpoint.FILE}"))
    assert len(kept) == (epochs_kept > 0)
    assert not kept or checkpoint.load(kept[0].parent)[1]["epoch"] == epochs_kept

    again = succeed("train_student", **parameters)
    assert "going on with the interrupted run" in again.out
    (whole,) = runs("student")
    assert whole.info.run_id == killed.info.run_id and whole.info.status == "FINISHED"
    assert points(whole)["dev/nll"] == list(range(1, EPOCHS + 1))
    assert all(len(steps) == len(set(steps)) for steps in points(whole).values())
    assert not list((tmp_path / "cache" / "checkpoints").iterdir()), "a finished run leaves no checkpoint"

    monkeypatch.setenv("LABELREG_CACHE_ROOT", str(tmp_path / "elsewhere"))
    never_killed = run_of(succeed("train_student", **parameters))
    assert never_killed.info.run_id != whole.info.run_id
    assert measured(whole) == measured(never_killed)


def test_a_finished_run_is_trained_again_in_a_new_run(tiny):
    first, second = run_of(succeed("train_student", **tiny)), run_of(succeed("train_student", **tiny))
    assert first.info.run_id != second.info.run_id
    assert measured(first) == measured(second)


def test_resume_never_starts_anew(tiny, tmp_path):
    parameters = tiny | {"epochs": EPOCHS, "checkpoint_seconds": 0}
    die(parameters, tmp_path, "labelreg.metrics:evaluate", 3)
    ended = succeed("train_student", **parameters, resume="never")
    assert "going on" not in ended.out and "epoch 1/4" in ended.out
    assert len(runs("student")) == 2


def test_a_run_that_lives_in_another_process_is_not_taken_over(tiny, tmp_path):
    parameters = tiny | {"epochs": EPOCHS, "checkpoint_seconds": 0}
    die(parameters, tmp_path, "labelreg.metrics:evaluate", 3)
    (folder,) = (tmp_path / "cache" / "checkpoints").iterdir()
    before = (folder / checkpoint.FILE).read_bytes()
    with checkpoint.claim(folder) as alive:
        ended = succeed("train_student", **parameters)
        assert alive.run_ids == [runs("student")[0].info.run_id]
    assert "going on" not in ended.out
    assert (folder / checkpoint.FILE).read_bytes() == before


def test_a_claim_is_waited_for(tmp_path):
    """Its owner removes the folder with the lock in it; who waited then owns the new folder, not the removed one."""
    order = []

    def wait() -> None:
        with checkpoint.claim(tmp_path / "run", wait=True) as mine:
            order.append("waited")
            assert mine.folder.is_dir()
            with checkpoint.claim(tmp_path / "run") as third:
                assert third.folder is None, "the folder in its place is locked"

    with ThreadPoolExecutor(1) as pool:
        with checkpoint.claim(tmp_path / "run") as first:
            waiting = pool.submit(wait)
            time.sleep(0.2)
            order.append("first")
            first.forget()
        waiting.result(PATIENCE)
    assert order == ["first", "waited"]


def test_a_kill_between_the_moves_of_a_claim_loses_no_checkpoint(tmp_path, monkeypatch):
    first, second = "a" * 32, "b" * 32
    with checkpoint.claim(tmp_path / "run") as claim:
        for run_id in (second, first):
            claim.start(run_id)
            (claim.folder / checkpoint.FILE).write_text(run_id)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(whole, "file", Mock(side_effect=KeyboardInterrupt))
            claim.start(second)
        for run_id in (second, first, second):
            claim.start(run_id)
            assert (claim.folder / checkpoint.FILE).read_text() == run_id
        claim.drop(second)
        assert claim.run_ids == [first] and not (claim.folder / checkpoint.FILE).exists()
        claim.start(first)
        assert (claim.folder / checkpoint.FILE).read_text() == first


def test_a_diverged_run_leaves_nothing_to_go_on_with(tiny, tmp_path):
    ended = call("train_student", **tiny | {"lr": 1e12, "epochs": 3, "checkpoint_seconds": 0})
    assert ended.status == 3, ended
    assert not list((tmp_path / "cache" / "checkpoints").glob(f"*/{checkpoint.FILE}"))


@pytest.mark.slow
@pytest.mark.parametrize("whom", [pytest.param("the child", marks=pytest.mark.soak), "the parent too"])
def test_a_killed_mlflow_run_goes_on_and_the_new_run_is_a_launch(tiny, tmp_path, monkeypatch, whom):
    parameters = tiny | {"epochs": 80, "checkpoint_seconds": 0}
    checkpoints = tmp_path / "cache" / "checkpoints"
    with started(mlflow_run("train_student", **parameters), tmp_path) as process:
        wait_for(lambda: list(checkpoints.glob(f"*/{checkpoint.FILE}")), "a checkpoint", process)
        if whom == "the child":
            for path in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError, ValueError):
                    words = path.joinpath("cmdline").read_text()
                    if "entrypoints.train_student" in words and os.getsid(int(path.name)) == process.pid:
                        os.kill(int(path.name), signal.SIGKILL)
            process.wait(60)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        wait_for(lambda: not session_members(process.pid), "the processes' end")
    (killed,) = runs("student")
    assert finish(mlflow_run("train_student", **parameters), tmp_path).status == 0
    (whole,), (launch,) = runs("student"), runs("launch")
    assert whole.info.run_id == killed.info.run_id and whole.info.status == "FINISHED"
    assert launch.data.tags["labelreg.continued_in"] == whole.info.run_id and launch.info.status == "FINISHED"
    assert points(whole)["dev/score"] == list(range(1, 81))


def test_a_killed_launch_does_not_run_for_ever(monkeypatch):
    run_id, dead, other, mine = (tracking.create(name, None, None) for name in ("run", "dead", "other", "mine"))
    for launch, of in ((dead, run_id), (other, "0" * 32)):
        tracking.Run(launch).tags({tracking.KIND: "launch", tracking.CONTINUED: of})
    monkeypatch.setenv("MLFLOW_RUN_ID", mine)
    with tracking.open_run("study", "run", continued=run_id):
        states = {launch: tracking.get(launch).info.status for launch in (dead, other, mine)}
    assert states == {dead: "KILLED", other: "RUNNING", mine: "RUNNING"}
    assert tracking.get(run_id).info.status == "FINISHED"


@pytest.mark.parametrize("method", ["finetune", "tfreg", "akd"])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_weights_after_a_stop_are_those_without_it(prepare, tiny_file, tiny_roots, tmp_path, method, stop_after):
    data = prepare(train_file=str(tiny_file))
    given = {"model": "bert-small", "method": method, "train_file": str(tiny_file), "epochs": EPOCHS, "lr": 1e-3}
    settings = recipes.resolve(with_defaults("train_student", given | {"checkpoint_seconds": 0}))
    machine = Machine("fp32", "off", threads=1, device="cpu")
    teacher = torch.randn(len(data.splits["train"]), len(data.classes)) if method == "akd" else None

    def train(folder: Path, stop: int):
        folder.mkdir(exist_ok=True)
        model = registry.load("bert-small", data.classes, "pretrained", 0, tiny_roots)
        for report in training.train(model, data, settings, machine, teacher, folder):
            if report.epoch == stop:
                break
        return model, report

    train(tmp_path / "stopped", stop_after)
    model, report = train(tmp_path / "stopped", EPOCHS)
    straight, expected = train(tmp_path / "straight", EPOCHS)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert report.dev == expected.dev and report.best.epoch == expected.best.epoch
    for name, value in expected.best.weights.items():
        assert torch.equal(value, report.best.weights[name]), name


def test_a_checkpoint_holds_tensors_and_json_only(prepare, tiny_file, tiny_roots, tmp_path):
    checkpoint.save(tmp_path, {"weight": torch.ones(2, 3)}, {"epoch": 1, "dev": {"score": 50.1}})
    assert torch.equal(load_file(tmp_path / checkpoint.FILE)["weight"], torch.ones(2, 3))
    assert checkpoint.load(tmp_path)[1] == {"epoch": 1, "dev": {"score": 50.1}}
    assert checkpoint.load(tmp_path / "nowhere") is None
