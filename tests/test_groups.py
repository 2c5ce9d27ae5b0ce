"""Examples that belong together: in one split alone, and named beside their predictions."""

import contextlib
import random

import pandas as pd
import pytest
from running import run_of, succeed

from labelreg.data import splits
from labelreg.errors import UserError

pytest_plugins = ["running"]


def write(path, rows=300, groups=40, seed=0):
    """Reviews of users, some of whom wrote many; a user likes or dislikes most."""
    chance = random.Random(seed)
    users = [min(int(chance.paretovariate(0.7)), groups) for _ in range(rows)]
    likes = {user: chance.random() for user in users}
    frame = pd.DataFrame({"user": [f"user {user}" for user in users]})
    frame["label"] = ["good" if chance.random() < likes[user] else "bad" for user in users]
    frame["text"] = [f"film {row} is {label}" for row, label in enumerate(frame["label"])]
    frame.to_csv(path, index=False)
    return frame


def groups_of(data) -> dict[str, set[str]]:
    return {name: {data.groups[number] for number in split.group.tolist()} for name, split in data.splits.items()}


@pytest.mark.parametrize("seed", range(3))
def test_no_group_is_in_two_splits(prepare, tmp_path, seed):
    frame = write(tmp_path / "reviews.csv", seed=seed)
    data = prepare(train_file=tmp_path / "reviews.csv", group_column="user", max_train_examples=100, split_seed=seed)
    found = groups_of(data)
    assert set(found) == {"train", "dev", "test", "rest"}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == frame["user"].nunique()
    for name, split in data.splits.items():
        rows = frame.loc[split.idx.tolist()]
        assert [data.groups[number] for number in split.group.tolist()] == rows["user"].tolist(), name
        assert [data.classes[label] for label in split.labels.tolist()] == rows["label"].tolist(), name
    assert sum(map(len, data.splits.values())) == len(frame)
    assert 50 < len(data.splits["train"]) <= 100, "whole groups, as many as fit"
    for name in ("dev", "test"):
        assert 15 <= len(data.splits[name]) <= 60, "about a tenth of 300"


def test_the_same_split_for_every_seed_and_another_for_another_split_seed(prepare, tmp_path):
    write(tmp_path / "reviews.csv")
    one, two, other = (
        prepare(train_file=tmp_path / "reviews.csv", group_column="user", seed=seed, split_seed=split)
        for seed, split in ((0, 42), (1, 42), (0, 43))
    )
    assert one.digest == two.digest != other.digest
    assert one.digest != prepare(train_file=tmp_path / "reviews.csv").digest


def test_files_that_are_divided_already_are_taken_as_they_are(prepare, tmp_path):
    files = {}
    for seed, name in enumerate(("train", "dev", "test")):
        files[f"{name}_file"] = tmp_path / f"{name}.csv"
        write(files[f"{name}_file"], rows=50, seed=seed)
    data = prepare(**files, group_column="user")
    found = groups_of(data)
    for first, split in (("train", "dev"), ("train", "test"), ("dev", "test")):
        both, own = found[first] & found[split], found[split]
        assert both and f"{len(both)} of {len(own)} groups of {split} are in {first} too" in data.remarks


def test_numbers_name_groups_too(prepare, tmp_path):
    frame = write(tmp_path / "reviews.csv")
    frame["user"] = [int(user.split()[1]) for user in frame["user"]]
    frame.to_json(tmp_path / "reviews.jsonl", orient="records", lines=True)
    data = prepare(train_file=tmp_path / "reviews.jsonl", group_column="user")
    assert set(data.groups) == set(map(str, frame["user"]))


def test_columns_that_are_no_groups(refused, tmp_path):
    frame = write(tmp_path / "reviews.csv")
    refused("no columns are named 'usr' .group_column.", train_file=tmp_path / "reviews.csv", group_column="usr")
    told = "group_column=label: it is the column of the label, too"  # each class would be in one split alone
    refused(told, train_file=tmp_path / "reviews.csv", group_column="label")
    frame.assign(half=[row % 2 for row in range(len(frame))]).to_csv(tmp_path / "halves.csv", index=False)
    refused("2 groups are too few to split; 10 are needed", train_file=tmp_path / "halves.csv", group_column="half")
    frame.assign(user=[None, *frame["user"][1:]]).to_csv(tmp_path / "gap.csv", index=False)
    refused("gap.csv: row 1 has no group", train_file=tmp_path / "gap.csv", group_column="user")
    refused("columns of task sst5 are fixed", task="sst5", group_column="label")


def test_a_smallest_group_that_does_not_fit(tmp_path, prepare):
    write(tmp_path / "reviews.csv").assign(user=[row // 20 for row in range(300)]).to_csv(tmp_path / "reviews.csv")
    for examples, said in ((1, "max_train_examples=1: the smallest group of 'user' has 20 rows; give more"), (20, "")):
        with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
            prepare(train_file=tmp_path / "reviews.csv", group_column="user", max_train_examples=examples)


def test_a_group_that_fills_the_sample_to_the_last_row_is_taken():
    frame = pd.DataFrame({"group": [row // 2 for row in range(8)]})
    assert [len(splits.sample(frame, rows, seed=0)) for rows in (4, 5)] == [4, 4]


def test_predictions_name_the_group_of_each_example(tiny, tmp_path):
    import mlflow

    frame = write(tmp_path / "users.csv")
    run = run_of(
        succeed(
            "train_student", **tiny | {"train_file": tmp_path / "users.csv"}, group_column="user", max_train_examples=80
        )
    )
    assert run.data.params["group_column"] == "user"
    for split in ("dev", "test", "rest"):
        path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=f"predictions/{split}.parquet")
        found = pd.read_parquet(path)
        assert found["group"].tolist() == frame.loc[found["idx"], "user"].tolist()
