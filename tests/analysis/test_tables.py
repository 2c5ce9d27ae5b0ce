"""Columns, families, sentences and the two ways to print; small frames whose answers are known."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import AnalysisError
from analysis.hypothesis import equivalence, signed_rank
from analysis.pairing import pair
from analysis.present.tables import (
    COLUMNS,
    compare,
    judge,
    p_text,
    scores,
    to_markdown,
    to_text,
    unit_lines,
    verdict_lines,
)

pytestmark = pytest.mark.filterwarnings("error")

ISSUE_6 = """task, model, init, method, setting, reference, metric, n, mean_method, mean_reference,
mean_difference, std_difference, estimate, low, high, level, p_value, p_holm, min_p_value, rank_biserial,
p_equivalence, p_equivalence_holm, margin, verdict, negligible, decidable, seeds_needed"""
FINETUNE = [74.0, 75.5, 73.25, 76.0, 74.5, 75.0, 73.5, 74.75]
UP = [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7]
MIXED = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5]
NONE = [0.1, -0.11, 0.05, -0.02, 0.03, 0.07, -0.06, -0.04]


def runs(differences: dict, metric="best/test/score", **parameters):
    """Finetune and methods whose differences to it are given, one run per seed."""
    rows = []
    for method, d in {"finetune": [0.0] * 8, **differences}.items():
        for seed, (base, added) in enumerate(zip(FINETUNE, d, strict=False)):
            values = {"task": "rotten_tomatoes", "model": "minilm-3l", "init": "pretrained", **parameters}
            rows.append(
                {
                    "run_id": f"{method}-{seed}",
                    "status": "FINISHED",
                    **{f"params.{name}": value for name, value in values.items()},
                    "params.method": method.split("@")[0],
                    "params.alpha": method.partition("@")[2] or None,
                    "params.seed": str(seed),
                    f"metrics.{metric}": base + added,
                    "tags.labelreg.kind": "student",
                }
            )
    return pd.DataFrame(rows)


def lines(differences, **more):
    return verdict_lines(judge(pair(runs(differences, **more))))


def test_the_columns_are_those_of_the_issue():
    frame = compare(pair(runs({"ls": UP})))
    assert list(frame.columns) == COLUMNS == [name.strip() for name in ISSUE_6.replace("\n", " ").split(",")]
    assert list(compare(pair(pd.DataFrame())).columns) == COLUMNS


def test_a_row_is_what_the_tests_say():
    (row,) = compare(pair(runs({"ls": MIXED})), margin=2.0).to_dict("records")
    test = signed_rank(MIXED)
    for name in ("n", "estimate", "low", "high", "level", "p_value", "min_p_value", "rank_biserial"):
        assert row[name] == getattr(test, name)
    assert row["p_equivalence"] == row["p_equivalence_holm"] == equivalence(MIXED, 2.0) and row["margin"] == 2
    assert row["p_holm"] == row["p_value"]
    assert row["mean_reference"] == np.mean(FINETUNE)
    assert row["mean_method"] - row["mean_reference"] == pytest.approx(row["mean_difference"]) == 0.5
    assert row["std_difference"] == pytest.approx(np.std(MIXED, ddof=1))
    assert (row["verdict"], row["negligible"], row["decidable"]) == ("undecided", False, True)
    assert row["seeds_needed"] > 8


def test_holm_runs_within_a_family():
    one = runs({"ls": UP, "kd": MIXED, "kd@2": NONE})
    other = runs({"ls": UP}, init="random")
    frame = compare(pair(pd.concat([one, other])))
    assert frame[["init", "method", "setting"]].values.tolist() == [
        ["pretrained", "ls", ""],
        ["pretrained", "kd", "alpha 2"],
        ["pretrained", "kd", ""],
        ["random", "ls", ""],
    ]
    assert frame["p_holm"].tolist()[::3] == [3 / 128, 1 / 128]  # two settings of kd both count
    assert frame["verdict"].tolist() == ["better", "equivalent", "undecided", "better"]
    assert frame["seeds_needed"].isna().tolist() == [True, True, False, True]


def test_zeros_margin_and_level_reach_the_tests():
    d = [0.0, 0.0, 0.0, -0.1, -0.2, 0.3, 0.4, 0.5]
    paired = pair(runs({"ls": d}))
    assert compare(paired)["p_value"][0] == 0.3125
    assert compare(paired, zeros="pratt")["p_value"][0] == 0.4375
    assert compare(paired, margin=5)["verdict"][0] == "equivalent"
    assert compare(paired, margin=5, level=0.001)["verdict"][0] == "undecided"
    for mistake in ({"margin": 0}, {"level": 1}, {"zeros": "zsplit"}):
        with pytest.raises(AnalysisError):
            compare(paired, **mistake)
        with pytest.raises(AnalysisError):
            compare(pair(pd.DataFrame()), **mistake)


def test_no_nan_reaches_a_reader():
    for d in ([1.0], [1.0, 2.0], [0.0] * 8, [0.0]):
        paired = pair(runs({"ls": d}))
        printed = [*verdict_lines(judge(paired)), to_text(judge(paired)), to_markdown(scores(paired))]
        assert not any("nan" in text.lower().replace("finetune", "") for text in printed)
    frame = compare(pair(runs({"ls": [1.0]})))
    assert frame["std_difference"].isna().all() and frame["std_difference"].dtype == float
    assert math.isinf(frame["low"][0])


def test_a_line_on_an_undecided_method():
    (line,) = lines({"ls": MIXED})
    assert line.startswith(
        "ls vs finetune (rotten_tomatoes, minilm-3l, pretrained, best/test/score): undecided; "
        "mean difference +0.50 (sd 2.85) over n = 8 seeds, "
        "p = 0.64 (smallest that 8 seeds can give: 0.0078), "
        "Holm p = 0.64 (alone in its family); "
        "the interval [-2.00, 3.00] still holds effects beyond the margin of 0.5; about 487 more "
    )
    assert line.endswith("seeds (495 in all) would decide")


def test_a_line_says_when_p_is_the_floor_and_names_the_family():
    better, undecided = lines({"ls": UP, "kd": MIXED})
    assert "better; mean difference +2.35" in better and "higher in 8 of 8 seeds" in better
    assert "p = 0.0078 (the smallest that 8 seeds can give), Holm p = 0.0156 over ls, kd" in better
    assert "Holm p = 0.64 over ls, kd" in undecided


@pytest.mark.parametrize(
    "n, told",
    [
        (1, "p = 1.00 (the smallest that 1 seed can give)"),
        (5, "p = 0.0625 (the smallest that 5 seeds can give)"),
        (5, "5 seeds are too few to reach 0.05 whatever the data: a difference needs 6"),
        (5, "; equivalence could have been shown"),
        (4, "; equivalence could not have been shown"),
        (5, "no bounded interval with n = 5"),
        (1, "1 seed is too few"),
        (1, "mean difference +2.00 over n = 1 seed,"),
    ],
)
def test_a_line_says_that_n_is_too_small(n, told):
    assert told in lines({"ls": UP[:n]})[0]


def test_a_line_shows_setting_zeros_and_negligible():
    found = lines({"kd": UP, "kd@2": [0.1] * 8, "ls": [0.0, 0.0, *UP[2:]]})
    by_start = {line.split(" vs ")[0]: line for line in found}
    assert set(by_start) == {"ls", "kd", "kd [alpha 2]"}
    assert "better (negligible)" in by_start["kd [alpha 2]"]
    assert "real, but smaller than the margin of 0.5" in by_start["kd [alpha 2]"]
    assert "(the smallest that 8 seeds with 2 zero differences can give)" in by_start["ls"]
    assert "Holm p = 0.0234 over ls, kd [alpha 2], kd" in by_start["kd"]


def test_a_line_says_that_the_sign_is_turned():
    paired = pair(runs({"ls": UP}, metric="best/test/nll"), metric="best/test/nll")
    (line,) = verdict_lines(judge(paired))
    assert "worse; mean difference -2.35 (sd 0.24), lower is better and the sign is turned, over n" in line


def test_scores():
    frame = runs({"zeta": UP, "akd": UP, "kd": UP[:1], "beta": UP, "ls": UP, "ls@0.2": UP[:3]})
    table = scores(pair(frame))
    assert list(table.columns) == "task model init method setting metric mean std n not_learnt".split()
    assert table["method"].tolist() == ["finetune", "ls", "ls", "kd", "akd", "beta", "zeta"]
    assert table["n"].tolist() == [8, 3, 8, 1, 8, 8, 8]
    assert table["setting"].tolist() == ["", "alpha 0.2", "alpha none", "", "", "", ""]
    assert table["mean"][0] == np.mean(FINETUNE) and table["std"][0] == pytest.approx(np.std(FINETUNE, ddof=1))
    assert math.isnan(table["std"][3])
    assert scores(pair(pd.DataFrame())).empty


def test_text_and_markdown():
    frame = pd.DataFrame(
        {
            "method": ["ls", "a|b"],
            "n": [8, 10],
            "mean": [70.456, np.nan],
            "p_value": [0.0078125, 0.5],
            "decidable": [True, False],
            "level": [0.9609375, 1.0],
            "family": [("ls", "kd"), ("ls",)],
        }
    )
    assert to_text(frame).split("\n") == [
        "method   n   mean  p_value  decidable  level  family",
        "------  --  -----  -------  ---------  -----  ------",
        "ls       8  70.46   0.0078  yes        0.961  ls, kd",
        "a|b     10      -     0.50  no         1.000  ls",
    ]
    assert to_markdown(frame[["method", "n", "mean"]]).split("\n") == [
        "| method | n | mean |",
        "| --- | ---: | ---: |",
        "| ls | 8 | 70.46 |",
        "| a\\|b | 10 | - |",
    ]
    assert to_text(frame.head(0)).startswith("method  n  mean")


@pytest.mark.parametrize("p, told", [(1.0, "1.00"), (0.31, "0.31"), (1 / 128, "0.0078"), (2.0**-19, "1.9e-06")])
def test_p_text(p, told):
    assert p_text(p) == told


def looked_at(frame, *looks):
    return judge(pair(frame), looks=looks).to_dict("records")


def test_a_look_waits_for_runs_that_are_not_through():
    frame = runs({"ls": UP, "kd": MIXED})
    (ls, kd) = looked_at(frame, 8, 12)
    assert (ls["look"], ls["verdict"], kd["look"]) == (8, "better", 8)
    unlogged = {"metrics.best/test/score": np.nan, "status": "RUNNING", "params.precision": "auto"}
    for seed, kept in ((7, 7), (3, 3)):
        waiting = frame.copy()
        waiting.loc[waiting["run_id"] == f"finetune-{seed}", list(unlogged)] = list(unlogged.values())
        for row in looked_at(waiting, 8, 12):
            assert pd.isna(row["look"]) and row["verdict"] == "undecided" and row["n"] == kept
            assert row["seeds"] == tuple(range(kept)), "the first that were planned"
            assert row["reason"].endswith(f"seed {seed} still runs" + (", pairs behind it: 4" if seed == 3 else ""))
    own = frame.copy()
    own.loc[own["run_id"] == "ls-3", "status"] = "RUNNING"
    assert [(row["n"], row["verdict"]) for row in looked_at(own, 8, 12)] == [(3, "undecided")] * 2
    again = frame[frame["run_id"] == "finetune-7"].assign(run_id="again", status="RUNNING")
    shorter = frame[frame["run_id"] != "kd-7"]
    assert [row["look"] for row in looked_at(pd.concat([shorter, again]), 8, 12)] == [8, 8], "ls has that seed"
    failed = frame.copy()
    failed.loc[failed["run_id"] == "finetune-7", "status"] = "FAILED"
    assert [(row["look"], row["n"]) for row in looked_at(failed, 8, 12)] == [(8, 7), (8, 7)], "it was run, and lost"


def test_lost_runs_of_another_protocol_are_no_part_of_a_look():
    frame = runs({"ls": UP[:7]}, epochs="3")
    other = runs({"ls": UP}, epochs="5")
    other = other[(other["params.method"] == "ls") & (other["params.seed"] == "7")].assign(run_id="longer")
    paired = pair(pd.concat([frame, other]))
    assert paired.left_out["family"].tolist() == ["", "epochs=5"]
    (row,) = judge(paired, looks=[8]).to_dict("records")
    assert pd.isna(row["look"]) and row["n"] == 7
    same = other.assign(**{"params.epochs": "3", "status": "FAILED"})
    (row,) = looked_at(pd.concat([frame, same]), 8)
    assert (row["look"], row["n"]) == (8, 7)


def test_a_margin_of_points_on_fractions_is_pointed_at():
    frame = runs({"ls": UP, "kd": NONE}, metric="score")
    frame["metrics.score"] /= 100
    paired = pair(frame, metric="score")
    assert unit_lines(judge(paired)) == [
        "scores look like fractions of 1 (rotten_tomatoes, score): margin=0.5 is in the metric's own unit; "
        "give margin=0.005 where 0.5 points of 100 are meant"
    ]
    assert unit_lines(judge(paired, margin=0.005)) == []
    frame["metrics.nll"] = frame["metrics.score"]
    (told,) = unit_lines(judge(pair(frame, metric="nll")))  # a loss is no share of 1, but every one is within 0.5
    assert "(rotten_tomatoes, nll): margin=0.5 is in the metric's own unit" in told and "100" not in told
    assert unit_lines(judge(pair(frame, metric="nll"), margin=0.005)) == []
    frame["metrics.best/dev/score"] = frame["metrics.score"]
    assert unit_lines(judge(pair(frame, metric="best/dev/score"))) == [], "known to be in percent"
    frame["metrics.score"] *= 100
    assert unit_lines(judge(pair(frame, metric="score"))) == unit_lines(judge(pair(pd.DataFrame()))) == []
