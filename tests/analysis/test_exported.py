"""scores.csv: the answer on a frame of runs, and the same from the table that it left."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from predicted import table as predicted

from analysis import AnalysisError, exported
from analysis.judge import Rule
from analysis.margins import margins
from analysis.pairing import pair, seed_order
from analysis.plan_check import make_plan, plan_digest
from analysis.present import render
from analysis.present.answer import Evidence, answer, files
from analysis.reading import scores_table

pytestmark = pytest.mark.filterwarnings("error")

SEEDS = (7, 3, 11, 1, 5, 2, 9, 8, 4, 6)  # in the order in which they were run
OF_EXAMPLES = ["new_low", "new_high"]  # what needs the predictions


def hexed(*words) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()[:32]


def run(method, seed, score, at=0, metric="best/test/score", **more) -> dict:
    """A finished student as MLflow's search gives it; `more`: params, or columns by their whole names."""
    params = {"task": "rte", "model": "m", "init": "pretrained", "method": method, "seed": str(seed), "epochs": "3"}
    columns = {name: more.pop(name) for name in list(more) if "." in name or name == "status"}
    params |= {name: str(value) for name, value in more.items()}
    known = {f"params.{name}": value for name, value in params.items()} | {f"metrics.{metric}": score}
    known |= {"run_id": hexed("run", at, *params.values()), "status": "FINISHED", "tags.labelreg.kind": "student"}
    known |= {"tags.labelreg.fingerprint": hexed(*params.values()), "tags.labelreg.data": hexed(params["task"])}
    start = pd.Timestamp("2026-01-01T10:00:00Z") + pd.Timedelta(milliseconds=1000 * SEEDS.index(seed) + at)
    return known | {"start_time": start} | columns


def frame(rows) -> pd.DataFrame:
    """Newest first, as MLflow's search gives them."""
    return pd.DataFrame(rows).sort_values("start_time", ascending=False, kind="stable", ignore_index=True)


def effects(methods, seeds=SEEDS, chance=0, spread=0.4, **more) -> list[dict]:
    """Runs of finetune and of methods with these effects."""
    draw, rows = np.random.default_rng(chance), []
    for seed in seeds:
        base = 70 + draw.normal()
        for method, effect in {"finetune": 0.0, **methods}.items():
            name, _, average = method.partition("+")
            own = {"average": average} if average else {}
            rows.append(run(name, seed, base + effect + draw.normal(0, spread), len(rows), **own, **more))
    return rows


def plan(methods, start=0.0, seeds=SEEDS, run_id="study", reused=(), **other) -> dict:
    cells = [("rte", "m", "pretrained", method) for method in ("finetune", *methods)]
    given = {"cells": cells, "seeds": seeds, "metric": None, "margins": margins(None), "level": 0.05} | other
    made = make_plan(**given)
    logged = {"run_id": hexed(run_id), "start": start, "digest": plan_digest(made), "plan": made, "tuned": []}
    return logged | {"reused": None if reused is None else list(reused), "lost": ""}


def both(runs, tmp_path, plans=(), stored=None, metric=None, teachers=None, lower=(), **ruled):
    """The answers on a frame and on its scores.csv, and what the table holds."""
    taught = runs.iloc[:0] if teachers is None else teachers
    rule = Rule(margins(ruled.pop("margin", None)), **ruled)
    first = answer(
        Evidence(runs, list(plans), stored, (), taught), pair(runs, metric=metric, lower=lower), rule, metric
    )
    path = tmp_path / "scores.csv"
    path.write_text(files(first)["scores.csv"])
    again, remarks = scores_table(path)
    assert not any("not used" in line for line in remarks), remarks
    named = exported.metric(again)
    taught = again[again[exported.KIND] == "teacher"]
    evidence = Evidence(again, exported.plans(again), None, tuple(remarks), taught)
    second = answer(evidence, pair(again, metric=named, lower=lower), rule, named)
    assert files(second)["scores.csv"] == path.read_text()
    return first, second, pd.read_csv(path, keep_default_na=False)


def same(first, second) -> pd.DataFrame:
    """What is judged, and everything that is made of it, is the same; the verdicts."""
    mine, theirs = (found.judged.drop(columns=OF_EXAMPLES, errors="ignore") for found in (first, second))
    pd.testing.assert_frame_equal(theirs, mine)
    assert second.paired.comparisons == first.paired.comparisons and second.paired.examples == first.paired.examples
    made = (
        "these_tasks",
        "across",
        "friedman",
        "interaction",
        "interaction_across",
        "trend",
        "calibration_differences",
    )
    for name in made:
        pd.testing.assert_frame_equal(second.frame(name), first.frame(name), check_dtype=False)
    costs = [found.frame("cost") for found in (first, second)]  # in the order of the rows
    costs = [table.sort_values([*table.columns[:5]], ignore_index=True) for table in costs if len(table)]
    pd.testing.assert_frame_equal(*(costs or [pd.DataFrame()] * 2))
    said = [{part.name: part.text for part in found.sections} for found in (first, second)]
    for name in ("verdicts", "notes", "plan", "trend", "comparisons", "deciding"):
        assert said[1].get(name) == said[0].get(name), name
    left = [found.paired.left_out.sort_values("run_id", ignore_index=True) for found in (first, second)]
    pd.testing.assert_frame_equal(left[1], left[0], check_dtype=False)
    return mine


def test_names_that_a_store_tells_apart_by_their_case(tmp_path):
    """A table from outside with Reviews and reviews is refused; the answer on a store's two tasks is told again."""
    runs = frame([*effects({"ls": 3.0}, task="Reviews"), *effects({"ls": 3.0}, task="reviews")])
    assert same(*both(runs, tmp_path)[:2])["task"].tolist() == ["Reviews", "reviews"]


def test_a_metric_of_which_lower_is_better(tmp_path):
    runs = frame(effects({"ls": -3.0}, metric="best/test/nll"))
    runs["metrics.best/test/score"] = 50.0
    first, second, table = both(runs, tmp_path, metric="best/test/nll")
    assert same(first, second)["verdict"].tolist() == ["better"]
    assert set(table["metric"]) == {"best/test/nll"} and set(table["test"]) == {50.0}
    assert exported.metric(scores_table(tmp_path / "scores.csv")[0]) == "best/test/nll"
    other, _ = scores_table(tmp_path / "scores.csv", "best/test/score")  # it has more than it was asked for
    assert pair(other, metric="best/test/score").comparisons[0].metric == "best/test/score"
    error = frame(effects({"ls": -3.0}, metric="best/test/mistakes"))
    assert same(*both(error, tmp_path, metric="best/test/mistakes", lower=["mistakes"])[:2])["negated"].all()
    dev = runs.assign(**{"metrics.best/dev/score": np.arange(20) % 2 + 60.0})
    assert set(same(*both(dev, tmp_path, metric="best/dev/score")[:2])["metric"]) == {"best/dev/score"}


def test_looks_take_the_seeds_in_the_order_in_which_they_were_run(tmp_path):
    rows = effects({"ls": 3.0, "kd": 0.0}, spread=0.1)
    first, second, table = both(frame(rows), tmp_path, looks=(7, 10))
    verdicts = same(first, second)
    assert verdicts["look"].tolist()[0] == 7 and set(verdicts["seeds"][0]) == {*SEEDS[:7]}
    assert table["seed"].drop_duplicates().tolist() == list(SEEDS), "from the oldest"
    (tmp_path / "scores.csv").write_text(render.to_csv(table.drop(columns="start")))
    assert seed_order(scores_table(tmp_path / "scores.csv")[0]) == SEEDS, "by its rows where no start says so"


@pytest.mark.parametrize("reused", [None, ()])
def test_plans_hold_as_they_did(tmp_path, reused):
    """A plan of five methods of which one was run; a second study; an addition: Holm's families, and what is told."""
    rows = effects({"ls": 0.8, "kd": 0.5}) + effects({"ls": 0.7}, chance=1, lr=1e-5)
    for row in rows:
        mine = "second" if row.get("params.lr") else "first"
        row["tags.mlflow.parentRunId"] = hexed(mine) if row["params.method"] != "kd" else None
    begun = rows[0]["start_time"].timestamp()
    first = plan(["ls", "akd", "tfreg", "ols", "cp"], begun - 100, run_id="first", reused=reused)
    second = plan(["ls"], begun - 50, run_id="second", reused=reused, seeds=SEEDS[::-1])
    lost = plan([], begun - 10, run_id="third") | {"lost": "no plan", "plan": {"cells": [], "seeds": []}}
    for plans in ([first], [second, first], [lost, second, first], []):
        verdicts = same(*both(frame(rows), tmp_path, plans)[:2])
    verdicts = same(*both(frame(rows), tmp_path, [second, first])[:2])
    assert (verdicts["family_size"] >= 5).any(), "and not the methods of the table alone"
    same(*both(frame(rows), tmp_path, [second, first], looks=(8, 10))[:2])


def test_a_plan_names_what_it_reuses_of_the_table_alone(tmp_path):
    """A cell holds 131,072 characters, a plan of a large store names thousands of runs."""
    rows = effects({"ls": 0.8})
    reused = [rows[0]["run_id"], hexed("elsewhere")]
    first, second, table = both(frame(rows), tmp_path, [plan(["ls"], reused=reused)])
    same(first, second)
    (cell,) = [text for text in table[exported.PLAN] if text]
    assert json.loads(cell)["reused"] == reused[:1]


def test_runs_without_a_score_of_their_own(tmp_path):
    """Failed, running, done again; those that learnt nothing by their tag, or by their predictions alone."""
    rows = effects({"ls": 1.0, "kd": 2.0, "tfreg": 0.0})
    by = {(row["params.method"], row["params.seed"]): row for row in rows}
    by["ls", "3"] |= {"status": "FAILED", "metrics.best/test/score": np.nan, "tags.labelreg.fingerprint": None}
    by["kd", "2"] |= {"status": "RUNNING", "metrics.best/test/score": np.nan}
    by["kd", "7"] |= {"tags.labelreg.one_class": "entailment"}
    again = by["tfreg", "5"] | {"run_id": hexed("again"), "start_time": pd.Timestamp("2026-01-02", tz="UTC")}
    other = by["tfreg", "1"] | {"run_id": hexed("other"), "tags.labelreg.fingerprint": hexed("x")}
    runs, labels = frame([*rows, again, other]), np.arange(40) % 2
    stored = {(run_id, split): predicted(labels, labels) for run_id in runs["run_id"] for split in ("dev", "test")}
    for row in (*rows, again):
        if row["params.method"] in ("tfreg", "finetune"):
            stored[row["run_id"], "test"] = predicted(labels, 0 * labels)
    first, second, table = both(runs, tmp_path, stored=stored, margin="auto")
    verdicts = same(first, second).set_index("method")
    assert verdicts["verdict"]["tfreg"] == "not learnt" and verdicts["failed"]["ls"] == 1
    assert verdicts["p_failures"].notna()["ls"] and set(verdicts["examples"]) == {40}
    assert second.paired.not_learnt == first.paired.not_learnt
    same(*both(runs, tmp_path, stored=stored, looks=(5, 6))[:2])
    assert {"entailment", exported.UNNAMED} <= {*table["one_class"]} and len(table) == len(runs)
    failed = table[table["status"] == "FAILED"]
    assert failed["score"].tolist() == [""] and failed["fingerprint"].tolist() == [""]


def test_averaged_methods_own_teachers_and_teachers_that_are_runs(tmp_path):
    taught = {"teacher_digest": hexed("file"), "teacher_column": "p_", "teacher_values": "probabilities"}
    rows = effects({"finetune+swa": 1.0, "ls+ema": 0.3}, average_start="0.5", ema_decay="0.9", swa_lr="0.01")
    rows += [row for row in effects({"kd": 2.0}, chance=3, **taught) if row["params.method"] == "kd"]
    rows += [
        row | {"params.teacher_column": "q_", "run_id": hexed(row["run_id"])}
        for row in rows
        if row["params.method"] == "kd"
    ]
    teacher = run("finetune", 7, 60.0, -9000, **{"tags.labelreg.kind": "teacher"}, model="large")
    akd = [row for row in effects({"akd": 2.0}, chance=4) if row["params.method"] == "akd"]
    rows += [row | {"params.teacher_run_id": teacher["run_id"]} for row in akd]
    first, second, table = both(frame(rows), tmp_path, teachers=pd.DataFrame([teacher]))
    verdicts = same(first, second)
    assert len(verdicts) == 5 and {"finetune+swa", "ls+ema"} <= {*verdicts["method"]}
    assert set(verdicts["teacher_score"].dropna()) == {60.0} and sorted(table["kind"].unique()) == [
        "student",
        "teacher",
    ]
    assert {text[:4] for text in verdicts["teachers"]} == {"", "own ", teacher["run_id"][:4]}


def test_dev_alone_both_inits_several_tasks_and_sizes(tmp_path):
    rows = []
    for task in ("rte", "cola", "mrpc"):
        for init in ("pretrained", "random"):
            metric = "best/dev/score" if task == "cola" else "best/test/score"
            more = {"task": task, "init": init, "metric": metric, "metrics.cost/train_seconds": 2.5}
            rows += effects({"ls": 0.4, "kd": -0.3}, chance=len(rows), **more)
    for number, size in enumerate((100, 200, 400)):
        more = {"task": "sst5", "max_train_examples": size, "metrics.cost/train_seconds": 1.5}
        more |= {"tags.labelreg.data": hexed(size)}
        rows += effects({"ls": 2.0 - number}, chance=size, **more)
    runs = frame(rows)
    runs["metrics.last/dev/score"] = runs["metrics.best/dev/score"] + np.arange(len(runs)) % 3
    first, second, table = both(runs, tmp_path)
    verdicts = same(first, second)
    assert verdicts["verdict_last"].notna().any() and len(first.frame("trend")) == 1
    assert len(first.frame("interaction")) == 6 and len(first.frame("these_tasks"))
    assert {"dev", "last_dev", "test", "train_seconds", "fingerprint", "status", "epochs"} <= {*table}
    assert set(table["metric"]) == {"best/dev/score", "best/test/score"}


def test_runs_that_keep_their_last_epoch(tmp_path):
    runs = frame(effects({"ls": 1.0}, metric="last/rest/score", selection="last"))
    runs["metrics.best/test/score"] = 50.0
    first, second, table = both(runs, tmp_path)
    assert set(same(first, second)["metric"]) == {"last/rest/score"}
    assert list(table["last_rest"]) == list(table["score"])
    assert exported.metric(scores_table(tmp_path / "scores.csv")[0]) is None, "it is the usual one"
    others = frame([*effects({"ls": 1.0}, chance=1, selection="best"), *runs.to_dict("records")])
    (tmp_path / "both").mkdir()
    first, second, table = both(others, tmp_path / "both")
    assert set(same(first, second)["metric"]) == {"last/rest/score", "best/test/score"}


def test_calibration_is_a_column_each(tmp_path):
    runs, labels = frame(effects({"ls": 1.0})), np.arange(40) % 2
    stored = {}
    for i, run_id in enumerate(runs["run_id"]):
        wrong = np.where(np.arange(40) < 5 + i, 1 - labels, labels)
        stored |= {(run_id, split): predicted(labels, wrong, sure=0.6 + i / 50) for split in ("dev", "test")}
    first, second, table = both(runs, tmp_path, stored=stored)
    same(first, second)
    assert len(first.frame("calibration_differences")) and (table["nll"] > 0).all() and {"ece", "aurc"} <= {*table}


def test_without_fingerprints_there_is_no_table(tmp_path):
    runs = frame(effects({"ls": 1.0}))
    runs.loc[3, "tags.labelreg.fingerprint"] = "abc"
    found = answer(Evidence(runs, []), pair(runs))
    assert "scores.csv" not in files(found) and "no scores.csv: " in found.sections[0].text[0]
    assert "scores.csv" not in files(answer(Evidence(runs), pair(runs))), "nor of somebody's table"


def written(tmp_path, change) -> list:
    _, _, table = both(frame(effects({"ls": 1.0})), tmp_path, [plan(["ls"])])
    path = tmp_path / "changed.csv"
    path.write_text(render.to_csv(change(table)))
    return scores_table(path)


@pytest.mark.parametrize("word", ["inf", "nan", "0", "-3", "2.5", "many"])
def test_a_number_of_examples_is_one(tmp_path, word):
    with pytest.raises(AnalysisError, match=r"examples in line 2 is '.*', no number of examples"):
        written(tmp_path, lambda table: table.assign(examples=[word] + [80] * (len(table) - 1)))


def test_who_wrote_a_table_is_known_by_every_row(tmp_path):
    def one_is_none(table):
        return table.assign(fingerprint=["7", *table["fingerprint"][1:]])

    assert written(tmp_path, lambda table: table)[1] == ["changed.csv: 20 rows; 1 task, 2 methods, 10 seeds"]
    with pytest.raises(AnalysisError, match="a row that ended has no fingerprint"):  # else teachers would be students
        written(tmp_path, one_is_none)
    assert written(tmp_path, lambda table: table)[0]["tags.labelreg.kind"].tolist() == ["student"] * 20 + ["study"]


def test_a_plan_that_is_none_is_one_line(tmp_path):
    shallow = plan(["ls"]) | {"plan": {"cells": [3], "seeds": [4]}}
    for text in ("{", "[]", "7", json.dumps({"run_id": "x"}), json.dumps(shallow)):
        runs, _ = written(tmp_path, lambda table, text=text: table.assign(plan=[*table["plan"][:-1], text]))
        with pytest.raises(AnalysisError, match=f"the plan of run {hexed('study')} is none that labelreg wrote"):
            exported.plans(runs)
