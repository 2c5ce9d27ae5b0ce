"""The commands that the page prints, through a shell, MLflow and the entry points: they give the runs that were."""

import shlex
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from mlflow.projects._project_spec import load_project
from running import ROOT, runs, succeed

from analysis.pairing import pair
from analysis.present.again import again
from entrypoints.command import parse
from labelreg import job, one_run, recipes
from labelreg.methods import METHODS
from labelreg.models import registry
from labelreg.settings import RUN, with_defaults
from labelreg.store import records
from labelreg.store.logged import plain
from labelreg.studies import plan

pytest_plugins = ["running"]
STUDIES = sorted(recipes.shipped("study"))
CHANGED = {  # of every kind of parameter: numbers, words, lists, text that a shell would change
    "smoke": "--epochs=2 --lr=3e-5 --precision=fp32 --threads=2 --selection=last --split_seed=7 --compile=off "
    "--methods=kd,finetune --max_train_examples=40 --teacher_model=bert-small",
    "digits": "--optimizer=sgd --momentum=0.8 --lr_milestones=0.5,0.7 --lr_decay=0.5 --stem=imagenet --augment=none "
    "--tfreg_target=code --image_size=64",
    "minilm": "--seeds=7,8 --tasks=rte --allow_tuned_seeds=true --margin=1 --level=0.1 --alpha=0.3 --tau=2",
}


@pytest.fixture
def no_weights(monkeypatch):
    """Weights and data of every study are not here: digests that tell them apart stand for theirs."""
    monkeypatch.setattr(registry, "weights_digest", lambda name, init, where: f"weights of {name}, {init}")


def data_of(settings):
    names = ["task", "max_length", "image_size", "max_train_examples", "split_seed", "train_file", "text_column"]
    names += ["seed"] if settings.task.startswith("fewrel") else []
    told = " ".join(str(settings.value(name)) for name in names)
    return SimpleNamespace(digest=f"data {told}", rest=None, splits={"train": range(1000)})


def identity(given, kind="student"):
    """(task, model, init, method, seed) and the fingerprint of a run by what it is given."""
    settings = job.settings_of(given)
    found = job.fingerprint(job.Job(settings, given, kind), data_of(settings))
    return tuple(str(settings.value(name)) for name in ("task", "model", "init", "method", "seed")), found


def logged(given, run_id, **tags):
    """What labelreg logs of a run, as records.frame gives it."""
    kept = {}
    run = SimpleNamespace(
        params=lambda values, tags: kept.update(params={k: plain(v) for k, v in values.items() if v is not None}),
        data=lambda *_: None,
    )
    settings = job.settings_of(given)
    mine, teaching = job.Job(settings, given), []
    machine = replace(job.machine_of(settings, data_of(settings)), compile="off")
    if METHODS[settings.method].needs:
        teacher = "teacher" if settings.teacher_run_id else job.source_job(mine).settings.model
        teaching = [
            SimpleNamespace(info=SimpleNamespace(run_id="ttt"), data=SimpleNamespace(params={"model": teacher}))
        ]
    one_run._log_start(run, settings, machine, data_of(settings), "f", teaching)
    return (
        {"run_id": run_id, "status": "FINISHED", "tags.labelreg.kind": "student"}
        | {f"params.{name}": value for name, value in kept["params"].items()}
        | {f"metrics.{end}/test/score": float(settings.seed) for end in ("best", "last")}
        | tags
    )


def called(lines):
    """(entry point, what is given) of each command of a script: by a shell, MLflow's project, our own parser."""
    script = "mlflow() { printf '%s\\0' \"$@\"; printf '\\n\\0'; }\n" + "\n".join(lines)
    out = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.decode()
    project, found = load_project(str(ROOT)), []
    for words in (part.split("\0") for part in out.split("\n\0") if part):
        words = [word for word in words if word]
        assert words[:2] == ["run", "."]
        entry_point = words[words.index("-e") + 1] if "-e" in words else "main"
        values = dict(words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "-P")
        command = project.get_entry_point(entry_point).compute_command(values, None)
        python, _, module, *arguments = shlex.split(command)
        assert (python, module) == ("python", f"entrypoints.{entry_point}")
        found.append((entry_point, with_defaults(entry_point, parse(entry_point, arguments))))
    assert found.pop()[0] == "report"
    return found


def planned(name):
    """A study with what may be changed of it; the first two seeds."""
    for given in ([], CHANGED.get(name, "").split()):
        own = with_defaults("study", parse("study", [f"--recipe={name}", *given]))
        design = plan.design_of(own)
        seeds = design.plan["seeds"][:2]
        yield own, replace(design, steps=[step for step in design.steps if step.given["seed"] in seeds])
        if name not in CHANGED:
            return


@pytest.mark.parametrize("name", STUDIES)
def test_every_run_of_every_recipe_comes_out_again(name, no_weights):
    for own, design in planned(name):
        students = [step for step in design.steps if step.kind == "student"]
        wanted = {identity(step.given) for step in students}
        rows = [logged(step.given, f"r{i}") for i, step in enumerate(students)]
        single = called(again(pair(pd.DataFrame(rows)), pd.DataFrame(rows), ()))
        assert {entry_point for entry_point, _ in single} == {"train_student"}
        assert {identity(given) for _, given in single} == wanted, "each run by a command of its own"

        values = {"recipe": design.name, "settings": students[0].given["recipe"]} | design.asked
        above = {"run_id": "sss", "tags.labelreg.kind": "study"}
        above |= {f"params.{key}": plain(value) for key, value in values.items()}
        frame = pd.DataFrame([row | {"tags.mlflow.parentRunId": "sss"} for row in rows] + [above])
        ((entry_point, given),) = called(again(pair(frame), frame, ()))
        found = plan.design_of(given)
        assert entry_point == "main" and found.plan == plan.design_of(own).plan
        seeds = {step.given["seed"] for step in students}
        again_ = {identity(s.given) for s in found.steps if s.kind == "student" and s.given["seed"] in seeds}
        assert again_ == wanted, "all of them by the study's"


@pytest.mark.parametrize("name", ["my reviews $HOME.csv", 'it\'s "quoted" `date`.csv', "a;b & c|d\\e*.csv", "ä €.csv"])
def test_what_a_shell_would_change_arrives(name, no_weights, tmp_path):
    (tmp_path / name).write_text("text,label\na,b\n")
    given = {"train_file": str(tmp_path / name), "text_column": f"col {name}", "task": f"task {name}", "method": "ls"}
    every = [
        with_defaults("train_student", given | {"method": m, "seed": s}) for m in ("finetune", "ls") for s in (1, 2)
    ]
    frame = pd.DataFrame([logged(one, f"r{i}") for i, one in enumerate(every)])
    found = [one for _, one in called(again(pair(frame), frame, (("where", f"x = '{name}'"),)))]
    assert {identity(one) for one in found} == {identity(one) for one in every}
    assert {(one["train_file"], one["text_column"]) for one in found} == {(str(tmp_path / name), f"col {name}")}


def test_a_teacher_that_was_named_is_named_again_and_how_it_was_trained(no_weights):
    common = {"task": "rte", "model": "bert-small", "seed": 3}
    given = with_defaults("train_student", common | {"method": "kd", "teacher_run_id": "ttt"})
    rows = [logged(with_defaults("train_student", common | {"method": "finetune"}), "a")]
    rows.append(logged(given, "b", **{"tags.labelreg.teacher_given": "true"}))
    teacher = {"run_id": "ttt", "tags.labelreg.kind": "teacher", "params.task": "rte", "params.model": "my teacher"}
    frame = pd.DataFrame([*rows, teacher | {"params.method": "finetune", "params.lr": "1e-05"}])
    lines = again(pair(frame), frame, ())
    assert (
        f"# run ttt: {RUN} -e train_teacher -P task=rte -P model='my teacher' -P method=finetune -P lr=1e-05" in lines
    )
    assert [one.get("teacher_run_id") for _, one in called(lines)] == [None, "ttt"]
    rows[1]["params.teacher_model"] = rows[1]["params.teacher_seed"] = "7"  # logged of the run, and no part of its word
    assert not any("-P teacher_model" in line or "-P teacher_seed" in line for line in again(pair(frame), frame, ()))
    found = pd.DataFrame([rows[0], rows[1] | {"tags.labelreg.teacher_given": None}])
    assert not any("ttt" in line for line in again(pair(found), found, ()))


def test_a_study_that_did_not_log_all_it_was_given_is_repeated_run_by_run(no_weights):
    every = [with_defaults("train_student", {"method": m, "seed": 1, "precision": "fp32"}) for m in ("finetune", "ls")]
    rows = [logged(one, f"r{i}", **{"tags.mlflow.parentRunId": "s"}) for i, one in enumerate(every)]
    frame = pd.DataFrame([*rows, {"run_id": "s", "tags.labelreg.kind": "study", "params.recipe": "smoke"}])
    lines = again(pair(frame), frame, ())
    assert {entry_point for entry_point, _ in called(lines)} == {"train_student"}


def test_a_table_of_scores_has_no_commands_for_its_runs():
    rows = [
        {"run_id": f"{m}{s}", "tags.labelreg.kind": "student", "metrics.score": 70.0 + s, "params.task": "t"}
        | {"params.model": "m", "params.init": "x", "params.method": m, "params.seed": str(s)}
        for m in ("finetune", "AlgB")
        for s in (1, 2)
    ]
    frame = pd.DataFrame(rows)
    given = (("csv", "a b.csv"),)
    assert again(pair(frame, metric="score"), frame, given) == [
        "mlflow run . --env-manager local -e report -P csv='a b.csv'"
    ]


def test_runs_that_were_trained_come_out_again(tiny):
    """A real run, its command as it is printed, and the run that it gives: one fingerprint."""
    for method in ("finetune", "ls"):
        succeed("train_student", **tiny, method=method, seed=1)
    frame = records.frame(None)
    lines = again(pair(frame), frame, ())
    before = {run.data.tags["labelreg.fingerprint"] for run in runs("student")}
    for entry_point, given in called(lines):
        roots = {name: value for name, value in tiny.items() if name.endswith("_root")}
        text = {name: plain(value) for name, value in given.items()}
        succeed(entry_point, **text | roots)
    after = [run.data.tags["labelreg.fingerprint"] for run in runs("student")]
    assert len(after) == 4 and set(after) == before
