"""Entry points in tests: in this process, in one of their own, and through a real `mlflow run` and server.

A pytest plugin: `pytest_plugins = ["running"]` gives a test module its fixtures. (Test modules import it
before pytest does: PYTEST_DONT_REWRITE.)
"""

import contextlib
import importlib
import io
import itertools
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import requests

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PATIENCE = 240  # seconds; a wait that fails is a failure, a wait on a busy machine is not
WORDS = "good fine warm bright funny dull cold flat stale plain usual".split()
CHILD = {
    "PYTHONPATH": str(ROOT),
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # `mlflow run` takes python from PATH
    "OMP_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONDONTWRITEBYTECODE": "1",  # nothing is left in the working tree
}


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    status: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"status {self.status}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def arguments(parameters: dict) -> list[str]:
    return [f"--{name}" if value is None else f"--{name}={value}" for name, value in parameters.items()]


def accepted(entry_point: str, parameters: dict) -> dict:
    """Most studies of tests are too small to decide anything: they are run all the same, unless a test says no."""
    return ({"accept_undecidable": "true"} if entry_point in ("study", "main") else {}) | parameters


def call(entry_point: str, **parameters) -> Ended:
    """`python -m entrypoints.NAME` in this process, where nothing has to be imported again."""
    from entrypoints.command import command

    module = importlib.import_module(f"entrypoints.{entry_point}")
    importlib.import_module("labelreg.store.tracking")  # it sets a variable of MLflow, once
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with (
            mock.patch.dict(os.environ),
            mock.patch.object(sys, "argv", [entry_point, *arguments(accepted(entry_point, parameters))]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            warnings.showwarning = _warn  # pytest collects warnings; a user sees them
            command(entry_point, module.main, module.__doc__)
    except SystemExit as ended:
        return Ended(ended.code, out.getvalue(), err.getvalue())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    raise AssertionError("a command leaves with an exit status")


def _warn(message, category, filename, line, file=None, text=None) -> None:
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | ImportWarning | ResourceWarning):
        sys.stderr.write(warnings.formatwarning(message, category, filename, line, text))


@contextlib.contextmanager
def interrupted(nth: int) -> Iterator[None]:
    """Ctrl-C comes, as the terminal sends it, at the nth evaluation of this process."""
    from labelreg import metrics

    real, calls = metrics.evaluate, itertools.count(1)

    def evaluate(*args):
        if next(calls) == nth:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    with mock.patch.object(metrics, "evaluate", evaluate):
        yield


def succeed(entry_point: str, **parameters) -> Ended:
    """`call`, with exit status 0."""
    ended = call(entry_point, **parameters)
    assert ended.status == 0, f"{entry_point} {parameters}: {ended}"
    return ended


def refused(ended: Ended, *words: str, status: int = 2) -> None:
    """A mistake is one line on stderr, with an exit status and without a traceback."""
    assert ended.status == status, ended
    lines = ended.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), f"not one line of error: {ended}"
    for word in words:
        assert word in lines[0], f"{word!r} is not in: {lines[0]}"
    assert "Traceback" not in ended.out, ended


@contextlib.contextmanager
def started(command: list[str], cwd: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """A process in a session of its own, which ends with the block; its output goes to files in `cwd`."""
    with (cwd / "stdout").open("w") as out, (cwd / "stderr").open("w") as err:
        process = subprocess.Popen(
            command, cwd=cwd, stdout=out, stderr=err, env=os.environ | CHILD | environment, start_new_session=True
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ended(process: subprocess.Popen, cwd: Path) -> Ended:
    """Wait for a process that `started` gave."""
    status = process.wait(PATIENCE)
    return Ended(status, (cwd / "stdout").read_text(), (cwd / "stderr").read_text())


def python(entry_point: str, **parameters) -> list[str]:
    """The command line of an entry point."""
    return [sys.executable, "-m", f"entrypoints.{entry_point}", *arguments(accepted(entry_point, parameters))]


def mlflow_run(entry_point: str, **parameters) -> list[str]:
    """The command line of an entry point through MLflow, as the README gives it."""
    given = [word for name, value in accepted(entry_point, parameters).items() for word in ("-P", f"{name}={value}")]
    return [str(BIN / "mlflow"), "run", str(ROOT), "--env-manager", "local", "-e", entry_point, *given]


def finish(command: list[str], cwd: Path, **environment: str) -> Ended:
    """Run a command to its end."""
    with started(command, cwd, **environment) as process:
        return ended(process, cwd)


def together(commands: dict[str, list[str]], folder: Path, **environment: str) -> dict[str, Ended]:
    """Run commands at the same time, each in a folder of its own; what they gave, by name."""

    def run(name: str) -> Ended:
        (folder / name).mkdir()
        return finish(commands[name], folder / name, **environment)

    with ThreadPoolExecutor(len(commands)) as pool:
        return dict(zip(commands, pool.map(run, commands), strict=True))


def wait_for(condition: Callable[[], object], what: str, process: subprocess.Popen | None = None):
    """The first true value of `condition`; fails when it does not come, or when the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        assert process is None or process.poll() is None, f"{what}: the process ended before ({process.args})"
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {PATIENCE} s")


def session_members(session: int) -> dict[int, str]:
    """The processes of a session that are still alive, with their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, number = path.joinpath("stat").read_text().rpartition(")")[2].split()[:4]
            if int(number) == session and state != "Z":
                found[int(path.name)] = path.joinpath("cmdline").read_text().replace("\0", " ")
    return found


def in_this_process(steps, job, *_):
    """executors.execute without worker processes, whose imports take longer than small runs."""
    from labelreg.workers import executors

    for step in steps:
        yield executors.Event(step, "done", result=job(step))


def runs(kind: str | None = None) -> list:
    """All runs of the current store, oldest first; perhaps those of one labelreg.kind."""
    import mlflow

    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    found = mlflow.search_runs(experiments, order_by=["attributes.start_time ASC"], output_format="list")
    return [run for run in found if kind in (None, run.data.tags.get("labelreg.kind"))]


def run_of(ended: Ended):
    """The run that train_student or train_teacher names in its output."""
    import mlflow

    line = next(line for line in reversed(ended.out.splitlines()) if "(run " in line or "teacher_run_id=" in line)
    return mlflow.get_run(line.partition("(run ")[2].rstrip(")") or line.partition("teacher_run_id=")[2])


def measured(run) -> dict[str, float]:
    """The metrics of a run that must not change when it is repeated: all but its cost."""
    return {name: value for name, value in run.data.metrics.items() if not name.startswith("cost/")}


def artifacts(run, path: str = "") -> set[str]:
    """The paths of all files among a run's artifacts."""
    import mlflow

    files = set()
    for item in mlflow.MlflowClient().list_artifacts(run.info.run_id, path):
        files |= artifacts(run, item.path) if item.is_dir else {item.path}
    return files


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A SQLite store as MLflow makes it; copying it spares each test the seconds of its migrations."""
    import mlflow

    path = tmp_path_factory.mktemp("empty_store") / "mlflow.db"
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # SQLAlchemy's, of MLflow's tables
        mlflow.MlflowClient(f"sqlite:///{path}").create_experiment("to be deleted", str(path.parent))
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM experiments WHERE name = 'to be deleted'")
    return path


@pytest.fixture
def store(isolated, empty_store, tmp_path, monkeypatch) -> Path:
    """The test's own store, as `isolated` names it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    new_store(empty_store, tmp_path)
    return tmp_path


def new_store(empty: Path, folder: Path) -> str:
    """A store in `folder`, with its artifacts there; its URI."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(empty, folder / "mlflow.db")
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ?", (f"{folder}/mlruns/0",))
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture
def tiny(store, tiny_file, tiny_models) -> dict:
    """Parameters of a run that takes a second."""
    return {
        "train_file": tiny_file,
        "model": "bert-small",
        "model_root": tiny_models,
        "epochs": 1,
        "batch_size": 8,
        "lr": 1e-3,
        "max_length": 32,
        "threads": 1,
    }


@pytest.fixture
def settings_file(tmp_path) -> Callable[..., Path]:
    """Writes a settings recipe: default.yaml, and then these rules; `teacher` are those of a teacher."""

    def write(teacher: dict | None = None, **rule) -> Path:
        path = tmp_path / f"settings{len(list(tmp_path.glob('settings*.yaml')))}.yaml"
        rules = [{"set": rule}] + ([{"when": {"role": "teacher"}, "set": teacher}] if teacher else [])
        path.write_text(json.dumps({"kind": "settings", "extends": "default", "rules": rules}))  # JSON is YAML
        return path

    return write


class Server:
    """A real `mlflow server`, which keeps artifacts too; it can be stopped and started again at its address."""

    def __init__(self, folder: Path, empty: Path):
        self.folder, self.database = folder, folder / "mlflow.db"
        self.uri = new_store(empty, folder)
        with contextlib.closing(sqlite3.connect(self.database)) as database, database:
            database.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/0'")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def starting(self) -> Iterator[subprocess.Popen]:
        """Its process, which takes seconds before it answers."""
        command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", self.uri, "--artifacts-destination", str(self.folder / "artifacts")]
        with started(command, self.folder, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false") as process:
            yield process

    @contextlib.contextmanager
    def up(self) -> Iterator[subprocess.Popen]:
        """Its process, once it answers."""
        with self.starting() as process:
            wait_for(self.answers, f"the MLflow server at {self.address}", process)
            yield process

    def answers(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.address}/health", timeout=5).ok
        return False


@pytest.fixture(scope="session", autouse=True)
def starting_server(request) -> Iterator[tuple[Server, subprocess.Popen] | None]:
    """A server of the whole session; it takes 15 s to start, so it begins with the session."""
    if not any(item.get_closest_marker("server") for item in request.session.items):
        yield None
        return
    folder = request.getfixturevalue("tmp_path_factory").mktemp("server")
    server = Server(folder, request.getfixturevalue("empty_store"))
    with server.starting() as process:
        yield server, process


@pytest.fixture(scope="session")
def server(starting_server) -> str:
    """The address of a real MLflow server that answers."""
    server, process = starting_server
    wait_for(server.answers, f"the MLflow server at {server.address}", process)
    return server.address


@pytest.fixture
def served(server, isolated, tmp_path, monkeypatch) -> str:
    """The server as the test's store, with an experiment of its own; the experiment's id."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    return mlflow.create_experiment(tmp_path.name)


@pytest.fixture(scope="session")
def small_hub(tmp_path_factory) -> Path:
    """A data_root with few examples of SST-5, three GLUE tasks and FewRel, in the files of the hub."""
    import pandas as pd

    root = tmp_path_factory.mktemp("data_root")

    def write(data_set: str, config: str, split: str, table: pd.DataFrame) -> None:
        folder = root / data_set / config
        folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet", index=False)

    def sentences(rows: int, shift: int = 0) -> list[str]:
        return [f"the {WORDS[(row + shift) % len(WORDS)]} film is {WORDS[row % 7]}" for row in range(rows)]

    for split, rows in {"train": 60, "validation": 25, "test": 25}.items():
        write("SetFit/sst5", "", split, pd.DataFrame({"text": sentences(rows), "label": [i % 5 for i in range(rows)]}))
        hidden = split == "test"
        idx, labels = list(range(rows)), [i % 2 for i in range(rows)]
        cola = {"sentence": sentences(rows), "label": [-1] * rows if hidden else labels, "idx": idx}
        write("nyu-mll/glue", "cola", split, pd.DataFrame(cola))
        mrpc = {"sentence1": sentences(rows), "sentence2": sentences(rows, 3), "label": labels, "idx": idx}
        write("nyu-mll/glue", "mrpc", split, pd.DataFrame(mrpc))
        for kind in ("matched", "mismatched") if split != "train" else ("",):
            pairs = {"premise": sentences(rows, 1), "hypothesis": sentences(rows, 2), "idx": idx}
            pairs["label"] = [-1 if hidden else i % 3 for i in range(rows)]
            write("nyu-mll/glue", "mnli", f"{split}_{kind}".rstrip("_"), pd.DataFrame(pairs))
    parts = [{"text": word, "type": "Q1", "indices": [[0]]} for word in sentences(1400)]
    few_rel = {"relation": ["P17", "P31"] * 700, "tokens": [text.split() for text in sentences(1400)]}
    write("thunlp/few_rel", "", "train_wiki", pd.DataFrame(few_rel | {"head": parts, "tail": parts[::-1]}))

    def card(data_set: str, splits: dict[str, list[str]]) -> None:
        configs = [
            {"config_name": config or "default", "data_files": [_data_file(config, split) for split in names]}
            for config, names in splits.items()
        ]
        (root / data_set / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")

    usual = ["train", "validation", "test"]
    mnli = ["train", *(f"{split}_{kind}" for split in usual[1:] for kind in ("matched", "mismatched"))]
    card("nyu-mll/glue", {"cola": usual, "mrpc": usual, "mnli": mnli})
    card("SetFit/sst5", {"": usual})
    card("thunlp/few_rel", {"": ["train_wiki"]})
    return root


def _data_file(config: str, split: str) -> dict[str, str]:
    return {"split": split, "path": f"{config}/{split}-*".lstrip("/")}
