"""promote: the model that the verdict supports, its version, its alias and its card; or what is missing."""

import csv
import json
import random
import shlex
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest
import yaml
from conftest import FILLERS, WORDS
from running import call, refused, run_of, runs, succeed
from stores import generate

from analysis.judge import Rule, judge
from analysis.margins import margins
from analysis.pairing import pair
from labelreg.answers import card, promoting
from labelreg.settings import named

pytest_plugins = ["running"]
SEEDS = range(1, 6)


@pytest.fixture
def reviews(tiny, tmp_path) -> dict:
    """Parameters of a run on 200 rows, some of them labelled wrongly, so that seeds differ."""
    chance, path = random.Random(1), tmp_path / "reviews.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file)
        write.writerow(["text", "label"])
        for row in range(200):
            said, label = list(WORDS)[row % 2], list(WORDS)[(row % 2) ^ (chance.random() < 0.15)]
            write.writerow([" ".join(chance.choices(FILLERS, k=6) + chance.sample(WORDS[said], 2)), label])
    return tiny | {"train_file": path, "save_model": "false", "epochs": 6, "lr": 3e-3, "precision": "fp32"}


def registered() -> list:
    import mlflow

    return mlflow.search_model_versions()


def experiments_runs() -> int:
    return len(runs())


def test_from_verdict_to_model(reviews, tmp_path):
    import mlflow

    students = [
        run_of(succeed("train_student", **reviews, method=method, seed=seed))
        for seed in SEEDS
        for method in ("finetune", "ls")
    ]
    succeed("significance", output_dir=tmp_path / "told")
    told = json.loads((tmp_path / "told" / "significance.json").read_text())
    assert "better" not in pd.read_csv(tmp_path / "told" / "significance.csv")["verdict"].tolist(), told
    tuned = [run.data.metrics["best/dev/score"] for run in students[::2]]
    median = students[::2][tuned.index(sorted(tuned)[2])]

    before = experiments_runs()
    ended = call("promote", name="reviews")
    refused(ended, median.info.run_id, "has stored no model", "save_model=true", "then this command again")
    assert not registered() and experiments_runs() == before, "nothing has changed"

    words = shlex.split(
        ended.err.partition("mlflow run . --env-manager local -e train_student ")[2].partition(", then")[0]
    )
    given = dict(word.split("=", 1) for word in words if word != "-P")
    again = run_of(succeed("train_student", **given, model_root=reviews["model_root"]))
    assert again.data.tags["labelreg.fingerprint"] == median.data.tags["labelreg.fingerprint"], "the same run, stored"

    said = succeed("promote", name="reviews").out
    assert (
        f"reviews version 1 is champion: finetune, seed {median.data.params['seed']}, run {again.info.run_id}" in said
    )
    assert "no method is shown to be better than finetune" in said and "5 runs that learnt" in said
    serve = "mlflow models serve -m models:/reviews@champion --env-manager local -p 5001"
    assert serve in said.splitlines(), "a port of its own: make ui has the usual one"
    assert '-d \'{"dataframe_records": [{"text": "a text"}]}\'' in said
    version = mlflow.MlflowClient().get_model_version_by_alias("reviews", "champion")
    tags = mlflow.get_logged_model(version.source.removeprefix("models:/")).tags
    assert json.loads(tags["mlflow.modelVersions"]) == [{"name": "reviews", "version": "1"}], "the UI's page reads it"
    assert version.run_id == again.info.run_id and "5 runs that learnt" in version.description
    loaded = mlflow.pyfunc.load_model("models:/reviews@champion")
    assert set(loaded.predict(pd.DataFrame({"text": ["a film", "a dull story"]}))["class"]) <= {"good", "bad"}

    folder = mlflow.artifacts.download_artifacts("models:/reviews/1", dst_path=str(tmp_path / "taken"))
    _, front, text = Path(folder, "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["pipeline_tag"] == "text-classification" and card["base_model"].startswith("google/bert_uncased")
    (result,) = card["model-index"][0]["results"]
    scores = {each["name"]: each["value"] for each in result["metrics"]}
    assert scores == {name: again.data.metrics[name] for name in ("best/dev/score", "best/test/score")}
    for part in ("Data", "Scores over seeds", "Verdict", "Calibration of this model", "Settings", "Limits"):
        assert f"\n## {part}" in text
    assert again.data.tags["labelreg.data"] in text and "interval of the difference [" in text
    assert "with temperature" in text and "| lr | 0.003 |" in text
    assert (Path(again.info.artifact_uri.removeprefix("file://")) / "model" / "README.md").is_file()

    assert f"Its own scores: {scores['best/dev/score']:.2f} on dev, {scores['best/test/score']:.2f} on test." in text

    assert "reviews version 1 is champion" in succeed("promote", name="reviews").out, "it is there already"
    assert said.splitlines()[-1].endswith("/#/models/reviews/versions/1")
    assert len(registered()) == 1

    client, model_id = mlflow.MlflowClient(), version.source.removeprefix("models:/")
    weights = Path(mlflow.get_logged_model(model_id).artifact_location.removeprefix("file://"), "model.safetensors")
    weights.unlink()  # as who makes room on a disk does
    refused(call("promote", name="reviews"), "has stored no model", "save_model=true")
    client.delete_logged_model(model_id)  # as its page in the UI does
    refused(call("promote", name="reviews"), "has stored no model", "save_model=true")
    third = run_of(succeed("train_student", **given, model_root=reviews["model_root"]))
    client.set_model_version_tag("reviews", "1", "labelreg.data", "0" * 32)  # as of another study, of this name
    said = succeed("promote", name="reviews").out
    assert f"reviews version 2 is champion: finetune, seed {given['seed']}, run {third.info.run_id}" in said
    assert "champion was version 1, of other data (00000000)" in said and "other data" not in ended.out
    said = succeed("promote", name="men's reviews").out
    (serve,) = (line for line in said.splitlines() if line.startswith("mlflow models serve"))
    assert mlflow.pyfunc.load_model(shlex.split(serve)[4]).predict(pd.DataFrame({"text": ["a film"]})).shape == (1, 3)
    refused(call("promote", name="re/views"), "name=re/views", "'/'")
    refused(call("promote"), "name=NAME")


def test_an_adapter_is_promoted_as_any_model(reviews, tiny_models, tmp_path, monkeypatch):
    import mlflow

    given = reviews | {"save_model": "true", "tuning": "lora", "lr": 1e-2}
    for seed in SEEDS:
        for method in ("finetune", "ls"):
            succeed("train_student", **given, method=method, seed=seed)
    said = succeed("promote", name="reviews", accept_worse_calibration="true").out
    assert "reviews version 1 is champion" in said
    version = mlflow.MlflowClient().get_model_version_by_alias("reviews", "champion")
    folder = Path(mlflow.artifacts.download_artifacts("models:/reviews@champion", dst_path=str(tmp_path / "taken")))
    card = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)[1])
    assert card["library_name"] == "peft" and card["base_model"].startswith("google/bert_uncased")
    assert [path.name for path in folder.glob("*.safetensors")] == ["adapter_model.safetensors"]
    monkeypatch.setenv("LABELREG_MODEL_ROOT", str(tiny_models))
    found = mlflow.artifacts.download_artifacts(
        run_id=version.run_id, artifact_path="predictions/test.parquet", dst_path=str(tmp_path)
    )
    expected = pd.read_parquet(found).set_index("idx").filter(like="p_")
    rows = pd.read_csv(reviews["train_file"])[["text"]].loc[expected.index]
    told = mlflow.pyfunc.load_model("models:/reviews@champion").predict(rows)
    assert list(told["class"]) == [name.removeprefix("p_") for name in expected.idxmax(axis=1)]
    pd.testing.assert_frame_equal(told[list(expected)], expected, atol=1e-5, check_names=False, check_dtype=False)


@pytest.fixture
def generated(store):
    """Writes runs with known effects and predictions."""

    def write(**effects: float) -> None:
        generate({"pretrained": effects}, ["rte"], range(8), artifacts=store / "mlruns" / "0", spread=0.05)

    return write


def chosen(**given) -> str:
    """What promote refuses to register only as these runs have stored no model."""
    ended = call("promote", name="reviews", **given)
    refused(ended, "is what the evidence supports, and has stored no model")
    return ended.err.partition("(")[2].partition(")")[0]


def test_a_method_that_is_better_is_chosen_and_of_two_the_larger_difference(generated):
    generated(ls=2.0, kd=4.0, tfreg=-3.0)
    import mlflow

    method, _, seed = chosen().partition(", seed ")
    assert method == "kd"
    mine = [run for run in runs("student") if run.data.params["method"] == "kd"]
    order = sorted(run.data.metrics["best/dev/score"] for run in mine)
    (run,) = [run for run in mine if run.data.params["seed"] == seed]
    assert run.data.metrics["best/dev/score"] == order[3], "the lower of the two in the middle"
    assert not mlflow.search_registered_models()


@pytest.mark.parametrize(
    ("scores", "seed", "words"),
    [
        ([80.0] * 6, "0", "all 6 runs that learnt have its dev score 80.00; of equal ones the first seed is taken, so"),
        ([81.0, 79.0, 80.0, 80.0, 80.0, 81.0], "2", "(79.00 to 81.00); of the 3 that have it the first seed, so that"),
        ([81.0, 79.0, 80.0, 78.0, 82.0, 83.0], "2", "is the median of 6 runs that learnt (78.00 to 83.00), so that"),
    ],
)
def test_of_equal_dev_scores_the_first_seed_is_taken_and_that_is_said(scores, seed, words):
    runs = pd.DataFrame({"run_id": list("fedcba"), "params.seed": map(str, range(6)), "metrics.best/dev/score": scores})
    found = SimpleNamespace(runs=runs, paired=SimpleNamespace(not_learnt={}))
    run_id, why = promoting._median(found, list("afedcb"), "finetune")
    assert run_id == "fedcba"[int(seed)] and why.startswith(f"seed {seed}: ") and words in why


def test_the_scores_of_a_card_have_the_decimals_of_the_answer():
    """Losses of 0.31 and 0.31, where the verdict is of thousandths."""
    cell = {"params.task": "rte", "params.model": "bert", "params.init": "random"}
    rows = [
        cell
        | {"run_id": f"{method}{seed}", "status": "FINISHED", "tags.labelreg.kind": "student", "params.seed": str(seed)}
        | {"params.method": method, "metrics.nll": 0.31 + gain + seed / 1000}
        for method, gain in (("finetune", 0), ("ls", -0.004))
        for seed in range(8)
    ]
    paired = pair(pd.DataFrame(rows), metric="nll")
    found = SimpleNamespace(paired=paired, judged=judge(paired, Rule(margins("0.005"))))
    told = card._scores(found, {"task": "rte", "model": "bert", "init": "random"})
    assert "| finetune | nll | 0.3135 | 0.0024 | 8 |" in told and "| ls | nll | 0.3095 | 0.0024 | 8 |" in told


def test_worse_calibration_is_refused_unless_it_is_asked_for(generated):
    generated(ls=-4.0)  # the other way round: finetune is better than ls, and too sure of itself
    refused(
        call("promote", name="reviews", reference="ls"), "finetune is better and worse calibrated (ece: nll 0.", "=true"
    )
    assert chosen(reference="ls", accept_worse_calibration="true").startswith("finetune, seed ")
    assert chosen().startswith("finetune, seed "), "against finetune ls is worse"


def test_without_predictions_calibration_is_not_known(store):
    generate({"pretrained": {"ls": 3.0}}, ["rte"], range(8), spread=0.05)
    refused(call("promote", name="reviews"), "ls is better, and its calibration is not known")
    assert chosen(accept_worse_calibration="true").startswith("ls, seed ")


@pytest.mark.parametrize(
    ("tasks", "seeds", "words"),
    [
        ([], 0, ["no verdict", "-P train_file=FILE"]),
        (["rte"], 3, ["no verdict", "3 seeds are too few", "more"]),
        (
            ["rte", "cola"],
            8,
            ["2 questions are answered here (cola, ", "rte, ", "narrow with -P \"where=params.task = 'cola'\""],
        ),
    ],
)
def test_what_is_missing_is_said_and_nothing_changes(tasks, seeds, words, store):
    generate({"pretrained": {"ls": 0.0}}, tasks, range(seeds))
    before = experiments_runs()
    refused(call("promote", name="reviews"), *words)
    assert not registered() and experiments_runs() == before


def test_where_narrows_to_one_question(store):
    generate({"pretrained": {"ls": 0.0}}, ["rte", "cola"], range(8))
    assert chosen(where="params.task = 'rte'").startswith("finetune, seed ")


def test_a_where_without_runs_names_the_tasks_there_are(store):
    given, named = {"where": "params.task = 'sst2'"}, {"promote": {"name": "reviews"}, "significance": {}}
    for command, more in named.items():
        refused(call(command, **given, **more), "sst2': matches no run of experiment Default; it has no students yet")
    generate({"pretrained": {"ls": 0.0}}, ["rte", "cola"], range(8))
    for command, more in named.items():
        refused(call(command, **given, **more), "sst2': matches no run of experiment Default; its tasks: cola, rte")


def proposed(said: str) -> str:
    """The `where` that an error proposes, as a shell reads it."""
    flag, word = shlex.split(said.partition("narrow with ")[2].partition(", or -P study")[0])
    assert flag == "-P"
    return word.removeprefix("where=")


def test_the_where_that_is_proposed_can_be_given(store):
    """MLflow's filter has no escapes; of a name with both of its quotes none is proposed."""
    generate({"pretrained": {"ls": 0.0}}, ["bob's reviews", "rte"], range(8))
    said = call("promote", name="reviews").err
    where = proposed(said)
    assert where == 'params.task = "bob\'s reviews"' and chosen(where=where).startswith("finetune, seed ")


@pytest.mark.parametrize("tasks", [['bob\'s "best"', 'ann\'s "best"'], ['bob\'s "best"', "rte"]])
def test_a_name_with_both_quotes_is_not_searched_for(tasks, store):
    generate({"pretrained": {"ls": 0.0}}, tasks, range(8))
    said = call("promote", name="reviews").err
    way = "\"where=params.task = 'rte'\"" if "rte" in tasks else "where=FILTER"
    assert said.endswith(f"narrow with -P {way}\n")


def test_studies_are_named_where_they_tell_the_questions_apart(store):
    generate({"pretrained": {"ls": 0.0}}, ["cola", "rte"], range(8))
    assert "study" not in call("promote", name="reviews").err, "all are of one"
    generate({"pretrained": {"ls": 0.0}}, ["sst2"], range(8), lr=1e-4)
    for run in runs("student"):
        if run.data.params["task"] == "sst2":
            mlflow.MlflowClient().set_tag(run.info.run_id, "labelreg.study", "of mine")
    said = call("promote", name="reviews").err
    assert said.endswith("\", or -P study='of mine'\n"), "the other study has answered two"
    assert chosen(study="of mine").startswith("finetune, seed ")


def test_two_settings_of_one_task_are_told_apart_by_what_the_runs_have(store):
    """tuning=full, say, is logged by no run: a filter by it would find none."""
    seen = set()
    for max_length, tuning in ((128, None), (64, "lora")):
        generate({"pretrained": {"ls": 0.0}}, ["rte"], range(8), lr=max_length * 1e-6)
        for run in runs("student"):
            if run.info.run_id not in seen:
                client = mlflow.MlflowClient()
                client.log_param(run.info.run_id, "max_length", max_length)
                if tuning:
                    client.log_param(run.info.run_id, "tuning", tuning)
                seen.add(run.info.run_id)
    said = call("promote", name="reviews").err
    where = proposed(said)
    assert "max_length" in where and "full" not in where, said
    assert chosen(where=where).startswith("finetune, seed ")


def test_a_file_that_was_edited_under_its_name_is_told_by_its_digest(store):
    for lr in (5e-4, 4e-4):  # lr makes other runs of the same task
        generate({"pretrained": {"ls": 0.0}}, ["rte"], range(8), lr=lr)
    client, students = mlflow.MlflowClient(), runs("student")
    for run in students:
        if run.data.params["lr"] == "0.0004":
            client.set_tag(run.info.run_id, "labelreg.data", "4e7f0c05" + 24 * "0")
    said = call("promote", name="reviews").err
    assert "4e7f0c05" in said and "labelreg.data = '" in proposed(said)
    assert chosen(where=proposed(said)).startswith("finetune, seed ")


def test_a_model_of_the_edited_file_is_not_the_one_that_was_asked_for(reviews):
    for seed in range(5):
        for method in ("finetune", "ls"):
            succeed("train_student", **reviews, method=method, seed=seed)
    said = call("promote", name="reviews", accept_worse_calibration="true").err
    words = shlex.split(said.partition("-e train_student ")[2].rpartition(", then")[0])
    given = dict(word.split("=", 1) for word in words if word != "-P")
    rows = reviews["train_file"].read_text().splitlines()
    reviews["train_file"].write_text("\n".join(rows[:-20]) + "\n")
    other = run_of(succeed("train_student", **given, model_root=reviews["model_root"]))
    told = f"the model of run {other.info.run_id} has learnt from other data"
    ended = call("promote", name="reviews", accept_worse_calibration="true")
    refused(ended, "has stored no model", told, "the file has changed since this run")


def test_promote_asks_what_significance_is_asked():
    assert set(named("promote")) <= {*named("significance"), "name", "accept_worse_calibration"}


def test_a_reference_of_several_settings_is_no_one_baseline(store):
    """Better than a weak finetune is not better than the strong one."""
    for lr, scores in ((1e-05, {"ls": 5.0}), (3e-05, {"ls": -1.0})):
        generate({"pretrained": scores}, ["rte"], range(8), spread=0.05, lr=lr)
    refused(call("promote", name="reviews", accept_worse_calibration="true"), "finetune has 2 settings here", "where")
    assert chosen(where="params.lr = '3e-05'").startswith("finetune, seed ")


def test_the_run_that_was_done_again_has_the_model_wherever_it_is(reviews, monkeypatch, tmp_path):
    """Narrowed by study and experiment, the evidence is the old run, the model that of its twin."""
    named = {**reviews, "train_file": tmp_path / "my reviews (new).csv"}  # which mlflow run logs in quotes
    reviews["train_file"].rename(named["train_file"])
    for seed in range(5):
        for method in ("finetune", "ls"):
            succeed("train_student", **named, method=method, seed=seed)
    import mlflow

    for run in runs("student"):
        mlflow.MlflowClient().set_tag(run.info.run_id, "labelreg.study", "mine")
        mlflow.MlflowClient().set_tag(run.info.run_id, "mlflow.project.entryPoint", "train_student")
    ended = call("promote", name="reviews", study="mine", accept_worse_calibration="true")
    words = shlex.split(
        ended.err.partition("mlflow run . --env-manager local -e train_student ")[2].rpartition(", then")[0]
    )
    given = dict(word.split("=", 1) for word in words if word != "-P")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    again = run_of(succeed("train_student", **given, model_root=reviews["model_root"]))
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    said = succeed("promote", name="reviews", study="mine", accept_worse_calibration="true").out
    assert "reviews version 1 is champion" in said and again.info.run_id in said
    card = Path(again.info.artifact_uri.removeprefix("file://"), "model", "README.md").read_text(encoding="utf-8")
    assert "Not measured" not in card and "| nll |" in card, "the old run's, which has its predictions"
