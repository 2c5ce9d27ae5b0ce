"""Faults for real processes, servers and disks, and the comparison of what is left with an undisturbed run.

`fault` strikes in a child process when a named function is called; `Proxy` stands before a real server and
misbehaves by rule; `small_disk` is full soon; `record` is all of a run that must not depend on faults.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from running import CHILD, Ended, finish

OF_ONE_RUN = ("run_id", "model_id", "model_uuid", "utc_time_created")
HOOK = Path(__file__).parent / "hook"
FULL = str(errno.ENOSPC)  # as an action: the disk is full there


def fault(place: str, action: str = "SIGKILL", count: int = 1, when: str = "before", mark: Path | None = None) -> dict:
    """The environment of a command in which a fault strikes, once in all of its processes.

    Args:
        place: module:function or module:Class.method, as it is called: labelreg.store.tracking:create.
        action: the name of a signal, sent by the process to itself, or an errno, raised as OSError.
        count: at which of a process's calls.
        when: before the call, or after it has done its work.
        mark: a file that is there once the fault has struck.
    """
    mark = mark or Path(tempfile.mkdtemp(prefix="labelreg-fault-")) / "struck"
    return {
        "PYTHONPATH": f"{HOOK}{os.pathsep}{CHILD['PYTHONPATH']}",
        "LABELREG_TEST_FAULT": f"{when} {place} {count} {action}",
        "LABELREG_TEST_FAULT_MARK": str(mark),
    }


def strike(command: list[str], cwd: Path, place: str, action: str = "SIGKILL", count: int = 1, when="before") -> Ended:
    """Run a command to its end with a fault in it, which must have struck."""
    environment = fault(place, action, count, when)
    found = finish(command, cwd, **environment)
    assert Path(environment["LABELREG_TEST_FAULT_MARK"]).exists(), f"the fault at {place} never struck: {found}"
    return found


@dataclass
class Rule:
    """What a proxy does with the requests whose method and path hold `path`, from the `first` to the `last` of them.

    `what`: lose (the server has done it, its answer is dropped), refuse (no connection), hang (until `let_go`),
    html (a page, with status 200), or a status.
    """

    what: str | int
    path: str = ""
    first: int = 1
    last: int | None = None
    every: int = 1
    seen: int = 0
    struck: int = 0

    def applies(self, request: str) -> bool:
        if self.path not in request:
            return False
        self.seen += 1
        nth = self.seen - self.first
        hit = nth >= 0 and nth % self.every == 0 and (self.last is None or self.seen <= self.last)
        self.struck += hit
        return hit


@dataclass
class Proxy:
    """An HTTP proxy on 127.0.0.1 before a server; `rules` may be changed at any time, the first that applies counts."""

    upstream: str
    rules: list[Rule] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # "POST /api/2.0/mlflow/runs/create"
    address: str = ""
    going_on: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self, *rules: Rule) -> None:
        """Other rules, from now on; requests that hang are let go."""
        self.let_go()
        self.rules = list(rules)

    def let_go(self) -> None:
        self.going_on.set()
        self.going_on = threading.Event()

    def rule_for(self, request: str) -> Rule | None:
        with self.lock:
            self.requests.append(request)
            return next((rule for rule in self.rules if rule.applies(request)), None)

    @contextlib.contextmanager
    def up(self) -> Iterator["Proxy"]:
        """The proxy, at `address`, while the block lasts."""
        handler = type("Handler", (_Handler,), {"proxy": self})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            server.daemon_threads, server.block_on_close = True, False
            self.address = f"http://127.0.0.1:{server.server_address[1]}"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield self
            finally:
                self.let_go()
                server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):  # the other side went away
            super().handle_one_request()

    def _pass(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        rule = self.proxy.rule_for(f"{self.command} {self.path}")
        what = rule.what if rule else None
        if what == "hang":
            self.proxy.going_on.wait(600)
        if what in ("refuse", "hang"):
            self.close_connection = True
            return
        if what == "html" or isinstance(what, int):
            self._answer(200 if what == "html" else what, [("Content-Type", "text/html")], b"<html>a page</html>")
            return
        to = urlsplit(self.proxy.upstream)
        server = http.client.HTTPConnection(to.hostname, to.port, timeout=600)
        names = {"host", "connection", "transfer-encoding", "content-length"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in names}
        server.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        answer = server.getresponse()
        content = answer.read()
        server.close()
        if what == "lose":
            self.close_connection = True
            return
        self._answer(answer.status, [pair for pair in answer.getheaders() if pair[0].lower() not in names], content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _pass

    def _chunks(self) -> bytes:
        parts = []
        while "chunked" in self.headers.get("Transfer-Encoding", ""):
            size = int(self.rfile.readline(), 16)
            parts.append(self.rfile.read(size))
            self.rfile.readline()
            if not size:
                break
        return b"".join(parts)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[Path]:
    """A file system of this size in `folder`; the test is skipped where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={int(megabytes * 1024)}k"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill the file system of `folder` up to so many bytes; the file that does it."""
    room = os.statvfs(folder)
    path = folder / "filling"
    path.write_bytes(b"\0" * max(0, room.f_bavail * room.f_frsize - leave))
    return path


def record(run_id: str) -> dict:
    """What must not differ between a disturbed run and an undisturbed one: status, params, metrics, files.

    A metric's history holds every point, as (step, the value's exact digits), sorted; costs and the ids of runs
    differ anyway.
    """
    import mlflow

    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    names = [name for name in run.data.metrics if not name.startswith("cost/")]
    points = {name: client.get_metric_history(run_id, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        mlflow.artifacts.download_artifacts(run_id=run_id, dst_path=folder)
        files = {
            str(path.relative_to(folder)): _content(path) for path in sorted(Path(folder).rglob("*")) if path.is_file()
        }
    return {
        "status": run.info.status,
        "params": {name: value for name, value in run.data.params.items() if name != "teacher_run_id"},
        "metrics": {name: sorted((p.step, float(p.value).hex()) for p in points[name]) for name in names},
        "files": files,
        "fingerprint": run.data.tags.get("labelreg.fingerprint"),
    }


def _content(path: Path) -> object:
    """What a file holds; safetensors writes the entries of its header in any order, and MLmodel names run and time."""
    if path.name == "MLmodel":
        return {name: value for name, value in yaml.safe_load(path.read_text()).items() if name not in OF_ONE_RUN}
    if path.suffix != ".safetensors":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    from safetensors import safe_open

    from labelreg.whole import checksum

    with safe_open(path, "pt") as file:
        return file.metadata(), checksum({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def every_step_once(found: dict) -> None:
    """No metric of a `record` has two points of one step."""
    for name, points in found["metrics"].items():
        steps = [step for step, _ in points]
        assert len(steps) == len(set(steps)), f"{name}: points logged twice ({len(steps)} of {len(set(steps))} steps)"
