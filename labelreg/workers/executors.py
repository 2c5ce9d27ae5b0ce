"""What runs the steps of a study: worker processes of this machine, or tasks of a Ray cluster."""

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from joblib import cpu_count  # of this process: affinity and a container's quota, not the machine's

from labelreg.errors import UserError
from labelreg.settings import Workers
from labelreg.workers.local import Processes, devices
from labelreg.workers.steps import Event, Step

if TYPE_CHECKING:
    from labelreg.workers.ray_tasks import Tasks


def check(steps: Sequence[Step], threads: int, workers: Workers) -> int:
    """How many steps `execute` runs at a time, with the same arguments; with Ray, the cluster is connected to.

    Raises:
        UserError: the cluster is not to be reached or lacks what a step needs, or more jobs than the GPUs take.
    """
    jobs = workers.jobs
    if workers.executor == "ray":
        from labelreg.workers import ray_tasks  # Ray takes a second to import, and few have a cluster

        ray_tasks.connect(steps, threads, workers.ray_address)
        return ray_tasks.room(jobs, threads, workers.runs_per_gpu)
    gpus = devices()
    most = len(gpus) * workers.runs_per_gpu
    if gpus and jobs and jobs > most:
        raise UserError(f"jobs={jobs}: the GPUs ({len(gpus)}) take {most} at a time; share them with runs_per_gpu=...")
    return jobs or most or cpu_count()


def side_by_side(jobs: int, executor: str) -> int:
    """How many of so many runs at a time have a processor of their own; on GPUs, and with Ray, as `check` takes them.

    More than there are processors take turns: together they are done no sooner.
    """
    return jobs if executor == "ray" or devices() else min(jobs, cpu_count())


def execute(
    steps: Sequence[Step],
    job: Callable[[Step], Any],
    threads: int,
    workers: Workers,
) -> Generator[Event, None, None]:
    """Run every step after those that it needs, so many at a time; yields what happens.

    A step whose predecessor failed is skipped. Stopping the iteration (Ctrl-C too) stops the workers,
    each of which closes its own run first.

    Args:
        job: called in a worker process with the step; importable, its result picklable.
        threads: of each worker, which has them before anything is imported there.

    Raises:
        UserError: as `check`.
        StoreLostError: the tracking store was away from a worker for too long; the others are stopped too.
    """
    room, runs_per_gpu = check(steps, threads, workers), workers.runs_per_gpu
    crew: Processes | Tasks
    if workers.executor == "ray":
        from labelreg.workers import ray_tasks

        crew = ray_tasks.Tasks(job, workers.jobs, threads, runs_per_gpu)
    else:
        crew = Processes(job, min(room, len(steps)), threads, runs_per_gpu)
    left = {step.name: step for step in steps}
    finished: set[str] = set()
    news: list[Event] = []
    try:
        while True:
            ready = [step for step in left.values() if set(step.needs) <= finished]
            for step in ready[: max(0, crew.free())]:
                del left[step.name]
                crew.start(step)
                news.append(Event(step, "running"))
            yield from news  # after the next step has started: whoever listens does not hold it up
            news = []
            if not crew.busy():
                for step in left.values():
                    missing = ", ".join(first for first in step.needs if first not in finished)
                    yield Event(step, "skipped", reason=f"needs {missing}, which failed")
                return
            news = crew.ended()
            finished |= {event.step.name for event in news if event.state == "done"}
    finally:
        crew.stop()
