"""A store that comes and goes: what is tried again, what waits on disk, and when patience ends."""

import json

import pytest

from labelreg.errors import StoreLostError, UserError
from labelreg.store import patience
from labelreg.store.patience import Spool


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.02)


class Store:
    """Takes points while it is up; an answer may get lost after they were taken."""

    def __init__(self):
        self.up, self.answers, self.points, self.calls = True, True, [], 0

    def deliver(self, points, seconds):
        self.calls += 1
        if not self.up:
            raise ConnectionError("no\nanswer")
        self.points += [point for point in points if point not in self.points]  # as MLflow's key has it
        if not self.answers:
            raise ConnectionError("the answer was lost")

    def spool(self, folder) -> Spool:
        return Spool(folder / "spool" / "run.jsonl", self.deliver, lambda error: isinstance(error, ConnectionError))


def points(*steps: int) -> list:
    return [(name, step / 3, 1000 + step, step) for step in steps for name in ("train/loss", "dev/score")]


def test_calls_are_tried_again_until_they_succeed():
    errors = [ConnectionError("1"), ConnectionError("2")]

    def call() -> str:
        if errors:
            raise errors.pop()
        return "here"

    assert patience.keep_trying(call, lambda error: isinstance(error, ConnectionError)) == "here"
    assert not errors


def test_an_error_that_does_not_pass_is_raised_at_once():
    calls = []

    def call():
        calls.append(1)
        raise KeyError("no such run")

    with pytest.raises(KeyError):
        patience.keep_trying(call, lambda error: isinstance(error, ConnectionError))
    assert len(calls) == 1


def test_patience_ends(monkeypatch, capsys):
    def call():
        raise ConnectionError("refused\nby 127.0.0.1")

    monkeypatch.setenv(patience.VARIABLE, "0.2")
    monkeypatch.setattr(patience, "SAID_AFTER", 0.05)
    with pytest.raises(StoreLostError, match=r"away for 0 s \(refused by 127.0.0.1\): .* goes on later") as lost:
        patience.keep_trying(call, lambda _: True)
    assert "\n" not in str(lost.value)
    assert capsys.readouterr().out == "waiting for the tracking store, up to 0 s: refused by 127.0.0.1\n", "once"


@pytest.mark.parametrize("text", ["ten minutes", "-1", "inf", "nan"])
def test_the_limit_is_a_number_of_seconds(monkeypatch, text):
    monkeypatch.setenv(patience.VARIABLE, text)
    with pytest.raises(UserError, match=f"{patience.VARIABLE}={text}: allowed is"):
        patience.limit()
    monkeypatch.setenv(patience.VARIABLE, "")
    assert patience.limit() == 600


def test_metrics_wait_on_disk_and_arrive_in_order_and_once(tmp_path):
    store = Store()
    spool = store.spool(tmp_path)
    spool.put(points(1))
    assert not spool.path.exists(), "nothing is written while the store takes all"
    store.up = False
    spool.put(points(2))
    tries = store.calls
    spool.pause, spool.again = 100.0, spool.again + 100
    spool.put(points(3))
    assert store.calls == tries, "a store that is away is not asked at every epoch"
    assert [json.loads(line)[3] for line in spool.path.read_text().splitlines()] == [2, 2, 3, 3]
    store.up, store.answers, spool.again = True, False, 0.0
    spool.put(points(4))
    store.answers = True
    spool.flush()
    assert store.points == points(1, 2, 3, 4)
    assert not spool.path.exists()


def test_what_a_killed_process_left_on_disk_arrives_before_what_follows(tmp_path):
    store = Store()
    store.up = False
    spool = store.spool(tmp_path)
    spool.put(points(1, 2))
    with spool.path.open("a") as file:
        file.write('["dev/score", 0.')  # killed while it wrote: this epoch is after the last checkpoint
    store.up = True
    again = store.spool(tmp_path)
    again.flush()
    again.put(points(3))
    assert store.points == points(1, 2, 3)


def test_a_run_stops_when_its_store_is_away_for_too_long(tmp_path, monkeypatch):
    """A simulated clock: whether a fast disk or a busy machine, the epochs take what they take."""
    clock = [1000.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: clock[0])
    monkeypatch.setenv(patience.VARIABLE, "10")
    store = Store()
    store.up = False
    spool = store.spool(tmp_path)
    with pytest.raises(StoreLostError, match="away for 10 s"):
        for step in range(1, 100):
            spool.put(points(step))
            clock[0] += 1
    assert clock[0] == 1010, "not before, and not long after"
    with pytest.raises(StoreLostError):
        spool.flush()
    store.up = True
    store.spool(tmp_path).flush()
    assert store.points == points(*range(1, 12)), "not one is lost"


def test_a_mistake_is_no_outage(tmp_path):
    def refuses(points, seconds):
        raise KeyError("no such run")

    spool = Spool(tmp_path / "run.jsonl", refuses, lambda error: isinstance(error, ConnectionError))
    with pytest.raises(KeyError):
        spool.put(points(1))
    assert spool.path.exists(), "what was not taken is not lost"


def test_a_damaged_line_costs_that_line_only(tmp_path, capsys):
    store = Store()
    store.up = False
    spool = store.spool(tmp_path)
    spool.put(points(1))
    with spool.path.open("ab") as file:
        file.write(b'["dev/score", 0.\xff\xfe, 10\n{"a": 1}\n["dev/score", 1]\n')
    spool.put(points(2))
    store.up = True
    spool.flush()
    assert store.points == points(1, 2)
    assert "3 of 7 lines are damaged" in capsys.readouterr().out
    assert not spool.path.exists()


def test_a_store_that_hangs_takes_little_of_the_training(tmp_path, monkeypatch):
    """A simulated clock: each epoch takes a second, each try as long as it is allowed."""
    clock, tries = [1000.0], []

    def hangs(points, seconds):
        tries.append(seconds)
        clock[0] += seconds
        raise ConnectionError("no answer")

    monkeypatch.setattr(patience.time, "monotonic", lambda: clock[0])
    spool = Spool(tmp_path / "run.jsonl", hangs, lambda error: isinstance(error, ConnectionError))
    for step in range(1, 400):
        spool.put(points(step))
        clock[0] += 1
    assert tries[:3] == [10, 1, 2] and max(tries) == 10
    assert sum(tries[1:]) < 400 * 0.06, tries
    with pytest.raises(StoreLostError):
        for step in range(400, 700):
            spool.put(points(step))
            clock[0] += 1
    assert clock[0] - 1000 < 600 + 20
