"""What runs the steps of a study: worker processes of this machine."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from labelreg.errors import DivergedError, UserError
from labelreg.study import Step


@dataclass(frozen=True)
class Event:
    """A step began, ended or failed. `result` is the job's, `reason` one line."""

    step: Step
    state: str  # running, done, failed, skipped
    seconds: float = 0.0
    result: Any = None
    reason: str = ""


def execute(
    steps: Sequence[Step], job: Callable[[Step], Any], jobs: int, environment: Mapping[str, str]
) -> Iterator[Event]:
    """Run every step after those that it needs, `jobs` at a time; yields what happens.

    A step whose predecessor failed is skipped. Stopping the iteration (Ctrl-C too) stops the workers,
    each of which closes its own run first.

    Args:
        job: called in a worker process with the step; importable, its result picklable.
        environment: variables set in the workers before anything is imported there.
    """
    left = {step.name: step for step in steps}
    finished: set[str] = set()
    workers = [_Worker(job, environment) for _ in range(min(jobs, len(left)))]
    try:
        while left or any(worker.step for worker in workers):
            for worker in workers:
                step = None if worker.step else next((s for s in left.values() if set(s.needs) <= finished), None)
                if step:
                    del left[step.name]
                    worker.start(step)
                    yield Event(step, "running")
            if not any(worker.step for worker in workers):
                for step in left.values():
                    yield Event(step, "skipped", reason=f"needs {', '.join(set(step.needs) - finished)}, which failed")
                return
            busy = {worker.pipe: worker for worker in workers if worker.step}
            for pipe in wait(list(busy)):
                event = busy[pipe].collect()
                if event.state == "done":
                    finished.add(event.step.name)
                yield event
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that takes one step after another; replaced when it dies."""

    def __init__(self, job: Callable[[Step], Any], environment: Mapping[str, str]):
        self.job, self.environment, self.step, self.process = job, environment, None, None
        self.began = 0.0

    def start(self, step: Step) -> None:
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=_work, args=(theirs, self.job), daemon=False)
            before = {name: os.environ.get(name) for name in self.environment}
            os.environ.update(self.environment)  # a spawned process inherits it before its first import
            ours = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: until a worker can close a run,
            self.process.start()  # Ctrl-C is for this process alone
            signal.signal(signal.SIGINT, ours)
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
            theirs.close()
        self.step, self.began = step, time.perf_counter()
        self.pipe.send(step)

    def collect(self) -> Event:
        step, self.step = self.step, None
        seconds = time.perf_counter() - self.began
        try:
            state, value = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return Event(
                step, "failed", seconds, reason=f"its worker process ended (exit status {self.process.exitcode})"
            )
        return Event(step, "done", seconds, value) if state == "done" else Event(step, "failed", seconds, reason=value)

    def stop(self) -> None:
        if self.process and self.process.is_alive():
            if self.step:
                self.process.terminate()  # its own handler closes the run
            else:
                self.pipe.close()
            self.process.join(30)
            self.process.kill()


def _work(pipe: Connection, job: Callable[[Step], Any]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        while True:
            try:
                step = pipe.recv()
            except EOFError:
                return
            try:
                answer = ("done", job(step))
            except (UserError, DivergedError) as error:
                answer = ("failed", str(error))
            except Exception as error:  # one run's defect must not end the study
                answer = ("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            pipe.send(answer)
    except (KeyboardInterrupt, BrokenPipeError):
        return


def _stop(number: int, frame: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)  # not SIG_IGN: Python complains of one that is already on its way
    raise KeyboardInterrupt
