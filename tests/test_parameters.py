"""Every value that the issue calls bad is refused with what is allowed; every good spelling is one value."""

import dataclasses
import importlib.util
import shlex
from pathlib import Path

import pytest
import yaml

from entrypoints.command import parse
from labelreg import methods, parameter, places, settings
from labelreg.errors import UserError
from labelreg.settings import ENTRY_POINTS, Folders, with_defaults

ROOT = Path(__file__).parents[1]
MLPROJECT = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
KNOWN = settings.known()

BAD = [  # name, value, what the line says is allowed
    ("alpha", "1.5", "a number in [0, 1]"),
    ("alpha", "-0.1", "a number in [0, 1]"),
    ("alpha", "nan", "a number in [0, 1]"),
    ("alpha", "high", "a number in [0, 1]"),
    ("tau", "0", "a number above 0"),
    ("tau", "-1", "a number above 0"),
    ("tau", "inf", "a number above 0"),
    ("a", "0", "a number in (0, 1)"),
    ("a", "1", "a number in (0, 1)"),
    ("a", "1.2", "a number in (0, 1)"),
    ("lr", "0", "a number above 0"),
    ("lr", "-2e-5", "a number above 0"),
    ("lr", "2e-5x", "a number above 0"),
    ("lr", "inf", "a number above 0"),
    ("epochs", "0", "an integer of at least 1"),
    ("epochs", "2.5", "an integer of at least 1"),
    ("epochs", "many", "an integer of at least 1"),
    ("phase1_epochs", "0", "an integer of at least 1"),
    ("batch_size", "0", "an integer of at least 1"),
    ("batch_size", "-8", "an integer of at least 1"),
    ("max_length", "3", "an integer of at least 4"),
    ("max_train_examples", "0", "an integer of at least 1"),
    ("threads", "0", "an integer in [1, "),
    ("weight_decay", "-0.1", "a number of at least 0"),
    ("warmup_ratio", "1.1", "a number in [0, 1]"),
    ("seed", "abc", "an integer in [0, 4294967295]"),
    ("seed", "1.5", "an integer in [0, 4294967295]"),
    ("seed", "-1", "an integer in [0, 4294967295]"),
    ("seed", "10000000000000000000000", "an integer in [0, 4294967295]"),
    ("split_seed", "x", "an integer in [0, 4294967295]"),
    ("level", "0", "a number in (0, 0.5]"),
    ("level", "0.6", "a number in (0, 0.5]"),
    ("init", "pretraned", "did you mean 'pretrained'? Known: pretrained, random"),
    ("precision", "fp16", "did you mean 'bf16'? Known: auto, bf16, fp32"),
    ("selection", "lats", "did you mean 'last'? Known: best, last"),
    ("save_model", "yes", "Known: auto, false, true"),
    ("seeds", "1,2,x", "seeds=x: allowed is an integer"),
    ("inits", "randm", "unknown init 'randm'; did you mean 'random'?"),
    ("momentum", "1", "a number in [0, 1)"),
    ("lr_milestones", "0.3,1", "lr_milestones=1: allowed is a number in (0, 1)"),
    ("optimizer", "adam", "did you mean 'adamw'? Known: adamw, sgd"),
    ("tfreg_target", "papr", "did you mean 'paper'? Known: code, paper"),
    ("image_size", "7", "an integer in [8, "),
]
BAD_YAML = [("epochs", float("inf")), ("epochs", True), ("epochs", [3]), ("lr", None), ("lr", False), ("task", None)]
BAD_YAML += [("lora_targets", None)]


def convert(name: str, value: object) -> parameter.Value:
    return parameter.convert(name, KNOWN[name], value)


@pytest.mark.parametrize(("name", "value", "allowed"), BAD)
def test_a_bad_value_is_refused_with_what_is_allowed(name, value, allowed):
    entry_point = next(point for point in ENTRY_POINTS if name in settings.parameters(point))
    with pytest.raises(UserError) as refused:
        parse(entry_point, [f"--{name}={value}"])
    line = str(refused.value)
    assert allowed in line
    assert value.split(",")[-1] in line
    assert "\n" not in line


@pytest.mark.parametrize(("name", "value"), BAD_YAML)
def test_a_value_that_only_yaml_has_is_refused(name, value):
    with pytest.raises(UserError, match=f"^{name}=.*allowed is"):
        convert(name, value)


@pytest.mark.parametrize(("given", "nearest"), [("--alhpa=0.1", "alpha"), ("--batchsize=8", "batch_size")])
def test_an_unknown_parameter_names_the_nearest(given, nearest):
    with pytest.raises(UserError, match=f"unknown parameter .*did you mean '{nearest}'"):
        parse("train_student", [given])


def test_an_unknown_parameter_points_to_the_list_of_all():
    known = "`python -m entrypoints.study --help` lists them"
    for given, said in {"xyzzy": ".", "tain_file": "; did you mean 'train_file'?"}.items():
        with pytest.raises(UserError) as refused:
            parse("study", [f"--{given}=1"])
        assert str(refused.value) == f"unknown parameter '{given}'{said} {known}"


@pytest.mark.parametrize("arguments", [["--alhpa", "0.1"], ["stray"], ["--lr"], ["--alp=0.1"]])
def test_a_command_line_that_cannot_be_read_is_one_line(arguments):
    with pytest.raises(UserError) as refused:
        parse("train_student", arguments)
    assert "\n" not in str(refused.value)


def test_what_another_entry_point_reads_is_unknown_here():
    with pytest.raises(UserError, match="unknown parameter 'scores'"):
        parse("train_student", ["--scores=x.csv"])


@pytest.mark.parametrize("value", ["2e-5", "2E-5", "2.0e-05", "0.00002", "2e-05", " 2e-5 ", 2e-5])
def test_one_learning_rate_in_every_spelling(value):
    assert convert("lr", value) == 2e-5


@pytest.mark.parametrize(("name", "value", "expected"), [("epochs", 20.0, 20), ("epochs", "20", 20), ("seed", "0", 0)])
def test_integers(name, value, expected):
    converted = convert(name, value)
    assert converted == expected
    assert type(converted) is int


def test_bounds_that_belong_to_the_range():
    ends = {"alpha": ("0", "1"), "warmup_ratio": ("0", "1"), "epochs": ("1",), "seed": ("0", str(2**32 - 1))}
    ends |= {"level": ("0.5",), "weight_decay": ("0",)}
    for name, values in ends.items():
        for value in values:
            assert convert(name, value) == float(value)


def test_lists():
    assert convert("seeds", "0, 42,7") == convert("seeds", [0, 42, "7"]) == [0, 42, 7]
    assert convert("methods", "finetune,ls,") == ["finetune", "ls"]
    assert convert("lr_milestones", "0.3, 0.6") == convert("lr_milestones", [0.3, 0.6]) == [0.3, 0.6]
    assert convert("tasks", "my own task,sst5") == ["my own task", "sst5"]


def test_an_empty_value_is_the_default():
    assert parse("train_student", ["--method=", "--lr", "", "--seed="]) == {}
    assert with_defaults("train_student", {}) | {"seed": 42, "init": "pretrained", "method": "finetune"} == (
        with_defaults("train_student", parse("train_student", ["--method="]))
    )


def test_both_ways_to_write_a_parameter_and_values_with_spaces():
    assert parse("train_student", ["--text_column", "the text", "--label_column=a = b"]) == {
        "text_column": "the text",
        "label_column": "a = b",
    }


def test_seed_0_is_a_seed():
    assert with_defaults("train_student", parse("train_student", ["--seed=0"]))["seed"] == 0


def test_given_values_win_over_defaults():
    assert with_defaults("train_student", {"init": "random"})["init"] == "random"
    assert "lr" not in with_defaults("train_student", {})  # the recipe decides


@pytest.mark.parametrize("entry_point", MLPROJECT)
def test_mlproject_declares_what_the_table_says(entry_point):
    """A default stands once: what MLproject must repeat is compared here."""
    declared = MLPROJECT[entry_point].get("parameters", {})
    for name, spec in declared.items():
        assert spec["default"] == settings.parameters(entry_point)[name].default
    words = shlex.split(MLPROJECT[entry_point]["command"])
    assert words[:3] == ["python", "-m", f"entrypoints.{entry_point}"]
    assert words[3:] == [f"--{name}={{{name}}}" for name in declared]


@pytest.mark.parametrize("entry_point", MLPROJECT)
def test_mlproject_names_entry_points_that_exist(entry_point):
    assert entry_point in ENTRY_POINTS
    assert importlib.util.find_spec(f"entrypoints.{entry_point}")


def test_issue_3_has_its_entry_points():
    assert {"prepare", "train_teacher", "train_student", "significance", "submission", "main"} <= set(MLPROJECT)


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_help_documents_every_parameter(entry_point, capsys):
    with pytest.raises(SystemExit) as left:
        parse(entry_point, ["--help"], "What it does.")
    shown = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0
    assert "What it does." in shown
    for name, each in settings.parameters(entry_point).items():
        assert f"--{name} {each.kind.upper()}" in shown
        assert " ".join(each.help.split()) in shown


def test_every_parameter_is_read_somewhere_and_says_what_it_is():
    facets = [each for each in vars(settings).values() if isinstance(each, type) and dataclasses.is_dataclass(each)]
    assert {*settings.of(*facets), *methods.own_parameters()} == set(KNOWN)
    assert all(each.help for each in KNOWN.values())


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_defaults_are_allowed_values(entry_point):
    for name, each in settings.parameters(entry_point).items():
        assert each.default is None or parameter.convert(name, each, each.default) == each.default


def test_folders_come_from_the_parameter_then_the_variable(tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert places.roots(Folders()).data is None
    monkeypatch.setenv("LABELREG_DATA_ROOT", str(two))
    assert places.roots(Folders()).data == two
    assert places.roots(Folders(data_root=str(one))).data == one
    with pytest.raises(UserError, match="^data_root=.*no such folder"):
        places.roots(Folders(data_root=str(tmp_path / "none")))


def test_a_parameter_is_given_once():
    assert parse("train_student", ["--seed=1", "--seed", "1"]) == {"seed": 1}
    with pytest.raises(UserError, match="seed is given twice: 1 and 2"):
        parse("train_student", ["--seed=1", "--seed=2"])


@pytest.mark.parametrize("given", ["seed", "-s", "--", "seed=1"])
def test_what_is_no_parameter_is_told_how_one_looks(given):
    with pytest.raises(UserError, match="parameters are given as --name=value"):
        parse("train_student", ["--lr=1", given, "x"])


def test_negative_zero_is_zero():
    (value,) = parse("train_student", ["--alpha=-0.0"]).values()
    assert str(value) == "0.0", "its fingerprint would be another"
