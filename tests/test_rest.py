"""The rows that max_train_examples leaves unused: a test set that no training, teacher, search or selection sees."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from running import artifacts, call, in_this_process, interrupted, measured, run_of, runs, succeed

from labelreg import metrics
from labelreg.data import prepared, splits
from labelreg.data.batching import UNLABELLED
from labelreg.places import Roots

pytest_plugins = ["running"]


def table(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def films(tmp_path: Path, rows: int = 120, name: str = "films.csv") -> Path:
    return table(
        tmp_path / name, [(f"film {row} is {'good' if row % 2 else 'bad'}", "ab"[row % 2]) for row in range(rows)]
    )


def rows_of(split) -> set[int]:
    return set(split.idx.tolist())


# Which rows


def test_rest_is_what_neither_training_nor_selection_nor_test_has(prepare, tmp_path):
    file = films(tmp_path)
    data = prepare(train_file=file, max_train_examples=20)
    parts = [rows_of(data.splits[name]) for name in ("train", "dev", "test", "rest")]
    assert [len(part) for part in parts] == [20, 12, 12, 76]
    assert set.union(*parts) == set(range(120)), "with 120 rows in four parts no row is in two"
    labels = data.splits["rest"].labels.tolist()
    assert labels == [row % 2 for row in data.splits["rest"].idx.tolist()], "each row has its own label"
    assert sum(labels) == 38, "stratified as the sample is"


def test_no_digest_and_no_example_of_training_depends_on_it(prepare, tmp_path):
    file = films(tmp_path)
    on, off = (prepare(train_file=file, max_train_examples=20, rest=rest) for rest in ("auto", "off"))
    assert on.digest == off.digest and on.rest and off.rest is None
    for name, split in off.splits.items():
        assert on.splits[name].fingerprint == split.fingerprint
        assert on.splits[name].ids.equal(split.ids)
    kept = [prepared.known(folder) for folder in (tmp_path / "cache" / "prepared").iterdir()]
    assert sorted(known["labelled"] for known in kept) == [["train", "dev", "test"], ["train", "dev", "test", "rest"]]
    again = prepare(train_file=file, max_train_examples=20)
    assert (again.digest, again.rest) == (on.digest, on.rest), "as it is read from the cache"


def test_rows_that_stand_in_train_or_dev_too_are_left_out_and_counted(prepare, tmp_path):
    distinct = [(f"film {row} is {'good' if row % 2 else 'bad'}", "ab"[row % 2]) for row in range(60)]
    data = prepare(train_file=table(tmp_path / "twice.csv", distinct * 3), max_train_examples=40)
    texts = [row % 60 for row in range(180)]
    used = {texts[row] for name in ("train", "dev") for row in rows_of(data.splits[name])}
    kept = rows_of(data.splits["rest"])
    others = set(range(180)) - set.union(*(rows_of(data.splits[name]) for name in ("train", "dev", "test")))
    assert kept == {row for row in others if texts[row] not in used} and kept
    told = f"rest is {len(kept)} rows of train that no run trains on: a test set of its own; "
    assert told + f"{len(others) - len(kept)} more that stand in train or dev too are left out" in data.remarks


def test_pairs_are_told_apart_by_both_texts(prepare, tmp_path):
    pairs = pd.DataFrame([(f"a {row // 10}", f"b {row}", "xy"[row % 2]) for row in range(100)])
    pairs.set_axis(["text", "text_pair", "label"], axis="columns").to_csv(tmp_path / "pairs.csv", index=False)
    data = prepare(train_file=tmp_path / "pairs.csv", max_train_examples=20)
    assert len(data.splits["rest"]) == 60, "every first text stands in train"


def test_of_very_many_rows_it_is_a_stratified_sample(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "MOST_REST", 30)
    data = prepare(train_file=films(tmp_path), max_train_examples=20)
    assert data.splits["rest"].labels.bincount().tolist() == [15, 15]
    assert "rest is 30 of 76 rows of train that no run trains on: a test set of its own" in data.remarks


# When


@pytest.mark.parametrize(
    ("given", "rest"),
    [
        ({}, None),  # nothing is left over
        ({"max_train_examples": 96}, None),
        ({"max_train_examples": 20}, 76),
        ({"max_train_examples": 20, "rest": "off"}, None),
        ({"max_train_examples": 84}, None),  # 12 rows, as many as the test set has
        ({"max_train_examples": 84, "rest": "on"}, 12),
        ({"max_train_examples": 83}, 13),
    ],
)
def test_when_a_file_of_ones_own_has_it(prepare, tmp_path, given, rest):
    data = prepare(train_file=films(tmp_path), **given)
    assert (len(data.splits["rest"]) if "rest" in data.splits else None) == rest


def test_a_given_test_set_with_labels_is_the_test_set(prepare, tmp_path):
    file, test = films(tmp_path), films(tmp_path, 10, "test.csv")
    hidden = table(tmp_path / "hidden.csv", [("film is new", "-1")] * 10)
    assert prepare(train_file=file, test_file=test, max_train_examples=20).rest is None
    assert prepare(train_file=file, test_file=test, max_train_examples=20, rest="on").rest
    data = prepare(train_file=file, test_file=hidden, max_train_examples=20)
    assert (data.splits["test"].labels == UNLABELLED).all() and data.rest


def test_rest_that_is_asked_for_where_nothing_is_left_over_is_said(prepare, tmp_path):
    data = prepare(train_file=films(tmp_path), rest="on")
    assert data.rest is None and "rest=on: no rows of train are left over to test on" in data.remarks


def test_of_the_hubs_tasks_those_whose_test_set_has_no_labels(prepare, small_hub, tiny_models, tmp_path):
    roots = Roots(small_hub, tiny_models, tmp_path / "cache")
    found = {
        task: prepare(roots, task=task, max_train_examples=15).rest
        for task in ("cola", "mnli", "mrpc", "sst5", "fewrel")
    }
    assert [task for task, rest in found.items() if rest] == ["cola", "mnli"]


def test_images_when_asked_for(tmp_path):
    from labelreg import recipes
    from labelreg.data import corpus

    given = {"recipe": "digits", "init": "random", "method": "ls", "seed": 0, "split_seed": 42, "image_size": 8}
    without, images = (
        corpus.prepare(recipes.resolve(given | more), Roots(None, None, tmp_path)) for more in ({}, {"rest": "on"})
    )
    assert without.rest is None and images.digest == without.digest
    assert len(images.splits["rest"]) == 700
    assert not rows_of(images.splits["rest"]) & set.union(*map(rows_of, without.splits.values()))
    from sklearn.datasets import load_digits

    source, rest = load_digits(), images.splits["rest"]
    assert rest.labels.tolist() == source.target[rest.idx].tolist()
    assert np.array_equal(rest.pixels[:, 0].numpy(), (source.images[rest.idx] * (255 / 16)).round().astype(np.uint8))


def test_rte_with_250_examples_has_2240_rows_to_test_on(prepare, hub, tiny_models, tmp_path):
    data = prepare(Roots(hub, tiny_models, tmp_path / "cache"), task="rte", max_train_examples=250)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 250, "dev": 277, "test": 3000, "rest": 2240,
    }  # fmt: skip


# Runs


@pytest.fixture
def cut(tiny) -> dict:
    return tiny | {"max_train_examples": 24, "epochs": 3}


@pytest.mark.parametrize("method", ["finetune", "kd", "selfkd"])
def test_a_run_is_the_same_with_and_without(cut, method, tmp_path):
    """To the last bit; it is evaluated for the weights that are kept, once, at the end."""
    with_rest = run_of(succeed("train_student", **cut, method=method))
    without = run_of(succeed("train_student", **cut, method=method, rest="off"))
    own = {name: value for name, value in measured(with_rest).items() if "rest" in name}
    assert set(own) == {"best/rest/score"}
    assert {name: value for name, value in measured(with_rest).items() if name not in own} == measured(without)
    tags = with_rest.data.tags
    for tag in ("labelreg.fingerprint", "labelreg.data"):
        assert tags[tag] == without.data.tags[tag]
    assert tags["labelreg.rest"] and "labelreg.rest" not in without.data.tags
    assert (with_rest.data.params["rest"], without.data.params["rest"]) == ("on", "off")
    assert artifacts(with_rest) - artifacts(without) == {"predictions/rest.parquet"}
    _agrees(with_rest, "rest")


def _agrees(run, split: str, selection: str = "best") -> None:
    """The score that is logged follows from the predictions that are stored."""
    import mlflow

    path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=f"predictions/{split}.parquet")
    found = pd.read_parquet(path)
    logits = np.log(found.filter(like="p_").to_numpy() + 1e-30)
    score = metrics.evaluate(logits, found["label"].to_numpy(), "accuracy")["score"]
    assert score == pytest.approx(run.data.metrics[f"{selection}/{split}/score"], abs=1e-9)
    assert len(found) == 24


@pytest.mark.parametrize("selection", ["best", "last"])
def test_the_weights_that_are_kept_are_evaluated_and_no_others(cut, selection, monkeypatch):
    """It has the size of all else that a run computes; the predictions that are stored are of the same weights."""
    from labelreg import training

    seen, asked = [], set()
    predict, one_class = training.predict, training.one_class
    monkeypatch.setattr(
        training, "predict", lambda model, split, machine: seen.append(len(split)) or predict(model, split, machine)
    )
    monkeypatch.setattr(training, "one_class", lambda logits, split: asked.add(len(split)) or one_class(logits, split))
    differs = False
    for seed in range(12):
        seen.clear()
        given = cut | {"epochs": 8, "lr": 5e-3, "selection": selection}
        run = run_of(succeed("train_student", **given, seed=seed, method="ls"))
        assert seen.count(24) == 1, "once, whichever epoch is the best"
        assert {name for name in run.data.metrics if "rest" in name} == {f"{selection}/rest/score"}
        _agrees(run, "rest", selection)
        differs |= run.data.metrics["best/epoch"] < 8
    assert asked == {24}, "whether it has learnt is asked where it is scored"
    assert differs, "no seed of twelve has a best epoch before its last"


def test_a_run_that_is_gone_on_with_without_it_does_not_say_that_it_has_it(cut):
    """A study with `rest` would take it for done, and compare all runs on the smaller test set."""
    with interrupted(2):
        assert call("train_student", **cut).status == 130
    succeed("train_student", **cut, rest="off")
    (run,) = runs("student")
    assert run.info.status == "FINISHED" and not [name for name in run.data.metrics if "rest" in name]
    assert "labelreg.rest" not in run.data.tags


def test_no_teacher_and_no_search_sees_it(cut, tmp_path, monkeypatch):
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    succeed("train_student", **cut, method="kd")
    (teacher,) = runs("teacher")
    assert not [name for name in teacher.data.metrics if "rest" in name] and "rest" not in teacher.data.params
    assert "predictions/rest.parquet" not in artifacts(teacher) and "logits/rest.safetensors" not in artifacts(teacher)
    assert int(teacher.data.params["max_train_examples"]) == 24, "the teacher is trained on the same cut"
    space = tmp_path / "space.yaml"
    space.write_text("{kind: search, trials: 2, epochs: 1, space: {lr: [0.001, 0.003]}}")
    search = {name: cut[name] for name in ("train_file", "model", "model_root", "batch_size", "max_length")}
    succeed("tune", **search, max_train_examples=24, method="kd", space=space, jobs=1, cross_check=1, methods="ls")
    for run in [*runs("trial"), *runs("student")[1:]]:
        assert not [name for name in run.data.metrics if "rest" in name] and "labelreg.rest" not in run.data.tags
    assert len(runs("trial")) == 2 and len(runs("student")) == 2


def test_a_study_reuses_the_runs_that_have_what_it_compares(cut, tmp_path, monkeypatch):
    """Runs of before there was a rest have no score of it: a study that wants one runs them again, no other does."""
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    recipe = tmp_path / "study.yaml"
    recipe.write_text(
        "{kind: study, models: [bert-small], inits: [pretrained], methods: [finetune, selfkd], seeds: [1, 2]}"
    )
    study = {name: value for name, value in cut.items() if name != "model"} | {"recipe": recipe, "jobs": 1}

    def done(**given) -> tuple[int, int]:
        before = len(runs("student"))
        planned = succeed("study", **study, **given, plan_only="true").out
        planned = int(planned.partition("runs to do: ")[2].split()[0].rstrip(";"))
        succeed("study", **study, **given)
        return planned, len(runs("student")) - before

    succeed("study", **study, rest="off", plan_only="true")
    assert done(rest="off")[1] == 4
    succeed(
        "prepare",
        **{name: cut[name] for name in ("train_file", "model", "model_root", "max_length", "max_train_examples")},
    )
    assert done() == (4, 4)
    assert done() == (0, 0)
    assert done(rest="off") == (0, 0), "what is tested on more is the same run"
    prints = [run.data.tags["labelreg.fingerprint"] for run in runs("student")]
    assert sorted(prints[:4]) == sorted(prints[4:])
