"""Columns, families, plans, failures and looks, and the lines that are made of them; frames whose answers are known."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import AnalysisError
from analysis.hypothesis import equivalence, pairs, rank_sum, signed_rank
from analysis.interim import joint
from analysis.judge import COLUMNS, Planned, Rule, judge
from analysis.margins import margins, resolution
from analysis.pairing import pair
from analysis.power import more_seeds, robust_sd, seeds_needed
from analysis.predictions import marked
from analysis.present.answer import scores
from analysis.present.render import p_text, to_markdown, to_text
from analysis.present.wording import (
    clause_lines,
    clauses,
    deciding_lines,
    lost_line,
    sentence,
    unit_lines,
    verdict_lines,
)

pytestmark = pytest.mark.filterwarnings("error")

FINETUNE = [74.0, 75.5, 73.25, 76.0, 74.5, 75.0, 73.5, 74.75, 75.25, 74.25, 73.75, 75.75]
UP = [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7]
MIXED = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5]
NONE = [0.1, -0.11, 0.05, -0.02, 0.03, 0.07, -0.06, -0.04]
PLACE = ("rotten_tomatoes", "minilm-3l", "pretrained")


def runs(differences: dict, metric="best/test/score", seeds=8, **parameters):
    """Finetune and methods whose differences to it are given, one run per seed; None: the run failed."""
    rows = []
    for method, d in {"finetune": [0.0] * seeds, **differences}.items():
        for seed, (base, added) in enumerate(zip(FINETUNE, d, strict=False)):
            values = dict(zip(("task", "model", "init"), PLACE, strict=True)) | parameters
            rows.append(
                {
                    "run_id": f"{method}-{seed}",
                    "status": "FINISHED" if added is not None else "FAILED",
                    **{f"params.{name}": value for name, value in values.items()},
                    "params.method": method.split("@")[0],
                    "params.alpha": method.partition("@")[2] or None,
                    "params.seed": str(seed),
                    f"metrics.{metric}": base + added if added is not None else np.nan,
                    "tags.labelreg.kind": "student",
                }
            )
    return pd.DataFrame(rows)


def rule(margin=None, level=0.05, looks=()):
    return Rule(margins(margin), level, tuple(looks))


def judged(differences, planned=None, **more):
    """`planned`: methods by (task, model, init), of one plan."""
    given = {name: more.pop(name) for name in ("margin", "level", "looks") if name in more}
    paired = pair(runs(differences, **more))
    own = [c.who for c in paired.comparisons if c.method in (planned or {}).get(c.who[:3], ())]
    families = {(*place, ""): methods for place, methods in (planned or {}).items()}
    logged = {"plan": {"seeds": (), "looks": list(given.get("looks", ()))}}
    plans = [Planned(logged, families, own, True)] if planned else []
    return judge(paired, rule(**given), planned=plans)


def lines(differences, **more):
    return verdict_lines(judged(differences, **more))


def test_the_columns_are_there_without_a_comparison_too():
    assert list(judged({"ls": UP}).columns)[: len(COLUMNS)] == COLUMNS
    assert list(judge(pair(pd.DataFrame())).columns)[: len(COLUMNS)] == COLUMNS


def test_a_row_is_what_the_tests_say():
    (row,) = judged({"ls": MIXED}, margin=2.0).to_dict("records")
    test = signed_rank(MIXED)
    for name in ("n", "estimate", "low", "high", "level", "p_value", "min_p_value"):
        assert row[name] == getattr(test, name)
    assert row["test"] == "signed-rank" and row["margin"] == 2
    both = pairs(np.add(FINETUNE[:8], MIXED), FINETUNE[:8])
    assert row["p_equivalence"] == row["p_equivalence_holm"] == equivalence(both, 2.0)
    assert row["p_holm"] == row["p_value"] == row["p_holm_study"]
    assert row["mean_reference"] == np.mean(FINETUNE[:8])
    assert row["std_method"] == pytest.approx(np.std(both.mine, ddof=1))
    assert row["mean_method"] - row["mean_reference"] == pytest.approx(row["mean_difference"]) == 0.5
    assert row["std_difference"] == pytest.approx(np.std(MIXED, ddof=1))
    assert (row["verdict"], row["negligible"], row["decidable"]) == ("undecided", False, True)
    assert row["more_seeds"] == more_seeds(MIXED, 2.0) > 0
    assert row["seeds_for_margin"] == seeds_needed(robust_sd(np.array(MIXED)), 2.0)


def test_a_row_of_few_seeds_is_the_rank_sum_test():
    d = [2.1, 2.5, 1.5, 3.1, 2.2]
    (row,) = judged({"ls": d}, seeds=5).to_dict("records")
    mine, theirs = np.add(FINETUNE[:5], d), FINETUNE[:5]
    assert row["test"] == "rank-sum" and row["p_value"] == rank_sum(mine, theirs).p_value
    assert row["p_value"] == pytest.approx(stats.mannwhitneyu(mine, theirs, method="exact").pvalue)
    (turned,) = judge(pair(runs({"ls": d}, metric="dev/nll", seeds=5), metric="dev/nll")).to_dict("records")
    assert turned["p_value"] == pytest.approx(row["p_value"]) and turned["estimate"] == -row["estimate"]


def test_a_difference_of_few_seeds_that_spread_otherwise_says_so():
    base = FINETUNE[:5]
    wide = [90.0 + 10 * x - base[at] for at, x in enumerate([-1.0, -0.5, 0.0, 0.5, 1.0])]
    told = "the spreads differ (sd 7.91 and 1.11), which ranks of 5 scores may call a difference too"
    (row,) = judged({"ls": wide}, seeds=5).to_dict("records")
    assert row["verdict"] == "better" and told in clauses(row)
    (turned,) = judge(pair(runs({"ls": wide}, metric="dev/nll", seeds=5), metric="dev/nll")).to_dict("records")
    assert turned["verdict"] == "worse" and told in clauses(turned)
    (alike,) = judged({"ls": UP[:5]}, seeds=5).to_dict("records")
    (more,) = judged({"ls": [5.0, 9.0, 13.0, 17.0, 21.0, 25.0, 29.0]}, seeds=7).to_dict("records")
    assert alike["verdict"] == more["verdict"] == "better"
    assert not any("spreads" in clause for row in (alike, more) for clause in clauses(row))


def test_holm_runs_within_a_family():
    one = runs({"ls": UP, "kd": MIXED, "kd@2": NONE})
    other = runs({"ls": UP}, init="random")
    frame = judge(pair(pd.concat([one, other])))
    assert frame[["init", "method", "setting"]].values.tolist() == [
        ["pretrained", "ls", ""],
        ["pretrained", "kd", "alpha 2"],
        ["pretrained", "kd", ""],
        ["random", "ls", ""],
    ]
    assert frame["p_holm"].tolist()[::3] == [3 / 128, 1 / 128]  # two settings of kd both count
    assert frame["family_size"].tolist() == [3, 3, 3, 1]
    assert frame["verdict"].tolist() == ["better", "equivalent", "undecided", "better"]
    assert frame["seeds_for_margin"].isna().tolist() == [True] * 4  # of the undecided: more than 100
    assert frame["p_holm_study"].tolist()[::3] == [4 / 128, 4 / 128]


def test_margin_and_level_reach_the_tests():
    d = [0.0, 0.0, 0.0, -0.1, -0.2, 0.3, 0.4, 0.5]
    assert judged({"ls": d})["p_value"][0] == 0.3125
    assert judged({"ls": d}, margin=5)["verdict"][0] == "equivalent"
    assert judged({"ls": d}, margin="5,sst5:0.1")["margin"][0] == 5
    assert judged({"ls": d}, margin=f"{PLACE[0]}:5,0.1")["verdict"][0] == "equivalent"
    assert judged({"ls": d}, margin=5, level=0.001)["verdict"][0] == "undecided"
    for empty in (pair(runs({"ls": d})), pair(pd.DataFrame())):
        for mistake in ({"level": 1}, {"looks": (9, 8)}):
            with pytest.raises(AnalysisError):
                judge(empty, rule(**mistake))


def test_the_margin_is_that_of_the_test_set():
    frame = runs({"ls": UP})
    table = pd.DataFrame({"idx": range(150), "label": [0, 1] * 75, "p_0": [0.6, 0.3] * 75, "p_1": [0.4, 0.7] * 75})
    paired = marked(pair(frame), lambda run_id, split: table)
    assert set(paired.examples.values()) == {150}
    assert judge(paired)["margin"].tolist() == judge(paired, rule("auto"))["margin"].tolist() == [resolution(150)]
    assert judge(paired)["examples"].tolist() == [150]
    said = (
        f"margin {resolution(150):g} is auto, not 0.5: what 150 test examples can tell; a smaller gain is not excluded"
    )
    assert said in verdict_lines(judge(paired))[0] and "margin" not in "".join(lines({"ls": UP}))
    with pytest.raises(AnalysisError, match="150 test examples, one of which is worth 0.67 points"):
        judge(paired, rule(0.5))
    with pytest.raises(AnalysisError, match="the number of its test examples is not known"):
        judge(pair(frame), rule("auto"))


def test_the_margin_of_a_family_is_that_of_its_smallest_test_set():
    paired = replace(pair(runs({"ls": UP, "kd": MIXED})), examples={"ls-0": 150, "kd-0": 100})
    assert judge(paired)["margin"].tolist() == [resolution(100)] * 2 != [resolution(150)] * 2


def test_an_edited_file_of_the_same_name_has_a_margin_of_its_own():
    first = runs({"ls": UP}).assign(**{"tags.labelreg.data": "d1"})
    edited = first.assign(run_id=first["run_id"] + "-b", **{"tags.labelreg.data": "d2"})

    def predictions(run_id: str, split: str) -> pd.DataFrame:
        half = 8 if run_id.endswith("-b") else 75
        return pd.DataFrame(
            {"idx": range(2 * half), "label": [0, 1] * half, "p_0": [0.6, 0.3] * half, "p_1": [0.4, 0.7] * half}
        )

    both = judge(marked(pair(pd.concat([first, edited])), predictions))
    assert both["examples"].tolist() == [150, 16]
    assert both["margin"].tolist() == [resolution(150), resolution(16)]
    assert [line.split(":")[0] for line in clause_lines(both)] == ["ls [data=d1]", "ls [data=d2]"]


# The planned family


def test_a_method_that_is_added_later_changes_no_planned_verdict():
    planned = {PLACE: ("ls", "kd")}
    before = judged({"ls": UP, "kd": MIXED}, planned).set_index("method")
    after = judged({"ls": UP, "kd": MIXED, "akd": UP, "tfreg": NONE}, planned).set_index("method")
    for name in ("verdict", "p_holm", "p_equivalence_holm", "family_size", "more_seeds", "reason"):
        assert after.loc[["ls", "kd"], name].tolist() == before.loc[["ls", "kd"], name].tolist(), name
    assert before["p_holm"]["ls"] == 2 / 128 and after["family_size"].to_dict() == {
        "ls": 2,
        "tfreg": 4,
        "kd": 2,
        "akd": 4,
    }
    assert after["p_holm"]["akd"] == 4 / 128  # an addition is corrected for all that there are
    free = judged({"ls": UP, "kd": MIXED, "akd": UP, "tfreg": NONE}).set_index("method")
    assert free["p_holm"]["ls"] == 4 / 128


def test_a_planned_method_that_is_absent_still_counts():
    planned = {PLACE: ("ls", "kd", "akd", "selfkd", "tfreg", "lsp", "x")}
    (row,) = judged({"ls": UP}, planned).to_dict("records")
    assert (row["p_holm"], row["family_size"], row["verdict"]) == (7 / 128, 7, "undecided")
    assert not row["decidable"] and "too few to call a difference, whatever the data in a family of 7" in row["reason"]
    (elsewhere,) = judged({"ls": UP}, {("sst5", *PLACE[1:]): planned[PLACE]}).to_dict("records")
    assert (elsewhere["p_holm"], elsewhere["family_size"]) == (1 / 128, 1)
    looked = judged({"ls": UP}, {PLACE: ("ls", "kd", "akd")}, looks=(8,))
    assert looked["p_holm"][0] == 3 / 128 and looked["family_size"][0] == 3


@pytest.mark.parametrize("own, size", [(True, 2), (False, 1)])
def test_what_an_earlier_study_compared_counts_where_it_was_that_study(own, size):
    """A plan that none of these runs speaks for has but the names of its cells in common with them."""
    paired = pair(runs({"ls": UP, "kd": MIXED}))
    who = {c.method: c.who for c in paired.comparisons}
    logged = [{"plan": {"seeds": (), "looks": []}, "start": start} for start in (1, 2)]
    earlier = Planned(logged[0], {(*PLACE, ""): ["kd"]}, [who["kd"]], own)
    plans = [Planned(logged[1], {(*PLACE, ""): ["ls"]}, [who["ls"]], True), earlier]
    assert judge(paired, rule(), planned=plans).set_index("method")["family_size"]["ls"] == size


def test_what_is_added_is_corrected_for_the_planned_that_are_absent_too():
    (row,) = judged({"akd": UP}, {PLACE: ("ls", "kd")}).to_dict("records")
    assert (row["family_size"], row["p_holm"]) == (3, 3 / 128)


# Seeds that failed


def test_seeds_that_failed_are_said_and_counted_as_losses():
    """4 of 12 diverged, the other 8 are ahead: ranks of 4 large losses beside 8 gains."""
    d = [*UP, None, None, None, None]
    (row,) = judged({"ls": d}, seeds=12).to_dict("records")
    assert (row["verdict"], row["n"], row["failed"], row["failed_reference"]) == ("better", 8, 4, 0)
    ranks = np.array([*range(1, 9), *[10.5] * 4])  # the losses are larger than all, and alike
    sums = np.array(list(itertools.product((0, 1), repeat=12))) @ ranks
    assert row["p_failures"] == pytest.approx(2 * min(np.mean(sums <= 36), np.mean(sums >= 36)))
    told = f"4 of 12 seeds of ls failed (as losses, uncorrected: lower, p = {row['p_failures']:.2f})"
    assert lost_line([row]) == told and told in sentence([row]) and told in clauses(row)
    assert lines({"ls": d}, seeds=12)[0].endswith(told)


def test_failures_of_the_reference_are_its_losses():
    frame = runs({"finetune": [*[0.0] * 8, None, None, None, None], "ls": [*UP, 0.0, 0.0, 0.0, 0.0]}, seeds=12)
    (row,) = judge(pair(frame)).to_dict("records")
    assert (row["failed"], row["failed_reference"], row["n"]) == (0, 4, 8)
    assert row["p_failures"] == 2**-11  # twelve of twelve
    assert "4 of 12 seeds of finetune failed" in lost_line([row])
    kd = [*UP[:4], *[0.0] * 8]
    both = judge(pair(runs({"finetune": [*[0.0] * 8, *[None] * 4], "ls": [*UP, *[0.0] * 4], "kd": kd}, seeds=12)))
    p_ls, p_kd = (p_text(both.set_index("method").loc[name, "p_failures"]) for name in ("ls", "kd"))
    told = (
        f"; 4 of 12 seeds of finetune failed (as losses, uncorrected: ls higher, p = {p_ls}, kd higher, p = {p_kd}) ("
    )
    assert told in sentence(both.to_dict("records")), "once, with the test of each"
    whole = judged({"ls": UP}).iloc[0]
    assert (whole["failed"], lost_line([whole])) == (0, "") and math.isnan(whole["p_failures"])


def test_losses_that_turn_a_verdict_say_so():
    few = [9.0, 9.1, 9.2, 9.3, *[None] * 8]
    (row,) = judged({"ls": few}, seeds=12).to_dict("records")
    assert row["verdict"] == "better" and row["estimate_failures"] < 0 and row["p_failures"] < 0.05
    assert "(as losses, uncorrected: lower, p = 0.0" in lost_line([row])


def test_a_seed_that_failed_on_both_sides_is_nobodys_loss():
    for reference in ("finetune", "ls"):
        frame = runs({"finetune": [*[0.0] * 5, None, None], "ls": [*UP[:5], None, None]}, seeds=7)
        (row,) = judge(pair(frame, reference)).to_dict("records")
        assert (row["failed"], row["failed_reference"]) == (2, 2) and math.isnan(row["p_failures"])
        assert lost_line([row]).endswith("failed")


def test_a_failure_is_of_its_setting():
    frame = judged({"kd@0.1": [*UP[:5], *[0.5] * 2], "kd@0.9": [*UP[:5], None, None]}, seeds=7).set_index("setting")
    assert frame["failed"].to_dict() == {"alpha 0.1": 0, "alpha 0.9": 2}
    assert math.isnan(frame["p_failures"]["alpha 0.1"])


def test_a_failure_of_the_reference_is_of_its_own_setting():
    frame = runs({"finetune": [*[0.0] * 5, None, None], "ls": [*UP[:5], 0.0, 0.0]}, seeds=7)
    frame["params.lr"] = np.where(frame["params.method"] == "ls", "0.1", "0.2")
    (row,) = judge(pair(frame)).to_dict("records")
    assert (row["setting"], row["failed"], row["failed_reference"]) == ("lr 0.1, finetune 0.2", 0, 2)


def test_beside_a_loss_stands_the_median_of_the_reference():
    d = [9.0, -9.5, 9.2, 9.1, None]
    (row,) = judged({"ls": d}, seeds=5).to_dict("records")
    mine, theirs = np.add(FINETUNE[:4], d[:4]), FINETUNE[:4]
    assert row["p_failures"] == rank_sum([*mine, -1000], [*theirs, np.median(theirs)]).p_value
    assert row["p_failures"] != rank_sum([*mine, -1000], [*theirs, np.median(mine)]).p_value


def test_one_seed_with_which_neither_side_learnt_leaves_the_verdict():
    frame = runs({"ls": UP})
    frame["tags.labelreg.one_class"] = np.where(frame["params.seed"].eq("3"), "0", None)
    (row,) = judge(pair(frame)).to_dict("records")
    assert (row["not_learnt"], row["not_learnt_reference"], row["verdict"]) == (1, 1, "better")


def test_where_a_seed_has_not_learnt_the_median_is_told():
    frame = runs({"ls": [1.0, 1.2, 0.9, 1.1, -20.0, -19.0, -21.0]}, seeds=7)
    lost = frame["params.method"].eq("ls") & frame["params.seed"].isin(["4", "5", "6"])
    frame["tags.labelreg.one_class"] = np.where(lost, "0", None)
    (row,) = judge(pair(frame)).to_dict("records")
    assert row["not_learnt"] == 3 and "ls (median +0.90)" in sentence([row])


def test_the_study_wide_p_is_never_the_milder_one():
    (row,) = judged({"ls": UP}, {PLACE: ("ls", "kd", "tfreg", "akd")}).to_dict("records")
    assert row["p_holm"] == row["p_holm_study"] == 4 / 128
    (row,) = judged({"ls": UP}, looks=(8, 12, 16)).to_dict("records")
    assert row["p_holm_study"] == row["p_holm"] > row["p_value"]


def test_planned_looks_hold_whatever_is_added():
    planned = {PLACE: ("ls", "kd", "tfreg")}
    d = {"ls": UP[:7], "kd": MIXED[:7], "tfreg": NONE[:7]}
    before = judged(d, planned, looks=(7, 10)).set_index("method")
    after = judged(d | {"akd": UP[:7]}, planned, looks=(7, 10)).set_index("method")
    assert after["verdict"][list(d)].tolist() == before["verdict"][list(d)].tolist()
    assert after["verdict"]["akd"] == "undecided"
    with pytest.raises(AnalysisError, match="4 methods at 0.05 over 2 looks need 8"):
        judged(d | {"akd": UP[:7]}, looks=(7, 10))


def test_a_metric_in_small_numbers_is_told_in_small_numbers():
    frame = runs({"ls": [0.003, 0.0034, 0.0038, 0.004, 0.0044, 0.0031, 0.0036, 0.0042]}, metric="best/test/nll")
    told = judge(pair(frame, metric="best/test/nll"), rule(0.005))
    assert "ls (-0.0037)" in sentence(told.to_dict("records"))
    assert "mean difference -0.0037 (sd 0.0005)" in verdict_lines(told)[0] and "-0.0037" in to_text(told, digits=4)


def test_a_seed_that_was_run_again_has_not_failed():
    frame = runs({"ls": [*UP[:7], None]})
    again = runs({"ls": UP})
    again = again[again["run_id"] == "ls-7"].assign(run_id="again")
    (row,) = judge(pair(pd.concat([frame, again]))).to_dict("records")
    assert (row["n"], row["failed"]) == (8, 0)


# Looks


def test_seeds_beyond_the_look_are_not_of_it():
    (row,) = judged({"ls": [*UP, None, None, None, None]}, seeds=12, looks=(8, 12)).to_dict("records")
    assert (row["verdict"], row["look"], row["n"]) == ("better", 8, 8)
    assert row["failed"] == 0


def test_a_look_has_its_own_level_and_its_seeds_alone():
    d = [2.0, -0.4, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7, 1.0, 1.1, 1.2, 1.3]
    (row,) = judged({"ls": d}, seeds=12, looks=(8, 10, 12)).to_dict("records")
    at_8 = signed_rank(d[:8])
    assert at_8.p_value == 2 / 128 and (row["verdict"], row["look"], row["n"]) == ("better", 8, 8)
    assert row["p_value"] == at_8.p_value and row["p_holm"] == joint((8, 10, 12)).two_sided(2 / 128) <= 0.05
    assert row["seeds"] == tuple(range(8)) and row["differences"] == pytest.approx(tuple(d[:8]))
    assert row["mean_corrected"] < row["mean_difference"] == pytest.approx(np.mean(d[:8]))
    told = f"stopped at a look: without what stopping adds, {row['mean_corrected']:+.2f}"
    assert told in clauses(row) and told in verdict_lines(pd.DataFrame([row]))[0]
    (last,) = judged({"ls": UP}, looks=(8,)).to_dict("records")
    assert last["look"] == 8 and math.isnan(last["mean_corrected"])


def test_a_worse_method_has_its_mean_without_what_stopping_adds_too():
    d = [-2.0, 0.4, -2.2, -2.3, -2.4, -2.5, -2.6, -2.7]
    (row,) = judged({"ls": d}, looks=(8, 10, 12)).to_dict("records")
    assert row["verdict"] == "worse" and row["mean_difference"] < row["mean_corrected"] < 0


def test_seeds_that_were_not_planned_come_after_those_that_were():
    paired = pair(runs({"ls": [*UP, 2.8, 2.9]}, seeds=10))
    (row,) = judge(paired, rule(looks=(8, 10)), tuple(range(2, 10))).to_dict("records")
    assert (row["look"], row["seeds"]) == (8, tuple(range(2, 10)))


def looked_at(frame, *looks):
    return judge(pair(frame), rule(looks=looks)).to_dict("records")


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
    (row,) = judge(paired, rule(looks=[8])).to_dict("records")
    assert pd.isna(row["look"]) and row["n"] == 7
    same = other.assign(**{"params.epochs": "3", "status": "FAILED"})
    (row,) = looked_at(pd.concat([frame, same]), 8)
    assert (row["look"], row["n"], row["failed"]) == (8, 7, 1)


# Lines


def test_no_nan_reaches_a_reader():
    for d in ([1.0], [1.0, 2.0], [0.0] * 8, [0.0]):
        paired = pair(runs({"ls": d}))
        printed = [*verdict_lines(judge(paired)), to_text(judge(paired)), to_markdown(scores(paired))]
        assert not any("nan" in text.lower().replace("finetune", "") for text in printed)
    frame = judged({"ls": [1.0]})
    assert frame["std_difference"].isna().all() and frame["std_difference"].dtype == float
    assert math.isinf(frame["low"][0])


def test_a_line_on_an_undecided_method():
    (line,) = lines({"ls": MIXED})
    assert line == (
        "ls vs finetune (rotten_tomatoes, minilm-3l, pretrained, best/test/score): undecided; "
        "mean difference +0.50 (sd 2.85) over n = 8 seeds, "
        "signed-rank p = 0.64 (smallest possible: 0.0078), alone in its family; "
        "the interval [-2.00, +3.00] still holds effects beyond the margin of 0.5"
    )


def test_a_line_names_the_size_of_the_family():
    better, undecided = lines({"ls": UP, "kd": MIXED})
    assert "better; mean difference +2.35" in better and "higher in 8 of 8 seeds" in better
    assert "signed-rank p = 0.0078 (smallest possible: 0.0078), Holm p = 0.0156 in a family of 2" in better
    assert "Holm p = 0.64 in a family of 2" in undecided


@pytest.mark.parametrize(
    "n, told",
    [
        (1, "rank-sum p = 1.00 (smallest possible: 1.00)"),
        (3, "rank-sum p = 0.40 (smallest possible: 0.10)"),
        (3, "3 seeds are too few to call a difference, whatever the data"),
        (3, "no bounded interval with n = 3"),
        (1, "1 seed is too few to call a difference, whatever the data"),
        (1, "mean difference +2.00 over n = 1 seed,"),
    ],
)
def test_a_line_says_that_n_is_too_small(n, told):
    assert told in lines({"ls": [2.0, 0.1, 0.2][:n]})[0]


def test_a_line_shows_setting_zeros_and_negligible():
    found = lines({"kd": UP, "kd@2": [0.1] * 8, "ls": [0.0, 0.0, *UP[2:]]})
    by_start = {line.split(" vs ")[0]: line for line in found}
    assert set(by_start) == {"ls", "kd", "kd [alpha 2]"}
    assert "better (negligible)" in by_start["kd [alpha 2]"]
    assert "real, but smaller than the margin of 0.5" in by_start["kd [alpha 2]"]
    assert "(smallest possible: 0.0312)" in by_start["ls"] and "2 of 8 differences are zero" in by_start["ls"]
    assert "Holm p = 0.0234 in a family of 3" in by_start["kd"]


def test_a_line_says_that_the_sign_is_turned():
    paired = pair(runs({"ls": UP}, metric="best/test/nll"), metric="best/test/nll")
    (line,) = verdict_lines(judge(paired))
    assert "worse; mean difference -2.35 (sd 0.24), lower is better and the sign is turned, over n" in line


def test_what_would_decide():
    frame = judged({"ls": [3.0, -0.5, 2.0, 1.0, -1.0, 2.5, 0.5, 1.5], "kd": [40 * x for x in MIXED], "akd": [1.0]})
    ls, kd, akd = deciding_lines(frame)
    more = more_seeds(frame["differences"][0], 0.5, 3)
    assert (
        10 < more <= 50
        and ls == f"ls: {more} more seeds like these would (probability 0.9); an effect of the margin takes 100 in all"
    )
    assert frame["seeds_for_margin"][0] == seeds_needed(robust_sd(np.array(frame["differences"][0])), 0.5, 3) == 100
    assert kd == "kd: more than 100 more seeds like these; an effect of the margin takes more than 100"
    assert akd == "akd: more seeds, as one says nothing of their spread"
    (alone,) = deciding_lines(judged({"ls": MIXED}, margin=2))
    needed = seeds_needed(robust_sd(np.array(MIXED)), 2.0)
    assert alone.endswith(f"an effect of the margin takes {needed} in all")
    assert deciding_lines(judged({"ls": UP})) == []


def test_beside_planned_looks_no_seeds_are_foretold():
    frame = judged({"ls": MIXED}, margin=2.0, looks=(8, 16, 24))
    assert frame["verdict"].tolist() == ["undecided"]
    assert frame[["more_seeds", "seeds_for_margin"]].isna().all(axis=None)
    assert deciding_lines(frame, (8, 16, 24)) == ["ls: the planned looks alone (8, 16, 24 seeds), none beyond them"]


def test_teachers_are_named():
    frame = runs({"kd": UP, "ls": MIXED})
    frame["params.teacher_run_id"] = ["0123456789abcdef" if m == "kd" else None for m in frame["params.method"]]
    ls, kd = judge(pair(frame)).to_dict("records")
    assert kd["teachers"] == "0123456789abcdef" and "for this one teacher (01234567)" in clauses(kd)
    assert ls["teachers"] == "" and not any("teacher" in clause for clause in clauses(ls))
    frame.loc[frame["params.method"] == "kd", "params.teacher_run_id"] = [f"t{s % 3}" for s in range(8)]
    (_, kd) = judge(pair(frame)).to_dict("records")
    assert kd["teachers"] == "t0, t1, t2" and "3 teachers" in clauses(kd)
    assert "3 teachers" in verdict_lines(pd.DataFrame([kd]))[0]


def test_scores():
    frame = runs({"zeta": UP, "akd": UP, "kd": UP[:1], "beta": UP, "ls": UP, "ls@0.2": UP[:3]})
    table = scores(pair(frame))
    assert list(table.columns) == "task model init method setting metric mean std n not_learnt".split()
    assert table["method"].tolist() == ["finetune", "ls", "ls", "kd", "akd", "beta", "zeta"]
    assert table["n"].tolist() == [8, 3, 8, 1, 8, 8, 8]
    assert table["setting"].tolist() == ["", "alpha 0.2", "alpha none", "", "", "", ""]
    assert table["mean"][0] == np.mean(FINETUNE[:8]) and table["std"][0] == pytest.approx(np.std(FINETUNE[:8], ddof=1))
    assert math.isnan(table["std"][3])
    assert scores(pair(pd.DataFrame())).empty


def test_a_margin_of_points_on_fractions_is_pointed_at():
    frame = runs({"ls": UP, "kd": NONE}, metric="score")
    frame["metrics.score"] /= 100
    paired = pair(frame, metric="score")
    assert unit_lines(judge(paired, rule(0.5))) == [
        "scores look like fractions of 1 (rotten_tomatoes, score): margin=0.5 is in the metric's own unit; "
        "give margin=0.005 where 0.5 points of 100 are meant"
    ]
    assert unit_lines(judge(paired, rule(0.005))) == []
    frame["metrics.nll"] = frame["metrics.score"]
    loss = pair(frame, metric="nll")
    (told,) = unit_lines(judge(loss, rule(0.5)))  # a loss is no share of 1, but every one is within 0.5
    assert "(rotten_tomatoes, nll): margin=0.5 is in the metric's own unit" in told and "100" not in told
    assert unit_lines(judge(loss, rule(0.005))) == []
    frame["metrics.best/dev/score"] = frame["metrics.score"]
    assert unit_lines(judge(pair(frame, metric="best/dev/score"))) == [], "known to be in percent"
    frame["metrics.score"] *= 100
    assert unit_lines(judge(pair(frame, metric="score"))) == unit_lines(judge(pair(pd.DataFrame()))) == []
    frame["metrics.score"] /= 20  # about 4 of 100, or of 5: not ours to say
    assert len(unit_lines(judge(pair(frame, metric="score")))) == 1


def test_the_usual_margin_decides_nothing_in_another_unit():
    """Half of the scale: everything would be equivalent."""
    frame = runs({"ls": UP, "kd": NONE}, metric="score")
    frame["metrics.score"] /= 100
    with pytest.raises(
        AnalysisError, match=r"^margin: scores look like fractions of 1 .*give margin=0.005 .* where half"
    ):
        judge(pair(frame, metric="score"))
    low = frame.copy()
    low.loc[low["params.seed"] == "0", "metrics.score"] -= 0.8  # a Matthews of what has not learnt
    with pytest.raises(AnalysisError, match=r"^margin: scores look like fractions of 1 "):
        judge(pair(low, metric="score"))
    frame["metrics.nll"] = frame["metrics.score"]
    with pytest.raises(AnalysisError, match=r"^margin: scores are between 0.7\d+ and .* in the metric's own unit$"):
        judge(pair(frame, metric="nll"))
    frame["metrics.matthews"] = frame["metrics.score"] - 0.75  # from below 0 to above it
    with pytest.raises(
        AnalysisError, match=r"^margin: scores look like fractions of 1 .*, matthews.*give margin=0.005"
    ):
        judge(pair(frame, metric="matthews"))
    frame["metrics.eval/accuracy"] = frame["metrics.score"]  # as the Trainer of transformers logs it
    with pytest.raises(AnalysisError, match=r"^margin: scores look like fractions of 1 .*, eval/accuracy"):
        judge(pair(frame, metric="eval/accuracy"))


def test_a_failure_beyond_a_look_is_not_counted_in_the_place_of_one_within():
    """Seed 3 failed on both sides, seed 11 of ls after the look at 8, at which the verdict fell: nobody lost a seed."""
    baseline, mine = [0.0] * 12, [2.0 + i / 10 for i in range(12)]
    baseline[3] = mine[3] = mine[11] = None
    (row,) = judge(pair(runs({"finetune": baseline, "ls": mine})), rule(looks=(8, 12))).to_dict("records")
    assert (row["look"], row["failed"], row["failed_reference"]) == (8, 1, 1) and math.isnan(row["p_failures"])
