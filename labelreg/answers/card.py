"""The model card of a promoted model: README.md with the hub's YAML front matter, made of the answer and the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.present import wording
from analysis.present.answer import Answer, scores
from analysis.present.render import decimals, number, signed
from labelreg.data.tasks import TASKS
from labelreg.models.registry import MODELS, vision
from labelreg.settings import FULL, of_a_run
from labelreg.store import logged, tracking

LIMITS = """- The scores are of the data named above; of other texts or images nothing was measured.
- The verdict is about these settings and seeds, not about the method in general.
- Probabilities are served as the model gives them, without the temperature.
- What the data's owners allow, and the licence of the model that it began from, hold for this model too.
- It was not examined for what it makes of groups of people."""


def card(
    name: str, method: str, why: Sequence[str], judged: pd.DataFrame, found: Answer, run: tracking.Found, answered: str
) -> str:
    """The card as Markdown.

    Args:
        answered: the id under which the answer has the run, which may have been done again to store its model.
    """
    params, tags = logged.params(run), run.data.tags
    parts = [
        f"# {name}",
        f"{params['model']} for the task {params['task']}, trained with {method}, seed {params['seed']}. "
        f"Its own scores: {_own_scores(params, run.data.metrics)}.",
        "Chosen because:\n\n" + "\n".join(f"- {line}" for line in why),
        "## Data\n\n" + _table({
            "task": params["task"],
            "digest of all examples (sha256)": tags[tracking.DATA],
            **({"digest of the further test set": tags[tracking.REST]} if tracking.REST in tags else {}),
        }),
        "## Scores over seeds\n\n" + _scores(found, params),
        "## Verdict\n\n" + "\n".join(f"- {line}{_interval(row)}" for line, row in zip(
            wording.verdict_lines(judged), judged.to_dict("records"), strict=True)),
        "## Calibration of this model\n\n" + _calibration(found, answered),
        "## Settings\n\n" + _table({each: params[each] for each in of_a_run() if each in params}),
        f"## Limits\n\n{LIMITS}" + "".join(f"\n- {line}." for line in own_limits(run)),
        f"Made by labelreg, run {run.info.run_id}, fingerprint {tags[tracking.FINGERPRINT]}.",
    ]  # fmt: skip
    front = yaml.safe_dump(_front(name, params, run.data.metrics), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def own_limits(run: tracking.Found) -> list[str]:
    """What is known of this model alone that its user must know."""
    never = run.data.tags.get(tracking.NEVER)
    return [f"It gave no test example the class {never}, which some of them have"] if never else []


def _front(name: str, params: dict[str, str], metrics: dict[str, float]) -> dict[str, Any]:
    """What the hub reads of a card."""
    task = None if "train_file" in params else TASKS.get(params["task"])  # a file of one's own may take any name
    images = bool(vision.network(params["model"]))
    kind = "image-classification" if images else "text-classification"
    front: dict[str, Any] = {"pipeline_tag": kind, "tags": ["labelreg", params["method"]]}
    if not images:
        front["library_name"] = "transformers" if params.get("tuning", FULL) == FULL else "peft"
        if params["init"] == "pretrained":
            known = MODELS.get(params["model"])
            if known:
                front["base_model"] = known.hub_id
            elif not Path(params["model"]).is_dir():
                front["base_model"] = params["model"]
    if task and "/" in task.source:
        front["datasets"] = [task.source]
    metric = task.metric if task else "accuracy"
    measured = [{"type": metric, "value": value, "name": name} for name, value in _measured(params, metrics).items()]
    data = {"name": params["task"], "type": task.source if task else params["task"]}
    result = {"task": {"type": kind}, "dataset": data, "metrics": measured}
    return front | {"model-index": [{"name": name, "results": [result]}]}


def _measured(params: dict[str, str], metrics: dict[str, float]) -> dict[str, float]:
    """The scores of the weights that are served, by their names."""
    which = params.get("selection", "best")
    names = sorted(name for name in metrics if name.startswith(f"{which}/") and name.endswith("/score"))
    return {name: metrics[name] for name in names}


def _own_scores(params: dict[str, str], metrics: dict[str, float]) -> str:
    return ", ".join(f"{value:.2f} on {name.split('/')[1]}" for name, value in _measured(params, metrics).items())


def _table(rows: dict[str, Any]) -> str:
    told = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *told])


def _scores(found: Answer, params: dict[str, str]) -> str:
    table, digits = scores(found.paired), decimals(found.judged["margin"].min())
    for name in ("task", "model", "init"):
        table = table[table[name] == params[name]]
    lines = [
        f"| {wording.label(row)} | {row['metric']} | {number(row['mean'], digits)} | {number(row['std'], digits)} "
        f"| {row['n']} |"
        for row in table.to_dict("records")
    ]
    return "\n".join(["| method | score | mean | sd | seeds |", "|---|---|---|---|---|", *lines])


def _interval(row: dict[str, Any]) -> str:
    low, high = (signed(row[end], row["margin"]) for end in ("low", "high"))
    return f"; interval of the difference [{low}, {high}] ({row['level']:.3g})"


def _calibration(found: Answer, run_id: str) -> str:
    rows = pd.DataFrame() if found.measured is None else found.measured.runs
    rows = rows[rows["run_id"] == run_id] if len(rows) else rows
    if rows.empty:
        return "Not measured: the run has no predictions."
    row = rows.iloc[0]
    lines = [f"| {name} | {row[name]:.4f} | {row[f'{name}_scaled']:.4f} |" for name in ("nll", "ece", "brier")]
    head = (
        f"| on {row['split']} | as served | with temperature {row['temperature']:.3f} (fitted on {row['fitted_on']}) |"
    )
    return "\n".join([head, "|---|---|---|", *lines])
