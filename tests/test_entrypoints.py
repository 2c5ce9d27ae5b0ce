"""What the entry points do with recipes, teachers and seeds, and what significance says of the runs."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
from running import (
    ROOT,
    arguments,
    artifacts,
    call,
    ended,
    in_this_process,
    measured,
    refused,
    run_of,
    runs,
    started,
    succeed,
)

from entrypoints.main import OWN_FILE
from labelreg import recipes, settings
from labelreg.methods import PAPER as METHODS
from labelreg.models.registry import MODELS
from labelreg.store import logged
from labelreg.workers import executors

pytest_plugins = ["running"]

SETTINGS = sorted(path.stem for path in (recipes.HERE / "settings").glob("*.yaml"))
STUDIES = sorted(path.stem for path in (recipes.HERE / "studies").glob("*.yaml"))
IMAGES = ("table13", "digits")  # what they train on is in test_images.py
BASE = "paper"  # what tables 9 to 12 share; no settings of its own


# Recipes: each that ships is run through its entry point, cut to an epoch of few examples


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in SETTINGS if name not in (BASE, *IMAGES)])
def test_every_settings_recipe_with_every_method(recipe, store, small_hub, tiny_models, tiny_file):
    short = {"max_train_examples": 24, "threads": 1, "save_model": "false", "rest": "off"}  # rest: thousands of rows
    given = short | {"recipe": recipe, "data_root": small_hub, "model_root": tiny_models}
    if recipe in ("smoke", "minilm"):  # default stays with the embedded sentences, which are many
        given["train_file"] = tiny_file
    methods = [method for method in METHODS if method != "akd" or _mentions(recipe, "akd")]
    cases = [(method, "pretrained") for method in methods] + [("finetune", "random"), ("tfreg", "random")]
    for method, init in cases:
        epochs = {"epochs": 2, "phase1_epochs": 1} if method == "akd" else {"epochs": 1}
        run = run_of(succeed("train_student", **given, method=method, init=init, **epochs))
        assert run.info.status == "FINISHED" and "best/dev/score" in run.data.metrics, (method, init)
        expected = recipes.resolve(given | epochs | {"method": method, "init": init, "seed": 42})
        for name, known in settings.settable().items():
            value = expected.value(name)
            value = None if known.silent and value == known.usual else value  # as runs of before there was it
            held = run.data.params.get(name)
            same = held is None if value is None else held is not None and logged.same(held, str(value))
            assert same, f"{method} {init}: {name} is logged as {held}, the recipe says {value}"
    teachers, students = runs("teacher"), runs("student")
    assert len(students) == len(cases), "selfkd reuses the finetune run; nothing is trained twice"
    assert len(teachers) == 1, "kd and akd share one teacher"
    assert teachers[0].data.params["model"] != students[0].data.params["model"]


def _mentions(recipe: str, method: str) -> bool:
    return any(method in str(rule.get("when", {}).get("method")) for rule in recipes.rules(recipe))


def test_the_base_recipe_says_what_it_lacks(tiny):
    given = {name: tiny[name] for name in tiny if name not in ("lr", "epochs")} | {"recipe": BASE}
    refused(call("train_student", **given), f"recipe {BASE} has no lr", "lr=...")
    succeed("train_student", **given, lr=1e-3, epochs=1)
    refused(call("train_student", **given, lr=1e-3, epochs=1, method="ls"), f"recipe {BASE} has no alpha")
    refused(call("train_student", **tiny, recipe="table9", method="akd"), "recipe table9 has no tau for method akd")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in STUDIES if name not in ("table6", "digits")])  # of images
def test_every_study_recipe(recipe, tiny, monkeypatch):
    monkeypatch.setattr(executors, "execute", in_this_process)  # test_study.py has the workers
    lists = recipes.read(recipe, "study")
    short = {name: tiny[name] for name in ("train_file", "model_root", "max_length", "batch_size")}
    said = succeed("main", **short, recipe=recipe, epochs=2, seeds=7).out
    students = runs("student")
    each = [run.data.params for run in students]
    averaged = [f"+{own['average']}" if own.get("average", "none") != "none" else "" for own in each]
    cells = {(own["model"], own["init"], own["method"] + mean) for own, mean in zip(each, averaged, strict=True)}
    models = OWN_FILE["models"] if recipe == settings.DEMO else lists["models"]  # the demo's is not for own files
    wanted = itertools.product(models, lists["inits"], lists["methods"])
    akd = {"table8": [("distilroberta", "random", "akd")]}  # which the table leaves out
    assert cells == set(wanted) - set(akd.get(recipe, []))
    assert {run.info.status for run in runs()} == {"FINISHED"}
    nothing = r"(?m) {2}(?:undecided|not learnt)$"  # a row of the table; in a sentence one space stands before it
    assert len(re.findall(nothing, said)) == len(cells) - len(lists["models"]) * len(lists["inits"])


# Seeds, and parameters that do not belong to a method


def test_the_same_command_twice_gives_the_same_metrics(tiny):
    for method in ("finetune", "kd"):
        first, second = (run_of(succeed("train_student", **tiny, method=method)) for _ in range(2))
        assert first.info.run_id != second.info.run_id
        assert measured(first) == measured(second), method
        assert first.data.tags["labelreg.fingerprint"] == second.data.tags["labelreg.fingerprint"]
    other = run_of(succeed("train_student", **tiny, seed=43))
    assert measured(other)["train/loss"] != measured(runs("student")[0])["train/loss"]


def test_zero_is_a_seed(tiny):
    first, second = (run_of(succeed("train_student", **tiny, seed=seed)) for seed in (0, 42))
    assert first.data.params["seed"] == "0"
    assert measured(first) != measured(second)


def test_a_parameter_that_the_method_does_not_have_is_ignored_and_said_so(tiny):
    plain = run_of(succeed("train_student", **tiny))
    ended = succeed("train_student", **tiny, alpha=0.3, a=0.9, teacher_model="bert-large")
    for name in ("alpha", "a", "teacher_model"):
        assert f"{name} is ignored: method finetune has none" in ended.out
    run = run_of(ended)
    assert not {"alpha", "a", "teacher_model"} & set(run.data.params), "not logged: it had no part in the run"
    assert measured(run) == measured(plain)
    assert run.data.tags["labelreg.fingerprint"] == plain.data.tags["labelreg.fingerprint"]
    assert "ignored" not in succeed("train_student", **tiny, method="ls", alpha=0.3).out


def test_a_students_model_is_stored_when_it_runs_on_its_own(tiny, tmp_path):
    import mlflow
    from transformers import AutoModelForSequenceClassification

    for given, stored in [({}, True), ({"save_model": "false"}, False), ({"save_model": "true"}, True)]:
        run = run_of(succeed("train_student", **tiny, **given))
        assert ("model/model.safetensors" in artifacts(run)) == stored, given
    folder = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="model", dst_path=str(tmp_path / "stored")
    )
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert set(loaded.config.id2label.values()) == {"good", "bad", "so so"}


# Teachers


def test_kd_trains_its_teacher_once_and_selfkd_its_twin(tiny):
    ended = succeed("train_student", **tiny, method="kd")
    assert "no teacher for reviews yet (model bert-large, seed 42" in ended.out
    read = "data reviews: train 48 rows (bad 16, good 16, so so 16); dev 6 rows (bad 2, good 2, so so 2); test 6 rows"
    assert ended.out.count(read) == 1, "the teacher reads the same"
    (teacher,), student = runs("teacher"), run_of(ended)
    assert teacher.data.tags["mlflow.parentRunId"] == student.info.run_id
    for again in ("akd", "kd"):
        epochs = {"epochs": 2} if again == "akd" else {}
        ended = succeed("train_student", **tiny | epochs, method=again, seed=1)
        assert "training it first" not in ended.out, "the teacher of seed 42 serves every seed"
        assert run_of(ended).data.params["teacher_run_id"] == teacher.info.run_id

    ended = succeed("train_student", **tiny, method="selfkd", seed=1)
    twin = next(run for run in runs("student") if run.data.params["method"] == "finetune")
    assert "no fine-tuned twin" in ended.out and twin.data.params["seed"] == "1"
    assert run_of(ended).data.params["teacher_run_id"] == twin.info.run_id
    assert "training it first" not in succeed("train_student", **tiny, method="selfkd", seed=1, alpha=0.3).out


def test_a_teacher_by_run_id(tiny):
    teacher = run_of(succeed("train_teacher", **tiny | {"model": "bert-large"}, seed=7))
    for method in ("kd", "akd", "selfkd"):
        epochs = {"epochs": 2} if method == "akd" else {}
        ended = succeed("train_student", **tiny | epochs, method=method, teacher_run_id=teacher.info.run_id)
        params = run_of(ended).data.params
        assert (params["teacher_run_id"], params["teacher_model"]) == (teacher.info.run_id, "bert-large")
    assert len(runs("teacher")) == 1
    ended = succeed("train_student", **tiny, method="kd", teacher_model="gpt2", teacher_run_id=teacher.info.run_id)
    assert "teacher_model is ignored: teacher_run_id names the teacher" in ended.out
    assert run_of(ended).data.params["teacher_model"] == "bert-large"


def test_a_teacher_that_is_trained_by_its_students_word_for_it_ignores_nothing(tiny):
    ended = succeed("train_teacher", **{n: v for n, v in tiny.items() if n != "model"}, teacher_model="bert-large")
    assert "ignored" not in ended.out and run_of(ended).data.params["model"] == "bert-large"
    assert "teacher_model is ignored" in succeed("train_teacher", **tiny, teacher_model="bert-large").out


def test_a_teacher_of_another_setting_is_not_taken(tiny, settings_file):
    """Neither the best nor the newest: the teacher that the recipe's settings describe."""
    succeed("train_teacher", **tiny | {"model": "bert-large", "lr": 5e-3})
    ended = succeed("train_student", **tiny, method="kd")
    assert "training it first" in ended.out
    named = next(run for run in runs("teacher") if run.info.run_id == run_of(ended).data.params["teacher_run_id"])
    assert float(named.data.params["lr"]) == 1e-4, "default.yaml's teacher"


def test_a_teacher_whose_folder_holds_other_weights_by_now_is_not_taken(tiny, tiny_models, tmp_path):
    folder = tmp_path / "Teacher"
    shutil.copytree(tiny_models / MODELS["bert-large"].hub_id, folder)
    given = tiny | {"method": "kd", "teacher_model": folder}
    first = run_of(succeed("train_student", **given))
    assert first.data.tags["labelreg.weights"] and "training it first" not in succeed("train_student", **given).out
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file(
        {n: w * 1.5 for n, w in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    again = succeed("train_student", **given)
    assert "training it first" in again.out
    assert run_of(again).data.params["teacher_run_id"] != first.data.params["teacher_run_id"]
    shutil.rmtree(folder)
    gone = run_of(succeed("train_student", **given))
    assert gone.data.params["teacher_run_id"] == first.data.params["teacher_run_id"], "by its name: nothing is here"


def test_student_and_teacher_may_have_different_tokenizers(tiny):
    for student, teacher in [("distilgpt2", "bert-large"), ("bert-small", "roberta-large")]:
        ended = succeed("train_student", **tiny | {"model": student}, method="kd", teacher_model=teacher)
        params = run_of(ended).data.params
        assert (params["model"], params["teacher_model"]) == (student, teacher)
    digests = {run.data.tags["labelreg.data"] for run in runs()}
    assert len(digests) == 1, "the digest is of the examples, whatever the tokenizer"


def cached_logits(cache: Path) -> Path:
    (found,) = (cache / "logits").rglob("train.safetensors")
    return found


def test_a_damaged_copy_of_logits_is_never_used(tiny, tmp_path):
    good = measured(run_of(succeed("train_student", **tiny, method="kd")))
    copy = cached_logits(tmp_path / "cache")
    whole = copy.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", whole[:-4] + b"\0\0\xc0\x7f"):  # the last ends in a NaN
        copy.write_bytes(damage)
        assert measured(run_of(succeed("train_student", **tiny, method="kd"))) == good
        assert copy.read_bytes() == whole, "fetched anew"


def test_a_copy_of_logits_of_other_examples_is_never_used(tiny, tmp_path):
    good = measured(run_of(succeed("train_student", **tiny, method="kd")))
    copy = cached_logits(tmp_path / "cache")
    whole = copy.read_bytes()
    other = {"train_file": tmp_path / "other.csv", "cache_root": tmp_path / "other", "method": "kd"}
    (tmp_path / "other.csv").write_text(tiny["train_file"].read_text().replace("film", "movie"))
    succeed("train_student", **tiny | other)
    shutil.copyfile(cached_logits(tmp_path / "other"), copy)
    assert measured(run_of(succeed("train_student", **tiny, method="kd"))) == good
    assert copy.read_bytes() == whole


def test_damaged_original_logits_are_refused(tiny, tmp_path):
    teacher = run_of(succeed("train_teacher", **tiny | {"model": "bert-large"}))
    original = Path(teacher.info.artifact_uri.removeprefix("file://")) / "logits" / "train.safetensors"
    original.write_bytes(original.read_bytes()[:-100])
    for given in ({"teacher_run_id": teacher.info.run_id}, {"recipe": _like(tiny, tmp_path)}):
        refused(call("train_student", **tiny, method="kd", **given), teacher.info.run_id, "damaged or missing")
    assert "RUNNING" not in {run.info.status for run in runs()}


def _like(tiny: dict, folder: Path) -> Path:
    """A recipe whose teacher has the settings of `tiny`."""
    rule = {"when": {"role": "teacher"}, "set": {name: tiny[name] for name in ("lr", "batch_size", "epochs")}}
    path = folder / "like.yaml"
    path.write_text(json.dumps({"kind": "settings", "extends": "default", "rules": [rule]}))
    return path


# significance


REQUIRED = (
    "task model init method reference metric n mean_difference std_difference p_value min_p_value verdict".split()
)


def significance_csv(tmp_path: Path) -> pd.DataFrame:
    import mlflow

    run = runs("significance")[-1]
    path = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="significance.csv", dst_path=str(tmp_path / "downloaded")
    )
    return pd.read_csv(path)


def test_significance_of_real_runs(tiny, tmp_path):
    for method in ("finetune", "ls", "tfreg"):
        for seed in (1, 2):
            succeed("train_student", **tiny | {"lr": 1e-2, "epochs": 20}, method=method, seed=seed)  # they learn
    ended = succeed("significance", output_dir=tmp_path / "report")
    table = significance_csv(tmp_path)
    assert [name for name in table.columns if name in REQUIRED] == REQUIRED, list(table.columns)
    assert list(table["method"]) == ["ls", "tfreg"] and list(table["n"]) == [2, 2]
    assert set(table["metric"]) == {"best/test/score"} and set(table["reference"]) == {"finetune"}
    scores = {(r.data.params["method"], r.data.params["seed"]): measured(r)["best/test/score"] for r in runs("student")}
    differences = [scores["ls", seed] - scores["finetune", seed] for seed in "12"]
    assert table["mean_difference"][0] == pytest.approx(sum(differences) / 2)
    assert (table["verdict"] == "undecided").all()
    assert " undecided\n" in ended.out
    assert "2 seeds are too few to call a difference" in (tmp_path / "report" / "significance.md").read_text()
    assert (tmp_path / "report" / "significance.csv").read_text().startswith("task,model,init,method")
    nll = {"where": "params.seed = '1'", "metric": "dev/nll", "verbose": "true"}
    refused(call("significance", **nll), "margin", "(reviews, dev/nll)", "in the metric's own unit")
    narrow = succeed("significance", **nll, margin=0.01).out
    assert "n = 1 seed" in narrow and "lower is better" in narrow


def test_nothing_to_compare_says_which_commands_make_something(tiny, tmp_path):
    said = succeed("significance").out
    assert "mlflow run . --env-manager local -e train_student -P method=ls" in said
    for seed in (1, 2):
        succeed("train_student", **tiny, seed=seed)
    said = succeed("significance").out
    assert "finetune" in said and "-e train_student -P method=ls" in said
    assert significance_csv(tmp_path).empty, "the file is there, with its header alone"
    assert {run.info.status for run in runs("significance")} == {"FINISHED"}


def test_runs_logged_by_hand_with_shell_quoted_params(store):
    """As `mlflow run` logs them: a parameter's text is quoted for the shell."""
    import mlflow

    for method, seed, score in [("finetune", 1, 70.0), ("'my method'", 1, 75.0), ("finetune", 2, 71.0)]:
        with mlflow.start_run(tags={"labelreg.kind": "student", "labelreg.data": "d"}):
            mlflow.log_params({"task": "'my task'", "model": "m", "init": "pretrained", "method": method, "seed": seed})
            mlflow.log_metric("best/dev/score", score)
    with mlflow.start_run():
        mlflow.log_param("method", "of somebody else")
    said = succeed("significance", verbose="true").out
    assert "my method vs finetune (my task, m, pretrained, best/dev/score)" in said, said
    assert "mean difference +5.00" in said


def test_an_experiment_by_name_or_id(tiny, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    for method in ("finetune", "ls"):
        succeed("train_student", **tiny, method=method)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert "nothing to compare yet" in succeed("significance").out
    number = runs("student")[0].info.experiment_id
    for name in ("mine", number):
        assert "ls vs finetune" in succeed("significance", experiment=name, verbose="true").out


WITHOUT_TORCH = """
import runpy, sys
sys.argv = ["entrypoints.significance", "--verbose=true"]
try:
    runpy.run_module("entrypoints.significance", run_name="__main__")
except SystemExit as ended:
    print("status", ended.code, "modules", sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_significance_needs_no_torch(tiny, store):
    for method in ("finetune", "ls"):
        succeed("train_student", **tiny, method=method)
    with started([sys.executable, "-c", WITHOUT_TORCH], store) as process:
        found = ended(process, store)
    assert "ls vs finetune" in found.out
    assert "status 0 modules []" in found.out, found


def test_help_names_every_parameter(store):
    for entry_point in settings.ENTRY_POINTS:
        if not (ROOT / "entrypoints" / f"{entry_point}.py").is_file():
            continue
        said = call(entry_point, help=None).out
        for name in settings.parameters(entry_point):
            assert f"--{name} " in said, (entry_point, name)


def test_help_begins_with_what_most_people_give_and_goes_by_facet():
    for entry_point, kind in settings.ENTRY_POINTS.items():
        groups = settings.grouped(entry_point)
        names = [name for group in groups.values() for name in group]
        assert sorted(names) == sorted(settings.parameters(entry_point)), "each once"
        first = groups.get(settings.MOST_USED, {})
        assert len(first) <= 12 and (not first or next(iter(groups)) == settings.MOST_USED), entry_point
        assert not [title for title in groups if title.startswith(tuple(base.__name__ for base in kind.__mro__))]
    study = settings.grouped("study")
    assert {"methods", "seeds", "train_file", "plan_only"} <= set(study[settings.MOST_USED])
    assert (
        set(study["What decides."]) == {"level", "looks"}
        and "tau" in study["A method's own, of those that are trained."]
    )


def test_help_names_defaults(store):
    said = " ".join(call("train_student", help=None).out.split())
    assert (
        "fixes what is drawn: new weights, order of examples, augmentation, dropout; fewrel: its examples [42]" in said
    )
    assert "peak learning rate [the recipe's]" in said
    assert "mlflow run . --env-manager local -e train_student [-P NAME=VALUE ...]" in said
    assert "print the plan" not in said and "[false]" in " ".join(call("study", help=None).out.split())


def test_the_entry_points_are_listed():
    listed = subprocess.run([sys.executable, "-m", "entrypoints"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = listed.stdout.splitlines()
    assert [line.split()[0] for line in lines[: len(settings.ENTRY_POINTS)]] == list(settings.ENTRY_POINTS)
    assert all(len(line) > 40 for line in lines[: len(settings.ENTRY_POINTS)])
    wrong = subprocess.run([sys.executable, "-m", "entrypoints", "tune"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("entry_point", "given", "told"),
    [
        ("train_student", {}, "the same command goes on where this one was"),
        ("tune", {}, "the same command goes on where this one was"),
        ("train_student", {"resume": "never"}, "the same command begins again"),
        ("report", {}, "the same command begins again"),
    ],
)
def test_an_interruption_says_what_goes_on(entry_point, given, told, capsys, monkeypatch):
    from entrypoints.command import command

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", [entry_point, *arguments(given)])
    with pytest.raises(SystemExit) as ended:
        command(entry_point, interrupted, "")
    assert (ended.value.code, capsys.readouterr().err) == (130, f"interrupted: {told}\n")


def test_entry_points_of_mlproject_and_of_the_folder_are_the_same():
    import yaml

    named = set(yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"])
    modules = {path.stem for path in (ROOT / "entrypoints").glob("*.py")} - {"__init__", "__main__", "command"}
    assert named == modules
