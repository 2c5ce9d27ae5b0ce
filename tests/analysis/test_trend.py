"""The trend of a method's effect over training set sizes."""

import numpy as np
import pandas as pd
import pytest

from analysis import reading
from analysis.pairing import pair
from analysis.present import answer as parts
from analysis.present import render
from analysis.trend import lines, trend

SIZES = (250, 500, 1000, 2000)


def runs(tmp_path, effect, sizes=SIZES, seeds=8, methods=("ls", "kd"), score="score", sign=1) -> pd.DataFrame:
    """A table of scores in which a method adds effect(method, doublings) and noise of 0.1."""
    chance, rows = np.random.default_rng(0), []
    for size in sizes:
        for seed in range(seeds):
            base = 40 + 3 * np.log2(size / sizes[0]) + chance.normal()
            for method in ("finetune", *methods):
                more = effect(method, np.log2(size / sizes[0])) if method != "finetune" else 0
                rows.append(("sst5", "m", "random", method, seed, size, sign * (base + more + chance.normal(0, 0.1))))
    columns = ["task", "model", "init", "method", "seed", "max_train_examples", score]
    path = tmp_path / "scores.csv"
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return reading.scores_table(path, score)[0]


def test_what_a_doubling_adds(tmp_path):
    table = trend(pair(runs(tmp_path, lambda method, x: 2 - 0.5 * x if method == "kd" else 1.0), metric="score"))
    kd, ls = (table[table["method"] == method].iloc[0] for method in ("kd", "ls"))
    assert kd["mean_trend"] == pytest.approx(-0.5, abs=0.05) and kd["with_more"] == "smaller"
    assert ls["mean_trend"] == pytest.approx(0, abs=0.05) and ls["with_more"] == "not shown to differ"
    assert kd["sizes"] == "250, 500, 1000, 2000" and kd["n"] == 8
    assert kd["slope_method"] - kd["slope_reference"] == pytest.approx(kd["mean_trend"])
    assert kd["p_holm"] >= kd["p_value"] and kd["low"] < kd["mean_trend"] < kd["high"]


def test_against_a_line_that_is_fitted_by_numpy(tmp_path):
    frame = runs(tmp_path, lambda method, x: 0.3 * x, sizes=(100, 300, 700), methods=("kd",))
    (row,) = trend(pair(frame, metric="score")).to_dict("records")
    wide = frame.assign(value=frame["metrics.score"], size=frame["params.max_train_examples"].astype(int))
    wide = wide.pivot_table(index=["size", "params.seed"], columns="params.method", values="value")
    d = (wide["kd"] - wide["finetune"]).unstack()
    slopes = np.polyfit(np.log2(d.index.to_numpy()), d.to_numpy(), 1)[0]
    assert row["mean_trend"] == pytest.approx(slopes.mean()) and row["std_trend"] == pytest.approx(slopes.std(ddof=1))


def test_where_lower_is_better_larger_is_still_better(tmp_path):
    frame = runs(tmp_path, lambda method, x: 0.5 * x, score="nll", sign=-1)
    table = trend(pair(frame, metric="nll"))
    assert set(table["with_more"]) == {"larger"}


def test_two_sizes_are_no_trend_and_seeds_of_all_sizes_count(tmp_path):
    assert trend(pair(runs(tmp_path, lambda *_: 1.0, sizes=(100, 200)), metric="score")).empty
    frame = runs(tmp_path, lambda *_: 1.0)
    gone = (frame["params.max_train_examples"] == "250") & frame["params.seed"].isin(["0", "1"])
    assert set(trend(pair(frame[~gone], metric="score"))["n"]) == {6}


def test_sizes_may_differ_in_more_and_a_size_with_two_settings_is_told(tmp_path):
    """As many steps at each size are other epochs; two settings of one size leave open which is meant."""
    frame = runs(tmp_path, lambda method, x: 2 - 0.5 * x)
    frame["params.epochs"] = frame["params.max_train_examples"].map({"250": 8, "500": 4, "1000": 2, "2000": 1})
    assert trend(pair(frame, metric="score"))["n"].tolist() == [8, 8]
    again = frame[frame["params.max_train_examples"] == "250"].assign(**{"params.epochs": 9})
    again["run_id"] += " again"
    both = pair(pd.concat([frame, again], ignore_index=True), metric="score")
    assert trend(both).empty and lines(both) == ["sst5, m, random, ls, kd: several settings of one size, so no trend"]
    apart = "sst5, m, random, ls, kd: the sizes differ in epochs too, which is part of the trend"
    assert lines(pair(frame, metric="score")) == [apart]
    frame["params.lr"] = frame["params.epochs"].map({8: 1, 4: 2, 2: 3, 1: 4})
    assert lines(pair(frame, metric="score")) == [apart.replace("epochs", "epochs, lr")]


@pytest.mark.parametrize("word", ["full", "1k", "-1", "0", "none", "", "inf", "2.5"])
def test_what_is_no_number_of_examples_is_no_size(tmp_path, word):
    """As the whole set: a family of its own, not a size of a trend."""
    frame = runs(tmp_path, lambda *_: 1.0)
    frame.loc[frame["params.max_train_examples"] == "250", "params.max_train_examples"] = word
    paired = pair(frame, metric="score")
    assert len(paired.comparisons) == 8 and set(trend(paired)["sizes"]) == {"500, 1000, 2000"}
    assert len({c.who for c in paired.comparisons}) == 8
    text = render.as_text(parts.answer(parts.Evidence(frame), paired, metric="score").sections)
    assert "500, 1000, 2000" in text


def test_none_and_nothing_are_one_size(tmp_path):
    """What is shown alike is one: else two comparisons of one name would be judged as the first."""
    frame = runs(tmp_path, lambda *_: 1.0)
    words = {"250": "none", "500": "", "1000": "None"}
    frame["params.max_train_examples"] = frame["params.max_train_examples"].replace(words)
    frame["params.seed"] = frame["params.max_train_examples"] + frame["params.seed"]
    assert [len(c.seeds) for c in pair(frame, metric="score").comparisons] == [8, 8, 24, 24]


def test_sizes_above_the_set_are_one_set(tmp_path):
    frame = runs(tmp_path, lambda *_: 1.0)
    size = frame["params.max_train_examples"]
    frame["tags.labelreg.data"] = "set of " + size.where(~size.isin(["1000", "2000"]), "all")
    both = pair(frame, metric="score")
    why = "sst5, m, random, ls, kd: 1000 and 2000 examples are one training set, which has no more, so no trend"
    assert trend(both).empty and lines(both) == [why]
    frame["tags.labelreg.data"] = "set of " + size
    assert len(trend(pair(frame, metric="score"))) == 2 and not lines(pair(frame, metric="score"))


def test_sizes_without_a_seed_in_common_are_told(tmp_path):
    frame = runs(tmp_path, lambda *_: 1.0)
    small = frame["params.max_train_examples"] == "250"
    frame.loc[small, "params.seed"] = (frame.loc[small, "params.seed"].astype(int) + 100).astype(str)
    both = pair(frame, metric="score")
    assert lines(both) == ["sst5, m, random, ls, kd: no seed is at all of its sizes, so no trend"]
    told = parts.answer(parts.Evidence(frame), both, metric="score")
    assert lines(both)[0] in render.as_text(told.sections, verbose=False)


def test_the_answer_names_the_task_and_the_methods(tmp_path):
    frame = runs(tmp_path, lambda method, x: 2 - 0.5 * x if method == "kd" else 1.0)
    told = parts.answer(parts.Evidence(frame), pair(frame, metric="score"), metric="score")
    (line,) = next(part for part in told.sections if part.name == "trend").text
    assert line.startswith("sst5, m, random: with each doubling of the training set, method - finetune: ls ")
    assert "kd -0.5" in line and line.endswith("(smaller, n=8)") and "(not shown to differ, n=8)" in line
    assert "sst5, m, random: with each doubling" in render.as_text(told.sections, verbose=False)
    nll = runs(tmp_path, lambda method, x: 0.5 * x, score="nll", sign=-1)
    told = parts.answer(parts.Evidence(nll), pair(nll, metric="nll"), metric="nll")
    trends = next(part for part in told.sections if part.name == "trend")
    assert "nll: lower is better; the sign of differences is turned, so that above 0 is better" in trends.text
