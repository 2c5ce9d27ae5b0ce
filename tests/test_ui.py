"""The run-comparison page of the MLflow UI in headless Chromium: the methods' names and their scores."""

import json
import re
from urllib.parse import quote

import pytest
from browsing import PATIENCE_MS, chromium
from running import run_of, succeed

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
