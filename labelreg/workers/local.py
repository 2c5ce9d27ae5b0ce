"""The steps of a study in worker processes of this machine."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from labelreg import output
from labelreg.workers.steps import Event, Step, attempt, event_of

DEVICES = "CUDA_VISIBLE_DEVICES"
STOP_SECONDS = 30.0  # for workers to close their runs; then they are killed
KILLED_SECONDS = 5.0  # for a killed process to be gone; one that waits for a dead disk is not


def devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get(DEVICES)
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


class Processes:
    """Worker processes of this machine; with GPUs, each sees one of them. `ray_tasks.Tasks` answers the same calls."""

    def __init__(self, job: Callable[[Step], Any], count: int, threads: int, runs_per_gpu: int):
        gpus = devices()
        own = [{DEVICES: gpus[index % len(gpus)]} if gpus else {} for index in range(count)]
        self.workers = [_Worker(job, {"OMP_NUM_THREADS": str(threads)} | device) for device in own]

    def free(self) -> int:
        """How many more steps may be started now."""
        return sum(not worker.step for worker in self.workers)

    def busy(self) -> bool:
        return any(worker.step for worker in self.workers)

    def start(self, step: Step) -> None:
        next(worker for worker in self.workers if not worker.step).start(step)

    def ended(self) -> list[Event]:
        """What ended since the last call; waits for something, but not for ever: the list may be empty."""
        busy: dict[Any, _Worker] = {worker.pipe: worker for worker in self.workers if worker.step}
        return [busy[pipe].collect() for pipe in wait(list(busy))]

    def stop(self) -> None:
        """End what still runs, each closing its own run first; whatever happens meanwhile, such as a second signal."""
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
        self.job, self.environment = job, environment
        self.step: Step | None = None
        self.process: SpawnProcess | None = None
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
        step, process = self.step, self.process
        assert step and process  # it is busy
        try:
            answer = self.pipe.recv()
            self.step = None  # only now: a worker that is interrupted before is told to stop
        except (EOFError, OSError):
            self.kill(at_once=False)  # it is on its way out, or hangs there
            self.step = None
            return Event(step, "failed", seconds, reason=f"its worker process ended (exit status {process.exitcode})")
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
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError, EOFError):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        output.guard()  # a reader of the study's output who leaves does not end its runs
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
    _hear_no_more()
    util._exit_function()  # type: ignore[attr-defined]  # in no stub: what libraries share between processes is given back
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _stop(number: int, frame: object) -> None:
    """A worker that is told to stop ends, within seconds, whatever closing its run comes to."""
    _hear_no_more()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(STOP_SECONDS))
    raise KeyboardInterrupt


def _hear_no_more() -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)  # not SIG_IGN: Python complains of one that is already on its way
