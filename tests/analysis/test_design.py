"""What seeds can decide, planned looks against a plain loop, and plans that were or were not followed."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import AnalysisError
from analysis.design import (
    at_looks,
    check_looks,
    compare_plan,
    follows,
    gate,
    level_of_a_look,
    make_plan,
    mark_tuned,
    plan_digest,
    seed_orders,
)
from analysis.hypothesis import holm, min_p_value, seeds_needed, verdicts
from analysis.pairing import pair
from analysis.present.tables import judge

pytestmark = pytest.mark.filterwarnings("error")

UP = [2.0 + i / 100 for i in range(20)]
WIDE = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5, -3.5, 2.0] * 2


@pytest.mark.parametrize("looks", [(), (10, 14, 20)])
@pytest.mark.parametrize("methods", [1, 2, 3, 5, 12])
def test_the_gate_says_what_the_strongest_data_would_get(methods, looks):
    share = 0.05 / max(len(looks), 1)
    for seeds in range(4, 13):
        found = gate(seeds, methods, 0.5, 0.05, looks)
        strongest = verdicts({i: [9.0] * seeds for i in range(methods)}, 0.5, share)[0]
        same = verdicts({i: [0.0] * seeds for i in range(methods)}, 0.5, share)[0]
        assert found.can_differ == (strongest.word == "better") == (seeds >= found.least_differ)
        assert found.can_equal == (same.word == "equivalent") == (seeds >= found.least_equal)
        assert (found.detectable is None) == (not found.can_differ)
        assert found.level == share


def test_the_gate_in_figures_and_words():
    found = gate(8, 4, 0.5, 0.05, spread=1.0)
    assert (found.least_differ, found.least_equal) == (8, 7) and found.detectable == pytest.approx(1.92, abs=0.01)
    assert found.seeds_for_margin == seeds_needed(1.0, 0.5, 4) == 51
    said = found.lines()
    assert said == [
        "8 seeds, a family of 4 methods (Holm), margin 0.5, level 0.05",
        "better or worse: can be reached (needs 8 seeds)",
        "equivalent: can be reached (needs 7 seeds)",
        "shown with power 0.8: an effect of 1.92 sd of the differences, 1.92 points at that spread",
        "seeds for an effect of 0.5 points, with differences of sd 1.00: 51",
    ]
    few = gate(5, 5, 0.5, 0.05, (5,)).lines()
    assert few[0].endswith("level 0.05 at 1 look (5 seeds)")
    assert few[1] == "better or worse: cannot be reached, whatever the data (needs 8 seeds)"
    assert few[-1] == "seeds for an effect of 0.5 points: unknown until a spread is known"
    assert gate(8, 0, 0.5, 0.05).lines() == ["one method only: there is nothing to compare it with"]
    assert not gate(8, 0, 0.5, 0.05).can_differ
    with pytest.raises(AnalysisError, match="margin 0 is not allowed"):
        gate(8, 1, 0, 0.05)


def test_looks_that_are_refused():
    check_looks([], 5, 0.05)
    check_looks([10, 14, 20], 5, 0.05)
    with pytest.raises(AnalysisError) as error:
        check_looks([8, 14, 20], 5, 0.05)
    assert str(error.value) == (
        "looks=8,14,20: a look at 8 seeds could decide nothing, whatever the data: 5 methods at 0.05/3 need 9 seeds "
        "for equivalent, 10 for better or worse"
    )
    check_looks([9, 14, 20], 5, 0.05)
    for looks in ([10, 10], [14, 10], [0, 10], [-1]):
        with pytest.raises(AnalysisError, match="numbers of seeds that rise"):
            check_looks(looks, 1, 0.05)


@pytest.mark.parametrize("methods", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("looks", [[6], [6, 9], [7, 9, 11]])
def test_the_least_look_is_one_at_which_something_can_be_decided(methods, looks):
    share = level_of_a_look(0.05, looks)
    could = methods * min_p_value(looks[0]) / 2 <= share
    try:
        check_looks(looks, methods, 0.05)
    except AnalysisError:
        assert not could
    else:
        assert could
        words = {v.word for v in verdicts({i: [0.0] * looks[0] for i in range(methods)}, 0.5, share).values()}
        assert words == {"equivalent"}


def test_a_verdict_once_reached_stays_and_later_seeds_are_not_used():
    turned = UP[:10] + [-50.0] * 10  # better at 10 seeds, whatever comes later
    found = at_looks({"up": turned, "wide": WIDE}, 0.5, 0.05, [10, 14, 20])
    assert (found["up"].verdict.word, found["up"].look, found["up"].verdict.test.n) == ("better", 10, 10)
    assert "look at 10 seeds; 10 seeds beyond it are not used" in found["up"].verdict.reason
    assert (found["wide"].verdict.word, found["wide"].look, found["wide"].verdict.test.n) == ("undecided", 20, 20)
    assert "look at 20 seeds, the last that was planned" in found["wide"].verdict.reason
    assert verdicts({"up": turned}, 0.5)["up"].word != "better"


def test_the_family_stays_the_planned_one():
    """The decided one keeps its place in Holm's family: the other is tested as one of two, at 0.05/2."""
    late = [1.0, -0.4, 0.9, -0.6, 0.8, -0.7, 1.1, -0.5, 1.2, 1.3, *[2.0 + i / 10 for i in range(10)]]
    found = at_looks({"up": UP[:10], "late": late}, 0.5, 0.05, [10, 20])
    assert found["up"].look == 10 and found["late"].look == 20
    p = [found["up"].verdict.test.p_value, found["late"].verdict.test.p_value]
    assert found["late"].verdict.p_holm == holm(p)[1]
    crowd = {i: WIDE[:10] for i in range(6)}
    alone = at_looks({"late": late}, 0.5, 0.05, [10, 20])["late"].verdict
    crowded = at_looks(crowd | {"late": late}, 0.5, 0.05, [10, 20])["late"].verdict
    assert crowded.p_holm == pytest.approx(min(1, 7 * alone.p_holm))


def test_a_look_that_is_not_reached():
    (decision,) = at_looks({"up": UP[:9]}, 0.5, 0.05, [10, 14]).values()
    assert decision.look is None and decision.verdict.word == "undecided" and decision.verdict.seeds_needed >= 10
    assert decision.verdict.reason == "9 seeds, the first planned look is at 10: nothing is decided before"
    (decision,) = at_looks({"wide": WIDE[:12]}, 0.5, 0.05, [10, 14]).values()
    assert decision.look == 10 and "the next is at 14; 2 seeds beyond it are not used" in decision.verdict.reason
    assert at_looks({}, 0.5, 0.05, [10]) == {}


def test_a_seed_without_a_pair_counts_as_run():
    holes = [*UP[:5], None, math.nan, *UP[7:10]]
    (decision,) = at_looks({"up": holes}, 0.5, 0.05, [10]).values()
    assert (decision.look, decision.verdict.test.n, decision.verdict.word) == (10, 8, "better")


def test_size_of_looking_at_the_data_three_times():
    rng, false, naive = np.random.default_rng(0), 0, 0
    for d in rng.normal(size=(150, 20)).tolist():
        false += at_looks({0: d}, 0.01, 0.05, [10, 14, 20])[0].verdict.word in ("better", "worse")
        naive += any(verdicts({0: d[:n]}, 0.01)[0].word in ("better", "worse") for n in (10, 14, 20))
    assert false <= 13  # 5% of 150 is 7.5; 14 or more have chance 0.02 at exactly 5%
    assert naive > false, "the same looks at 0.05 each"


# plans


CELLS = [("t", "m", "random", method) for method in ("finetune", "kd", "ls")]


def judged(d: dict[str, list], looks=(), seeds=None):
    rows = []
    for method, differences in {"finetune": [0.0] * 20, **d}.items():
        for seed, difference in enumerate(differences):
            params = {"task": "t", "model": "m", "init": "random", "method": method, "seed": seed}
            row = {"run_id": f"{method}-{seed}", "tags.labelreg.kind": "student", "metrics.best/dev/score": difference}
            rows.append(row | {f"params.{name}": str(value) for name, value in params.items()})
    frame = pd.DataFrame(rows).assign(start_time=pd.Timestamp("2026-01-01", tz="UTC"))
    paired = pair(frame)
    return paired, judge(paired, looks=looks, order=range(20))


def plan(**other):
    return make_plan(**{"cells": CELLS, "seeds": range(10), "metric": None, "margin": 0.5, "level": 0.05} | other)


def test_a_digest_is_of_the_content():
    one = plan()
    assert plan_digest(one) == plan_digest(dict(reversed(one.items()))) and len(plan_digest(one)) == 32
    assert plan_digest(plan(margin=1)) == plan_digest(plan(margin=1.0)) != plan_digest(one)
    assert plan_digest(plan(looks=[10])) != plan_digest(one) != plan_digest(plan(seeds=range(9, -1, -1)))


def test_a_plan_that_is_followed():
    _, rows = judged({"ls": UP[:10], "kd": WIDE[:10]})
    assert compare_plan(plan(), rows, None, 0.5, 0.05, []) == []


def test_departures_from_a_plan():
    _, rows = judged({"ls": UP[:12], "akd": WIDE[:8]})
    assert compare_plan(plan(), rows, "best/dev/score", 1.0, 0.01, [10]) == [
        "metric: best/dev/score, the plan says default",
        "margin: 1.0, the plan says 0.5",
        "level: 0.01, the plan says 0.05",
        "looks: 10, the plan says none",
        "planned, but not compared (Holm's family is smaller than planned): kd (t, m, random)",
        "compared, but not planned: akd (t, m, random)",
        "seeds that were not planned: 10, 11 in ls (t, m, random)",
    ]
    _, rows = judged({"ls": UP[:8], "kd": WIDE[:8]})
    said = compare_plan(plan(), rows, None, 0.5, 0.05, [])
    assert said == ["planned seeds without a pair: 8, 9 in kd (t, m, random), ls (t, m, random)"]


def test_a_method_may_end_with_the_look_that_decided_it():
    looks = [10, 14, 20]
    _, rows = judged({"ls": UP[:10], "kd": WIDE}, looks)
    assert rows["look"].tolist() == [10, 20]
    planned = plan(seeds=range(20), looks=looks)
    assert compare_plan(planned, rows, None, 0.5, 0.05, looks) == []
    _, rows = judged({"ls": UP[:10], "kd": WIDE[:14]}, looks)
    (said,) = compare_plan(planned, rows, None, 0.5, 0.05, looks)
    assert said == "planned seeds without a pair: 14, 15, 16, 17, 18, 19 in kd (t, m, random)"


def test_what_is_said_of_logged_plans():
    start = pd.Timestamp("2026-01-01", tz="UTC").timestamp()

    def logged(run_id="s", before=60, **other):
        made = plan(**other)
        return {"run_id": run_id, "start": start - before, "digest": plan_digest(made), "plan": made}

    paired, rows = judged({"ls": UP[:10], "kd": WIDE[:10]})

    def said(*plans):
        return follows(plans, paired, rows, None, 0.5, 0.05, [])

    assert "no plan was logged" in said()[0]
    assert said(logged()) == [f"plan {plan_digest(plan())} of run s: followed"]
    assert said(logged(margin=1.0))[0].endswith("not followed")
    assert said(logged(before=-60))[1] == "40 of 40 runs are older than the plan: their scores could be known to it"
    (changed,) = said(logged() | {"digest": "0" * 32})
    assert "is not the plan that was logged" in changed
    assert said(logged(), logged("older", seeds=range(8)))[1] == (
        "run older had planned some of these cells before, with other seeds"
    )
    assert len(said(logged(), logged("same"), logged("elsewhere", cells=[("u", "m", "random", "ls")]))) == 1


def two_studies():
    """Two tasks, each with its own study's plan; the runs of both in one frame."""
    found, plans = [], []
    for task, seeds in (("mrpc", range(10)), ("cola", range(9, -1, -1))):
        cells = [(task, "m", "random", method) for method in ("finetune", "ls")]
        logged = plan(cells=cells, seeds=list(seeds))
        plans.append({"run_id": task, "start": 0, "digest": plan_digest(logged), "plan": logged, "tuned": []})
        for method, seed in [(method, seed) for *_, method in cells for seed in seeds]:
            params = {"task": task, "model": "m", "init": "random", "method": method, "seed": str(seed)}
            row = {"run_id": f"{task}-{method}-{seed}", "tags.labelreg.kind": "student"}
            row |= {"metrics.best/dev/score": 60.0 + UP[seed] * (method == "ls")}
            found.append(row | {f"params.{name}": value for name, value in params.items()})
    frame = pd.DataFrame(found)
    return frame.assign(start_time=pd.Timestamp("2026-01-01", tz="UTC")), plans


def test_two_studies_in_one_experiment_are_each_held_to_their_own_plan():
    frame, plans = two_studies()
    paired = pair(frame)
    said = follows(plans, paired, judge(paired), None, 0.5, 0.05, [])
    assert [line.partition(" of ")[2] for line in said] == ["run mrpc: followed", "run cola: followed"]
    added = frame[frame["params.method"].eq("ls") & frame["params.task"].eq("cola")]
    added = added.assign(**{"params.method": "kd", "run_id": added["run_id"] + "k"})
    paired = pair(pd.concat([frame, added]))
    said = follows(plans, paired, judge(paired), None, 0.5, 0.05, [])
    assert said[0].endswith("run mrpc: followed") and said[1].endswith("run cola: not followed")
    assert said[2:] == ["compared, but not planned: kd (cola, m, random)"]


def test_seeds_and_their_mark_are_those_of_the_own_plan():
    frame, plans = two_studies()
    plans[1]["tuned"] = [3, 12]
    paired = pair(frame)
    orders = seed_orders(plans, ())
    rows = judge(paired, looks=[6], order=orders)
    assert dict(zip(rows["task"], rows["seeds"], strict=True)) == {"mrpc": tuple(range(6)), "cola": tuple(range(4, 10))}
    marked = mark_tuned(judge(paired, order=orders), plans).set_index("task")["reason"]
    assert marked["cola"].endswith("; tuned on seeds of this comparison (3)") and "tuned" not in marked["mrpc"]
