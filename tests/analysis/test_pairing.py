"""Pairing on hand-made frames with hostile runs: each run is in a comparison or left out with its reason."""

import numpy as np
import pandas as pd
import pytest

from analysis import AnalysisError, pairing
from analysis.direction import lines, lower_is_better
from analysis.pairing import LEFT_OUT, pair, seed_order

pytestmark = pytest.mark.filterwarnings("error")

PARAMS = {
    "task": "rotten_tomatoes",
    "model": "minilm-3l",
    "init": "pretrained",
    "split_seed": "42",
    "max_length": "128",
    "selection": "best",
    "precision": "auto",
    "precision_used": "fp32",
    "epochs": "3",
    "lr": "2e-05",
    "batch_size": "32",
}
START = pd.Timestamp("2024-05-01", tz="UTC")


def run(
    method,
    seed,
    score=70.0,
    *,
    id=None,
    status="FINISHED",
    kind="student",
    data="d1",
    print=None,
    at=0,
    **more,
):
    """One row of `mlflow.search_runs`; `more` are parameters (None: missing) and `dev`, the dev score."""
    name = id or f"{method}-{seed}"
    dev = more.pop("dev", score - 1)
    params = {**PARAMS, "method": method, "seed": str(seed), **more}
    return {
        "run_id": name,
        "status": status,
        "start_time": START + pd.Timedelta(minutes=at),
        **{f"params.{key}": value for key, value in params.items()},
        "metrics.best/test/score": score,
        "metrics.best/dev/score": dev,
        **({"metrics.last/test/score": score} if params.get("selection") == "last" else {}),
        "tags.labelreg.kind": kind,
        "tags.labelreg.data": data,
        "tags.labelreg.fingerprint": print or f"{method}-{seed}-{sorted(more.items())}",
    }


def frame(*rows):
    return pd.DataFrame(list(rows))


def reasons(paired):
    return dict(zip(paired.left_out["run_id"], paired.left_out["reason"], strict=True))


GOOD = [run("finetune", s, 70 + s) for s in range(3)] + [run("ls", s, 71 + 2 * s, alpha="0.1") for s in range(3)]


def test_plain_pairs():
    paired = pair(frame(*GOOD[::-1]))
    (found,) = paired.comparisons
    assert (found.task, found.model, found.init) == ("rotten_tomatoes", "minilm-3l", "pretrained")
    assert (found.method, found.reference, found.setting, found.family) == ("ls", "finetune", "", "")
    assert (found.metric, found.negated) == ("best/test/score", False)
    assert found.seeds == (0, 1, 2)  # 0 is a seed
    assert found.scores == (71, 73, 75) and found.reference_scores == (70, 71, 72)
    assert found.differences == (1, 2, 3)
    assert found.run_ids == ("ls-0", "ls-1", "ls-2")
    assert found.reference_run_ids == ("finetune-0", "finetune-1", "finetune-2")
    assert paired.left_out.empty and list(paired.left_out.columns) == LEFT_OUT
    assert len(paired.runs) == 6


@pytest.mark.parametrize(
    "hostile, reason",
    [
        (run("ls", 7, id="x"), "no partner: no usable finetune run with seed 7"),
        (run("finetune", 7, id="x"), "no partner: no run of another method pairs with it"),
        (run("ls", 2, id="x", status="FAILED"), "failed"),
        (run("ls", 2, id="x", status="RUNNING"), "running"),
        (run("ls", 2, id="x", status="KILLED"), "killed"),
        (run("ls", 2, np.nan, id="x"), "no such metric: best/dev/score is missing or no finite number"),
        (run("ls", 2, np.inf, id="x"), "no such metric: best/dev/score is missing or no finite number"),
        (run("kd", 2, id="x", data="d2"), "no partner: other data digest d2, finetune d1"),
        (run("kd", 2, id="x", data=None), "no partner: other data digest none, finetune d1"),
        (run("kd", 2, id="x", epochs="5"), "no partner: other epochs 5, finetune 3"),
        (run("kd", 2, id="x", selection="last"), "no partner: other selection last, finetune best"),
        (run("kd", 2, id="x", precision_used="bf16"), "no partner: other precision bf16, finetune fp32"),
        (run("kd", 2, id="x", split_seed="1"), "no partner: other split_seed 1, finetune 42"),
        (run("kd", 2, id="x", max_length=None), "no partner: other max_length none, finetune 128"),
        (
            run("kd", 2, id="x", epochs="5", max_train_examples="1000"),
            "no partner: other max_train_examples 1000, finetune none; epochs 5, finetune 3",
        ),
        (
            run("kd", 2, id="x", task="sst5"),
            "no partner: no usable finetune run of this task, model and init",
        ),
        (
            run("kd", 2, id="x", init="random"),
            "no partner: no usable finetune run of this task, model and init",
        ),
        (
            run("kd", 2, id="x", model="minilm"),
            "no partner: no usable finetune run of this task, model and init",
        ),
        (run("kd", "", id="x"), "no parameter seed"),
        (
            run("ls", 2, id="x", alpha="0.1", print="ls-2-[('alpha', '0.1')]", at=-1),
            "duplicate: ls-2 has the same",
        ),
        (run("kd", "2.5", id="x"), "no partner: no usable finetune run with seed 2.5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_run_is_left_out_with_its_reason(hostile, reason):
    if not np.isfinite(hostile["metrics.best/test/score"]):
        hostile["metrics.best/dev/score"] = np.nan
        reason = reason.replace("best/dev/score", "best/test/score")
    paired = pair(frame(hostile, *GOOD))
    assert list(reasons(paired)) == ["x"] and reasons(paired)["x"].startswith(reason)
    assert [c.seeds for c in paired.comparisons] == [(0, 1, 2)]
    assert paired.comparisons[0].differences == (1, 2, 3)


@pytest.mark.parametrize("kind", ["launch", "teacher", "trial", "summary", "study", None])
def test_other_kinds_are_not_looked_at(kind):
    paired = pair(frame(*GOOD, run("ls", 2, 99, id="x", kind=kind, alpha="0.1"), run("kd", 0, kind=kind)))
    assert paired.left_out.empty and paired.comparisons == pair(frame(*GOOD)).comparisons


def test_the_newest_of_one_fingerprint():
    again = [run("ls", 1, 80, id="new", alpha="0.10", print="ls-1-[('alpha', '0.1')]", at=5)]
    paired = pair(frame(*GOOD, *again))
    assert paired.comparisons[0].run_ids == ("ls-0", "new", "ls-2")
    assert reasons(paired) == {"ls-1": "duplicate: new has the same fingerprint and is newer"}


def test_conflicting_duplicates_are_both_left_out():
    paired = pair(frame(*GOOD, run("ls", 1, 80, id="other", alpha="0.1", print="another", at=5)))
    assert paired.comparisons[0].seeds == (0, 2)
    told = reasons(paired)
    assert set(told) == {"ls-1", "other", "finetune-1"}
    assert "conflict" in told["ls-1"] and "ls-1" in told["other"] and "other" in told["ls-1"]
    assert told["finetune-1"] == "no partner: no run of another method pairs with it"


def test_a_failed_duplicate_hides_nothing():
    paired = pair(frame(*GOOD, run("ls", 1, np.nan, id="new", alpha="0.1", at=9), run("ls", 0, status="FAILED")))
    assert paired.comparisons[0].seeds == (0, 1, 2)
    assert len(paired.left_out) == 2


def test_parameters_are_compared_by_value():
    odd = [run("ls", f"{s}.0", 71, alpha="0.1", lr="0.00002", batch_size="32.0", epochs=3.0) for s in range(3)]
    no_tag = [{**row, "tags.labelreg.data": None, "params.max_train_examples": "None"} for row in [*GOOD[:3], *odd]]
    paired = pair(frame(*no_tag))
    assert paired.left_out.empty
    assert paired.comparisons[0].seeds == (0, 1, 2) and paired.comparisons[0].setting == ""


def test_what_auto_came_to_counts():
    asked = [{**row, "params.precision": "fp32" if "ls" in row["run_id"] else "auto"} for row in GOOD]
    assert pair(frame(*asked)).left_out.empty
    without = frame(*asked).drop(columns="params.precision_used")
    assert "other precision fp32, finetune auto" in reasons(pair(without))["ls-0"]


def test_a_setting_that_differs_is_printed_and_pairs():
    rows = [run("kd", s, 75, batch_size="8", lr="1e-5", alpha="0.5", tau="2") for s in range(3)]
    found = pair(frame(*GOOD, *rows)).comparisons
    assert [c.method for c in found] == ["ls", "kd"]
    assert found[1].setting == "lr 1e-05, finetune 2e-05; batch_size 8, finetune 32"


def test_two_settings_of_a_method_are_two_comparisons():
    rows = [run("ls", s, 75, alpha="0.2") for s in range(3)]
    found = pair(frame(*GOOD, *rows)).comparisons
    assert [c.setting for c in found] == ["alpha 0.1", "alpha 0.2"]
    assert [c.differences for c in found] == [(1, 2, 3), (5, 4, 3)]


def test_a_method_meets_finetune_of_its_own_setting():
    other = [
        run(m, s, score, lr="5e-5", id=f"{m}-5e-5-{s}") for m, score in (("finetune", 60), ("ls", 61)) for s in (0, 1)
    ]
    paired = pair(frame(*GOOD, *other, run("ls", 2, lr="5e-5", id="alone")))
    assert [c.differences for c in paired.comparisons] == [(1, 2, 3), (1, 1)]
    assert [c.setting for c in paired.comparisons] == ["lr 2e-05; alpha 0.1", "lr 5e-05"]
    assert reasons(paired) == {
        "alone": "no partner: with seed 2 finetune has only another setting (lr 5e-05, finetune 2e-05)"
    }


def test_several_finetune_settings_and_none_of_its_own_is_refused_by_name():
    other = [run("finetune", s, 60, lr="5e-5", id=f"other-{s}") for s in range(3)]
    paired = pair(frame(*GOOD, *other, *[run("kd", s, lr="1e-3") for s in range(3)]))
    assert [c.method for c in paired.comparisons] == ["ls"]
    settings = "lr 2e-05 | lr 5e-05"
    reason = f"refused: finetune has several settings ({settings}), none is this run's own: narrow with where"
    assert [reasons(paired)[f"kd-{s}"] for s in range(3)] == [reason] * 3


def test_epochs_3_and_5_are_two_families():
    longer = [{**row, "run_id": row["run_id"] + "-5", "params.epochs": "5"} for row in GOOD]
    paired = pair(frame(*GOOD, *longer))
    assert [c.family for c in paired.comparisons] == ["epochs=3", "epochs=5"]
    assert [c.setting for c in paired.comparisons] == ["epochs=3", "epochs=5"]
    assert paired.left_out.empty
    assert set(paired.runs["setting"]) == {"epochs=3", "epochs=5"}


def test_digests_agree_within_a_pair_not_across_seeds():
    """fewrel alone draws its examples for each seed; elsewhere other examples are a file that was changed."""
    anew = [{**row, "tags.labelreg.data": f"seed {row['params.seed']}"} for row in GOOD]
    fewrel, same = ([{**row, "params.task": "fewrel"} for row in rows] for rows in (anew, GOOD))
    assert pair(frame(*fewrel)).comparisons == pair(frame(*same)).comparisons
    changed = pair(frame(*anew))
    assert [c.seeds for c in changed.comparisons] == [(0,), (1,), (2,)]
    assert [c.family for c in changed.comparisons] == ["data=seed 0", "data=seed 1", "data=seed 2"]
    assert set(changed.runs["setting"]) == {"data=seed 0", "data=seed 1", "data=seed 2"}


def test_a_file_called_fewrel_that_was_changed_is_two_data_sets():
    halves = [
        {**row, "params.task": "fewrel_own", "tags.labelreg.data": f"d{row['params.seed'] == '2'}"} for row in GOOD
    ]
    assert [c.family for c in pair(frame(*halves)).comparisons] == ["data=dFalse", "data=dTrue"]


def test_runs_of_fewrel_without_a_digest_are_of_no_other_data_set():
    some = [{**row, "params.task": "fewrel", "tags.labelreg.data": row["params.seed"]} for row in GOOD]
    some = [row if row["params.seed"] == "1" else {**row, "tags.labelreg.data": None} for row in some]
    assert [c.family for c in pair(frame(*some)).comparisons] == [""]


def test_two_draws_of_one_seed_of_fewrel_are_no_two_pairs():
    def drawn(draw: str) -> list[dict]:
        own = [
            {"run_id": f"{row['run_id']} {draw}", "tags.labelreg.data": f"{draw} {row['params.seed']}"} for row in GOOD
        ]
        return [{**row, "params.task": "fewrel", **mine} for row, mine in zip(GOOD, own, strict=True)]

    assert [c.seeds for c in pair(frame(*drawn("a"))).comparisons] == [(0, 1, 2)]
    both = pair(frame(*drawn("a"), *drawn("b"))).comparisons
    assert sorted(c.seeds for c in both) == [(0,), (0,), (1,), (1,), (2,), (2,)]


def test_two_data_sets_of_one_seed_are_two_families():
    changed = [{**row, "run_id": row["run_id"] + "-b", "tags.labelreg.data": "d2"} for row in GOOD]
    paired = pair(frame(*GOOD, *changed))
    assert [c.setting for c in paired.comparisons] == ["data=d1", "data=d2"]
    assert [c.seeds for c in paired.comparisons] == [(0, 1, 2)] * 2
    assert set(paired.runs["setting"]) == {"data=d1", "data=d2"}
    again = [{**row, "run_id": row["run_id"] + "-again"} for row in changed]
    left = pair(frame(*GOOD, *changed, *again)).left_out
    assert set(left["family"]) == {"data=d2"} and len(left) == len(GOOD), "a duplicate is of its own set"


def test_the_other_initialisation_of_one_of_two_data_sets_is_named_like_it():
    scratch = [{**row, "run_id": row["run_id"] + "-r", "params.init": "random"} for row in GOOD]
    changed = [{**row, "run_id": row["run_id"] + "-b", "tags.labelreg.data": "d2"} for row in GOOD]
    found = pair(frame(*GOOD, *scratch, *changed)).comparisons
    assert [(c.init, c.family) for c in found] == [
        ("pretrained", "data=d1"),
        ("pretrained", "data=d2"),
        ("random", "data=d1"),
    ]


def test_finetune_has_no_setting_of_its_own():
    stray = [{**row, "params.alpha": row.get("params.alpha", "0.3")} for row in GOOD[:1]] + GOOD[1:]
    assert pair(frame(*stray)).comparisons == pair(frame(*GOOD)).comparisons


def test_without_averaged_weights_there_is_no_setting_of_an_average():
    """`mlflow run` logs what was passed, read or not: -P average=none -P average_start=0.3."""
    passed = {"average": "none", "average_start": "0.3"}
    runs = [run(method, seed, **more) for method in ("finetune", "ls") for seed, more in ((1, {}), (2, passed))]
    runs += [run("finetune", seed, **passed | {"average": "swa"}) for seed in (1, 2)]
    paired = pair(frame(*runs))
    assert [(c.method, c.seeds) for c in paired.comparisons] == [("finetune+swa", (1, 2)), ("ls", (1, 2))]
    assert not paired.runs["setting"].any()


def test_the_default_metric_is_test_where_every_run_of_the_task_has_it():
    rte = [run(m, s, np.nan if s else 60.0, dev=50.0 + s, task="rte") for m in ("finetune", "ls") for s in (0, 1)]
    paired = pair(
        frame(*GOOD, *rte, run("kd", 0, np.nan, dev=np.nan, id="none"), run("kd", 1, np.nan, status="FAILED"))
    )
    assert [(c.task, c.metric) for c in paired.comparisons] == [
        ("rotten_tomatoes", "best/test/score"),
        ("rte", "best/dev/score"),
    ]
    assert paired.comparisons[1].scores == (50, 51)
    assert reasons(paired)["none"].startswith("no such metric")


def test_the_rest_of_the_training_set_is_the_metric_where_every_run_of_the_task_has_it():
    rows = frame(*GOOD)
    rows["metrics.best/rest/score"] = rows["metrics.best/test/score"] + np.arange(len(rows)) / 8
    paired = pair(rows)
    assert {c.metric for c in paired.comparisons} == {"best/rest/score"}
    by_id = dict(zip(rows["run_id"], rows["metrics.best/rest/score"], strict=True))
    for c in paired.comparisons:
        assert c.scores == tuple(by_id[run_id] for run_id in c.run_ids)
    assert pair(rows, metric="best/test/score").comparisons[0].metric == "best/test/score"
    rows.loc[0, "metrics.best/rest/score"] = np.nan  # a run from before there was the rest
    assert {c.metric for c in pair(rows).comparisons} == {"best/test/score"}
    rows.loc[0, ["metrics.best/test/score", "metrics.best/dev/score"]] = np.nan  # one without any score does not count
    assert {c.metric for c in pair(rows).comparisons} == {"best/rest/score"}


@pytest.mark.parametrize("split", ["rest", "test", "dev"])
def test_runs_are_compared_in_the_weights_that_they_have_kept(split):
    """A run that keeps its last epoch has a score of its best one too: the model that is stored has the other."""
    rows = frame(*(run(method, seed, 70 + seed, dev=60) for method in ("finetune", "ls") for seed in (1, 2)))
    of_last = 80 + np.arange(len(rows)) / 8
    rows = rows.drop(columns="metrics.best/test/score") if split == "dev" else rows
    rows = rows.assign(**{"params.selection": "last", f"metrics.last/{split}/score": of_last})
    (found,) = pair(rows).comparisons
    assert found.metric == f"last/{split}/score" and found.scores == tuple(of_last[2:])
    before = frame(*(run(method, seed, 70, dev=60) for method in ("finetune", "ls") for seed in (1, 2)))
    both = pair(pd.concat([before.assign(run_id=before["run_id"] + "-before"), rows], ignore_index=True))
    assert [c.metric for c in both.comparisons] == ["best/test/score", f"last/{split}/score"]
    assert len({c.family for c in both.comparisons}) == 2, "what has kept other weights is no pair"


def test_a_run_done_again_with_a_test_set_more_stands_for_the_one_of_before():
    before = frame(*(run(method, seed, 70 + seed) for method in ("finetune", "ls") for seed in (1, 2)))
    again = before.assign(run_id=before["run_id"] + "-again")
    again["metrics.best/rest/score"] = again["metrics.best/test/score"] + 1
    paired = pair(pd.concat([again, before], ignore_index=True))  # whichever is the newer
    (c,) = paired.comparisons
    assert c.metric == "best/rest/score" and all(name.endswith("-again") for name in c.run_ids)
    assert len(paired.left_out) == 4 and paired.left_out["reason"].str.startswith("duplicate: ").all()
    again.loc[0, "metrics.best/rest/score"] = np.nan  # then one has no rest at all
    assert {c.metric for c in pair(pd.concat([again, before], ignore_index=True)).comparisons} == {"best/test/score"}


def test_the_teachers_of_a_methods_runs_stand_beside_them():
    taught = [run(m, s, teacher_run_id=f"t{s}" if m == "kd" else None) for m in ("finetune", "kd") for s in (0, 1)]
    (found,) = pair(frame(*taught)).comparisons
    assert found.teachers == ("t0", "t1")
    (found,) = pair(frame(*taught), reference="kd").comparisons
    assert found.teachers == ("", "")


def test_lower_is_better_is_turned_round():
    rows = frame(*GOOD)
    rows["metrics.dev/nll"] = [0.5, 0.5, 0.5, 0.4, 0.5, 0.7]
    (found,) = pair(rows, metric="dev/nll").comparisons
    assert found.negated and found.scores == (0.4, 0.5, 0.7)
    assert found.differences == (0.1, 0.0, -0.2) and "-0.0" not in map(str, found.differences)


def test_the_direction_of_a_metric_is_that_of_its_exact_name():
    lower = "dev/nll best/test/ece dev/brier train/loss cost/train_seconds cost/peak_memory_mb NLL eval_loss RMSE mae "
    lower += "wer train_runtime kl_divergence training_cost test/log_loss"
    assert [name for name in lower.split() if not lower_is_better(name)] == []
    higher = "best/test/score dev/accuracy cost/tokens_per_second F1 mAP bleu MCC r2 neg_log_loss brier_skill_score "
    higher += "ace_f1 cer_reduction lossless neg_mean_squared_error"
    assert [name for name in higher.split() if lower_is_better(name)] == []
    assert lower_is_better("a/gap", ["gap"]) and lower_is_better("a/gap", ["a/gap"])
    assert not lower_is_better("a/gap", ["b/gap"])


def test_a_metric_says_which_way_it_was_taken_where_its_name_does_not():
    rows = frame(*GOOD)
    rows["metrics.dev/cer_reduction"] = [0.5, 0.5, 0.5, 0.4, 0.5, 0.7]
    (found,) = pair(rows, metric="dev/cer_reduction").comparisons
    assert found.differences == (-0.1, 0.0, 0.2)
    (told,) = lines([(found.metric, found.negated)])
    assert "dev/cer_reduction: not a known name, taken as higher is better; lower_is_better=dev/cer_reduction" in told
    (found,) = pair(rows, metric="dev/cer_reduction", lower=["cer_reduction"]).comparisons
    assert found.negated and found.differences == (0.1, 0.0, -0.2)
    assert lines([("best/test/score", False), ("F1", False)]) == []
    assert "lower is better" in lines([("dev/nll", True)])[0]
    with pytest.raises(AnalysisError, match="lower_is_better 'cer_reductoin' is unknown; nearest: dev/cer_reduction"):
        pair(rows, metric="dev/cer_reduction", lower=["cer_reductoin"])


def test_a_metric_that_nobody_logged_is_a_mistake():
    message = "metric 'best/test/scor' is unknown; nearest: best/test/score; there are: best/dev/score, "
    message += "best/test/score"
    with pytest.raises(AnalysisError) as error:
        pair(frame(*GOOD), metric="best/test/scor")
    assert str(error.value) == message
    elsewhere = run("x", 0, kind="teacher")
    elsewhere["metrics.dev/f1"] = 3.0
    with pytest.raises(AnalysisError, match="'dev/f1' is unknown"):
        pair(frame(*GOOD, elsewhere), metric="dev/f1")


def test_any_pair_on_request():
    paired = pair(frame(*GOOD, *[run("kd", s, 80) for s in range(3)]), reference="ls")
    assert [(c.method, c.reference, c.differences) for c in paired.comparisons] == [
        ("finetune", "ls", (-1, -2, -3)),
        ("kd", "ls", (9, 7, 5)),
    ]
    with pytest.raises(AnalysisError, match="reference 'fintune' is unknown; nearest: finetune"):
        pair(frame(*GOOD), reference="fintune")


def test_nothing_to_compare_is_an_answer():
    for rows in (pd.DataFrame(), frame(*GOOD).head(0), frame(*GOOD).drop(columns="tags.labelreg.kind")):
        paired = pair(rows, metric="anything")
        assert paired.comparisons == () and paired.left_out.empty and paired.runs.empty
    assert set(reasons(pair(frame(*GOOD[3:]))).values()) == {
        "no partner: no usable finetune run of this task, model and init"
    }
    assert len(pair(frame(*GOOD[:3])).left_out) == 3
    failed = frame(*[{**row, "status": "FAILED"} for row in GOOD])
    assert set(reasons(pair(failed)).values()) == {"failed"}


def test_a_bare_table_pairs():
    """The columns that a user's CSV has."""
    rows = [
        {
            "params.method": m,
            "params.seed": s,
            "params.task": "t",
            "metrics.best/test/score": 1.0 * s + (m == "a"),
        }
        for m in ("finetune", "a")
        for s in range(4)
    ]
    (found,) = pair(frame(*rows).assign(**{"tags.labelreg.kind": "student"})).comparisons
    assert found.differences == (1, 1, 1, 1) and found.setting == "" and found.seeds == (0, 1, 2, 3)


def test_every_student_is_somewhere():
    rng = np.random.default_rng(0)
    rows = [
        run(
            str(rng.choice(["finetune", "ls", "kd"])),
            int(rng.integers(5)),
            float(rng.choice([70.0, 71.5, np.nan])),
            id=f"run-{i}",
            status=str(rng.choice(["FINISHED", "FINISHED", "FAILED"])),
            data=str(rng.choice(["d1", "d1", "d2"])),
            print=str(rng.choice(["one", "two"])),
            at=int(rng.integers(9)),
            epochs=str(rng.choice(["3", "3", "5"])),
            lr=str(rng.choice(["2e-5", "2e-5", "1e-5"])),
        )
        for i in range(300)
    ]
    paired = pair(frame(*rows))
    used = [i for c in paired.comparisons for i in (*c.run_ids, *c.reference_run_ids)]
    assert set(used) | set(paired.left_out["run_id"]) == {row["run_id"] for row in rows}
    assert not set(used) & set(paired.left_out["run_id"])
    assert paired.left_out["run_id"].is_unique and all(paired.left_out["reason"])
    assert all(len(set(c.seeds)) == len(c.seeds) for c in paired.comparisons)


def test_a_number_that_no_metric_has_is_left_out():
    paired = pair(frame(*GOOD[:-1], GOOD[-1] | {"metrics.best/test/score": 1e300}))
    assert paired.left_out["reason"].iloc[-1] == "no score: best/test/score is 1e+300"
    assert len(paired.comparisons[0].seeds) == 2


def test_one_teacher_of_the_users_own_in_two_files_is_one_and_what_was_read_otherwise_is_another():
    def taught(seed, logits, **more):
        given = {"teacher_logits": logits, "teacher_digest": "f" * 32, "teacher_column": "p_"} | more
        return run("kd", seed, **given)

    plain = [run("finetune", seed) for seed in (1, 2, 3, 4)]
    csv, parquet = {"teacher_file": "gpt.csv"}, {"teacher_file": "gpt.parquet", "teacher_digest": "e" * 32}
    same = [taught(1, "a" * 32, **csv), taught(2, "a" * 32, **csv), taught(3, "a" * 32, **parquet)]
    (found,) = pair(frame(*plain, *same)).comparisons
    assert found.seeds == (1, 2, 3)
    other = [taught(4, "b" * 32, **csv, teacher_values="logits")]
    assert len(pair(frame(*plain, *same, *other)).comparisons) == 2


def test_what_trains_an_adapter_is_not_compared_with_what_trains_all_weights():
    lora = {"tuning": "lora", "lora_r": "8"}
    plain, kd = [run("finetune", seed) for seed in (1, 2)], [run("kd", seed, **lora) for seed in (1, 2)]
    paired = pair(frame(*plain, *kd))
    assert not paired.comparisons
    assert "tuning" in " ".join(paired.left_out["reason"])
    (found,) = pair(frame(*plain, *kd, *(run("finetune", seed, **lora) for seed in (1, 2)))).comparisons
    assert found.method == "kd" and found.seeds == (1, 2)


def test_seeds_are_in_the_order_of_their_first_runs():
    """A method that is added later runs its seeds in an order of its own."""
    first = [run("finetune", seed, at=at) for at, seed in enumerate((3, 1, 2))]
    later = [run("ls", seed, at=10 + at) for at, seed in enumerate((1, 2, 3))]
    assert seed_order(frame(*first, *later)) == seed_order(frame(*later, *first)) == (3, 1, 2)


def test_what_tells_settings_apart_is_looked_for_among_the_settings(monkeypatch):
    """Not among all runs for each of them: 2,000 seeds took a minute."""
    described, among = pairing._describe, []
    monkeypatch.setattr(pairing, "_describe", lambda n, v, of: (among.append(len(of)), described(n, v, of))[1])
    pair(frame(*(run(method, seed) for method in ("finetune", "kd") for seed in range(20))))
    assert max(among) == 1
