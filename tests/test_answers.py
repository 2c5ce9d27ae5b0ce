"""The published answers: a plan is that of its recipe and older than its runs, and its scores hold to it."""

import json
import re
import shlex
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from running import succeed

from analysis import exported, reading
from analysis.plan_check import LACKS, plan_digest
from analysis.present.render import join, signed
from entrypoints.command import parse
from labelreg import recipes
from labelreg.settings import with_defaults
from labelreg.studies import plan as studies
from tools import figures

pytest_plugins = ["running"]

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in ROOT.glob("results/*/plan.json"))
SCORES = [folder for folder in FOLDERS if (folder / "scores.csv").is_file()]


def section(folder: Path) -> str:
    """What the page says was found in a study; nothing, as long as it runs."""
    page = (ROOT / "docs" / "answer.md").read_text(encoding="utf-8")
    return page.partition(f"\n## {folder.name[-1].upper()}: found\n")[2].partition("\n## ")[0]


PRETRAINED_KD = ("kd", "pretrained")
FOUND = [folder for folder in SCORES if section(folder)]


def plan_of(folder: Path) -> dict:
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    plan.pop("reused")
    return plan


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_plan_is_that_of_its_recipe(folder):
    """A recipe that was changed after its plan would be another study under the same name."""
    plan, words = plan_of(folder), [f"--recipe={folder.name}"]
    made = studies.design_of(with_defaults("study", parse("study", words))).plan
    assert plan_digest(made) == plan_digest(plan)
    assert plan_digest(plan) in (ROOT / "docs" / "answer.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", SCORES, ids=lambda folder: folder.name)
def test_scores_are_of_the_plan_and_younger(folder, store):
    plan = plan_of(folder)
    runs, _ = reading.scores_table(folder / "scores.csv")
    students = runs[runs[exported.KIND] == "student"]
    plans = sorted(exported.plans(runs) or (), key=lambda logged: logged["start"])
    # beside it those of its pilots, and of the run under which it went on in another store
    logged = next(logged for logged in plans if logged["digest"] == plan_digest(plan))
    assert plan_digest(logged["plan"]) == logged["digest"]
    taken = students["run_id"].isin(logged["reused"])  # by answer-b and answer-c of answer-a, as they are
    own = students[~taken]
    assert len(own) and pd.to_datetime(own["start_time"]).min().timestamp() > logged["start"]
    assert set(students["params.precision"]) == {recipes.asked(folder.name)["precision"]}
    cells = students[["params.task", "params.model", "params.init", "params.method"]].itertuples(index=False, name=None)
    assert {*cells} <= {*map(tuple, plan["cells"])} and {*students["params.seed"].astype(int)} <= {*plan["seeds"]}
    succeed("significance", csv=folder / "scores.csv", output_dir="told")
    said = json.loads(Path("told/significance.json").read_text(encoding="utf-8"))
    assert (said["parameters"]["margin"], said["parameters"]["looks"]) == (plan["margin"], plan["looks"])
    lacks = any(line.startswith(LACKS) for line in said["text"]["plan"])
    assert not (lacks and folder in FOUND), "the page tells of a whole study"


@pytest.mark.parametrize("folder", FOUND, ids=lambda folder: folder.name)
def test_what_was_found_is_what_its_commands_say(folder, store):
    found, made, said = section(folder), {}, set[str]()
    asked = re.findall(rf"`mlflow run \. -e significance (-P csv=results/{folder.name}/scores\.csv[^`]*)`", found)
    for nth, command in enumerate(asked):
        given = dict(word.split("=", 1) for word in shlex.split(command) if word != "-P")
        succeed("significance", **given | {"csv": ROOT / given["csv"], "output_dir": f"told-{nth}"})
        answer = Path(f"told-{nth}/significance.md").read_text(encoding="utf-8")
        made[nth], said = tables_of(answer), said | {*answer.splitlines()}
    published = ["\n".join(rows) for is_table, rows in groupby(found.splitlines(), in_table) if is_table]
    for table in published:
        assert any(table in tables.values() for tables in made.values()), f"no command makes\n{table}"
    assert any(tables["In short"] in published for tables in made.values())
    quoted = [line.removeprefix("> ") for line in found.splitlines() if line.startswith("> ")]
    assert {f"- {line}" for line in quoted} <= said


def test_the_readme_says_what_was_found(store):
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    a, b, c = (
        compared(letter, **more) for letter, more in (("a", {}), ("b", {}), ("c", {"reference": "finetune+swa"}))
    )
    gains = {row["task"]: signed(row["mean_difference"]) for row in a if (row["method"], row["init"]) == PRETRAINED_KD}
    assert f"KD is better on both tasks ({gains['sst5']} and {gains['rotten_tomatoes']} points)" in readme
    assert {row["method"] for row in a if row["init"] == "pretrained" and row["verdict"] == "better"} == {"kd", "akd"}
    sizes: dict[str, list[str]] = {"better": [], "equivalent": [], "undecided": []}
    for row in b:
        if (row["method"], row["init"]) == PRETRAINED_KD:
            size = re.search(r"max_train_examples=(\d+)", row["setting"])[1]
            sizes[row["verdict"]].append(f"{int(size):,}")
    said = f"At {join(sizes['better'])} sentences KD is better, at {join(sizes['equivalent'])} equivalent;"
    assert said in readme and not sizes["undecided"]
    better = [(row["method"], row["task"]) for row in c if row["verdict"] == "better"]
    assert sorted(better) == [("kd+swa", "rotten_tomatoes"), ("kd+swa", "sst5")]
    assert "Label smoothing and MaxSup are not shown to; KD with averaged weights does." in readme


def compared(letter: str, **asked: str) -> list[dict]:
    """The comparisons of a published answer."""
    succeed("significance", csv=ROOT / "results" / f"answer-{letter}" / "scores.csv", output_dir="told", **asked)
    return json.loads(Path("told/significance.json").read_text(encoding="utf-8"))["comparisons"]


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").glob("answer-*.svg")), ids=lambda path: path.stem)
def test_a_picture_is_of_the_scores(picture, store):
    succeed("report", csv=ROOT / "results" / picture.stem / "scores.csv", output_dir="told")
    pages = Path("told/report.html"), ROOT / "results" / picture.stem / "report.html"
    again = f"-e report -P csv=results/{picture.stem}/scores.csv"
    assert again in pages[1].read_text(encoding="utf-8"), "made where a reader makes it: with another path it has that"
    made, published = (page.read_text(encoding="utf-8") for page in pages)
    sentences = re.compile(r"<dd>.*?</dd>|<p class=\"note\">.*?</p>", re.S)
    assert sentences.findall(made) == sentences.findall(published) != [], "what it says has changed: make it again"
    made, published = (described(figures.stacked(page)) for page in (made, published))
    assert made == published == described(picture.read_text(encoding="utf-8")) != []


def described(picture: str) -> list[str]:
    """What its figures say in words: each method, its effect and its verdict."""
    return [each.text or "" for each in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}desc")]


def in_table(line: str) -> bool:
    return line.startswith("| ")


def tables_of(answer: str) -> dict[str, str]:
    """The table of each section of a significance.md, by the section's title."""
    parts = (part.partition("\n") for part in answer.split("\n## ")[1:])
    return {title: "\n".join(filter(in_table, text.splitlines())) for title, _, text in parts}
