"""What seeds can decide, and plans that were or were not followed."""

import pandas as pd
import pytest

from analysis import AnalysisError
from analysis.hypothesis import pairs, verdicts
from analysis.interim import at_looks, joint
from analysis.judge import Rule, judge
from analysis.margins import margins
from analysis.pairing import pair
from analysis.plan_check import (
    agreed,
    compare_plan,
    follows,
    gate,
    held,
    make_plan,
    mark_tuned,
    plan_digest,
)
from analysis.power import detectable_effect, seeds_needed

pytestmark = pytest.mark.filterwarnings("error")

UP = [2.0 + i / 100 for i in range(20)]
WIDE = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5, -3.5, 2.0] * 2


@pytest.mark.parametrize("methods", [1, 2, 3, 5, 12])
def test_the_gate_says_what_the_strongest_data_would_get(methods):
    for seeds in range(2, 13):
        found = gate(seeds, methods, 0.5, 0.05)
        ahead, same = pairs([99.0] * seeds, [1.0] * seeds), pairs([1.0] * seeds, [1.0] * seeds)
        strongest = verdicts({i: ahead for i in range(methods)}, 0.5)[0]
        assert found.can_differ == (strongest.word == "better")
        assert found.can_equal == (verdicts({i: same for i in range(methods)}, 0.5)[0].word == "equivalent")
        assert (found.detectable is None) == (not found.can_differ)
        assert found.level == 0.05


@pytest.mark.parametrize("methods, looks", [(1, (5,)), (3, (10, 14, 20)), (12, (12, 16)), (6, (8,))])
def test_the_gate_of_looks_says_what_the_strongest_data_would_get(methods, looks):
    found = gate(looks[-1], methods, 0.5, 0.05, looks)
    ahead = at_looks({i: [(99.0, 1.0)] * looks[-1] for i in range(methods)}, 0.5, 0.05, looks)[0]
    same = at_looks({i: [(1.0, 1.0)] * looks[-1] for i in range(methods)}, 0.5, 0.05, looks)[0]
    assert found.can_differ == (ahead.word == "better") and found.can_equal == (same.word == "equivalent")


def test_what_looks_can_show_is_at_the_level_of_one():
    found, level = gate(20, 2, 0.5, 0.05, (10, 20), spread=0.5), joint((10, 20)).level(0.05)
    assert found.level == level < 0.05
    assert found.detectable == detectable_effect(20, 2, level) > detectable_effect(20, 2)
    assert found.seeds_for_margin == seeds_needed(0.5, 0.5, 2, level) > seeds_needed(0.5, 0.5, 2)


def test_the_gate_in_figures_and_words():
    found = gate(10, 4, 0.5, 0.05, spread=1.0)
    assert found.can_differ and found.can_equal and found.detectable == pytest.approx(1.37, abs=0.01)
    assert found.seeds_for_margin == seeds_needed(1.0, 0.5, 4) == 51
    assert found.lines() == [
        "10 seeds, a family of 4 methods (Holm), margin 0.5, level 0.05",
        "better or worse: can be reached",
        "equivalent: can be reached",
        "shown with power 0.8: an effect of 1.37 sd of the differences, 1.37 points at that spread",
        "seeds for an effect of 0.5 points, differences of sd 1.00: 51",
    ]
    assert gate(10, 4, 0.5, 0.05, spread=9.0).lines()[-1].endswith("sd 9.00: more than 100")
    seven = gate(7, 5, 0.5, 0.05, (7,)).lines()
    assert ", level 0.0" in seven[0] and seven[0].endswith(" at 1 look (7 seeds)")
    assert seven[1] == "better or worse: cannot be reached, whatever the data (it takes 5 to 6 seeds, or 8 and more)"
    assert gate(7, 16, 0.5, 0.05).lines()[1].endswith("(it takes 6 seeds, or 10 and more)")
    assert seven[-1] == "seeds for an effect of 0.5 points: unknown until a spread is known"
    assert gate(9, 30, 0.5, 0.05).lines()[1].endswith("(it takes 11 seeds or more)")  # 30 / 512 is 0.0586
    assert (
        gate(20, 2, 0.5, 0.05, (10, 14, 20)).lines()[0].endswith("level 0.02454 at each of 3 looks (10, 14, 20 seeds)")
    )
    assert gate(8, 0, 0.5, 0.05).lines() == [
        "there is nothing to compare: methods must name finetune and at least one more"
    ]
    assert not gate(8, 0, 0.5, 0.05).can_differ
    with pytest.raises(AnalysisError, match="margin 0 is not allowed"):
        gate(8, 1, 0, 0.05)


CELLS = [("t", "m", "random", method) for method in ("finetune", "kd", "ls")]


def frame(d: dict[str, list]):
    rows = []
    for method, differences in {"finetune": [0.0] * 20, **d}.items():
        for seed, difference in enumerate(differences):
            params = {"task": "t", "model": "m", "init": "random", "method": method, "seed": seed}
            row = {"run_id": f"{method}-{seed}", "tags.labelreg.kind": "student", "metrics.best/dev/score": difference}
            rows.append(row | {f"params.{name}": str(value) for name, value in params.items()})
    return pd.DataFrame(rows).assign(start_time=pd.Timestamp("2026-01-01", tz="UTC"))


def rule(margin=None, level=0.05, looks=()):
    return Rule(margins(margin), level, tuple(looks))


def judged(d: dict[str, list], looks=()):
    paired = pair(frame(d))
    return paired, judge(paired, rule(looks=looks), range(20))


def plan(margin=0.5, **other):
    usual = {"cells": CELLS, "seeds": range(10), "metric": None, "margins": margins(margin), "level": 0.05}
    return make_plan(**usual | other)


def test_a_digest_is_of_the_content():
    one = plan()
    assert plan_digest(one) == plan_digest(dict(reversed(one.items()))) and len(plan_digest(one)) == 32
    assert plan_digest(plan(margin=1)) == plan_digest(plan(margin=1.0)) != plan_digest(one)
    assert plan_digest(plan(looks=[10])) != plan_digest(one) != plan_digest(plan(seeds=range(9, -1, -1)))
    assert plan_digest(plan(margin=None)) == plan_digest(one) != plan_digest(plan(margin="t:0.5"))


def test_a_plan_that_is_followed():
    _, rows = judged({"ls": UP[:10], "kd": WIDE[:10]})
    assert compare_plan(plan(), rows, None, rule()) == []
    assert compare_plan(plan("auto,t:0.5"), rows, None, rule("auto,t:0.5")) == []


def test_departures_from_a_plan():
    _, rows = judged({"ls": UP[:12], "akd": WIDE[:8]})
    assert compare_plan(plan(), rows, "best/dev/score", rule(1.0, 0.01, [10])) == [
        "metric: best/dev/score, the plan says default",
        "margin: 1.0, the plan says 0.5",
        "level: 0.01, the plan says 0.05",
        "looks: 10, the plan says none",
        "planned, but not compared (they count in Holm's family all the same): kd (t, m, random)",
        "compared, but not planned (they change no planned verdict): akd (t, m, random)",
        "seeds that were not planned: 10, 11 in ls (t, m, random)",
    ]
    _, rows = judged({"ls": UP[:8], "kd": WIDE[:8]})
    said = compare_plan(plan(), rows, None, rule())
    assert said == ["planned seeds without a pair: 8, 9 in kd (t, m, random), ls (t, m, random)"]


def test_a_method_may_end_with_the_look_that_decided_it():
    looks = [10, 14, 20]
    _, rows = judged({"ls": UP[:10], "kd": WIDE}, looks)
    assert rows["look"].tolist() == [10, 20]
    planned = plan(seeds=range(20), looks=looks)
    assert compare_plan(planned, rows, None, rule(looks=looks)) == []
    _, rows = judged({"ls": UP[:10], "kd": WIDE[:14]}, looks)
    (said,) = compare_plan(planned, rows, None, rule(looks=looks))
    assert said == "planned seeds without a pair: 14, 15, 16, 17, 18, 19 in kd (t, m, random)"


def test_what_is_said_of_logged_plans():
    start = pd.Timestamp("2026-01-01", tz="UTC").timestamp()

    def logged(run_id="s", before=60, **other):
        made = plan(**other)
        return {"run_id": run_id, "start": start - before, "digest": plan_digest(made), "plan": made, "tuned": []}

    paired, rows = judged({"ls": UP[:10], "kd": WIDE[:10]})

    def said(*plans):
        return follows(plans, held(plans, paired, paired.runs), paired, rows, None, rule())

    assert "no plan was logged" in said()[0]
    assert said(logged()) == [f"plan {plan_digest(plan())} of run s: followed"]
    assert said(logged(margin=1.0))[0].endswith("not followed")
    assert said(logged(before=-60))[1] == "30 of 30 runs are older than the plan: their scores could be known to it"
    (changed,) = said(logged() | {"digest": "0" * 32})
    assert "is not the plan that was logged" in changed
    assert said(logged(), logged("older", seeds=range(8)))[1] == (
        "run older had planned some of these cells before, with other seeds (perhaps for other settings: none of its "
        "runs is among these)"
    )
    assert len(said(logged(), logged("same"), logged("elsewhere", cells=[("u", "m", "random", "ls")]))) == 1
    (lost,) = said(logged() | {"lost": "no such file", "tuned": [3]})
    assert "cannot be read (no such file)" in lost and lost.endswith("its settings were tuned on seeds 3")


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
    said = follows(plans, held(plans, paired, frame), paired, judge(paired), None, rule())
    assert [line.partition(" of ")[2] for line in said] == ["run mrpc: followed", "run cola: followed"]
    added = frame[frame["params.method"].eq("ls") & frame["params.task"].eq("cola")]
    added = added.assign(**{"params.method": "kd", "run_id": added["run_id"] + "k"})
    paired = pair(pd.concat([frame, added]))
    said = follows(plans, held(plans, paired, frame), paired, judge(paired), None, rule())
    assert said[0].endswith("run mrpc: followed") and said[1].endswith("run cola: not followed")
    assert said[2:] == ["compared, but not planned (they change no planned verdict): kd (cola, m, random)"]


def test_what_another_study_carried_on_is_not_called_uncompared():
    """A study of two tasks was stopped after the first; the second is that of a study of its own."""
    frame, plans = two_studies()
    wider = plans[0]["plan"] | {"cells": [*plans[0]["plan"]["cells"], *plans[1]["plan"]["cells"]]}
    plans[0] |= {"plan": wider, "digest": plan_digest(wider)}
    paired = pair(frame)
    said = follows(plans, held(plans, paired, frame), paired, judge(paired), None, rule())
    assert not [line for line in said if "not compared" in line], said
    lacking = frame[~(frame["params.task"].eq("cola") & frame["params.method"].eq("ls"))]
    paired = pair(lacking)
    said = follows(plans, held(plans, paired, lacking), paired, judge(paired), None, rule())
    assert [line for line in said if "not compared" in line and "ls (cola, " in line], "no study has it"


def test_seeds_and_their_mark_are_those_of_the_own_plan():
    frame, plans = two_studies()
    plans[1]["tuned"] = [3, 12]
    paired = pair(frame)
    planned = held(plans, paired, frame)
    rows = judge(paired, rule(looks=[6]), (), planned)
    assert dict(zip(rows["task"], rows["seeds"], strict=True)) == {"mrpc": tuple(range(6)), "cola": tuple(range(4, 10))}
    marked = mark_tuned(judge(paired, rule(), (), planned), plans, planned).set_index("task")["tuned"]
    assert marked["cola"] == "tuned on seeds of this comparison (3)" and "tuned" not in marked["mrpc"]


def test_seeds_that_a_lost_plan_was_tuned_on_mark_what_no_plan_holds():
    frame, (known, lost) = two_studies()
    plans = [known, lost | {"lost": "no such file", "tuned": [3, 12]}]
    paired = pair(frame)
    planned = held(plans, paired, frame)
    marked = mark_tuned(judge(paired, rule(), (), planned), plans, planned).set_index("task")["tuned"]
    assert marked.to_dict() == {"mrpc": "", "cola": "tuned on seeds of this comparison (3)"}


def test_the_rule_of_a_plan_that_was_changed_afterwards_is_not_taken():
    frame = several_settings()
    frame = frame[frame["params.lr"].eq("1e-05")]
    paired, made = pair(frame), plan(margin=2.0, seeds=range(20))
    logged = {"run_id": "old", "start": 0, "digest": plan_digest(made), "plan": made, "tuned": [], "reused": []}
    for changed, expected in ((logged, {"margin": 2.0}), (logged | {"digest": "0" * 32}, {})):
        assert agreed(held([changed], paired, frame), paired) == expected


def test_the_planned_family_is_that_of_the_newest_plan():
    frame, plans = two_studies()
    paired = pair(frame)

    def families(*plans):
        found = judge(paired, rule(), (), held(plans, paired, frame))
        return found.set_index("task")["family_size"].to_dict()

    cells = [("mrpc", "m", "random", m) for m in ("finetune", "ls", "akd", "ls")]
    newer = plans[0] | {"run_id": "newer", "plan": plan(cells=cells)}
    assert families(*plans) == {"mrpc": 1, "cola": 1}
    assert families(newer, *plans) == {"mrpc": 2, "cola": 1}
    assert families(*plans, newer) == {"mrpc": 1, "cola": 1}, "plans are given newest first"
    (reference, _) = held(plans, pair(frame, "ls"), frame)
    assert reference.families == {("mrpc", "m", "random", ""): ["finetune"]}


def test_a_plan_counts_what_plans_before_it_compared():
    """Five studies of a method each: the best of the five is not found without a correction."""
    names = ["ls", "kd", "akd", "tfreg", "selfkd"]
    runs = frame({name: UP for name in names})
    above = runs["params.method"].map(lambda method: "ls" if method == "finetune" else method)
    runs = runs.assign(**{"tags.mlflow.parentRunId": above})
    shared = list(runs.loc[runs["params.method"].eq("finetune"), "run_id"])
    plans = [studied(name, name, start=at, reused=shared if at else []) for at, name in enumerate(names)][::-1]
    paired = pair(runs)
    planned = held(plans, paired, runs)
    rows = judge(paired, rule(), (), planned)
    assert rows.set_index("method")["family_size"].to_dict() == dict(zip(names, range(1, 6), strict=True))
    said = follows(plans, planned, paired, rows, None, rule())
    (last,) = [line for line in said if "compare selfkd (t, m, random)" in line]
    assert last.startswith("plans after it, which it does not count")
    assert sum("plans after it" in line for line in said) == 4, "of the last nothing"


def test_a_plan_counts_the_settings_that_plans_before_it_compared():
    """Five studies of one method with a setting each, against the same runs of finetune; in whatever order of rows."""
    alphas = ["0.1", "0.3", "0.5", "0.7", "0.9"]
    parts = [frame({"ls": UP})]
    parts = [parts[0][parts[0]["params.method"] == "finetune"].assign(**{"tags.mlflow.parentRunId": "0.1"})]
    for alpha in alphas:
        rows = frame({"ls": UP})
        rows = rows[rows["params.method"] == "ls"]
        ids = rows["run_id"] + alpha
        parts.append(rows.assign(**{"params.alpha": alpha, "run_id": ids, "tags.mlflow.parentRunId": alpha}))
    runs = pd.concat(parts, ignore_index=True)
    shared = list(parts[0]["run_id"])
    plans = [studied(alpha, "ls", start=at, reused=shared if at else []) for at, alpha in enumerate(alphas)]
    paired = pair(runs)
    for some in (plans, plans[::-1]):
        rows = judge(paired, rule(), (), held(some, paired, runs)).set_index("setting")
        assert rows["family_size"].to_dict() == {f"alpha {alpha}": at for at, alpha in enumerate(alphas, 1)}


def several_settings():
    """ls with two rates, each with its own study, whose finetune is its own too; and one by hand."""
    found = []
    for lr, study in (("1e-05", "old"), ("3e-05", "new"), ("5e-05", None)):
        for method in ("finetune", "ls"):
            rows = frame({"ls": UP})
            rows = rows[rows["params.method"] == method]
            ids = [f"{run_id}-{lr}" for run_id in rows["run_id"]]
            found.append(rows.assign(**{"params.lr": lr, "run_id": ids, "tags.mlflow.parentRunId": study}))
    return pd.concat(found, ignore_index=True)


def studied(run_id, *methods, start=0, reused=None):
    made = plan(cells=[("t", "m", "random", method) for method in ("finetune", *methods)], seeds=range(20))
    return {"run_id": run_id, "start": start, "digest": plan_digest(made), "plan": made, "tuned": [], "reused": reused}


@pytest.mark.parametrize("reused", [None, []], ids=["before plans named what they reuse", "now"])
def test_a_plan_is_about_the_settings_of_its_own_runs(reused):
    runs = several_settings()
    paired = pair(runs)
    plans = [studied("new", "ls", "kd", start=9, reused=reused), studied("old", "ls", reused=reused)]
    planned = held(plans, paired, runs)
    rows = judge(paired, rule(), (), planned).set_index("setting")
    assert rows["family_size"].to_dict() == {"lr 1e-05": 1, "lr 3e-05": 2, "lr 5e-05": 4}, "what was added: all, and kd"
    said = follows(plans, planned, paired, rows.reset_index(), None, rule())
    assert said[0].endswith("of run new: not followed") and said[-1].endswith("of run old: followed")
    assert not any("had planned" in line for line in said), "of other settings"


def test_a_reused_run_is_the_studys_own():
    """The newest plan of these settings is the one that counts, whoever made its runs."""
    runs = several_settings()
    paired = pair(runs)
    ids = [run_id for run_id in runs["run_id"] if run_id.endswith("1e-05")]
    newest = studied("newest", "ls", "kd", "akd", start=10, reused=ids)
    plans = [newest, studied("new", "ls", start=9, reused=[]), studied("old", "ls", reused=[])]
    planned = held(plans, paired, runs)
    rows = judge(paired, rule(), (), planned)
    assert rows.set_index("setting")["family_size"].to_dict()["lr 1e-05"] == 3
    assert "run old had planned some of these cells before, with other cells" in follows(
        plans, planned, paired, rows, None, rule()
    )
    unsure = [newest | {"reused": None}, *plans[1:]]
    planned = held(unsure, paired, runs)
    rows = judge(paired, rule(), (), planned)
    assert rows.set_index("setting")["family_size"].to_dict()["lr 1e-05"] == 1, "old speaks for these runs"
    assert (
        "run newest planned them later, with other cells (perhaps for other settings: none of its runs is among these)"
    ) in follows(unsure, planned, paired, rows, None, rule())


def test_runs_that_no_plan_is_about_are_named():
    runs = several_settings().assign(
        **{"params.epochs": lambda each: each["params.lr"].eq("5e-05").map({True: 9, False: 3})}
    )
    paired = pair(runs)
    plans = [studied("old", "ls", reused=[])]
    said = follows(plans, held(plans, paired, runs), paired, judge(paired), None, rule())
    assert said[-1] == "no plan was logged before these runs: ls (t, m, random, epochs=9)"
