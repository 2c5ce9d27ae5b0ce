"""`report` on real stores and tables, and its page in headless Chromium: two widths, light and dark, offline."""

import re
from pathlib import Path

import mlflow
import pytest
from browsing import PATIENCE_MS, chromium
from running import artifacts, call, refused, runs, succeed
from stores import generate

pytest_plugins = ["running"]

EFFECTS = {"pretrained": {"ls": 0.0}, "random": {"ls": 3.0}}
SEEN = """() => [...document.querySelectorAll('svg.chart')].map(svg => {
  const box = svg.getBoundingClientRect(), frame = svg.parentElement.getBoundingClientRect();
  const scrolls = getComputedStyle(svg.parentElement).overflowX == 'auto';
  const right = scrolls ? frame.right : box.right;  // a wide picture scrolls in its frame, the page does not
  return box.width > 250 && box.height > 50 && box.left >= 0 && right <= innerWidth && svg.checkVisibility();
})"""
INK = "() => getComputedStyle(document.querySelector('svg.chart text')).fill"


@pytest.fixture
def report(store):
    """The page of a store of generated runs, 6 seeds, on disk."""
    generate(EFFECTS, ["sst2"], range(6), store / "mlruns" / "0", epochs=2, examples=200)
    ended = succeed("report", output_dir=store / "out")
    (place,) = re.findall(r"^(.*): \d\.\d\d MB, artifact of run ", ended.out, re.MULTILINE)
    assert Path(place).read_bytes() == (store / "out" / "report.html").read_bytes(), ended
    return store / "out" / "report.html"


def browsed(path, widths):
    """Open the file once per (width, scheme); the requests, the console and what `SEEN` and `INK` say."""
    found = []
    with chromium() as browser:
        for width, scheme in widths:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.set_default_timeout(PATIENCE_MS)
            asked, said = [], []
            page.route("**/*", lambda route, request, asked=asked: (asked.append(request.url), route.continue_()))
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.goto(path.as_uri())
            wide = page.evaluate("document.documentElement.scrollWidth")
            found.append((width, wide, asked, said, page.evaluate(SEEN), page.evaluate(INK)))
            page.close()
    return found


@pytest.mark.browser
def test_the_page_of_a_store(report):
    text = report.read_text(encoding="utf-8")
    assert "ls (" in text and "is better than finetune" in text
    assert "Left out" not in text
    assert len(re.findall("<svg", text)) == 11  # five of each init, and the interaction
    (run,) = runs("report")
    assert artifacts(run) == {"report.html"} and run.info.status == "FINISHED"
    path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="report.html")
    with open(path, encoding="utf-8") as stored:
        assert stored.read() == text
    found = browsed(report, [(360, "light"), (1200, "dark")])
    for width, wide, asked, said, seen, _ in found:
        assert wide <= width, "the page scrolls sideways"
        assert asked == [report.as_uri()], "a request left the page"
        assert said == []
        assert len(seen) == 11 and all(seen), seen
    assert len({ink for *_, ink in found}) == 2, "pictures follow the scheme"


def test_the_page_of_a_table(store):
    table = store / "scores.csv"
    lines = [f"sst5,mine,,{m},{s},{70 + s + (2 + s / 10) * (m == 'kd')}" for s in range(8) for m in ("finetune", "kd")]
    table.write_text("\n".join(["task,model,init,method,seed,score", *lines]), encoding="utf-8")
    succeed("report", csv=table, output_dir=store / "out")
    text = (store / "out" / "report.html").read_text(encoding="utf-8")
    assert "kd (+2.35) is better than finetune" in text
    assert "scores of scores.csv" in text
    assert "no run has logged more than one epoch" in text
    refused(call("report", csv=table, study="x"), "a table has no study")
    table.write_text("task,model,seed\na,b,1\n", encoding="utf-8")
    refused(call("report", csv=table, output_dir=store / "other"), "no column", "score")
    assert not (store / "other").exists()


def test_without_runs_there_is_no_page_and_mistakes_are_told(store):
    refused(
        call("report"), "experiment Default: no run has a score", "nothing to compare", "a study trains more: mlflow"
    )
    assert runs("report") == []
    refused(call("report", experiment="Defualt"), "Default")
    refused(call("report", margin=0), "margin")


def test_histories_are_whole_and_of_a_step_the_newest(store):
    from labelreg.store import records

    client, ids = mlflow.MlflowClient(), []
    for run in range(3):
        ids.append(client.create_run("0").info.run_id)
        for step in (2, 1):
            client.log_metric(ids[-1], "dev/score", 10 * run + step, timestamp=step, step=step)
    client.log_metric(ids[0], "dev/score", 99.0, timestamp=7, step=2)
    client.log_metric(ids[0], "train/loss", 5.0, timestamp=7, step=1)
    found = records.histories(ids[:2], ["dev/score"])
    assert sorted(found.itertuples(index=False, name=None)) == sorted(
        [(ids[0], "dev/score", 1, 1.0), (ids[0], "dev/score", 2, 99.0), (ids[1], "dev/score", 1, 11.0)]
        + [(ids[1], "dev/score", 2, 12.0)]
    )
    assert records.histories([], ["dev/score"]).empty
