"""The saved views: the format as the installed MLflow UI reads it, their columns, and that an experiment gets them."""

import base64
import json
import re
import socket
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from running import succeed
from stores import generate

from analysis import students
from labelreg import settings
from labelreg.store import views

pytest_plugins = ["running"]

SCRIPTS = [path.read_text() for path in (Path(mlflow.__file__).parent / "server/js/build/static/js").glob("*.js")]


def decoded(value):
    """What the UI makes of a tag: its envelope, and the state in it."""
    envelope = json.loads(value)
    assert envelope["state"].startswith(views.COMPRESSED)
    return envelope, json.loads(zlib.decompress(base64.b64decode(envelope["state"].removeprefix(views.COMPRESSED))))


def found(pattern):
    """The one place in the UI's built files that has this."""
    places = [match for script in SCRIPTS if (match := re.search(pattern, script))]
    assert places, f"the MLflow UI has changed: nothing in it reads {pattern}"
    return places[0]


def test_the_ui_reads_views_as_they_are_written():
    found(rf'"{views.KEY}"')
    found(rf'"{re.escape(views.TAG)}"')
    found(rf'"{views.COMPRESSED}"')
    found(r'"string"!==typeof \w+\.name\|\|"number"!==typeof \w+\.createdAt\|\|"string"!==typeof \w+\.state')
    for view in views.VIEWS:
        envelope, state = decoded(views.encoded(view, views.VIEWS[view]))
        assert state == views.VIEWS[view]
        assert (envelope["name"], type(envelope["createdAt"]), type(envelope["updatedAt"])) == (view, int, int)


def test_the_ui_knows_every_name_in_a_view():
    page = re.findall(r'"(\w+)"', found(r'\["searchFilter","orderByKey"[^\]]*\]')[0])
    page += re.findall(r'"(\w+)"', found(r'\["selectedColumns"[^\]]*"runsHiddenMode"[^\]]*\]')[0])
    for view in views.VIEWS.values():
        assert set(view) <= set(page)
    dropped = re.findall(r'"(\w+)"', found(r'\["runsExpanded","runsPinned"[^\]]*\]')[0])
    assert not {name for view in views.VIEWS.values() for name in view} & set(dropped), "the UI drops them of a view"
    assert found(rf'"{views.MODELS}"') and found(r'\("workflowType"\)') and found(r'"machine_learning"')
    assert found(r'"compareRunsMode"') and found(r'"SHOW_ALL"')
    for column in (views.NAME.split("`")[1], *views.LAST):
        found(rf'"{column}"')
    assert found(r"===\w+\.\w+\.DATE,\["), "rows that are not ordered by time are not folded under their parents"


def test_a_view_fits_into_a_tag():
    from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH

    assert all(len(views.encoded(name, view)) < MAX_EXPERIMENT_TAG_VAL_LENGTH for name, view in views.VIEWS.items())


def test_every_column_is_of_a_run(store):
    """A name that no run has would be an empty column without a word."""
    generate({"pretrained": {"ls": 1.0}}, ["sst2"], range(6), epochs=2)
    succeed("significance")
    known = {f"params.`{name}`" for name in settings.known()} | {"tags.`labelreg.study`"}
    known |= {f"metrics.`{name}/rest/score`" for name in settings.SELECTIONS}
    runs = mlflow.search_runs(["0"], output_format="list")
    for run in runs:
        known |= {f"{kind}.`{name}`" for kind in ("params", "metrics", "tags") for name in getattr(run.data, kind)}
    known |= {"tags.`optuna.trial`", "tags.`optuna.state`"}  # as labelreg/tuning/tune.py names them
    for view in views.VIEWS.values():
        assert set(view["selectedColumns"]) <= known
        assert view["orderByKey"] in known
        assert {chart["metricKey"] for chart in view.get("compareRunCharts", [])} <= {
            name.split("`")[1] for name in known
        }


def test_a_curve_is_of_the_runs_that_an_answer_has_in_one_row():
    runs = [{"method": "finetune"}, {"method": "finetune", "average": "swa"}, {"method": "finetune", "average": "ema"}]
    given = pd.DataFrame([{"tags.labelreg.kind": "student", **{f"params.{k}": v for k, v in r.items()}} for r in runs])
    keys = [f"params.{each['groupByData']}" for each in views.VIEWS["curves"]["groupBy"]["groupByKeys"]]
    groups = given.reindex(columns=keys).drop_duplicates()
    assert len(groups) == len({run.method for run in students.read(given)}) == 3


def test_an_experiment_is_given_views_and_keeps_what_its_owner_said(store, monkeypatch):
    ended = succeed("significance")
    assert ended.out.splitlines()[-1] == (
        "make ui, then "
        "http://127.0.0.1:5000/#/experiments/0/runs?viewStateShareKey=methods&workflowType=machine_learning"
    )
    client = mlflow.MlflowClient()
    tags = client.get_experiment("0").tags
    assert tags[views.KIND] == views.MODELS
    assert {name for name in tags if name.startswith(views.TAG)} == {f"{views.TAG}{name}" for name in views.VIEWS}

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    mine = client.create_experiment("mine", tags={views.KIND: "genai_development", f"{views.TAG}own": "x"})
    inferred = client.create_experiment("other", tags={views.KIND: "genai_development_inferred"})
    assert f"/experiments/{inferred}/" in succeed("significance", experiment="other").out.splitlines()[-1]
    tags = client.get_experiment(mine).tags
    assert tags[views.KIND] == "genai_development" and tags[f"{views.TAG}own"] == "x" and f"{views.TAG}seeds" in tags
    assert client.get_experiment(inferred).tags[views.KIND] == views.MODELS


def test_links_are_those_of_the_tracking_server(monkeypatch):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "https://me:secret@host:8080/")
    assert views.link("7", "curves").startswith("https://***@host:8080/#/experiments/7/runs?viewStateShareKey=curves&")
    assert views.link("7", run_id="abc") == "https://***@host:8080/#/experiments/7/runs/abc"


@pytest.mark.parametrize("made", [True, False])
def test_make_ui_says_where_the_views_are(store, capsys, monkeypatch, made):
    if made:
        succeed("significance")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["views", str(port)])
        other.listen()
        with pytest.raises(SystemExit) as taken:
            views.main()
    assert taken.value.code == 2
    out, err = capsys.readouterr()
    assert not out and re.fullmatch(f"PORT={port}: .*already in use; make ui PORT=5001 takes another\n", err)
    views.main()
    first, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (len(views.VIEWS) if made else 0) and ("no runs yet" in first) is not made
    assert all(f"{view}: http://127.0.0.1:{port}/#/" in line for view, line in zip(views.VIEWS, lines, strict=made))


@pytest.mark.parametrize("port", ["70000", "x", "-1"])
def test_make_ui_refuses_what_is_no_port(capsys, monkeypatch, port):
    monkeypatch.setattr(sys, "argv", ["views", port])
    with pytest.raises(SystemExit) as refused:
        views.main()
    out, err = capsys.readouterr()
    assert refused.value.code == 2 and not out and err.count("\n") == 1 and f"PORT={port}: " in err


def test_many_first_commands_at_once_keep_them(store):
    """Another process may write a tag between this one's looking and its writing: MLflow ends in UNIQUE constraint."""
    client = mlflow.MlflowClient()
    for number in range(10):
        made = client.get_experiment(client.create_experiment(f"new {number}"))
        gate = threading.Barrier(8)

        def first(_, made=made, gate=gate):
            gate.wait()
            views.keep(made)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(first, range(8)))
        tags = client.get_experiment(made.experiment_id).tags
        assert {f"{views.TAG}{view}" for view in views.VIEWS} <= set(tags)
