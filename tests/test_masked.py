"""What is printed and logged has no passwords; what names hold cannot command a terminal."""

import contextlib
import http.server
import io
import threading

import mlflow
import pytest
from running import call, refused, runs, succeed

from labelreg import output
from labelreg.errors import told
from labelreg.output import LONGEST_LINE, masked, one_line, printable

pytest_plugins = ["running"]

SECRET = "s3cret/of@me"  # as people choose them: not what an address may hold


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pa55word@127.0.0.1:5000/x", "http://***@127.0.0.1:5000/x"),
        ("postgresql+psycopg://u:p@ss@host/db and s3://key:sec@b", "postgresql+psycopg://***@host/db and s3://***@b"),
        ("ghp_token: https://ghp_abc@github.com/x", "ghp_token: https://***@github.com/x"),
        ("Cannot connect to proxy me:secret@proxy:3128", "Cannot connect to proxy ***@proxy:3128"),
        ("postgresql//u:secret@h/db", "postgresql//***@h/db"),
        ("http://h/p?user=u&password=abc&x=1", "http://h/p?user=u&password=***&x=1"),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
        ("mail me@example.org at 12:30, a: b@c", "mail me@example.org at 12:30, a: b@c"),
        ("lr=2e-05 (http://127.0.0.1:5000)", "lr=2e-05 (http://127.0.0.1:5000)"),
        ("http://h/#/x?viewStateShareKey=seeds&key=pa55word", "http://h/#/x?viewStateShareKey=seeds&key=***"),
    ],
)
def test_user_information_is_masked(text, shown):
    assert masked(text) == shown and masked(shown) == shown


def test_passwords_of_the_environment_are_masked(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abcd-efgh")
    assert masked(f"no port in me:{SECRET} for abcd-efgh") == "no port in me:*** for ***"


def test_what_would_command_a_terminal_stands_as_an_escape():
    assert printable("\x1b[2J\x07a\rb\u202ec\udcff\x9b") == "\\x1b[2J\\x07a\\rb\\u202ec\\udcff\\x9b"
    assert printable("größe 映画\tx\n") == "größe 映画\tx\n"
    assert one_line("a\n  b\x1b[31m") == "a b\\x1b[31m"
    assert len(one_line("x" * 10**7)) < LONGEST_LINE


def test_names_in_a_table_are_printed_as_they_are_read(tiny, tmp_path):
    path = tmp_path / "scores.csv"
    rows = [f"t\x1b[2J,m,pretrained,{m},{s},{50 + s + 2 * (m == 'ls')}" for m in ("finetune", "ls") for s in range(7)]
    path.write_text("\n".join(["task,model,init,method,seed,score", *rows]) + "\n")
    ended = succeed("significance", csv=path)
    assert "t\\x1b[2J" in ended.out and "\x1b" not in ended.out + ended.err


class Refusing(http.server.BaseHTTPRequestHandler):
    """An MLflow server's health, and then an answer of a certain kind."""

    status, body, health = 404, b"{}", 200

    def do_GET(self):
        ill = self.path == "/health" and self.health == 200
        self.send_response(200 if ill else self.status)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"OK" if ill else self.body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def answering(status: int, body: bytes = b"<html>x</html>", health: int = 200):
    handler = type("Handler", (Refusing,), {"status": status, "body": body, "health": health})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_address[1]
        serving.shutdown()


@pytest.mark.parametrize("health", [200, 0])
@pytest.mark.parametrize("status", [200, 401, 403, 404, 500])
def test_a_server_that_refuses_is_one_line_without_its_password(status, health, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("LABELREG_STORE_SECONDS", "1")
    with answering(status, health=health) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:pa55word@127.0.0.1:{port}")
        ended = call("train_student", **tiny)
    assert "pa55word" not in ended.out + ended.err
    refused(ended, f"http://***@127.0.0.1:{port}", status=2)
    if status == 401:
        assert "MLFLOW_TRACKING_PASSWORD" in ended.err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("given", ["postgresql://me:pa55word@127.0.0.1:1/x", "postgresql//me:pa55/word@127.0.0.1/x"])
def test_a_storage_that_refuses_is_one_line_without_its_password(given, tiny):
    refused(call("tune", **tiny, storage=given), "storage=", "***@127.0.0.1")
    assert "pa55" not in call("tune", **tiny, storage=given).err


def test_passwords_do_not_enter_a_run(tiny):
    from labelreg.store import tracking

    with pytest.raises(KeyError), tracking.open_run("student", "x") as run:
        run.params({"train_file": "s3://me:pa55word@bucket/x"}, {"where": "http://me:pa55word@h"})
        run.params({"train_file": "s3://me:pa55word@bucket/x"})  # the same, when it goes on
        raise KeyError("http://me:pa55word@h/upload: 404")
    (found,) = runs()
    assert found.info.status == "FAILED" and found.data.params["train_file"] == "s3://***@bucket/x"
    assert "http://***@h/upload: 404" in found.data.tags["mlflow.note.content"]
    assert "pa55word" not in str(found.to_dictionary())


@pytest.mark.slow
@pytest.mark.server
def test_an_upload_that_is_refused_leaves_a_note_without_the_password(served, tiny, monkeypatch):
    """A real server, with user information in its address, whose artifacts are not found any more."""
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

    uri = mlflow.get_tracking_uri().replace("http://", "http://me:pa55word@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    post = HttpArtifactRepository.log_artifact

    def elsewhere(self, local_file, artifact_path=None):
        self.artifact_uri = self.artifact_uri.replace("/artifacts", "/gone", 1)
        return post(self, local_file, artifact_path)

    monkeypatch.setattr(HttpArtifactRepository, "log_artifact", elsewhere)
    ended = call("train_student", **tiny)
    refused(ended, "http://***@127.0.0.1", "404")
    (run,) = [each for each in runs() if each.info.experiment_id == served]
    assert run.info.status == "FAILED" and "pa55word" not in str(run.to_dictionary()) + ended.out + ended.err
    assert ended.err == f"error: {run.data.tags['mlflow.note.content']}\n"


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_output_that_is_lost_is_dropped():
    lost = output.Output(Gone())
    assert lost.write("a") == 1 and lost.write("b") == 1 and isinstance(lost.lost, BrokenPipeError)
    lost.flush()


def test_what_is_told_stays_the_same():
    error = ValueError("x")
    assert told(error) is told(error) and told(error).status == 1
