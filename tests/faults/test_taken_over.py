"""A worker of a search that stood still for longer than three heartbeats finds its trial taken over, and leaves it."""

import signal
import sys

from running import ended, finish, started, wait_for

from labelreg.tuning import search

pytest_plugins = ["running"]

EPOCHS = 15
WORKER = """
import os, signal, sys, time
from labelreg.tuning import search

own = search.Search("a search", "sqlite:///{storage}", {{"lr": [0.1, 0.2]}}, 1, 7, heartbeat_seconds=1)

def train(draw, stop):
    for epoch in range(1, {epochs} + 1):
        time.sleep(0.1)
        with open(sys.argv[1], "a") as file:
            file.write(f"{{draw.number}} {{epoch}}\\n")
        if epoch == 5 and len(sys.argv) > 2:
            os.kill(os.getpid(), signal.SIGSTOP)  # here it holds no lock of the database
        if stop(epoch, float(epoch), False):
            break
    return float(epoch)

while search.take_over(study := search.open_study(own), 1) or search.left(study, 1):
    found = search.run_trial(study, own, train)
    if found:
        print(found[0], found[1].state.name, flush=True)
    time.sleep(0.5)
"""


def test_a_worker_that_stood_still_leaves_its_trial_to_the_one_that_took_it_over(tmp_path, isolated):
    """It notices after an epoch; the trial counts once, and is not put into the queue a second time."""
    program = WORKER.format(storage=tmp_path / "search.db", epochs=EPOCHS)
    epochs = {name: tmp_path / f"{name} epochs" for name in ("first", "second")}
    for name in epochs:
        (tmp_path / name).mkdir()

    def trained(name: str) -> int:
        return len(epochs[name].read_text().splitlines()) if epochs[name].exists() else 0

    command = {name: [sys.executable, "-c", program, str(path)] for name, path in epochs.items()}
    command["first"].append("stands still")
    with started(command["first"], tmp_path / "first") as first:
        wait_for(lambda: trained("first") == 5, "the first worker at its trial", first)
        second = finish(command["second"], tmp_path / "second")
        assert second.status == 0 and second.out == "0 COMPLETE\n", second
        first.send_signal(signal.SIGCONT)
        woken = ended(first, tmp_path / "first")
    assert woken.status == 0 and woken.out == "0 FAIL\n", woken
    assert trained("first") == 5, "it stops at once"
    assert trained("second") == EPOCHS
    study = search.open_study(search.Search("a search", f"sqlite:///{tmp_path}/search.db", {"lr": [0.1, 0.2]}, 1, 7))
    assert [trial.state.name for trial in search.own(study)] == ["COMPLETE"]
    assert len(study.trials) == 2, "the first try and its retry"
