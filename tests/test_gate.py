"""A study that can decide nothing is refused before it begins: by its number of seeds, or by what other seeds show."""

import random

import pytest
from conftest import FILLERS, WORDS
from running import call, in_this_process, refused, runs, succeed

from entrypoints.command import parse
from labelreg import recipes
from labelreg.settings import with_defaults
from labelreg.studies import gate, outlook, plan

pytest_plugins = ["running"]
NO = {"accept_undecidable": "false"}  # as a user has it who gives nothing


@pytest.fixture
def study(tiny, tmp_path, monkeypatch) -> dict:
    """A study of finetune and ls whose runs take a second."""
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    recipe = tmp_path / "two.yaml"
    recipe.write_text("{kind: study, models: [bert-small], inits: [pretrained], methods: [finetune, ls], seeds: [1]}")
    chance, files = random.Random(0), {}
    for split, number in (("train", 400), ("test", 200)):  # one example is worth half a point, or less
        rows = ["text,label"]
        for _ in range(number):
            label = chance.choice(list(WORDS))
            words = chance.choices(FILLERS, k=chance.randint(2, 12)) + chance.sample(WORDS[label], 2)
            rows.append(
                f"{' '.join(words)},{chance.choice([label, label, *WORDS])}"
            )  # hard enough for methods to differ
        files[f"{split}_file"] = tmp_path / f"{split}.csv"
        files[f"{split}_file"].write_text("\n".join(rows))
    own = {"recipe": recipe, "jobs": 1, "lr": 5e-3, "alpha": 0.9, "max_train_examples": 24} | files
    return {name: value for name, value in tiny.items() if name != "model"} | own


def test_too_few_seeds_are_refused_in_one_line_before_anything_is_done(study, tmp_path):
    ended = call("study", **study | NO, seeds="1,2")
    refused(ended, "can decide nothing", "no data of 2 seeds could show", " seeds; accept_undecidable=true runs it all")
    assert not runs() and not list(tmp_path.glob("cache/prepared/*"))
    said = succeed("study", **study | NO, seeds="1,2", plan_only="true").out
    assert said.splitlines()[-1].startswith("study ") and "can decide nothing" in said
    assert not runs("student")
    succeed("study", **study, seeds="1,2", accept_undecidable="true")
    assert len(runs("student")) == 4
    succeed("study", **study | NO, seeds="1,2")  # nothing is left to spend: it is judged
    assert len(runs("student")) == 4


def test_what_is_proposed_passes(study):
    line = call("study", **study | NO, seeds="1,2").err
    number = int(line.partition("what would: ")[2].split()[0])
    seeds = ",".join(map(str, range(1, number + 1)))
    assert "can decide nothing" not in succeed("study", **study | NO, seeds=seeds, plan_only="true").out


def test_the_spread_of_other_seeds_decides_and_that_of_its_own_does_not(study):
    succeed("study", **study | {"epochs": 12}, seeds="1,2,3,4,5")
    own, other = {"seeds": "1,2,3,4,5,6,7,8"}, {"seeds": "11,12,13,14,15,16,17,18"}
    small = study | NO | {"epochs": 12, "plan_only": "true"}
    assert "can decide nothing" not in succeed("study", **small, **own, margin=0.5).out
    assert "can decide nothing" not in succeed("study", **small | {"epochs": 5}, **other, margin=0.5).out, "other runs"
    said = succeed("study", **small, **other, margin=0.5).out.splitlines()[-1]
    assert "differences of other seeds have sd " in said and "of the margin (0.5 points) takes" in said
    refused(call("study", **small | {"plan_only": "false"}, **other, margin=0.5), said)
    proposed = float(said.partition("margin=")[2].split(",")[0])
    assert "can decide nothing" not in succeed("study", **small, **other, margin=proposed).out


def test_rest_is_proposed_where_there_is_none_yet(study):
    cut = study | {"rest": "off", "epochs": 12}
    succeed("study", **cut, seeds="1,2,3,4,5")
    small = cut | NO | {"seeds": "11,12,13,14,15,16", "margin": 0.5, "plan_only": "true"}
    assert "what would: rest=on (more test examples), or margin=" in succeed("study", **small).out
    succeed("study", **cut | {"rest": "on"}, seeds="1,2,3,4,5")
    assert "what would: margin=" in succeed("study", **small | {"rest": "on"}).out


@pytest.mark.parametrize("recipe", recipes.shipped("study"))
def test_a_shipped_study_passes(recipe, store):
    design = plan.design_of(with_defaults("study", parse("study", [f"--recipe={recipe}"])))
    told = gate.undecidable(design, outlook.look(design.steps), {})
    assert not told


def test_a_study_that_compares_nothing_has_nothing_to_decide(study):
    assert "can decide nothing" not in succeed("study", **study | NO, methods="ls", plan_only="true").out
