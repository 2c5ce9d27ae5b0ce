"""Initialisations against each other, paired by seed; answers known or worked otherwise."""

import numpy as np
import pandas as pd
import pytest
from predicted import METHODS, drawn, run, study

from analysis.hypothesis import Pairs, compare, holm, signed_rank
from analysis.interaction import INTERACTION, interaction, interaction_across, unmatched_lines
from analysis.pairing import pair

pytestmark = pytest.mark.filterwarnings("error")


def both_inits(seeds=8, gain=2.0, seed=4):
    rng = np.random.default_rng(seed)
    pretrained = {("t", "pretrained", m): 70 + rng.normal(0, 0.3, seeds) for m in METHODS}
    random = {("t", "random", m): 60 + rng.normal(0, 0.3, seeds) + gain * (m == "kd") for m in METHODS}
    return pretrained | random


def test_the_interaction_is_tested_per_seed():
    scores = both_inits()
    paired = study(scores)
    table = interaction(paired)
    assert list(table) == INTERACTION and table["method"].tolist() == ["ls", "kd", "akd"]
    for row in table.to_dict("records"):
        random, pretrained = (
            scores["t", i, row["method"]] - scores["t", i, "finetune"] for i in ("random", "pretrained")
        )
        test = signed_rank(random - pretrained)
        assert [row["estimate"], row["low"], row["high"]] == pytest.approx([test.estimate, test.low, test.high])
        assert row["p_value"] == test.p_value
        assert row["mean_interaction"] == pytest.approx(row["mean_random"] - row["mean_pretrained"])
        assert row["std_interaction"] == pytest.approx((random - pretrained).std(ddof=1))
        assert (row["n"], row["dropped"], row["min_p_holm"]) == (8, 0, 3 * 2**-7)
    assert table["p_holm"].tolist() == holm(table["p_value"])
    assert table["from_scratch"].tolist()[:2] == ["not shown to differ", "larger"] and unmatched_lines(paired) == []
    turned = {(t, {"random": "pretrained"}.get(i, "random"), m): v for (t, i, m), v in scores.items()}
    other = interaction(study(turned))
    assert other["estimate"].tolist() == [-e for e in table["estimate"]] and other["low"][1] == -table["high"][1]
    assert other["from_scratch"][1] == "smaller"


def test_few_seeds_are_compared_by_their_ranks():
    scores = both_inits(seeds=6)
    table = interaction(study(scores)).set_index("method")
    d = {init: scores["t", init, "kd"] - scores["t", init, "finetune"] for init in ("random", "pretrained")}
    both = Pairs(d["random"], d["pretrained"])
    assert table["p_value"]["kd"] == compare(both).p_value == pytest.approx(2 / 924)  # 2 above 0.3 with each seed
    assert table["min_p_holm"].tolist() == pytest.approx([3 * 2 / 924] * 3)
    assert table["from_scratch"]["kd"] == "larger"


def test_seeds_and_methods_of_one_initialisation_are_named():
    scores = both_inits(seeds=5)
    scores["t", "random", "kd"] = dict(enumerate(scores["t", "random", "kd"][:3]))
    del scores["t", "random", "akd"]
    paired = study(scores)
    table = interaction(paired)
    assert table["n"].tolist() == [5, 3] and table["dropped"].tolist() == [0, 2]
    assert table["from_scratch"][1] == "too few seeds"
    assert unmatched_lines(paired) == ["akd (t, m, pretrained): no counterpart in the other initialisation"]
    scores["t", "random", "finetune"] = dict(enumerate(scores["t", "random", "finetune"]))
    for method in ("finetune", "kd"):
        scores["t", "random", method] = {seed + 10: score for seed, score in scores["t", "random", method].items()}
    elsewhere = study(scores)
    assert unmatched_lines(elsewhere)[0] == (
        "kd (t, m, best/test/score): no seed has both initialisations; 8 seeds have one initialisation only"
    )
    one = study({key: values for key, values in scores.items() if key[1] == "pretrained"})
    assert interaction(one).empty and unmatched_lines(one) == []


def test_of_two_settings_that_one_initialisation_has_none_is_taken_by_chance():
    cells = [(i, m, s) for i in ("pretrained", "random") for m in ("finetune", "kd") for s in range(5)]
    rows = [run(m, s, 70.0 + s, init=i, **{"params.alpha": "0.1"}) for i, m, s in cells]
    other = [{**row, "run_id": f"{row['run_id']} b", "params.alpha": "0.9"} for row in rows[5:10]]
    paired = pair(pd.DataFrame([*rows, *other]))
    assert [(c.init, c.method) for c in paired.comparisons] == [("pretrained", "kd")] * 2 + [("random", "kd")]
    assert interaction(paired).empty and len(unmatched_lines(paired)) == 3


def test_the_interaction_over_tasks():
    scores = drawn(inits=("pretrained", "random"), seed=5)
    table = interaction_across(study(scores))
    assert table["init"].unique().tolist() == ["random - pretrained"] and table["n_tasks"].tolist() == [7, 7, 7]
    d = {(t, i): np.mean(scores[t, i, "kd"] - scores[t, i, "finetune"]) for t, i, m in scores if m == "kd"}
    test = signed_rank([d[f"t{t}", "random"] - d[f"t{t}", "pretrained"] for t in range(7)])
    assert table.set_index("method").loc["kd", "p_value"] == test.p_value
    assert interaction_across(study(both_inits())).empty  # one task


def test_differences_below_one_point_are_no_fractions():
    """In a table of another's, whose metric may be in either unit: of one task below a point, of the other above."""
    cells = [(t, i, m, s) for t in "ab" for i in ("pretrained", "random") for m in ("finetune", "kd") for s in range(8)]
    rows = [
        run(m, s, None, task=t, init=i, **{"metrics.score": 70 + s + (m == "kd") * (0.2 if t == "a" else 3.0)})
        for t, i, m, s in cells
    ]
    frame = pd.DataFrame(rows)
    assert interaction_across(pair(frame, metric="score"))["n_tasks"].tolist() == [2]
    frame.loc[frame["params.task"] == "b", "metrics.score"] /= 100
    assert interaction_across(pair(frame, metric="score")).empty, "percent and fractions have no mean"
