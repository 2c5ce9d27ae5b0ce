"""What runs the steps of a study: worker processes of this machine, or tasks of a Ray cluster."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labelreg.errors import UserError
from labelreg.workers.local import Processes, devices
from labelreg.workers.steps import Event, Step

if TYPE_CHECKING:
    from labelreg.workers.ray_tasks import Tasks


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
        from labelreg.workers import ray_tasks  # Ray takes a second to import, and few have a cluster

        ray_tasks.connect(steps, environment, ray_address)
        return ray_tasks.room(jobs, environment, runs_per_gpu)
    gpus = devices()
    most = len(gpus) * runs_per_gpu
    if gpus and jobs and jobs > most:
        raise UserError(f"jobs={jobs}: the GPUs ({len(gpus)}) take {most} at a time; share them with runs_per_gpu=...")
    from joblib import cpu_count  # of this process: affinity and a container's quota, not the machine's

    return jobs or most or cpu_count()


def side_by_side(jobs: int, executor: str = "local") -> int:
    """How many of so many runs at a time have a processor of their own; on GPUs, and with Ray, as `check` takes them.

    More than there are processors take turns: together they are done no sooner.
    """
    from joblib import cpu_count  # as above

    return jobs if executor == "ray" or devices() else min(jobs, cpu_count())


def execute(
    steps: Sequence[Step],
    job: Callable[[Step], Any],
    jobs: int | None,
    environment: Mapping[str, str],
    executor: str = "local",
    ray_address: str = "auto",
    runs_per_gpu: int = 1,
) -> Generator[Event, None, None]:
    """Run every step after those that it needs, `jobs` at a time; yields what happens.

    A step whose predecessor failed is skipped. Stopping the iteration (Ctrl-C too) stops the workers,
    each of which closes its own run first.

    Args:
        job: called in a worker process with the step; importable, its result picklable.
        jobs: None: one a core, or `runs_per_gpu` a GPU, of this machine or of the cluster.
        environment: variables set in the workers before anything is imported there.

    Raises:
        UserError: as `check`.
        StoreLostError: the tracking store was away from a worker for too long; the others are stopped too.
    """
    room = check(steps, jobs, environment, executor, ray_address, runs_per_gpu)
    workers: Processes | Tasks
    if executor == "ray":
        from labelreg.workers import ray_tasks

        workers = ray_tasks.Tasks(job, jobs, environment, runs_per_gpu)
    else:
        workers = Processes(job, min(room, len(steps)), environment, runs_per_gpu)
    left = {step.name: step for step in steps}
    finished: set[str] = set()
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
                for step in left.values():
                    missing = ", ".join(first for first in step.needs if first not in finished)
                    yield Event(step, "skipped", reason=f"needs {missing}, which failed")
                return
            news = workers.ended()
            finished |= {event.step.name for event in news if event.state == "done"}
    finally:
        workers.stop()
