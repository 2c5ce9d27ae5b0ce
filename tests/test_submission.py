"""GLUE predictions to the server and its scores back, on a small data_root in the files of the hub."""

import csv
import io
import zipfile
from pathlib import Path

import pytest
from running import artifacts, call, measured, refused, run_of, runs, succeed

from labelreg.answers.submission import GLUE_FILES

pytest_plugins = ["running"]

ENTAILMENT = {"entailment", "neutral", "contradiction"}
ROWS = 25  # of each test set of small_hub


@pytest.fixture
def glue(store, small_hub, tiny_models) -> dict:
    """Parameters of a run of a GLUE task."""
    short = {"model": "bert-small", "epochs": 1, "batch_size": 8, "max_length": 24, "threads": 1}
    return short | {"data_root": small_hub, "model_root": tiny_models, "save_model": "false"}


def table(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text), delimiter="\t"))


def artifact(run, path: str, folder: Path) -> str:
    import mlflow

    found = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path, dst_path=str(folder))
    return Path(found).read_text()


def scores_file(folder: Path, *lines: str) -> Path:
    path = folder / "server.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def logged_test_scores() -> dict[str, float | None]:
    return {run.data.params["task"]: run.data.metrics.get("best/test/score") for run in runs("student")}


@pytest.mark.parametrize(
    ("task", "files"),
    [
        ("cola", {"CoLA": {"0", "1"}}),
        ("mrpc", {"MRPC": {"0", "1"}}),
        ("mnli", {"MNLI-m": ENTAILMENT, "MNLI-mm": ENTAILMENT}),
    ],
)
def test_each_student_writes_the_servers_files(task, files, glue, tmp_path):
    run = run_of(succeed("train_student", **glue, task=task))
    written = {path for path in artifacts(run) if path.startswith("submission/")}
    assert written == {f"submission/{name}.tsv" for name in files}
    for name, labels in files.items():
        header, *rows = table(artifact(run, f"submission/{name}.tsv", tmp_path / name))
        assert header == ["index", "prediction"]
        assert [row[0] for row in rows] == [str(index) for index in range(ROWS)]
        assert {row[1] for row in rows} <= labels, "the names that the server knows"
    assert ("best/test/score" in run.data.metrics) == (task == "mrpc"), "only MRPC's test set has labels"
    assert ("last/test/score" in run.data.metrics) == (task == "mrpc")


def test_nothing_to_submit_says_what_to_do(store, tiny):
    assert "train_student -P task=cola" in succeed("submission").out
    for task in ("reviews", "cola"):  # a file of one's own, whatever it is called
        succeed("train_student", **tiny, task=task)
        assert "train_student -P task=cola" in succeed("submission").out
    assert not (store / "submissions").exists()


def test_runs_that_are_not_labelregs_do_not_disturb(store, glue):
    import mlflow

    with mlflow.start_run():
        mlflow.log_params({"task": "cola", "method": "ls"})
    assert "no GLUE runs to submit yet" in succeed("submission").out
    succeed("train_student", **glue, task="cola")
    assert "CoLA" in succeed("submission").out


def test_one_zip_per_cell_with_all_eleven_files(glue, store, tmp_path):
    made = {task: run_of(succeed("train_student", **glue, task=task)) for task in ("cola", "mrpc", "mnli")}
    succeed("train_student", **glue, task="cola", method="ls", seed=7)
    said = succeed("submission").out
    names = sorted(path.name for path in (store / "submissions").iterdir())
    assert names == ["bert-small-pretrained-finetune-42.zip", "bert-small-pretrained-ls-7.zip"]

    with zipfile.ZipFile(store / "submissions" / names[0]) as archive:
        assert sorted(archive.namelist()) == sorted(f"{name}.tsv" for name in GLUE_FILES)
        content = {name: archive.read(f"{name}.tsv").decode() for name in GLUE_FILES}
    own = {"CoLA": "cola", "MRPC": "mrpc", "MNLI-m": "mnli", "MNLI-mm": "mnli"}
    for name, text in content.items():
        header, *rows = table(text)
        assert header == ["index", "prediction"], name
        if name in own:
            assert text == artifact(made[own[name]], f"submission/{name}.tsv", tmp_path / "downloaded" / name)
        else:
            assert len(rows) == GLUE_FILES[name][0] and len({row[1] for row in rows}) == 1, name
            assert [row[0] for row in rows] == [str(index) for index in range(len(rows))], name
            assert name in said.partition("placeholders")[2]
    real = {"CoLA": 1063, "SST-2": 1821, "MRPC": 1725, "QQP": 390965, "STS-B": 1379, "MNLI-m": 9796, "MNLI-mm": 9847}
    real |= {"QNLI": 5463, "RTE": 3000, "WNLI": 146, "AX": 1104}
    assert {name: rows for name, (rows, _) in GLUE_FILES.items()} == real, "the sizes of GLUE's test sets"

    succeed("submission", output_dir=store / "elsewhere", where="params.method = 'ls'")
    assert [path.name for path in (store / "elsewhere").iterdir()] == [names[1]]


def test_averaged_weights_have_a_zip_of_their_own(glue, store):
    succeed("train_student", **glue, task="cola")
    averaged = run_of(succeed("train_student", **glue, task="mrpc", average="swa"))
    succeed("submission")
    names = sorted(path.name for path in (store / "submissions").iterdir())
    assert names == [f"bert-small-pretrained-{method}-42.zip" for method in ("finetune+swa", "finetune")]
    succeed("train_student", **glue, task="mrpc")
    table = scores_file(store, "task,model,init,method,seed,score", "mrpc,bert-small,pretrained,finetune+swa,42,50")
    assert averaged.info.run_id in succeed("submission", scores=table).out


def test_two_settings_of_a_cell_are_refused_and_a_repetition_is_not(glue, store):
    first = run_of(succeed("train_student", **glue, task="cola"))
    succeed("train_student", **glue, task="cola")
    succeed("submission")
    other = run_of(succeed("train_student", **glue | {"epochs": 2}, task="cola"))
    refused(call("submission"), "cola bert-small pretrained finetune 42", other.info.run_id, "where=")
    assert first.info.run_id not in call("submission").err, "the newest of equal fingerprints stands for them"
    succeed("submission", where="params.epochs = '2'")


@pytest.mark.parametrize("by", ["run_id", "cell"])
def test_scores_come_back(by, glue, store):
    made = {task: run_of(succeed("train_student", **glue, task=task)) for task in ("cola", "mnli", "mrpc")}
    computed = made["mrpc"].data.metrics["best/test/score"]
    answers = {"cola": 43.2, "mnli": 80.5, "mrpc": 12.3}
    if by == "run_id":
        lines = ["run_id,score", *(f"{made[task].info.run_id},{score}" for task, score in answers.items())]
    else:
        lines = [f"{task},bert-small,pretrained,finetune,42,{score}" for task, score in answers.items()]
        lines.insert(0, "task,model,init,method,seed,score")
    said = succeed("submission", scores=scores_file(store, *lines)).out
    assert logged_test_scores() == {"cola": 43.2, "mnli": 80.5, "mrpc": computed}, "MRPC's computed score stays"
    assert "mrpc has labels" in said
    sources = {run.data.params["task"]: run.data.tags.get("labelreg.test_source") for run in runs("student")}
    assert sources == {"cola": "glue-server", "mnli": "glue-server", "mrpc": None}
    before = {task: {k: v for k, v in measured(run).items() if k != "best/test/score"} for task, run in made.items()}
    for run in runs("student"):
        now = {name: value for name, value in measured(run).items() if name != "best/test/score"}
        assert now == before[run.data.params["task"]], "nothing else has changed"


def test_significance_uses_the_servers_scores(glue, store):
    lines = ["run_id,score"]
    for method, score in (("finetune", 40.0), ("ls", 44.5)):
        run = run_of(succeed("train_student", **glue, task="cola", method=method))
        lines.append(f"{run.info.run_id},{score}")
    assert "best/dev/score" in succeed("significance", verbose="true").out
    refused(call("significance", metric="best/test/score"), "'best/test/score'", "best/dev/score")
    succeed("submission", scores=scores_file(store, *lines))
    said = succeed("significance", verbose="true").out
    assert "best/test/score" in said and "mean difference +4.50" in said


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["score", "1"], ["no column task"]),
        (["run_id", "{run}"], ["no column score"]),
        (["run_id,score", "{run},high"], ["line 2", "'high'", "number"]),
        (["run_id,score", "{run},"], ["line 2", "number"]),
        (["run_id,score", "{run},nan"], ["line 2", "number"]),
        (["run_id,score", "{run},432"], ["line 2", "432", "percent"]),
        (["run_id,score", "{run},43.2", "unknown,1"], ["line 3", "0 GLUE runs", "unknown"]),
        (["run_id,score", "{run},43.2", "{run},44"], ["2 times"]),
        (["task,model,init,method,seed,score", "cola,bert-small,pretrained,ls,42,1"], ["line 2", "0 GLUE runs"]),
        (["run_id,score", '"{run},1'], ["cannot be read as CSV"]),
        ([], ["cannot be read as CSV"]),
    ],
)
def test_a_bad_scores_file_changes_nothing(lines, words, glue, store):
    run = run_of(succeed("train_student", **glue, task="cola"))
    path = scores_file(store, *(line.format(run=run.info.run_id) for line in lines))
    if not lines:
        path.write_text("")
    refused(call("submission", scores=path), "server.csv" if "2 times" not in words else "", *words)
    assert logged_test_scores() == {"cola": None}, "all rows are checked before the first is logged"
