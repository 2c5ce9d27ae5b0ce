"""A method in a file of the user's own: it trains, is compared, tuned and repeated like those that ship."""

import shlex

import mlflow
import pytest
from running import call, finish, in_this_process, measured, python, refused, run_of, runs, succeed

from analysis.pairing import pair
from analysis.present import again
from labelreg.errors import UserError
from labelreg.methods import METHODS, inherit, named, own_file
from labelreg.store import records
from labelreg.studies import grid

pytest_plugins = ["running"]

MINE = '''"""Poly-1 (Leng et al. 2022), and a regression on the teacher's logits."""
import torch.nn.functional as F

def loss(logits, labels, _, epoch, poly=1.0):
    """Poly-1"""
    p = F.softmax(logits.float(), 1).gather(1, labels[:, None])
    return F.cross_entropy(logits.float(), labels) + poly * (1 - p).mean()

def taught(logits, labels, teacher, epoch, *, alpha=0.25, first=True):
    hard = F.cross_entropy(logits.float(), labels)
    return (1 - alpha) * hard + alpha * F.mse_loss(logits.float(), teacher.float()) * (epoch == 1 or not first)
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    path = tmp_path / "mine" / "mine.py"
    path.parent.mkdir()
    path.write_text(MINE)
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    monkeypatch.setenv("LABELREG_METHOD_FILES", "{}")
    yield path
    for name in [name for name in METHODS if ".py:" in name]:
        del METHODS[name]


def test_it_trains_under_its_name_with_its_parameters(tiny, mine):
    usual, given = (
        run_of(succeed("train_student", **tiny, method=f"{mine}:loss", **more)) for more in ({}, {"poly": 0.5})
    )
    assert usual.data.params["method"] == "mine.py:loss"
    assert (usual.data.params["poly"], given.data.params["poly"]) == ("1.0", "0.5")
    assert usual.data.params["method_settings"] == f"poly=1.0,method_file={usual.data.params['method_file']}"
    assert usual.data.tags["labelreg.fingerprint"] != given.data.tags["labelreg.fingerprint"]
    assert not list(mine.parent.glob("__pycache__")), "nothing is left beside the user's file"


@pytest.mark.parametrize("entry_point", ["train_student", "study"])
def test_mlflow_run_logs_its_file_before_the_run_names_it(entry_point, tiny, mine, monkeypatch, tmp_path):
    """`mlflow run . -P method=/folder/mine.py:loss`: what it logged, as it quotes it, means the method's name."""
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    recipe = tmp_path / "own.yaml"
    recipe.write_text("{kind: study, models: [bert-small], inits: [pretrained], seeds: [42]}")
    words, given = ("method", f"{mine}:loss"), {}
    if entry_point == "study":
        words = ("methods", f"{mine}:loss,finetune")
        given = {"recipe": recipe, "jobs": 1, "accept_undecidable": "true", "poly": 0.5}
    mlflow.MlflowClient().log_param(opened, words[0], shlex.quote(words[1]))
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    parameters = {name: value for name, value in tiny.items() if name != "model" or entry_point != "study"}
    succeed(entry_point, **(parameters | given | {words[0]: words[1]}))
    run = mlflow.get_run(opened)
    assert run.info.status == "FINISHED" and run.data.params[words[0]] == shlex.quote(words[1])


def test_without_its_weight_it_is_finetune_bit_for_bit(tiny, mine):
    plain, other = (
        run_of(succeed("train_student", **tiny, **more)) for more in ({}, {"method": f"{mine}:loss", "poly": 0})
    )
    # torch's mean over a batch and the engine's differ in the last bit of what is told, their gradients do not
    assert plain.data.metrics["train/loss"] == pytest.approx(other.data.metrics["train/loss"], rel=1e-6)
    assert plain.data.metrics["dev/nll"] == other.data.metrics["dev/nll"]


def test_another_content_of_the_file_is_another_run(tiny, mine):
    first = run_of(succeed("train_student", **tiny, method=f"{mine}:loss"))
    mine.write_text(MINE.replace("(1 - p).mean()", "(1 - p).square().mean()"))
    second = run_of(succeed("train_student", **tiny, method=f"{mine}:loss"))
    assert first.data.tags["labelreg.fingerprint"] != second.data.tags["labelreg.fingerprint"]
    assert first.data.metrics["train/loss"] != second.data.metrics["train/loss"]
    mine.write_text(MINE)
    third = run_of(succeed("train_student", **tiny, method=f"{mine}:loss"))
    assert first.data.tags["labelreg.fingerprint"] == third.data.tags["labelreg.fingerprint"]


def test_a_command_has_the_content_that_it_began_with(mine):
    """A file that is saved meanwhile: who has loaded it goes on with what it was, a new process ends in a line."""
    assert named(f"{mine}:loss") == "mine.py:loss"
    before = METHODS["mine.py:loss"].defaults["method_file"]
    mine.write_text(MINE.replace("poly=1.0", "poly=2.0"))
    for given in ("mine.py:loss", f"{mine}:loss"):
        named(given)
        assert METHODS["mine.py:loss"].defaults["method_file"] == before
    del METHODS["mine.py:loss"]  # as in a worker that begins now
    for load in (lambda: named("mine.py:loss"), inherit):
        with pytest.raises(UserError, match="mine.py has changed since this command began; the same command") as told:
            load()
        assert "\n" not in str(told.value)
    mine.write_text(MINE)
    inherit()
    assert METHODS["mine.py:loss"].defaults["method_file"] == before


def test_a_run_is_the_same_whatever_it_draws_from_and_whatever_ran_before(tiny, mine):
    """numpy and random begin alike, and what the file keeps is no other run's."""
    drawn = "poly * len(SEEN) * (np.random.rand() + random.random())"
    content = MINE.replace("poly * (1 - p).mean()", f"{drawn} * (1 - p).mean()").replace(
        "    p = F.", "    SEEN.append(epoch)\n    p = F."
    )
    mine.write_text(content.replace("import torch", "import random\nimport numpy as np\nSEEN = []\nimport torch", 1))
    given = tiny | {"method": f"{mine}:loss", "resume": "never"}
    first, second = (run_of(succeed("train_student", **given)) for _ in range(2))
    assert first.data.tags["labelreg.fingerprint"] == second.data.tags["labelreg.fingerprint"]
    assert measured(first) == measured(second)


@pytest.mark.parametrize("name", ["value", "loss"])
def test_its_parameters_may_have_any_name_and_change_no_other_run(name, tiny, mine):
    before = run_of(succeed("train_student", **tiny))
    mine.write_text(MINE.replace("poly", name))
    first, second = (run_of(succeed("train_student", **tiny, method=f"{mine}:loss", **{name: x})) for x in (1, 2))
    assert first.data.tags["labelreg.fingerprint"] != second.data.tags["labelreg.fingerprint"]
    after = run_of(succeed("train_student", **tiny))
    assert before.data.tags["labelreg.fingerprint"] == after.data.tags["labelreg.fingerprint"]
    assert before.data.params == after.data.params


def test_a_study_of_another_content_is_another_study(mine, monkeypatch):
    lists = {"tasks": ["sst5"], "models": ["m"], "inits": ["pretrained"], "seeds": [1]}
    lists["methods"] = ["finetune", "mine.py:loss"]

    def identity(content: str) -> str:
        monkeypatch.setenv("LABELREG_METHOD_FILES", "{}")  # each is a command of its own
        mine.write_text(content)
        assert named(f"{mine}:loss") == "mine.py:loss"
        return grid.identity(grid.steps(lists, {}, lambda model, task: "t"), "d")

    first = identity(MINE)
    assert identity(MINE.replace("poly=1.0", "poly=2.0")) != first == identity(MINE)


@pytest.mark.parametrize("folder", ["", "{tmp_path}/"])
def test_two_files_of_one_name_are_two_methods_that_one_command_cannot_tell_apart(folder, tiny, mine, tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace("poly=1.0", "poly=2.0"))
    other = f"{folder}mine.py:loss".format(tmp_path=tmp_path)
    given = tiny | {"method": f"{mine}:loss", "methods": f"finetune,{other}", "cross_check": 1, "space": "search"}
    refused(call("tune", **given), f"{mine} is another file of this name; rename one of the two")


def test_a_parameter_of_others_is_shared_and_keeps_its_own_default(tiny, mine):
    run = run_of(succeed("train_student", **tiny, method=f"{mine}:taught"))
    assert run.data.params["alpha"] == "0.25" and run.data.params["first"] == "true"
    assert len(runs("teacher")) == 1, "its third argument is called teacher"
    refused(call("train_student", **tiny, method=f"{mine}:taught", alpha=3), "alpha=3: allowed is a number in [0, 1]")


def test_a_study_compares_it_with_all_others(tiny, mine, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text("kind: study\nsettings: default\nmodels: [bert-small]\ninits: [pretrained]\nseeds: [1, 2]\n")
    given = {name: value for name, value in tiny.items() if name != "model"}
    said = succeed("study", **given, recipe=study, methods=f"finetune,{mine}:loss,ls").out
    assert "mine.py:loss" in said and str(mine) not in said
    assert sorted(run.data.params["method"] for run in runs("student")) == sorted(
        ["finetune", "ls", "mine.py:loss"] * 2
    )
    for name in [name for name in METHODS if ".py:" in name]:
        del METHODS[name]  # a reader of the store has no file
    page = tmp_path / "page"
    succeed("report", output_dir=page)
    assert "mine.py:loss" in (page / "report.html").read_text()
    succeed("train_student", **tiny, method=f"{mine}:loss", poly=3, seed=1)
    succeed("train_student", **tiny, method=f"{mine}:loss", poly=3, seed=2)
    for name in [name for name in METHODS if ".py:" in name]:
        del METHODS[name]
    said = succeed("significance").out
    assert "poly=1.0" in said and "poly=3.0" in said, "two settings of one method are two rows"
    succeed("report", output_dir=page)
    assert "-P poly=3.0" in (page / "report.html").read_text(), "how to run it again"


def test_a_default_that_is_a_whole_number_means_an_int(mine):
    """Where the value is whole; the parameter is a number, in fingerprints and searches too."""
    mine.write_text("def loss(logits, labels, _, epoch, k=2, w=1.0, on=True):\n    raise TypeError([k, w, on])\n")
    method, seen = METHODS[named(f"{mine}:loss")], []
    assert method.parameters["k"].kind == "number"
    for k in (3.0, 0.5):
        with pytest.raises(UserError) as told:
            method.loss_of({"k": k, "w": 1.0, "on": True})(None, None, None, 1)
        seen.append(str(told.value))
    assert "[3, 1.0, True]" in seen[0] and "[0.5, 1.0, True]" in seen[1]


def test_how_to_run_it_again_names_its_folder(tiny, mine, tmp_path):
    """Of a study, of single runs, and of one that stores its model (`promote` prints it)."""
    study = tmp_path / "study.yaml"
    study.write_text("kind: study\nsettings: default\nmodels: [bert-small]\ninits: [pretrained]\nseeds: [1, 2]\n")
    given = {name: value for name, value in tiny.items() if name != "model"}
    succeed("study", **given, recipe=study, methods=f"finetune,{mine}:loss")
    succeed("report", output_dir=tmp_path / "page")
    assert f"-P methods=finetune,{mine}:loss" in (tmp_path / "page" / "report.html").read_text()
    frame = records.frame(None)
    alone = frame[frame["tags.labelreg.kind"] == "student"]
    assert f"for method in {mine}:loss; do for seed in 1 2; do" in again.again(pair(alone), alone, ())
    (row, _) = alone[alone["params.method"] == "mine.py:loss"].to_dict("records")
    assert f"-P method={mine}:loss" in again.with_model(row)
    del row["tags.labelreg.method_file"]
    assert "-P method=mine.py:loss" in again.with_model(row), "a run of before"


def test_a_file_in_the_project_is_named_from_there(mine, monkeypatch):
    monkeypatch.setattr(own_file, "PROJECT", mine.parent.parent)
    assert own_file.place_of(named(f"{mine}:loss")) == "mine/mine.py:loss"


def test_two_folders_may_have_a_file_of_one_name(mine, tmp_path):
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text(MINE.replace("def loss", "def loss2"))
    places = [own_file.place_of(named(each)) for each in (f"{mine}:loss", f"{other}:loss2")]
    told = own_file.as_given("methods", "finetune,mine.py:loss2,mine.py:loss+swa", [",".join(places)])
    assert told == f"finetune,{other}:loss2,{mine}:loss+swa"


def test_a_study_recipe_may_name_it_and_its_parameters_be_given(tiny, mine, tmp_path, monkeypatch):
    study = tmp_path / "own-study.yaml"
    lists = f"models: [bert-small]\ninits: [pretrained]\nseeds: [1, 2]\nmethods: [finetune, '{mine}:loss']\n"
    study.write_text(f"kind: study\nsettings: default\n{lists}")
    given = {name: value for name, value in tiny.items() if name != "model"}
    monkeypatch.setenv("HOME", str(tmp_path))
    said = succeed("study", **given, recipe=f"~/{study.name}", poly=0.2, plan_only="true").out
    assert "mine.py:loss" in said and "ignored" not in said


def test_a_search_draws_it(tiny, mine, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("kind: search\ntrials: 2\nepochs: 1\nspace:\n  poly: [0.05, 0.2]\n")
    out = tmp_path / "found"
    said = succeed("tune", **tiny, method=f"{mine}:loss", space=space, output_dir=out).out
    assert "2 trials in poly {0.05, 0.2}" in said
    found = (out / "settings.yaml").read_text()
    assert "mine.py:loss" in found
    recipe = {"recipe": out / "settings.yaml"}
    assert run_of(succeed("train_student", **tiny | recipe, method=f"{mine}:loss")).data.params["poly"] in (
        "0.05",
        "0.2",
    )


def test_the_settings_of_a_search_are_used_as_it_prints(tiny, mine, tmp_path):
    """Two functions of one file have been tuned: a study of one of them, or of none, reads the file too."""
    space = tmp_path / "space.yaml"
    space.write_text("kind: search\ntrials: 1\nepochs: 1\nspace:\n  poly: [0.05]\n  alpha: [0.3]\n")
    out, methods = tmp_path / "found", f"{mine}:loss,{mine}:taught"
    said = succeed("tune", **tiny, per_method="true", methods=methods, space=space, output_dir=out).out
    assert f"(train_student -P recipe=FILE -P method={mine}:loss" in said
    assert f"-P methods=finetune,{mine}:loss,{mine}:taught" in said and "main -P settings=FILE" in said
    given = tiny | {"recipe": out / "settings.yaml"}
    for method in ("finetune", f"{mine}:taught", f"{mine}:loss"):
        for name in [name for name in METHODS if ".py:" in name]:
            del METHODS[name]
        run = run_of(succeed("train_student", **given, method=method))
    assert run.data.params["poly"] == "0.05"
    given = tiny | {"space": space, "per_method": "true", "methods": f"ls,{mine}:loss"}
    assert f"-P methods=finetune,ls,{mine}:loss" in succeed("tune", **given).out, "ls was tuned too"


def test_a_rule_may_name_the_folder_of_its_file(tiny, mine, tmp_path):
    recipe = tmp_path / "own.yaml"
    rule = f"{{when: {{method: '{mine}:loss'}}, set: {{poly: 0.5}}}}"
    recipe.write_text(f"{{kind: settings, extends: default, rules: [{rule}]}}")
    for method, poly in {"finetune": None, f"{mine}:loss": "0.5"}.items():
        assert run_of(succeed("train_student", **tiny, recipe=recipe, method=method)).data.params.get("poly") == poly
    recipe.write_text(recipe.read_text().replace(":loss", ":los"))
    said = "unknown method in recipe"
    refused(call("train_student", **tiny, recipe=recipe, method=f"{mine}:loss"), said, "'mine.py:los'; did you mean")
    recipe.write_text(recipe.read_text().replace(":los'", ":taught'"))  # its other function: a rule for other runs
    succeed("train_student", **tiny, recipe=recipe, method=f"{mine}:loss")


@pytest.mark.slow
def test_worker_processes_load_it_too(tiny, mine, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text("kind: study\nsettings: default\nmodels: [bert-small]\ninits: [pretrained]\nseeds: [1]\n")
    given = {name: value for name, value in tiny.items() if name != "model"}
    given |= {"recipe": study, "methods": f"finetune,{mine}:loss", "jobs": 1}
    ended = finish(python("study", **given), tmp_path)
    assert ended.status == 0, ended
    assert {run.data.params["method"] for run in runs("student")} == {"finetune", "mine.py:loss"}


@pytest.mark.parametrize(
    ("content", "function", "said"),
    [
        (None, "loss", "No such file or directory"),
        ("def loss(:\n", "loss", "mine.py does not run: SyntaxError"),
        ("x = 1 / 0\n", "loss", "mine.py does not run: ZeroDivisionError: division by zero (line 1)"),
        (MINE, "los", "unknown function of mine.py 'los'; did you mean 'loss'?"),
        ("def loss(logits, labels):\n    pass\n", "loss", "its form is (logits, labels); allowed is (logits, labels, "),
        ("def loss(a, b, c, d, weight):\n    pass\n", "loss", "weight needs a default that is a number"),
        ("def loss(a, b, c, d, lr=1.0):\n    pass\n", "loss", "lr: every run has a parameter of this name"),
        ("def loss(a, b, c, d, help=1.0):\n    pass\n", "loss", "help: every run has a parameter of this name"),
        (f"{MINE}\nimport sys\nsys.exit()\n", "loss", "mine.py does not run: SystemExit"),
        ("import sys\ndef loss(a, b, c, d):\n    sys.exit(0)\n", "loss", "SystemExit: 0 (line 3)"),
        (f"{MINE}".replace("poly", "weights"), "loss", "weights: every run has a fact of this name"),
        (f"{MINE}".replace("poly", "version"), "loss", "version: every run has a fact of this name"),
        (f"{MINE}".replace("poly", "device"), "loss", "device: every run has a fact of this name"),
        ("def loss(a, b, c, d):\n    return a\n", "loss", "gives a tensor [4, 3]; allowed is a scalar tensor"),
        ("def loss(a, b, c, d):\n    return 1.0\n", "loss", "gives float; allowed is a scalar tensor"),
        ("def loss(a, b, c, d):\n    return a.sun()\n", "loss", "AttributeError: 'Tensor' object has no attribute"),
        (
            "def loss(a, b, c, d):\n    s = a.softmax(1)\n    s *= 2\n    return s.sum()\n",
            "loss",
            "its gradient fails: ",
        ),
        ("def loss(a, b, teacher, d):\n\n    return undefined\n", "loss", "name 'undefined' is not defined (line 3)"),
    ],
)
def test_a_mistake_in_it_is_one_line_before_anything_is_trained(content, function, said, tiny, mine):
    mine.write_text(content) if content else mine.unlink()
    refused(call("train_student", **tiny, method=f"{mine}:{function}"), said)
    assert not runs("teacher") and not [run for run in runs("student") if run.data.metrics]


@pytest.mark.soak
def test_worker_processes_read_a_recipe_that_names_it(tiny, mine, tmp_path):
    """The settings that a search found: the worker of another method's run reads the rule too."""
    found = tmp_path / "found.yaml"
    found.write_text(
        "kind: settings\nextends: default\nrules:\n  - when: {method: [mine.py:loss]}\n    set: {poly: 0.5}\n"
    )
    study = tmp_path / "study.yaml"
    study.write_text(f"kind: study\nsettings: {found}\nmodels: [bert-small]\ninits: [pretrained]\nseeds: [1]\n")
    given = {name: value for name, value in tiny.items() if name != "model"}
    given |= {"recipe": study, "methods": f"finetune,{mine}:loss", "jobs": 1}
    ended = finish(python("study", **given), tmp_path)
    assert ended.status == 0, ended
    assert {run.data.params.get("poly") for run in runs("student")} == {None, "0.5"}


@pytest.mark.soak
def test_worker_processes_search_it(tiny, mine, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("kind: search\ntrials: 2\nepochs: 1\nspace:\n  poly: [0.05, 0.2]\n")
    ended = finish(python("tune", **tiny, method=f"{mine}:loss", space=space, jobs=1), tmp_path)
    assert ended.status == 0, ended
    assert {run.data.params["poly"] for run in runs("trial")} == {"0.05", "0.2"}
