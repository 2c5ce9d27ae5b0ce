"""Saved views of the MLflow UI: its runs page opened on what a command's answer is made of, without a click.

The format is the UI's own ("Save view"; MLflow 3.17, mlflow/server/js/build: its module that reads
`mlflow.sharedViewState.`): an experiment's tag holds a JSON envelope, whose `state` is the state of the runs page as
JSON, zlib-compressed, in base64, behind `deflate;`. The page's address names the tag: `?viewStateShareKey=KEY`. What a
state leaves out has the UI's default. Rows are ordered by something other than their time, as the UI folds nested
runs away under their parents otherwise. tests/test_views.py reads the format out of the installed UI, and opens it.
"""

import base64
import json
import socket
import sys
import zlib
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from labelreg import settings
from labelreg.errors import USER_ERROR
from labelreg.output import masked, words_of
from labelreg.store.patience import patiently

TAG, KEY, COMPRESSED = "mlflow.sharedViewState.", "viewStateShareKey", "deflate;"
# that an experiment is one of training; the UI infers a kind for itself (..._inferred) where nobody has said so
KIND, MODELS, INFERRED = "mlflow.experimentKind", "custom_model_development", "_inferred"
MADE = 1795737600000  # of all views, so that a view is written again only when it is another one
HERE = "http://127.0.0.1:5000"  # where `make ui` serves
NAME, LAST = "attributes.`Run Name`", ("runDateAndNestInfo", "duration")  # columns that are always there
# pixels
WIDTH, WIDER = 98, {"labelreg.verdict": 120, "labelreg.study": 120, "task": 130, "summary/difference": 135}


def state(kind: str, columns: Iterable[str], order: str, ascending: bool = True, **more: Any) -> dict[str, Any]:
    """The runs page with the runs of a labelreg.kind, by a column, in the names that MLflow's search uses."""
    columns = list(columns)
    widths = {name: WIDER.get(name.split("`")[1], WIDTH) for name in columns}
    return {
        "searchFilter": f"tags.`labelreg.kind` = '{kind}'",
        "orderByKey": order,
        "orderByAsc": ascending,
        "selectedColumns": columns,
        "columnOrder": [NAME, *columns, *LAST],
        "columnWidths": {NAME: WIDTH, **widths},
        "runsHiddenMode": "SHOW_ALL",
        **more,
    }


def _columns(**names: str) -> list[str]:
    return [f"{kind}.`{name}`" for kind, several in names.items() for name in several.split()]


def _grouped(*params: str) -> dict[str, Any]:
    return {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": name} for name in params]}


def _chart(kind: str, metric: str, **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{kind}-{metric}",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "metricSectionId": "labelreg",
        "runsCountToCompare": 100,
        "displayName": metric,
        **more,
    }


def _charts(*charts: dict[str, Any]) -> dict[str, Any]:
    section = {"uuid": "labelreg", "name": "labelreg", "display": True, "isReordered": True}
    return {"compareRunCharts": list(charts), "compareRunSections": [section], "isAccordionReordered": True}


WHICH = "method average init task model"  # a curve is a mean over what agrees in these
OWN = [name for name in settings.of_a_run() if name not in settings.of(settings.Settings)]  # the methods'
DRAWN = " ".join([*settings.of(settings.Fit), *OWN])  # what a search may draw
MEASURED = " ".join(f"summary/{name}" for name in "mean difference low high p_verdict std n".split())
# a chart of a view has no defaults of its own: without them its lines are smoothed
BY_EPOCH: dict[str, Any] = {
    "xAxisKey": "step",
    "lineSmoothness": 0,
    "useGlobalLineSmoothing": True,
    "useGlobalXaxisKey": True,
}
BY_NAME = "tags.`mlflow.runName`"
# on `rest` the weights that a run keeps are evaluated, and no others
SCORES = "best/dev/score best/test/score best/rest/score last/rest/score"
VIEWS: dict[str, dict[str, Any]] = {
    "methods": state(
        "summary",
        [
            *_columns(params="method init", tags="labelreg.verdict", metrics=MEASURED),
            *_columns(params="task model metric", tags="labelreg.study"),
        ],
        BY_NAME,
        **_charts(_chart("BAR", "summary/mean"), _chart("BAR", "summary/difference")),
    ),
    "seeds": state(
        "student",
        [
            *_columns(params="method average init seed", metrics=SCORES),
            *_columns(params="task model", tags="labelreg.study"),
        ],
        BY_NAME,
    ),
    "curves": state(
        "student",
        _columns(params=WHICH, metrics="dev/score"),
        BY_NAME,
        runListHidden=True,
        groupBy=_grouped(*WHICH.split()),
        **_charts(_chart("LINE", "dev/score", **BY_EPOCH), _chart("LINE", "train/loss", **BY_EPOCH)),
    ),
    "search": state(
        "trial",
        _columns(tags="optuna.trial optuna.state", metrics="best/dev/score", params=f"method {DRAWN}"),
        "metrics.`best/dev/score`",
        ascending=False,
    ),
}
# the UI keeps these in the address, not in the state; the side is the browser's (GenAI at first), whatever the kind
SIDE, MODES = "&workflowType=machine_learning", {"curves": "&compareRunsMode=CHART"}


def encoded(name: str, view: dict[str, Any]) -> str:
    """A view as the UI stores it in a tag."""
    packed = base64.b64encode(zlib.compress(json.dumps(view).encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": MADE, "updatedAt": MADE, "state": COMPRESSED + packed})


def keep(experiment: Experiment) -> None:
    """Give an experiment the views, and the UI's side for models, unless its owner chose another side."""
    wanted = {f"{TAG}{name}": encoded(name, view) for name, view in VIEWS.items()}
    kind = experiment.tags.get(KIND, INFERRED)
    wanted |= {KIND: MODELS} if kind.endswith(INFERRED) else {}
    for name, value in wanted.items():
        if experiment.tags.get(name) != value:
            patiently(_tag, experiment.experiment_id, name, value)


def _tag(store: MlflowClient, experiment_id: str, name: str, value: str) -> None:
    """Set a tag; where another process did so meanwhile, MLflow's database ends in an error, and the tag is there."""
    try:
        store.set_experiment_tag(experiment_id, name, value)
    except MlflowException:
        if store.get_experiment(experiment_id).tags.get(name) != value:
            raise


def link(experiment: str, view: str = "", run_id: str = "") -> str:
    """The address of a view or of a run in the MLflow UI: of the tracking server, or of what `make ui` starts."""
    rest = f"/{run_id}" if run_id else f"?{KEY}={view}{SIDE}{MODES.get(view, '')}"
    return f"{_server()}/#/experiments/{experiment}/runs{rest}"


def _server() -> str:
    uri = masked(mlflow.get_tracking_uri())
    return uri.rstrip("/") if uri.startswith("http") else HERE


def tell(view: str, experiment: str) -> None:
    """Print where a view opens, as a command's last line, and see to it that it is there."""
    keep(patiently(MlflowClient.get_experiment, experiment))
    _print(link(experiment, view))


def tell_run(run_id: str) -> None:
    """Print where a run opens, as a command's last line."""
    found = patiently(MlflowClient.get_run, run_id)
    _print(link(found.info.experiment_id, run_id=run_id))


def tell_version(name: str, version: str) -> None:
    """Print where a version of a registered model opens, as a command's last line."""
    _print(f"{_server()}/#/models/{quote(name, safe='')}/versions/{version}")


def _print(address: str) -> None:
    first = "see" if mlflow.get_tracking_uri().startswith("http") else "make ui, then"
    print(f"{first} {address}", flush=True)


def main() -> None:
    """Print the links of every experiment that has the views: what `make ui` says before it serves at its port.

    Where another serves there already, the status is 2: MLflow would end with 0, and the links would open its page.
    """
    port = sys.argv[1]
    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: one that has ended leaves it free
        try:
            own.bind(("127.0.0.1", int(port)))
        except (OSError, OverflowError, ValueError) as error:
            print(f"PORT={port}: {words_of(error)}; make ui PORT=5001 takes another", file=sys.stderr)
            sys.exit(USER_ERROR)
    there = [each for each in mlflow.search_experiments() if all(f"{TAG}{view}" in each.tags for view in VIEWS)]
    print("as soon as the server is up (Ctrl-C ends it):" if there else f"no runs yet: {settings.RUN}")
    for experiment in there:
        for view in VIEWS:
            address = link(experiment.experiment_id, view).replace(HERE, f"http://127.0.0.1:{port}")
            print(f"{experiment.name}, {view}: {address}")


if __name__ == "__main__":
    main()
