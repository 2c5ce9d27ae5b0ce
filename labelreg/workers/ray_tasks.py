"""The steps of a study as tasks of a Ray cluster: imported, as Ray itself, only when `executor=ray` asks for it."""

import dataclasses
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # nodes have their environment; `uv run` is not copied
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from labelreg import places, recipes
from labelreg.errors import UserError
from labelreg.output import words_of
from labelreg.settings import Files, Folders, OwnTeacher, facet, of
from labelreg.store import tracking
from labelreg.workers.steps import Event, Step, attempt, event_of

ROOT = Path(__file__).parents[2]
CODE = ("analysis", "entrypoints", "labelreg")
SENT = ("MLFLOW_", "LABELREG_", "HF_", "GOMP_")  # variables by their beginning
KEPT = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")  # each job is told its experiment
PATHS = [name for name, each in of(Files, Folders, OwnTeacher).items() if each.kind == "path"]
ANSWER_SECONDS = 10  # an address that does not answer within this time is not there
NODE_SECONDS = 300  # for a node to load the libraries
STOP_SECONDS = 30  # for tasks to close their runs
RESTARTS = 10  # of a step whose worker or node died; it goes on from its checkpoint
OBJECT_STORE_BYTES = 100 * 2**20  # steps and answers are small; Ray would take 30% of the memory
VERSIONS = ("torch", "transformers", "mlflow")


def connect(steps: Sequence[Step], threads: int, address: str) -> None:
    """Connect this process to a cluster, once, and send the code and the user's own recipes there.

    Raises:
        UserError: an address that does not answer, or nodes that cannot run a step.
    """
    if ray.is_initialized():
        return
    _answers(address)
    own = {str(step.given["recipe"]) for step in steps if step.given.get("recipe")}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory(prefix="labelreg-ray-") as folder:
        send_code(Path(folder), sorted(own))
        sent = {"working_dir": folder, "env_vars": _variables(threads)}
        usual: dict[str, Any] = {"runtime_env": sent, "log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            usual |= {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        try:
            ray.init(address=address, **usual)
        except Exception as error:  # Ray's types, gRPC's, RuntimeError for versions that differ
            raise UserError(f"ray_address={address}: {words_of(error)}") from None
        finally:
            for number, handler in handlers.items():  # Ray sets its own
                signal.signal(number, handler)
    try:
        _check_nodes(steps, threads)
    except BaseException:
        ray.shutdown()
        raise


def _answers(address: str) -> None:
    """Ray itself tries for minutes."""
    if address not in ("auto", "local") and not address.startswith("ray://"):
        raise UserError(f"ray_address={address}: allowed is auto, local or ray://HOST:PORT")
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if named in ("", "auto", "local"):
        return
    where = urlsplit(named if "://" in named else f"ray://{named}")
    try:
        socket.create_connection((where.hostname or "", where.port or 10001), ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(f"ray_address={address}: no Ray cluster answers at {named} ({error})") from None


def send_code(folder: Path, names: Sequence[str]) -> None:
    """Copy the project's code into `folder`, with the recipes that lie elsewhere."""
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for own in {own for name in names for own in recipes.own(name)}:
        target = folder / recipes.carried(own).relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(own, target)


def _variables(threads: int) -> dict[str, str]:
    sent = {name: value for name, value in os.environ.items() if name.startswith(SENT) and name not in KEPT}
    sent |= {name: os.path.abspath(value) for name, value in sent.items() if name.endswith("_ROOT")}
    return sent | {"MLFLOW_TRACKING_URI": tracking.address(), "OMP_NUM_THREADS": str(threads)}


def check_file(name: str, uri: str) -> None:
    """A SQLite file is no store for a cluster of other machines.

    Raises:
        UserError: it is one.
    """
    hosts = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if hosts != {socket.gethostname()} and uri.startswith("sqlite"):
        raise UserError(
            f"{name}={uri}: a SQLite file serves one machine, the cluster has {', '.join(sorted(hosts))}: "
            "give the address of a server"
        )


def _check_nodes(steps: Sequence[Step], threads: int) -> None:
    """Every node must see what the steps share, reach the tracking store and have the libraries of this machine."""
    check_file("MLFLOW_TRACKING_URI", tracking.address())
    roots = places.roots(facet(Folders, steps[0].given if steps else {}))
    roots.cache.mkdir(parents=True, exist_ok=True)
    given = {path for step in steps for key, path in _paths(step).items() if key != "cache_root"}
    for key, value in {(key, str(step.given.get(key))) for step in steps for key in ("model", "teacher_model")}:
        if Path(value).is_dir():
            if not Path(value).is_absolute():
                raise UserError(f"{key}={value}: the nodes of a cluster know a folder by its whole path; give that")
            given.add(value)
    with tempfile.NamedTemporaryFile(dir=roots.cache, prefix="ray-") as mark:
        given |= {str(root) for root in (roots.data, roots.model) if root}
        shared = {mark.name: f"cache_root={roots.cache}"} | {path: path for path in sorted(given)}
        refs, look = {}, ray.remote(num_cpus=0)(_look)
        for node in (node for node in ray.nodes() if node["Alive"]):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            refs[look.options(scheduling_strategy=there).remote(shared, _libraries())] = node["NodeManagerHostname"]
        for ref, name in refs.items():
            try:
                ray.get(ref, timeout=NODE_SECONDS)
            except RayError as error:
                raise UserError(f"Ray node {name}: {_reason(error)}") from None


def _look(shared: Mapping[str, str], libraries: Mapping[str, str]) -> None:
    """On a node: it would train on other data, lose its runs, or compute something else."""
    for path, what in shared.items():
        if not Path(path).exists():
            raise UserError(f"it does not see {what}: all nodes must share that folder")
    if _libraries() != libraries:
        raise UserError(f"it has {_libraries()}, this machine {libraries}")
    tracking.connect()


def _libraries() -> dict[str, str]:
    return {name: version(name) for name in VERSIONS}


def room(jobs: int | None, threads: int, runs_per_gpu: int) -> int:
    """How many steps the cluster holds now, at most `jobs`.

    Raises:
        UserError: not one.
    """
    has = ray.cluster_resources()
    most = int(has.get("CPU", 0)) // threads
    if has.get("GPU"):
        most = min(most, int(has["GPU"]) * runs_per_gpu)
    if not most:
        raise UserError(f"the Ray cluster has {has.get('CPU', 0):g} CPUs and no node for a run of {threads} threads")
    return min(jobs or most, most)


class Tasks:
    """Steps as tasks: Ray starts one again elsewhere when its worker or its node dies."""

    def __init__(self, job: Callable[[Step], Any], jobs: int | None, threads: int, runs_per_gpu: int):
        self.job, self.jobs, self.threads, self.runs_per_gpu = job, jobs, threads, runs_per_gpu
        self.running: dict[Any, tuple[Step, float]] = {}
        gpus = 1 / runs_per_gpu if ray.cluster_resources().get("GPU") else 0
        self.task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=RESTARTS)(attempt)

    def free(self) -> int:
        """As nodes come and go; where none is there at this moment, one step waits for it in Ray's own queue."""
        try:
            return room(self.jobs, self.threads, self.runs_per_gpu) - len(self.running)
        except UserError:
            return 1 - len(self.running)

    def busy(self) -> bool:
        return bool(self.running)

    def start(self, step: Step) -> None:
        sent = dataclasses.replace(step, given=step.given | _paths(step))  # a task has a working folder of its own
        self.running[self.task.remote(self.job, sent)] = (step, time.perf_counter())

    def ended(self) -> list[Event]:
        ready, _ = ray.wait(list(self.running), timeout=1)
        events = []
        for ref in ready:
            step, began = self.running.pop(ref)
            seconds = time.perf_counter() - began
            try:
                events.append(event_of(step, seconds, ray.get(ref)))
            except RayError as error:
                events.append(Event(step, "failed", seconds, reason=_reason(error)))
        return events

    def stop(self) -> None:
        for ref in self.running:
            ray.cancel(ref, force=False, recursive=False)  # a KeyboardInterrupt in the task, which closes its run
        if self.running:
            ray.wait(list(self.running), num_returns=len(self.running), timeout=STOP_SECONDS)
        self.running = {}  # the connection stays: a study may execute steps more than once


def _paths(step: Step) -> dict[str, str]:
    given = {key: Path(os.path.expanduser(str(value))).absolute() for key, value in step.given.items() if key in PATHS}
    return {key: str(path) for key, path in given.items()}


def _reason(error: RayError) -> str:
    cause = getattr(error, "cause", None) or error
    return words_of(cause, 300)
