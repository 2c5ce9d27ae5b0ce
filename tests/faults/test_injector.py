"""The injector itself: a fault strikes where it is named, once, and what it does is what it says."""

import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import requests
from injector import FULL, Proxy, Rule, fault, fill, small_disk
from running import CHILD

pytest_plugins = ["running"]

WORK = """
import os, json, signal
signal.signal(signal.SIGUSR1, lambda *_: print("signalled", flush=True))
for n in range(3):
    open(f"{n}.txt", "w").close()
    try:
        os.replace(f"{n}.txt", f"{n}.done")
        json.dumps(n)
    except OSError as error:
        print(error, flush=True)
"""


@pytest.mark.parametrize(
    "place, action, count, when, status, out, left",
    [
        ("os:replace", "SIGKILL", 2, "before", -signal.SIGKILL, "", ["0.done", "1.txt"]),
        ("os:replace", "SIGKILL", 2, "after", -signal.SIGKILL, "", ["0.done", "1.done"]),
        ("os:replace", FULL, 1, "before", 0, "[Errno 28] No space left on device\n", ["0.txt", "1.done", "2.done"]),
        ("json:dumps", "SIGUSR1", 1, "before", 0, "signalled\n", ["0.done", "1.done", "2.done"]),
    ],
)
def test_a_fault_strikes_once_where_it_is_named(tmp_path, place, action, count, when, status, out, left):
    mark = tmp_path / "mark"
    environment = os.environ | CHILD | fault(place, action, count, when, mark)
    work = tmp_path / "work"
    work.mkdir()
    found = subprocess.run([sys.executable, "-c", WORK], cwd=work, env=environment, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (status, out), found.stderr
    assert sorted(path.name for path in work.iterdir()) == left and mark.exists()
    again = subprocess.run([sys.executable, "-c", WORK], cwd=work, env=environment, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (0, "")


def test_a_proxy_misbehaves_by_rule():
    done = []

    class Upstream(BaseHTTPRequestHandler):
        def do_POST(self):
            done.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(201)
            self.end_headers()
            self.wfile.write(b"right")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with Proxy(f"http://127.0.0.1:{server.server_address[1]}").up() as proxy:
            post = lambda path="/a": requests.post(proxy.address + path, data=b"body", timeout=0.5)  # noqa: E731
            assert (post().status_code, post().text) == (201, "right") and done == [b"body"] * 2
            proxy.set(Rule(500, every=3, first=3))
            assert [post().status_code for _ in range(6)] == [201, 201, 500, 201, 201, 500]
            proxy.set(Rule("html", path="/b"))
            assert post("/b").text.startswith("<html>") and post("/a").text == "right"
            before = len(done)
            proxy.set(Rule("lose", last=1))
            with pytest.raises(requests.ConnectionError):
                post()
            assert len(done) == before + 1 and post().ok
            before = len(done)
            for what, error in (("refuse", requests.ConnectionError), ("hang", requests.Timeout)):
                proxy.set(Rule(what))
                with pytest.raises(error):
                    post()
            assert len(done) == before
        server.shutdown()


def test_a_small_disk_is_full(tmp_path):
    with small_disk(tmp_path / "disk", 1) as disk:
        fill(disk, leave=8192)
        with pytest.raises(OSError, match="No space left"), (disk / "file").open("wb") as file:
            file.write(b"\0" * 100_000)
            file.flush()
        (disk / "filling").unlink()
