"""A run whose server misbehaves, through a proxy before a real one: the numbers arrive, each of them once."""

import contextlib
import signal
import time

import pytest
from injector import Proxy, Rule, every_step_once, record, strike
from running import call, python, refused, run_of, runs, succeed

from labelreg.store import patience, tracking

pytest_plugins = ["running"]
pytestmark = pytest.mark.server
EPOCHS = 6
METRICS = 3  # which of a run's log-batch calls is the first with metrics: tags and parameters come before


@pytest.fixture
def given(served, tiny) -> dict:
    return tiny | {"epochs": EPOCHS, "checkpoint_seconds": 0}


@pytest.fixture
def proxy(server, given, monkeypatch):
    with Proxy(server).up() as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address)
        yield proxy


@pytest.fixture
def undisturbed(given, server, tmp_path, monkeypatch):
    def run() -> dict:
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("MLFLOW_TRACKING_URI", server)
            elsewhere.setenv("LABELREG_CACHE_ROOT", str(tmp_path / "undisturbed"))
            return record(run_of(succeed("train_student", **given)).info.run_id)

    return run


def mine(experiment: str) -> list:
    return [run for run in runs() if run.info.experiment_id == experiment]


def test_a_server_that_hangs_is_waited_for_once(proxy, given, served, undisturbed, monkeypatch):
    monkeypatch.setenv(patience.TIMEOUT, "3")  # of ten seconds
    hang = Rule("hang", path="log-batch", first=METRICS + 1, last=METRICS + 1)
    proxy.set(hang)
    began = time.monotonic()
    ended = succeed("train_student", **given)
    assert hang.struck == 1 and time.monotonic() - began < 60
    assert f"epoch {EPOCHS}/{EPOCHS}" in ended.out
    proxy.set()
    found = record(run_of(ended).info.run_id)
    every_step_once(found)
    assert found == undisturbed() and len(mine(served)) == 2


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(proxy, given, served):
    with pytest.raises(KeyboardInterrupt), tracking.open_run("student", "s"):
        proxy.set(Rule("hang"))
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < 10 * patience.CLOSING_SECONDS


@pytest.mark.parametrize("what, words", [(404, "404"), (401, "MLFLOW_TRACKING_USERNAME"), ("html", "JSON")])
def test_an_answer_that_makes_no_sense_ends_a_run_which_goes_on_later(proxy, given, served, undisturbed, what, words):
    proxy.set(Rule(what, path="log-batch", first=METRICS + 2), Rule(what, path="runs/update"))
    refused(call("train_student", **given), words)
    proxy.set()
    (killed,) = mine(served)
    again = succeed("train_student", **given)
    assert f"going on with the interrupted run {killed.info.run_id}" in again.out
    assert len(mine(served)) == 1
    found = record(killed.info.run_id)
    every_step_once(found)
    assert found == undisturbed()


def test_answers_that_are_lost_and_every_third_that_fails(proxy, given, served, undisturbed):
    """Also: the folder of results is stored file by file."""
    lost = Rule("lose", path="log-batch", first=METRICS, every=2)
    failing = Rule(500, every=3, first=20)
    proxy.set(Rule("lose", path="runs/create", last=1), lost, failing)
    ended = succeed("train_student", **given)
    assert lost.struck >= 2 and failing.struck >= 4
    proxy.set()
    assert len(mine(served)) == 1, "made once"
    found = record(run_of(ended).info.run_id)
    every_step_once(found)
    assert found == undisturbed()


def test_points_that_waited_and_were_trained_again_are_there_once(proxy, given, served, undisturbed, tmp_path):
    proxy.set(Rule("refuse", path="log-batch", first=METRICS))
    place = "labelreg.store.checkpoint:save_file"
    killed = strike(python("train_student", **given), tmp_path, place, count=EPOCHS - 1)
    assert killed.status == -signal.SIGKILL, killed
    (spool,) = (tmp_path / "cache" / "spool").iterdir()
    assert len(set(line.split(",")[-1] for line in spool.read_text().splitlines())) == EPOCHS - 2
    with contextlib.suppress(StopIteration):
        checkpoint = next((tmp_path / "cache" / "checkpoints").glob("*/*.safetensors"))
        checkpoint.unlink()  # all epochs are trained again
    proxy.set()
    ended = succeed("train_student", **given)
    assert "going on" in ended.out and f"epoch 1/{EPOCHS}" in ended.out and not spool.exists()
    assert len(mine(served)) == 1
    found = record(run_of(ended).info.run_id)
    every_step_once(found)
    assert found == undisturbed()
