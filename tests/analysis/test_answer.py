"""Sections of the answer, and what they become as text, Markdown and JSON."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.hypothesis import detectable_effect, seeds_needed, upper_sd
from analysis.pairing import pair
from analysis.present.answer import Section, as_json, as_markdown, as_text, first_sections, last_sections, summaries
from analysis.present.tables import judge

pytestmark = pytest.mark.filterwarnings("error")

WIDE = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5]
UP = [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7]


def students(d: dict) -> pd.DataFrame:
    rows = []
    for method, differences in {"finetune": [0.0] * 8, **d}.items():
        for seed, difference in enumerate(differences):
            params = {"task": "rte", "model": "bert", "init": "random", "method": method, "seed": str(seed)}
            row = {"run_id": f"{method}-{seed}", "status": "FINISHED", "tags.labelreg.kind": "student"}
            row |= {"metrics.best/dev/score": 70 + seed + difference}
            rows.append(row | {f"params.{name}": value for name, value in params.items()})
    return pd.DataFrame(rows)


def answered(d: dict, level=0.05, looks=()):
    paired = pair(students(d))
    judged = judge(paired, level=level, looks=looks)
    return [*first_sections(paired, judged, level, looks), *last_sections(paired, ["followed"])], paired, judged


def test_the_sections_and_their_three_forms():
    sections, paired, judged = answered({"ls": UP, "kd": WIDE[:5], "tfreg": [np.nan]})
    assert [section.name for section in sections] == [
        *("scores", "comparisons", "estimates", "tests", "power", "plan", "left_out")
    ]
    text, markdown = as_text(sections), as_markdown(sections, "Does it help?")
    found = json.loads(as_json(sections, {"margin": 0.5}))
    assert found["parameters"] == {"margin": 0.5} and found["text"]["plan"] == ["followed"]
    assert markdown.startswith("# Does it help?\n\n## Scores")
    for section in sections:
        assert section.title in text and f"## {section.title}\n" in markdown
        assert all(line in text and line in markdown and line in found["text"][section.name] for line in section.text)
        if section.frame is not None:
            assert len(found[section.name]) == len(section.frame)
    assert "nan" not in (text + markdown).replace("finetune", "") and "NaN" not in json.dumps(found)
    ls, kd = found["comparisons"]
    assert (ls["verdict"], ls["differences"], ls["seeds"]) == ("better", UP, list(range(8)))
    assert (kd["low"], kd["high"], kd["level"]) == (None, None, 1.0), "an unbounded end is null"
    assert kd["seeds_needed"] == judged["seeds_needed"][1] and ls["seeds_needed"] is None
    assert found["left_out"][0]["run_id"] == "tfreg-0"
    assert np.isinf(judged["low"][1]) and "inf" in judged.to_csv()


def test_what_the_seeds_can_show():
    sections, _, judged = answered({"ls": UP, "kd": WIDE})
    rows = next(section for section in sections if section.name == "power").frame.to_dict("records")
    sd = float(np.std(WIDE, ddof=1))
    assert rows[1]["detectable"] == pytest.approx(detectable_effect(8, 2) * sd)
    assert rows[1]["seeds_for_margin"] == seeds_needed(upper_sd(sd, 8), 0.5, 2) == judged["seeds_needed"][1]
    assert rows[1]["further_seeds"] == rows[1]["seeds_for_margin"] - 8 and pd.isna(rows[0]["further_seeds"])
    assert rows[1]["least_seeds"] == 7
    one = next(section for section in answered({"ls": [1.0]})[0] if section.name == "power").frame
    assert one["further_seeds"].tolist() == [5] and one[["detectable", "seeds_for_margin"]].isna().all(axis=None)


def test_the_warning_about_looking_twice():
    def warned(d, looks=()):
        return "testing at 8 and again at 20 seeds" in as_text(answered(d, looks=looks)[0])

    assert warned({"kd": WIDE}) and not warned({"ls": UP}) and warned({"ls": UP}, looks=[8])


def test_looks_reach_the_answer():
    sections, _, judged = answered({"ls": UP, "kd": WIDE}, looks=[8, 12])
    assert judged["look"].tolist() == [8, 8] and judged["verdict"].tolist() == ["better", "undecided"]
    assert "look at 8 seeds, the next is at 12" in as_text(sections)
    power = next(section for section in sections if section.name == "power").frame
    assert power["least_seeds"].tolist() == [8, 8], "at 0.05/2"


def test_the_other_tests_stand_beside():
    _, _, judged = answered({"ls": UP, "kd": WIDE, "one": [1.0], "flat": [0.5] * 8})
    by = judged.set_index("method")
    assert by["p_t"].isna().tolist() == [False, False, True, True]  # ls, kd, flat, one
    assert (by["p_holm_study"] >= by["p_holm"]).all()
    from scipy import stats

    assert by["p_t"]["kd"] == pytest.approx(stats.ttest_1samp(WIDE, 0).pvalue)
    assert by["p_sign_flip"]["ls"] == 1 / 128


def test_holm_over_the_study():
    one = students({"ls": UP, "kd": UP})
    two = one.assign(**{"params.task": "sst5", "run_id": one["run_id"] + "b"})
    judged = judge(pair(pd.concat([one, two])))
    assert judged["p_holm"].tolist() == [2 / 128] * 4 and judged["p_holm_study"].tolist() == [4 / 128] * 4


def test_summaries():
    _, paired, judged = answered({"ls": UP, "kd": WIDE[:5]})
    reference, ls, kd = summaries(paired, judged)
    assert reference["params"]["method"] == "finetune" and set(reference["metrics"]) == {"mean", "std", "n"}
    assert reference["verdict"] == "" and len(reference["run_ids"]) == 8
    assert ls["metrics"]["difference"] == pytest.approx(2.35) and ls["verdict"] == "better"
    assert ls["params"] == {
        **{"task": "rte", "model": "bert", "init": "random", "method": "ls"},
        **{"metric": "best/dev/score", "reference": "finetune"},
    }
    assert ls["metrics"]["mean"] == pytest.approx(73.5 + 2.35)
    assert ls["metrics"]["std"] == pytest.approx(np.std([70 + i + d for i, d in enumerate(UP)], ddof=1))
    assert np.isinf(kd["metrics"]["low"]) and kd["line"].startswith("kd vs finetune")


def test_a_method_without_a_comparison_has_a_summary():
    frame = students({"ls": UP, "kd": [1.0]})
    frame = frame[frame["params.method"] != "finetune"]
    paired = pair(frame)
    ls, kd = summaries(paired, judge(paired))
    assert ls["params"]["method"] == "ls" and set(ls["metrics"]) == {"mean", "std", "n"} and len(ls["run_ids"]) == 8
    assert set(kd["metrics"]) == {"mean", "n"} and kd["verdict"] == ""
    assert kd["line"] == "kd: mean 71.00 over 1 seed; no pair with finetune"


def test_nothing_to_say():
    sections, paired, judged = answered({})
    assert [section.name for section in sections] == ["scores", "comparisons", "plan", "left_out"]
    assert json.loads(as_json(sections, {}))["comparisons"] == [] and len(summaries(paired, judged)) == 1
    empty = pair(pd.DataFrame())
    assert summaries(empty, judge(empty)) == [] and as_text(first_sections(empty, judge(empty), 0.05, [])) == ""


def test_a_column_without_a_value_is_not_shown():
    frame = pd.DataFrame({"a": ["x"], "setting": [""], "b": [None], "c": [1]})
    assert list(Section("s", "S", frame=frame).shown().columns) == ["a", "c"]
    assert Section("s", "S", frame=frame.head(0)).shown() is None
