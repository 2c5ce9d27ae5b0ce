"""What is known of a study before it runs: counts, what is done, steps and time; and nothing is prepared for it."""

import re
import shlex

import mlflow
import pytest
from pictures import own_folder
from running import call, in_this_process, refused, runs, succeed

from analysis.margins import resolution
from labelreg import output, recipes
from labelreg.store import records
from labelreg.studies import outlook
from labelreg.workers import executors

pytest_plugins = ["running"]


@pytest.fixture
def small(tiny, settings_file) -> dict:
    """A study of three methods and two seeds."""
    names = ("train_file", "model_root", "max_length")
    lists = {"models": "bert-small", "inits": "pretrained", "methods": "finetune,selfkd,kd", "seeds": "1,2"}
    settings = settings_file(lr=1e-3, batch_size=8, epochs=1, teacher={"epochs": 1})
    return {name: tiny[name] for name in names} | lists | {"settings": settings, "recipe": "smoke"}


def planned(**given) -> str:
    return succeed("study", **given, plan_only="true").out


@pytest.mark.parametrize("recipe, students, teachers", [("table8", 56, "1 teacher"), ("table5", 20, "5 teachers")])
def test_a_plan_needs_neither_data_nor_weights(store, recipe, students, teachers):
    said = planned(recipe=recipe)
    assert said.startswith(f"study {recipe}: {students} students, {teachers}, 0 reused\n")
    left = students + int(teachers[0])
    assert f"runs to do: {left}; runs done: 0; steps: unknown until prepared; time: unknown until prepared" in said
    (run,) = runs("study")
    assert run.info.status == "FINISHED" and "labelreg.plan" not in run.data.tags, "no study has begun"
    assert not list(store.glob("cache/prepared/*")) and not list(store.glob("cache/checkpoints/*"))


def test_a_plan_names_its_seeds_and_what_its_runs_are_trained_with(store):
    """Table 8 by tables 9 and 11, before anything is spent."""
    said = planned(recipe="table8")
    assert "\nseeds, in this order: 42, 549, 1237, 230, 805, 4653, 5589, 992\nevery teacher: lr 2e-05, " in said
    assert "\nevery student: lr 2e-05, epochs 30, " in said and "\nfinetune: batch_size 32\n" in said
    assert "\nkd (sst5, distilroberta, random): batch_size 32, alpha 0.9, tau 1.0\n" in said
    assert "\nakd (sst5, distilroberta, pretrained): batch_size 8, tau 10.0, phase1_epochs 20\n" in said
    of_one = planned(recipe="table1", tasks="rte,mrpc", methods="finetune,ls", lr=3e-4)
    assert "\nls: alpha 0.1\n" in of_one and "\nfinetune: " not in of_one, "it has nothing beside what all have"
    assert "every student: lr 0.0003, " in of_one
    assert "\nrte distilroberta pretrained; mrpc distilroberta pretrained:\n" in of_one, "what is alike is told once"


def test_what_no_run_of_a_study_reads_is_said(store):
    plan = {"recipe": "smoke", "methods": "finetune,ls", "plan_only": "true"}
    said = succeed("study", **plan, lora_r=4, tau=9, alpha=0.2).out
    assert "lora_r is ignored: none of these runs reads it\ntau is ignored: none of these runs reads it\n" in said
    assert "alpha is ignored" not in said, "ls reads it"
    assert "ignored" not in succeed("study", **plan).out


@pytest.mark.parametrize(
    "given, words",
    [
        ({"recipe": "smoke", "train_file": "pets"}, "model minilm-2l reads text, and task pets is made of images"),
        (
            {"recipe": "table6", "models": "minilm-3l"},
            "model minilm-3l reads text, and task cifar100 is made of images",
        ),
        ({"recipe": "table6", "tasks": "digits", "models": "minilm-3l"}, "minilm-3l reads text, and task digits"),
        ({"recipe": "smoke", "models": "resnet18"}, "resnet18 reads images, and task rotten_tomatoes is made of text"),
        ({"recipe": "smoke", "teacher_model": "resnet18"}, "resnet18 reads images, and task rotten_tomatoes"),
        ({"recipe": "table6", "models": "org/vit"}, "org/vit reads no images, and task cifar100 is made of images"),
    ],
)
def test_a_model_that_reads_something_else_is_refused_in_the_plan(store, monkeypatch, tmp_path, given, words):
    own_folder(tmp_path / "pets")
    refused(call("study", **given, plan_only="true"), words, "choose one of")


@pytest.mark.parametrize(
    "given, jobs", [({}, "6"), ({"jobs": 4}, "4"), ({"executor": "ray"}, "1"), ({"executor": "ray", "jobs": 9}, "9")]
)
def test_a_plan_counts_the_runs_at_a_time_that_the_executor_takes(store, monkeypatch, given, jobs):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    planned(recipe="table8", runs_per_gpu=3, **given)
    assert runs("study")[0].data.params["jobs"] == jobs


def test_the_plan_is_logged_as_a_table_and_as_a_record(store):
    import json

    import mlflow
    import pandas as pd

    said = planned(recipe="table8", margin=0.7)
    (run,) = runs("study")

    def logged(name: str) -> str:
        return mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/{name}")

    assert logged("plan.txt") == said
    plan = json.loads(logged("plan.json"))
    assert len(plan["cells"]) == 7 and ["sst5", "distilroberta", "pretrained", "akd"] in plan["cells"]
    assert (len(plan["seeds"]), plan["margin"], plan["level"], plan["looks"]) == (8, 0.7, 0.05, [])
    table = pd.read_csv(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="plan.csv"))
    assert table["runs"].tolist() == [1, *[8] * 7] and table["left"].sum() == 57
    assert "\nsst5 distilroberta random:\n  8 seeds, a family of 2 methods" in said
    assert "\n  better or worse: can be reached\n" in said


def test_what_is_done_is_known_before_anything_runs(small, store, monkeypatch):
    monkeypatch.setattr(executors, "execute", in_this_process)
    assert "steps: unknown until prepared" in planned(**small), "an own file's examples are not counted yet"
    succeed("study", **small)
    (study,) = [run for run in runs("study") if "labelreg.plan" in run.data.tags]
    assert len(study.data.tags["labelreg.plan"]) == 32
    trained = {run.data.tags["labelreg.fingerprint"] for kind in ("student", "teacher") for run in runs(kind)}
    said = planned(**small)
    assert said.startswith(
        "study reviews: 6 students, 1 teacher, 7 reused\nruns to do: 0; runs done: 7; steps: 0; time:"
    )

    more = planned(**small | {"seeds": "1,2,3"})
    assert "9 students, 1 teacher, 7 reused\nruns to do: 3; runs done: 7; steps: 18; time: about" in more
    assert "(from finished runs)" in more
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    monkeypatch.setattr(outlook, "duration", lambda seconds: f"{seconds:.6f}")
    two, many = (planned(**small | {"seeds": "1,2,3", "jobs": jobs}) for jobs in (2, 99))
    assert (
        re.search("about (.*) with jobs=2 ", two)[1] == re.search("about (.*) with jobs=99 on 2 processors ", many)[1]
    )
    seen = outlook.look(_steps(small))
    assert set(seen.fingerprints.values()) == trained, "the fingerprints that the runs have"
    assert len(seen.finished) == len(seen.steps) == 7 and not seen.unsure and not seen.begun

    monkeypatch.setenv("LABELREG_CACHE_ROOT", str(store / "elsewhere"))
    unsure = planned(**small | {"seeds": "1,2,3"})
    assert "0 reused (of 7 more: unknown until prepared)" in unsure
    assert not (store / "elsewhere" / "prepared").exists()

    monkeypatch.setattr(executors, "execute", None)  # nothing is left to execute
    assert "7 reused" in succeed("study", **small).out
    newest, first = records.plans({"reviews"}, ())
    ids = {run.info.run_id for kind in ("student", "teacher") for run in runs(kind)}
    assert (set(newest["reused"]), first["reused"], newest["digest"]) == (ids, [], first["digest"])
    assert {run.data.tags["labelreg.fingerprint"] for kind in ("student", "teacher") for run in runs(kind)} == trained


def _steps(small: dict):
    from entrypoints.command import parse
    from labelreg.settings import with_defaults
    from labelreg.studies.plan import design_of

    return design_of(with_defaults("study", parse("study", [f"--{k}={v}" for k, v in small.items()]))).steps


def test_a_study_of_images_is_known_before_anything_runs(store, monkeypatch):
    monkeypatch.setattr(executors, "execute", in_this_process)
    small = {"recipe": "table6", "settings": "default", "tasks": "digits", "models": "shufflenet_v2"}
    small |= {"inits": "random", "methods": "finetune,selfkd", "seeds": "1", "max_train_examples": 16}
    small |= {"image_size": 8, "batch_size": 8, "epochs": 1}
    given = {name: small[name] for name in ("max_train_examples", "image_size", "batch_size")}
    succeed("prepare", task="digits", model="shufflenet_v2", init="random", **given)
    assert "steps: 4; time: unknown until a run has ended" in planned(**small)
    succeed("study", **small)
    said = planned(**small | {"seeds": "1,2"})
    assert "4 students, 0 teachers, 2 reused\nruns to do: 2; runs done: 2; steps: 4; time: about" in said
    assert "(from finished runs)" in said
    trained = {run.data.tags["labelreg.fingerprint"] for run in runs("student")}
    assert set(outlook.look(_steps(small)).fingerprints.values()) == trained
    assert "time: unknown until prepared" in planned(recipe="table6"), "nothing is downloaded"


def test_the_plans_margin_is_the_answers(small, store):
    """The user's file is counted before it is prepared; of other data it is said what is not known."""
    told = "margin 33.34 (auto, not 0.5: what 6 test examples can tell; a smaller gain is not excluded), level 0.05"
    assert resolution(6) == 33.34 and told in planned(**small)
    succeed("prepare", **{name: small[name] for name in ("train_file", "model_root", "max_length")}, model="bert-small")
    assert told in planned(**small)
    assert "margin 40, level" in planned(**small, margin=40)
    later = "margin 0.5 (auto once the data are prepared{}), level 0.05"
    assert later.format(", where one test example is worth more") in planned(recipe="table8")
    assert later.format("") in planned(recipe="table8", margin="auto")


PLAIN = "text,label\n" + "a fine film,x\na dull film,y\n" * 9
BAD = {  # as people have them: name and content
    "a spreadsheet": ("film.xlsx", PLAIN),
    "semicolons": ("film.csv", PLAIN.replace(",", ";")),
    "empty": ("film.csv", ""),
    "header alone": ("film.csv", "text,label\n"),
    "open quote": ("film.csv", PLAIN + '"a film,x\n'),
    "latin-1": ("film.csv", (PLAIN + "süß,x\n").encode("latin-1")),
    "no label": ("film.csv", PLAIN + "a film,\n"),
    "one of a class": ("film.csv", PLAIN + "a film,z\n"),
    "no such column": ("film.csv", PLAIN.replace("text,", "review,")),
}


@pytest.mark.parametrize("case", BAD)
def test_a_plan_reads_the_users_file_as_the_study_would(case, small, tmp_path):
    name, content = BAD[case]
    given = small | {"train_file": tmp_path / name}
    given["train_file"].write_bytes(content if isinstance(content, bytes) else content.encode())
    ended = call("study", **given, plan_only="true")
    refused(ended)
    names = ("train_file", "model_root", "max_length")
    assert ended == call("prepare", **{name: given[name] for name in names}, model="bert-small")
    assert not runs("study")


def test_time_without_finished_runs_is_unknown(small, store):
    succeed("prepare", **{name: small[name] for name in ("train_file", "model_root", "max_length")}, model="bert-small")
    said = planned(**small | {"methods": "finetune,ls"})
    assert "steps: 24; time: unknown until a run has ended" in said
    rows = [line.split()[-5:] for line in said.splitlines() if re.match("(finetune|ls) ", line)]
    assert rows == [["2", "0", "2", "12", "-"]] * 2, said


def test_without_finetune_there_is_nothing_to_decide(small):
    said = planned(**small | {"methods": "ls,kd"})
    assert "nothing to compare: methods must name finetune" in said and "can be reached" not in said
    given = small | {"methods": "ls,kd", "seeds": ",".join(map(str, range(14))), "looks": "10,14"}
    refused(call("study", **given, until="decided"), "until=decided compares with finetune: methods=ls,kd must name it")


@pytest.mark.parametrize("flag", ["yes", "1", "True"])
def test_a_plan_as_mlflow_run_asks_for_it(small, monkeypatch, flag):
    import mlflow

    given = {"plan_only": flag, "methods": "kd, finetune", "seeds": "2, 1", "jobs": "1"}
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    for name, value in given.items():
        mlflow.MlflowClient().log_param(opened, name, shlex.quote(value))
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    succeed("study", **small | given)
    (run,) = runs("study")
    assert (run.info.run_id, run.info.status) == (opened, "FINISHED")


@pytest.mark.parametrize(
    "seconds, words", [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3600, "1 h 0 min"), (12_000, "3 h 20 min")]
)
def test_durations(seconds, words):
    assert output.duration(seconds) == words
    assert output.duration(2 * 86_400 + 4 * 3600) == "2 d 4 h"


def test_a_plan_knows_how_many_examples_a_score_is_from(small):
    """What is left over where it is a test set, else the test set; of one's own file before it is prepared, too."""
    from entrypoints.command import parse
    from labelreg.settings import with_defaults
    from labelreg.studies import plan

    def examples(**given) -> dict[str, int]:
        words = [f"--{name}={value}" for name, value in (small | given).items()]
        return outlook.look(plan.design_of(with_defaults("study", parse("study", words))).steps).examples

    names = ("train_file", "model_root", "max_length")
    for cut, tested in (({}, 6), ({"max_train_examples": 30}, 18), ({"max_train_examples": 30, "rest": "off"}, 6)):
        assert examples(**cut) == {"reviews": tested}
        succeed("prepare", **{name: small[name] for name in names}, model="bert-small", **cut)
        assert examples(**cut) == {"reviews": tested}


def test_a_recipe_asks_for_what_its_command_takes(small, tmp_path):
    """And what the command is given wins."""
    from entrypoints.command import parse

    recipe = tmp_path / "asks.yaml"
    lists = "models: [bert-small], inits: [pretrained], methods: [finetune, ls], seeds: [1, 2, 3, 4, 5, 6, 7, 8]"
    asks = 'looks: [5, 8], until: decided, margin: "40", precision: fp32, max_train_examples: 30'
    recipe.write_text(f"{{kind: study, {lists}, {asks}}}")
    given = {name: small[name] for name in ("train_file", "model_root", "max_length", "settings")}
    planned(recipe=recipe, **given)
    planned(recipe=recipe, **given, looks="6", seeds="1,2,3,4,5,6", precision="auto", margin="50")
    found = [mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/plan.json") for run in runs("study")]
    assert [(plan["looks"], len(plan["seeds"])) for plan in found] == [([5, 8], 8), ([6], 6)]
    assert "looks" not in parse("study", [f"--recipe={recipe}", "--looks="]), "switched off"
    asked = recipes.asked(str(recipe))
    assert asked["max_train_examples"] == 30 and asked["precision"] == "fp32" and asked["until"] == "decided"
    assert "seeds" not in asked, "lists are read as lists"


def test_what_yaml_makes_of_words(tmp_path):
    recipe = tmp_path / "asks.yaml"
    recipe.write_text("{kind: study, rest: on, compile: off, margin: {sst5: 1.0, rte: auto}, looks: 10}")
    assert recipes.asked(str(recipe)) == {"rest": "on", "compile": "off", "margin": "sst5:1.0,rte:auto", "looks": [10]}


@pytest.mark.parametrize(
    ("asks", "words"),
    [
        ("until: maybe", "unknown until 'maybe'"),
        ("looks: [0]", "looks=0: numbers of seeds that rise"),
        ("lucks: [5]", "lucks"),
        ("train_file: film.csv", "train_file is given to the command"),  # a file is named where the command is given
        ("margin: ", "margin has no value; give it one, or leave it out"),
        ("looks: ", "looks has no value"),
        ("margin: on", "margin=True: allowed is text (YAML reads on, off, yes and no so: write them in quotes)"),
        ("precision: on", "precision=True: allowed is one of auto, bf16, fp32 (YAML reads"),
        ("margin: {sst5: much}", "margin=sst5:much: allowed are points above 0"),
        ("text_column: {a: b}", "text_column={'a': 'b'}: allowed is text"),
        ("level: 0.6", "level=0.6"),
    ],
)
def test_a_recipe_that_asks_for_what_cannot_be(small, tmp_path, asks, words):
    recipe = tmp_path / "asks.yaml"
    recipe.write_text(f"{{kind: study, seeds: [1, 2], {asks}}}")
    refused(call("study", **(small | {"recipe": recipe}), plan_only="true"), words)
