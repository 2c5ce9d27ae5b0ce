"""The MLflow UI in headless Chromium: methods' names and scores, in its comparison page and without a click in ours."""

import json
import re
from urllib.parse import quote

import mlflow
import pytest
from browsing import PATIENCE_MS, chromium
from running import run_of, runs, succeed
from stores import generate

pytest_plugins = ["running"]


@pytest.fixture
def page():
    """A page of a headless Chromium."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1600, "height": 2400})
        page.set_default_timeout(PATIENCE_MS)
        yield page


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.browser
def test_the_ui_compares_two_methods(page, server, served, tiny_file, tiny_models):
    given = {"train_file": tiny_file, "model": "bert-small", "model_root": tiny_models, "batch_size": 8, "threads": 1}
    learnt = {"ls": {"epochs": 1, "lr": 1e-6}, "tfreg": {"epochs": 8, "lr": 5e-3}}
    made = {name: run_of(succeed("train_student", **given, method=name, **how)) for name, how in learnt.items()}
    scores = {name: run.data.metrics["best/dev/score"] for name, run in made.items()}
    assert abs(scores["ls"] - scores["tfreg"]) > 1, "two scores that can be told apart"
    ids = [run.info.run_id for run in made.values()]
    page.goto(f"{server}/#/compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([served]))}")

    page.get_by_text("best/dev/score", exact=True).last.wait_for()
    text = page.locator("body").inner_text()
    assert re.search(r"^method\tls\ttfreg$", text, re.MULTILINE), f"the methods' names are not in the page:\n{text}"
    numbers = [float(line) for line in text.splitlines() if re.fullmatch(r"\d+(\.\d+)?", line)]
    for name, score in scores.items():
        assert any(abs(number - score) < 0.01 for number in numbers), f"{name}: {score} is not in the page:\n{text}"


CELLS = """name => [...document.querySelectorAll(`.ag-row [col-id="${name}"]`)].map(cell => cell.innerText.trim())"""
DRAWN = "() => [...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.data.map(line => [...line.y]))"


def column(page, name):
    """The texts of a column, by row, once the rows are there."""
    page.locator(f'.ag-row [col-id="{name}"]').first.wait_for()
    return page.evaluate(CELLS, name)


def near(shown, value):
    """A number as the table shows it: its digits end in an ellipsis of the cell, not of the text."""
    return abs(float(shown) - value) < 1e-6


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.browser
def test_each_link_shows_methods_and_scores_without_a_click(page, server, served, tiny_file, tiny_models):
    generate({"pretrained": {"ls": 1.5}, "random": {"ls": 0.0}}, ["sst2"], range(6), epochs=3, experiment=served)
    methods = succeed("significance").out.split()[-1]
    tiny = {"train_file": tiny_file, "model": "bert-small", "model_root": tiny_models, "max_length": 32}
    search = succeed("tune", **tiny, method="ls", trials=2, epochs=1, executor="local").out.split()[-1]
    assert methods.startswith(f"{server}/#/experiments/{served}/runs?") and "=search&" in search

    page.goto(methods)
    here = {
        kind: [run for run in runs(kind) if run.info.experiment_id == served]
        for kind in ("summary", "student", "trial")
    }
    summaries = sorted(here["summary"], key=lambda run: run.info.run_name)
    assert column(page, "params.`method`") == [run.data.params["method"] for run in summaries]
    assert len(summaries) == 4 and "better" in column(page, "tags.`labelreg.verdict`")
    means = column(page, "metrics.`summary/mean`")
    assert all(near(*pair) for pair in zip(means, [run.data.metrics["summary/mean"] for run in summaries], strict=True))
    assert page.get_by_text("Model training").is_visible(), "the UI's side for models"

    page.goto(methods.replace("=methods", "=seeds"))
    students = {run.info.run_name: run for run in here["student"]}
    page.get_by_text(min(students), exact=True).wait_for()
    names = [name.splitlines()[-1] for name in column(page, "attributes.`Run Name`")]  # a colour stands before it
    seeds = column(page, "params.`seed`")
    scores = column(page, "metrics.`best/test/score`")
    assert len(names) == len(students) == 24
    for name, seed, score in zip(names, seeds, scores, strict=True):
        assert students[name].data.params["seed"] == seed
        assert near(score, students[name].data.metrics["best/test/score"])

    page.goto(methods.replace("=methods", "=curves") + "&compareRunsMode=CHART")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length >= 2")
    lines, text = page.evaluate(DRAWN)[0], page.locator("body").inner_text()
    for init in ("pretrained", "random"):
        for method in ("finetune", "ls"):
            assert f"method: {method}, average: (none), init: {init}, task: sst2" in text, "a line's name"
            mine = [run.info.run_id for run in students.values() if f" {init} {method} " in run.info.run_name]
            points = [mlflow.MlflowClient().get_metric_history(run_id, "dev/score") for run_id in mine]
            mean = [sum(point.value for point in epoch) / len(mine) for epoch in zip(*points, strict=True)]
            assert any(all(near(*pair) for pair in zip(line, mean, strict=True)) for line in lines if len(line) == 3)

    page.goto(search)
    trials = {run.data.tags["optuna.trial"]: run.data for run in here["trial"]}
    assert sorted(column(page, "tags.`optuna.trial`")) == sorted(trials) == ["0", "1"]
    assert set(column(page, "tags.`optuna.state`")) == {"complete"}
    assert set(column(page, "params.`lr`")) == {trial.params["lr"] for trial in trials.values()}
    assert "Error loading shared view" not in page.locator("body").inner_text()
