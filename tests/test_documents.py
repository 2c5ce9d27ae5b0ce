"""The commands that README.md and the guide give, read out of them: each is one that there is; README's are run, small.

What a command is given is what stands in the file. Added are only a smaller model, fewer examples and epochs, and files
of the names that it gives; a study is planned.
"""

import importlib.util
import itertools
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import FILLERS, WORDS
from running import ROOT, call, succeed

from analysis import pairing, reading
from analysis.judge import judge
from analysis.present import render
from entrypoints.command import parse
from labelreg import settings

pytest_plugins = ["running"]

DOCUMENTS = ("README.md", "docs/guide.md", "docs/results.md", "docs/statistics.md", "docs/methods.md")
NOT_GIVEN = re.compile(r"NAME|FILE|FOLDER|\.\.\.")  # where a reader puts something of their own


def commands(document: str) -> list[str]:
    """The lines of the blocks and the words in backquotes that begin with a command, without their comments."""
    text = re.sub(r"\\\n *", "", (ROOT / document).read_text(encoding="utf-8"))  # a line that goes on
    found = [line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M) for line in block.splitlines()]
    found += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    begins = re.compile(
        r"(?!.*\.py:)(mlflow run \.|make [a-z]|python -m |-P )"
    )  # a loss of one's own is in no file here
    return list(dict.fromkeys(re.split(r"\s+#", line)[0].strip() for line in found if begins.match(line)))


ALL = [(document, line) for document in DOCUMENTS if (ROOT / document).is_file() for line in commands(document)]


def asked(line: str) -> tuple[str, list[str]]:
    """The entry point and the parameters of an `mlflow run` line, or of `-P name=value` alone (then of none: '')."""
    words, entry_point, given = iter(shlex.split(line)), "", []
    for word in words:
        if word == "-P":
            given.append(f"--{next(words)}")
        elif word == "-e":
            entry_point = next(words)
        elif word == "--env-manager":
            assert next(words) in ("local", "uv", "conda", "virtualenv")
        else:
            assert word in ("mlflow", "run", "."), f"{word} in: {line}"
    return entry_point or ("main" if line.startswith("mlflow") else ""), given


def test_there_are_commands_in_the_readme():
    assert len(commands("README.md")) >= 10


@pytest.mark.parametrize(("document", "line"), ALL)
def test_a_command_is_one_that_there_is(document, line):
    if line.startswith("make "):
        assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), re.M), line
    elif line.startswith("python -m "):
        module = line.split()[2]
        assert NOT_GIVEN.search(module) or importlib.util.find_spec(module), line
    else:
        entry_point, words = asked(line)
        words = [word for word in words if not NOT_GIVEN.search(word) and word != "--name=value"]
        if entry_point:
            assert entry_point in yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
            assert len(parse(entry_point, words)) == len(words), "an empty value"
        else:  # of some command: one takes all of them
            names = {word.lstrip("-").partition("=")[0] for word in words}
            taker = next((each for each in settings.ENTRY_POINTS if names <= set(settings.parameters(each))), None)
            assert taker and parse(taker, words) is not None, line


def write_file(path: Path, text_column: str) -> None:
    labels = list(WORDS)
    rows = [f"{' '.join(FILLERS[:3])} {WORDS[labels[n % 3]][n % 2]} {n},{labels[n % 3]}" for n in range(60)]
    path.write_text("\n".join([f"{text_column},label", *rows]), encoding="utf-8")


def small(entry_point: str, given: dict, tiny_models: Path) -> dict:
    """What is added to a command so that it ends in seconds."""
    if entry_point in ("study", "main"):
        return {"plan_only": "true", "model_root": tiny_models}
    if not entry_point.startswith("train"):
        return {"trials": 1} if entry_point == "tune" else {}
    few = {"model": "bert-small", "model_root": tiny_models, "epochs": 1, "lr": 1e-3, "batch_size": 8, "threads": 1}
    return few | {"max_length": 32} | ({} if "train_file" in given else {"max_train_examples": 60, "rest": "off"})


RUN = [line for line in commands("README.md") if line.startswith("mlflow run") and not NOT_GIVEN.search(line)]


@pytest.mark.slow
@pytest.mark.parametrize("line", dict.fromkeys(" ".join(line.split()) for line in RUN))
def test_a_command_of_the_readme_runs(line, store, tiny_models):
    entry_point, words = asked(line)
    given = dict(word.removeprefix("--").split("=", 1) for word in words)
    if "train_file" in given:
        write_file(store / given["train_file"], given.get("text_column", "text"))
    if "csv" in given and (ROOT / given["csv"]).is_file():  # a published one: the command is given where it lies
        (store / given["csv"]).parent.mkdir(parents=True)
        shutil.copyfile(ROOT / given["csv"], store / given["csv"])
    elif "csv" in given:
        rows = [
            f"sst5,mine,pretrained,{m},{seed},{70 + seed + (m == 'kd')}"
            for seed in range(6)
            for m in ("finetune", "kd")
        ]
        (store / given["csv"]).write_text("\n".join(["task,model,init,method,seed,score", *rows]), encoding="utf-8")
    if entry_point in ("promote", "report"):  # what they are made of
        write_file(store / "reviews.csv", "text")
        for seed, method in itertools.product(range(5), ("finetune", "ls")):
            few = small("train_student", {"train_file": ""}, tiny_models) | {"epochs": 6, "lr": 3e-3}
            few |= {"train_file": "reviews.csv"}
            succeed("train_student", **few, seed=seed, method=method, save_model="true")
    found = call(entry_point, **(small(entry_point, given, tiny_models) | given))
    assert found.status == 0 and not found.err, found
    assert found.out.strip()


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda path: path.name)
def test_links_lead_to_what_is_there(path):
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize(
    ("scores", "section"),
    [("methods-sst5", "## Do the improved variants"), ("methods-sst5-tuned", "### The same, each method")],
)
def test_the_table_of_all_methods_is_what_its_scores_give(scores, section):
    """docs/results.md against the scores: means, differences, p and verdicts."""
    runs, _ = reading.scores_table(ROOT / "results" / f"{scores}.csv")
    judged = judge(pairing.pair(runs, metric="score")).set_index("method")
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").partition(section)[2].partition("\n#")[0]
    rows = re.findall(r"^\| `(.+?)` \| (\S+) ± \S+ \| (\S+) \| (\S+) \| (\w+) \|", text, re.M)
    assert [name for name, *_ in rows] == list(judged.index)
    for name, mean, difference, p, verdict in rows:
        row = judged.loc[name]
        assert (mean, p) == (render.number(row["mean_method"]), render.p_text(row["p_holm"])), name
        assert (float(difference), verdict) == (float(render.number(row["mean_difference"])), row["verdict"]), name


def test_the_table_of_adapters_is_what_its_scores_give():
    """docs/results.md against results/lora-sst5.csv."""
    runs, _ = reading.scores_table(ROOT / "results" / "lora-sst5.csv")
    judged = judge(pairing.pair(runs, metric="score")).set_index("protocol")
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for name, of in (("all weights", "tuning=full"), ("LoRA", "tuning=lora")):
        (told,) = re.findall(rf"^\| {name} \| (\S+) ± \S+ \| (\S+) ± \S+ \| (\S+) \| (\S+) \| (\w+) \|", text, re.M)
        row = judged.loc[of]
        means = [render.number(row[column]) for column in ("mean_reference", "mean_method", "mean_difference")]
        assert told == (*means, render.p_text(row["p_holm"]), row["verdict"])
