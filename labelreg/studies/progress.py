"""What a person sees of a study while it runs: bars on a terminal, a plain line per event elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from labelreg.output import duration, printable
from labelreg.workers.steps import Event

REFRESH_SECONDS = 1.0


def follow(
    events: Iterable[Event], name: str, runs: int, done: int, jobs: int, epoch_of: Callable[[str], str | None]
) -> Generator[Event, None, None]:
    """Pass the events on and show them.

    Args:
        runs, done: of the whole study, and how many are done already.
        epoch_of: (step's name) -> how far it is, such as 2/30, or None.
    """
    tally = _Tally(name, runs, done, jobs)
    if sys.stdout.isatty():
        with _bars(tally, epoch_of) as show:
            for event in events:
                tally.add(event)
                show(event)
                yield event
    else:
        for event in events:
            tally.add(event)
            print(f"[{tally.done + tally.failed}/{runs}] {said(event)}{tally.rest(event)}", flush=True)
            yield event


def said(event: Event) -> str:
    """An event in words."""
    if event.state == "done":
        result = event.result
        how = " (reused)" if result.reused else f" ({event.seconds:.0f} s)"
        return f"{event.step.name}: done, {result.split} score {result.score:.2f}{result.flaw()}{how}"
    return f"{event.step.name}: {event.state}" + (f": {event.reason}" if event.reason else "")


class _Tally:
    """How many runs are in which state, and when they will all have ended."""

    def __init__(self, name: str, runs: int, done: int, jobs: int):
        self.name, self.runs, self.done, self.jobs = name, runs, done, jobs
        self.failed, self.seconds, self.ended = 0, 0.0, 0
        self.running: dict[str, float] = {}  # since when, by name

    def add(self, event: Event) -> None:
        if event.state == "running":
            self.running[event.step.name] = time.monotonic()
            return
        self.running.pop(event.step.name, None)
        self.done += event.state == "done"
        self.failed += event.state in ("failed", "skipped")
        if event.state == "done" and not event.result.reused:
            self.seconds, self.ended = self.seconds + event.seconds, self.ended + 1

    @property
    def left(self) -> int:
        return self.runs - self.done - self.failed - len(self.running)

    def eta(self) -> float | None:
        """Seconds until the last run ends, at the pace of those that ended."""
        if not self.ended:
            return None
        each, now = self.seconds / self.ended, time.monotonic()
        under_way = sum(max(0.0, each - (now - since)) for since in self.running.values())
        return (self.left * each + under_way) / max(1, min(self.jobs, self.left + len(self.running)))

    def rest(self, event: Event) -> str:
        eta = self.eta()
        if event.state == "running" or eta is None:
            return ""
        return f"; {self.left + len(self.running)} to go, about {duration(eta)}"

    def line(self) -> str:
        eta = self.eta()
        end = "" if eta is None else time.strftime(", ends about %a %H:%M", time.localtime(time.time() + eta))
        states = f"{self.done} done, {len(self.running)} running, {self.failed} failed, {self.left} left"
        return f"study {self.name}: {states}{end}"


@contextmanager
def _bars(tally: _Tally, epoch_of: Callable[[str], str | None]) -> Iterator[Callable[[Event], None]]:
    """One line for the study and one for each running run, redrawn every second."""
    plain = "{desc}"
    screen = getattr(sys.stdout, "plain", sys.stdout)  # bars move the cursor
    study = tqdm(total=tally.runs, position=0, bar_format="{desc} |{bar}|", file=screen, dynamic_ncols=True)
    rows = [
        tqdm(total=1, position=i + 1, bar_format=plain, leave=False, file=screen, dynamic_ncols=True)
        for i in range(tally.jobs)
    ]
    stop = threading.Event()

    def draw() -> None:
        running = list(tally.running.items())
        for row, item in zip(rows, [*running, *[None] * len(rows)], strict=False):
            row.set_description_str(printable(_row(*item, epoch_of)) if item else "")
        study.n = tally.done + tally.failed
        study.set_description_str(tally.line())

    def tick() -> None:
        while not stop.wait(REFRESH_SECONDS):
            draw()

    def show(event: Event) -> None:
        if event.state in ("failed", "skipped"):
            study.write(printable(said(event)), file=screen)
        draw()

    clock = threading.Thread(target=tick, daemon=True)
    clock.start()
    try:
        yield show
    finally:
        stop.set()
        clock.join()
        draw()
        for bar in (*rows, study):
            bar.close()


def _row(name: str, since: float, epoch_of: Callable[[str], str | None]) -> str:
    epoch = epoch_of(name)
    return f"  {name}: {f'epoch {epoch}, ' if epoch else ''}{duration(time.monotonic() - since)}"
