"""Sections of the answer: which there are, for which runs, and what they say; their forms and the summaries."""

import html
import itertools
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from predicted import logged, run, table

from analysis.judge import Rule, judge
from analysis.margins import margins, resolution
from analysis.pairing import pair
from analysis.plan_check import make_plan, plan_digest
from analysis.present import answer as answering
from analysis.present.answer import Evidence, answer, files, summaries
from analysis.present.page import page
from analysis.present.render import as_json, as_markdown, as_text
from analysis.present.wording import clauses, wrapped

pytestmark = pytest.mark.filterwarnings("error")

WIDE = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5]
UP = [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7]
NONE = [0.1, -0.11, 0.05, -0.02, 0.03, 0.07, -0.06, -0.04]


def students(d: dict, metric="best/test/score", **columns) -> pd.DataFrame:
    rows = []
    for method, differences in {"finetune": [0.0] * max([8, *map(len, d.values())]), **d}.items():
        for seed, difference in enumerate(differences):
            params = {"task": "rte", "model": "bert", "init": "random", "method": method, "seed": str(seed)}
            row = {"run_id": f"{method}-{seed}", "status": "FINISHED", "tags.labelreg.kind": "student"}
            row |= {f"metrics.{metric}": 70 + seed + difference}
            rows.append(row | {f"params.{name}": value for name, value in params.items()} | columns)
    return pd.DataFrame(rows)


def rule(margin=None, level=0.05, looks=()):
    return Rule(margins(margin), level, tuple(looks))


def answered(d: dict, plans=None, **given):
    frame = students(d)
    return answer(Evidence(frame, plans), pair(frame), rule(**given))


def named(found):
    return {section.name: section for section in found.sections}


def study(tasks=2, inits=("pretrained", "random"), seeds=4, methods=("finetune", "ls", "kd"), n=60):
    """Runs with predictions that give their scores."""
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


def of_study(stored=None, runs=None, plans=(), **more):
    made, own = study(**more)
    frame = made if runs is None else runs
    return answer(Evidence(frame, plans, own if stored is None else stored), pair(frame))


def plan_of(**other):
    cells = [("rte", "bert", "random", method) for method in ("finetune", "ls", "kd")]
    made = make_plan(
        **{"cells": cells, "seeds": range(8), "metric": None, "margins": margins(None), "level": 0.05} | other
    )
    return {"run_id": "s", "start": -1, "digest": plan_digest(made), "plan": made, "tuned": []}


def test_the_sections_and_their_three_forms():
    found = answered({"ls": UP, "kd": WIDE[:3], "tfreg": [np.nan]}, [plan_of()])
    sections, judged = found.sections, found.judged
    assert [section.name for section in sections] == [
        *("read", "verdicts", "brief", "notes", "deciding", "scores", "comparisons", "details", "examples"),
        *("plan", "left_out"),
    ]
    text, markdown = as_text(sections), as_markdown(sections, "Does it help?")
    told = json.loads(as_json(sections, found.parameters))
    assert told["parameters"]["margin"] == 0.5 and told["parameters"]["looks"] == []
    for section in sections:
        assert all(line in text and line in markdown and line in told["text"][section.name] for line in section.text)
        if section.frame is not None:
            assert section.title in text and f"## {section.title}\n" in markdown
            assert len(told[section.name]) == len(section.frame)
    assert "nan" not in (text + markdown).replace("finetune", "") and "NaN" not in json.dumps(told)
    ls, kd = told["comparisons"]
    assert (ls["verdict"], ls["differences"], ls["seeds"]) == ("better", UP, list(range(8)))
    assert (kd["low"], kd["high"], kd["level"]) == (None, None, 1.0), "an unbounded end is null"
    assert kd["more_seeds"] is None and pd.isna(judged["more_seeds"][1]) and ls["more_seeds"] is None
    assert told["left_out"][0]["run_id"] == "tfreg-0"
    assert np.isinf(judged["low"][1]) and "inf" in files(found)["significance.csv"]


def test_in_short_a_study_of_four_methods_is_a_screen():
    found = of_study(
        tasks=1, inits=("pretrained",), seeds=7, methods=("finetune", "ls", "tfreg", "selfkd", "kd"), n=200
    )
    assert set(found.judged["verdict"]) == {"undecided"}, "the longest answer"
    lines = as_text(found.sections, verbose=False).splitlines()
    assert len(lines) <= 25 and lines[0].startswith("t0 · m · pretrained: ls (")
    assert sum(line.startswith("finetune ") for line in lines) == 1
    assert len([line for line in lines if line.startswith("to decide ")]) == 4
    whole = as_text(found.sections)
    assert len(whole.splitlines()) > 60 and "Calibration" in whole and "Calibration" not in "\n".join(lines)


def decided(n=6_000, seeds=7):
    """Runs as the demo's: from both starts label smoothing changes as many answers to the worse as to the better,
    distillation more to the better."""
    rng, rows, stored = np.random.default_rng(0), [], {}
    labels = rng.integers(0, 2, n)
    for init in ("pretrained", "random"):
        for seed in range(seeds):
            wrong = rng.choice(n, 1_800, replace=False)
            errors = {"finetune": wrong, "ls": wrong[seed % 3 :], "kd": wrong[60 + seed :]}
            for method, missed in errors.items():
                predicted = labels.copy()
                predicted[missed] = 1 - labels[missed]
                row = run(method, seed, logged(labels, predicted), task="rotten_tomatoes", init=init)
                rows.append(row | {"params.model": "minilm-2l"})
                stored[row["run_id"], "test"] = table(labels, predicted)
    return pd.DataFrame(rows), stored


def test_an_answer_as_the_demos_is_a_screen_of_eighty_columns():
    runs, stored = decided()
    found = of_study(stored, runs)
    assert found.judged["verdict"].tolist() == ["equivalent", "better"] * 2
    lines = wrapped(as_text(found.sections, False, 80).splitlines(), 80)
    assert max(map(len, lines)) <= 80 and len(lines) <= 23, "two say that there was no plan; ways on are three"
    assert lines[4] == "p is Holm's: where equivalent, of that; elsewhere of a difference"
    assert not lines[5].startswith(" ") and lines[5].endswith("verdict"), "one line of headers"


def test_the_table_in_short_is_that_of_the_verdicts():
    frame = named(answered({"ls": UP, "kd": WIDE}))["brief"].frame
    assert list(frame) == ["method", "mean", "sd", "n", "difference", "interval", "p", "verdict"]
    assert frame["method"].tolist() == ["finetune", "ls", "kd"] and frame["verdict"].tolist() == [
        "",
        "better",
        "undecided",
    ]
    assert frame["mean"].tolist() == pytest.approx([73.5, 73.5 + 2.35, 74.0])
    assert frame["sd"][0] == pytest.approx(np.std(np.arange(8), ddof=1))
    assert frame["interval"].tolist() == ["", "[+2.10, +2.60]", "[-2.00, +3.00]"]


def test_a_mean_of_more_seeds_than_the_difference_beside_it_is_named():
    """Of five seeds ls is a point better, and its mean is below that of all eight of finetune."""
    few = students({"ls": [1.0, 1.1, 1.2, 1.3, 1.4], "kd": UP})
    short = named(answer(Evidence(few), pair(few), rule()))["brief"]
    assert short.frame["mean"].tolist()[1] < short.frame["mean"].tolist()[0] and short.frame["difference"][1] > 0
    told = "the mean of finetune is of all of its seeds, a difference of the n that both sides have"
    assert short.text == (told,) and named(answered({"ls": UP, "kd": UP}))["brief"].text == ()


def test_the_p_beside_a_verdict_is_the_one_that_decided_it():
    found = answered({"ls": UP, "kd": NONE, "akd": WIDE})
    judged, brief = found.judged.set_index("method"), named(found)["brief"].frame.set_index("method")
    assert judged["verdict"].to_dict() == {"ls": "better", "kd": "equivalent", "akd": "undecided"}
    assert brief["p"].to_dict() == pytest.approx(
        {
            "finetune": math.nan,
            "ls": judged["p_holm"]["ls"],
            "kd": judged["p_equivalence_holm"]["kd"],
            "akd": judged["p_holm"]["akd"],
        },
        nan_ok=True,
    )
    assert brief["p"]["kd"] <= 0.05 < judged["p_holm"]["kd"]
    note = " is Holm's: where equivalent, of that; elsewhere of a difference"
    for told in (as_text(found.sections, False), as_markdown(found.sections, ""), page(found, "a table")):
        assert html.unescape(told).count(note) >= 1 and "p_holm" not in as_text(found.sections, False)
    assert "p of the verdict (Holm)" in page(found, "a table")
    assert note not in as_text(answered({"ls": UP}).sections)
    _, _, kd, _ = summaries(found.paired, found.judged)
    assert kd["metrics"]["p_verdict"] == brief["p"]["kd"]


def test_what_would_decide_and_the_warning_about_looking_twice():
    def warned(d, **more):
        """Where the advice stands: in short, too."""
        return "tests again finds a difference that is none" in as_text(answered(d, **more).sections, verbose=False)

    assert warned({"kd": WIDE}) and not warned({"ls": UP}) and not warned({"kd": WIDE}, looks=[8])
    assert named(answered({"ls": UP}))["deciding"].text == ()
    assert named(answered({"kd": WIDE}))["deciding"].text[1].startswith("to decide kd: ")


def test_with_planned_looks_no_seeds_beyond_them_are_advised():
    (told,) = named(answered({"kd": WIDE}, looks=[7, 8]))["deciding"].text
    assert told == "to decide kd: the planned looks alone (7, 8 seeds), none beyond them"


@pytest.mark.parametrize(
    ("d", "said"),
    [
        ([1.0] * 11 + [-20.0], "kd (median +1.00) is better than finetune"),
        ([0.1] * 11 + [-20.0], "kd (median +0.10) is better than finetune, by less than the margin"),
        ([0.1, -0.1, 0.2, -0.2, 0.1, -0.1, 0.05, 0.1, -0.1, 0.2, 0.1, -20.0], "kd (median +0.08) is equivalent"),
    ],
)
def test_a_mean_that_contradicts_the_verdict_is_not_told_without_a_word(d, said):
    text = as_text(answered({"kd": d}).sections, verbose=False)
    assert said in text and "contradicts the verdict, Hodges-Lehmann is +" in text
    assert "contradicts" not in as_text(answered({"kd": UP}).sections)


def test_looks_and_the_plans_family_reach_the_answer():
    found = answered({"ls": UP, "kd": WIDE, "akd": UP}, [plan_of(looks=[8, 12])], looks=[8, 12])
    judged = found.judged.set_index("method")
    assert judged["look"].tolist() == [8, 8, 8] and judged["verdict"].to_dict() == {
        "ls": "better", "kd": "undecided", "akd": "better",
    }  # fmt: skip
    assert judged["family_size"].to_dict() == {"ls": 2, "kd": 2, "akd": 3}
    assert "look at 8 seeds, the next is at 12" in as_text(found.sections)
    assert any("compared, but not planned" in line for line in named(found)["plan"].text)


def test_holm_over_the_study():
    one = students({"ls": UP, "kd": UP})
    two = one.assign(**{"params.task": "sst5", "run_id": one["run_id"] + "b"})
    judged = judge(pair(pd.concat([one, two])))
    assert judged["p_holm"].tolist() == [2 / 128] * 4 and judged["p_holm_study"].tolist() == [4 / 128] * 4


# What the verdict is about


def test_the_last_epochs_verdict_stands_beside_one_on_the_best_dev_epoch():
    """The maximum over epochs is a little higher for the method with more churn; the last epoch says the opposite."""
    frame = students({"ls": [-0.9 - x / 10 for x in range(8)]}, "best/dev/score")
    last = students({"ls": UP})
    frame["metrics.last/dev/score"] = last["metrics.best/test/score"] - 5
    found = answer(Evidence(frame, []), pair(frame), rule())
    row = found.judged.iloc[0]
    assert (row["metric"], row["verdict"], row["verdict_last"]) == ("best/dev/score", "worse", "better")
    assert row["mean_last"] == pytest.approx(2.35)
    said = "the maximum over epochs on the dev examples that chose the epoch; last epoch: better (+2.35)"
    assert f"ls: {said}" in named(found)["notes"].text
    test = students({"ls": UP})
    test["metrics.last/dev/score"] = 60.0
    assert answer(Evidence(test, []), pair(test), rule()).judged["verdict_last"].isna().all()
    without = frame.drop(columns="metrics.last/dev/score")
    alone = answer(Evidence(without, []), pair(without), rule())
    assert named(alone)["notes"].text == ("ls: the maximum over epochs on the dev examples that chose the epoch",)


def test_the_last_epoch_has_the_margin_of_its_examples():
    runs, stored = study(tasks=1, inits=("pretrained",), seeds=8)
    runs = runs.drop(columns="metrics.best/test/score").assign(
        **{"metrics.last/dev/score": runs["metrics.best/dev/score"]}
    )
    found = answer(Evidence(runs, [], stored), pair(runs), rule("auto"))
    assert set(found.judged["margin"]) == {resolution(60)}


def test_the_interval_for_new_examples_stands_beside_the_verdict():
    found = of_study(tasks=1, inits=("pretrained",), n=50)
    table = named(found)["examples"].frame.set_index("method")
    for row in found.judged.to_dict("records"):
        low, high = table.loc[row["method"], ["low", "high"]]
        assert (row["new_low"], row["new_high"], row["examples"]) == (low, high, 50)
        assert row["verdict"] != "equivalent"
        word = "includes 0" if low <= 0 <= high else "excludes 0"
        assert (
            f"{row['method']}: tested on 50; for new examples [{low:+.2f}, {high:+.2f}] {word}"
            in named(found)["notes"].text
        )
    assert set(found.judged["margin"]) == {resolution(50)}
    assert not any("for new examples" in line for line in named(answered({"ls": UP}))["notes"].text)


@pytest.mark.parametrize("high, word", [(0.35, "within ±0.5"), (0.79, "not within ±0.5")])
def test_equivalence_on_these_examples_says_whether_the_margin_holds_new_ones(high, word):
    row = answered({"ls": NONE}).judged.iloc[0].to_dict()
    assert (row["verdict"], row["margin"]) == ("equivalent", 0.5)
    interval = {"examples": 852, "new_low": -0.2, "new_high": high}
    assert f"tested on 852; for new examples [-0.20, +{high:.2f}] {word}" in clauses(row | interval)


def test_the_first_runs_may_lack_their_predictions():
    runs, stored = study(tasks=1, inits=("pretrained",))
    for method in ("ls", "kd"):
        del stored[f"t0-pretrained-{method}-0", "test"]
    found = of_study(stored, runs)
    assert set(found.judged["examples"]) == {60}


# Sections of what else there is


def test_every_section_of_a_study_with_predictions():
    found = of_study(plans=None)
    assert [section.name for section in found.sections] == [
        *("read", "verdicts", "brief", "notes", "deciding", "scores", "comparisons", "details"),
        *("these_tasks", "across", "friedman", "question", "interaction", "interaction_across"),
        *("examples", "calibration", "calibration_differences", "cost"),
    ]
    text, markdown = as_text(found.sections), as_markdown(found.sections, "Answer")
    told = json.loads(as_json(found.sections, {}))
    for section in found.sections:
        if section.frame is not None:
            shown = section.title in text and f"## {section.title}" in markdown
            assert shown or section.name.endswith("_differences")
            assert len(told[section.name]) == len(section.frame)
    assert len(told["examples"]) == 8 and told["examples"][0]["design"] == "crossed"
    assert len(told["calibration_differences"]) == 8 * 3 * 5
    assert {row["aurc"] for row in told["calibration"]} and {"error_at_80", "ece_floor"} <= told["calibration"][
        0
    ].keys()
    assert len(told["these_tasks"]) == len(told["across"]) == 4
    assert "so few tasks cannot give less than Holm p = 1.00: 0.05 is out of reach" in text and "scaled" in text
    assert "nan" not in text.replace("finetune", "")


def test_only_what_there_is_to_say():
    runs, stored = study(tasks=1, inits=("pretrained",), seeds=1)
    usual = ["read", "verdicts", "brief", "notes", "deciding", "scores", "comparisons", "details"]
    bare = runs.drop(columns=[name for name in runs if "cost/" in name])
    assert list(named(answer(Evidence(runs), pair(runs)))) == [*usual, "cost"]
    assert list(named(answer(Evidence(bare), pair(bare)))) == usual, "a table of scores has no predictions"
    found = named(answer(Evidence(bare, None, stored), pair(bare)))
    assert list(found) == [*usual, "examples", "calibration", "calibration_differences"]
    assert set(found["examples"].frame["design"]) == {"one seed"}


def test_left_out_runs_are_listed_by_reason():
    runs, stored = study(tasks=1, inits=("pretrained",))
    for seed in range(3):
        stored[f"t0-pretrained-ls-{seed}", "test"]["label"] = -1
    del stored["t0-pretrained-kd-1", "dev"]
    found = named(of_study(stored, runs))
    ids = tuple(f"t0-pretrained-ls-{seed}" for seed in range(3))
    assert found["examples_left_out"].frame.values.tolist() == [["the labels of test are hidden", ids]]
    assert "3 runs are left out here: the labels of test are hidden." in found["examples"].text
    rows = found["calibration_left_out"].frame.set_index("reason")
    assert rows.loc["no predictions of dev", "run_ids"] == ("t0-pretrained-kd-1",)
    assert ids[0] not in as_text(list(found.values()))
    nothing = named(of_study({}, runs))
    assert "calibration" not in nothing and "calibration_left_out" in nothing and "cost" in nothing


def test_predictions_that_were_not_read(monkeypatch):
    runs, _ = study()
    paired = pair(runs)
    assert len(paired.compared) == 48 == len(set(paired.compared))
    monkeypatch.setattr(answering, "MOST_RUNS", 40)
    (line,) = named(answer(Evidence(runs, []), paired))["examples"].text
    assert "predictions of more than 40 runs are not read unasked: examples=true reads them" in line


def test_teachers_and_failures_are_notes():
    frame = students({"kd": [*UP], "ls": UP})
    frame["params.teacher_run_id"] = [f"{m[::-1]}0123456789" if m == "kd" else None for m in frame["params.method"]]
    frame.loc[frame["run_id"] == "ls-7", "status"] = "FAILED"
    notes = named(answer(Evidence(frame, []), pair(frame)))["notes"].text
    assert "kd: for this one teacher (dk012345)" in notes
    assert notes[0].startswith("ls: 1 of 8 seeds of ls failed (as losses, uncorrected: ")


def test_several_teachers_of_a_student_are_named_together():
    frame = students({"kd": UP})
    frame["params.teacher_run_id"] = [f"{'a' * 32},{'b' * 32}" if m == "kd" else None for m in frame["params.method"]]
    teachers = pd.DataFrame({"run_id": ["a" * 32, "b" * 32], "tags.labelreg.kind": "teacher"})
    teachers["metrics.best/test/score"] = [60.0, 62.0]
    (line,) = named(answer(Evidence(frame, [], teachers=teachers), pair(frame)))["notes"].text
    assert line.startswith("kd: for these 2 teachers together (aaaaaaaa, bbbbbbbb); the teacher's own score is 61.00")


def test_what_lies_beyond_a_look_is_in_no_part_of_the_answer():
    up = [3 + s / 10 for s in range(8)]
    rows = []
    for task, init in itertools.product("ab", ("pretrained", "random")):
        for method, seed in itertools.product(("finetune", "ls"), range(12)):
            value = 70 + seed + (method == "ls") * (up[seed] if seed < 8 else -20)
            rows.append(run(method, seed, value, task=task, init=init))
    frame = pd.DataFrame(rows)
    found = answer(Evidence(frame, []), pair(frame), rule(looks=(8, 12)))
    assert found.judged["verdict"].tolist() == ["better"] * 4 and found.judged["look"].tolist() == [8] * 4
    for name in ("across", "these_tasks"):
        assert (found.frame(name)["mean_difference"] > 3).all(), name
    assert found.frame("interaction")["n"].tolist() == [8, 8]
    assert len(found.paired.runs) == 96


def test_the_picture_of_calibration_is_of_the_seeds_of_the_look():
    rng, rows, stored = np.random.default_rng(0), [], {}
    labels = rng.integers(0, 2, 400)
    for seed, (method, share) in itertools.product(range(12), (("finetune", 0.4), ("ls", 0.1))):
        predicted = np.where(rng.random(400) < share, 1 - labels, labels)
        rows.append(run(method, seed, logged(labels, predicted)))
        stored |= {(rows[-1]["run_id"], split): table(labels, predicted) for split in ("dev", "test")}
    frame = pd.DataFrame(rows)
    found = answer(Evidence(frame, [], stored), pair(frame), rule(looks=(8, 12)))
    assert found.judged["look"].tolist() == [8]
    drawn = found.measured.reliability.groupby(["method", "scaled"])["n"].sum()
    assert drawn.unique().tolist() == [8 * 400] and len(found.measured.runs) == 24


def test_a_comparison_that_waits_for_its_first_seed_is_in_no_part_of_the_answer():
    rows = [run(m, s, 70 + s + (m == "ls"), task=t) for t in "ab" for m in ("finetune", "ls") for s in range(12)]
    frame = pd.DataFrame(rows)
    frame.loc[frame["params.seed"] == "0", ["status", "metrics.best/test/score"]] = "RUNNING", np.nan
    found = answer(Evidence(frame, []), pair(frame), rule(looks=(8, 12)))
    assert found.judged["n"].tolist() == [0, 0] and found.frame("across").empty and found.paired.comparisons == ()


def test_tables_of_a_metric_in_small_numbers_keep_its_digits():
    frame = students({"ls": [d / 1000 for d in UP]}, "best/test/nll")
    text = as_text(answer(Evidence(frame, []), pair(frame, metric="best/test/nll"), rule(0.005)).sections)
    assert "73.5024" in text.partition("Scores, mean")[2]


def test_sentences_and_pictures_have_the_digits_of_the_tables():
    """A loss whose margin is 0.005: what a doubling or a random start adds was +0.00, a teacher's score 73.50."""
    frame = pd.concat([
        students({"kd": [d / 1000 + step * i for d in UP]}, "nll", **{"params.max_train_examples": str(100 * 2**i)})
        .assign(run_id=lambda rows, name=f"{i}{init}": rows["run_id"] + name, **{"params.init": init})
        for i in range(3) for init, step in (("random", 0.0012), ("pretrained", 0.0034))
    ], ignore_index=True)  # fmt: skip
    frame.loc[frame["params.method"] == "kd", "params.teacher_run_id"] = "t"
    teacher = pd.DataFrame({"run_id": ["t"], "tags.labelreg.kind": "teacher", "metrics.nll": [73.5021]})
    found = answer(Evidence(frame, [], teachers=teacher), pair(frame, metric="nll"), rule(0.005), "nll")
    trends = " ".join(named(found)["trend"].text)
    assert "kd -0.0012 (smaller, n=8)" in trends and "kd -0.0034 (smaller, n=8)" in trends
    assert "the teacher's own score is 73.5021, finetune's 73.5000 (nll)" in " ".join(named(found)["notes"].text)
    drawn = html.unescape(page(found, "a table"))
    assert "+0.0022, Holm p" in drawn and "73.5024 ± " in drawn
    assert named(found)["trend"].title == "More data: method - finetune, nll for each doubling of the training set"


@pytest.mark.parametrize("level, told", [(0.05, "95%"), (0.005, "99.5%"), (0.001, "99.9%")])
def test_the_interval_over_tasks_is_named_by_its_level(level, told):
    tasks = [students({"ls": UP}).assign(**{"params.task": task}) for task in "ab"]
    frame = pd.concat([rows.assign(run_id=rows["params.task"] + rows["run_id"]) for rows in tasks], ignore_index=True)
    (said, *_) = named(answer(Evidence(frame), pair(frame), rule(level=level)))["these_tasks"].text
    assert said == f"over these tasks, mean of the differences (interval: {told}):"


def test_fractions_of_one_are_not_told_in_points():
    """With the margin that is advised for them: 0.005 of 1 is half a point, not a two-hundredth of one."""
    frame = pd.concat([
        students({"ls": NONE, "kd": UP}, "accuracy", **{"params.max_train_examples": str(100 * 2**i)})
        .assign(run_id=lambda rows, name=f"{i}{init}{task}": rows["run_id"] + name, **{"params.task": task})
        .assign(**{"params.init": init})
        for i in range(3) for init in ("random", "pretrained") for task in "ab"
    ], ignore_index=True)  # fmt: skip
    in_points = answer(Evidence(frame), pair(frame, metric="accuracy"), rule(0.5), "accuracy")
    assert "within ±0.5 points" in page(in_points, "a table") and "in percent" in page(in_points, "a table")
    frame["metrics.accuracy"] /= 100
    found = answer(Evidence(frame), pair(frame, metric="accuracy"), rule(0.005), "accuracy")
    drawn = page(found, "a table")
    assert "ls (+0.0000) is equivalent to finetune within ±0.005 accuracy" in drawn
    assert not re.search(r"\bpoints\b|in percent", drawn)


def test_a_teacher_that_is_worse_than_the_reference_is_named():
    """On the split of the comparison, else on one on which it was tested too; of the user's own no score is known."""
    frame = students({"kd": UP, "akd": NONE, "ls": UP}, "best/rest/score")
    frame["metrics.best/test/score"] = frame["metrics.best/rest/score"] - 1
    taught = {"kd": "t1", "akd": "t2", "ls": None}
    frame["params.teacher_run_id"] = frame["params.method"].map(taught)
    teachers = pd.DataFrame({"run_id": ["t1", "t2"], "tags.labelreg.kind": "teacher"})
    teachers["metrics.best/test/score"] = [71.0, 73.0]

    def told(frame, teachers):
        found = answer(Evidence(frame, [], teachers=teachers), pair(frame), rule())
        return [line for line in named(found)["notes"].text if "teach" in line], found

    weak = "kd: for this one teacher (t1); the teacher's own score is 71.00, finetune's 72.50 (best/test/score): "
    lines, found = told(frame, teachers)
    assert lines == [f"{weak}it has little to teach", "akd: for this one teacher (t2)"]
    assert weak[4:] in next(line for line in named(found)["comparisons"].text if line.startswith("kd vs"))
    assert told(frame, teachers.iloc[:0])[0] == ["kd: for this one teacher (t1)", "akd: for this one teacher (t2)"]
    several = frame.assign(**{"params.teacher_run_id": ["t1", "t2"] * 16})
    assert told(several, teachers)[0][0].endswith(
        "own score is 72.00, finetune's 72.50 (best/test/score): it has little to teach"
    )
    both = teachers.assign(**{"metrics.best/rest/score": 71.0})
    assert told(frame, both)[0][1].startswith(
        "kd, akd: the teacher's own score is 71.00, finetune's 73.50 (best/rest/score)"
    )


def test_what_all_methods_share_is_said_once():
    frame = students({"kd": UP, "ls": UP}, "best/dev/score")
    notes = named(answer(Evidence(frame, []), pair(frame)))["notes"].text
    assert notes == ("all: the maximum over epochs on the dev examples that chose the epoch",)


# Summaries


def test_summaries():
    found = answered({"ls": UP, "kd": WIDE[:3]})
    reference, ls, kd = summaries(found.paired, found.judged)
    assert reference["params"]["method"] == "finetune" and set(reference["metrics"]) == {"mean", "std", "n"}
    assert reference["verdict"] == "" and len(reference["run_ids"]) == 8
    assert ls["metrics"]["difference"] == pytest.approx(2.35) and ls["verdict"] == "better"
    assert ls["params"] == {
        **{"task": "rte", "model": "bert", "init": "random", "method": "ls"},
        **{"metric": "best/test/score", "reference": "finetune"},
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
    found = answered({})
    assert [section.name for section in found.sections] == ["read", "scores", "comparisons", "left_out"]
    assert json.loads(as_json(found.sections, {}))["comparisons"] == []
    assert len(summaries(found.paired, found.judged)) == 1
    frame = pd.DataFrame()
    empty = answer(Evidence(frame), pair(frame))
    assert summaries(empty.paired, empty.judged) == [] and as_text(empty.sections) == ""
    assert math.isnan(found.frame("scores")["mean"].get(1, math.nan)) and found.frame("these_tasks").empty


def test_a_method_of_which_no_run_is_compared_is_named():
    """Its seeds, its protocol or its reference's name are others: the verdicts look whole without it."""
    frame = students({"ls": UP, "kd": UP})
    of_kd = frame["params.method"] == "kd"
    frame.loc[of_kd, "params.seed"] = [str(seed) for seed in range(100, 108)]
    (told,) = named(answer(Evidence(frame), pair(frame)))["notes"].text
    assert told.startswith("kd (rte, bert, random) is not compared, nor counted by Holm: 8 runs are left out here: ")
    assert told.endswith("no usable finetune run with seed 100 (the first of them).")
    assert "notes" not in named(answered({"ls": UP})) or not named(answered({"ls": UP}))["notes"].text
    waiting = students({"ls": UP, "kd": UP})
    waiting.loc[waiting["run_id"] == "kd-0", "status"] = "RUNNING"  # a look waits for it, with seven pairs of kd
    found = answer(Evidence(waiting), pair(waiting), rule(looks=(8, 12)))
    assert found.judged["n"].tolist() == [0, 0] and not named(found)["notes"].text
    planned = answer(Evidence(frame, [plan_of()]), pair(frame))
    assert planned.judged["family_size"].tolist() == [2], "a planned one is counted"
    (told,) = named(planned)["notes"].text
    assert told.startswith("kd (rte, bert, random) is not compared: 8 runs are left out here: ")


def test_in_short_what_is_missing_is_not_among_the_lines_that_are_cut():
    """Eight tasks, each with a teacher of its own, are more lines than a screen takes."""
    frame = pd.concat([students({"kd": UP, "ls": UP}, **{"params.task": f"t{nth}"}) for nth in range(8)])
    frame["run_id"] = frame["params.task"] + frame["run_id"]
    kd = frame["params.method"] == "kd"
    frame["params.teacher_run_id"] = frame["params.task"].mul(8).where(kd)
    frame.loc[frame["params.method"] == "ls", "params.seed"] = [str(seed) for seed in range(100, 164)]
    told = as_text(answer(Evidence(frame, []), pair(frame)).sections, verbose=False)
    assert "ls (t0, bert, random) is not compared" in told and "more lines like these" in told


@pytest.mark.parametrize(("metric", "turned"), [("best/test/nll", True), ("best/test/score", False)])
def test_the_table_says_where_the_sign_is_turned(metric, turned):
    frame = students({"ls": UP}, metric)
    table = files(answer(Evidence(frame), pair(frame, metric=metric), rule(0.5)))["significance.csv"]
    head, row = (line.split(",") for line in table.splitlines())
    assert row[head.index("negated")] == str(turned)
    assert (float(row[head.index("mean_difference")]) < 0) == turned


def test_tasks_in_percent_and_in_fractions_have_no_mean():
    frame = students({"ls": UP}, metric="score")
    other = frame.assign(
        **{"run_id": "b" + frame["run_id"], "params.task": "b", "metrics.score": frame["metrics.score"] / 100}
    )
    both = pd.concat([frame, other], ignore_index=True)
    found = named(answer(Evidence(both), pair(both, metric="score"), rule("0.5,b:0.005"), "score"))
    assert "these_tasks" not in found
    assert found["notes"].text[-1].startswith("score looks like a fraction of 1 in b and not in the other tasks")
    alone = pd.concat([frame, other.assign(**{"params.model": "b"})], ignore_index=True)
    more = pd.concat([alone, frame.assign(**{"run_id": "c" + frame["run_id"], "params.task": "c"})], ignore_index=True)
    for told in (alone, more):  # one task of another model, beside two in one unit: of these there is a mean
        found = named(answer(Evidence(told), pair(told, metric="score"), rule("0.5,b:0.005"), "score"))
        assert "notes" not in found or not any("no mean over tasks" in line for line in found["notes"].text)
    assert "these_tasks" in found
    mixed = both.copy()
    mixed.loc[mixed["params.task"].eq("b").idxmax(), "metrics.score"] = -0.02  # a Matthews of one seed
    assert "these_tasks" not in named(
        answer(Evidence(mixed), pair(mixed, metric="score"), rule("0.5,b:0.005"), "score")
    )
    both["metrics.score"] *= [100 if task == "b" else 1 for task in both["params.task"]]
    assert "these_tasks" in named(answer(Evidence(both), pair(both, metric="score"), rule("0.5,b:0.005"), "score"))
