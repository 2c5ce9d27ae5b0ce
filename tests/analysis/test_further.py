"""Which sections there are, for which runs, and what they say of what they leave out."""

import json

import numpy as np
import pandas as pd
import pytest
from predicted import logged, run, table

from analysis.pairing import pair
from analysis.present import further
from analysis.present.answer import as_json, as_markdown, as_text

pytestmark = pytest.mark.filterwarnings("error")


def study(tasks=2, inits=("pretrained", "random"), seeds=4, methods=("finetune", "ls", "kd"), n=60):
    rng, rows, stored = np.random.default_rng(0), [], {}
    for task in range(tasks):
        labels = rng.integers(0, 2, n)
        for init in inits:
            for seed in range(seeds):
                for method in methods:
                    predicted = np.where(rng.random(n) < 0.8, labels, 1 - labels)
                    cost = {"metrics.cost/train_seconds": 2.0, "metrics.best/epoch": 1.0}
                    row = run(method, seed, logged(labels, predicted), task=f"t{task}", init=init, **cost)
                    rows.append(row)
                    for split in ("dev", "test"):
                        stored[row["run_id"], split] = table(labels, predicted, sure=0.95)
    return pd.DataFrame(rows), stored


def named(sections):
    return {section.name: section for section in sections}


def test_every_section_and_its_forms():
    runs, stored = study()
    found = further.sections(pair(runs), runs, stored)
    assert [section.name for section in found] == [
        *("examples", "across", "interaction", "pairing", "calibration", "calibration_differences", "cost"),
    ]
    text, markdown = as_text(found), as_markdown(found, "Answer")
    told = json.loads(as_json(found, {}))
    for section in found:
        assert (section.title in text and f"## {section.title}" in markdown) or section.name.endswith("_differences")
        assert len(told[section.name]) == len(section.frame)
    assert len(told["examples"]) == 8 and told["examples"][0]["design"] == "crossed"
    assert told["examples"][0]["p_mcnemar"] is None and len(told["calibration_differences"]) == 72
    assert "2 tasks" in text and "interaction" in text and "pairing" in text and "scaled" in text
    assert "nan" not in text and "0.9500" not in text
    assert {row["nll"] for row in told["calibration"]} and "0.00  0.00" not in named(found)["calibration"].title


def test_only_what_there_is_to_say():
    runs, stored = study(tasks=1, inits=("pretrained",), seeds=1)
    found = named(further.sections(pair(runs), runs, None))
    assert list(found) == ["cost"]
    bare = runs.drop(columns=[name for name in runs if "cost/" in name])
    assert further.sections(pair(bare), bare, None) == []
    found = named(further.sections(pair(bare), bare, stored))
    assert list(found) == ["examples", "calibration", "calibration_differences"]
    assert all("one seed: McNemar's exact test" in line for line in found["examples"].text)


def test_left_out_runs_are_listed_by_reason():
    runs, stored = study(tasks=1, inits=("pretrained",))
    for seed in range(3):
        stored[f"t0-pretrained-ls-{seed}", "test"]["label"] = -1
    del stored["t0-pretrained-kd-1", "dev"]
    found = named(further.sections(pair(runs), runs, stored))
    ids = tuple(f"t0-pretrained-ls-{seed}" for seed in range(3))
    assert found["examples_left_out"].frame.values.tolist() == [
        ["the labels of test are hidden", 3, ", ".join(ids), ids]
    ]
    rows = found["calibration_left_out"].frame.set_index("reason")
    assert rows.loc["no predictions of dev", "run_ids"] == ("t0-pretrained-kd-1",)
    assert "run_ids" not in found["calibration_left_out"].shown()
    nothing = named(further.sections(pair(runs), runs, {}))
    assert list(nothing) == ["examples_left_out", "pairing", "calibration_left_out", "cost"]


def test_predictions_that_were_not_read():
    runs, _ = study()
    paired = pair(runs)
    assert len(further.compared(paired)) == 48 == len(set(further.compared(paired)))
    assert "predictions of 48 runs were not read" in further.not_read(paired).text[0]
