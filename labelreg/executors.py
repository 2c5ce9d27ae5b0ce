"""What runs the steps of a study: worker processes of this machine, or tasks of a Ray cluster."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from labelreg import output
from labelreg.errors import StoreLostError, UserError, told
from labelreg.study import Step

DEVICES = "CUDA_VISIBLE_DEVICES"
ROOM_SECONDS = 600.0  # how long no node of a cluster may have room, while nothing runs
PAUSE = 1.0  # seconds between two looks for room
STOP_SECONDS = 30.0  # for workers to close their runs; then they are killed
KILLED_SECONDS = 5.0  # for a killed process to be gone; one that waits for a dead disk is not


@dataclass(frozen=True)
class Event:
    """A step began, ended or failed. `result` is the job's, `reason` one line."""

    step: Step
    state: str  # running, done, failed, skipped
    seconds: float = 0.0
    result: Any = None
    reason: str = ""


class Workers(Protocol):
    """What both executors give to `execute`."""

    def free(self) -> int:
        """How many more steps may be started now."""

    def busy(self) -> bool: ...

    def start(self, step: Step) -> None: ...

    def ended(self) -> list[Event]:
        """What ended since the last call; waits for something, but not for ever: the list may be empty."""

    def stop(self) -> None:
        """End what still runs; each closes its own run first."""


def check(
    steps: Sequence[Step],
    jobs: int | None,
    environment: Mapping[str, str],
    executor: str = "local",
    ray_address: str = "auto",
    runs_per_gpu: int = 1,
) -> int:
    """How many steps `execute` runs at a time, with the same arguments; with Ray, the cluster is connected to.

    Raises:
        UserError: the cluster is not to be reached or lacks what a step needs, or more jobs than the GPUs take.
    """
    if executor == "ray":
        from labelreg import ray_tasks

        ray_tasks.connect(steps, environment, ray_address)
        return ray_tasks.room(jobs, environment, runs_per_gpu)
    gpus = _devices()
    most = len(gpus) * runs_per_gpu
    if gpus and jobs and jobs > most:
        raise UserError(f"jobs={jobs}: the GPUs ({len(gpus)}) take {most} at a time; share them with runs_per_gpu=...")
    return jobs or most or os.cpu_count() or 1


def execute(
    steps: Sequence[Step],
    job: Callable[[Step], Any],
    jobs: int | None,
    environment: Mapping[str, str],
    executor: str = "local",
    ray_address: str = "auto",
    runs_per_gpu: int = 1,
) -> Iterator[Event]:
    """Run every step after those that it needs, `jobs` at a time; yields what happens.

    A step whose predecessor failed is skipped. Stopping the iteration (Ctrl-C too) stops the workers,
    each of which closes its own run first.

    Args:
        job: called in a worker process with the step; importable, its result picklable.
        jobs: None: one a core, or `runs_per_gpu` a GPU, of this machine or of the cluster.
        environment: variables set in the workers before anything is imported there.
        executor: local or ray.
        ray_address: auto (the cluster that this machine belongs to), local (one of this machine's own), ray://...

    Raises:
        UserError: as `check`, or no node had room for ten minutes.
        StoreLostError: the tracking store was away from a worker for too long; the others are stopped too.
    """
    room = check(steps, jobs, environment, executor, ray_address, runs_per_gpu)
    workers: Workers
    if executor == "ray":
        from labelreg import ray_tasks

        workers = ray_tasks.Tasks(job, jobs, environment, runs_per_gpu)
    else:
        workers = _Processes(job, min(room, len(steps)), environment, runs_per_gpu)
    left = {step.name: step for step in steps}
    finished: set[str] = set()
    full_since = None
    news: list[Event] = []
    try:
        while True:
            ready = [step for step in left.values() if set(step.needs) <= finished]
            for step in ready[: max(0, workers.free())]:
                del left[step.name]
                workers.start(step)
                news.append(Event(step, "running"))
            yield from news  # after the next step has started: whoever listens does not hold it up
            news = []
            if not workers.busy():
                if ready:  # nodes come and go: none may be there at this moment
                    full_since = full_since or time.monotonic()
                    if time.monotonic() - full_since >= ROOM_SECONDS:
                        raise UserError(
                            f"no node has had room for a run for {ROOM_SECONDS:.0f} s: stopped; "
                            "the same command goes on later"
                        )
                    time.sleep(PAUSE)
                    continue
                for step in left.values():
                    missing = ", ".join(first for first in step.needs if first not in finished)
                    yield Event(step, "skipped", reason=f"needs {missing}, which failed")
                return
            full_since = None
            news = workers.ended()
            finished |= {event.step.name for event in news if event.state == "done"}
    finally:
        workers.stop()


def attempt(job: Callable[[Step], Any], step: Step) -> tuple[str, Any]:
    """(done, the job's result), (failed, one line) or (lost, one line): one run's defect must not end the study."""
    try:
        return "done", job(step)
    except StoreLostError as error:
        return "lost", told(error).line
    except Exception as error:
        return "failed", told(error).line


def event_of(step: Step, seconds: float, answer: tuple[str, Any]) -> Event:
    """What an answer of `attempt` means.

    Raises:
        StoreLostError: the worker lost the tracking store: nothing else would fare better.
    """
    state, value = answer
    if state == "lost":
        raise StoreLostError(value)
    return Event(step, "done", seconds, value) if state == "done" else Event(step, "failed", seconds, reason=value)


def _devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get(DEVICES)
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


class _Processes:
    """Worker processes of this machine; with GPUs, each sees one of them."""

    def __init__(self, job: Callable[[Step], Any], count: int, environment: Mapping[str, str], runs_per_gpu: int):
        gpus = _devices()
        own = [{DEVICES: gpus[index % len(gpus)]} if gpus else {} for index in range(count)]
        self.workers = [_Worker(job, dict(environment) | device) for device in own]

    def free(self) -> int:
        return sum(not worker.step for worker in self.workers)

    def busy(self) -> bool:
        return any(worker.step for worker in self.workers)

    def start(self, step: Step) -> None:
        next(worker for worker in self.workers if not worker.step).start(step)

    def ended(self) -> list[Event]:
        busy = {worker.pipe: worker for worker in self.workers if worker.step}
        return [busy[pipe].collect() for pipe in wait(list(busy))]

    def stop(self) -> None:
        """Whatever happens meanwhile, such as a second signal: none is left."""
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for worker in self.workers:  # all at once: each may take seconds to close its run
                worker.end()
            for worker in self.workers:
                worker.wait(deadline)
        finally:
            for worker in self.workers:
                worker.kill()


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
            try:
                self.process.start()  # Ctrl-C is for this process alone
            finally:
                signal.signal(signal.SIGINT, ours)
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
            theirs.close()
        self.step, self.began = step, time.perf_counter()
        with contextlib.suppress(OSError):  # it has just died: `collect` says so
            self.pipe.send(step)

    def collect(self) -> Event:
        seconds = time.perf_counter() - self.began
        try:
            answer = self.pipe.recv()
            step, self.step = self.step, None  # only now: a worker that is interrupted before is told to stop
        except (EOFError, OSError):
            self.kill(at_once=False)  # it is on its way out, or hangs there
            step, self.step = self.step, None
            return Event(
                step, "failed", seconds, reason=f"its worker process ended (exit status {self.process.exitcode})"
            )
        return event_of(step, seconds, answer)

    def end(self) -> None:
        if self.process and self.process.is_alive():
            if self.step:
                self.process.terminate()  # its own handler closes the run
            else:
                self.pipe.close()

    def wait(self, deadline: float) -> None:
        if self.process:
            self.process.join(max(0.0, deadline - time.monotonic()))

    def kill(self, at_once: bool = True) -> None:
        if self.process:
            self.process.join(0 if at_once else KILLED_SECONDS)
            self.process.kill()
            self.process.join(KILLED_SECONDS)


def _work(pipe: Connection, job: Callable[[Step], Any]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    output.guard()  # a reader of the study's output who leaves does not end its runs
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError, EOFError):
        while True:
            step = pipe.recv()
            if signal.getsignal(signal.SIGTERM) is not _stop:  # a library hid the interruption, while it was imported
                break
            answer = attempt(job, step)
            if signal.getsignal(signal.SIGTERM) is not _stop:  # an error hid it, while the run was closed
                break
            pipe.send(answer)
    _leave()


def _leave() -> None:
    """End this process as multiprocessing ends a forked one: taking the libraries apart first would take seconds."""
    util._exit_function()  # what libraries share between processes is given back
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _stop(number: int, frame: object) -> None:
    """A worker that is told to stop ends, within seconds, whatever closing its run comes to."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)  # not SIG_IGN: Python complains of one that is already on its way
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(STOP_SECONDS))
    raise KeyboardInterrupt
