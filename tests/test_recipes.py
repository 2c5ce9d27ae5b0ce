"""The paper's hyper-parameters as the appendix prints them; rules, their order, and mistakes in them."""

from pathlib import Path

import pytest
import yaml

from labelreg import recipes
from labelreg.data.tasks import TASKS
from labelreg.errors import UserError
from labelreg.methods import METHODS, own_parameters
from labelreg.models import registry
from labelreg.parameter import convert
from labelreg.settings import settable
from labelreg.studies import grid

SETTINGS = sorted(path.stem for path in (recipes.HERE / "settings").glob("*.yaml"))
STUDIES = sorted(path.stem for path in (recipes.HERE / "studies").glob("*.yaml"))
WITHOUT_AKD = ("table9", "table10", "table12", "table13")  # Annealing KD has a table of its own: 11


def resolve(recipe, method, role="student", init="pretrained", **given):
    """What a run reads, by name."""
    return recipes.resolve({"recipe": recipe, "method": method, "init": init} | given, role).values()


def subset(settings, expected):
    return {name: settings.get(name) for name in expected}


def paper():
    """(recipe, given, values) as tables 9 to 12 print them."""
    for task in ("sst5", "cola", "sst2", "mrpc", "qqp", "mnli", "rte", "qnli"):
        for init in ("pretrained", "random"):
            common = {"lr": 2e-5, "batch_size": 32, "epochs": 30}
            for model in ("distilroberta", "bert-small"):
                at = {"task": task, "init": init, "model": model}
                ri_sst5 = 0.9 if (task, init) == ("sst5", "random") else 0.5
                yield "table9", at | {"method": "finetune"}, common | {"alpha": None, "tau": None, "a": None}
                yield "table9", at | {"method": "ls"}, common | {"alpha": 0.1, "tau": None, "a": None}
                yield "table9", at | {"method": "kd"}, common | {"alpha": ri_sst5, "tau": 1, "a": None}
                yield "table9", at | {"method": "tfreg"}, common | {"alpha": ri_sst5, "tau": 1, "a": 0.95}
                yield "table9", at | {"method": "selfkd"}, common | {"alpha": 0.5, "tau": 1, "a": None}
    rates = {"cola": 1e-5, "rte": 2e-5, "mrpc": 1e-5, "sst2": 2e-5, "qnli": 1e-5, "qqp": 2e-5, "mnli": 2e-5}
    for task, lr in rates.items():
        common, at = {"lr": lr, "batch_size": 16, "epochs": 30, "model": "distilgpt2"}, {"task": task}
        yield "table10", at | {"method": "finetune"}, common | {"alpha": None}
        yield "table10", at | {"method": "ls"}, common | {"alpha": 0.1}
        for method in ("kd", "selfkd", "tfreg"):
            yield "table10", at | {"method": method}, common | {"alpha": 0.5, "tau": 1}
        yield "table10", at | {"method": "tfreg"}, common | {"a": 0.95}
    akd = {"lr": 2e-5, "batch_size": 8, "tau": 10, "epochs": 30, "phase1_epochs": 20, "alpha": None, "task": "sst5"}
    yield "table11", {"method": "akd"}, akd | {"model": "distilroberta"}
    yield "table11", {"method": "finetune"}, {"batch_size": 32, "epochs": 30, "lr": 2e-5}
    yield "table11", {"method": "kd", "init": "random"}, {"batch_size": 32, "alpha": 0.9}
    common = {"lr": 1.5e-5, "batch_size": 32, "epochs": 30, "task": "fewrel", "model": "distilroberta"}
    yield "table12", {"method": "finetune"}, common | {"alpha": None}
    yield "table12", {"method": "ls"}, common | {"alpha": 0.1}
    yield "table12", {"method": "kd"}, common | {"alpha": 0.5, "tau": 1}
    yield "table12", {"method": "tfreg"}, common | {"alpha": 0.5, "tau": 1, "a": 0.95}


@pytest.mark.parametrize(
    ("recipe", "given", "values"), list(paper()), ids=lambda x: "-".join(x.values()) if "method" in x else ""
)
def test_the_papers_values(recipe, given, values):
    settings = resolve(recipe, **given)
    assert subset(settings, values) == values


def test_a_recipes_task_and_model_are_defaults():
    assert subset(resolve("table9", "ls"), ("task", "model")) == {"task": "sst5", "model": "distilroberta"}
    assert resolve("table9", "kd", init="random", task="cola")["alpha"] == 0.5  # 0.9 belongs to sst5


@pytest.mark.parametrize(
    ("role", "init", "values"),
    [
        ("student", "pretrained", {"lr": 3e-4, "batch_size": 16, "epochs": 3}),
        ("student", "random", {"lr": 3e-4, "batch_size": 8, "epochs": 5}),
        ("teacher", "pretrained", {"lr": 1e-4, "batch_size": 16, "epochs": 3}),
    ],
)
def test_the_readmes_tables_keep_the_values_that_they_were_measured_with(role, init, values):
    values |= {"warmup_ratio": 0, "weight_decay": 0, "max_length": 128, "max_train_examples": 1000}
    assert subset(resolve("minilm", "kd", role, init, task="sst5"), values) == values
    assert resolve("default", "finetune", task="digits", init=init)["warmup_ratio"] == 0  # images have their own


@pytest.mark.parametrize("init", ["pretrained", "random"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", SETTINGS)
def test_every_shipped_settings_file_resolves(recipe, method, init):
    if method == "akd" and recipe in (*WITHOUT_AKD, "paper"):
        with pytest.raises(UserError, match="give (tau|task)="):
            resolve(recipe, method, init=init)
        return
    own = {"task": "sst5", "model": "gpt2", "lr": 1e-5, "batch_size": 8, "epochs": 2}
    own |= {name: 0.5 for name in ("alpha", "tau", "a") if name in METHODS[method].parameters}
    given = own if recipe == "paper" else {}  # it holds only what the paper is silent on
    if method == "akd" and resolve(recipe, "finetune", init=init, **given)["epochs"] == 1:
        with pytest.raises(UserError, match="both phases of akd need an epoch"):
            resolve(recipe, "akd", init=init)
        given = {"epochs": 2}
    for role in ("student", "teacher"):
        settings = resolve(recipe, method, role, init, **given)
        for name, known in settable().items():
            if name in settings:
                assert convert(name, known, settings[name]) == settings[name]
        optional = {key for key, each in METHODS[method].parameters.items() if not each.needed}
        read = set(own_parameters()) & set(settings)
        assert read | optional == set(METHODS[method].parameters) | optional
        assert settings["task"] in TASKS
        assert settings["model"] in registry.MODELS


GLUE = ["cola", "rte", "mrpc", "sst2", "qnli", "mnli", "qqp"]
SEEDS = [42, 549, 1237, 230, 805, 4653, 5589, 992]  # appendix A
FIVE, FOUR = ["finetune", "ls", "tfreg", "selfkd", "kd"], ["finetune", "ls", "tfreg", "kd"]  # rows of the tables
PAPER = {  # tasks, model, initialisations, methods, seeds, settings table; and the teacher with its runs
    "table1": (GLUE, "distilroberta", ["pretrained"], FIVE, SEEDS[:5], "table9", "roberta-large", 7),
    "table2": (GLUE, "bert-small", ["pretrained"], FIVE, SEEDS[:5], "table9", "bert-large", 7),
    "table3": (GLUE, "distilgpt2", ["pretrained"], FIVE, SEEDS[:5], "table10", "gpt2", 7),
    "table4": (["sst5"], "distilroberta", ["pretrained"], FOUR, SEEDS[:5], "table9", "roberta-large", 1),
    "table5": (["fewrel"], "distilroberta", ["pretrained"], FOUR, SEEDS[:5], "table12", "roberta-base", 5),
    "table7": (GLUE, "distilroberta", ["random"], FIVE, SEEDS[:5], "table9", "roberta-large", 7),
}
STUDENTS = {"table1": 175, "table2": 175, "table3": 175, "table4": 20, "table5": 20, "table7": 175, "table8": 56}
STUDENTS |= {"smoke": 3 * 7 * 2, "minilm": 6 * 8 * 2 * 5}


def planned(recipe: str) -> list[grid.Step]:
    read = recipes.read(recipe, "study")
    return grid.steps(grid.lists(read, {}), {"recipe": read["settings"]}, registry.teacher_of, recipes.without(read))


@pytest.mark.parametrize("recipe", PAPER)
def test_a_table_has_the_papers_runs(recipe):
    tasks, model, inits, methods, seeds, settings, teacher, teachers = PAPER[recipe]
    steps = planned(recipe)
    runs = [tuple(step.given[name] for name in ("task", "model", "init", "method", "seed")) for step in steps]
    wanted = {(t, model, i, m, s) for t in tasks for i in inits for m in methods for s in seeds}
    assert set(runs[teachers:]) == wanted and len(runs) == len(wanted) + teachers
    assert [step.kind for step in steps[:teachers]] == ["teacher"] * teachers
    assert all(teacher in step.name for step in steps[:teachers])
    assert {step.given["recipe"] for step in steps} == {settings}


def test_table_8_has_annealing_kd_pretrained_only():
    runs = [step for step in planned("table8") if step.kind == "student"]
    cells = {(step.given["init"], step.given["method"]) for step in runs}
    both = {(init, method) for init in ("pretrained", "random") for method in ("finetune", "tfreg", "kd")}
    assert cells == both | {("pretrained", "akd")}
    assert {step.given["seed"] for step in runs} == set(SEEDS) and {step.given["task"] for step in runs} == {"sst5"}
    settings = {step.given["method"]: resolve(**step.given) for step in runs if step.given["init"] == "random"}
    assert settings["kd"]["alpha"] == settings["tfreg"]["alpha"] == 0.9, "table 9, RI SST-5"
    akd = next(resolve(**step.given) for step in runs if step.given["method"] == "akd")
    assert subset(akd, ("batch_size", "tau", "phase1_epochs")) == {"batch_size": 8, "tau": 10, "phase1_epochs": 20}


@pytest.mark.parametrize("recipe", STUDIES)
def test_every_shipped_study_can_be_planned(recipe):
    steps = planned(recipe)
    students = [step for step in steps if step.kind == "student"]
    assert len({step.name for step in steps}) == len(steps)
    assert recipe not in STUDENTS or len(students) == STUDENTS[recipe]
    for step in {step.cell: step for step in students}.values():
        assert step.given["model"] in registry.MODELS and step.given["task"] in TASKS
        assert resolve(**step.given)["task"] == step.given["task"]


@pytest.mark.parametrize("recipe", STUDIES)
def test_a_study_names_settings_and_repeats_none(recipe):
    study = recipes.read(recipe, "study")
    decided = {name for rule in recipes.read(study["settings"], "settings")["rules"] for name in rule["set"]}
    assert decided.isdisjoint(study)


def test_a_study_leaves_cells_out():
    found = recipes.without({"without": [{"method": "akd", "init": "random"}, {"task": ["cola", "rte"]}]})
    assert found == [{"method": ["akd"], "init": ["random"]}, {"task": ["cola", "rte"]}]
    assert recipes.without({}) == []
    for bad, said in {
        "akd": "a list of mappings",
        "methd": "unknown key in without 'methd'; did you mean 'method'",
    }.items():
        with pytest.raises(UserError, match=said):
            recipes.without({"without": bad if said.startswith("a list") else [{bad: "akd"}]})
    with pytest.raises(UserError, match="unknown method in without 'akdd'; did you mean 'akd'"):
        recipes.without({"without": [{"method": "akdd"}]})
    lists = {"tasks": ["sst5", "cola"], "models": ["~/x"]}
    assert recipes.without(lists | {"without": {"task": "cola", "model": "~/x"}})[0]["task"] == ["cola"]
    for bad, said in (({"task": "sst-5"}, "task in without 'sst-5'; did"), ({"model": "y"}, "model in without")):
        with pytest.raises(UserError, match=f"unknown {said}"):
            recipes.without(lists | {"without": bad})
    assert recipes.without(lists | {"without": {"task": "rte"}}, {"tasks": ["cola", "rte"]}) == [{"task": ["rte"]}]
    with pytest.raises(UserError, match="tasks=None: allowed is text"):
        recipes.without(lists | {"without": {"task": None}})


def test_seeds_that_settings_were_tuned_on(written, tmp_path):
    first = written({"kind": "settings", "extends": "default", "tuned_on_seeds": [7, 8]}, "first.yaml")
    assert recipes.tuned_on(first) == [7, 8] and recipes.tuned_on("default") == []
    second = written({"kind": "settings", "extends": first, "tuned_on_seeds": 9}, "second.yaml")
    assert recipes.tuned_on(second) == [7, 8, 9]
    third = written({"kind": "settings", "extends": first, "tuned_on_seeds": 0}, "third.yaml")
    assert recipes.tuned_on(third) == [0, 7, 8]


def test_the_demos_study_has_the_seeds_that_two_methods_need():
    lists = grid.lists(recipes.read("smoke", "study"), {})
    assert len(lists["seeds"]) >= (7 if len(lists["methods"]) <= 3 else 8)


def test_a_user_overrides_everything():
    given = {"lr": 1e-3, "alpha": 0.3, "tau": 2.0, "epochs": 1, "task": "rte", "model": "bert-small", "max_length": 64}
    assert subset(resolve("table9", "kd", init="random", **given), given) == given


def test_an_own_files_task_is_its_stem_unless_named(tmp_path, monkeypatch):
    own = tmp_path / "my reviews.csv"
    own.write_text("text,label\n")
    assert resolve("table9", "ls", train_file=str(own))["task"] == "my reviews"
    assert resolve("table9", "ls", train_file=str(own), task="films")["task"] == "films"
    assert resolve("table9", "kd", init="random", train_file=str(own))["alpha"] == 0.5
    assert resolve("table9", "ls", train_file="my reviews.csv")["task"] == "my reviews"
    for here in (".", "../" + tmp_path.name + "/"):
        assert resolve("table13", "ls", train_file=here)["task"] == tmp_path.name


def test_a_methods_parameters_are_its_own():
    given = {"alpha": 0.2, "tau": 3.0, "a": 0.6, "phase1_epochs": 1, "teacher_model": "gpt2", "teacher_run_id": "x"}
    for method, read in {
        "finetune": set(),
        "ls": {"alpha"},
        "tfreg": {"alpha", "tau", "a"},  # and tfreg_target, which is not given
        "selfkd": {"alpha", "tau", "teacher_run_id"},
        "kd": {"alpha", "tau", "teacher_run_id"},  # which names the teacher: its model is the run's
        "akd": {"tau", "phase1_epochs", "teacher_run_id"},
    }.items():
        assert set(resolve("default", method, **given)) & set(given) == read
    assert resolve("default", "kd", teacher_model="gpt2")["teacher_model"] == "gpt2"


@pytest.mark.parametrize(("epochs", "phase1"), [(2, 1), (3, 2), (4, 3), (10, 7), (20, 13), (30, 20)])
def test_phase_1_takes_two_thirds(epochs, phase1):
    assert resolve("default", "akd", epochs=epochs)["phase1_epochs"] == phase1


def test_other_epochs_are_divided_anew():
    """Table 11's 20 epochs of phase I are those of its 30."""
    assert resolve("table11", "akd", epochs=15)["phase1_epochs"] == 10
    assert resolve("table11", "akd", epochs=15, phase1_epochs=4)["phase1_epochs"] == 4
    assert resolve("table11", "akd", phase1_epochs=4)["epochs"] == 30


def test_annealing_kds_temperature_falls_to_1():
    assert resolve("default", "akd", tau=1)["tau"] == 1
    with pytest.raises(
        UserError, match="tau=0.5: akd's temperature falls from it to 1; allowed is a number of at least 1"
    ):
        resolve("default", "akd", tau=0.5)


@pytest.mark.parametrize("given", [{"epochs": 1}, {"epochs": 3, "phase1_epochs": 3}, {"epochs": 3, "phase1_epochs": 4}])
def test_both_phases_need_an_epoch(given):
    with pytest.raises(UserError, match=r"phase1_epochs=\d of epochs=\d: both phases"):
        resolve("default", "akd", **given)


@pytest.fixture
def written(tmp_path):
    """Writes a recipe and gives its path as text."""

    def write(content, name="own.yaml"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return str(path)

    return write


def test_later_rules_win_and_a_users_value_over_all(written):
    rules = [
        {"set": {"epochs": 5, "lr": 1e-3}},
        {"when": {"method": "ls"}, "set": {"epochs": 6}},
        {"when": {"method": ["ls", "kd"], "init": "random"}, "set": {"epochs": 7}},
        {"when": {"role": "teacher"}, "set": {"epochs": 8}},
        {"set": {"lr": "2e-3"}},  # YAML 1.1 reads 2e-3 as text
    ]
    own = written({"kind": "settings", "extends": "default", "rules": rules})
    assert resolve(own, "finetune")["epochs"] == 5
    assert resolve(own, "ls")["epochs"] == 6
    assert resolve(own, "ls", init="random")["epochs"] == 7
    assert resolve(own, "ls", role="teacher", init="random")["epochs"] == 8
    assert resolve(own, "ls", epochs=9)["epochs"] == 9
    assert resolve(own, "ls")["lr"] == 2e-3


@pytest.mark.parametrize("sets", [False, True], ids=["given", "set by the recipe"])
def test_a_condition_is_read_as_a_task_and_a_model_are(sets, tmp_path, monkeypatch):
    path = tmp_path / "own.yaml"
    path.write_text(
        "kind: settings\nextends: default\nrules:\n"
        + "- set: {task: 2024, model: ~/models/x}\n" * sets
        + "- when: {task: 2024}\n  set: {epochs: 7}\n- when: {model: ~/models/x}\n  set: {lr: 0.5}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "2024.csv").touch()
    given = {"train_file": str(tmp_path / "2024.csv"), "model": str(tmp_path / "models" / "x")}
    found = recipes.resolve({"recipe": str(path)} | ({} if sets else given))
    assert (found.task, found.model) == ("2024", str(tmp_path / "models" / "x"))
    assert (found.epochs, found.lr) == (7, 0.5)


def test_a_task_and_a_model_win_over_those_of_the_recipe_that_is_extended(written):
    rules = [{"set": {"task": "cola", "model": "bert-small"}}, {"when": {"task": "cola"}, "set": {"epochs": 11}}]
    own = written({"kind": "settings", "extends": "table9", "rules": rules})
    settings = resolve(own, "kd", init="random")
    assert subset(settings, ("task", "model", "epochs")) == {"task": "cola", "model": "bert-small", "epochs": 11}
    assert settings["alpha"] == 0.5  # not the 0.9 of table 9's sst5
    assert resolve(own, "kd", task="rte")["epochs"] == 30


def test_an_incomplete_recipe_says_what_to_give(written):
    own = written({"kind": "settings", "rules": [{"set": {"task": "rte", "model": "gpt2"}}]})
    with pytest.raises(UserError, match="has no alpha for method ls: give alpha=..."):
        resolve(own, "ls")
    with pytest.raises(UserError, match="has no lr: give lr=..."):
        resolve(own, "finetune")


BAD_RECIPES = {
    "wrong kind": ({"kind": "study"}, "kind is 'study', here it must be 'settings'"),
    "no mapping": ("- a\n- b\n", "kind is None"),
    "empty": ("", "kind is None"),
    "no YAML": ("kind: [settings\n", "not YAML"),
    "no text": (b"kind: \xff\xfe".decode("latin-1"), "kind is"),
    "unknown key": ({"kind": "settings", "ruls": []}, "unknown key in recipe .*did you mean 'rules'"),
    "unknown condition": ({"kind": "settings", "rules": [{"when": {"mthod": "ls"}, "set": {}}]}, "mean 'method'"),
    "unknown parameter": ({"kind": "settings", "rules": [{"set": {"lrr": 1}}]}, "did you mean 'lr'"),
    "a seed in settings": ({"kind": "settings", "rules": [{"set": {"seed": 1}}]}, "unknown parameter in recipe"),
    "unknown method": ({"kind": "settings", "rules": [{"when": {"method": "lss"}, "set": {}}]}, "did you mean 'ls'"),
    "unknown init": ({"kind": "settings", "rules": [{"when": {"init": ["randm"]}, "set": {}}]}, "mean 'random'"),
    "unknown role": ({"kind": "settings", "rules": [{"when": {"role": "techer"}, "set": {}}]}, "mean 'teacher'"),
    "a condition without a value": (
        {"kind": "settings", "rules": [{"when": {"task": []}, "set": {}}]},
        "task has no value in 'when'",
    ),
    "when is a list": ({"kind": "settings", "rules": [{"when": ["method"], "set": {}}]}, "a mapping 'set' and perhaps"),
    "no set": ({"kind": "settings", "rules": [{"when": {"method": "ls"}}]}, "a mapping 'set' and perhaps"),
    "a stray key": ({"kind": "settings", "rules": [{"set": {}, "if": {}}]}, "a mapping 'set' and perhaps"),
    "a rule is text": ({"kind": "settings", "rules": ["lr: 1"]}, "a mapping 'set' and perhaps"),
    "rules is a number": ({"kind": "settings", "rules": 5}, "'rules' is a list"),
    "a key twice": (
        "kind: settings\nrules:\n- when: {method: ls}\n  set: {lr: 1}\n  when: {method: kd}\n  set: {lr: 2}\n",
        "not YAML .*when stands twice",
    ),
    "a placeholder": ("kind: settings\nrules:\n- set: {lr: {{ lr }}}\n", "not YAML"),
    "rules twice": ("kind: settings\nrules: []\nrules: []\n", "rules stands twice"),
    "a task that YAML reads otherwise": (
        {"kind": "settings", "rules": [{"when": {"task": False}, "set": {}}]},
        "task=False.*write them in quotes",
    ),
    "a condition that is a mapping": (
        {"kind": "settings", "rules": [{"when": {"method": {"ls": 1}}, "set": {}}]},
        "unknown method in recipe",
    ),
    "a bad value": (
        {"kind": "settings", "rules": [{"set": {"alpha": 2}}]},
        r"alpha=2: allowed is a number in \[0, 1\]",
    ),
    "a conditional task": (
        {"kind": "settings", "rules": [{"when": {"init": "random"}, "set": {"task": "rte"}}]},
        "only",
    ),
    "extends nothing": ({"kind": "settings", "extends": "tabel9"}, r"unknown recipe \(settings\) 'tabel9'.*'table9'"),
    "extends a number": ({"kind": "settings", "extends": 9}, r"unknown recipe \(settings\) '9'"),
}


def test_a_key_that_is_merged_stands_once(tmp_path):
    path = tmp_path / "own.yaml"
    merged = "- &a {set: &b {lr: 1.0e-3, epochs: 2}}\n- set: &c {<<: *b, lr: 2.0e-3}\n- set: {<<: *c, epochs: 5}\n"
    path.write_text(f"kind: settings\nextends: default\nrules:\n{merged}")
    assert subset(resolve(str(path), "ls"), ("lr", "epochs")) == {"lr": 2e-3, "epochs": 5}


@pytest.mark.parametrize("case", BAD_RECIPES)
def test_a_bad_recipe_is_refused_in_one_line(case, written):
    content, expected = BAD_RECIPES[case]
    with pytest.raises(UserError, match=expected) as refused:
        resolve(written(content), "ls")
    assert "\n" not in str(refused.value)


def test_undecodable_bytes(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_bytes(b"kind: settings # \xff\xfe\n")
    with pytest.raises(UserError, match="not YAML"):
        resolve(str(path), "ls")


def test_recipes_that_extend_each_other(written, tmp_path):
    one, two = str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")
    written({"kind": "settings", "extends": two}, "one.yaml")
    written({"kind": "settings", "extends": one}, "two.yaml")
    with pytest.raises(UserError, match="extends itself .*one.yaml -> .*two.yaml -> .*one.yaml"):
        resolve(one, "ls")


@pytest.mark.parametrize("name", ["tabel9", "table9.yaml", "/nowhere/own.yaml", "smok"])
def test_an_unknown_recipe_names_the_nearest(name):
    with pytest.raises(UserError, match=r"unknown recipe \(settings\).*Known: .*default, .*table9"):
        resolve(name, "ls")


def test_a_study_is_no_settings_file(written):
    path = written({"kind": "settings", "rules": []})
    with pytest.raises(UserError, match="kind is 'settings', here it must be 'study'"):
        recipes.read(path, "study")
    with pytest.raises(UserError, match="unknown key in recipe .*did you mean 'seeds'"):
        recipes.read(written({"kind": "study", "seedz": [1]}), "study")


@pytest.mark.parametrize("path", sorted((recipes.HERE / "settings").glob("table*.yaml")), ids=lambda path: path.stem)
def test_every_value_of_a_table_says_where_it_comes_from(path: Path):
    lines = [line.strip().removeprefix("- ") for line in path.read_text(encoding="utf-8").splitlines()]
    values = [line for line in lines if line.partition(":")[0] in {*settable()} - {"task", "model"}]
    assert values and not [line for line in values if "#" not in line]


@pytest.mark.parametrize("method", ["lss", "LS"])
def test_an_unknown_method_is_refused_with_the_nearest(method):
    known = f"unknown method .*did you mean 'ls'.*Known: {', '.join(sorted(METHODS))}"
    with pytest.raises(UserError, match=known):
        resolve("default", method)


def test_an_unknown_method_of_a_study_is_refused():
    given = {name: ["x"] for name in ("tasks", "models", "inits")} | {"seeds": [1], "methods": ["finetune", "kdd"]}
    with pytest.raises(UserError, match="unknown method 'kdd'; did you mean 'kd'"):
        grid.lists({}, given)
