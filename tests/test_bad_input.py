"""A user's mistakes: one line, exit status 2, no traceback, and no run that looks as if it were running."""

import contextlib
import http.server
import socket
import threading
import time

import pytest
from running import call, python, refused, run_of, runs, succeed, together

from labelreg.store import patience

pytest_plugins = ["running"]

PARAMETERS = [
    ("train_student", {"method": "lss"}, ["unknown method 'lss'", "'ls'"]),
    ("train_student", {"method": "label_smoothing"}, ["unknown method", "did you mean 'ls'"]),
    ("train_student", {"task": "colla", "train_file": ""}, ["unknown task 'colla'", "'cola'"]),
    ("train_student", {"model": "distilroberte"}, ["unknown model 'distilroberte'", "'distilroberta'"]),
    ("train_student", {"recipe": "tabel9"}, ["unknown recipe", "'table9'"]),
    ("train_student", {"batchsize": 8}, ["unknown parameter 'batchsize'", "'batch_size'"]),
    ("train_student", {"method": "ls", "alpha": 1.5}, ["alpha=1.5", "[0, 1]"]),
    ("train_student", {"method": "ls", "alpha": -0.1}, ["alpha=-0.1", "[0, 1]"]),
    ("train_student", {"method": "ls", "alpha": "nan"}, ["alpha=nan", "[0, 1]"]),
    ("train_student", {"method": "kd", "tau": 0}, ["tau=0", "above 0"]),
    ("train_student", {"method": "tfreg", "a": 0}, ["a=0", "(0, 1)"]),
    ("train_student", {"method": "tfreg", "a": 1}, ["a=1", "(0, 1)"]),
    ("train_student", {"lr": 0}, ["lr=0", "above 0"]),
    ("train_student", {"lr": "fast"}, ["lr=fast", "a number"]),
    ("train_student", {"lr": "inf"}, ["lr=inf", "a number"]),
    ("train_student", {"epochs": 0}, ["epochs=0", "at least 1"]),
    ("train_student", {"batch_size": 0}, ["batch_size=0", "at least 1"]),
    ("train_student", {"seed": "abc"}, ["seed=abc", "an integer"]),
    ("train_student", {"seed": 1.5}, ["seed=1.5", "an integer"]),
    ("train_student", {"init": "randon"}, ["unknown init 'randon'", "'random'"]),
    ("train_student", {"precision": "fp16"}, ["unknown precision 'fp16'", "bf16"]),
    ("train_student", {"selection": "lst"}, ["unknown selection 'lst'", "'last'"]),
    ("train_student", {"save_model": "maybe"}, ["save_model", "auto"]),
    ("train_student", {"threads": 0}, ["threads=0", "[1, "]),
    ("train_student", {"method": "akd", "epochs": 1}, ["phase1_epochs=1 of epochs=1"]),
    ("train_student", {"method": "kd", "model": "minilm"}, ["minilm has no teacher", "teacher_model"]),
    ("train_student", {"method": "kd", "teacher_run_id": "0" * 32}, ["0" * 32, "not in the tracking store"]),
    ("train_student", {"method": "kd", "teacher_run_id": "no such run"}, ["no such run"]),
    ("train_student", {"model_root": "nowhere"}, ["model_root=nowhere", "no such folder"]),
    ("train_student", {"task": "cola", "train_file": "", "data_root": "."}, ["nyu-mll/glue", "data_root"]),
    ("train_student", {"task": "rotten_tomatoes", "train_file": "", "text_column": "x"}, ["text_column=x"]),
    ("train_student", {"train_file": "", "dev_file": "d.csv"}, ["dev_file=d.csv", "it goes with train_file"]),
    ("study", {"recipe": "smoke", "train_file": "", "test_file": "t.csv"}, ["test_file=t.csv", "with train_file"]),
    ("study", {"recipe": "smoke", "seeds": ","}, ["the study has no seeds"]),
    ("study", {"recipe": "smoke", "until": "decided", "looks": "0"}, ["looks=0: numbers of seeds that rise"]),
    ("train_student", {"label_column": "text"}, ["label_column=text", "a column of the text, too"]),
    ("train_student", {"train_file": "", "task": "reviews"}, ["unknown task 'reviews'", "needs train_file=FILE"]),
    ("main", {"tasks": "a,b"}, ["tasks=a,b: train_file is one task"]),
    ("train_teacher", {"method": "ls"}, ["method=ls", "finetune"]),
    ("train_teacher", {"model": "roberta-lrge"}, ["unknown model", "'roberta-large'"]),
    ("prepare", {"max_length": 2}, ["max_length=2", "at least 4"]),
    ("prepare", {"task": "mprc", "train_file": ""}, ["unknown task 'mprc'", "'mrpc'"]),
    ("main", {"recipe": "smok"}, ["unknown recipe", "'smoke'"]),
    ("main", {"recipe": "table9"}, ["recipe table9: kind is 'settings', here it must be 'study'", "table8"]),
    ("main", {"settings": "table8"}, ["recipe table8: kind is 'study', here it must be 'settings'", "table9"]),
    ("study", {}, ["recipe=...", "table1, table2"]),
    ("study", {"recipe": "tabel8"}, ["unknown recipe (study) 'tabel8'", "'table8'"]),
    ("study", {"recipe": "smoke", "seeds": "42,42", "plan_only": "true"}, ["seeds=42,42", "twice"]),
    ("study", {"recipe": "smoke", "models": "minilm", "train_file": ""}, ["minilm has no teacher", "not to a study"]),
    ("study", {"recipe": "smoke", "teacher_model": "minlm", "plan_only": "true"}, ["unknown model 'minlm'"]),
    ("study", {"recipe": "smoke", "tasks": "colla", "train_file": "", "plan_only": "true"}, ["task 'colla'", "'cola'"]),
    ("study", {"recipe": "table8", "methods": "akd", "inits": "random"}, ["the study has no run", "without"]),
    ("study", {"recipe": "smoke", "until": "decided"}, ["until=decided", "looks=10,14,20"]),
    ("study", {"recipe": "smoke", "until": "sometimes"}, ["unknown until 'sometimes'", "decided"]),
    ("study", {"recipe": "smoke", "until": "decided", "looks": "7,9"}, ["looks=7,9", "the study has 7 seeds"]),
    ("study", {"recipe": "smoke", "until": "decided", "looks": "3,7"}, ["looks=3,7", "need 4 at the first"]),
    ("study", {"recipe": "smoke", "looks": "7,6"}, ["looks=7,6", "rise"]),
    ("study", {"recipe": "smoke", "looks": "x"}, ["looks=x"]),
    ("study", {"recipe": "smoke", "plan_only": "perhaps"}, ["plan_only=perhaps", "true or false"]),
    ("main", {"settings": "tabel9"}, ["unknown recipe", "'table9'"]),
    ("main", {"methods": "finetune,ks"}, ["unknown method 'ks'"]),
    ("main", {"seeds": "1,x"}, ["seeds=x: allowed is an integer"]),
    ("main", {"seeds": "1,2,1"}, ["seeds=1,2,1", "twice"]),
    ("main", {"methods": "ls,ls"}, ["methods=ls,ls", "twice"]),
    ("main", {"methods": "selfkd"}, ["selfkd", "finetune"]),
    ("main", {"inits": "cold"}, ["unknown init 'cold'"]),
    ("main", {"jobs": 0}, ["jobs=0", "[1, "]),
    ("main", {"tasks": "colla", "train_file": ""}, ["unknown task 'colla'", "'cola'"]),
    ("main", {"models": "minilm-31"}, ["unknown model 'minilm-31'", "'minilm-3l'"]),
    ("main", {"train_file": "missing.csv"}, ["missing.csv", "no such file"]),
    ("main", {"margin": 0}, ["margin=0", "above 0"]),
    ("significance", {"experiment": "Defualt"}, ["experiment 'Defualt'", "'Default'"]),
    ("significance", {"reference": "finetuned"}, ["finetuned", "nearest: finetune"]),
    ("significance", {"zeros": "drop"}, ["unknown parameter 'zeros'"]),
    ("significance", {"level": 0}, ["level=0"]),
    ("significance", {"where": "params.task is sst5"}, ["where=params.task is sst5"]),
    ("promote", {"name": "x", "where": "params.task=sst5"}, ["-P \"where=params.task='reviews'\""]),  # a shell's work
    ("significance", {"lr": 1}, ["unknown parameter 'lr'"]),
    ("submission", {"experiment": "none"}, ["unknown experiment 'none'"]),
    ("submission", {"scores": "missing.csv"}, ["scores=missing.csv"]),
    ("train_student", {"threads": 100000}, ["threads=100000", "[1, "]),
    ("train_student", {"batch_size": 10**18}, ["batch_size=1000000000000000000", "up to a billion"]),
    ("train_student", {"epochs": 10**10}, ["epochs=10000000000", "up to a billion"]),
    ("train_student", {"max_length": 2**63}, ["max_length=9223372036854775808", "up to a billion"]),
    ("train_student", {"image_size": 10**6}, ["image_size=1000000", "[8, 4096]"]),
    ("train_student", {"epochs": "9" * 5000}, ["epochs=999", "up to a billion"]),
    ("train_student", {"lr": "1e400"}, ["lr=1e400", "a number"]),
    ("train_student", {"task": "a\nb"}, ["task='a\\nb'", "control characters"]),
    ("train_student", {"task": "a\x1b[2J"}, ["task='a\\x1b[2J'", "control characters"]),
    ("train_student", {"task": "\udcff"}, ["UTF-8"]),
    ("train_student", {"task": "x" * 10**7}, ["10000000 characters", "up to 200"]),
    ("train_student", {"text_column": "x" * 6000}, ["text_column=xxx", "6000 characters", "up to 5000"]),
    ("main", {"seeds": f"1,{10**18}"}, ["seeds=1000000000000000000"]),
    ("main", {"jobs": 10**6}, ["jobs=1000000", "[1, 1000]"]),
    ("main", {"runs_per_gpu": 10**6}, ["runs_per_gpu=1000000", "[1, 1000]"]),
    ("tune", {"trials": 10**9}, ["trials=1000000000", "[1, 1000000]"]),
    *(
        ("train_student", {"epochs": text}, [f"epochs={text}", "an integer"])
        for text in ("1e3", "1_000", "１２", "0x10")
    ),
    *(("train_student", {"lr": text}, [f"lr={text}", "a number"]) for text in ("1_0", "１", "0x1p-3", "1,5", "NaN")),
    *(("train_student", {"seed": text}, [f"seed={text}", "an integer"]) for text in ("true", "-0.5", "1.0", "+ 1")),
]


@pytest.mark.parametrize(
    ("entry_point", "given", "words"), PARAMETERS, ids=[f"{name} {given}" for name, given, _ in PARAMETERS]
)
def test_parameters(entry_point, given, words, tiny, tmp_path):
    if entry_point in ("prepare", "train_student", "train_teacher"):
        given = tiny | given
    elif entry_point in ("main", "study"):
        given = {name: tiny[name] for name in ("train_file", "model_root")} | given
    refused(call(entry_point, **given), *words)
    assert not runs(), "a run was opened for a command that could not begin"
    assert not (tmp_path / "submissions").exists(), "something was written"


FILES = {
    "missing": (None, ["data.csv", "no such file"]),
    "empty": (b"", ["data.csv", "empty"]),
    "no rows": (b"text,label\n", ["data.csv", "no examples"]),
    "no label column": (b"text,class\na,b\n", ["no column 'label'", "'class'"]),
    "no text column": (b"sentence,label\na,b\n", ["no column 'text'", "'sentence'"]),
    "empty text": (b"text,label\n" + b"a,x\nb,y\n" * 9 + b" ,x\n", ["empty text"]),
    "empty label": (b"text,label\n" + b"a,x\nb,y\n" * 9 + b"c,\n", ["row 19", "no label"]),
    "one class": (b"text,label\n" + b"a,x\n" * 20, ["one class (x)"]),
    "class too small to split": (b"text,label\n" + b"a,x\n" * 20 + b"b,y\n", ["class y has 1 example,"]),
    "bytes": (b"text,label\n" + b"a,x\nb,y\n" * 9 + b"caf\xe9,x\n", ["not UTF-8"]),
    "ragged": (b"text,label\n" + b"a,x\n" * 5 + b"a,b,c,d\n", ["cannot be read as csv"]),
}


@pytest.mark.parametrize("name", FILES)
def test_files(name, tiny, tmp_path):
    content, words = FILES[name]
    if content is not None:
        (tmp_path / "data.csv").write_bytes(content)
    refused(call("train_student", **tiny | {"train_file": tmp_path / "data.csv"}), *words)
    assert not runs(), "a run was opened for data that cannot be used"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data.txt", "a\tb", ["ending", ".csv"]),
        ("data.jsonl", '{"text": "a", "label": "x"}\n{"text": ', ["cannot be read as jsonl"]),
        ("data.parquet", "PAR1 or not", ["cannot be read as parquet"]),
        ("data.tsv", "text,label\na,b\n", ["separated by ','"]),
    ],
)
def test_other_formats(name, content, words, tiny, tmp_path):
    (tmp_path / name).write_text(content)
    refused(call("prepare", **tiny | {"train_file": tmp_path / name}), *words)


def test_a_label_in_dev_that_train_lacks(tiny, tmp_path):
    (tmp_path / "dev.csv").write_text("text,label\nfine film,good\nodd film,strange\n")
    refused(call("train_student", **tiny, dev_file=tmp_path / "dev.csv"), "dev has the label 'strange'", "good")
    assert not runs()


def test_a_teacher_of_other_data(tiny, tmp_path):
    ended = succeed("train_teacher", **tiny | {"model": "bert-large"})
    teacher, student = run_of(ended).info.run_id, tiny | {"method": "kd"}

    text = tiny["train_file"].read_text()
    (tmp_path / "other_classes.csv").write_text(text.replace(",bad", ",terrible"))
    (tmp_path / "other_examples.csv").write_text(text.replace("film", "movie"))
    for changed, words in [
        ({"train_file": tmp_path / "other_classes.csv"}, [teacher, "terrible", "bad"]),
        ({"train_file": tmp_path / "other_examples.csv"}, [teacher, "other examples"]),
        ({"max_train_examples": 30}, [teacher, "30", "48"]),
        ({"split_seed": 7}, [teacher, "other examples"]),
    ]:
        refused(call("train_student", **student | changed, teacher_run_id=teacher), *words)
    assert [run.info.run_id for run in runs()] == [teacher], "a refused student has left a run"
    succeed("train_student", **student, teacher_run_id=teacher)


def test_a_run_without_logits_is_no_teacher(tiny):
    smoothed = run_of(succeed("train_student", **tiny, method="ls")).info.run_id
    refused(call("train_student", **tiny, method="kd", teacher_run_id=smoothed), smoothed, "logits/train")
    succeed("prepare", **{name: tiny[name] for name in ("train_file", "model", "model_root")})
    prepared = runs("prepare")[0].info.run_id
    refused(call("train_student", **tiny, method="kd", teacher_run_id=prepared), prepared, "not a finished training")


def test_a_metric_that_no_run_has(tiny):
    succeed("train_student", **tiny)
    refused(call("significance", metric="best/dev/f1"), "best/dev/f1", "best/dev/score")


def test_diverged_training_fails_with_its_reason(tiny):
    ended = call("train_student", **tiny | {"lr": 1e30, "epochs": 3})
    refused(ended, "the loss of epoch", "lr", status=3)
    (run,) = runs()
    assert run.info.status == "FAILED" and run.info.end_time, run.info
    assert ended.err == f"error: {run.data.tags['mlflow.note.content']}\n"
    assert not any("best/" in name for name in run.data.metrics), "a diverged run has no result"


def test_a_diverged_teacher_fails_its_student_too(tiny, settings_file):
    recipe = settings_file(teacher={"lr": 1e30, "epochs": 3})
    ended = call("train_student", **tiny, recipe=recipe, method="kd")
    refused(ended, "the loss of epoch", "lr", status=3)
    found = {run.data.tags["labelreg.kind"]: run for run in runs()}
    assert {kind: run.info.status for kind, run in found.items()} == {"student": "FAILED", "teacher": "FAILED"}
    assert found["student"].data.tags["mlflow.note.content"] in ended.err


@contextlib.contextmanager
def silent_port():
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@contextlib.contextmanager
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    yield port


@contextlib.contextmanager
def other_server(status: int = 404):
    """A web server that is not MLflow's."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_address[1]
        serving.shutdown()


def a_server_of_something_else():
    return other_server(200)


@pytest.mark.parametrize("port", [closed_port, silent_port, other_server, a_server_of_something_else])
def test_a_tracking_server_that_does_not_answer(port, tiny, tmp_path, monkeypatch):
    allowed = patience.ANSWER_SECONDS
    with port() as number:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{number}")
        monkeypatch.setattr(patience, "ANSWER_SECONDS", 2)
        began = time.monotonic()
        refused(call("train_student", **tiny), f"http://127.0.0.1:{number}")
        assert time.monotonic() - began < 30 - allowed
    assert not (tmp_path / "cache").exists(), "something was prepared before the server was asked"


@pytest.mark.parametrize(
    "uri", ["sqlite:////proc/1/no/mlflow.db", "sqlite:///garbage.db", "nonsense://x", "postgresql://x/y"]
)
def test_a_tracking_store_that_does_not_open(uri, store, monkeypatch):
    (store / "garbage.db").write_text("no database " * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    refused(call("significance"), uri)
    assert time.monotonic() - began < 30


def test_experiments_that_only_a_server_can_write_to(store, tiny, monkeypatch):
    import mlflow

    mlflow.create_experiment("of a server", "mlflow-artifacts:/1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of a server")
    refused(call("train_student", **tiny), "of a server", "MLFLOW_TRACKING_URI")
    assert not runs()


@pytest.mark.slow
def test_in_processes_of_their_own(store, tiny):
    """What this process could hide (warnings, loggers, pytest's own streams)."""
    commands = {"unknown": tiny | {"method": "lss"}, "diverged": tiny | {"lr": 1e30, "epochs": 3}}
    ended = together({name: python("train_student", **given) for name, given in commands.items()}, store)
    refused(ended["unknown"], "unknown method 'lss'")
    refused(ended["diverged"], "the loss of epoch", "lr", status=3)
    assert [run.info.status for run in runs()] == ["FAILED"]
